//! Buffered rounds against a fleet small enough to compute by hand.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::ranks::threads;

const BUFFERED: &str = include_str!("../../scenarios/buffered.toml");

/// Two devices of 1 s each way and two of 5.5 s, of which nothing else takes time.
fn lab(rounds: u64, threads: usize, dropout: f64) -> Laboratory {
    let cut = BUFFERED.find("[cohort]").expect("a cohort");
    let text =
        BUFFERED[..cut].replace("clients = 20", "clients = 4").replace("steps = 4", "steps = 1");
    let text = text
        .replace("tokens = 2048", "tokens = 256")
        .replace("rounds = 20", &format!("rounds = {rounds}"));
    let tier = |name: &str, latency_s: f64, dropout: f64| {
        format!(
            "[[fleet.tier]]\nname = \"{name}\"\nshare = 0.5\nflops = 1e18\ndown_bits = 1e15\nup_bits = 1e15\n\
             latency_s = {latency_s}\ndropout = {dropout}\nradio_watts = 1.0\n"
        )
    };
    let dense = "method = { download = { density = 1.0 }, upload = { density = 1.0 } }\n";
    let text = format!(
        "{text}[cohort]\ngoal = 4\nask = 4\nmin = 4\ndeadline_s = 60\nselection = \"seeded\"\n\
         [optimizer]\nkind = \"sgd\"\nlr = 1.0\n{}{}\
         [[method]]\nname = \"waits\"\n{dense}\
         [[method]]\nname = \"buffered\"\ncohort = {{ goal = 2, min = 2, buffered = {{ staleness_max = 8 }} }}\n{dense}",
        tier("fast", 1.0, 0.0),
        tier("slow", 5.5, dropout),
    );
    let scenario = Scenario::parse(&text, Path::new("")).expect("sound");
    Laboratory::open(scenario, NonZeroUsize::new(threads).expect("some")).expect("opened")
}

async fn repeat(lab: &Laboratory, method: usize) -> Repetition {
    let method = lab.scenario().methods[method].clone();
    lab.repeat(&method, 1, Arc::new(|_| {})).await.expect("sound")
}

fn times(repetition: &Repetition) -> Vec<f64> {
    repetition.rows.iter().map(|row| row.virtual_s.expect("timed")).collect()
}

/// By hand: who waits for all four needs 11 s a round. Buffered, the fast two arrive every 2 s and end a round; the
/// slow two at 11 and 22 s, ending one too. So ten rounds take 18 s and not 110, and joules are a watt for each
/// second of radio, counted when a client begins: all four, 2 + 2 + 11 + 11, then those who begin anew.
#[tokio::test(flavor = "multi_thread")]
async fn stragglers_hold_up_only_who_waits_for_them() {
    let lab = lab(14, 2, 0.0);
    let waits: Vec<f64> = (0..=14).map(|round| 11.0 * f64::from(round)).collect();
    assert_eq!(times(&repeat(&lab, 0).await), waits);
    let buffered = repeat(&lab, 1).await;
    let expected =
        [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 11.0, 12.0, 14.0, 16.0, 18.0, 20.0, 22.0, 22.0, 24.0];
    assert_eq!(times(&buffered), expected);
    assert!(buffered.rows[1..].iter().all(|row| row.accepted == 2));
    let joules: Vec<f64> = buffered.rows.iter().map(|row| row.joules.expect("metered")).collect();
    let expected = [0.0, 26.0, 4.0, 4.0, 4.0, 4.0, 4.0, 22.0];
    for (found, expected) in joules.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{joules:?}");
    }
    let losses = |repetition: &Repetition| -> Vec<f64> {
        repetition.rows.iter().filter_map(|row| row.heldout_loss).collect()
    };
    let learned = losses(&buffered);
    assert!(learned.last() < learned.first(), "{learned:?}");
}

/// Who is how late is drawn, and neither threads nor luck of scheduling change a byte.
#[tokio::test(flavor = "multi_thread")]
async fn one_thread_or_four_give_the_same_bytes() {
    let (one, four) = (repeat(&lab(8, 1, 0.5), 1).await, repeat(&lab(8, 4, 0.5), 1).await);
    assert_eq!(one.last_record, four.last_record);
    assert_eq!(times(&one), times(&four));
}

/// All slow ones are lost nearly always: the fast ones end rounds without them, and nothing hangs.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_lost_is_not_waited_for() {
    let lost = repeat(&lab(8, 2, 0.999), 1).await;
    assert_eq!(times(&lost)[..6], [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
    assert!(times(&lost)[8] >= 16.0, "{:?}", times(&lost));
}

#[tokio::test]
async fn several_processes_are_refused_by_the_method() {
    let rank = threads::ranks(2).remove(0);
    let refused = lab(1, 1, 0.0).among(Ranks::new(Arc::new(rank))).await.map(drop);
    let Err(EngineError::Ranks(RanksError::Buffered(method))) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(method, "buffered");
}
