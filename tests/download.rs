//! Downloads from a server on this computer that behaves well or badly, and IDX files and archives of CIFAR-10 that are right or
//! damaged.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use diffusion_core::data::download::{
    Fetch, RemoteFile, cifar10, data_dir_from, fashion_mnist, fetch, mnist,
};
use diffusion_core::data::idx::{self, Idx};
use diffusion_core::data::{Part, cifar};
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

// ---------------------------------------------------------------------------------------------------------------------
// The server.

/// What the server does with a request.
#[derive(Clone)]
enum Act {
    /// All of the content, or from where a Range request asks.
    Serve,
    /// As `Serve`, but the connection ends after so many bytes.
    Break(usize),
    /// As `Serve`, but nothing comes after so many bytes, while the connection stays open.
    Stall(usize),
    /// All of the content, whatever was asked for.
    IgnoreRange,
    /// All of the content at another path.
    Redirect,
    /// A status line and headers, an empty line, and a body.
    Raw(&'static str, Vec<u8>),
}

/// The first line of each request and the first byte of the range that it asked for.
type Log = Mutex<Vec<(String, Option<usize>)>>;

/// A server on a free port that answers its first request by the first act, …, and all later ones by the last.
struct Server {
    url: String,
    requests: Arc<Log>,
}

impl Server {
    fn new(content: &[u8], acts: &[Act]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file.gz", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (content, acts, log) = (content.to_vec(), acts.to_vec(), requests.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (content, acts, log) = (content.clone(), acts.clone(), log.clone());
                // A client that goes away early is part of the tests.
                thread::spawn(move || answer(stream, &content, &acts, &log).ok());
            }
        });
        Self { url, requests }
    }

    fn ranges(&self) -> Vec<Option<usize>> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|(_, range)| *range).collect()
    }
}

fn answer(mut stream: TcpStream, content: &[u8], acts: &[Act], log: &Log) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or(Ok(String::new()))?;
    let mut range = None;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(from) = line.strip_prefix("range: bytes=") {
            range = from.trim_end_matches('-').parse().ok();
        }
    }
    let act = {
        let mut log = log.lock().unwrap();
        log.push((request, range));
        acts[(log.len() - 1).min(acts.len() - 1)].clone()
    };
    let from = range.unwrap_or(0).min(content.len());
    let head = |from: usize| match range {
        Some(_) => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            content.len() - 1,
            content.len(),
            content.len() - from
        ),
        None => format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            content.len()
        ),
    };
    match act {
        Act::Serve => {
            stream.write_all(head(from).as_bytes())?;
            stream.write_all(&content[from..])
        }
        Act::Break(bytes) => {
            stream.write_all(head(from).as_bytes())?;
            stream.write_all(&content[from..][..bytes])
        }
        Act::Stall(bytes) => {
            stream.write_all(head(from).as_bytes())?;
            stream.write_all(&content[from..][..bytes])?;
            // Returns when the client has given up.
            stream.read(&mut [0]).map(drop)
        }
        Act::IgnoreRange => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n",
                content.len()
            )?;
            stream.write_all(b"Connection: close\r\n\r\n")?;
            stream.write_all(content)
        }
        Act::Redirect => {
            stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n")?;
            stream.write_all(b"Content-Length: 0\r\nConnection: close\r\n\r\n")
        }
        Act::Raw(head, body) => {
            write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n")?;
            stream.write_all(&body)
        }
    }
}

fn status(line: &'static str) -> Act {
    Act::Raw(line, Vec::new())
}

// ---------------------------------------------------------------------------------------------------------------------
// The client.

/// Bytes that repeat nowhere, so that a piece at the wrong place is noticed.
fn content() -> Vec<u8> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..200_000).map(next).collect()
}

fn remote(content: &[u8], servers: &[&Server]) -> RemoteFile {
    RemoteFile {
        name: "file.gz".to_owned(),
        urls: servers.iter().map(|server| server.url.clone()).collect(),
        sha256: format!("{:x}", Sha256::digest(content)),
        bytes: content.len() as u64,
    }
}

fn quick() -> Fetch {
    Fetch {
        pause: Duration::from_millis(1),
        ..Fetch::default()
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The names and lengths of the files in a folder.
fn listing(dir: &Path) -> Vec<(String, u64)> {
    let entry = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, entry.metadata().unwrap().len())
    };
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().flatten().map(entry).collect();
    all.sort();
    all
}

/// Downloads the content from servers and expects it complete, alone in its folder, and not asked for again.
fn succeeds(dir: &Path, options: &mut Fetch, servers: &[&Server]) {
    let file = remote(&content(), servers);
    let path = fetch(&file, dir, options).unwrap();
    assert_eq!(path, dir.join("file.gz"));
    assert!(fs::read(&path).unwrap() == content(), "other content");
    assert_eq!(listing(dir), [("file.gz".to_owned(), 200_000)]);

    let asked: Vec<_> = servers.iter().map(|server| server.ranges().len()).collect();
    assert_eq!(fetch(&file, dir, options).unwrap(), path);
    let asked_again: Vec<_> = servers.iter().map(|server| server.ranges().len()).collect();
    assert_eq!(asked, asked_again);
}

/// Tries to download the content and expects an error that contains all of `facts`, and no more than a `.part`.
fn fails(dir: &Path, options: &mut Fetch, servers: &[&Server], facts: &[&str]) {
    let message = fetch(&remote(&content(), servers), dir, options).unwrap_err();
    let message = format!("{message:#}");
    for fact in facts {
        assert!(message.contains(fact), "no {fact:?} in:\n{message}");
    }
    let files = listing(dir);
    assert!(
        files.iter().all(|(name, _)| name == "file.gz.part"),
        "{files:?}"
    );
}

#[test]
fn a_file_is_downloaded_once() {
    let server = Server::new(&content(), &[Act::Serve]);
    let dir = folder();
    succeeds(&dir.path().join("new/folders"), &mut quick(), &[&server]);
    assert_eq!(server.ranges(), [None]);
}

#[test]
fn a_break_is_continued_where_it_happened() {
    let server = Server::new(
        &content(),
        &[Act::Break(1_000), Act::Break(99_000), Act::Serve],
    );
    succeeds(folder().path(), &mut quick(), &[&server]);
    assert_eq!(server.ranges(), [None, Some(1_000), Some(100_000)]);
}

#[test]
fn the_next_call_continues_with_what_the_last_one_kept() {
    let dir = folder();
    let broken = Server::new(&content(), &[Act::Break(1_000)]);
    let mut once = Fetch {
        retries: 0,
        ..quick()
    };
    fails(
        dir.path(),
        &mut once,
        &[&broken],
        &["broke off", "1000 of 200000 bytes", "continue"],
    );
    assert_eq!(listing(dir.path()), [("file.gz.part".to_owned(), 1_000)]);

    let good = Server::new(&content(), &[Act::Serve]);
    succeeds(dir.path(), &mut once, &[&good]);
    assert_eq!(good.ranges(), [Some(1_000)]);
}

#[test]
fn the_next_address_continues_too() {
    let broken = Server::new(&content(), &[Act::Break(1_000), status("404 Not Found")]);
    let good = Server::new(&content(), &[Act::Serve]);
    succeeds(folder().path(), &mut quick(), &[&broken, &good]);
    assert_eq!(
        (broken.ranges().len(), good.ranges()),
        (2, vec![Some(1_000)])
    );
}

#[test]
fn a_server_that_cannot_continue_starts_over() {
    let other_part = Act::Raw(
        "206 Partial Content\r\nContent-Range: bytes 0-199999/200000",
        content(),
    );
    for (act, asked) in [
        (Act::IgnoreRange, vec![None, Some(1_000)]),
        (
            status("416 Range Not Satisfiable"),
            vec![None, Some(1_000), None],
        ),
        (status("206 Partial Content"), vec![None, Some(1_000), None]),
        (other_part, vec![None, Some(1_000), None]),
    ] {
        let server = Server::new(&content(), &[Act::Break(1_000), act, Act::Serve]);
        succeeds(folder().path(), &mut quick(), &[&server]);
        assert_eq!(server.ranges(), asked);
    }
}

#[test]
fn a_part_that_is_complete_needs_no_server() {
    let dir = folder();
    fs::write(dir.path().join("file.gz.part"), content()).unwrap();
    succeeds(dir.path(), &mut quick(), &[]);
}

#[test]
fn a_wrong_part_is_thrown_away() {
    for (part, asked) in [
        (vec![0; 1_000], vec![Some(1_000), None]),
        (vec![0; 200_000], vec![None]),
        (vec![0; 200_001], vec![None]),
    ] {
        let dir = folder();
        fs::write(dir.path().join("file.gz.part"), part).unwrap();
        let server = Server::new(&content(), &[Act::Serve]);
        succeeds(dir.path(), &mut quick(), &[&server]);
        assert_eq!(server.ranges(), asked);
    }
}

#[test]
fn wrong_content_is_not_kept() {
    let liar = Server::new(&[7; 200_000], &[Act::Serve]);
    let dir = folder();
    fails(
        dir.path(),
        &mut quick(),
        &[&liar],
        &["their SHA-256 is wrong"],
    );
    assert_eq!(listing(dir.path()), [("file.gz.part".to_owned(), 0)]);
    assert_eq!(liar.ranges(), [None]);

    let good = Server::new(&content(), &[Act::Serve]);
    succeeds(dir.path(), &mut quick(), &[&liar, &good]);
    assert_eq!(good.ranges(), [None]);
}

#[test]
fn the_beginning_of_wrong_content_does_not_spoil_the_next_address() {
    let liar = Server::new(&[7; 200_000], &[Act::Break(1_000), status("404 Not Found")]);
    let good = Server::new(&content(), &[Act::Serve]);
    succeeds(folder().path(), &mut quick(), &[&liar, &good]);
    assert_eq!(good.ranges(), [Some(1_000), None]);
}

#[test]
fn another_length_is_seen_before_anything_is_written() {
    for (head, fact) in [
        (
            "200 OK\r\nContent-Length: 300000",
            "300000 bytes instead of 200000",
        ),
        ("200 OK\r\nContent-Length: 5", "5 bytes instead of 200000"),
        (
            "206 Partial Content\r\nContent-Range: bytes 1000-1999/2000",
            "2000 bytes instead of 200000",
        ),
    ] {
        let server = Server::new(&content(), &[Act::Raw(head, content())]);
        let dir = folder();
        fs::write(dir.path().join("file.gz.part"), &content()[..1_000]).unwrap();
        fails(dir.path(), &mut quick(), &[&server], &[fact]);
        assert_eq!(listing(dir.path()), [("file.gz.part".to_owned(), 1_000)]);
    }
}

#[test]
fn no_more_is_written_than_was_promised() {
    // Without Content-Length, the body ends with the connection.
    let longer = |mut bytes: Vec<u8>| {
        bytes.extend(vec![1; 500_000]);
        Server::new(&[], &[Act::Raw("200 OK", bytes)])
    };
    succeeds(folder().path(), &mut quick(), &[&longer(content())]);
    fails(
        folder().path(),
        &mut quick(),
        &[&longer(vec![])],
        &["their SHA-256 is wrong"],
    );

    let shorter = Server::new(&[], &[Act::Raw("200 OK", vec![7; 1_000])]);
    let mut once = Fetch {
        retries: 0,
        ..quick()
    };
    fails(
        folder().path(),
        &mut once,
        &[&shorter],
        &["ended after 1000 of 200000 bytes"],
    );
}

#[test]
fn an_html_page_is_not_taken_for_the_file() {
    for (head, page) in [
        (
            "200 OK\r\nContent-Type: Text/HTML; charset=utf-8",
            "Please log in",
        ),
        (
            "200 OK\r\nContent-Type: text/html\r\nContent-Length: 13",
            "Please log in",
        ),
        ("200 OK", "\r\n<!DOCTYPE html><p>Please log in"),
        ("200 OK", "<HTML><p>Please log in"),
    ] {
        let portal = Server::new(&[], &[Act::Raw(head, page.into())]);
        let dir = folder();
        fs::write(dir.path().join("file.gz.part"), &content()[..1_000]).unwrap();
        fails(
            dir.path(),
            &mut quick(),
            &[&portal],
            &["HTML page", "1000 of 200000"],
        );
        assert_eq!(portal.ranges().len(), 1);

        let good = Server::new(&content(), &[Act::Serve]);
        succeeds(dir.path(), &mut quick(), &[&portal, &good]);
        assert_eq!(good.ranges(), [Some(1_000)]);
    }
}

#[test]
fn the_error_says_what_happened_everywhere_and_how_to_go_on() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let missing = Server::new(&[], &[status("404 Not Found")]);
    let forbidden = Server::new(&[], &[status("403 Forbidden")]);
    let mut file = remote(&content(), &[&missing, &forbidden]);
    file.urls.push(format!("http://{closed}/file.gz"));
    file.urls.push("no address".to_owned());
    // This server does not speak TLS.
    let without_tls = missing.url.replace("http:", "https:");
    file.urls.push(without_tls.clone());
    let dir = folder();
    let message = fetch(&file, dir.path(), &mut quick())
        .unwrap_err()
        .to_string();
    for fact in [
        format!("{}: the server answered HTTP 404", missing.url),
        format!("{}: the server answered HTTP 403", forbidden.url),
        format!("http://{closed}/file.gz: no connection"),
        "no address: ".to_owned(),
        format!("{without_tls}: "),
        dir.path().join("file.gz").display().to_string(),
        "200000 bytes".to_owned(),
        file.sha256,
        "Dataset::sprites(...)".to_owned(),
    ] {
        assert!(message.contains(&fact), "no {fact:?} in:\n{message}");
    }
    // Asking again would not have helped.
    assert_eq!((missing.ranges().len(), forbidden.ranges().len()), (1, 1));
    fails(dir.path(), &mut quick(), &[], &["no address is known"]);
}

#[test]
fn a_server_error_is_asked_again() {
    let error = status("500 Internal Server Error");
    let server = Server::new(&content(), &[error.clone(), error.clone(), Act::Serve]);
    succeeds(folder().path(), &mut quick(), &[&server]);

    let server = Server::new(&content(), &[error]);
    let mut twice = Fetch {
        retries: 2,
        ..quick()
    };
    fails(folder().path(), &mut twice, &[&server], &["HTTP 500"]);
    assert_eq!(server.ranges().len(), 3);
}

#[test]
fn a_redirect_is_followed_and_keeps_the_range() {
    let server = Server::new(
        &content(),
        &[Act::Redirect, Act::Break(1_000), Act::Redirect, Act::Serve],
    );
    succeeds(folder().path(), &mut quick(), &[&server]);
    assert_eq!(server.ranges(), [None, None, Some(1_000), Some(1_000)]);
    assert_eq!(
        server.requests.lock().unwrap()[3].0,
        "GET /elsewhere HTTP/1.1"
    );

    let circle = Server::new(&content(), &[Act::Redirect]);
    fails(
        folder().path(),
        &mut quick(),
        &[&circle],
        &["too many redirects"],
    );
}

#[test]
fn silence_is_a_break() {
    let mut hasty = Fetch {
        stall: Duration::from_secs(1),
        ..quick()
    };
    let server = Server::new(&content(), &[Act::Stall(1_000), Act::Serve]);
    succeeds(folder().path(), &mut hasty, &[&server]);
    assert_eq!(server.ranges(), [None, Some(1_000)]);

    // A server that never says anything is asked once only.
    let silent = Server::new(&content(), &[Act::Stall(0)]);
    fails(
        folder().path(),
        &mut hasty,
        &[&silent],
        &["sent nothing for 1s"],
    );
    assert_eq!(silent.ranges().len(), 1);
}

/// The bytes of a `.gz` are the content; a server that calls them an encoding must not make the client unpack them.
#[test]
fn gzip_is_stored_as_it_is() {
    let bytes = gzip(&content());
    let server = Server::new(
        &[],
        &[Act::Raw("200 OK\r\nContent-Encoding: gzip", bytes.clone())],
    );
    let dir = folder();
    let path = fetch(&remote(&bytes, &[&server]), dir.path(), &mut quick()).unwrap();
    assert!(fs::read(path).unwrap() == bytes);
}

#[test]
fn another_file_of_that_name_is_left_alone() {
    let server = Server::new(&content(), &[Act::Serve]);
    let file = remote(&content(), &[&server]);
    for (bytes, fact) in [
        (vec![1; 10], "10 bytes instead of 200000"),
        (vec![1; 200_000], "SHA-256"),
    ] {
        let dir = folder();
        let path = dir.path().join("file.gz");
        fs::write(&path, &bytes).unwrap();
        let message = fetch(&file, dir.path(), &mut quick())
            .unwrap_err()
            .to_string();
        for fact in [fact, "delete it", path.to_str().unwrap()] {
            assert!(message.contains(fact), "no {fact:?} in {message}");
        }
        assert!(fs::read(&path).unwrap() == bytes);
        assert_eq!(listing(dir.path()).len(), 1);
    }
    assert_eq!(server.ranges(), []);
}

#[test]
fn what_cannot_be_a_file_or_a_folder_is_an_error() {
    let dir = folder();
    let in_the_way = dir.path().join("in the way");
    fs::write(&in_the_way, "").unwrap();
    let good = remote(&content(), &[]);
    let with_name = |name: &str| RemoteFile {
        name: name.to_owned(),
        ..good.clone()
    };
    let with_hash = |hash: &str| RemoteFile {
        sha256: hash.to_owned(),
        ..good.clone()
    };
    for (file, dir, fact) in [
        (
            good.clone(),
            in_the_way.clone(),
            "is a file; a folder is needed",
        ),
        (good.clone(), in_the_way.join("below"), "in the way"),
        (
            with_name("../file.gz"),
            dir.path().to_owned(),
            "\"../file.gz\"",
        ),
        (with_name(""), dir.path().to_owned(), "\"\""),
        (with_hash("12ab"), dir.path().to_owned(), "\"12ab\""),
    ] {
        let message = format!("{:#}", fetch(&file, &dir, &mut quick()).unwrap_err());
        assert!(message.contains(fact), "no {fact:?} in {message}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_at_once() {
    let dir = folder();
    std::os::unix::fs::symlink("/dev/full", dir.path().join("file.gz.part")).unwrap();
    let server = Server::new(&content(), &[Act::Serve]);
    fails(
        dir.path(),
        &mut quick(),
        &[&server, &server],
        &["file.gz.part", "No space left"],
    );
    assert_eq!(server.ranges().len(), 1);
}

#[test]
fn two_at_once_download_it_once() {
    let dir = folder();
    let server = Server::new(&content(), &[Act::Stall(1_000), Act::Serve]);
    let file = remote(&content(), &[&server]);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut hasty = Fetch {
                    stall: Duration::from_secs(1),
                    ..quick()
                };
                fetch(&file, dir.path(), &mut hasty).unwrap();
            });
        }
    });
    assert!(fs::read(dir.path().join("file.gz")).unwrap() == content());
    assert_eq!(listing(dir.path()).len(), 1);
    assert_eq!(server.ranges(), [None, Some(1_000)]);
}

#[test]
fn a_download_that_does_not_go_on_elsewhere_is_an_error() {
    let dir = folder();
    let elsewhere = fs::File::create(dir.path().join("file.gz.part")).unwrap();
    elsewhere.lock().unwrap();
    let mut hasty = Fetch {
        stall: Duration::from_millis(20),
        ..quick()
    };
    fails(
        dir.path(),
        &mut hasty,
        &[],
        &["another process", "file.gz.part"],
    );
}

#[test]
fn progress_goes_from_what_is_there_to_the_whole() {
    let dir = folder();
    fs::write(dir.path().join("file.gz.part"), &content()[..1_000]).unwrap();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let sink = reports.clone();
    let mut options = Fetch {
        progress: Some(Box::new(move |done, total| {
            sink.lock().unwrap().push((done, total))
        })),
        ..quick()
    };
    succeeds(
        dir.path(),
        &mut options,
        &[&Server::new(&content(), &[Act::Serve])],
    );
    let reports = reports.lock().unwrap();
    assert_eq!(
        (reports[0], reports[reports.len() - 1]),
        ((1_000, 200_000), (200_000, 200_000))
    );
    assert!(reports.is_sorted() && reports.len() > 3, "{reports:?}");
}

/// The environment belongs to the whole process: the test runs itself once more, with a proxy set.
#[test]
fn the_proxy_of_the_environment_is_asked() {
    const INNER: &str = "DIFFUSION_TEST_BEHIND_A_PROXY";
    if std::env::var_os(INNER).is_some() {
        let mut file = remote(&content(), &[]);
        file.urls.push("http://mirror.example/file.gz".to_owned());
        let message = fetch(&file, folder().path(), &mut quick())
            .unwrap_err()
            .to_string();
        assert!(message.contains("407"), "{message}");
        // A server on this computer is reached without it.
        succeeds(
            folder().path(),
            &mut quick(),
            &[&Server::new(&content(), &[Act::Serve])],
        );
        return;
    }
    let proxy = Server::new(&[], &[status("407 Proxy Authentication Required")]);
    let inner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_proxy_of_the_environment_is_asked"])
        .env(INNER, "1")
        .env("ALL_PROXY", proxy.url.trim_end_matches("/file.gz"))
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .output()
        .unwrap();
    assert!(
        inner.status.success(),
        "{}",
        String::from_utf8_lossy(&inner.stdout)
    );
    assert_eq!(
        proxy.requests.lock().unwrap()[0].0,
        "CONNECT mirror.example:80 HTTP/1.1"
    );
}

#[test]
fn the_known_files_are_distinct_and_complete() {
    let files: Vec<_> = mnist().into_iter().chain(fashion_mnist()).collect();
    let mut hashes: Vec<_> = files.iter().map(|file| &file.sha256).collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 8);
    for file in &files {
        assert_eq!(file.sha256.len(), 64);
        assert!(file.urls.len() >= 2);
        assert!(
            file.urls
                .iter()
                .all(|url| url.ends_with(&format!("/{}", file.name)))
        );
        assert_eq!(file.name.contains("images"), file.bytes > 1_000_000);
        assert_eq!(file.name.contains("images"), file.name.contains("idx3"));
    }
    let archive = cifar10();
    assert_eq!((archive.sha256.len(), archive.bytes), (64, 170_052_171));
    assert!(archive.urls[0].ends_with(&archive.name));
}

#[test]
fn the_data_folder_is_that_of_the_project() {
    let dir = folder();
    let notebooks = dir.path().join("project/notebooks");
    fs::create_dir_all(&notebooks).unwrap();
    assert_eq!(data_dir_from(None, &notebooks), notebooks.join("data"));

    fs::create_dir(dir.path().join("project/diffusion-core")).unwrap();
    fs::write(dir.path().join("project/Cargo.toml"), "").unwrap();
    assert_eq!(
        data_dir_from(None, &notebooks),
        dir.path().join("project/data")
    );
    assert_eq!(
        data_dir_from(Some("".into()), &notebooks),
        dir.path().join("project/data")
    );
    assert_eq!(
        data_dir_from(Some("/x y".into()), &notebooks),
        PathBuf::from("/x y")
    );
}

// ---------------------------------------------------------------------------------------------------------------------
// IDX files.

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn idx_bytes(dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    bytes.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
    bytes.extend(data);
    bytes
}

/// Three images of 2 × 4 pixels.
fn small() -> Vec<u8> {
    idx_bytes(&[3, 2, 4], &(0..24).collect::<Vec<_>>())
}

fn read_bytes(bytes: &[u8]) -> Result<Idx> {
    let dir = folder();
    let path = dir.path().join("images");
    fs::write(&path, bytes)?;
    idx::read(&path)
}

fn refused(bytes: &[u8], fact: &str) {
    for bytes in [bytes, &gzip(bytes)] {
        let message = format!("{:#}", read_bytes(bytes).unwrap_err());
        assert!(message.contains(fact), "no {fact:?} in {message}");
        assert!(message.contains("images as IDX"), "no path in {message}");
    }
}

#[test]
fn idx_is_read_with_and_without_gzip() {
    let want = Idx {
        dims: vec![3, 2, 4],
        data: (0..24).collect(),
    };
    assert_eq!(read_bytes(&small()).unwrap(), want);
    assert_eq!(read_bytes(&gzip(&small())).unwrap(), want);
    // Parallel compressors write several gzip members.
    let members = [gzip(&small()[..20]), gzip(&small()[20..])].concat();
    assert_eq!(read_bytes(&members).unwrap(), want);
}

#[test]
fn malformed_idx_is_an_error_with_a_reason() {
    refused(b"", "cut short within the header");
    refused(&small()[..9], "cut short within the header");
    refused(&small()[..39], "cut short: 23 values instead of 24");
    refused(
        &[&small()[..], &[0]].concat(),
        "something follows the 24 values",
    );
    refused(b"<html><body>login</body></html>", "HTML page");
    refused(b"\n <!doctype HTML>", "HTML page");
    refused(b"\x93NUMPY\x01\x00", "NumPy array");
    refused(b"PK\x03\x04....", "zip archive");
    refused(b"\x00\x01\x08\x03....", "another kind of file");
    refused(&[0, 0, 8, 0, 0], "not with an IDX magic number");
    refused(&[0, 0, 0x0d, 1, 0, 0, 0, 1], "type 0x0d");
    refused(&idx_bytes(&[3, 0, 4], &[]), "it is empty");
    // What the header claims is never allocated.
    refused(
        &idx_bytes(&[1 << 30], &[1, 2, 3]),
        "3 values instead of 1073741824",
    );
    refused(
        &idx_bytes(&[1 << 31, 1], &[1]),
        "more than 1073741824 values",
    );
    refused(
        &idx_bytes(&[u32::MAX; 8], &[1]),
        "more than 1073741824 values",
    );
}

#[test]
fn damaged_gzip_is_an_error() {
    let good = gzip(&small());
    let mut wrong_sum = good.clone();
    let at = good.len() - 8;
    wrong_sum[at] ^= 1;
    let garbage = [&good[..], b"garbage"].concat();
    let twice = gzip(&good);
    for (bytes, fact) in [
        (&good[..good.len() - 1], "gzip data"),
        (&good[..12], "gzip data"),
        (&wrong_sum, "gzip data"),
        (&garbage, "gzip data"),
        (&twice, "compressed twice"),
    ] {
        let message = format!("{:#}", read_bytes(bytes).unwrap_err());
        assert!(message.contains(fact), "no {fact:?} in {message}");
    }
    let dir = folder();
    let missing = format!("{:#}", idx::read(&dir.path().join("missing")).unwrap_err());
    assert!(missing.contains("missing"), "{missing}");
    assert!(idx::read(dir.path()).is_err());
}

/// Every truncation and many changed bytes: a result or an error, never a panic, and never other data from gzip.
#[test]
fn no_damage_panics() {
    let good = read_bytes(&small()).unwrap();
    for bytes in [small(), gzip(&small())] {
        let is_gzip = bytes[0] == 0x1f;
        for len in 0..bytes.len() {
            assert!(
                read_bytes(&bytes[..len]).is_err(),
                "{len} of {} bytes",
                bytes.len()
            );
        }
        for at in 0..bytes.len() {
            for flip in [0x01, 0x08, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] ^= flip;
                if let Ok(found) = read_bytes(&bytes) {
                    let product: usize = found.dims.iter().product();
                    assert_eq!(found.data.len(), product);
                    assert!(!is_gzip || found == good, "byte {at} ^ {flip:#x}");
                }
            }
        }
    }
}

#[test]
fn images_and_labels_must_belong_together() {
    let dir = folder();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let images = write("images", &small());
    let labels = write("labels", &gzip(&idx_bytes(&[3], &[0, 9, 4])));
    let fewer = write("fewer", &idx_bytes(&[2], &[0, 9]));
    let stack = write("stack", &idx_bytes(&[1, 1, 1, 1], &[0]));

    let set = idx::read_labelled(&images, &labels, 10).unwrap();
    assert_eq!((set.n, set.height, set.width), (3, 2, 4));
    assert_eq!((set.pixels, set.labels), ((0..24).collect(), vec![0, 9, 4]));

    for (images, labels, classes, facts) in [
        (&images, &fewer, 10, ["3 images", "2 labels"]),
        (&images, &labels, 9, ["label 9 of item 1", "0 to 8"]),
        (&images, &labels, 0, ["label 0 of item 0", "no class"]),
        (&labels, &labels, 10, ["labels holds labels", "not images"]),
        (&images, &images, 10, ["images holds images", "not labels"]),
        (&stack, &labels, 10, ["stack", "values of 4 dimensions"]),
    ] {
        let message = format!(
            "{:#}",
            idx::read_labelled(images, labels, classes).unwrap_err()
        );
        for fact in facts {
            assert!(message.contains(fact), "no {fact:?} in {message}");
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The archive of CIFAR-10.

const BATCHES: [&str; 6] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
    "test_batch.bin",
];

/// Two records of one label.
fn batch(label: u8) -> Vec<u8> {
    [vec![label; 3073], vec![label; 3073]].concat()
}

/// Adds an entry; its path is written as it is, also where it leads out of the folder.
fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, size: u64, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append(&header, data).unwrap();
}

fn add_file(tar: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8]) {
    add(tar, path, tar::EntryType::Regular, data.len() as u64, data);
}

/// The six files with the labels 0 … 5, between others that lead elsewhere.
fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    add(
        &mut tar,
        "cifar-10-batches-bin/",
        tar::EntryType::Directory,
        0,
        &[],
    );
    add_file(&mut tar, "../outside.bin", b"outside");
    add_file(&mut tar, "/tmp/data_batch_1.bin", b"absolute");
    add_file(&mut tar, "cifar-10-batches-bin/../data_batch_1.bin", b"up");
    for (label, name) in BATCHES.iter().enumerate() {
        add_file(
            &mut tar,
            &format!("cifar-10-batches-bin/{name}"),
            &batch(label as u8),
        );
        add_file(&mut tar, "cifar-10-batches-bin/readme.html", b"<html>");
    }
    gzip(&tar.into_inner().unwrap())
}

#[test]
fn cifar10_is_downloaded_once_and_only_its_six_files_are_unpacked() {
    let bytes = archive();
    let server = Server::new(&bytes, &[Act::Break(100), Act::Serve]);
    let file = remote(&bytes, &[&server]);
    let dir = folder();
    let inside = dir.path().join("data");
    let train = cifar::files(Part::Train, &inside, &file, &mut quick()).unwrap();
    let test = cifar::files(Part::Test, &inside, &file, &mut quick()).unwrap();
    assert_eq!((train.len(), test.len(), server.ranges().len()), (5, 1, 2));
    for (label, (path, name)) in (0..).zip(train.iter().chain(&test).zip(BATCHES)) {
        assert_eq!(*path, inside.join("cifar-10-batches-bin").join(name));
        assert_eq!(
            cifar::read(path).unwrap(),
            (vec![label as u8; 2 * 3072], vec![label; 2])
        );
    }
    // Neither the archive nor anything else from it.
    let names = |dir: &Path| {
        listing(dir)
            .into_iter()
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(dir.path()), ["data"]);
    assert_eq!(names(&inside), ["cifar-10-batches-bin"]);
    assert_eq!(names(&inside.join("cifar-10-batches-bin")), BATCHES);
}

#[test]
fn an_archive_put_there_by_hand_is_kept_and_completes_what_is_missing() {
    let bytes = archive();
    let dir = folder();
    fs::write(dir.path().join("file.gz"), &bytes).unwrap();
    let unpacked = dir.path().join("cifar-10-batches-bin");
    fs::create_dir(&unpacked).unwrap();
    fs::write(unpacked.join("data_batch_2.bin"), batch(9)).unwrap();
    let files = cifar::files(Part::Train, dir.path(), &remote(&bytes, &[]), &mut quick()).unwrap();
    let labels: Vec<u32> = files
        .iter()
        .map(|file| cifar::read(file).unwrap().1[0])
        .collect();
    assert_eq!(labels, [0, 9, 2, 3, 4]);
    assert!(dir.path().join("file.gz").is_file());

    // A part that is there needs no archive.
    fs::remove_file(dir.path().join("file.gz")).unwrap();
    fs::remove_file(unpacked.join("data_batch_1.bin")).unwrap();
    cifar::files(Part::Test, dir.path(), &remote(&bytes, &[]), &mut quick()).unwrap();
    let missing = cifar::files(Part::Train, dir.path(), &remote(&bytes, &[]), &mut quick());
    let message = missing.unwrap_err().to_string();
    assert!(message.contains("by hand: "), "{message}");
}

#[test]
fn a_damaged_archive_is_an_error_that_leaves_no_half_file() {
    use tar::EntryType::{Regular, Symlink};
    let first = "cifar-10-batches-bin/data_batch_1.bin";
    let with = |kind, size, data: &[u8]| {
        let mut tar = tar::Builder::new(Vec::new());
        add(&mut tar, first, kind, size, data);
        gzip(&tar.into_inner().unwrap())
    };
    let whole = archive();
    let mut wrong_sum = whole.clone();
    wrong_sum[20..60].fill(0x55);
    for (bytes, fact) in [
        (whole[..whole.len() / 2].to_vec(), "file.gz"),
        (wrong_sum, "file.gz"),
        (b"no archive".to_vec(), "file.gz"),
        (gzip(b"no archive"), "file.gz"),
        (gzip(&[]), "there is no data_batch_1.bin"),
        (with(Regular, 6146, &batch(1)), "there is no "),
        (with(Symlink, 0, &[]), "data_batch_1.bin: it is no file"),
        (
            with(Regular, 1 << 40, &[1]),
            "too large (1099511627776 bytes)",
        ),
        (with(Regular, 6146, &[1; 600]), "data_batch_1.bin"),
    ] {
        let dir = folder();
        fs::write(dir.path().join("file.gz"), &bytes).unwrap();
        let result = cifar::files(Part::Test, dir.path(), &remote(&bytes, &[]), &mut quick());
        let message = result.unwrap_err().to_string();
        for fact in [fact, "cannot unpack", "file.gz"] {
            assert!(message.contains(fact), "no {fact:?} in {message}");
        }
        for (name, length) in listing(&dir.path().join("cifar-10-batches-bin")) {
            assert!(
                name.ends_with(".part") || length == 6146,
                "{name}: {length}"
            );
        }
    }
}
