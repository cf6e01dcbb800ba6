//! One address: ask, continue after a break, check what came.

use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::thread;

use ureq::http::{HeaderMap, StatusCode, Uri, header};
use ureq::{Agent, Error, Timeout};

use super::{Fetch, Part, RemoteFile, is_html};

const HTML: &str = "an HTML page came instead of the file, perhaps from a proxy or from the login page of a network";

/// Why there is no file yet, and what can help.
pub(super) enum Failure {
    /// The same address, asked again.
    Again(String),
    /// Another address.
    Next(String),
    /// Nothing but the user: this computer's disk is the problem.
    Here(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Here(error)
    }
}

/// Completes `part` from `url`, with as many attempts as `options` allow.
pub(super) fn transfer(
    url: &str,
    remote: &RemoteFile,
    part: &mut Part,
    options: &mut Fetch,
) -> Result<(), Failure> {
    let agent = agent(url, options);
    // Bytes of another address or of an earlier call: if the SHA-256 is wrong in the end, it may be their fault.
    let mut mixed = part.len() > 0;
    let (mut retries, mut pause) = (options.retries, options.pause);
    loop {
        let failure = match attempt(&agent, url, remote, part, options) {
            Ok(()) if part.is_complete(remote)? => return Ok(()),
            Ok(()) => {
                let reason = "all bytes came, but their SHA-256 is wrong".to_owned();
                if mixed {
                    Failure::Again(reason)
                } else {
                    Failure::Next(reason)
                }
            }
            Err(failure) => failure,
        };
        if retries == 0 || !matches!(failure, Failure::Again(_)) {
            return Err(failure);
        }
        thread::sleep(pause);
        mixed &= part.len() > 0;
        retries -= 1;
        pause = pause.saturating_mul(2);
    }
}

/// One request for the bytes that `part` lacks. Only what a server sends as the content is written to it.
fn attempt(
    agent: &Agent,
    url: &str,
    remote: &RemoteFile,
    part: &mut Part,
    options: &mut Fetch,
) -> Result<(), Failure> {
    let mut request = agent.get(url);
    if part.len() > 0 {
        request = request.header(header::RANGE, format!("bytes={}-", part.len()));
    }
    let mut response = request.call().map_err(|e| explain(e, options, false))?;
    let start = match response.status() {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT => part.len(),
        StatusCode::RANGE_NOT_SATISFIABLE => {
            part.clear()?;
            return Err(Failure::Again(
                "the server cannot continue (HTTP 416)".to_owned(),
            ));
        }
        status => {
            let reason = format!("the server answered HTTP {status}");
            let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
            return Err(if passing {
                Failure::Again(reason)
            } else {
                Failure::Next(reason)
            });
        }
    };
    let content_type = text(response.headers(), header::CONTENT_TYPE);
    if content_type.to_ascii_lowercase().starts_with("text/html") {
        return Err(Failure::Next(HTML.to_owned()));
    }
    let announced = match response.status() {
        StatusCode::OK => response.body().content_length(),
        _ => match content_range(text(response.headers(), header::CONTENT_RANGE)) {
            Some((from, total)) if from == start => total,
            _ => {
                part.clear()?;
                return Err(Failure::Again(
                    "the server sent another part than asked for".to_owned(),
                ));
            }
        },
    };
    if let Some(bytes) = announced.filter(|&bytes| bytes != remote.bytes) {
        return Err(Failure::Next(format!(
            "the server has another file: {bytes} bytes instead of {}",
            remote.bytes
        )));
    }

    let mut body = response.body_mut().as_reader();
    let mut chunk = vec![0; 1 << 16];
    let mut done = start;
    options.report(done, remote.bytes);
    while done < remote.bytes {
        let most = chunk
            .len()
            .min(usize::try_from(remote.bytes - done).unwrap_or(usize::MAX));
        let bytes = match body.read(&mut chunk[..most]) {
            Ok(0) => {
                let reason = format!(
                    "the connection ended after {done} of {} bytes",
                    remote.bytes
                );
                return Err(Failure::Again(reason));
            }
            Ok(n) => &chunk[..n],
            Err(e) => return Err(explain(Error::from(e), options, done > start)),
        };
        if done == 0 {
            if is_html(bytes) {
                return Err(Failure::Next(HTML.to_owned()));
            }
            part.clear()?;
        }
        part.append(bytes)?;
        done = part.len();
        options.report(done, remote.bytes);
    }
    Ok(())
}

/// What went wrong, in words; `progress` says whether bytes of the content came before.
fn explain(error: Error, options: &Fetch, progress: bool) -> Failure {
    match error {
        Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            Failure::Next(format!("no connection within {:?}", options.connect))
        }
        Error::Timeout(_) => {
            let reason = format!("the server sent nothing for {:?}", options.stall);
            // Who was silent from the start will be so again.
            if progress {
                Failure::Again(reason)
            } else {
                Failure::Next(reason)
            }
        }
        Error::HostNotFound => {
            Failure::Next("the host was not found; is this computer online?".to_owned())
        }
        Error::Io(e) => match e.kind() {
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::Interrupted => Failure::Again(format!("the connection broke off: {e}")),
            _ => Failure::Next(format!("no connection: {e}")),
        },
        other => Failure::Next(other.to_string()),
    }
}

/// The first byte and, where it is known, the length of the whole: `bytes 100-199/200` is (100, Some(200)).
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes")?.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    Some((from.trim().parse().ok()?, total.trim().parse().ok()))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn agent(url: &str, options: &Fetch) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(Some(options.connect))
        .timeout_connect(Some(options.connect))
        .timeout_per_read(Some(options.stall))
        .timeout_per_write(Some(options.stall))
        .user_agent(concat!(
            env!("CARGO_PKG_NAME"),
            "/",
            env!("CARGO_PKG_VERSION")
        ))
        // Offsets and SHA-256 are those of the file as it is stored.
        .accept_encoding("identity");
    let config = if is_here(url) {
        config.proxy(None)
    } else {
        config
    };
    config.build().new_agent()
}

/// Whether the server is on this computer, where a proxy has nothing to do.
fn is_here(url: &str) -> bool {
    let uri: Option<Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse();
    host == "localhost" || address.is_ok_and(|ip: IpAddr| ip.is_loopback())
}
