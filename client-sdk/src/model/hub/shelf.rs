//! A small hub for tests, whose large files are kept at another address, as the real one's are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Hub;
use crate::model::fixture;
use crate::model::llama::tests::tiny;

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(super) const WEIGHTS: &str = "model.safetensors";

/// What the hub has, and how it misbehaves.
#[derive(Default)]
pub(super) struct Shelf {
    pub(super) files: HashMap<String, Vec<u8>>,
    /// Answers that end after so many bytes, each once.
    pub(super) cuts: Vec<usize>,
    /// In place of what is right.
    pub(super) headers: HashMap<&'static str, String>,
    /// The status and the code of every answer.
    pub(super) refusal: Option<(u16, &'static str)>,
    pub(super) whole_only: bool,
    pub(super) corrupt: bool,
    /// Request lines and headers, in lower case.
    pub(super) seen: Vec<String>,
}

pub(super) struct TestHub {
    pub(super) shelf: Arc<Mutex<Shelf>>,
    pub(super) url: String,
    pub(super) cache: tempfile::TempDir,
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn git(bytes: &[u8]) -> String {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", bytes.len()).as_bytes());
    context.update(bytes);
    hex_of(context.finish().as_ref())
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex_of(digest(&SHA256, bytes).as_ref())
}

impl TestHub {
    pub(super) async fn start() -> Self {
        let mut shelf = Shelf::default();
        let mut put = |name: &str, bytes: Vec<u8>| shelf.files.insert(name.into(), bytes);
        put("config.json", tiny().to_json().to_string().into_bytes());
        put("tokenizer.json", fixture::tokenizer(19).into_bytes());
        put(WEIGHTS, fixture::weights(&tiny(), 1));
        let shelf = Arc::new(Mutex::new(shelf));
        let elsewhere = listen(shelf.clone(), String::new()).await;
        let url = listen(shelf.clone(), elsewhere).await;
        Self { shelf, url, cache: tempfile::tempdir().expect("a folder") }
    }

    pub(super) fn hub(&self) -> Hub {
        Hub::new(&self.url, self.cache.path()).expect("sound").token("secret".into())
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Shelf)) {
        change(&mut self.shelf.lock().expect("not poisoned"));
    }

    /// The requests since the last call.
    pub(super) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.shelf.lock().expect("not poisoned").seen)
    }
}

async fn listen(shelf: Arc<Mutex<Shelf>>, elsewhere: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, shelf.clone(), elsewhere.clone()));
        }
    });
    url
}

/// One request; the hub itself sends for weights `elsewhere`, which is where it is empty.
async fn answer(mut stream: TcpStream, shelf: Arc<Mutex<Shelf>>, elsewhere: String) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).expect("text").to_lowercase();
    let bytes = {
        let mut shelf = shelf.lock().expect("not poisoned");
        let bytes = reply(&mut shelf, &head, &elsewhere);
        shelf.seen.push(head);
        bytes
    };
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}

fn reply(shelf: &mut Shelf, head: &str, elsewhere: &str) -> Vec<u8> {
    let mut headers = vec![("connection", "close".to_owned())];
    let name = head.split(' ').nth(1).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    if let Some((before, after)) = head.split(' ').nth(1).and_then(|path| path.split_once("/old/"))
    {
        headers.push(("location", format!("{before}/tiny/{after}")));
        return written(307, headers, &[]);
    }
    let refused = match (shelf.refusal, shelf.files.contains_key(name)) {
        (Some(refusal), _) => Some(refusal),
        (None, false) => Some((404, "EntryNotFound")),
        _ => None,
    };
    if let Some((status, code)) = refused {
        headers.extend([("x-error-code", code.into()), ("content-length", "0".into())]);
        return written(status, headers, &[]);
    }
    let mut body = shelf.files[name].clone();
    let (get, large) = (head.starts_with("get "), name == WEIGHTS);
    headers.push(("x-repo-commit", COMMIT.into()));
    if large {
        let (etag, size) = (format!("\"{}\"", sha256(&body)), body.len().to_string());
        headers.extend([("x-linked-etag", etag), ("x-linked-size", size)]);
        headers.push(("etag", "\"of-the-redirection\"".into()));
    } else {
        headers.push(("etag", format!("\"{}\"", git(&body))));
    }
    for header in &mut headers {
        if let Some(other) = shelf.headers.get(header.0) {
            header.1.clone_from(other);
        }
    }
    if large && !elsewhere.is_empty() {
        headers
            .extend([("location", format!("{elsewhere}/{name}")), ("content-length", "0".into())]);
        return written(302, headers, &[]);
    }
    if !get {
        headers.push(("content-length", body.len().to_string()));
        return written(200, headers, &[]);
    }
    if shelf.corrupt {
        body[0] ^= 1;
    }
    let from = head.split_once("range: bytes=").and_then(|(_, rest)| rest.split_once('-'));
    let from = from.map(|(from, _)| from.parse::<usize>().expect("a number"));
    let (status, from) = match from.filter(|_| !shelf.whole_only) {
        Some(from) => (206, from),
        None => (200, 0),
    };
    if status == 206 {
        let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
        headers.push(("content-range", range));
    }
    headers.push(("content-length", (body.len() - from).to_string()));
    let cut = if shelf.cuts.is_empty() { usize::MAX } else { shelf.cuts.remove(0) };
    let body = &body[from..];
    written(status, headers, &body[..cut.min(body.len())])
}

fn written(status: u16, headers: Vec<(&str, String)>, body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status} So\r\n");
    for (name, value) in headers {
        out += &format!("{name}: {value}\r\n");
    }
    [out.as_bytes(), b"\r\n", body].concat()
}
