//! The most that fits into so many bytes: density and bits for a byte budget.
//!
//! For each value code, the largest density that fits is found by prediction and one or two corrections
//! with the real encoder; the code with the least squared error wins. A few dozen milliseconds for a
//! million parameters, next to minutes of training.

use crate::codec::bound;
use crate::density::Density;
use crate::frame::{FrameError, Terms, UPDATE_OVERHEAD, Update};
use crate::manifest::Values;
use crate::select::{Scene, SelectError, select};
use crate::sparse::{Sparse, Support};

/// Codes that are tried.
const CANDIDATES: [Values; 5] =
    [Values::Sign, Values::Lloyd2, Values::Lloyd3, Values::Int4, Values::Int8];
/// Encodings of one code at most.
const TRIES: usize = 4;

/// What fits.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The frame, of at most so many bytes.
    pub frame: Vec<u8>,
    /// How values are coded in it.
    pub values: Values,
    /// Entries sent.
    pub entries: usize,
    /// Bytes that were expected, places being uniform.
    pub predicted: u64,
    /// What a receiver gets.
    pub decoded: Sparse,
}

/// Why nothing fits.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// The change cannot be ranked.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The change cannot be coded.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Not even one entry.
    #[error("not one entry fits into {0} bytes")]
    Small(usize),
}

/// The frame of at most `most` bytes that carries the most of `scene.delta`. `update` says all but the
/// entries.
///
/// # Errors
/// [`BudgetError`] where the change is not finite or nothing fits.
pub fn fit(
    update: &Update,
    terms: &Terms<'_>,
    shared: Option<&Support>,
    scene: &Scene<'_>,
    most: usize,
) -> Result<Fitted, BudgetError> {
    let domain = terms.domain(update.origin.client, shared);
    let size = domain.count(scene.layout.n());
    let mut best: Option<(f64, Fitted)> = None;
    for values in CANDIDATES {
        let mut share = predicted_share(size, values, most);
        let mut fitted: Option<Fitted> = None;
        for _ in 0..TRIES {
            let Ok(density) = Density::try_from(share) else { break };
            let frame = try_density(update, terms, shared, scene, &domain, values, density)?;
            let len = frame.len();
            if len <= most {
                let decoded = Update::decode(&frame, terms, &update.origin, shared)?.delta;
                let entries = decoded.values().len();
                if fitted.as_ref().is_none_or(|f| f.entries < entries) {
                    let predicted = predicted_len(size, entries, values);
                    fitted = Some(Fitted { frame, values, entries, predicted, decoded });
                }
            }
            // Bytes grow a little slower than entries; aim just below.
            let room = most.saturating_sub(UPDATE_OVERHEAD) as f64;
            let used = len.saturating_sub(UPDATE_OVERHEAD).max(1) as f64;
            let next = (share * (0.995 * room / used)).min(1.0);
            if (next / share - 1.0).abs() < 0.01 {
                break;
            }
            share = next;
        }
        let Some(fitted) = fitted else { continue };
        let error = squared_error(scene.delta, &fitted.decoded);
        if best.as_ref().is_none_or(|(least, _)| error < *least) {
            best = Some((error, fitted));
        }
    }
    best.map(|(_, fitted)| fitted).ok_or(BudgetError::Small(most))
}

fn try_density(
    update: &Update,
    terms: &Terms<'_>,
    shared: Option<&Support>,
    scene: &Scene<'_>,
    domain: &Support,
    values: Values,
    density: Density,
) -> Result<Vec<u8>, BudgetError> {
    let manifest = terms.manifest();
    let rule = &manifest.method.upload.select;
    let support = select(manifest, rule, density, domain, scene)?;
    let gathered =
        Sparse::gather(scene.delta, support).map_err(|e| FrameError::Entries(e.into()))?;
    let update = Update { delta: gathered, ..update.clone() };
    Ok(update.encode_as(terms, shared, values)?)
}

/// Bytes of an update of `k` entries of a domain of `n`, if their places were uniform.
#[must_use]
pub fn predicted_len(n: usize, k: usize, values: Values) -> u64 {
    UPDATE_OVERHEAD as u64 + (bound::uniform_bits(n, k, values) / 8.0).ceil() as u64
}

/// The largest share whose predicted length fits.
fn predicted_share(n: usize, values: Values, most: usize) -> f64 {
    let (mut low, mut high) = (0, n);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        // Rising: more entries cost more, but for the places of nearly all.
        if predicted_len(n, middle, values) <= most as u64 {
            low = middle
        } else {
            high = middle - 1
        }
    }
    low.max(1) as f64 / n.max(1) as f64
}

fn squared_error(delta: &[f32], sent: &Sparse) -> f64 {
    let mut error: f64 = delta.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    for (index, value) in sent.iter() {
        let (exact, value) = (f64::from(delta[index]), f64::from(value));
        error += (exact - value) * (exact - value) - exact * exact;
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::frame::Origin;
    use crate::ids::{Attempt, ClientId, RoundId, RunId};
    use crate::layout::{BaseLinear, Layout};
    use crate::rng::Stream;

    #[test]
    fn fills_the_budget_and_no_more() {
        let linear = BaseLinear { name: "m.q_proj".into(), d_in: 128, d_out: 96 };
        let mut manifest = crate::manifest::tests::manifest();
        manifest.layout = Layout::lora(&[linear], &["q_proj".into()], 16, false).expect("valid");
        let n = manifest.layout.n();
        let mut rng = Stream::new(3, "test", &[]);
        let delta: Vec<f32> = (0..n).map(|_| (0.001 * rng.normal().powi(3)) as f32).collect();
        let theta = manifest.layout.init(1);
        let scene = Scene { layout: &manifest.layout, delta: &delta, theta: &theta };
        let origin = Origin {
            run: RunId([1; 16]),
            round: RoundId(0),
            attempt: Attempt(0),
            client: ClientId([2; 16]),
            snapshot: Digest::of(b"s"),
        };
        let nothing = Sparse::new(n, Support::Indices(vec![]), vec![]).expect("valid");
        let update = Update { origin, examples: 1, loss: 1.0, delta: nothing };
        let mut last_error = f64::INFINITY;
        for most in [256, 400, 800, 1_600] {
            let mut manifest = manifest.clone();
            manifest.method.upload.bytes_max = Some(most);
            let terms = Terms::new(&manifest, origin.run, origin.round);
            let fitted = fit(&update, &terms, None, &scene, most as usize).expect("fits");
            let len = fitted.frame.len();
            assert!(len <= most as usize && len * 100 >= most as usize * 93, "{len} of {most}");
            let read = Update::decode(&fitted.frame, &terms, &origin, None).expect("allowed");
            assert_eq!(read.delta, fitted.decoded);
            // Places of i.i.d. entries cannot be modelled, but their magnitudes can: never much more
            // than predicted, and not much less.
            let ratio = fitted.predicted as f64 / len as f64;
            assert!((0.95..1.3).contains(&ratio), "{ratio} at {most}");
            let error = squared_error(&delta, &fitted.decoded);
            assert!(error < last_error, "more bytes, less error");
            last_error = error;
        }
        let terms = Terms::new(&manifest, origin.run, origin.round);
        assert_eq!(fit(&update, &terms, None, &scene, 10).err(), Some(BudgetError::Small(10)));
    }
}
