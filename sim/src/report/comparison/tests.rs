//! Comparisons of rows made by hand.

use super::*;

/// Three evaluations; each round moves `bytes` up and twice as many down, for two clients.
fn run(method: &str, seed: u64, bytes: u64, losses: [f64; 3]) -> Vec<RoundRow> {
    let row = |(round, loss): (usize, f64)| RoundRow {
        method: method.to_owned(),
        seed,
        round: round as u64,
        train_loss: loss,
        heldout_loss: Some(loss),
        upload_bytes: if round == 0 { 0 } else { bytes },
        download_bytes: if round == 0 { 0 } else { 2 * bytes },
        server_loss: Some(loss - 0.5),
        heldout_accuracy: None,
        server_accuracy: None,
        cumulative_bytes: 0,
        product_error: None,
        control_bytes: 0,
        accepted: if round == 0 { 0 } else { 2 },
        virtual_s: None,
        joules: None,
        wall_s: 1.0,
        clients: Vec::new(),
    };
    losses.into_iter().enumerate().map(row).collect()
}

fn two_methods() -> Vec<RoundRow> {
    [
        run("dense", 1, 1000, [4.0, 3.0, 2.0]),
        run("dense", 2, 1000, [4.0, 3.2, 2.4]),
        run("thin", 1, 100, [4.0, 3.5, 3.0]),
        run("thin", 2, 100, [4.0, 3.2, 2.4]),
    ]
    .concat()
}

#[test]
fn sums_by_hand() {
    let comparison = Comparison::new(&two_methods(), "dense");
    let [dense, thin] = comparison.methods.as_slice() else { panic!("two methods") };
    assert_eq!((dense.seeds, dense.rounds), (2, 2));
    assert_eq!(dense.initial_loss.expect("measured").mean, 4.0);
    assert!((dense.final_loss.expect("measured").mean - 2.2).abs() < 1e-12);
    assert_eq!(dense.upload_bytes_a_client_round, 500.0);
    assert_eq!(dense.download_bytes_a_client_round, 1000.0);
    assert_eq!((dense.upload_bytes, dense.download_bytes), (2000.0, 4000.0));
    assert_eq!(dense.total_saving, Some(1.0));
    assert_eq!(thin.upload_saving, Some(10.0));
    assert_eq!(thin.wall_s, 3.0);
    // Seed 1 keeps 1.0 of 2.0, seed 2 all of 1.6.
    assert!((thin.improvement_kept.expect("paired").mean - 0.75).abs() < 1e-12);
    assert!((dense.improvement_kept.expect("paired").mean - 1.0).abs() < 1e-12);
}

/// Of a classification, what is kept, and what is a target, is of accuracy, whatever the losses do.
#[test]
fn a_classification_is_judged_by_accuracy() {
    let mut rows = two_methods();
    // dense: 0.05, 0.4, 0.85 from both seeds; thin: 0.05, 0.25, 0.45 and 0.05, 0.25, 0.65.
    let accuracies = [[0.05, 0.4, 0.85], [0.05, 0.4, 0.85], [0.05, 0.25, 0.45], [0.05, 0.25, 0.65]];
    for (row, accuracy) in rows.iter_mut().zip(accuracies.concat()) {
        row.heldout_accuracy = Some(accuracy);
        row.server_accuracy = Some(accuracy + 0.01);
    }
    let comparison = Comparison::new(&rows, "dense");
    assert!(comparison.of_classes());
    let [dense, thin] = comparison.methods.as_slice() else { panic!("two methods") };
    assert!((thin.final_accuracy.expect("measured").mean - 0.55).abs() < 1e-12);
    assert!((thin.final_server_accuracy.expect("measured").mean - 0.56).abs() < 1e-12);
    assert!((thin.initial_accuracy.expect("measured").mean - 0.05).abs() < 1e-12);
    // 0.4 and 0.6 of 0.8: half and three quarters.
    assert!((thin.improvement_kept.expect("paired").mean - 0.625).abs() < 1e-12);
    // Nine tenths of 0.8 above 0.05 is 0.77: 37/45 through the second round's 3000 bytes.
    assert!((comparison.target_accuracy.expect("improved") - 0.77).abs() < 1e-12);
    assert_eq!((comparison.target_loss, thin.bytes_to_target), (None, None));
    let spent = dense.bytes_to_target.expect("reached");
    assert!((spent - (3000.0 + 3000.0 * 37.0 / 45.0)).abs() < 1e-6, "{spent}");
    let curve = thin.curve[2].accuracy.expect("measured");
    assert_eq!((curve.low, curve.high), (0.45, 0.65));
    // After 600 of the first round's 3000 bytes: a fifth of the way from 0.05 to 0.4.
    let at = dense.at_budget[0].expect("inside").accuracy.expect("measured");
    assert!((at.mean - 0.12).abs() < 1e-12, "{at:?}");
}

#[test]
fn losses_at_equal_bytes_are_interpolated() {
    let comparison = Comparison::new(&two_methods(), "dense");
    assert_eq!(comparison.budgets, [600.0, 1200.0, 2700.0, 6000.0]);
    let [dense, thin] = comparison.methods.as_slice() else { panic!("two methods") };
    // After 600 of its first round's 3000 bytes: a fifth of the way from 4 to 3 and to 3.2.
    let at = dense.at_budget[0].expect("inside");
    assert!((at.loss.mean - (3.8 + 3.84) / 2.0).abs() < 1e-12 && !at.ended);
    let at = thin.at_budget[0].expect("inside");
    assert!((at.loss.mean - 2.7).abs() < 1e-12 && !at.ended);
    let at = thin.at_budget[3].expect("its last");
    assert!((at.loss.mean - 2.7).abs() < 1e-12 && at.ended);
}

#[test]
fn bytes_to_the_target() {
    let comparison = Comparison::new(&two_methods(), "dense");
    // The baseline's mean falls from 4 to 2.2; nine tenths of it is 2.38, which is 0.8 of the
    // way through its second round's 3000 bytes. The other ends at 2.7 and never gets there.
    assert!((comparison.target_loss.expect("improved") - 2.38).abs() < 1e-12);
    let to = |at: usize| comparison.methods[at].bytes_to_target;
    assert!((to(0).expect("reached") - 5400.0).abs() < 1e-6);
    assert_eq!(to(1), None);
}

#[test]
fn a_later_row_replaces_an_earlier_one() {
    let mut rows = two_methods();
    let again = RoundRow { heldout_loss: Some(1.0), ..rows[2].clone() };
    rows.push(again);
    let comparison = Comparison::new(&rows, "dense");
    let dense = &comparison.methods[0];
    assert!((dense.final_loss.expect("measured").mean - 1.7).abs() < 1e-12);
    assert_eq!(dense.upload_bytes, 2000.0);
}

#[test]
fn without_a_baseline_nothing_is_measured_by_it() {
    let comparison = Comparison::new(&two_methods(), "other");
    assert_eq!((comparison.baseline, comparison.target_loss), (None, None));
    assert!(comparison.methods.iter().all(|method| method.total_saving.is_none()));
    assert_eq!(Comparison::new(&[], "dense").methods, []);
}

#[test]
fn a_diverged_seed_is_not_averaged_away() {
    let mut rows = two_methods();
    rows[5].heldout_loss = Some(f64::NAN);
    let comparison = Comparison::new(&rows, "dense");
    let text = comparison.methods[0].final_loss.expect("measured").to_string();
    assert_eq!(text, "diverged");
    assert_eq!(comparison.target_loss, None);
}

fn reached(mean: f64, half: Option<f64>) -> Interval {
    Interval { mean, half, n: 3 }
}

/// Apart by more than both half widths, or tied; of one seed nothing is said.
#[test]
fn a_winner_only_where_intervals_lie_apart() {
    let [a, b, c] = [reached(1.0, Some(0.1)), reached(1.25, Some(0.1)), reached(1.15, Some(0.1))];
    let apart = Verdict::of(&[("b", b), ("a", a)], false);
    assert_eq!(apart, Some(Verdict::Winner("a".into())));
    assert_eq!(Verdict::of(&[("b", b), ("a", a)], true), Some(Verdict::Winner("b".into())));
    let tied = Verdict::of(&[("b", b), ("c", c), ("a", a)], false);
    assert_eq!(tied, Some(Verdict::Tied(vec!["a".into(), "c".into()])));
    assert_eq!(Verdict::of(&[("a", a)], false), None);
    assert_eq!(Verdict::of(&[("a", a), ("b", reached(2.0, None))], false), None);
    let lost = Verdict::of(&[("a", a), ("b", reached(f64::NAN, None))], false);
    assert_eq!(lost, Some(Verdict::Winner("a".into())), "what diverged has lost");
}

#[test]
fn a_run_that_diverged_is_counted_and_loses() {
    let mut rows = run("a", 1, 10, [3.0, 2.0, 1.0]);
    rows.extend(run("a", 2, 10, [3.0, 2.0, 1.1]));
    rows.extend(run("b", 1, 10, [3.0, 1.0, 0.5]));
    rows.extend(run("b", 2, 10, [3.0, 1.0, f64::NAN]));
    let comparison = Comparison::new(&rows, "a");
    assert_eq!(comparison.methods.iter().map(|m| m.diverged).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(comparison.verdict, Some(Verdict::Winner("a".into())));
}
