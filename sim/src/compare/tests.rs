//! Small comparisons on the embedded model.

use super::*;

const SMOKE: &str = include_str!("../../scenarios/smoke.toml");

fn scenario(change: impl FnOnce(&mut Scenario)) -> Scenario {
    let mut scenario = Scenario::parse(SMOKE, Path::new("")).expect("sound");
    scenario.rounds = 1;
    scenario.seeds = vec![1];
    scenario.methods.truncate(2);
    scenario.training.steps = 1;
    scenario.training.batch = 1;
    scenario.training.context = 16;
    scenario.eval.tokens = Some(64);
    change(&mut scenario);
    scenario
}

fn options(out: &Path, resume: bool) -> Options {
    let threads = NonZeroUsize::new(2).expect("not 0");
    Options { out: out.to_owned(), threads, deltas: None, resume, progress: Progress::Lines }
}

/// The rows without how long they took.
fn rows(out: &Path) -> Vec<RoundRow> {
    let rows = crate::report::read_rows(&out.join("metrics.jsonl")).expect("rows");
    rows.into_iter().map(|row| RoundRow { wall_s: 0.0, train_loss: 0.0, ..row }).collect()
}

fn read(out: &Path, name: &str) -> String {
    std::fs::read_to_string(out.join(name)).expect(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_repetition_loses_only_its_own_rows() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path();
    // The second method's steps are so large that its clients' losses are no number.
    let diverges = |scenario: &mut Scenario| {
        let lr = 1e30;
        let sgd = gossamer_protocol::manifest::LocalOptimizer::Sgd { lr, momentum: 0.0 };
        scenario.methods[1].training.optimizer = Some(sgd);
    };
    let failed = compare(scenario(diverges), &options(out, false)).await.expect_err("diverges");
    let sound = scenario(|_| {}).methods[0].name.clone();
    let EngineError::Repetition { method, seed: 1, .. } = &failed else { panic!("{failed:?}") };
    assert_ne!(*method, sound);
    assert!(read(out, "report.html").contains(&sound));
    assert_eq!(read(out, "summary.csv").lines().count(), 2, "the head and the sound one");

    // Mended and resumed, the sound one is not run again: its duration stands.
    let line = |text: String| text.lines().find(|l| l.contains(&sound)).map(str::to_owned);
    let before = line(read(out, "metrics.jsonl"));
    let outcome = compare(scenario(|_| {}), &options(out, true)).await.expect("sound");
    assert_eq!(line(read(out, "metrics.jsonl")), before);
    assert_eq!((outcome.records.len(), rows(out).len()), (2, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_same_settings_are_resumed_and_the_same_seed_gives_the_same_rows() {
    let (dir, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("one"));
    let out = dir.path();
    let first = compare(scenario(|_| {}), &options(out, false)).await.expect("sound");
    let again = compare(scenario(|_| {}), &options(other.path(), false)).await.expect("sound");
    assert_eq!(first.records, again.records);
    assert_eq!(rows(out), rows(other.path()), "in the same order, too");

    // A filtered run leaves the other method's rows where they are.
    let stamped = read(out, "metrics.jsonl");
    let only = |scenario: &mut Scenario| scenario.methods.truncate(1);
    let outcome = compare(scenario(only), &options(out, true)).await.expect("sound");
    assert_eq!((outcome.records.len(), outcome.comparison.methods.len()), (1, 1));
    assert_eq!(rows(out).len(), 4);
    let outcome = compare(scenario(|_| {}), &options(out, true)).await.expect("sound");
    assert_eq!(outcome.records, first.records);
    assert_eq!(read(out, "metrics.jsonl"), stamped, "nothing was run again");

    // Other terms, another length, other text: nothing of before may stand.
    type Change = fn(&mut Scenario);
    let changes: [Change; 3] = [
        |scenario| scenario.training.steps = 2,
        |scenario| scenario.rounds = 2,
        |scenario| scenario.heldout.tail = 0.3,
    ];
    for change in changes {
        let before = read(out, "repetitions.jsonl");
        let outcome = compare(scenario(change), &options(out, true)).await.expect("sound");
        assert_eq!(outcome.comparison.methods[0].seeds, 1);
        let now = read(out, "repetitions.jsonl");
        assert!(now.lines().all(|line| !before.contains(line)), "{now}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_begin_costs_no_earlier_row() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("metrics.jsonl"), "earlier\n").expect("written");
    let missing =
        |scenario: &mut Scenario| scenario.base = crate::scenario::BaseModel::Folder("none".into());
    compare(scenario(missing), &options(dir.path(), false)).await.expect_err("no such base");
    assert_eq!(read(dir.path(), "metrics.jsonl"), "earlier\n");
}
