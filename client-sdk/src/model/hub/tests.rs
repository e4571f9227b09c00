//! Against a small hub of our own, whose large files are kept at another address, as the real one's are.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::model::llama::tests::tiny;
use crate::model::{BaseModel, fixture};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &str = "model.safetensors";

/// What the hub has, and how it misbehaves.
#[derive(Default)]
struct Shelf {
    files: HashMap<String, Vec<u8>>,
    /// Answers that end after so many bytes, each once.
    cuts: Vec<usize>,
    /// In place of what is right.
    headers: HashMap<&'static str, String>,
    /// The status and the code of every answer.
    refusal: Option<(u16, &'static str)>,
    whole_only: bool,
    corrupt: bool,
    /// Request lines and headers, in lower case.
    seen: Vec<String>,
}

struct TestHub {
    shelf: Arc<Mutex<Shelf>>,
    url: String,
    cache: tempfile::TempDir,
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn git(bytes: &[u8]) -> String {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", bytes.len()).as_bytes());
    context.update(bytes);
    hex_of(context.finish().as_ref())
}

fn sha256(bytes: &[u8]) -> String {
    hex_of(digest(&SHA256, bytes).as_ref())
}

impl TestHub {
    async fn start() -> Self {
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

    fn hub(&self) -> Hub {
        Hub::new(&self.url, self.cache.path()).expect("sound").token("secret".into())
    }

    fn change(&self, change: impl FnOnce(&mut Shelf)) {
        change(&mut self.shelf.lock().expect("not poisoned"));
    }

    /// The requests since the last call.
    fn seen(&self) -> Vec<String> {
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

fn repo() -> Repo {
    "owner/tiny".parse().expect("sound")
}

fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).expect("there")
}

#[tokio::test]
async fn a_model_into_the_usual_cache() {
    let test = TestHub::start().await;
    let folder = test.hub().model(&repo()).await.expect("comes");
    let base = BaseModel::load(&folder).expect("loads");
    assert_eq!(base.digest(), fixture::base(&tiny()).digest());

    let root = test.cache.path().join("models--owner--tiny");
    assert_eq!(folder, root.join("snapshots").join(COMMIT));
    assert_eq!(text_of(&root.join("refs/main")), COMMIT);
    let weights = fixture::weights(&tiny(), 1);
    let blob = root.join("blobs").join(sha256(&weights));
    assert_eq!(std::fs::read(&blob).expect("there"), weights);
    let config = tiny().to_json().to_string();
    assert_eq!(text_of(&root.join("blobs").join(git(config.as_bytes()))), config);
    assert_eq!(std::fs::read_dir(root.join("blobs")).expect("there").count(), 3);
    if cfg!(unix) {
        let link = std::fs::read_link(folder.join(WEIGHTS)).expect("a link");
        assert_eq!(link, Path::new(&format!("../../blobs/{}", sha256(&weights))));
    }

    let seen = test.seen();
    assert_eq!(seen.len(), 7, "three HEADs, three GETs, one of them sent on: {seen:#?}");
    assert!(seen[0].starts_with("head /owner/tiny/resolve/main/config.json "), "{}", seen[0]);
    assert!(seen[6].starts_with("get /model.safetensors "), "{}", seen[6]);
    for (at, request) in seen.iter().enumerate() {
        assert_eq!(request.contains("authorization: bearer secret"), at < 6, "{request}");
        assert_eq!(request.contains(COMMIT), (1..6).contains(&at), "{request}");
    }
    assert!(!format!("{:?}", test.hub()).contains("secret"));

    test.hub().model(&repo()).await.expect("again");
    let seen = test.seen();
    assert!(seen.len() == 1 && seen[0].starts_with("head "), "{seen:#?}");
    test.hub().model(&repo().at(COMMIT).expect("a commit")).await.expect("by commit");
    assert!(test.seen().is_empty(), "a commit never changes");
}

#[tokio::test]
async fn offline() {
    let test = TestHub::start().await;
    let hub = || test.hub().offline(true);
    match hub().model(&repo()).await {
        Err(HubError::Offline { file, .. }) => assert_eq!(file, "config.json"),
        other => panic!("{other:?}"),
    }
    let folder = test.hub().model(&repo()).await.expect("comes");
    test.seen();
    assert_eq!(hub().model(&repo()).await.expect("cached"), folder);
    let file = hub().file(&repo(), WEIGHTS).await.expect("cached");
    assert_eq!(file, folder.join(WEIGHTS));
    let other = hub().model(&repo().at("v2").expect("a tag")).await;
    assert!(matches!(other, Err(HubError::Offline { .. })), "{other:?}");
    std::fs::remove_file(std::fs::canonicalize(&file).expect("there")).expect("removed");
    let gone = hub().file(&repo(), WEIGHTS).await;
    assert!(matches!(gone, Err(HubError::Offline { .. })), "{gone:?}");
    assert!(test.seen().is_empty());
    // Its link is there, its blob is not.
    test.hub().model(&repo()).await.expect("mended");
}

#[tokio::test]
async fn a_cut_download_goes_on() {
    let test = TestHub::start().await;
    let weights = fixture::weights(&tiny(), 1);
    test.change(|shelf| shelf.cuts = vec![1000, 500]);
    let file = test.hub().file(&repo(), WEIGHTS).await.expect("comes");
    assert_eq!(std::fs::read(file).expect("there"), weights);
    let ranges: Vec<bool> = ["get /model", "range: bytes=1000-", "range: bytes=1500-"]
        .map(|want| test.shelf.lock().expect("whole").seen.iter().any(|seen| seen.contains(want)))
        .into();
    assert_eq!(ranges, [true; 3], "{:#?}", test.seen());

    // Cut for good, then by another process.
    let test = TestHub::start().await;
    test.change(|shelf| shelf.cuts = vec![700, 0, 0, 0]);
    let refused = test.hub().file(&repo(), WEIGHTS).await;
    assert!(matches!(refused, Err(HubError::Unreachable { .. })), "{refused:?}");
    test.seen();
    let file = test.hub().file(&repo(), WEIGHTS).await.expect("comes");
    assert_eq!(std::fs::read(file).expect("there"), weights);
    assert!(test.seen().iter().any(|seen| seen.contains("range: bytes=700-")));

    // A hub that knows no ranges sends all of it again.
    let test = TestHub::start().await;
    test.change(|shelf| (shelf.cuts, shelf.whole_only) = (vec![700], true));
    let file = test.hub().file(&repo(), WEIGHTS).await.expect("comes");
    assert_eq!(std::fs::read(file).expect("there"), weights);
}

#[tokio::test]
async fn other_bytes_than_named() {
    let test = TestHub::start().await;
    for file in [WEIGHTS, "config.json"] {
        test.change(|shelf| shelf.corrupt = true);
        let refused = test.hub().file(&repo(), file).await;
        assert!(matches!(refused, Err(HubError::Digest { .. })), "{refused:?}");
        let blobs = test.cache.path().join("models--owner--tiny/blobs");
        let left = std::fs::read_dir(&blobs).expect("there").count();
        assert_eq!(left, usize::from(file != WEIGHTS), "what is wrong is gone");
        test.change(|shelf| shelf.corrupt = false);
        test.hub().file(&repo(), file).await.expect("comes");
    }
    // What others left there, too long and wrong.
    let test = TestHub::start().await;
    let weights = fixture::weights(&tiny(), 1);
    let blobs = test.cache.path().join("models--owner--tiny/blobs");
    std::fs::create_dir_all(&blobs).expect("made");
    let incomplete = blobs.join(format!("{}.incomplete", sha256(&weights)));
    std::fs::write(&incomplete, vec![0; weights.len() + 1]).expect("written");
    let file = test.hub().file(&repo(), WEIGHTS).await.expect("comes");
    assert_eq!(std::fs::read(file).expect("there"), weights);
    assert!(!incomplete.exists());
}

#[tokio::test]
async fn answers_that_lead_elsewhere() {
    let test = TestHub::start().await;
    let tell = |name, value: &str| {
        test.change(|shelf| shelf.headers = HashMap::from([(name, value.to_owned())]));
    };
    for (name, value, header) in [
        ("x-linked-etag", "\"../../../../evil\"", "ETag"),
        ("x-linked-etag", "\"0123\"", "ETag"),
        ("x-repo-commit", "../../evil", "X-Repo-Commit"),
        ("x-linked-size", "-1", "X-Linked-Size"),
    ] {
        tell(name, value);
        match test.hub().file(&repo(), WEIGHTS).await {
            Err(HubError::Malformed { header: found, .. }) => assert_eq!(found, header),
            other => panic!("{name}: {other:?}"),
        }
    }
    for (size, more, whole_only) in
        [("10", true, false), ("10000000", false, false), ("10000000", false, true)]
    {
        tell("x-linked-size", size);
        test.change(|shelf| shelf.whole_only = whole_only);
        match test.hub().file(&repo(), WEIGHTS).await {
            Err(HubError::Length { expected, found, .. }) => assert_eq!(found > expected, more),
            other => panic!("{size}: {other:?}"),
        }
    }
    let refused = test.hub().file(&repo(), "../../etc/passwd").await;
    assert!(matches!(refused, Err(HubError::Name(_))), "{refused:?}");
}

#[tokio::test]
async fn refusals_are_named() {
    let test = TestHub::start().await;
    match test.hub().file(&repo(), "model.gguf").await {
        Err(HubError::Missing { file, code, .. }) => {
            assert_eq!((file.as_str(), code.as_str()), ("model.gguf", "EntryNotFound"));
        }
        other => panic!("{other:?}"),
    }
    test.change(|shelf| shelf.refusal = Some((401, "RepoNotFound")));
    let refused = test.hub().model(&repo()).await;
    assert!(matches!(refused, Err(HubError::Missing { .. })), "{refused:?}");
    test.change(|shelf| shelf.refusal = Some((403, "GatedRepo")));
    let refused = test.hub().model(&repo()).await;
    assert!(matches!(refused, Err(HubError::Refused { status: 403, .. })), "{refused:?}");
    test.change(|shelf| shelf.refusal = Some((503, "")));
    let refused = test.hub().model(&repo()).await;
    assert!(matches!(refused, Err(HubError::Status { status: 503, .. })), "{refused:?}");
    let nobody = Hub::new("http://127.0.0.1:1", test.cache.path()).expect("sound");
    let refused = nobody.model(&repo()).await;
    assert!(matches!(refused, Err(HubError::Unreachable { .. })), "{refused:?}");
}

/// A repository of a new name answers to the old one, and only this hub is shown the token.
#[tokio::test]
async fn a_renamed_repository() {
    let test = TestHub::start().await;
    let folder = test.hub().model(&Repo::new("owner/old").expect("sound")).await.expect("comes");
    assert!(folder.starts_with(test.cache.path().join("models--owner--old")));
    BaseModel::load(&folder).expect("loads");
    let seen = test.seen();
    assert!(seen[1].starts_with("head /owner/tiny/resolve/main/config.json "), "{}", seen[1]);
    assert!(seen[1].contains("bearer secret"), "{}", seen[1]);
    assert!(!seen.last().expect("some").contains("bearer"), "{seen:#?}");
}

/// Two at once: one downloads, the other waits for it.
#[tokio::test]
async fn one_download_for_two() {
    let test = TestHub::start().await;
    let (one, two) = (test.hub(), test.hub());
    let repo = repo();
    let (one, two) = tokio::join!(one.file(&repo, WEIGHTS), two.file(&repo, WEIGHTS));
    assert_eq!(one.expect("comes"), two.expect("comes"));
    let gets = test.seen().iter().filter(|seen| seen.starts_with("get /model")).count();
    assert_eq!(gets, 1);
}

/// `git hash-object` and `sha256sum` of `hello` and a line's end.
#[test]
fn digests_are_gits_and_sha256() {
    let hub = |etag: &str| Etag::parse(etag).expect("a digest");
    let dir = tempfile::tempdir().expect("a folder");
    let cache = Cache::new(dir.path(), &repo());
    for etag in [
        "\"ce013625030ba8dba906f756967f9e9ca394464a\"",
        "W/\"5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03\"",
    ] {
        let etag = hub(etag);
        let path = cache.incomplete(&etag);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, "hello\n").expect("written");
        cache.finish("hello", &etag, 6).expect("the same");
        assert_eq!(text_of(&cache.blob(&etag)), "hello\n");
    }
}

#[test]
fn the_environment() {
    let hub = |vars: &[(&str, &str)]| {
        let vars: HashMap<String, OsString> =
            vars.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
        Hub::from_vars(&|name| vars.get(name).cloned())
    };
    let dir = tempfile::tempdir().expect("a folder");
    let home = dir.path().to_str().expect("text");
    let plain = hub(&[("HOME", home)]).expect("sound");
    assert_eq!(plain.cache, dir.path().join(".cache/huggingface/hub"));
    assert_eq!((plain.endpoint.as_str(), plain.offline), ("https://huggingface.co/", false));
    assert_eq!(plain.token, None);
    std::fs::write(dir.path().join("token"), "from-file\n").expect("written");
    let set = hub(&[
        ("HOME", "/nowhere"),
        ("HF_HOME", home),
        ("HF_ENDPOINT", "http://localhost:1/mirror/"),
        ("HF_HUB_OFFLINE", "true"),
    ])
    .expect("sound");
    assert_eq!(set.cache, dir.path().join("hub"));
    assert_eq!((set.token.as_deref(), set.offline), (Some("from-file"), true));
    let url = set.url(&repo().at("refs/pr/1").expect("sound"), "a/b.gguf");
    assert_eq!(url.as_str(), "http://localhost:1/mirror/owner/tiny/resolve/refs%2Fpr%2F1/a/b.gguf");
    let set = hub(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", home), ("HF_TOKEN", "t")]).expect("sound");
    assert_eq!((set.cache.as_path(), set.token.as_deref()), (Path::new("/c"), Some("t")));
    assert!(matches!(hub(&[]), Err(HubError::NoCache)));
    for bad in ["ftp://x", "hub", "file:///x"] {
        let refused = hub(&[("HOME", home), ("HF_ENDPOINT", bad)]);
        assert!(matches!(refused, Err(HubError::Endpoint(_))), "{bad}");
    }
}
