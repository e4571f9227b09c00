//! From a trained change to the frame that travels: feedback, selection, budget, codec.

use gossamer_protocol::budget;
use gossamer_protocol::frame::{Terms, Update};
use gossamer_protocol::ids::RoundId;
use gossamer_protocol::manifest::{Feedback, Manifest};
use gossamer_protocol::select::{Scene, domain, select};
use gossamer_protocol::sparse::{Sparse, Support};

use super::ClientError;

/// What a client did not send when it last took part.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Residual {
    /// The round it took part in.
    pub(super) round: RoundId,
    /// Trained minus sent, shape `[n]`.
    pub(super) values: Vec<f32>,
}

impl Residual {
    /// Its bytes: the round, then the values, little-endian.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let values = self.values.iter().flat_map(|v| v.to_le_bytes());
        self.round.0.to_le_bytes().into_iter().chain(values).collect()
    }

    /// Reads it for an adapter of `n` parameters; `None` for anything else, which then is forgotten.
    pub(super) fn from_bytes(bytes: &[u8], n: usize) -> Option<Self> {
        let (round, rest) = bytes.split_first_chunk()?;
        let (words, odd) = rest.as_chunks();
        let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        let whole = odd.is_empty() && values.len() == n && values.iter().all(|v| v.is_finite());
        whole.then_some(Self { round: RoundId(u64::from_le_bytes(*round)), values })
    }

    /// Adds what is left of it in `round` to `delta`.
    fn add_to(&self, delta: &mut [f32], round: RoundId, feedback: Feedback) {
        let gone = round.0.saturating_sub(self.round.0);
        if gone == 0 || gone > feedback.rounds_max {
            return;
        }
        // At most `rounds_max` factors; the same on every machine.
        let share = (0..gone).fold(1.0_f32, |share, _| share * feedback.decay);
        for (value, kept) in delta.iter_mut().zip(&self.values) {
            *value += share * kept;
        }
    }
}

/// A frame, and what its making leaves.
pub(super) struct Made {
    pub(super) frame: Vec<u8>,
    /// Bytes it was expected to take, places being uniform.
    pub(super) predicted: u64,
    /// What is to be kept for the next time, once this one is delivered.
    pub(super) residual: Option<Residual>,
}

/// Selects and codes `delta`, which was trained from `theta`; both of shape `[n]`. `update` says all but
/// the entries.
pub(super) fn make(
    terms: &Terms<'_>,
    update: Update,
    mut delta: Vec<f32>,
    theta: &[f32],
    shared: Option<&Support>,
    before: Option<&Residual>,
) -> Result<Made, ClientError> {
    let boxed = |e: Box<dyn std::error::Error + Send + Sync>| ClientError::Update(e);
    let manifest = terms.manifest();
    let (upload, round) = (&manifest.method.upload, terms.round());
    if let (Some(feedback), Some(before)) = (upload.feedback, before) {
        before.add_to(&mut delta, round, feedback);
    }
    let domain = terms.domain(update.origin.client, shared);
    let scene = Scene { layout: &manifest.layout, delta: &delta, theta };
    let whole = terms.is_dense_round() || terms.shares_support();
    let (frame, predicted) = if let (Some(most), false) = (upload.bytes_max, whole) {
        let fitted = budget::fit(&update, terms, shared, &scene, most as usize);
        let fitted = fitted.map_err(|e| boxed(e.into()))?;
        (fitted.frame, fitted.predicted)
    } else {
        let (density, values) = upload.at(round);
        let support = if whole {
            domain.clone()
        } else {
            select(manifest, &upload.select, density, &domain, &scene)
                .map_err(|e| boxed(e.into()))?
        };
        let sent = Sparse::gather(&delta, support).map_err(|e| boxed(e.into()))?;
        let (n, k) = (domain.count(delta.len()), sent.values().len());
        let update = Update { delta: sent, ..update.clone() };
        let frame = update.encode(terms, shared).map_err(|e| boxed(e.into()))?;
        (frame, budget::predicted_len(n, k, values))
    };
    let residual = match upload.feedback {
        None => None,
        Some(_) => {
            let read = Update::decode(&frame, terms, &update.origin, shared);
            let mut values = delta;
            for (index, value) in read.map_err(|e| boxed(e.into()))?.delta.iter() {
                values[index] -= value;
            }
            Some(Residual { round, values })
        }
    };
    Ok(Made { frame, predicted, residual })
}

/// The entries that a client may train, where those are not all.
pub(super) fn trainable(
    terms: &Terms<'_>,
    manifest: &Manifest,
    shared: Option<&Support>,
) -> Option<Support> {
    if terms.shares_support() {
        return shared.cloned();
    }
    manifest.method.alternate?;
    let has_turn = |tensor| domain::has_turn(manifest, terms.round(), tensor);
    let of_turn = manifest.layout.tensors().filter(|(tensor, _)| has_turn(tensor));
    let indices = of_turn.flat_map(|(_, range)| range.start as u32..range.end as u32).collect();
    Some(Support::Indices(indices))
}
