//! Virtual time, end to end: against the formula, and at a deadline.

use super::*;
use crate::report::read_rows;

const FLEET: &str = include_str!("../../scenarios/fleet.toml");

/// The rows of one method over `rounds` rounds of the changed file.
async fn rows(rounds: u64, changes: &[(&str, &str)]) -> (Scenario, Vec<RoundRow>) {
    let mut text = FLEET.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from:?} is not in the file");
        text = text.replace(from, to);
    }
    let mut scenario = Scenario::parse(&text, Path::new("")).expect("sound");
    scenario.rounds = rounds;
    scenario.eval.tokens = Some(256);
    scenario.methods.truncate(1);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let options = Options {
        out: dir.path().to_owned(),
        threads: NonZeroUsize::new(2).expect("not 0"),
        deltas: None,
        resume: false,
        checkpoint: Duration::ZERO,
        command: None,
        tuning: false,
        tuned: Vec::new(),
        progress: Progress::Lines,
        ranks: Ranks::default(),
    };
    compare(scenario.clone(), &options).await.expect("sound");
    assert!(dir.path().join("loss_by_time.svg").is_file());
    (scenario, read_rows(&dir.path().join("metrics.jsonl")).expect("rows"))
}

/// Two tiers, one client a round, nothing lost: each round takes what the formula says of the bytes that
/// moved, and both tiers occur. The tiny model has 4 N + 6 n operations a token, of 4 x 2 x 32 tokens.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_takes_what_the_formula_says() {
    let (scenario, rows) = rows(
        8,
        &[
            ("goal = 4\nask = 6\nmin = 2", "goal = 1\nask = 1\nmin = 1"),
            ("loss = 0.02\nspread = 0.3\ndropout = 0.1\n", ""),
            ("share = 0.75", "share = 0.5"),
            ("share = 0.25", "share = 0.5"),
        ],
    )
    .await;
    let base = crate::base::load(&scenario.base).expect("the embedded one");
    let linears = base.linears();
    let meant = linears.iter().filter(|l| ["q_proj", "v_proj"].iter().any(|t| l.name.ends_with(t)));
    let n: usize = meant.map(|linear| 4 * (linear.d_in + linear.d_out)).sum();
    let work = (4 * base.n_weights() + 6 * n) as f64 * (4 * 2 * 32) as f64;
    let mut of_tier = [0, 0];
    for pair in rows.windows(2) {
        let took = pair[1].virtual_s.expect("timed") - pair[0].virtual_s.expect("timed");
        let (down, up) = (pair[1].download_bytes as f64, pair[1].upload_bytes as f64);
        let phone = 0.1 + 8.0 * down / 2e5 + work / 2e9 + 0.1 + 8.0 * up / 5e4;
        let board = 0.02 + 8.0 * down / 1e7 + work / 2e10 + 0.02 + 8.0 * up / 1e7;
        // The clock counts whole milliseconds.
        let tier = [phone, board].iter().position(|of| (took - of).abs() < 0.0011);
        let tier = tier.unwrap_or_else(|| panic!("{took} s, neither {phone} nor {board}"));
        of_tier[tier] += 1;
        let joules = match tier {
            0 => 3.0 * work / 2e9 + (phone - work / 2e9),
            _ => 10.0 * work / 2e10 + (board - work / 2e10),
        };
        assert!((pair[1].joules.expect("metered") - joules).abs() < 1e-6, "{pair:?}");
    }
    assert!(of_tier.iter().all(|&rounds| rounds > 0), "{of_tier:?}");
}

/// Phones that take longer than the deadline: rounds of boards alone end at it, or are tried again.
#[tokio::test(flavor = "multi_thread")]
async fn stragglers_are_left_behind_at_the_deadline() {
    let changes = [
        ("flops = 2e9", "flops = 1e6"),
        ("share = 0.75", "share = 0.5"),
        ("share = 0.25", "share = 0.5"),
    ];
    let (_, rows) = rows(4, &changes).await;
    let mut short = 0;
    for pair in rows.windows(2) {
        let [before, after] = [&pair[0], &pair[1]].map(|row| row.virtual_s.expect("timed"));
        let took = after - before;
        assert!(pair[1].accepted >= 2, "the minimum");
        if pair[1].accepted < 4 {
            short += 1;
            assert!((took / 60.0).fract() < 1e-9 && took >= 60.0, "{took}");
        } else {
            assert!(took % 60.0 < 1.0, "boards are done in less than a second: {took}");
        }
    }
    assert!(short > 0, "six boards of twelve are seldom four of six: {rows:?}");
    // The same fleet, the same luck.
    let (_, again) = self::rows(4, &changes).await;
    let times = |rows: &[RoundRow]| rows.iter().map(|row| row.virtual_s).collect::<Vec<_>>();
    assert_eq!(times(&again), times(&rows));
}
