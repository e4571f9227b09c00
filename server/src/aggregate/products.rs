//! Rules that look at a linear's factors as a whole: `B_k A_k` of client `k`, not their entries apart.
//!
//! Nothing is summed before everything is there; then all is computed in `f64` in the order of the clients'
//! names, so that the outcome is a function of the accepted set alone, whatever order it arrived in. A partial
//! one holds the updates themselves, and takes as much as they do. What is no factor, a task head, gets the
//! exact mean.
//!
//! A partial one's bytes: `length u64 | the rest's fold | for each update: client [16] | weight u32 | f32 x n`,
//! little-endian.
//!
//! The factors of a client are what it started from, which its tier may cut, and its change; entries that it
//! did not send did not move.
//! The rules and their sources are said at [`Combine`].

use std::collections::HashMap;
use std::ops::Range;

use gossamer_protocol::fold::{Fold, FoldError, WEIGHT_MAX};
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::layout::{Pair, TensorSpec, pairs};
use gossamer_protocol::manifest::{Average, Combine, Manifest};
use gossamer_protocol::select::tier;
use gossamer_protocol::sparse::Sparse;

use super::dense::{Dense, largest, orthonormal, solve};
use super::{AggregateError, Aggregator, Start, Worth};

/// The updates of a round, and what they started from.
pub(super) struct Products {
    manifest: Manifest,
    pairs: Vec<Pair>,
    /// Each linear's, by where its B starts.
    scales: HashMap<usize, f64>,
    start: Start,
    /// Of what is no factor.
    rest: Fold,
    updates: Vec<Sent>,
}

/// One client's update.
struct Sent {
    client: ClientId,
    weight: u32,
    /// What it trained, shape `[n]`.
    local: Vec<f32>,
}

/// One client's factors of one linear, and its share of the average.
#[derive(Clone)]
struct Factors {
    share: f64,
    b: Dense,
    a: Dense,
    /// Between them; of no rows where there is none.
    core: Dense,
}

impl Products {
    pub(super) fn new(manifest: &Manifest, start: Start) -> Self {
        // A manifest whose patterns do not compile is not run.
        let rules = manifest.lora.rules().ok();
        let scale = |(tensor, place): (&TensorSpec, Range<usize>)| {
            let module = tensor.name.rsplit_once('.').map_or("", |(module, _)| module);
            Some((place.start, rules.as_ref()?.scale(module)))
        };
        Self {
            manifest: manifest.clone(),
            pairs: pairs(&manifest.layout),
            scales: manifest.layout.tensors().filter_map(scale).collect(),
            start,
            rest: Fold::new(manifest.layout.n(), manifest.method.average),
            updates: Vec::new(),
        }
    }

    /// Factors before training.
    fn anew(&self, pair: &Pair) -> (Dense, Dense) {
        let start = self.manifest.layout.init(self.manifest.seed);
        (Dense::zeros(pair.d_out, pair.rank), Dense::of(pair.d_in, &start[pair.a.clone()]))
    }

    /// The weight's change behind the factors, in place of the aggregator's own, and its place: with
    /// `scale (sum w_k B_k A_k - B A)` more, `B A` being what the factors still give.
    fn weight(&self, pair: &Pair, factors: &[Factors], now: [&Dense; 2]) -> (Range<usize>, Dense) {
        // The manifest has it behind B.
        let place = pair.b.end..pair.b.end + pair.d_out * pair.d_in;
        let mut weight = Dense::of(pair.d_in, &self.start.theta[place.clone()]);
        let scale = self.scales.get(&pair.b.start).copied().unwrap_or(1.0);
        for factors in factors {
            weight.add(scale * factors.share, &factors.b.times(&factors.a));
        }
        weight.add(-scale, &now[0].times(now[1]));
        (place, weight)
    }
}

impl Aggregator for Products {
    fn add(
        &mut self,
        client: ClientId,
        update: &Sparse,
        worth: Worth,
    ) -> Result<(), AggregateError> {
        let weight = match self.manifest.method.average {
            Average::Examples => worth.examples.clamp(1, WEIGHT_MAX),
            Average::Cohort | Average::Contributors => 1,
        };
        let mut local = tier::part(&self.manifest, client, &self.start.snapshot)?.theta;
        self.rest.add_weighted(update, weight)?;
        update.add_to(&mut local);
        self.updates.push(Sent { client, weight, local });
        Ok(())
    }

    fn partial(&self) -> Vec<u8> {
        let fold = self.rest.to_bytes();
        let mut out = (fold.len() as u64).to_le_bytes().to_vec();
        out.extend(fold);
        for Sent { client, weight, local } in &self.updates {
            out.extend(client.0);
            out.extend(weight.to_le_bytes());
            out.extend(local.iter().flat_map(|v| v.to_le_bytes()));
        }
        out
    }

    fn merge(&mut self, partial: &[u8]) -> Result<(), AggregateError> {
        let bad = || AggregateError::Fold(FoldError::Bytes);
        let (len, rest) = partial.split_first_chunk().ok_or_else(bad)?;
        let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| bad())?;
        let (fold, sent) = rest.split_at_checked(len).ok_or_else(bad)?;
        let each = 16 + 4 + 4 * self.start.theta.len();
        if !sent.len().is_multiple_of(each) {
            return Err(bad());
        }
        let read = |bytes: &[u8]| {
            let (client, rest) = bytes.split_first_chunk()?;
            let (weight, local) = rest.split_first_chunk()?;
            let local = local.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
            let (client, weight) = (ClientId(*client), u32::from_le_bytes(*weight));
            Some(Sent { client, weight, local })
        };
        let sent: Option<Vec<Sent>> = sent.chunks_exact(each).map(read).collect();
        let sent = sent.ok_or_else(bad)?;
        self.rest.merge(&Fold::from_bytes(fold)?)?;
        self.updates.extend(sent);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Option<Vec<f32>> {
        let mut delta = self.rest.mean()?;
        self.updates.sort_by_key(|sent| sent.client);
        let total: u64 = self.updates.iter().map(|sent| u64::from(sent.weight)).sum();
        for pair in &self.pairs {
            let factors = |sent: &Sent| Factors {
                share: f64::from(sent.weight) / total as f64,
                b: Dense::of(pair.rank, &sent.local[pair.b.clone()]),
                a: Dense::of(pair.d_in, &sent.local[pair.a.clone()]),
                core: Dense::of(pair.rank, &sent.local[pair.core.clone()]),
            };
            let factors: Vec<Factors> = self.updates.iter().map(factors).collect();
            let mut made = Vec::with_capacity(3);
            let (b, a) = match self.manifest.method.combine {
                Combine::Mean | Combine::Residual => means(&factors),
                Combine::Norms => means(&by_norms(&factors)),
                Combine::Svd => decomposed(&factors, pair.rank),
                Combine::Refit(lambda) => refitted(&factors, lambda),
                Combine::Stack => self.anew(pair),
                Combine::Core => {
                    let (b, core, a) = with_core(&factors, self.start.snapshot.round);
                    made.push((pair.core.clone(), core));
                    (b, a)
                }
            };
            if self.manifest.method.combine.changes_weights() {
                made.push(self.weight(pair, &factors, [&b, &a]));
            }
            made.extend([(pair.b.clone(), b), (pair.a.clone(), a)]);
            for (place, new) in made {
                // In place of the aggregator's own, to which the step of 1 adds it.
                let values = delta[place.clone()].iter_mut().zip(&self.start.theta[place]);
                for ((delta, theta), new) in values.zip(new.values) {
                    *delta = (new - f64::from(*theta)) as f32;
                }
            }
        }
        Some(delta)
    }
}

/// `sum w_k B_k` and `sum w_k A_k`.
fn means(factors: &[Factors]) -> (Dense, Dense) {
    let (first, rest) = factors.split_first().expect("somebody reported");
    let zeros = |like: &Dense| Dense::zeros(like.rows, like.cols);
    let (mut b, mut a) = (zeros(&first.b), zeros(&first.a));
    for factors in std::iter::once(first).chain(rest) {
        b.add(factors.share, &factors.b);
        a.add(factors.share, &factors.a);
    }
    (b, a)
}

/// What the round of a core leads to: `B`, `R` and `A`.
fn with_core(factors: &[Factors], round: RoundId) -> (Dense, Dense, Dense) {
    let (b, a) = means(factors);
    let rank = b.cols;
    let mut core = Dense::zeros(rank, rank);
    match round.0 {
        // B's step is the gradient times the seeded A: its range. The branch is 0 again, and A's step will be
        // this range's share of the gradient.
        0 => {
            let basis = orthonormal(&b);
            let mut b = Dense::zeros(b.rows, rank);
            b.set(&basis);
            core.set_diagonal((0..rank).map(|_| 1.0));
            (b, core, Dense::zeros(a.rows, a.cols))
        }
        // `B A`, as it is: singular vectors beside their values.
        1 => {
            let (mut left, right) = largest(&b, &a, rank);
            let lengths = left.t().gram();
            let lengths: Vec<f64> = (0..left.cols).map(|i| lengths.at(i, i).sqrt()).collect();
            for row in left.values.chunks_exact_mut(lengths.len()) {
                // A component of length 0 stays so.
                row.iter_mut().zip(&lengths).for_each(|(value, length)| {
                    *value /= if *length > 0.0 { *length } else { 1.0 };
                });
            }
            core.set_diagonal(lengths.into_iter());
            let (mut b, mut a) = (Dense::zeros(b.rows, rank), Dense::zeros(rank, a.cols));
            b.set(&left);
            a.set(&right);
            (b, core, a)
        }
        _ => {
            for factors in factors {
                core.add(factors.share, &factors.core);
            }
            (b, core, a)
        }
    }
}

/// The same with shares by `||B_k A_k||_F`; as they were where all products are 0.
fn by_norms(factors: &[Factors]) -> Vec<Factors> {
    // ||B A||^2 = <B^T B, A A^T>, which rounding may take below 0.
    let norm = |f: &Factors| f.b.t().gram().inner(&f.a.gram()).max(0.0).sqrt();
    let norms: Vec<f64> = factors.iter().map(norm).collect();
    let total = norms.iter().fold(0.0, |sum, norm| sum + norm);
    let share = |(factors, norm): (&Factors, f64)| Factors {
        share: if total > 0.0 { norm / total } else { factors.share },
        ..factors.clone()
    };
    factors.iter().zip(norms).map(share).collect()
}

/// The largest components of `sum w_k B_k A_k = [w_1 B_1 ... w_K B_K] [A_1; ...; A_K]`.
fn decomposed(factors: &[Factors], rank: usize) -> (Dense, Dense) {
    let (d_out, d_in) = (factors[0].b.rows, factors[0].a.cols);
    let wide = rank * factors.len();
    let (mut b, mut a) = (Dense::zeros(d_out, wide), Dense::zeros(wide, d_in));
    for (k, factors) in factors.iter().enumerate() {
        for row in 0..d_out {
            let values = factors.b.row(row).iter().map(|v| factors.share * v);
            let place = row * wide + k * rank;
            b.values[place..][..rank].iter_mut().zip(values).for_each(|(to, value)| *to = value);
        }
        a.values[k * rank * d_in..][..rank * d_in].copy_from_slice(&factors.a.values);
    }
    let (left, right) = largest(&b, &a, rank);
    // A linear narrower than its rank has fewer components; the others are 0.
    let (mut b, mut a) = (Dense::zeros(d_out, rank), Dense::zeros(rank, d_in));
    b.set(&left);
    a.set(&right);
    (b, a)
}

/// The means with `B + (M - B A) A^T (A A^T + lambda)^-1`, where `M = sum w_k B_k A_k`.
fn refitted(factors: &[Factors], lambda: f64) -> (Dense, Dense) {
    let (mut b, a) = means(factors);
    let mut gram = a.gram();
    let turned = a.t();
    let mut right = Dense::zeros(b.rows, b.cols);
    for factors in factors {
        right.add(factors.share, &factors.b.times(&factors.a.times(&turned)));
    }
    right.add(-1.0, &b.times(&gram));
    for i in 0..gram.rows {
        gram.values[i * gram.rows + i] += lambda;
    }
    if let Some(step) = solve(&gram, &right) {
        b.add(1.0, &step);
    }
    (b, a)
}
