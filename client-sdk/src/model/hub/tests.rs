//! Against a small hub of our own.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;

use super::cache::Etag;
use super::shelf::{COMMIT, TestHub, WEIGHTS, git, sha256};
use super::*;
use crate::model::llama::tests::tiny;
use crate::model::{BaseModel, fixture};

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
