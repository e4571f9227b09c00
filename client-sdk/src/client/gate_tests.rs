//! What the app's gate, watcher and task may do to a client: close, stop, fail, panic.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use candle_core::Tensor;
use gossamer_protocol::manifest::{LocalOptimizer, Manifest};
use gossamer_protocol::message::Answer;

use super::gate::{Gate, Need};
use super::tests::{Script, setting, train};
use super::{Builder, ClientError, Event, Outcome, Saving, Threads};
use crate::data::{Batch, Plan, TaskError, TrainingTask};
use crate::model::BaseModel;
use crate::train::{Control, Footprint, Memory, TrainError};

/// Open at some of the times it is asked, by number.
struct Turns<F>(AtomicU32, F);

impl<F: Fn(u32) -> bool + Send + Sync> Gate for Turns<F> {
    fn lacks(&self, _: SystemTime) -> Option<Need> {
        let at = self.0.fetch_add(1, Ordering::Relaxed);
        (!(self.1)(at)).then_some(Need::Cool)
    }

    fn again(&self, _: SystemTime) -> Duration {
        Duration::ZERO
    }
}

fn turns(open: impl Fn(u32) -> bool + Send + Sync + 'static) -> Arc<dyn Gate> {
    Arc::new(Turns(AtomicU32::new(0), open))
}

/// What was told: `p` paused, `r` resumed with its step, `t` a step, `T` trained, `d` delivered, `a` given up.
fn heard(builder: Builder) -> (Builder, Arc<Mutex<Vec<String>>>) {
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = told.clone();
    let builder = builder.watch(Arc::new(move |event| {
        let word = match event {
            Event::Paused { round, .. } => if round.is_some() { "p" } else { "p-" }.to_owned(),
            Event::Resumed { step, .. } => format!("r{step}"),
            Event::Training(_) => "t".to_owned(),
            Event::Trained { .. } => "T".to_owned(),
            Event::Delivered(_) => "d".to_owned(),
            Event::Abandoned { reason, .. } => format!("a: {reason}"),
            _ => return Control::Continue,
        };
        kept.lock().expect("no panic").push(word);
        Control::Continue
    }));
    (builder, told)
}

fn words(told: &Mutex<Vec<String>>) -> String {
    std::mem::take(&mut *told.lock().expect("no panic")).join(" ")
}

fn long() -> (BaseModel, Manifest, Arc<dyn TrainingTask>) {
    let (base, mut manifest, task) = setting();
    manifest.training.steps = 5;
    manifest.lora.dropout = 0.2;
    manifest.training.optimizer = LocalOptimizer::AdamW { lr: 0.01, weight_decay: 0.1 };
    (base, manifest, task)
}

fn frames(script: &Script) -> Vec<Bytes> {
    script.uploads.lock().expect("no panic").clone()
}

/// The frame that nobody disturbed.
async fn calm() -> Bytes {
    calm_of([7; 32]).await
}

async fn calm_of(identity: [u8; 32]) -> Bytes {
    let (base, manifest, task) = long();
    let script = Script::new(&manifest, train(1));
    let client = script.builder(&base).identity(identity).connect().await.expect("enrols");
    client.step(&task).await.expect("delivers");
    frames(&script).remove(0)
}

#[tokio::test]
async fn a_closed_gate_asks_nobody() {
    let (base, manifest, task) = setting();
    let script = Script::new(&manifest, train(1));
    let (builder, told) = heard(script.builder(&base).gate(turns(|at| at >= 3)));
    let client = builder.connect().await.expect("enrols");
    let closed = client.step(&task).await.expect("no failure");
    assert_eq!(closed, Outcome::Closed { need: Need::Cool, retry: Duration::ZERO });
    assert_eq!(script.check_ins.load(Ordering::Relaxed), 0);
    // The second and third time it is told, and waited for.
    assert_eq!(client.run(&task).await.expect("opens"), 1);
    assert_eq!(words(&told), "p- p- t t t T d");
}

/// Asked: once before the check-in, before each of five steps, after the last, before the upload; and
/// where it was closed until it is open, and again before the step.
#[tokio::test]
async fn a_gate_that_closes_pauses_and_changes_no_byte() {
    let expected = calm().await;
    let (base, manifest, task) = long();
    for (closed, story) in [
        (vec![1, 2], "p p t t t t t T d"),
        (vec![3], "t t p r2 t t t T d"),
        (vec![2, 3, 4, 6, 9], "t p p p r1 p r1 t p r2 t t t T d"),
        (vec![6], "t t t t t p r5 T d"),
        (vec![7, 8], "t t t t t T p p d"),
    ] {
        let script = Script::new(&manifest, train(1));
        let shut = closed.clone();
        let (builder, told) =
            heard(script.builder(&base).gate(turns(move |at| !shut.contains(&at))));
        let client = builder.connect().await.expect("enrols");
        let outcome = client.step(&task).await.expect("delivers");
        assert!(matches!(outcome, Outcome::Delivered(_)), "{outcome:?}");
        // One that is saved before its first step is gone on with from there.
        assert_eq!(words(&told).replace("r0 ", ""), story, "closed at {closed:?}");
        assert_eq!(frames(&script)[..], [expected[..].to_owned()], "closed at {closed:?}");
        let name = format!("runs/{}/training", script.assignment().run);
        assert_eq!(client.state.read(&name).expect("readable"), None, "left behind");
    }
}

/// Given up at the deadline with the reason, not counted as a failure, and gone on with where the round
/// is tried again.
#[tokio::test]
async fn a_gate_closed_until_the_deadline_gives_the_round_up() {
    let expected = calm().await;
    let (base, manifest, task) = long();
    let script = Script::new(&manifest, |assignment| {
        let mut short = assignment.clone();
        short.deadline_ms = 200;
        vec![Answer::Train(short), Answer::Train(assignment.clone())]
    });
    let open = Arc::new(AtomicU32::new(4));
    let left = open.clone();
    // Open four times, then not until it is told.
    let gate = turns(move |_| {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
    });
    let (builder, told) = heard(script.builder(&base).gate(gate));
    let client = builder.connect().await.expect("enrols");
    let given_up = client.step(&task).await.expect_err("closed");
    let ClientError::Closed { need: Need::Cool, .. } = given_up else { panic!("{given_up:?}") };
    assert!(given_up.abandons_round() && given_up.is_late());
    let story = words(&told);
    assert!(story.starts_with("t t t p p"), "{story}");
    assert!(
        story.ends_with("a: round 0 is given up at its deadline: the device is too warm"),
        "{story}"
    );
    assert!(frames(&script).is_empty());
    open.store(100, Ordering::Relaxed);
    client.step(&task).await.expect("delivers");
    assert_eq!(words(&told), "r3 t t T d");
    assert_eq!(frames(&script), [expected]);
}

#[tokio::test]
async fn a_deadline_beyond_all_clocks_is_one() {
    let (base, manifest, task) = setting();
    let script = Script::new(&manifest, |assignment| {
        let mut far = assignment.clone();
        far.deadline_ms = u64::MAX;
        vec![Answer::Train(far)]
    });
    let client = script.builder(&base).gate(turns(|at| at != 2)).connect().await.expect("enrols");
    assert!(matches!(client.step(&task).await, Ok(Outcome::Delivered(_))));
}

/// Stopped by the app or dropped: saved, and gone on with by the next process, but not for another task.
#[tokio::test]
async fn a_stopped_training_is_gone_on_with_by_the_next_process() {
    let expected = calm().await;
    let (base, manifest, task) = long();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let script = Script::new(&manifest, train(3));
    let stop_at = |step| -> super::Watch {
        Arc::new(move |event| match event {
            Event::Training(progress) if progress.step == step => Control::Stop,
            _ => Control::Continue,
        })
    };
    let builder = || script.builder(&base).state_dir(dir.path()).saving(Saving::Never);
    let client = builder().watch(stop_at(3)).connect().await.expect("enrols");
    let stopped = client.step(&task).await.expect_err("stops");
    assert!(matches!(stopped, ClientError::Stopped), "{stopped:?}");
    drop(client);

    // Another number of examples is another task.
    let watch: super::Watch = Arc::new(|event| match event {
        Event::Resumed { .. } => panic!("goes on with another task"),
        Event::Training(_) => Control::Stop,
        _ => Control::Continue,
    });
    let more: Arc<dyn TrainingTask> = Arc::new(Bad(task.clone(), "none"));
    let client = builder().watch(watch).connect().await.expect("enrols");
    let stopped = client.step(&more).await.expect_err("stops");
    assert!(matches!(stopped, ClientError::Stopped), "{stopped:?}");
    drop(client);

    // That training was saved over the first one; from the first step all the same.
    let (third, told) = heard(builder());
    let client = third.connect().await.expect("enrols");
    client.step(&task).await.expect("delivers");
    assert_eq!(words(&told), "t t t t t T d");
    assert_eq!(frames(&script), [expected]);
}

#[tokio::test]
async fn what_was_saved_is_gone_on_with_unless_it_is_torn() {
    let expected = calm().await;
    let (base, manifest, task) = long();
    for torn in [false, true] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let script = Script::new(&manifest, train(2));
        let stop: super::Watch = Arc::new(|event| match event {
            Event::Training(progress) if progress.step == 3 => Control::Stop,
            _ => Control::Continue,
        });
        let client = script.builder(&base).state_dir(dir.path()).watch(stop).connect().await;
        client.expect("enrols").step(&task).await.expect_err("stops");
        let run = dir.path().join("runs").join(script.assignment().run.to_string());
        if torn {
            let mut bytes = std::fs::read(run.join("training")).expect("saved");
            bytes[200] ^= 1;
            std::fs::write(run.join("training"), bytes).expect("writable");
        }
        let (builder, told) = heard(script.builder(&base).state_dir(dir.path()));
        builder.connect().await.expect("enrols").step(&task).await.expect("delivers");
        let story = if torn { "t t t t t T d" } else { "r3 t t T d" };
        assert_eq!(words(&told), story);
        assert_eq!(frames(&script)[..], [expected[..].to_owned()]);
        assert!(!run.join("training").exists(), "left behind");
    }
}

/// A task that goes wrong in one way.
struct Bad(Arc<dyn TrainingTask>, &'static str);

impl TrainingTask for Bad {
    fn examples(&self) -> usize {
        assert!(self.1 != "examples", "no examples");
        self.0.examples() + 1
    }

    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
        assert!(self.1 != "batch", "no batch");
        self.0.batch(plan, step)
    }

    fn loss(&self, logits: &Tensor, _: &Batch) -> Result<Option<Tensor>, TaskError> {
        match self.1 {
            "loss" => panic!("no loss"),
            "nan" => Ok(Some((logits.sum_all()? * f64::NAN)?)),
            _ => Ok(None),
        }
    }
}

/// Told with its reason, never uploaded, and given up for good only after three in a row.
#[tokio::test]
async fn a_loss_that_is_no_number_is_never_sent() {
    let (base, manifest, task) = setting();
    let script = Script::new(&manifest, train(3));
    let (builder, told) = heard(script.builder(&base));
    let client = builder.connect().await.expect("enrols");
    let task: Arc<dyn TrainingTask> = Arc::new(Bad(task, "nan"));
    for _ in 0..2 {
        let lost = client.step(&task).await.expect_err("no number");
        let ClientError::Train(TrainError::NonFinite { step: 1, what: "the loss", loss }) = lost
        else {
            panic!("{lost:?}")
        };
        assert!(loss.is_nan());
        assert_eq!(words(&told), "a: training failed");
    }
    assert!(frames(&script).is_empty());
}

#[tokio::test]
async fn a_training_over_the_cap_is_named_before_it_begins() {
    let (base, manifest, task) = setting();
    let takes = |footprint| Memory::of(&base, &manifest, false, footprint).total();
    // One sequence at once, checkpointed: the smallest.
    let least = takes(Footprint { checkpoint: true, micro_batch: NonZeroU32::new(1) });
    for (most, fits) in
        [(takes(Footprint::default()), true), (least, true), (least - 1, false), (0, false)]
    {
        let script = Script::new(&manifest, train(1));
        let (builder, told) = heard(script.builder(&base).memory_max(most));
        let client = builder.connect().await.expect("enrols");
        match client.step(&task).await {
            Ok(Outcome::Delivered(_)) => assert!(fits),
            Err(ClientError::Memory { needs, most: cap }) => {
                assert_eq!((fits, needs, cap), (false, least, most));
            }
            other => panic!("{other:?}"),
        }
        let story = words(&told);
        assert_eq!(story == "t t t T d", fits, "{story}");
    }
}

/// Counts how many of it run at once.
struct Crowd(Arc<dyn TrainingTask>, Arc<[AtomicU32; 2]>);

impl TrainingTask for Crowd {
    fn examples(&self) -> usize {
        self.0.examples()
    }

    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
        let [now, most] = &*self.1;
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(10));
        now.fetch_sub(1, Ordering::SeqCst);
        self.0.batch(plan, step)
    }
}

#[tokio::test]
async fn clients_keep_to_their_common_budget_of_threads() {
    let (base, manifest, task) = setting();
    // Of a budget of so many threads each training takes so many.
    for budget in [Some((1, 1)), Some((2, 1)), Some((5, 2)), Some((2, 9)), None] {
        let counts: Arc<[AtomicU32; 2]> = Arc::default();
        let crowd: Arc<dyn TrainingTask> = Arc::new(Crowd(task.clone(), counts.clone()));
        let number = |n| NonZeroUsize::new(n).expect("not 0");
        let threads = budget.map(|(most, each)| Threads::new(number(most)).each(number(each)));
        let mut work = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let script = Script::new(&manifest, train(1));
            let mut builder = script.builder(&base);
            if let Some(threads) = &threads {
                builder = builder.threads(threads.clone());
            }
            let (client, task) = (builder.connect().await.expect("enrols"), crowd.clone());
            work.spawn(async move { client.step(&task).await.map(|_| ()) });
        }
        while let Some(done) = work.join_next().await {
            done.expect("no panic").expect("delivers");
        }
        let most = counts[1].load(Ordering::SeqCst) as usize;
        match budget {
            Some((most_threads, each)) => assert_eq!(most, most_threads / each.min(most_threads)),
            None => assert!(most > 2, "{most} at once: the test would see nothing"),
        }
    }
}

/// Five wait for one thread: the first trains, and then the others step by step together. One pauses in the middle
/// and one is stopped; each other's frame has the bytes it has alone.
#[tokio::test]
async fn who_waits_for_a_thread_trains_with_the_others() {
    const PAUSED: u8 = 2;
    const STOPPED: u8 = 3;
    let (base, manifest, task) = long();
    let crowd: Arc<dyn TrainingTask> = Arc::new(Crowd(task, Arc::default()));
    let threads = Threads::new(NonZeroUsize::MIN);
    let steps: Arc<Mutex<Vec<u8>>> = Arc::default();
    let mut work = tokio::task::JoinSet::new();
    for at in 0..5_u8 {
        let (script, steps, crowd) =
            (Script::new(&manifest, train(1)), steps.clone(), crowd.clone());
        let watch: super::Watch = Arc::new(move |event| {
            let Event::Training(progress) = event else { return Control::Continue };
            steps.lock().expect("no panic").push(at);
            let stop = at == STOPPED && progress.step == 2;
            if stop { Control::Stop } else { Control::Continue }
        });
        let client = script.builder(&base).identity([at; 32]).threads(threads.clone()).watch(watch);
        let client = client.gate(turns(move |turn| at != PAUSED || turn != 4));
        let client = client.connect().await.expect("enrols");
        work.spawn(async move { (at, client.step(&crowd).await, frames(&script)) });
    }
    while let Some(done) = work.join_next().await {
        let (at, outcome, frames) = done.expect("no panic");
        if at == STOPPED {
            assert!(matches!(outcome, Err(ClientError::Stopped)), "{outcome:?}");
            assert!(frames.is_empty());
        } else {
            assert!(matches!(outcome, Ok(Outcome::Delivered(_))), "{at}: {outcome:?}");
            assert_eq!(frames[..], [calm_of([at; 32]).await], "client {at}");
        }
    }
    let steps = steps.lock().expect("no panic");
    assert_eq!(steps.len(), 4 * 5 + 2);
    let of = |at: u8| steps.iter().enumerate().filter(move |(_, of)| **of == at).map(|(i, _)| i);
    let [first, last] = [of(4).min(), of(4).max()].map(|place| place.expect("it trained"));
    assert!(last - first > 5, "client 4 was never in a pass with others: {steps:?}");
}

#[tokio::test]
async fn no_panic_of_the_app_crosses_the_api() {
    let (base, manifest, good) = setting();
    for place in ["examples", "batch", "loss", "watcher", "told before", "gate", "gate later"] {
        let script = Script::new(&manifest, train(2));
        let watch: super::Watch = Arc::new(move |event| match (place, event) {
            ("watcher", Event::Training(_)) | ("told before", Event::Assigned { .. }) => {
                panic!("no watcher")
            }
            _ => Control::Continue,
        });
        let gate = turns(move |at| match (place, at) {
            ("gate", 0) | ("gate later", 2) => panic!("no gate"),
            _ => true,
        });
        let client = script.builder(&base).watch(watch).gate(gate).connect().await.expect("enrols");
        let task: Arc<dyn TrainingTask> = Arc::new(Bad(good.clone(), place));
        let refused = client.step(&task).await.expect_err("panics");
        let (what, message) = match refused {
            ClientError::Panicked { what, message }
            | ClientError::Train(TrainError::Panicked { what, message }) => (what, message),
            other => panic!("{place}: {other:?}"),
        };
        let expected = match place {
            "watcher" | "told before" => ("the watcher", "no watcher".to_owned()),
            "gate" | "gate later" => ("the gate", "no gate".to_owned()),
            task => ("the task", format!("no {task}")),
        };
        assert_eq!((what, message), expected, "{place}");
        assert!(frames(&script).is_empty());
    }
}
