//! The files of known data sets: their addresses, lengths and SHA-256.

use super::RemoteFile;

/// The four files of [MNIST](http://yann.lecun.com/exdb/mnist/): training images and labels, test images and labels.
pub fn mnist() -> [RemoteFile; 4] {
    // The original server comes last, because it no longer answers everybody.
    let homes = [
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ];
    let sha256 = [
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ];
    idx_files(&homes, [9_912_422, 28_881, 1_648_877, 4_542], sha256)
}

/// The four files of [Fashion-MNIST](https://github.com/zalandoresearch/fashion-mnist), in the order of [`mnist`].
pub fn fashion_mnist() -> [RemoteFile; 4] {
    let homes = [
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ];
    let sha256 = [
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ];
    idx_files(&homes, [26_421_880, 29_515, 4_422_102, 5_148], sha256)
}

/// The archive of [CIFAR-10](https://www.cs.toronto.edu/~kriz/cifar.html), binary version: five batches of 10,000
/// training images and one of test images.
pub fn cifar10() -> RemoteFile {
    let name = "cifar-10-binary.tar.gz";
    RemoteFile {
        name: name.to_owned(),
        urls: vec![format!("https://www.cs.toronto.edu/~kriz/{name}")],
        sha256: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd".to_owned(),
        bytes: 170_052_171,
    }
}

/// The SHA-256 of an unpacked file of [`mnist`] or [`fashion_mnist`], by that of the distributed file.
pub(crate) fn unpacked(sha256: &str) -> Option<&'static str> {
    let known = [
        ("440fcabf", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        ("3552534a", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        ("8d422c7b", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        ("f7ae60f9", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
        ("3aede38d", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        ("a04f1713", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
        ("346e55b9", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        ("67da17c7", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ];
    known.iter().find(|(distributed, _)| sha256.starts_with(distributed)).map(|(_, unpacked)| *unpacked)
}

fn idx_files(homes: &[&str], bytes: [u64; 4], sha256: [&str; 4]) -> [RemoteFile; 4] {
    let names = [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    ];
    std::array::from_fn(|i| RemoteFile {
        name: names[i].to_owned(),
        urls: homes.iter().map(|home| format!("{home}{}", names[i])).collect(),
        sha256: sha256[i].to_owned(),
        bytes: bytes[i],
    })
}
