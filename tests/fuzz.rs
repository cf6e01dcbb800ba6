//! Damaged files of every format that is read, through the real loaders: an error or a result, never a panic, in little time and
//! little memory.
//!
//! `make fuzz N=1000000` tries so many; `make test` a few thousand. Inputs follow from their number: one that fails is kept in
//! `target/fuzz`, and is made again by the same number.

use crate::training::{config, sprites};
use anyhow::{Context, Result, ensure};
use diffusion_core::candle::Device;
use diffusion_core::config::RunConfig;
use diffusion_core::data::{Dataset, Split, labels_from_npy, samples_from_npy};
use diffusion_core::model::{Model, ModelInfo};
use diffusion_core::nn::Checkpoint;
use diffusion_core::rng::Rng;
use diffusion_core::train::{Training, TrainingConfig};
use diffusion_core::unet::{Network, SimpleUNet};
use image::{DynamicImage, ImageFormat, RgbImage};
use std::fs;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How many inputs there are if the environment does not say.
const USUAL: usize = 4000;
/// What no input may take; machines that test other things at the same time are slow.
const LONGEST: Duration = Duration::from_secs(10);
const MOST_MEMORY: usize = 256 << 20;

/// A format: whole inputs, and what is done with a file.
struct Format {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    /// How many of a hundred inputs are of this format.
    share: usize,
    read: Box<Reader>,
}

type Reader = dyn Fn(&[u8]) -> Result<()>;

fn format(
    name: &'static str,
    share: usize,
    seeds: Vec<Vec<u8>>,
    path: PathBuf,
    read: impl Fn(&Path) -> Result<()> + 'static,
) -> Format {
    let write_and_read = move |bytes: &[u8]| {
        fs::write(&path, bytes)?;
        read(&path)
    };
    Format { name, seeds, share, read: Box::new(write_and_read) }
}

/// What can happen to a file: bits that fall over, parts that are lost, doubled or overwritten, numbers at their limits.
fn damaged(seed: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=rng.below(4) {
        if bytes.is_empty() {
            break;
        }
        // Headers come first, and are hit more often.
        let most = if rng.below(2) == 0 { bytes.len().min(128) } else { bytes.len() };
        let at = rng.below(most);
        let length = 1 + rng.below((bytes.len() - at).min(16));
        match rng.below(8) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.below(256) as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..at + length)),
            4 => bytes[at..at + length].fill([0x00, 0xff, 0x7f, 0x80][rng.below(4)]),
            5 => {
                let part = bytes[at..at + length].to_vec();
                let to = rng.below(bytes.len());
                bytes.splice(to..to, part);
            }
            6 => {
                // A digit more or less, in text.
                bytes[at] = b"0123456789-+.eE\"[]{},: "[rng.below(23)];
            }
            _ => {
                let to = rng.below(bytes.len());
                bytes.swap(at, to);
            }
        }
    }
    bytes
}

fn formats(folder: &Path) -> Result<Vec<Format>> {
    let at = |name: &str| folder.join(name);
    let golden = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
    let idx_images = [&[0, 0, 8, 3, 0, 0, 0, 6, 0, 0, 0, 4, 0, 0, 0, 4][..], &[7; 96]].concat();
    let idx_labels = [&[0, 0, 8, 1, 0, 0, 0, 6][..], &[0, 1, 2, 0, 1, 2]].concat();
    fs::write(at("labels.idx"), &idx_labels)?;
    let npy = |kind: &str, shape: &str, values: &[u8]| {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
        [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), values].concat()
    };
    let mut picture_seeds = Vec::new();
    let picture = RgbImage::from_fn(20, 16, |x, y| image::Rgb([(x * 12) as u8, (y * 15) as u8, (x * y) as u8]));
    for kind in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::WebP] {
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::from(picture.clone()).write_to(&mut bytes, kind)?;
        picture_seeds.push(bytes.into_inner());
    }
    let net = SimpleUNet { base: 4, groups: 2, channels: 3, classes: 5, ..Default::default() };
    let network = Network::new(net, &mut Rng::new(1), &Device::Cpu)?;
    let info = ModelInfo { classes: vec!["a".to_owned(); 5], ..ModelInfo::new([3, 16, 16]) };
    let model = Model::new(network, info);
    model.save(at("model.safetensors"))?;
    let model_seed = fs::read(at("model.safetensors"))?;
    let toml = RunConfig::default().to_toml()?;
    let pth = golden("context_unet.pth");
    let pth_seeds = if pth.is_file() { vec![fs::read(pth)?] } else { Vec::new() };
    fs::create_dir_all(at("pictures"))?;
    let cifar = diffusion_core::data::download::data_dir().join("cifar-10-batches-bin");
    fs::create_dir_all(&cifar)?;
    let celeba = diffusion_core::data::download::data_dir().join("celeba");
    fs::create_dir_all(celeba.join("img_align_celeba"))?;
    for name in ["1.jpg", "2.jpg"] {
        picture.save(celeba.join("img_align_celeba").join(name))?;
    }
    let [attributes, partitions] = ["2\nSmiling Young\n1.jpg  1 -1\n2.jpg -1  1\n", "1.jpg 0\n2.jpg 2\n"];

    // A run of two checkpoints, whose log, configuration or newest checkpoint is damaged.
    let quick = || TrainingConfig { epochs: 1, sample_every: 0, ..config() };
    let begin = move |run: &Path| -> Result<Training> {
        Training::new(quick(), net, &sprites()?, &Device::Cpu)?.in_folder(run)
    };
    let run = at("run");
    begin(&run)?.try_for_each(|step| step.map(drop))?;
    let of_run = |name: &str| fs::read(run.join(name));
    let checkpoint = "checkpoints/step-000000007.safetensors";
    let whole = [
        ("config.toml", of_run("config.toml")?),
        ("log.jsonl", of_run("log.jsonl")?),
        (checkpoint, of_run(checkpoint)?),
    ];
    let resume = move |name: &'static str, share: usize| {
        let (run, begin, whole) = (run.clone(), begin, whole.clone());
        let seed = whole.iter().find(|(it, _)| *it == name).map(|(_, bytes)| bytes.clone());
        let read = move |bytes: &[u8]| {
            for (other, content) in &whole {
                fs::write(run.join(other), content)?;
            }
            fs::write(run.join(name), bytes)?;
            begin(&run).map(drop)
        };
        Format { name, seeds: seed.into_iter().collect(), share, read: Box::new(read) }
    };
    let labels = at("labels.idx");
    let diffusers = |name: &'static str, inner: &str, share| -> Result<Format> {
        let to = at(&format!("diffusers-{}", name.replace('.', "-")));
        for part in ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"]
        {
            fs::create_dir_all(to.join(part).parent().context("a folder")?)?;
            fs::copy(golden("unet2d").join(part), to.join(part))?;
        }
        let seed = fs::read(to.join(inner))?;
        let path = to.join(inner);
        Ok(format(name, share, vec![seed], path, move |_| Model::load(&to, &Device::Cpu).map(drop)))
    };
    Ok(vec![
        format("CelebA", 4, vec![attributes.into(), partitions.into()], celeba.join("list"), move |path| {
            // Either list, and the other one as it should be.
            let damaged = fs::read(path)?;
            let is_attributes = damaged.len() > 30;
            for (name, good) in [("list_attr_celeba.txt", attributes), ("list_eval_partition.txt", partitions)] {
                let content =
                    if is_attributes == (name == "list_attr_celeba.txt") { &damaged } else { good.as_bytes() };
                fs::write(celeba.join(name), content)?;
            }
            Dataset::celeba(Split::Test, 8).map(drop)
        }),
        format("IDX", 10, vec![idx_images], at("images.idx"), move |path| {
            Dataset::from_idx("x", path, &labels, &["a", "b", "c"]).map(drop)
        }),
        format(
            "npy",
            20,
            vec![
                npy("|u1", "(3, 4, 4)", &[9; 48]),
                npy("<f8", "(2, 8, 8)", &[0; 1024]),
                npy(">i4", "(2, 3, 2, 2)", &[0; 96]),
                npy("<f2", "(2, 1, 2, 2)", &[0; 16]),
            ],
            at("x.npy"),
            |path| {
                let images = Dataset::from_npy("x", path, None, &[]).map(drop);
                let samples = samples_from_npy(path).map(drop);
                let labels = labels_from_npy(path, 3).map(drop);
                images.or(samples).or(labels)
            },
        ),
        format("pictures", 20, picture_seeds, at("pictures/x.png"), |path| {
            Dataset::from_folder(path.parent().context("a folder")?, 16).map(drop)
        }),
        format("CIFAR", 4, vec![[&[3][..], &[100; 3072]].concat().repeat(3)], cifar.join("test_batch.bin"), |_| {
            Dataset::cifar10(Split::Test).map(drop)
        }),
        format("safetensors", 14, vec![model_seed], at("damaged.safetensors"), |path| {
            Model::load(path, &Device::Cpu).map(drop)
        }),
        format("pth", 6, pth_seeds, at("x.pth"), |path| Checkpoint::load_pth(path).map(drop)),
        format("TOML", 8, vec![toml.into_bytes()], at("x.toml"), |path| RunConfig::load(path).map(drop)),
        diffusers("config.json", "unet/config.json", 4)?,
        diffusers("scheduler_config.json", "scheduler/scheduler_config.json", 4)?,
        resume("log.jsonl", 2),
        resume("config.toml", 2),
        resume(checkpoint, 2),
    ])
}

/// The most memory that this process has had, in bytes; 0 where the system does not say.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kilobytes.unwrap_or(0) << 10
}

#[test]
fn damaged_files_are_errors_and_nothing_worse() -> Result<()> {
    // In a process with a data folder of its own, whose memory is that of these inputs alone.
    let data = tempfile::tempdir()?;
    if !crate::alone("fuzz::damaged_files_are_errors_and_nothing_worse", Some(data.path()))? {
        return Ok(());
    }
    let wanted = std::env::var("DIFFUSION_FUZZ").ok().map_or(Ok(USUAL), |n| n.parse())?;
    let temp = tempfile::tempdir()?;
    let formats = formats(temp.path())?;
    ensure!(formats.iter().map(|format| format.share).sum::<usize>() == 100);
    // What a failure printed is of use only if it is one.
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut problems = Vec::new();
    for (number, format) in formats.iter().enumerate() {
        let (mut taken, mut refused) = (0usize, 0usize);
        for seed in &format.seeds {
            let whole = (format.read)(seed);
            ensure!(whole.is_ok(), "{}: {whole:?}", format.name);
        }
        let memory = peak();
        for i in 0..if format.seeds.is_empty() { 0 } else { wanted * format.share / 100 } {
            let mut rng = Rng::new(i as u64).fork(number as u64 + 1);
            let seed = &format.seeds[rng.below(format.seeds.len())];
            let bytes = damaged(seed, &mut rng);
            let began = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| (format.read)(&bytes)));
            let problem = match outcome {
                Err(_) => Some("a panic".to_owned()),
                Ok(_) if began.elapsed() > LONGEST => Some(format!("{:.1} s", began.elapsed().as_secs_f64())),
                Ok(_) if peak() > memory + MOST_MEMORY => Some(format!("{} MB of memory", (peak() - memory) >> 20)),
                Ok(Ok(())) => {
                    taken += 1;
                    None
                }
                Ok(Err(_)) => {
                    refused += 1;
                    None
                }
            };
            if let Some(problem) = problem {
                let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz");
                fs::create_dir_all(&kept)?;
                let name = format!("{}-{i}", format.name.replace(['/', '.'], "-"));
                fs::write(kept.join(&name), &bytes)?;
                problems.push(format!("{problem}: target/fuzz/{name}"));
                if problems.len() > 20 {
                    break;
                }
            }
        }
        println!("{}: {taken} were taken, {refused} refused", format.name);
    }
    std::panic::set_hook(before);
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}
