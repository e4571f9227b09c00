//! Learning rates, tuned for each method by itself, so that a comparison is of methods and not of how well one rate
//! happened to suit each.
//!
//! ```text
//! n rates of the file's times factor^(k - (n - 1) / 2), k = 0..n; both rates: their grid
//! ```
//!
//! Each point trains from a seed that the comparison has not, on nine tenths of each client's training text, and is
//! judged on the last tenth: what the report evaluates is not looked at. The best accuracy, or lowest loss, after the
//! last round is taken, of equals the smaller rates; where that lies at the edge of the grid, a better one may lie
//! beyond, and the table says so.

use gossamer_protocol::manifest::{LocalOptimizer, ServerOptimizer};

use crate::report::{Comparison, MethodSummary, Rates, Trial, Tuned};
use crate::scenario::{MethodSpec, Scenario};

/// Which rates are tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// How many of the clients' rate; 1 leaves the file's.
    pub local: usize,
    /// How many of the server's; 1 leaves the file's.
    pub server: usize,
    /// From one to the next, above 1.
    pub factor: f64,
}

impl Grid {
    /// What the file's rates are multiplied by, smaller rates first: the clients', then the server's.
    #[must_use]
    pub fn points(&self) -> Vec<[f64; 2]> {
        let along = |n: usize| {
            let middle = (n.max(1) - 1) as f64 / 2.0;
            (0..n.max(1)).map(move |k| self.factor.powf(k as f64 - middle))
        };
        along(self.local)
            .flat_map(|local| along(self.server).map(move |server| [local, server]))
            .collect()
    }
}

/// The rates of `method` in `scenario`.
#[must_use]
pub fn rates(scenario: &Scenario, method: &MethodSpec) -> Rates {
    let mut local = scenario.training(method).optimizer;
    let mut server = method.optimizer.unwrap_or(scenario.optimizer);
    Rates { local: *local_rate(&mut local), server: *server_rate(&mut server) }
}

/// `method` as the file has it.
#[must_use]
pub fn untuned(scenario: &Scenario, method: &MethodSpec) -> Tuned {
    let rates = rates(scenario, method);
    Tuned { method: method.name.clone(), rates, trials: Vec::new(), at_edge: false }
}

/// Has `method` train with `rates`.
pub fn set(scenario: &mut Scenario, method: usize, rates: Rates) {
    let spec = &scenario.methods[method];
    let mut local = scenario.training(spec).optimizer;
    let mut server = spec.optimizer.unwrap_or(scenario.optimizer);
    *local_rate(&mut local) = rates.local;
    *server_rate(&mut server) = rates.server;
    let spec = &mut scenario.methods[method];
    (spec.training.optimizer, spec.optimizer) = (Some(local), Some(server));
}

fn local_rate(optimizer: &mut LocalOptimizer) -> &mut f64 {
    match optimizer {
        LocalOptimizer::Sgd { lr, .. } | LocalOptimizer::AdamW { lr, .. } => lr,
    }
}

fn server_rate(optimizer: &mut ServerOptimizer) -> &mut f64 {
    match optimizer {
        ServerOptimizer::Sgd { lr, .. }
        | ServerOptimizer::AdamW { lr, .. }
        | ServerOptimizer::FedAdam { lr, .. }
        | ServerOptimizer::FedYogi { lr, .. }
        | ServerOptimizer::FedAdagrad { lr, .. } => lr,
    }
}

/// The first seed that the comparison has not.
#[must_use]
pub fn seed(scenario: &Scenario) -> u64 {
    (0..).find(|seed| !scenario.seeds.contains(seed)).unwrap_or_default()
}

/// Tunes every method; `run` tells how a scenario fares, whose every method is at one point of the grid.
///
/// # Errors
/// Those of `run`.
pub fn tune<E>(
    scenario: &Scenario,
    grid: &Grid,
    mut run: impl FnMut(usize, Scenario) -> Result<Comparison, E>,
) -> Result<Vec<Tuned>, E> {
    let own: Vec<Rates> = scenario.methods.iter().map(|method| rates(scenario, method)).collect();
    let mut trials: Vec<Vec<Trial>> = vec![Vec::new(); own.len()];
    for (at, [local, server]) in grid.points().into_iter().enumerate() {
        let mut point = scenario.clone();
        point.seeds = vec![seed(scenario)];
        let scaled = |own: &Rates| Rates { local: own.local * local, server: own.server * server };
        own.iter().enumerate().for_each(|(method, own)| set(&mut point, method, scaled(own)));
        let names: Vec<String> = point.methods.iter().map(|method| method.name.clone()).collect();
        let comparison = run(at, point)?;
        for ((name, own), trials) in names.iter().zip(&own).zip(&mut trials) {
            let summary = comparison.methods.iter().find(|summary| summary.name == *name);
            trials.push(Trial { rates: scaled(own), cost: summary.and_then(cost) });
        }
    }
    let all = scenario.methods.iter().zip(own).zip(trials);
    Ok(all.map(|((method, own), trials)| choose(&method.name, own, trials, grid)).collect())
}

fn cost(summary: &MethodSummary) -> Option<f64> {
    let cost = match (summary.diverged, summary.final_accuracy, summary.final_loss) {
        (1.., _, _) => None,
        (0, Some(accuracy), _) => Some(-accuracy.mean),
        (0, None, loss) => loss.map(|loss| loss.mean),
    };
    cost.filter(|cost| cost.is_finite())
}

/// The best of `trials`, in the order of [`Grid::points`]; where all diverged, the file's own.
fn choose(method: &str, own: Rates, trials: Vec<Trial>, grid: &Grid) -> Tuned {
    let costs = trials.iter().enumerate().filter_map(|(at, trial)| Some((at, trial.cost?)));
    let best = costs.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(at, _)| at);
    let (width, method) = (grid.server.max(1), method.to_owned());
    let outer = |place: usize, n: usize| n > 1 && (place == 0 || place + 1 == n);
    let at_edge =
        best.is_none_or(|at| outer(at / width, grid.local) || outer(at % width, grid.server));
    Tuned { method, rates: best.map_or(own, |at| trials[at].rates), trials, at_edge }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn smoke() -> Scenario {
        Scenario::parse(include_str!("../scenarios/smoke.toml"), Path::new("")).expect("sound")
    }

    #[test]
    fn a_grid_is_geometric_around_the_file() {
        let grid = Grid { local: 3, server: 2, factor: 4.0 };
        let expected = [[0.25, 0.5], [0.25, 2.0], [1.0, 0.5], [1.0, 2.0], [4.0, 0.5], [4.0, 2.0]];
        assert_eq!(grid.points(), expected);
        assert_eq!(Grid { local: 1, server: 1, factor: 4.0 }.points(), [[1.0, 1.0]]);
    }

    /// The file's rates are 0.05 and 0.005. `cost = (ln(local / best))^2` with the best at 0.5 for the first method,
    /// beyond the grid, and 0.06 for the second, in the middle.
    #[test]
    fn each_method_gets_its_own_best() {
        let scenario = smoke();
        assert_eq!(rates(&scenario, &scenario.methods[0]), Rates { local: 0.05, server: 0.005 });
        assert_eq!(seed(&scenario), 0, "the file has 1");
        let grid = Grid { local: 3, server: 1, factor: 2.0 };
        let mut seen = Vec::new();
        let tuned = tune(&scenario, &grid, |at, point| {
            assert_eq!(point.seeds, [0]);
            let local = rates(&point, &point.methods[0]).local;
            seen.push((at, local));
            let row = |name: &str, best: f64| {
                let mut row = crate::report::tests::rows().remove(0);
                row.method = name.to_owned();
                row.heldout_loss = Some((local / best).ln().powi(2));
                row
            };
            Ok::<_, ()>(Comparison::new(&[row("dense", 0.5), row("gossamer-1/4", 0.06)], "dense"))
        });
        let tuned = tuned.expect("sound");
        assert_eq!(seen, [(0, 0.025), (1, 0.05), (2, 0.1)]);
        assert_eq!((tuned[0].rates.local, tuned[0].at_edge), (0.1, true));
        assert_eq!((tuned[1].rates.local, tuned[1].at_edge), (0.05, false));
        assert_eq!((tuned[1].rates.server, tuned[1].trials.len()), (0.005, 3));
    }

    #[test]
    fn what_diverges_is_not_taken() {
        let rates = |local| Rates { local, server: 1.0 };
        let trial = |local, cost| Trial { rates: rates(local), cost };
        let grid = Grid { local: 3, server: 1, factor: 10.0 };
        let trials = vec![trial(0.1, Some(2.0)), trial(1.0, Some(2.0)), trial(10.0, None)];
        assert_eq!(
            choose("m", rates(1.0), trials, &grid).rates,
            rates(0.1),
            "of equals the smaller"
        );
        let lost = choose("m", rates(1.0), vec![trial(0.1, None); 3], &grid);
        assert_eq!((lost.rates, lost.at_edge), (rates(1.0), true));
    }
}
