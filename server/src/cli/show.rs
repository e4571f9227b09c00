//! Runs in words.

use crate::coordinator::RunView;
use crate::store::RoundRow;

/// One line a run.
pub(super) fn table(views: &[RunView]) -> String {
    if views.is_empty() {
        return "no runs".to_owned();
    }
    let mut lines = vec![format!("{:32}  {:8}  {:>11}  name", "run", "status", "round")];
    for view in views {
        let round = format!("{}/{}", view.round, view.rounds);
        let (run, status) = (view.run.to_string(), view.status.name());
        lines.push(format!("{run:32}  {status:8}  {round:>11}  {}", view.name));
    }
    lines.join("\n")
}

/// Everything about one.
pub(super) fn card(view: &RunView) -> String {
    let mut lines = vec![
        format!("run       {}", view.run),
        format!("name      {}", view.name),
        format!("status    {}", view.status.name()),
    ];
    if !view.note.is_empty() {
        lines.push(format!("why       {}", view.note));
    }
    if let Some(lacks) = view.lacks {
        lines.push(format!("lacks     {}", lacks.words()));
    }
    lines.extend([
        format!("round     {} of {}, attempt {}", view.round, view.rounds, view.attempt),
        format!("asked     {}", view.asked),
        format!("accepted  {} of {}", view.accepted, view.goal),
        format!("record    {}", view.record),
        format!("snapshot  {} ({} bytes)", view.snapshot, view.snapshot_bytes),
        format!("state     {}", view.state),
    ]);
    lines.join("\n")
}

/// One line a closed round.
pub(super) fn rounds(rows: &[RoundRow]) -> String {
    let head = ("round", "asked", "accepted", "loss", "held out", "bytes up", "bytes down");
    let mut lines = vec![format!(
        "{:>6}  {:>6}  {:>8}  {:>8}  {:>8}  {:>10}  {:>10}",
        head.0, head.1, head.2, head.3, head.4, head.5, head.6
    )];
    for row in rows {
        let nats = |loss: Option<f64>| loss.map_or_else(|| "-".to_owned(), |l| format!("{l:.4}"));
        let loss = nats(row.loss);
        let held_out = nats(row.evaluation.map(|evaluated| evaluated.loss));
        let RoundRow { round, asked, accepted, bytes_up, bytes_down, .. } = row;
        let round = round.0;
        lines.push(format!(
            "{round:>6}  {asked:>6}  {accepted:>8}  {loss:>8}  {held_out:>8}  {bytes_up:>10}  {bytes_down:>10}"
        ));
    }
    lines.join("\n")
}
