//! No space left: told by its name, nothing lost, and on it goes once there is space again.

mod fixtures;
#[path = "fixtures/https.rs"]
mod https;
#[path = "fixtures/world.rs"]
mod world;

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fixtures::{id, key, manifest};
use futures_util::stream::BoxStream;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::RoundId;
use gossamer_protocol::problem::ProblemType as P;
use gossamer_server::clock::{ManualClock, Timestamp};
use gossamer_server::coordinator::Coordinator;
use gossamer_server::store::objects::DIRECTORY;
use gossamer_server::store::{Places, Store};
use gossamer_server::{clock, setup};
use https::{TestServer, config, problem, update_path};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Name;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use reqwest::Method;
use world::{World, server_key};

/// A directory with no space left for objects whose names start with this.
#[derive(Debug)]
struct Full {
    inner: LocalFileSystem,
    prefix: Mutex<Option<&'static str>>,
}

impl Full {
    fn within(dir: &Path) -> Arc<Self> {
        let inner = LocalFileSystem::new_with_prefix(dir.join(DIRECTORY)).expect("a directory");
        Arc::new(Self { inner, prefix: Mutex::new(None) })
    }

    fn set(&self, prefix: Option<&'static str>) {
        *self.prefix.lock().expect("no panic") = prefix;
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Full")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Full {
    async fn put_opts(&self, at: &Name, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        let prefix = *self.prefix.lock().expect("no panic");
        if prefix.is_some_and(|prefix| at.as_ref().starts_with(prefix)) {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(object_store::Error::Generic { store: "Full", source: Box::new(full) });
        }
        self.inner.put_opts(at, bytes, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Name,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Name, how: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(at, how).await
    }

    async fn get_ranges(&self, at: &Name, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(at, ranges).await
    }

    fn delete_stream(
        &self,
        names: BoxStream<'static, Result<Name>>,
    ) -> BoxStream<'static, Result<Name>> {
        self.inner.delete_stream(names)
    }

    fn list(&self, prefix: Option<&Name>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Name>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Name, to: &Name, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }
}

#[tokio::test]
async fn an_upload_without_space_is_507_and_taken_later() {
    let dir = tempfile::tempdir().expect("a directory");
    setup::init(dir.path(), &[], &config()).await.expect("a directory");
    let disk = Full::within(dir.path());
    let store = Store::open_with(&Places::within(dir.path()), disk.clone()).await.expect("a store");
    let signing = setup::signing_key(dir.path()).expect("a key");
    let clock = Arc::new(clock::SystemClock);
    let coordinator = Coordinator::open(store, signing, clock).await.expect("opens");
    let server = TestServer::over(coordinator, dir.path()).await;
    let manifest = manifest();
    server.enrol(0).await;
    let run = server.operator.create_run(&manifest).await.expect("a run");
    let task = server.task(0).await;
    let snapshot = server.operator.object(run, task.snapshot).await.expect("there");
    let frame = fixtures::frame(&manifest, &task, &snapshot, id(&key(0)));
    let path = update_path(&task, 0);
    let before = server.operator.run(run).await.expect("there");

    disk.set(Some("updates"));
    for _ in 0..2 {
        let answer = server.send(0, Method::PUT, &path, &frame).await;
        assert!(answer.headers().contains_key("retry-after"));
        let full = problem(answer).await;
        assert_eq!((full.kind, full.status), (P::StoreFull, 507));
        assert_eq!(server.operator.run(run).await.expect("there"), before, "nothing changed");
    }
    disk.set(None);

    // Parts wait beside the objects.
    disk.set(Some("staging"));
    let part = server.signed(&key(0), &Method::PATCH, &path, &frame[..50]);
    let part = part.header("upload-digest", Digest::of(&frame).to_string());
    let part = part.header("upload-offset", 0).header("upload-length", frame.len());
    let answer = part.send().await.expect("an answer");
    assert_eq!(problem(answer).await.kind, P::StoreFull);
    assert_eq!(server.operator.run(run).await.expect("there"), before, "nothing changed");
    disk.set(None);

    let answer = server.send(0, Method::PUT, &path, &frame).await;
    assert!(answer.status().is_success(), "{}", answer.status());
    assert_eq!(server.operator.run(run).await.expect("there").accepted, 1);
    server.close().await;
}

#[tokio::test]
async fn a_round_that_cannot_be_stored_closes_later_the_same() {
    let manifest = manifest();
    let undisturbed = {
        let world = World::in_memory().await;
        let run = world.start(&manifest, 3).await;
        world.finish(&manifest, run, &[0, 1]).await
    };
    let dir = tempfile::tempdir().expect("a directory");
    Store::create(dir.path()).await.expect("a store").close().await;
    let disk = Full::within(dir.path());
    let store = Store::open_with(&Places::within(dir.path()), disk.clone()).await.expect("a store");
    let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
    let coordinator = Coordinator::open(store, server_key(), clock.clone()).await.expect("opens");
    let world = World { coordinator, clock };
    let run = world.start(&manifest, 3).await;
    world.tick().await;
    for (round, prefix) in ["states", "snapshots"].into_iter().enumerate() {
        for b in [0, 1] {
            world.work(&manifest, b).await;
        }
        disk.set(Some(prefix));
        for _ in 0..2 {
            let full = world.coordinator.tick().await.expect_err("no space");
            assert_eq!(full.problem_type(), P::StoreFull);
            let view = world.coordinator.run(run).await.expect("there");
            assert_eq!((view.round, view.accepted), (RoundId(round as u64), 2));
        }
        disk.set(None);
        world.tick().await;
    }
    assert_eq!(world.last_record(run).await, undisturbed);
}
