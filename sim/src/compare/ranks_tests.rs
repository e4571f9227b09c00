//! Several ranks come to the bytes of one.

use super::*;
use crate::ranks::{Communicator, RanksError, threads};
use crate::report::read_rows;

/// Error feedback and a rule of products: what clients remember, and what has no sum.
const METHODS: &str = r#"
[[method]]
name = "feedback"
method.download = { density = 0.25 }
method.upload = { density = 0.25, feedback = { decay = 0.9, rounds_max = 8 } }
[[method]]
name = "products"
optimizer = { kind = "sgd", lr = 1.0 }
method = { combine = "svd", download = { density = 1.0 }, upload = { density = 1.0 } }
"#;

fn scenario(text: &str, rounds: u64) -> Scenario {
    let mut scenario = Scenario::parse(text, Path::new("")).expect("sound");
    scenario.rounds = rounds;
    scenario.eval.tokens = Some(256);
    scenario
}

/// Each rank in a thread and runtime of its own; what each came to, and where.
fn among(
    n: usize,
    dir: &Path,
    resume: bool,
    scenario: impl Fn(usize) -> Scenario + Copy + Send + 'static,
) -> Vec<Result<Outcome, EngineError>> {
    let threads = threads::ranks(n).into_iter().map(|rank| {
        let out = dir.to_owned();
        std::thread::spawn(move || {
            let options = Options {
                out,
                threads: NonZeroUsize::MIN,
                deltas: None,
                resume,
                checkpoint: Duration::ZERO,
                command: None,
                tuning: false,
                tuned: Vec::new(),
                progress: Progress::Lines,
                ranks: Ranks::new(Arc::new(rank)),
            };
            let scenario = scenario(options.ranks.rank());
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.expect("a runtime").block_on(compare(scenario, &options))
        })
    });
    let threads: Vec<_> = threads.collect();
    threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
}

fn told(dir: &Path) -> Vec<RoundRow> {
    let mut rows = read_rows(&dir.join("metrics.jsonl")).expect("rows");
    rows.iter_mut().for_each(|row| row.wall_s = 0.0);
    rows
}

fn debug(rows: &[RoundRow]) -> String {
    format!("{rows:?}")
}

#[test]
fn any_number_of_ranks_gives_the_same_bytes() {
    let smoke = include_str!("../../scenarios/smoke.toml").replace("clients = 8", "clients = 5");
    let cut = smoke.find("[[method]]").expect("methods");
    let smoke: &'static str = Box::leak(format!("{}{METHODS}", &smoke[..cut]).into_boxed_str());
    let fleet = include_str!("../../scenarios/fleet.toml");
    let many = include_str!("../../scenarios/smoke.toml");
    let many: &'static str =
        Box::leak(many.replace("rounds = 3", "rounds = 3\nregistered = 50").into_boxed_str());
    for (text, rounds) in [(smoke, 3), (fleet, 3), (many, 2)] {
        let mut first: Option<(BTreeMap<String, Digest>, String)> = None;
        for n in [1, 2, 3] {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let all = among(n, dir.path(), false, move |_| scenario(text, rounds));
            let rows = debug(&told(dir.path()));
            for outcome in all {
                let records = outcome.expect("sound").records;
                let (known, known_rows) = first.get_or_insert((records.clone(), rows.clone()));
                assert_eq!((&*known, &*known_rows), (&records, &rows), "{n} ranks");
            }
        }
    }
}

/// Ended by one rank that goes, and resumed by another number of ranks.
#[test]
fn what_one_number_of_ranks_began_another_ends() {
    let text = include_str!("../../scenarios/smoke.toml");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let whole = tempfile::tempdir().expect("a temporary folder");
    let expected = among(1, whole.path(), false, |_| scenario(text, 4)).remove(0).expect("sound");
    // A checkpoint of two ranks behind round 3, taken from under them.
    let watched = dir.path().to_owned();
    let copy = dir.path().join("copy");
    let kept = copy.clone();
    let watcher = std::thread::spawn(move || {
        let (from, to) = (watched.join("checkpoints/dense-1"), kept.join("checkpoints/dense-1"));
        for _ in 0..6_000 {
            std::thread::sleep(Duration::from_millis(5));
            let head = std::fs::read_to_string(from.join("checkpoint.json")).unwrap_or_default();
            if !head.contains("\"round\":2") {
                continue;
            }
            std::fs::create_dir_all(to.join("objects")).expect("made");
            let Ok(objects) = std::fs::read_dir(from.join("objects")) else { return };
            for object in objects.flatten() {
                let _ = std::fs::copy(object.path(), to.join("objects").join(object.file_name()));
            }
            std::fs::write(to.join("checkpoint.json"), head).expect("written");
            return;
        }
    });
    for outcome in among(2, dir.path(), false, |_| scenario(text, 4)) {
        assert_eq!(outcome.expect("sound").records, expected.records);
    }
    watcher.join().expect("no panic");
    for outcome in among(3, &copy, true, |_| scenario(text, 4)) {
        assert_eq!(outcome.expect("resumed").records, expected.records);
    }
    assert_eq!(debug(&told(&copy)), debug(&told(whole.path())));
}

#[test]
fn ranks_that_would_do_different_things_are_refused() {
    let text = include_str!("../../scenarios/smoke.toml");
    for (field, from, to) in [
        ("scenario (training)", "lr = 0.05", "lr = 0.06"),
        ("number of rounds", "", ""),
        ("scenario (heldout)", "tail = 0.2", "tail = 0.3"),
    ] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let all = among(3, dir.path(), false, move |rank| match rank {
            2 if from.is_empty() => scenario(text, 9),
            2 => scenario(&text.replace(from, to), 3),
            _ => scenario(text, 3),
        });
        for outcome in all {
            let Err(EngineError::Ranks(error)) = outcome else { panic!("{outcome:?}") };
            assert_eq!(error, RanksError::Disagree { rank: 2, field: field.to_owned() });
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 0, "nothing written");
    }
    assert_eq!(threads::ranks(2)[1].rank(), 1);
}
