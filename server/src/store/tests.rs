use super::staging::{Key, Staged};
use super::*;
use crate::project::ProjectName;
use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::problem::ProblemType;

fn note(at: crate::clock::Timestamp) -> crate::audit::Note {
    let event = crate::audit::Event::TokensMade { count: 1, quota: 1, expires_ms: 1 };
    crate::audit::Note { at, actor: crate::audit::Actor::Local, project: None, event }
}

async fn stores() -> (tempfile::TempDir, [Store; 2]) {
    let dir = tempfile::tempdir().expect("a directory");
    let local = Store::create(dir.path()).await.expect("a store");
    (dir, [local, Store::in_memory().await.expect("a store")])
}

#[tokio::test]
async fn objects_come_back_whole_or_not_at_all() {
    let (dir, stores) = stores().await;
    for store in &stores {
        let objects = store.objects();
        let digest = objects.put(Kind::State, "bytes".into()).await.expect("kept");
        assert_eq!(objects.put(Kind::State, "bytes".into()).await.expect("again"), digest);
        assert_eq!(objects.get(Kind::State, digest).await.expect("there"), "bytes");
        let other_kind = objects.get(Kind::Snapshot, digest).await;
        assert!(matches!(other_kind, Err(StoreError::Missing(_))));
        objects.drop(Kind::State, digest).await.expect("dropped");
        objects.drop(Kind::State, digest).await.expect("again");
        assert!(matches!(objects.get(Kind::State, digest).await, Err(StoreError::Missing(_))));
    }
    let digest = stores[0].objects().put(Kind::State, "bytes".into()).await.expect("kept");
    let name = digest.to_string();
    let file = dir.path().join("objects/states").join(&name[..2]).join(&name);
    std::fs::write(file, "bytez").expect("damaged");
    let damaged = stores[0].objects().get(Kind::State, digest).await;
    assert!(matches!(damaged, Err(StoreError::Damaged(d)) if d == digest));
}

#[tokio::test]
async fn one_upload_a_client_and_run_is_staged() {
    let (_dir, stores) = stores().await;
    for store in &stores {
        let staging = store.staging();
        let key = |round, name: &[u8]| Key {
            run: RunId([1; 16]),
            client: ClientId([2; 16]),
            round: RoundId(round),
            digest: Digest::of(name),
        };
        let (a, b) = (key(0, b"a"), key(0, b"b"));
        assert_eq!(
            staging.append(&a, 0, Bytes::from_static(b"012"), 6).await.expect("kept"),
            Staged::Partly(3)
        );
        assert_eq!(
            staging.append(&a, 2, Bytes::from_static(b"2"), 6).await.expect("told"),
            Staged::Elsewhere(3)
        );
        assert_eq!(
            staging.append(&b, 0, Bytes::from_static(b"xy"), 6).await.expect("kept"),
            Staged::Partly(2)
        );
        assert_eq!(staging.offset(&a).await.expect("told"), 0, "the other one took its place");
        let whole = staging.append(&b, 2, Bytes::from_static(b"zzzz"), 6).await.expect("kept");
        assert_eq!(whole, Staged::Whole(b"xyzzzz".to_vec()));
        assert_eq!(staging.offset(&b).await.expect("told"), 0, "handed over");

        staging.append(&key(1, b"c"), 0, Bytes::from_static(b"1"), 6).await.expect("kept");
        let elsewhere = Key { client: ClientId([3; 16]), ..a };
        staging.append(&elsewhere, 0, Bytes::from_static(b"1"), 6).await.expect("kept");
        staging.drop_before(RunId([1; 16]), RoundId(1)).await.expect("dropped");
        assert_eq!(staging.offset(&key(1, b"c")).await.expect("told"), 1);
        assert_eq!(staging.offset(&elsewhere).await.expect("told"), 0);
    }
}

#[tokio::test]
async fn a_directory_without_a_store_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = Store::open(dir.path()).await.expect_err("nothing there");
    assert!(matches!(missing, StoreError::NoStore(_)));
    assert!(missing.to_string().contains("init"), "{missing}");
}

#[test]
fn no_space_is_known_however_deep_it_lies() {
    use std::io::{Error, ErrorKind};
    let full = || Error::from(ErrorKind::StorageFull);
    let wrapped = Error::other(object_store::Error::Generic {
        store: "LocalFileSystem",
        source: Box::new(full()),
    });
    let generic = |source| object_store::Error::Generic { store: "LocalFileSystem", source };
    for error in [
        StoreError::from(full()),
        StoreError::from(generic(Box::new(full()))),
        StoreError::from(generic(Box::new(wrapped))),
        StoreError::from(Error::from(ErrorKind::QuotaExceeded)),
    ] {
        assert_eq!(error.problem(), ProblemType::StoreFull, "{error:?}");
    }
    let other = StoreError::from(generic(Box::new(Error::from(ErrorKind::PermissionDenied))));
    assert_eq!(other.problem(), ProblemType::Internal);
}

/// The command line writes beside the server, and both wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_write_and_neither_is_told_busy() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = Store::create(dir.path()).await.expect("a store");
    let second = Store::open(dir.path()).await.expect("the same");
    let mut writing = tokio::task::JoinSet::new();
    for (n, store) in [first.clone(), second.clone(), first.clone(), second].into_iter().enumerate()
    {
        writing.spawn(async move {
            let now = crate::clock::Timestamp(1);
            for i in 0..40_u8 {
                if n < 2 {
                    let (hash, project) = (Digest::of(&[n as u8, i]), ProjectName::default());
                    store.add_tokens(&[hash], &project, 1, now, &note(now)).await?;
                } else {
                    store.use_nonce(ClientId([n as u8; 16]), &[i; 16], now).await?;
                    store.set_alive(now).await?;
                }
            }
            Ok::<_, StoreError>(())
        });
    }
    while let Some(done) = writing.join_next().await {
        done.expect("no panic").expect("each waits for the others");
    }
    let there = first.token_project(Digest::of(&[1, 39])).await.expect("told");
    assert_eq!(there, Some(ProjectName::default()));
}

/// Two that want the same parts: each gets its own, and whoever's lease is over has folded in vain.
#[tokio::test]
async fn a_lease_is_one_process_s_and_ends() {
    use crate::clock::Timestamp;
    let postgres = Database::postgres(&gossamer_services::postgres().database()).await;
    let postgres = postgres.expect("a database");
    let postgres = Store::with(postgres, Objects::in_memory(), Staging::in_memory());
    for store in [Store::in_memory().await.expect("a store"), postgres] {
        let (run, round) = (RunId([1; 16]), RoundId(3));
        transact!(store, |tx| folds::split(tx, run, round, 5, 2).await).expect("split");
        let lease = async |name: u8, now: u64| {
            let (now, until) = (Timestamp(now), Timestamp(now + 10));
            let leased = store.lease(run, round, &[name; 16], now, until).await.expect("told");
            leased.map(|part| (part.part, part.start, part.length))
        };
        assert_eq!(lease(1, 100).await, Some((0, 0, 2)));
        assert_eq!(lease(2, 101).await, Some((1, 2, 2)));
        assert_eq!(lease(1, 102).await, Some((2, 4, 1)));
        assert_eq!(lease(3, 109).await, None, "all are at work");
        let folded = async |name: u8, part: u64, sum: &[u8]| {
            let sum = Digest::of(sum);
            store.folded(run, round, part, &[name; 16], sum).await.expect("told")
        };
        assert!(folded(1, 2, b"c").await);
        assert!(!folded(1, 2, b"d").await, "once");
        // 1 slept over the end of its lease of part 0; 3 has it now.
        assert_eq!(lease(3, 110).await, Some((0, 0, 2)));
        assert!(!folded(1, 0, b"late").await);
        assert!(folded(3, 0, b"a").await);
        assert!(folded(2, 1, b"b").await);
        assert_eq!(lease(1, 900).await, None, "all are there");
        let sums: Vec<_> = store.folds(run, round).await.expect("told");
        let sums: Vec<_> = sums.iter().map(|part| part.partial).collect();
        assert_eq!(sums, [b"a", b"b", b"c"].map(|sum| Some(Digest::of(sum))));
        assert_eq!(store.merged(run, round).await.expect("told"), []);
        assert_eq!(store.merged(run, RoundId(4)).await.expect("told").len(), 3);
        store.forget_folds(run, RoundId(4)).await.expect("done");
        assert_eq!(store.folds(run, round).await.expect("told"), []);
    }
}

/// A file of the build before stores could be shared: it opens, and who was enrolled is.
#[tokio::test]
async fn a_store_of_the_last_build_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(DATABASE);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.expect("a file");
    let before = database::SQLITE.iter().filter(|migration| migration.version <= 5).cloned();
    let before = sqlx::migrate::Migrator {
        migrations: before.collect::<Vec<_>>().into(),
        ..sqlx::migrate::Migrator::DEFAULT
    };
    before.run(&pool).await.expect("as it was");
    let old = "INSERT INTO clients (id, public_key) VALUES (zeroblob(16), zeroblob(32))";
    sqlx::query(old).execute(&pool).await.expect("enrolled");
    pool.close().await;
    let store = Store::open(dir.path()).await.expect("brought up to date");
    let enrolled = store.enrolled(None).await.expect("told");
    assert_eq!(
        enrolled.iter().map(|(entry, id, _)| (*entry, id.0)).collect::<Vec<_>>(),
        [(0, [0; 16])]
    );
    assert_eq!(store.enrolled(Some(0)).await.expect("told"), [], "no news");
}
