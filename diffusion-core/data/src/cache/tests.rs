use super::*;
use crate::{Dataset, Resize, Source};
use diffusion_ops::rng::Rng;
use image::{GrayImage, Luma, Rgb, RgbImage};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// `n` pictures of different sizes; from picture `grey` on they have colours.
fn pictures(n: u8, grey: u8) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..n {
        let (path, (w, h)) = (folder.path().join(format!("{i:03}.png")), (5 + u32::from(i % 3), 6));
        let value = |x: u32, y: u32| i ^ (40 * x as u8) ^ (7 * y as u8);
        let saved = match i < grey {
            true => GrayImage::from_fn(w, h, |x, y| Luma([value(x, y)])).save(path),
            false => RgbImage::from_fn(w, h, |x, y| Rgb([value(x, y), i, 200])).save(path),
        };
        saved.unwrap();
    }
    folder
}

fn source(folder: &TempDir) -> Source {
    Source { task: folder.path().to_str().unwrap().to_owned(), side: Some(4), ..Source::default() }
}

/// The fingerprints of both splits.
fn fingerprints((train, test): &(Dataset, Dataset)) -> Result<[String; 2]> {
    Ok([train.fingerprint()?, test.fingerprint()?])
}

/// Replaces the content of all pictures without changing what identifies them: they cannot be decoded any more.
fn garble(folder: &TempDir) -> Result<()> {
    for entry in fs::read_dir(folder.path())? {
        let path = entry?.path();
        let about = fs::metadata(&path)?;
        fs::write(&path, vec![7; about.len() as usize])?;
        File::options().write(true).open(&path)?.set_modified(about.modified()?)?;
    }
    Ok(())
}

/// More than one chunk of grey pictures, then colours: the images are greyscale, or become RGB when they are stored.
#[test]
fn images_are_the_same_in_memory_in_the_file_and_read_again() -> Result<()> {
    for grey in [0, 70, 90, 100] {
        let (folder, run) = (pictures(100, grey), tempfile::tempdir()?);
        let source = source(&folder);
        let decoded = source.load_both(1)?;
        let want = fingerprints(&decoded)?;
        let loaded = Cache::in_folder(run.path().join("new"));
        let streamed = Cache { in_memory: 0, ..Cache::in_folder(run.path().join("streamed")) };
        for cache in [&loaded, &streamed] {
            assert_eq!(fingerprints(&source.load_both_cached(1, cache)?)?, want, "grey until {grey}");
        }
        garble(&folder)?;
        assert!(source.load_both(1).is_err());
        assert_eq!(fingerprints(&source.load_both_cached(1, &loaded)?)?, want);
        let (train, test) = source.load_both_cached(1, &streamed)?;
        assert_eq!((train.bytes(), train.is_8_bit()), (None, true));
        assert_eq!(train.shape(), [if grey == 100 { 1 } else { 3 }, 4, 4]);
        assert!(train.to_string().contains("; read from "), "{train}");

        // Each way to use a data set.
        let all = |d: &Dataset| -> Result<Vec<f32>> {
            Ok(d.images(0..d.len(), &candle_core::Device::Cpu)?.flatten_all()?.to_vec1()?)
        };
        assert_eq!(all(&test)?, all(&decoded.1)?);
        let both = [&train, &decoded.0];
        let [a, b] = both.map(|d| d.select([30, 2, 2, 89]).unwrap().split(0.5, &mut Rng::new(3)).unwrap());
        assert_eq!(fingerprints(&a)?, fingerprints(&b)?);
        let [a, b] = both.map(|d| d.resize(8, Resize::Bilinear).unwrap());
        assert_eq!(a.bytes(), b.bytes());
    }
    Ok(())
}

#[test]
fn a_damaged_file_is_made_again() -> Result<()> {
    let (folder, run) = (pictures(9, 4), tempfile::tempdir()?);
    let source = source(&folder);
    let cache = Cache::in_folder(run.path());
    let want = fingerprints(&source.load_both_cached(1, &cache)?)?;
    let good = fs::read(&cache.path)?;
    let key = source_key(&source)?;
    assert!(cache.open(&key, false).is_ok_and(|found| found.is_some()));
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= value;
        bytes
    };
    let ending = good.len() - ENDING as usize;
    for (bytes, wants) in [
        (Vec::new(), "truncated"),
        (b"no cache, but long enough for one".to_vec(), "truncated"),
        (good[..good.len() - 1].to_vec(), "truncated"),
        (good[..good.len() / 2].to_vec(), "truncated"),
        (good[1..].to_vec(), "damaged"),
        (changed(0, 1), "damaged"),
        (changed(200, 0x80), "damaged"),
        (changed(good.len() - 1, 1), "another version"),
        (changed(ending, 1), "damaged"),
        (changed(ending + 7, 0x80), "damaged"),
        (changed(ending + 9, 4), "damaged"),
        (changed(ending - 1, 8), "damaged"),
    ] {
        fs::write(&cache.path, &bytes)?;
        let Err(Unusable::Damaged(reason)) = cache.open(&key, false) else { panic!("{wants}") };
        assert!(reason.contains(wants), "{reason} lacks {wants:?}");
        assert_eq!(fingerprints(&source.load_both_cached(1, &cache)?)?, want);
        assert!(fs::read(&cache.path)? == good, "{wants}");
    }
    // Wherever it is cut off and whatever byte is wrong, it is not used.
    for at in 0..good.len() {
        fs::write(&cache.path, &good[..at])?;
        assert!(cache.open(&key, false).is_err(), "cut off after {at} bytes");
        fs::write(&cache.path, changed(at, [0x01, 0x10, 0x80, 0xff][at % 4]))?;
        assert!(cache.open(&key, false).is_err(), "byte {at}");
    }
    assert_eq!(fs::read_dir(run.path())?.count(), 1);
    Ok(())
}

fn source_key(source: &Source) -> Result<Key> {
    crate::folder::Found::in_folder(Path::new(&source.task))?.pictures(source.side, source.fit, source.skip_bad).key()
}

#[test]
fn other_pictures_and_other_sizes_are_decoded_again() -> Result<()> {
    let (folder, run) = (pictures(20, 0), tempfile::tempdir()?);
    let cache = Cache::in_folder(run.path());
    let plain = source(&folder);
    plain.load_both_cached(1, &cache)?;
    let reason = |source: &Source| -> Result<String> {
        Ok(match cache.open(&source_key(source)?, source.skip_bad) {
            Ok(_) => String::new(),
            Err(Unusable::Other(reason)) => reason,
            Err(Unusable::Damaged(reason)) => panic!("damaged: {reason}"),
        })
    };
    assert_eq!(reason(&plain)?, "");
    let larger = Source { side: Some(5), ..plain.clone() };
    let padded = Source { fit: Fit::Pad, ..plain.clone() };
    assert!(reason(&larger)?.contains("(side 4, crop; now side 5, crop)"), "{}", reason(&larger)?);
    assert!(reason(&padded)?.contains("side 4, pad"), "{}", reason(&padded)?);
    // Unless it is to be kept.
    let kept = Cache { replace: false, ..cache.clone() };
    assert_eq!(fingerprints(&larger.load_both_cached(1, &kept)?)?, fingerprints(&larger.load_both(1)?)?);
    assert_eq!(reason(&plain)?, "");
    for source in [larger, padded] {
        assert_eq!(fingerprints(&source.load_both_cached(1, &cache)?)?, fingerprints(&source.load_both(1)?)?);
    }
    plain.load_both_cached(1, &cache)?;
    // A new time, a new length, a new name, one more, one less.
    let path = |name: &str| folder.path().join(name);
    let changes: [&dyn Fn() -> io::Result<()>; 5] = [
        &|| File::options().write(true).open(path("003.png"))?.set_modified(SystemTime::now() - Duration::from_secs(9)),
        &|| fs::copy(path("004.png"), path("005.png")).map(drop),
        &|| fs::rename(path("006.png"), path("0060.png")),
        &|| fs::copy(path("007.png"), path("zzz.png")).map(drop),
        &|| fs::remove_file(path("008.png")),
    ];
    for change in changes {
        change()?;
        assert!(reason(&plain)?.contains("picture files have changed"), "{:?}", reason(&plain)?);
        assert_eq!(fingerprints(&plain.load_both_cached(1, &cache)?)?, fingerprints(&plain.load_both(1)?)?);
        assert_eq!(reason(&plain)?, "");
    }
    // A folder that has moved has the same pictures.
    let moved = run.path().join("moved");
    fs::rename(folder.path(), &moved)?;
    assert_eq!(reason(&Source { task: moved.to_str().unwrap().to_owned(), ..plain })?, "");
    Ok(())
}

#[test]
fn files_that_cannot_be_read_are_left_out_or_an_error() -> Result<()> {
    let (folder, run) = (pictures(20, 0), tempfile::tempdir()?);
    let cache = Cache::in_folder(run.path());
    fs::write(folder.path().join("010.png"), "no picture")?;
    let strict = source(&folder);
    let message = strict.load_both_cached(1, &cache).unwrap_err().to_string();
    assert!(message.contains("010.png") && message.contains("--skip-bad"), "{message}");
    assert_eq!(fs::read_dir(run.path())?.count(), 0, "nothing is left of it");
    let lenient = Source { skip_bad: true, ..strict.clone() };
    let want = fingerprints(&lenient.load_both(1)?)?;
    for _ in 0..2 {
        let both = lenient.load_both_cached(1, &cache)?;
        assert_eq!((fingerprints(&both)?, both.0.len() + both.1.len()), (want.clone(), 19));
        assert!(both.0.to_string().contains("1 other files or folders skipped"), "{}", both.0);
    }
    assert!(strict.load_both_cached(1, &cache).is_err());
    Ok(())
}

#[test]
fn an_interrupted_part_is_removed_and_one_in_use_is_not() -> Result<()> {
    let (folder, run) = (pictures(9, 0), tempfile::tempdir()?);
    let cache = Cache::in_folder(run.path());
    let [abandoned, in_use, other] =
        ["images.cache.1.part", "images.cache.2.part", "model.part"].map(|name| run.path().join(name));
    for path in [&abandoned, &in_use, &other] {
        fs::write(path, "unfinished")?;
    }
    let holder = File::open(&in_use)?;
    holder.lock()?;
    source(&folder).load_both_cached(1, &cache)?;
    assert_eq!([&abandoned, &in_use, &other, &cache.path].map(|path| path.exists()), [false, true, true, true]);
    Ok(())
}

#[test]
fn a_cache_that_cannot_be_written_or_read_is_an_error_or_left_out() -> Result<()> {
    let (folder, run) = (pictures(9, 4), tempfile::tempdir()?);
    let source = source(&folder);
    // A file in place of the folder: the pictures are decoded into memory.
    let file = run.path().join("file");
    fs::write(&file, "")?;
    let both = source.load_both_cached(1, &Cache { in_memory: 0, ..Cache::in_folder(&file) })?;
    assert_eq!(fingerprints(&both)?, fingerprints(&source.load_both(1)?)?);

    /// A disk with room for so many bytes.
    struct Small(Cursor<Vec<u8>>, u64);
    impl Read for Small {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            self.0.read(bytes)
        }
    }
    impl Seek for Small {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }
    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.0.position() + bytes.len() as u64 > self.1 {
                true => Err(ErrorKind::StorageFull.into()),
                false => self.0.write(bytes),
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let found = crate::folder::Found::in_folder(folder.path())?;
    let pictures = found.pictures(Some(4), Fit::Crop, false);
    // It is full when greyscale images become RGB, or afterwards.
    for room in [0, 64, 100, 200, 431] {
        let out = &mut Small(Cursor::default(), room);
        let said = pictures.decode(out, Some(Path::new("runs/x/images.cache"))).unwrap_err().to_string();
        assert!(said.contains("0 MB, to runs/x/images.cache; free disk space"), "{said}");
    }
    assert_eq!(pictures.decode(&mut Small(Cursor::default(), 432), Some(Path::new("x")))?.images, 9);

    // Cut off while it is in use.
    let cache = Cache { in_memory: 0, ..Cache::in_folder(run.path()) };
    let (train, _) = source.load_both_cached(1, &cache)?;
    File::options().write(true).open(&cache.path)?.set_len(10)?;
    let said = train.images(0..8, &candle_core::Device::Cpu).unwrap_err().to_string();
    assert!(said.contains("images.cache; run it again"), "{said}");
    assert!(train.fingerprint().is_err());
    Ok(())
}
