//! Mean cross-entropy over a vocabulary: `-mean over tokens of log softmax(z)[target]`, in nats.
//!
//! Backward: `dz = (softmax(z) - onehot(target)) / tokens`; rows without a target get 0.

use super::exp::exp;
use super::{sum, team, vectorised};
use crate::data::IGNORE;

/// Entries summed at once; the same in both functions, so that their sums agree.
const PART: usize = 1024;
/// Operations an entry, or what takes as long.
const WORK: usize = 64;

/// The sum over rows with a target, and how many there are; rows may come in several calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Nats {
    pub(crate) sum: f64,
    pub(crate) tokens: u64,
}

impl Nats {
    /// Adds the rows' losses, in order; a row without a target has none.
    fn add(&mut self, losses: &[Option<f64>]) {
        for loss in losses.iter().flatten() {
            self.tokens += 1;
            self.sum += loss;
        }
    }
}

/// `log(total) + top - wanted`; `libm`'s logarithm is the same on every machine.
#[inline(always)]
fn loss(total: f32, top: f32, wanted: f32) -> f64 {
    libm::log(f64::from(total)) + f64::from(top) - f64::from(wanted)
}

/// How many of `targets` are learned from.
pub(crate) fn learned(targets: &[u32]) -> usize {
    targets.iter().filter(|&&target| target != IGNORE).count()
}

/// Adds to `nats`. `z`: logits `[n, v]`, `targets`: `[n]`, each below `v` or [`IGNORE`].
pub(crate) fn forward(nats: &mut Nats, z: &[f32], targets: &[u32]) {
    let v = (z.len() / targets.len().max(1)).max(1);
    let n = team::share(targets.len(), WORK * v);
    let mut losses = vec![None; targets.len()];
    let parts = z.chunks(n * v).zip(targets.chunks(n)).zip(losses.chunks_mut(n));
    team::each(parts, |((z, targets), losses)| {
        let mut part = [0.0; PART];
        vectorised(
            #[inline(always)]
            || {
                let rows = z.chunks_exact(v).zip(targets).zip(losses.iter_mut());
                for ((row, &target), out) in rows {
                    if target == IGNORE {
                        continue;
                    }
                    let top = sum::max(row);
                    let mut total = 0.0;
                    for z in row.chunks(PART) {
                        let part = &mut part[..z.len()];
                        for (part, &z) in part.iter_mut().zip(z) {
                            *part = exp(z - top);
                        }
                        total += sum::sum(part);
                    }
                    *out = Some(loss(total, top, row[target as usize]));
                }
            },
        );
    });
    nats.add(&losses);
}

/// As [`forward`], and turns `z` into its gradient of the mean over `tokens`, which may count those of
/// other rows too.
pub(crate) fn backward_in_place(nats: &mut Nats, z: &mut [f32], targets: &[u32], tokens: usize) {
    let v = (z.len() / targets.len().max(1)).max(1);
    let n = team::share(targets.len(), WORK * v);
    let mut losses = vec![None; targets.len()];
    let parts = z.chunks_mut(n * v).zip(targets.chunks(n)).zip(losses.chunks_mut(n));
    team::each(parts, |((z, targets), losses)| {
        vectorised(
            #[inline(always)]
            || {
                let rows = z.chunks_exact_mut(v).zip(targets).zip(losses.iter_mut());
                for ((row, &target), out) in rows {
                    if target == IGNORE {
                        row.fill(0.0);
                        continue;
                    }
                    let top = sum::max(row);
                    let wanted = row[target as usize];
                    for z in row.iter_mut() {
                        *z = exp(*z - top);
                    }
                    let mut total = 0.0;
                    for part in row.chunks(PART) {
                        total += sum::sum(part);
                    }
                    *out = Some(loss(total, top, wanted));
                    let scale = 1.0 / (total * tokens as f32);
                    for z in row.iter_mut() {
                        *z *= scale;
                    }
                    row[target as usize] -= 1.0 / tokens as f32;
                }
            },
        );
    });
    nats.add(&losses);
}
