//! What a client does not believe: a server that lies, or someone in between.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use gossamer_client::client::{Client, ClientError, Outcome};
use gossamer_client::model::BaseModel;
use gossamer_client::transport::{Slot, Transport, TransportError};
use gossamer_client::verify::VerifyError;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::message::{Answer, CheckIn, Enrolled, Enrolment, Receipt, Record, Signed};
use gossamer_protocol::sign::{Purpose, SigningKey};
use gossamer_sim::transport::InProcess;
use gossamer_tests::{TestServer, base, identity, manifest, task};

/// What is told in place of the truth.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    None,
    /// The manifest is signed by somebody else.
    Manifest,
    /// The record is of another round.
    Record,
    /// The snapshot's bytes are changed.
    Snapshot,
    /// Only the difference's bytes are changed, not the snapshot's.
    Difference,
    /// The snapshot is shorter than announced.
    Short,
    /// The receipt is for another update.
    Receipt,
    /// The assignment names another snapshot than the record.
    Assignment,
}

struct Liar {
    inner: InProcess,
    lie: Lie,
}

#[async_trait::async_trait]
impl Transport for Liar {
    async fn enrol(&self, enrolment: &Enrolment) -> Result<Enrolled, TransportError> {
        self.inner.enrol(enrolment).await
    }

    async fn check_in(&self, ask: &CheckIn) -> Result<Answer, TransportError> {
        let mut answer = self.inner.check_in(ask).await?;
        if let (Lie::Assignment, Answer::Train(assignment)) = (self.lie, &mut answer) {
            assignment.snapshot = Digest::of(b"other");
        }
        Ok(answer)
    }

    async fn manifest(&self, run: RunId) -> Result<Signed, TransportError> {
        let signed = self.inner.manifest(run).await?;
        if self.lie != Lie::Manifest {
            return Ok(signed);
        }
        Ok(Signed::new(&SigningKey::from_seed(&[9; 32]), Purpose::Manifest, signed.bytes))
    }

    async fn record(&self, run: RunId, round: RoundId) -> Result<Signed, TransportError> {
        let round = if self.lie == Lie::Record { RoundId(round.0 - 1) } else { round };
        self.inner.record(run, round).await
    }

    async fn object(
        &self,
        run: RunId,
        of: Digest,
        range: Range<u64>,
    ) -> Result<Bytes, TransportError> {
        let mut bytes = self.inner.object(run, of, range).await?.to_vec();
        match self.lie {
            Lie::Snapshot => bytes[50] ^= 1,
            Lie::Short => bytes.truncate(10),
            _ => {}
        }
        Ok(bytes.into())
    }

    async fn difference(
        &self,
        run: RunId,
        round: RoundId,
        held: RoundId,
        most: u64,
    ) -> Result<Bytes, TransportError> {
        let mut bytes = self.inner.difference(run, round, held, most).await?.to_vec();
        match self.lie {
            Lie::Snapshot | Lie::Difference => bytes[20] ^= 1,
            Lie::Short => bytes.truncate(10),
            _ => {}
        }
        Ok(bytes.into())
    }

    async fn upload(&self, slot: &Slot, frame: &Bytes) -> Result<Signed, TransportError> {
        let signed = self.inner.upload(slot, frame).await?;
        if self.lie != Lie::Receipt {
            return Ok(signed);
        }
        let mut receipt: Receipt = serde_json::from_slice(&signed.bytes).expect("a receipt");
        receipt.update = Digest::of(b"other");
        let bytes = serde_json::to_vec(&receipt).expect("JSON");
        Ok(Signed { bytes, ..signed })
    }
}

async fn connect(server: &TestServer, n: usize, lie: Lie, base: &BaseModel) -> Client {
    let id = ClientId::of(&SigningKey::from_seed(&identity(n)).public().0);
    let inner = InProcess::new(server.coordinator.clone(), id);
    let builder = server.client(n, base).await.transport(Box::new(Liar { inner, lie }));
    builder.connect().await.expect("enrols")
}

/// Steps until there was something to do.
async fn step(client: &Client, base: &BaseModel) -> Result<Outcome, ClientError> {
    loop {
        match client.step(&task(base, 0)).await {
            Ok(Outcome::Wait { retry, .. }) => tokio::time::sleep(retry).await,
            other => return other,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_is_named_and_nothing_is_sent() {
    let (server, base) = (TestServer::start().await, base());
    let mut terms = manifest(&base, 1, 3);
    terms.cohort.deadline_s = 3600;
    let run = server.coordinator.create_run(&terms).await.expect("sound");
    let honest = connect(&server, 0, Lie::None, &base).await;
    step(&honest, &base).await.expect("round 0");
    drop(honest);

    // The same client again, and each time somebody lies to it in round 1.
    type Expected = fn(&VerifyError) -> bool;
    let cases: [(Lie, Expected); 5] = [
        (Lie::Manifest, |e| matches!(e, VerifyError::Manifest(_))),
        (Lie::Record, |e| matches!(e, VerifyError::Other { what: "record", field: "round" })),
        (Lie::Assignment, |e| matches!(e, VerifyError::Other { field: "snapshot", .. })),
        (Lie::Snapshot, |e| matches!(e, VerifyError::Snapshot)),
        (Lie::Short, |e| matches!(e, VerifyError::Snapshot)),
    ];
    for (lie, expected) in cases {
        let fooled = connect(&server, 0, lie, &base).await;
        match step(&fooled, &base).await {
            Err(ClientError::Verify(error)) => assert!(expected(&error), "{lie:?}: {error:?}"),
            other => panic!("{lie:?}: {other:?}"),
        }
        assert_eq!(fooled.traffic().updates, 0, "{lie:?}");
        assert_eq!(server.coordinator.run(run).await.expect("there").accepted, 0);
    }
    let fooled = connect(&server, 0, Lie::Receipt, &base).await;
    let outcome = step(&fooled, &base).await;
    assert!(
        matches!(&outcome, Err(ClientError::Verify(VerifyError::Signed { what: "receipt", .. }))),
        "{outcome:?}"
    );
    server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_on_another_base_is_refused_before_anything_is_downloaded() {
    let (server, base) = (TestServer::start().await, base());
    let mut terms = manifest(&base, 1, 1);
    terms.base.digest = Digest::of(b"another model");
    server.coordinator.create_run(&terms).await.expect("sound");
    let client = connect(&server, 0, Lie::None, &base).await;
    let refused = step(&client, &base).await;
    assert!(matches!(refused, Err(ClientError::WrongBase { .. })), "{refused:?}");
    assert_eq!(client.traffic().snapshots, 0);
    server.close().await;
}

/// A device keeps its key, its enrolment and its finished update over a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_device_goes_on() {
    let (server, base) = (TestServer::start().await, base());
    server.coordinator.create_run(&manifest(&base, 1, 2)).await.expect("sound");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let builder = || Client::builder(&server.url).state_dir(dir.path()).base(base.clone());
    let refused = builder().connect().await.expect_err("no token yet");
    assert!(matches!(refused, ClientError::NoToken), "{refused:?}");

    // The upload is cut off: the app says stop when the frame is ready.
    let stop_before_upload: gossamer_client::client::Watch = Arc::new(|event| match event {
        gossamer_client::client::Event::Uploading { .. } => gossamer_client::train::Control::Stop,
        _ => gossamer_client::train::Control::Continue,
    });
    let first = builder().token(server.token().await).watch(stop_before_upload);
    let first = first.connect().await.expect("enrols");
    let id = first.id();
    let stopped = step(&first, &base).await;
    assert!(matches!(stopped, Err(ClientError::Stopped)), "{stopped:?}");
    drop(first);

    // Without a token, and without training again: it would hear of it.
    let heard = Arc::new(std::sync::Mutex::new(0));
    let count = heard.clone();
    let second = builder().watch(Arc::new(move |event| {
        if let gossamer_client::client::Event::Training(_) = event {
            *count.lock().expect("no panic") += 1;
        }
        gossamer_client::train::Control::Continue
    }));
    let second = second.connect().await.expect("is enrolled");
    assert_eq!(second.id(), id);
    let outcome = step(&second, &base).await.expect("delivers");
    assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
    assert_eq!(*heard.lock().expect("no panic"), 0, "it trained again");
    assert!(matches!(step(&second, &base).await, Ok(Outcome::Delivered(_))), "round 1");
    assert_eq!(*heard.lock().expect("no panic"), 1);
    server.close().await;
}

/// Who returns gets what changed; a changed difference costs its own bytes and no more.
#[tokio::test(flavor = "multi_thread")]
async fn who_returns_gets_the_difference() {
    let (server, base) = (TestServer::start().await, base());
    let run = server.coordinator.create_run(&manifest(&base, 1, 4)).await.expect("sound");
    let length = async |round| {
        let signed = server.coordinator.record(run, RoundId(round)).await.expect("closed");
        let record: Record = serde_json::from_slice(&signed.bytes).expect("a record");
        record.snapshot_bytes
    };
    let connect = async |lie| match lie {
        // Over HTTPS, as devices go.
        Lie::None => server.client(0, &base).await.connect().await.expect("enrols"),
        lie => connect(&server, 0, lie, &base).await,
    };
    let client = connect(Lie::None).await;
    for _ in 0..2 {
        step(&client, &base).await.expect("takes part");
    }
    // Round 0 starts from nothing held, round 1 from round 0's.
    let (first, second) = (length(0).await, length(1).await);
    let moved = client.traffic().snapshots;
    assert!((first + 1..first + second).contains(&moved), "{moved} of {first} and {second}");

    let fooled = connect(Lie::Difference).await;
    step(&fooled, &base).await.expect("round 2 from the whole snapshot");
    let third = fooled.traffic().snapshots;
    assert_eq!(third, length(2).await, "nothing was held");
    step(&fooled, &base).await.expect("round 3, though somebody lies");
    let (fourth, whole) = (fooled.traffic().snapshots - third, length(3).await);
    assert!((whole + 1..2 * whole).contains(&fourth), "{fourth} for {whole}");
    server.close().await;
}
