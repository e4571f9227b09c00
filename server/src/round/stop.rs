//! Whether a run has done enough: a pure function of what came of its rounds.

use gossamer_protocol::manifest::Stop;

/// What came of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Past {
    /// The loss that the rules look at, where one was measured.
    pub loss: Option<f64>,
    /// Bytes of its updates.
    pub bytes_up: u64,
    /// Bytes of snapshots and differences handed out in it.
    pub bytes_down: u64,
}

/// The first rule that holds after these rounds, in words.
#[must_use]
pub fn reached(stop: &Stop, past: &[Past]) -> Option<String> {
    let losses: Vec<f64> = past.iter().filter_map(|round| round.loss).collect();
    if let (Some(target), Some(last)) = (stop.target, losses.last())
        && *last <= target
    {
        return Some(format!("stop.target: a loss of {last:.4}, wanted {target}"));
    }
    if let Some(patience) = stop.patience {
        let (mut best, mut since) = (f64::INFINITY, 0);
        for &loss in &losses {
            since = if loss < best { 0 } else { since + 1 };
            best = best.min(loss);
        }
        if since >= patience {
            return Some(format!("stop.patience: {since} rounds without a loss below {best:.4}"));
        }
    }
    let sum = |of: fn(&Past) -> u64| past.iter().map(of).fold(0, u64::saturating_add);
    for (field, budget, used) in [
        ("bytes_up", stop.bytes_up, sum(|round| round.bytes_up)),
        ("bytes_down", stop.bytes_down, sum(|round| round.bytes_down)),
    ] {
        if budget.is_some_and(|budget| used >= budget) {
            return Some(format!("stop.{field}: {used} bytes"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(stop: &Stop, losses: &[Option<f64>]) -> Option<String> {
        let past = |&loss| Past { loss, bytes_up: 100, bytes_down: 1 };
        let said = reached(stop, &losses.iter().map(past).collect::<Vec<_>>());
        said.and_then(|said| said.split_once(':').map(|(rule, _)| rule.to_owned()))
    }

    fn nothing() -> Stop {
        serde_json::from_str("{}").expect("all have defaults")
    }

    #[test]
    fn a_target_is_reached_by_the_last_measured_loss() {
        let stop = Stop { target: Some(2.0), ..nothing() };
        assert_eq!(rule(&stop, &[Some(1.9), Some(2.1)]), None);
        assert_eq!(rule(&stop, &[Some(3.0), Some(2.0)]).as_deref(), Some("stop.target"));
        assert_eq!(rule(&stop, &[Some(2.0), None]).as_deref(), Some("stop.target"));
        assert_eq!(rule(&stop, &[None]), None);
    }

    #[test]
    fn patience_counts_rounds_since_the_best() {
        let stop = Stop { patience: Some(2), ..nothing() };
        assert_eq!(rule(&stop, &[Some(3.0), Some(3.0)]), None, "one without a lower loss");
        let twice = [Some(3.0), Some(2.0), Some(2.0), Some(2.5)];
        assert_eq!(rule(&stop, &twice).as_deref(), Some("stop.patience"));
        assert_eq!(rule(&stop, &[Some(3.0), Some(3.5), Some(2.9), Some(3.0)]), None);
        assert_eq!(rule(&stop, &[Some(3.0), None, None, Some(3.0)]), None, "measured ones count");
    }

    #[test]
    fn budgets_are_of_all_rounds() {
        let stop = Stop { bytes_up: Some(300), ..nothing() };
        assert_eq!(rule(&stop, &[None; 2]), None);
        assert_eq!(rule(&stop, &[None; 3]).as_deref(), Some("stop.bytes_up"));
        let stop = Stop { bytes_down: Some(2), ..nothing() };
        assert_eq!(rule(&stop, &[None; 2]).as_deref(), Some("stop.bytes_down"));
        assert_eq!(rule(&nothing(), &[Some(0.0); 9]), None);
    }
}
