//! Downloads from a server on this computer that behaves well or badly.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use diffusion_core::data::download::{Fetch, RemoteFile, cifar10, data_dir_from, fashion_mnist, fetch, mnist};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// What the server does with a request.
#[derive(Clone)]
enum Act {
    /// Sends the content, or the rest that a Range request asks for.
    Serve,
    /// As `Serve`, but closes the connection after so many bytes.
    Break(usize),
    /// As `Serve`, but sends nothing after so many bytes, while the connection stays open.
    Stall(usize),
    /// Sends the whole content, even if a range was requested.
    IgnoreRange,
    /// Sends a status line with headers, and a body.
    Raw(&'static str, Vec<u8>),
}

const NOT_FOUND: Act = Act::Raw("404 Not Found", Vec::new());

/// A server on a free port that answers its first request by the first act, the second by the second, …, and then closes.
struct Server {
    url: String,
    /// The first byte of each range that was requested.
    ranges: Arc<Mutex<Vec<Option<usize>>>>,
}

impl Server {
    fn new(acts: impl Into<Vec<Act>>) -> Self {
        Self::of(content(), acts)
    }

    fn of(content: Vec<u8>, acts: impl Into<Vec<Act>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file.gz", listener.local_addr().unwrap());
        let (acts, ranges) = (acts.into(), Arc::default());
        let log = Arc::clone(&ranges);
        thread::spawn(move || {
            for (act, stream) in acts.into_iter().zip(listener.incoming()) {
                // A client that closes the connection early is part of the tests.
                let _ = answer(stream.unwrap(), act, &content, &log);
            }
        });
        Self { url, ranges }
    }

    fn ranges(&self) -> Vec<Option<usize>> {
        self.ranges.lock().unwrap().clone()
    }
}

fn answer(mut stream: TcpStream, act: Act, content: &[u8], log: &Mutex<Vec<Option<usize>>>) -> std::io::Result<()> {
    let mut range = None;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(from) = line.strip_prefix("range: bytes=") {
            range = from.trim_end_matches('-').parse().ok();
        }
    }
    log.lock().unwrap().push(range);
    let (len, from) = (content.len(), range.unwrap_or(0));
    let rest = &content[from..];
    let whole = format!("200 OK\r\nContent-Length: {len}");
    let head = match (&act, range) {
        (Act::Raw(head, _), _) => (*head).to_owned(),
        (Act::IgnoreRange, _) | (_, None) => whole,
        _ => format!(
            "206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{len}",
            rest.len(),
            len - 1
        ),
    };
    write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n")?;
    match act {
        Act::Serve => stream.write_all(rest),
        Act::Break(bytes) => stream.write_all(&rest[..bytes]),
        Act::Stall(bytes) => {
            stream.write_all(&rest[..bytes])?;
            // Returns when the client has given up.
            stream.read(&mut [0]).map(drop)
        }
        Act::IgnoreRange => stream.write_all(content),
        Act::Raw(_, body) => stream.write_all(&body),
    }
}

/// Bytes that repeat nowhere, so that a piece at the wrong place is noticed.
fn content() -> Vec<u8> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..200_000).map(next).collect()
}

fn remote(servers: &[&Server]) -> RemoteFile {
    RemoteFile {
        name: "file.gz".to_owned(),
        urls: servers.iter().map(|server| server.url.clone()).collect(),
        sha256: format!("{:x}", Sha256::digest(content())),
        bytes: 200_000,
    }
}

/// A folder with a download of which these bytes have arrived.
fn folder(part: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    if !part.is_empty() {
        fs::write(dir.path().join("file.gz.part"), part).unwrap();
    }
    dir
}

/// The names and lengths of the files in a folder.
fn listing(dir: &Path) -> Vec<(String, u64)> {
    let entry = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, entry.metadata().unwrap().len())
    };
    fs::read_dir(dir).unwrap().flatten().map(entry).collect()
}

/// Downloads the content and expects it complete, alone in its folder, and without a server the second time.
fn succeeds(dir: &Path, servers: &[&Server]) {
    let mut options = Fetch::default();
    let path = fetch(&remote(servers), dir, &mut options).unwrap();
    assert_eq!(path, dir.join("file.gz"));
    assert!(fs::read(&path).unwrap() == content(), "other content");
    assert_eq!(listing(dir), [("file.gz".to_owned(), 200_000)]);
    assert_eq!(fetch(&remote(&[]), dir, &mut options).unwrap(), path);
}

/// Expects an error that contains all of `facts`, and so many bytes in the `.part`.
fn fails(dir: &Path, options: &mut Fetch, servers: &[&Server], facts: &[&str], kept: u64) {
    let message = fetch(&remote(servers), dir, options).unwrap_err();
    let message = message.to_string();
    for fact in facts {
        assert!(message.contains(fact), "no {fact:?} in:\n{message}");
    }
    assert_eq!(listing(dir), [("file.gz.part".to_owned(), kept)]);
}

fn once() -> Fetch {
    Fetch { retries: 0, ..Fetch::default() }
}

#[test]
fn a_file_is_downloaded_once() {
    let moved = Act::Raw("302 Found\r\nLocation: /elsewhere", Vec::new());
    let server = Server::new([moved, Act::Serve]);
    let dir = folder(&[]);
    succeeds(&dir.path().join("new/folders"), &[&server]);
    assert_eq!(server.ranges(), [None, None]);
}

#[test]
fn a_broken_download_is_resumed_at_once_by_the_next_mirror_and_by_the_next_call() {
    let server = Server::new([Act::Break(1_000), Act::Break(99_000), Act::Serve]);
    succeeds(folder(&[]).path(), &[&server]);
    assert_eq!(server.ranges(), [None, Some(1_000), Some(100_000)]);

    let (broken, good) = (Server::new([Act::Break(1_000), NOT_FOUND]), Server::new([Act::Serve]));
    succeeds(folder(&[]).path(), &[&broken, &good]);
    assert_eq!(good.ranges(), [Some(1_000)]);

    let (broken, good) = (Server::new([Act::Break(1_000)]), Server::new([Act::Serve]));
    let dir = folder(&[]);
    let facts = ["the connection", "1000 of 200000 bytes", "run it again"];
    fails(dir.path(), &mut once(), &[&broken], &facts, 1_000);
    succeeds(dir.path(), &[&good]);
    assert_eq!(good.ranges(), [Some(1_000)]);
}

#[test]
fn a_server_that_cannot_resume_sends_the_whole_file() {
    let partial = |head| Act::Raw(head, content());
    for (act, requests) in [
        (Act::IgnoreRange, 1),
        (Act::Raw("416 Range Not Satisfiable", Vec::new()), 2),
        (partial("206 Partial Content"), 2),
        (partial("206 Partial Content\r\nContent-Range: bytes 0-199999/200000"), 2),
    ] {
        let server = Server::new([act, Act::Serve]);
        succeeds(folder(&content()[..1_000]).path(), &[&server]);
        assert_eq!(server.ranges(), [Some(1_000), None][..requests]);
    }
}

#[test]
fn a_part_with_wrong_bytes_is_discarded() {
    for (part, ranges) in [
        (vec![0; 1_000], vec![Some(1_000), None]),
        (vec![0; 200_000], vec![None]),
        (vec![0; 200_001], vec![None]),
        // It is complete: no server is needed.
        (content(), vec![]),
    ] {
        let server = Server::new([Act::Serve, Act::Serve]);
        succeeds(folder(&part).path(), &[&server]);
        assert_eq!(server.ranges(), ranges);
    }
}

#[test]
fn content_with_a_wrong_hash_is_not_kept_and_the_next_mirror_is_tried() {
    let wrong = || Server::of(vec![7; 200_000], [Act::Serve]);
    let dir = folder(&[]);
    fails(dir.path(), &mut Fetch::default(), &[&wrong()], &["its SHA-256 is wrong"], 0);
    let good = Server::new([Act::Serve]);
    succeeds(dir.path(), &[&wrong(), &good]);
    assert_eq!(good.ranges(), [None]);
}

#[test]
fn other_lengths_and_html_pages_are_recognised_before_anything_is_written() {
    let page = b"\r\n<!DOCTYPE html><p>Please log in".to_vec();
    for (head, body, fact) in [
        ("200 OK\r\nContent-Length: 300000", content(), "300000 bytes instead of 200000"),
        ("200 OK\r\nContent-Length: 5", vec![0; 5], "5 bytes instead of 200000"),
        ("206 Partial Content\r\nContent-Range: bytes 1000-1999/2000", content(), "2000 bytes instead"),
        ("200 OK\r\nContent-Type: Text/HTML; charset=utf-8", b"Log in".to_vec(), "HTML page"),
        ("200 OK", page, "HTML page"),
    ] {
        let server = || Server::new([Act::Raw(head, body.clone())]);
        let dir = folder(&content()[..1_000]);
        fails(dir.path(), &mut Fetch::default(), &[&server()], &[fact], 1_000);
        let good = Server::new([Act::Serve]);
        succeeds(dir.path(), &[&server(), &good]);
        assert_eq!(good.ranges(), [Some(1_000)]);
    }
}

#[test]
fn a_body_of_unknown_length_is_read_no_further_than_the_file() {
    let longer = [content(), vec![1; 500_000]].concat();
    succeeds(folder(&[]).path(), &[&Server::new([Act::Raw("200 OK", longer)])]);
    let shorter = Server::new([Act::Raw("200 OK", vec![7; 1_000])]);
    let fact = "ended after 1000 of 200000 bytes";
    fails(folder(&[]).path(), &mut once(), &[&shorter], &[fact], 1_000);
}

#[test]
fn a_stalled_connection_is_given_up_and_resumed_with_progress() {
    let hasty = || Fetch { stall: Duration::from_millis(300), ..Fetch::default() };
    let server = Server::new([Act::Stall(1_000), Act::Serve]);
    let dir = folder(&[]);
    let reports: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
    let sink = Arc::clone(&reports);
    let mut options = Fetch {
        progress: Some(Box::new(move |done, total| {
            sink.lock().unwrap().push((done, total));
        })),
        ..hasty()
    };
    fetch(&remote(&[&server]), dir.path(), &mut options).unwrap();
    assert_eq!(server.ranges(), [None, Some(1_000)]);
    let reports = reports.lock().unwrap();
    assert!(reports.is_sorted() && reports.contains(&(1_000, 200_000)));
    assert_eq!(reports.last(), Some(&(200_000, 200_000)));

    let silent = Server::new([Act::Stall(0)]);
    let fact = "the server sent nothing for 300ms";
    fails(folder(&[]).path(), &mut hasty(), &[&silent], &[fact], 0);
}

#[test]
fn the_error_says_what_happened_at_each_address_and_how_to_go_on() {
    let (missing, closed) = (Server::new([NOT_FOUND]), Server::new([]));
    let mut file = remote(&[&missing, &closed]);
    file.urls.push("no address".to_owned());
    let dir = folder(&[]);
    let message = fetch(&file, dir.path(), &mut Fetch::default()).unwrap_err().to_string();
    for fact in [
        format!("{}: the server returned HTTP 404", missing.url),
        format!("{}: the connection failed: ", closed.url),
        "no address: ".to_owned(),
        format!("by hand: {} (200000 bytes", dir.path().join("file.gz").display()),
        file.sha256,
        "the sprites: they need no download".to_owned(),
    ] {
        assert!(message.contains(&fact), "no {fact:?} in:\n{message}");
    }
    assert_eq!(missing.ranges().len(), 1, "another try would have ended in the same way");
}

#[test]
fn another_file_of_that_name_is_left_alone() {
    for (bytes, fact) in [(vec![1; 10], "10 bytes instead of 200000"), (vec![1; 200_000], "its SHA-256 is")] {
        let dir = folder(&[]);
        let path = dir.path().join("file.gz");
        fs::write(&path, &bytes).unwrap();
        let result = fetch(&remote(&[]), dir.path(), &mut Fetch::default());
        let message = result.unwrap_err().to_string();
        for fact in [fact, "delete it", path.to_str().unwrap()] {
            assert!(message.contains(fact), "no {fact:?} in {message}");
        }
        assert!(fs::read(&path).unwrap() == bytes);
        assert_eq!(listing(dir.path()).len(), 1);
    }
}

#[test]
fn unusable_names_and_folders_are_errors() {
    let dir = folder(&[]);
    let in_the_way = dir.path().join("in the way");
    fs::write(&in_the_way, "").unwrap();
    for (name, dir, fact) in [
        ("file.gz", &*in_the_way, "in the way"),
        ("file.gz", &in_the_way.join("below"), "in the way"),
        ("../file.gz", dir.path(), "\"../file.gz\""),
        ("", dir.path(), "\"\""),
    ] {
        let file = RemoteFile { name: name.to_owned(), ..remote(&[]) };
        let message = fetch(&file, dir, &mut Fetch::default()).unwrap_err().to_string();
        assert!(message.contains(fact), "no {fact:?} in {message}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let dir = folder(&[]);
    std::os::unix::fs::symlink("/dev/full", dir.path().join("file.gz.part")).unwrap();
    let server = Server::new([Act::Serve]);
    let result = fetch(&remote(&[&server]), dir.path(), &mut Fetch::default());
    let message = result.unwrap_err().to_string();
    assert!(message.contains("file.gz.part: No space left"), "{message}");
}

#[test]
fn several_at_once_download_it_once() {
    let (dir, server) = (folder(&[]), Server::new([Act::Break(1_000), Act::Serve]));
    let file = remote(&[&server]);
    // As a process that crashes does, this one lets go of the lock without having finished.
    let crashed = fs::File::create(dir.path().join("file.gz.part")).unwrap();
    crashed.lock().unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| fetch(&file, dir.path(), &mut Fetch::default()).unwrap());
        }
        thread::sleep(Duration::from_millis(50));
        assert_eq!(server.ranges(), []);
        drop(crashed);
    });
    assert_eq!(listing(dir.path()), [("file.gz".to_owned(), 200_000)]);
    assert_eq!(server.ranges(), [None, Some(1_000)]);
}

#[test]
fn the_known_files_are_distinct_and_complete() {
    let files: Vec<_> = mnist().into_iter().chain(fashion_mnist()).chain([cifar10()]).collect();
    let mut hashes: Vec<_> = files.iter().map(|file| &file.sha256).collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 9);
    for file in &files {
        assert_eq!(file.sha256.len(), 64);
        assert!(file.urls.iter().all(|url| url.ends_with(&format!("/{}", file.name))));
        assert_eq!(file.name.contains("labels"), file.bytes < 1_000_000);
    }
}

#[test]
fn the_data_folder_is_that_of_the_project() {
    let dir = folder(&[]);
    let project = dir.path().join("project");
    let notebooks = project.join("notebooks");
    fs::create_dir_all(&notebooks).unwrap();
    assert_eq!(data_dir_from(None, &notebooks), notebooks.join("data"));

    fs::create_dir(project.join("diffusion-core")).unwrap();
    fs::write(project.join("Cargo.toml"), "").unwrap();
    for variable in [None, Some("".into())] {
        assert_eq!(data_dir_from(variable, &notebooks), project.join("data"));
    }
    assert_eq!(data_dir_from(Some("/x y".into()), &notebooks), PathBuf::from("/x y"));
}
