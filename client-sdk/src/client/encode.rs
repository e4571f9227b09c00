//! From a trained change to the frame that travels: feedback, selection, budget, codec.

use gossamer_protocol::budget;
use gossamer_protocol::frame::{Terms, Update, UpdateHead};
use gossamer_protocol::ids::RoundId;
use gossamer_protocol::manifest::Feedback;
use gossamer_protocol::select::{Scene, domain, select, tier};
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
    /// What the frame says before its entries.
    pub(super) head: UpdateHead,
    /// Bytes it was expected to take, places being uniform.
    pub(super) predicted: u64,
    /// What is to be kept for the next time, once this one is delivered.
    pub(super) residual: Option<Residual>,
    /// The same of its control variate.
    pub(super) control: Option<Vec<u8>>,
}

/// Entries that not every client has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Whose<'a> {
    /// The snapshot's, where the aggregator needs them to read an update.
    pub(super) shared: Option<&'a Support>,
    /// Those that this client trained; `None`: all.
    pub(super) own: Option<&'a Support>,
}

/// Selects and codes `delta`, which was trained from `theta`; both of shape `[n]`. `update` says all but
/// the entries.
pub(super) fn make(
    terms: &Terms<'_>,
    update: Update,
    mut delta: Vec<f32>,
    theta: &[f32],
    whose: Whose<'_>,
    before: Option<&Residual>,
) -> Result<Made, ClientError> {
    let Whose { shared, own } = whose;
    let boxed = |e: Box<dyn std::error::Error + Send + Sync>| ClientError::Update(e);
    let manifest = terms.manifest();
    let (upload, round) = (&manifest.method.upload, terms.round());
    if let (Some(feedback), Some(before)) = (upload.feedback, before) {
        before.add_to(&mut delta, round, feedback);
    }
    let domain = terms.domain(update.origin.client, shared);
    let scene = Scene { layout: &manifest.layout, delta: &delta, theta };
    let whole = terms.is_dense_round() || terms.shares_support();
    let (frame, entries, predicted) = if let (Some(most), false) = (upload.bytes_max, whole) {
        let fitted = budget::fit(&update, terms, shared, &scene, most as usize);
        let fitted = fitted.map_err(|e| boxed(e.into()))?;
        (fitted.frame, fitted.entries, fitted.predicted)
    } else {
        let (density, values) = upload.at(round);
        let least = tier::of(manifest, update.origin.client).and_then(|tier| tier.density);
        let density = least.filter(|least| f64::from(*least) < density.into()).unwrap_or(density);
        let support = if whole {
            domain.clone()
        } else {
            // What did not move for want of training need not travel.
            let moved = own.map_or_else(|| domain.clone(), |own| domain.and(own));
            select(manifest, &upload.select, density, &moved, &scene)
                .map_err(|e| boxed(e.into()))?
        };
        let sent = Sparse::gather(&delta, support).map_err(|e| boxed(e.into()))?;
        let (n, k) = (domain.count(delta.len()), sent.values().len());
        let update = Update { delta: sent, ..update.clone() };
        let frame = update.encode(terms, shared).map_err(|e| boxed(e.into()))?;
        (frame, k, budget::predicted_len(n, k, values))
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
    let head = UpdateHead { examples: update.examples, loss: update.loss, entries };
    Ok(Made { frame, head, predicted, residual, control: None })
}

/// The entries that a client may train, where those are not all. `own`: those of its tier.
pub(super) fn trainable(
    terms: &Terms<'_>,
    shared: Option<&Support>,
    own: Option<Support>,
) -> Option<Support> {
    if terms.shares_support() {
        return shared.cloned();
    }
    let manifest = terms.manifest();
    if !manifest.method.takes_turns() {
        return own;
    }
    let has_turn = |tensor| domain::has_turn(manifest, terms.round(), tensor);
    let of_turn = manifest.layout.tensors().filter(|(tensor, _)| has_turn(tensor));
    let indices = of_turn.flat_map(|(_, range)| range.start as u32..range.end as u32).collect();
    let turn = Support::Indices(indices);
    Some(own.map_or_else(|| turn.clone(), |own| turn.and(&own)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossamer_protocol::digest::Digest;
    use gossamer_protocol::frame::Origin;
    use gossamer_protocol::ids::{Attempt, ClientId, RunId};
    use gossamer_protocol::manifest::{Manifest, Tier};
    use gossamer_protocol::rng::Stream;

    use crate::model::fixture;
    use crate::model::llama::tests::tiny;

    const RUN: RunId = RunId([1; 16]);

    fn manifest(change: impl FnOnce(&mut Manifest)) -> Manifest {
        let base = fixture::base(&tiny());
        let mut manifest = fixture::manifest(&base, &["q_proj"], false);
        change(&mut manifest);
        manifest
    }

    fn nothing(manifest: &Manifest, round: u64) -> Update {
        let origin = Origin {
            run: RUN,
            round: RoundId(round),
            attempt: Attempt(0),
            client: ClientId([2; 16]),
            snapshot: Digest::of(b"s"),
        };
        let none = Support::Indices(Vec::new());
        let delta = Sparse::new(manifest.layout.n(), none, Vec::new()).expect("empty");
        Update { origin, examples: 1, loss: 1.0, delta }
    }

    fn sent(manifest: &Manifest, made: &Made, round: u64) -> Vec<f32> {
        let terms = Terms::new(manifest, RUN, RoundId(round));
        let origin = nothing(manifest, round).origin;
        let update = Update::decode(&made.frame, &terms, &origin, None).expect("own frame");
        let mut dense = vec![0.0; manifest.layout.n()];
        update.delta.add_to(&mut dense);
        dense
    }

    fn drift(manifest: &Manifest) -> Vec<f32> {
        let mut rng = Stream::new(4, "drift", &[]);
        (0..manifest.layout.n()).map(|_| (0.01 * rng.normal()) as f32).collect()
    }

    /// With nothing forgotten, four rounds of a quarter each send the whole change, bit for bit.
    #[test]
    fn what_was_not_sent_is_sent_later() {
        let manifest = manifest(|m| {
            m.method.upload.density = 0.25_f64.try_into().expect("a share");
            m.method.upload.feedback = Some(Feedback { decay: 1.0, rounds_max: 9 });
        });
        let n = manifest.layout.n();
        let delta = drift(&manifest);
        let (mut before, mut sum) = (None, vec![0.0_f32; n]);
        for round in 0..5 {
            let terms = Terms::new(&manifest, RUN, RoundId(round));
            let trained = if round == 0 { delta.clone() } else { vec![0.0; n] };
            let update = nothing(&manifest, round);
            let made =
                make(&terms, update, trained, &vec![0.0; n], Whose::default(), before.as_ref());
            let made = made.expect("in range");
            sum.iter_mut().zip(sent(&manifest, &made, round)).for_each(|(s, v)| *s += v);
            before = made.residual;
        }
        assert_eq!(sum, delta);
    }

    #[test]
    fn a_residual_decays_by_rounds_gone_and_is_forgotten() {
        let feedback = Feedback { decay: 0.5, rounds_max: 3 };
        let residual = Residual { round: RoundId(4), values: vec![8.0, -2.0] };
        let after = |round| {
            let mut delta = vec![1.0, 0.0];
            residual.add_to(&mut delta, RoundId(round), feedback);
            delta
        };
        assert_eq!(after(4), [1.0, 0.0], "the same round again");
        assert_eq!(after(5), [5.0, -1.0]);
        assert_eq!(after(7), [2.0, -0.25]);
        assert_eq!(after(8), [1.0, 0.0], "too old");
    }

    #[test]
    fn a_residual_of_another_adapter_or_torn_is_forgotten() {
        let residual = Residual { round: RoundId(9), values: vec![0.5, -0.25] };
        let bytes = residual.to_bytes();
        assert_eq!(Residual::from_bytes(&bytes, 2), Some(residual));
        assert_eq!(Residual::from_bytes(&bytes, 3), None);
        for cut in 0..bytes.len() {
            assert_eq!(Residual::from_bytes(&bytes[..cut], 2), None, "{cut}");
        }
        let nan = Residual { round: RoundId(0), values: vec![f32::NAN, 0.0] };
        assert_eq!(Residual::from_bytes(&nan.to_bytes(), 2), None);
    }

    /// The manifest says bytes: the frame has no more, and the prediction is told.
    #[test]
    fn a_byte_budget_is_kept() {
        let manifest = manifest(|m| m.method.upload.bytes_max = Some(300));
        let terms = Terms::new(&manifest, RUN, RoundId(0));
        let n = manifest.layout.n();
        let (update, zeros) = (nothing(&manifest, 0), vec![0.0; n]);
        let made = make(&terms, update, drift(&manifest), &zeros, Whose::default(), None);
        let made = made.expect("fits");
        assert!((200..=300).contains(&made.frame.len()), "{}", made.frame.len());
        assert!(made.predicted.abs_diff(made.frame.len() as u64) < 60, "{}", made.predicted);
        assert!(sent(&manifest, &made, 0).iter().any(|&v| v != 0.0));
    }

    /// A client of half the entries sends half as many; one of a smaller rank just its components.
    #[test]
    fn a_tier_sends_less() {
        let client = ClientId([2; 16]);
        let by = |tier: Tier| {
            let manifest = manifest(|m| m.method.tiers = vec![tier]);
            let n = manifest.layout.n();
            let terms = Terms::new(&manifest, RUN, RoundId(0));
            let update = nothing(&manifest, 0);
            let (zeros, drift) = (vec![0.0; n], drift(&manifest));
            let made = make(&terms, update, drift, &zeros, Whose::default(), None);
            let sent = sent(&manifest, &made.expect("in range"), 0);
            (sent.iter().filter(|v| **v != 0.0).count(), terms.domain(client, None).count(n), n)
        };
        let (sent, domain, n) =
            by(Tier { density: Some(0.5_f64.try_into().expect("a share")), rank: None });
        assert_eq!((sent, domain), (n / 2, n));
        let (sent, domain, n) = by(Tier { rank: Some(1), density: None });
        assert!(sent == domain && domain < n, "{sent} of {domain} of {n}");
    }

    #[test]
    fn only_the_part_whose_turn_it_is_trains() {
        let manifest = manifest(|m| {
            m.method.alternate = Some(gossamer_protocol::manifest::Alternation { rounds: 1 });
        });
        for round in 0..2 {
            let terms = Terms::new(&manifest, RUN, RoundId(round));
            let trains = trainable(&terms, None, None).expect("a part");
            assert_eq!(trains, terms.domain(ClientId([2; 16]), None), "what trains may travel");
            assert!(trains.count(manifest.layout.n()) < manifest.layout.n());
        }
    }
}
