//! The client against an aggregator that answers as each test says.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{FrameError, Snapshot, Terms};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::inclusion::{Inclusion, Tree, TreeHead, leaf};
use gossamer_protocol::manifest::{MANIFEST_VERSION, Manifest, Reference};
use gossamer_protocol::message::{
    Answer, Assignment, CheckIn, Enrolled, Enrolment, JoinToken, RECORD_VERSION, Receipt, Record,
    Signed, accepted_digest,
};
use gossamer_protocol::problem::{Problem, ProblemType};
use gossamer_protocol::sign::{Purpose, SigningKey};
use gossamer_protocol::sparse::{Sparse, Support};

use super::{Builder, Client, ClientError, Event, Outcome, Shared};
use crate::data::{Batch, Plan, TaskError, TextDataset, TrainingTask};
use crate::model::llama::tests::tiny;
use crate::model::{BaseModel, fixture};
use crate::train::Control;
use crate::transport::retry::Backoff;
use crate::transport::{Slot, Transport, TransportError};
use crate::verify::VerifyError;

/// An aggregator of one run that follows a script.
pub(super) struct Script {
    key: SigningKey,
    manifest: Vec<u8>,
    snapshot: Vec<u8>,
    /// Answers to check-ins; afterwards the run is over.
    answers: Mutex<VecDeque<Answer>>,
    /// Refusals of uploads; afterwards each is taken.
    refusals: Mutex<VecDeque<ProblemType>>,
    /// Where a download breaks off, once.
    breaks_at: Mutex<Option<u64>>,
    /// What was asked of the snapshot.
    ranges: Mutex<Vec<Range<u64>>>,
    pub(super) check_ins: AtomicU32,
    manifests: AtomicU32,
    /// Frames that were taken.
    pub(super) uploads: Mutex<Vec<Bytes>>,
    /// What was given for them.
    receipts: Mutex<Vec<Vec<u8>>>,
    /// Whether the first of them is not counted.
    forgets: AtomicBool,
}

impl Script {
    pub(super) fn new(
        manifest: &Manifest,
        answers: impl FnOnce(&Assignment) -> Vec<Answer>,
    ) -> Arc<Self> {
        Self::of_round(manifest, RoundId(0), answers)
    }

    /// The snapshot is made for `frame_round`, the record says that it is round 0's.
    fn of_round(
        manifest: &Manifest,
        frame_round: RoundId,
        answers: impl FnOnce(&Assignment) -> Vec<Answer>,
    ) -> Arc<Self> {
        let bytes = manifest.to_bytes().expect("sound");
        let n = manifest.layout.n();
        let run = RunId::of(Digest::of(&bytes));
        let snapshot = Snapshot {
            run,
            round: frame_round,
            reference: Reference::Change,
            values: Sparse::new(n, Support::All, vec![0.0; n]).expect("whole"),
        };
        let terms = Terms::new(manifest, run, frame_round);
        let mut script = Self {
            key: SigningKey::from_seed(&[1; 32]),
            manifest: bytes,
            snapshot: snapshot.encode(&terms).expect("zeros may travel"),
            answers: Mutex::default(),
            refusals: Mutex::default(),
            breaks_at: Mutex::default(),
            ranges: Mutex::default(),
            check_ins: AtomicU32::new(0),
            manifests: AtomicU32::new(0),
            uploads: Mutex::default(),
            receipts: Mutex::default(),
            forgets: AtomicBool::new(false),
        };
        script.answers = Mutex::new(answers(&script.assignment()).into());
        Arc::new(script)
    }

    pub(super) fn assignment(&self) -> Assignment {
        Assignment {
            run: RunId::of(Digest::of(&self.manifest)),
            round: RoundId(0),
            attempt: Attempt(0),
            snapshot: Digest::of(&self.snapshot),
            snapshot_bytes: self.snapshot.len() as u64,
            deadline_ms: 60_000,
        }
    }

    fn refuse(&self, problems: &[ProblemType]) {
        self.refusals.lock().expect("no panic").extend(problems);
    }

    pub(super) fn builder(self: &Arc<Self>, base: &BaseModel) -> Builder {
        let token =
            JoinToken { secret: "s".into(), server_key: self.key.public(), ca: None }.encode();
        let backoff = Backoff { first: Duration::ZERO, longest: Duration::ZERO, tries: 2 };
        Client::builder("scripted")
            .token(token)
            .identity([7; 32])
            .base(base.clone())
            .backoff(backoff)
            .transport(Box::new(Way(self.clone())))
    }
}

struct Way(Arc<Script>);

#[async_trait::async_trait]
impl Transport for Way {
    async fn enrol(&self, enrolment: &Enrolment) -> Result<Enrolled, TransportError> {
        Ok(Enrolled { client: ClientId::of(&enrolment.public_key.0) })
    }

    async fn check_in(&self, _: &CheckIn) -> Result<Answer, TransportError> {
        self.0.check_ins.fetch_add(1, Ordering::Relaxed);
        let next = self.0.answers.lock().expect("no panic").pop_front();
        Ok(next.unwrap_or(Answer::Over { reason: "scripted".into() }))
    }

    async fn manifest(&self, _: RunId) -> Result<Signed, TransportError> {
        self.0.manifests.fetch_add(1, Ordering::Relaxed);
        Ok(Signed::new(&self.0.key, Purpose::Manifest, self.0.manifest.clone()))
    }

    async fn record(&self, run: RunId, round: RoundId) -> Result<Signed, TransportError> {
        let record = Record {
            version: RECORD_VERSION,
            run,
            round,
            parent: None,
            manifest: Digest::of(&self.0.manifest),
            snapshot: Digest::of(&self.0.snapshot),
            snapshot_bytes: self.0.snapshot.len() as u64,
            state: Digest::of(b"state"),
            attempt: Attempt(0),
            accepted: if round == RoundId(0) { 0 } else { self.counted().len() as u32 },
            accepted_set: accepted_digest(&[].into()),
            staleness: Vec::new(),
        };
        let bytes = serde_json::to_vec(&record).expect("JSON");
        Ok(Signed::new(&self.0.key, Purpose::Record, bytes))
    }

    async fn object(
        &self,
        _: RunId,
        _: Digest,
        range: Range<u64>,
    ) -> Result<Bytes, TransportError> {
        let mut breaks_at = self.0.breaks_at.lock().expect("no panic");
        if breaks_at.is_some_and(|at| at == range.start) {
            *breaks_at = None;
            return Err(TransportError::Malformed("cut off".into()));
        }
        self.0.ranges.lock().expect("no panic").push(range.clone());
        Ok(Bytes::copy_from_slice(&self.0.snapshot[range.start as usize..range.end as usize]))
    }

    async fn difference(
        &self,
        _: RunId,
        _: RoundId,
        _: RoundId,
        _: u64,
    ) -> Result<Bytes, TransportError> {
        Err(TransportError::Malformed("not scripted".into()))
    }

    async fn upload(&self, slot: &Slot, frame: &Bytes) -> Result<Signed, TransportError> {
        if let Some(kind) = self.0.refusals.lock().expect("no panic").pop_front() {
            let (title, detail) = (kind.title().into(), "scripted".into());
            let problem = Problem { kind, title, status: 400, detail, retry_ms: Some(1) };
            return Err(TransportError::Refused(problem));
        }
        self.0.uploads.lock().expect("no panic").push(frame.clone());
        let Slot { run, round, attempt, client } = *slot;
        let receipt = Receipt { run, round, attempt, client, update: Digest::of(frame) };
        let bytes = serde_json::to_vec(&receipt).expect("JSON");
        self.0.receipts.lock().expect("no panic").push(bytes.clone());
        Ok(Signed::new(&self.0.key, Purpose::Receipt, bytes))
    }

    async fn inclusion(&self, run: RunId, round: RoundId) -> Result<Inclusion, TransportError> {
        let counted = self.counted();
        let tree = Tree::new(counted.iter().map(|receipt| leaf(receipt)).collect());
        let record = Digest::of(&self.record(run, round.next()).await?.bytes);
        let head = TreeHead { run, round, record, size: tree.size(), root: tree.root() };
        let (signature, path) = (head.sign(&self.0.key), tree.path(0).expect("one"));
        Ok(Inclusion { head, signature, index: 0, path })
    }
}

impl Way {
    /// The receipts that it counts: where it lies, another's in place of the first.
    fn counted(&self) -> Vec<Vec<u8>> {
        let mut receipts = self.0.receipts.lock().expect("no panic").clone();
        if self.0.forgets.load(Ordering::Relaxed) {
            receipts[0] = b"another's".to_vec();
        }
        receipts
    }
}

pub(super) fn setting() -> (BaseModel, Manifest, Arc<dyn TrainingTask>) {
    let base = fixture::base(&tiny());
    let manifest = fixture::manifest(&base, &["q_proj"], false);
    let task = TextDataset::new(&base, &["w5 w6 w7 w8 w9".to_owned()]).expect("text");
    (base, manifest, Arc::new(task))
}

/// Counts what `pick` finds.
fn counting(
    builder: Builder,
    pick: impl Fn(&Event<'_>) -> bool + Send + Sync + 'static,
) -> (Builder, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    let builder = builder.watch(Arc::new(move |event| {
        counted.fetch_add(u32::from(pick(event)), Ordering::Relaxed);
        Control::Continue
    }));
    (builder, count)
}

pub(super) fn train(times: usize) -> impl FnOnce(&Assignment) -> Vec<Answer> {
    move |assignment| vec![Answer::Train(assignment.clone()); times]
}

#[tokio::test]
async fn what_is_delivered_is_proven_to_be_counted_where_that_is_asked_for() {
    let (base, manifest, task) = setting();
    let included =
        |event: &Event<'_>| matches!(event, Event::Included { round: RoundId(0), updates: 1 });
    let script = Script::new(&manifest, train(1));
    let (builder, told) = counting(script.builder(&base).prove_inclusion(), included);
    let client = builder.connect().await.expect("enrols");
    assert_eq!(client.run(&task).await.expect("is over"), 1);
    assert_eq!(told.load(Ordering::Relaxed), 1);

    let script = Script::new(&manifest, train(1));
    script.forgets.store(true, Ordering::Relaxed);
    let (builder, told) = counting(script.builder(&base).prove_inclusion(), included);
    let client = builder.connect().await.expect("enrols");
    let refused = client.run(&task).await.expect_err("it is not in there");
    let lie = matches!(refused, ClientError::Verify(VerifyError::NotIncluded { .. }));
    assert!(lie, "{refused:?}");
    assert_eq!(told.load(Ordering::Relaxed), 0);

    let script = Script::new(&manifest, train(1));
    script.forgets.store(true, Ordering::Relaxed);
    let client = script.builder(&base).connect().await.expect("enrols");
    assert_eq!(client.run(&task).await.expect("does not ask"), 1);
}

#[tokio::test]
async fn a_run_that_ends_while_a_client_trains_is_over() {
    let (base, manifest, task) = setting();
    let script = Script::new(&manifest, train(1));
    script.refuse(&[ProblemType::RunOver]);
    let (builder, told) =
        counting(script.builder(&base), |event| matches!(event, Event::Abandoned { .. }));
    let client = builder.connect().await.expect("enrols");
    assert_eq!(client.run(&task).await.expect("is over"), 0);
    assert_eq!(told.load(Ordering::Relaxed), 1, "told as abandoned");
}

#[tokio::test]
async fn being_late_ends_no_client_and_other_losses_do() {
    let (base, manifest, task) = setting();
    let late = Script::new(&manifest, train(5));
    late.refuse(&[ProblemType::StaleRound; 4]);
    let client = late.builder(&base).connect().await.expect("enrols");
    assert_eq!(client.run(&task).await.expect("goes on"), 1);

    let lost = Script::new(&manifest, train(5));
    lost.refuse(&[ProblemType::Conflict; 4]);
    let client = lost.builder(&base).connect().await.expect("enrols");
    let given_up = client.run(&task).await.expect_err("three in a row");
    assert!(matches!(given_up, ClientError::Transport(_)), "{given_up:?}");
    assert_eq!(lost.check_ins.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_busy_aggregator_loses_no_work_and_a_closed_round_does() {
    let (base, mut manifest, task) = setting();
    manifest.training.steps = 1;
    for (refusal, trainings) in [(ProblemType::Busy, 1), (ProblemType::StaleRound, 2)] {
        let script = Script::new(&manifest, train(2));
        script.refuse(if refusal == ProblemType::Busy {
            &[ProblemType::Busy; 2]
        } else {
            &[ProblemType::StaleRound]
        });
        let (builder, trained) =
            counting(script.builder(&base), |event| matches!(event, Event::Training(_)));
        let client = builder.connect().await.expect("enrols");
        client.step(&task).await.expect_err("refused at every try");
        let outcome = client.step(&task).await.expect("taken");
        assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
        assert_eq!(trained.load(Ordering::Relaxed), trainings, "{refusal:?}");
    }
}

#[tokio::test]
async fn only_the_run_asked_for_is_trained() {
    let (base, manifest, task) = setting();
    let script = Script::new(&manifest, train(1));
    let client = script.builder(&base).only_run(RunId([9; 16])).connect().await.expect("enrols");
    let refused = client.step(&task).await.expect_err("another run");
    let ClientError::Verify(VerifyError::Other { what: "assignment", field: "run" }) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(script.manifests.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_snapshot_of_another_round_is_refused() {
    let (base, mut manifest, task) = setting();
    for version in 1..=MANIFEST_VERSION {
        manifest.version = version;
        let script = Script::of_round(&manifest, RoundId(1), train(1));
        let client = script.builder(&base).connect().await.expect("enrols");
        let refused = client.step(&task).await.expect_err("another round's");
        let ClientError::Snapshot(frame) = refused else { panic!("{refused:?}") };
        // A version 1 frame says which it is of.
        let named = matches!(frame, FrameError::Address { field: "round", .. });
        let expected = if version == 1 { named } else { frame == FrameError::Digest };
        assert!(expected, "version {version}: {frame:?}");
    }
}

/// A snapshot of several pieces: what arrived is not asked for again, unless it is not what it was.
#[tokio::test]
async fn a_broken_download_is_resumed() {
    const MIB: u64 = 1 << 20;
    let (base, mut manifest, task) = setting();
    manifest.lora.rank = 12_000;
    let targets = ["q_proj".to_owned()];
    let layout = gossamer_protocol::layout::Layout::lora(&base.linears(), &targets, 12_000, false);
    manifest.layout = layout.expect("a layout");
    let script = Script::new(&manifest, train(4));
    let len = script.snapshot.len() as u64;
    assert!(len > 2 * MIB && len < 3 * MIB);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let step = async || {
        let builder = script.builder(&base).state_dir(dir.path());
        let stop: super::Watch = Arc::new(|event| match event {
            Event::Downloaded { .. } => Control::Stop,
            _ => Control::Continue,
        });
        let client = builder.watch(stop).connect().await.expect("enrols");
        let ended = client.step(&task).await.expect_err("is stopped or cut off");
        let asked = std::mem::take(&mut *script.ranges.lock().expect("no panic"));
        (matches!(ended, ClientError::Stopped), asked.into_iter().map(|r| r.start).collect())
    };
    let cut = |at| *script.breaks_at.lock().expect("no panic") = Some(at);
    cut(2 * MIB);
    assert_eq!(step().await, (false, vec![0, MIB]));
    assert_eq!(step().await, (true, vec![2 * MIB]));

    // The next time the part is damaged before it is used.
    let run = dir.path().join("runs").join(script.assignment().run.to_string());
    std::fs::remove_file(run.join("snapshot")).expect("was whole");
    cut(2 * MIB);
    assert_eq!(step().await, (false, vec![0, MIB]));
    let part = run.join("snapshot.part");
    let mut bytes = std::fs::read(&part).expect("kept");
    bytes[1_000] ^= 1;
    std::fs::write(&part, bytes).expect("writable");
    assert_eq!(step().await, (true, vec![2 * MIB, 0, MIB, 2 * MIB]));
    assert!(!part.exists());
}

/// Slow, and counted.
struct Slow(TextDataset, Arc<AtomicU32>);

impl TrainingTask for Slow {
    fn examples(&self) -> usize {
        1
    }

    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(5));
        self.0.batch(plan, step)
    }
}

#[tokio::test]
async fn a_client_that_is_dropped_trains_no_further() {
    let (base, mut manifest, _) = setting();
    manifest.training.steps = 400;
    let text = TextDataset::new(&base, &["w5 w6 w7".to_owned()]).expect("text");
    let steps = Arc::new(AtomicU32::new(0));
    let task: Arc<dyn TrainingTask> = Arc::new(Slow(text, steps.clone()));
    let client = Script::new(&manifest, train(1)).builder(&base).connect().await.expect("enrols");
    let cut = tokio::time::timeout(Duration::from_millis(100), client.step(&task)).await;
    assert!(cut.is_err(), "{cut:?}");
    assert!(steps.load(Ordering::Relaxed) > 0, "it had begun");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let then = steps.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(steps.load(Ordering::Relaxed), then, "it goes on");
}

#[tokio::test]
async fn a_window_of_nothing_is_no_busy_loop() {
    let (base, manifest, task) = setting();
    let wait = Answer::Wait { retry_ms: 0, reason: "now".into() };
    let script = Script::new(&manifest, |_| vec![wait; 1_000]);
    let client = script.builder(&base).connect().await.expect("enrols");
    let cut = tokio::time::timeout(Duration::from_millis(300), client.run(&task)).await;
    assert!(cut.is_err(), "{cut:?}");
    let asked = script.check_ins.load(Ordering::Relaxed);
    assert!((1..=7).contains(&asked), "{asked} check-ins in 300 ms");
}

#[tokio::test]
async fn clients_of_one_process_share_a_manifest_that_each_fetched() {
    let (base, manifest, task) = setting();
    let script = Script::new(&manifest, train(2));
    let shared = Arc::new(Shared::default());
    let mut held = Vec::new();
    for seed in [1, 2] {
        let builder = script.builder(&base).identity([seed; 32]).shared(shared.clone());
        let client = builder.connect().await.expect("enrols");
        client.step(&task).await.expect("delivers");
        let terms = client.terms.lock().expect("no panic");
        held.push(terms.values().next().expect("one run").clone());
    }
    assert!(Arc::ptr_eq(&held[0], &held[1]));
    assert_eq!(script.manifests.load(Ordering::Relaxed), 2);
}
