//! Full-parameter training of a new base model, for `gossamer-sim pretrain`.
//!
//! Weights start normal with deviation 0.02 (norms at 1, biases at 0) from a seeded stream; AdamW moves
//! them all. Batches of one step run on a thread each and their gradients are added in the order
//! given, so the result depends on the batches alone.

use gossamer_protocol::rng::Stream;

use crate::data::{Batch, BatchError};
use crate::model::frozen::{Frozen, Gradients};
use crate::model::held::Weights;
use crate::model::llama::{Llama, LlamaMap};
use crate::model::network::{Body, Head, Loss, Network, Tape};
use crate::model::{LlamaConfig, ModelError, safetensors};
use crate::ops;
use crate::optim::{AdamW, clip};

/// Deviation of the weights' start, as Llama has it.
const DEVIATION: f64 = 0.02;

/// A base model in the making.
#[derive(Debug)]
pub struct Pretraining {
    config: LlamaConfig,
    map: LlamaMap,
    flat: Vec<f32>,
    optimizer: AdamW,
    /// By batch of a step.
    workers: Vec<Worker>,
}

#[derive(Debug, Default)]
struct Worker {
    tape: Tape,
    logits: Vec<f32>,
    gradient: Vec<f32>,
    nats: f64,
}

/// Why a step was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PretrainError {
    /// A batch that does not fit the model.
    #[error("a batch does not fit")]
    Batch(#[from] BatchError),
    /// No batch.
    #[error("a step needs a batch")]
    Empty,
    /// A loss that is no number any more.
    #[error("the loss is {0}")]
    NonFinite(f64),
}

impl Pretraining {
    /// A new model; equal seeds give equal weights.
    ///
    /// # Errors
    /// [`ModelError::Size`] where sizes do not fit together.
    pub fn new(config: LlamaConfig, seed: u64, weight_decay: f64) -> Result<Self, ModelError> {
        config.check()?;
        let map = LlamaMap::new(&config);
        let mut flat = vec![0.0; map.tensors.n()];
        for tensor in map.tensors.iter() {
            let values = &mut flat[tensor.place.clone()];
            if tensor.name.ends_with(".bias") {
                continue;
            }
            if tensor.shape.len() == 1 {
                values.fill(1.0);
                continue;
            }
            let mut rng = Stream::new(seed, "base-init", &[tensor.name.as_bytes()]);
            values.fill_with(|| (rng.normal() * DEVIATION) as f32);
        }
        let optimizer = AdamW::new(0.0, weight_decay, flat.len());
        Ok(Self { config, map, flat, optimizer, workers: Vec::new() })
    }

    /// Number of weights.
    #[must_use]
    pub fn n_weights(&self) -> usize {
        self.flat.len()
    }

    /// One AdamW step of size `lr` on the mean cross-entropy over all `batches`, each on a thread of
    /// its own; the gradient's norm is kept below `clip_norm`. Returns the loss before the step.
    ///
    /// # Errors
    /// [`PretrainError`]; then no weight has moved.
    pub fn step(
        &mut self,
        batches: &[Batch],
        lr: f64,
        clip_norm: Option<f32>,
    ) -> Result<f64, PretrainError> {
        if batches.is_empty() {
            return Err(PretrainError::Empty);
        }
        for batch in batches {
            batch.check(&self.config.limits())?;
        }
        self.workers.resize_with(batches.len(), Worker::default);
        let Self { config, map, flat, workers, .. } = self;
        let decoder = network(config, map, flat);
        let n = flat.len();
        match &mut workers[..] {
            [worker] => worker.run(&decoder, n, &batches[0]),
            workers => std::thread::scope(|scope| {
                for (worker, batch) in workers.iter_mut().zip(batches) {
                    scope.spawn(move || worker.run(&decoder, n, batch));
                }
            }),
        }
        let tokens: u64 = batches.iter().map(Batch::learned).sum();
        let loss = self.workers.iter().map(|w| w.nats).sum::<f64>() / tokens as f64;
        if !loss.is_finite() {
            return Err(PretrainError::NonFinite(loss));
        }
        // Each is of its own batch's mean.
        for (worker, batch) in self.workers.iter_mut().zip(batches) {
            let share = batch.learned() as f32 / tokens as f32;
            worker.gradient.iter_mut().for_each(|g| *g *= share);
        }
        let [first, rest @ ..] = &mut self.workers[..] else { return Err(PretrainError::Empty) };
        for other in rest {
            ops::add(&mut first.gradient, &other.gradient);
        }
        let norm = clip(&mut first.gradient, clip_norm.unwrap_or(f32::INFINITY));
        if !norm.is_finite() {
            return Err(PretrainError::NonFinite(norm));
        }
        self.optimizer.lr = lr;
        self.optimizer.step(&mut self.flat, &first.gradient);
        Ok(loss)
    }

    /// Nats per token on held-out batches.
    ///
    /// # Errors
    /// [`PretrainError`] where a batch does not fit.
    pub fn evaluate(&self, batches: &[Batch]) -> Result<f64, PretrainError> {
        let Self { config, map, flat, .. } = self;
        let decoder = network(config, map, flat);
        let (mut tape, mut logits) = (Tape::one_way(), Vec::new());
        let (mut sum, mut tokens) = (0.0, 0);
        for batch in batches {
            batch.check(&config.limits())?;
            decoder.features(&mut tape, batch, None);
            let nats = decoder.nats(&tape, &mut logits, &batch.targets, |_, _| {});
            sum += nats.sum;
            tokens += nats.tokens;
        }
        if tokens == 0 { Err(PretrainError::Empty) } else { Ok(sum / tokens as f64) }
    }

    /// `model.safetensors`, in `f16`.
    ///
    /// # Errors
    /// [`ModelError::NonFinite`] where a weight is beyond `f16`.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, ModelError> {
        safetensors::write_f16(&self.map.tensors, &self.flat)
    }

    /// `config.json`.
    #[must_use]
    pub fn to_config(&self) -> String {
        format!("{:#}\n", self.config.to_json())
    }
}

/// The model without an adapter.
fn network<'a>(config: &'a LlamaConfig, map: &'a LlamaMap, flat: &'a [f32]) -> Network<'a> {
    let frozen = Frozen { tensors: &map.tensors, weights: Weights::Flat(flat), adapter: None };
    let body = Body::Llama(Llama { config, map, frozen });
    Network { body, head: Head::Tokens(&map.head) }
}

impl Worker {
    fn run(&mut self, decoder: &Network<'_>, n: usize, batch: &Batch) {
        self.gradient.clear();
        self.gradient.resize(n, 0.0);
        let Self { tape, logits, gradient, .. } = self;
        decoder.features(tape, batch, None);
        let mut gradients = Gradients { adapter: None, weights: Some(gradient) };
        let mut loss = Loss::of(&batch.targets);
        decoder.learn(tape, logits, std::slice::from_mut(&mut loss), &mut gradients);
        self.nats = loss.nats.sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::llama::tests::tiny;
    use crate::model::{BaseModel, fixture};

    fn steps(n: usize, batches: &[Batch]) -> (Pretraining, Vec<f64>) {
        let mut model = Pretraining::new(tiny(), 3, 0.01).expect("sizes fit");
        let losses = (0..n).map(|_| model.step(batches, 0.01, Some(1.0)).expect("finite"));
        let losses = losses.collect();
        (model, losses)
    }

    #[test]
    fn learns_repeats_and_loads() {
        let batches = [fixture::batch(&tiny(), 2, 9), fixture::batch(&tiny(), 3, 7)];
        let (model, losses) = steps(30, &batches);
        // It starts knowing nothing: log 19.
        assert!((losses[0] - 19.0_f64.ln()).abs() < 0.1, "{losses:?}");
        assert!(losses[29] < 0.6 * losses[0], "{losses:?}");
        let (again, _) = steps(30, &batches);
        assert_eq!(model.flat, again.flat);

        let weights = model.to_safetensors().expect("finite");
        let tokenizer = fixture::tokenizer(19);
        let base =
            BaseModel::from_bytes(model.to_config().as_bytes(), tokenizer.as_bytes(), &weights)
                .expect("its own files");
        let loaded = Pretraining { flat: fixture::floats(&base), ..steps(0, &[]).0 };
        let [before, after] = [&model, &loaded].map(|m| m.evaluate(&batches).expect("fits"));
        assert!((before - after).abs() < 1e-2, "{before} {after}");
    }

    /// One batch of four rows, or the same rows as two batches: one gradient but for rounding.
    #[test]
    fn a_split_step_is_the_same_step() {
        let whole = fixture::batch(&tiny(), 4, 6);
        let half = |range: std::ops::Range<usize>| Batch {
            inputs: whole.inputs[range.clone()].to_vec(),
            targets: whole.targets[range].to_vec(),
            lengths: vec![],
            rows: 2,
            cols: 6,
        };
        let one = steps(1, std::slice::from_ref(&whole));
        let two = steps(1, &[half(0..12), half(12..24)]);
        assert!((one.1[0] - two.1[0]).abs() < 1e-6);
        let norm = |x: &[f32]| x.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        let apart: Vec<f32> = one.0.workers[0]
            .gradient
            .iter()
            .zip(&two.0.workers[0].gradient)
            .map(|(a, b)| a - b)
            .collect();
        assert!(norm(&apart) < 1e-5 * norm(&one.0.workers[0].gradient));
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let mut model = Pretraining::new(tiny(), 3, 0.0).expect("sizes fit");
        let before = model.flat.clone();
        assert!(matches!(model.step(&[], 0.1, None), Err(PretrainError::Empty)));
        let mut batch = fixture::batch(&tiny(), 1, 4);
        batch.inputs[0] = 19;
        assert!(matches!(model.step(&[batch], 0.1, None), Err(PretrainError::Batch(_))));
        assert_eq!(model.flat, before);
        let bad = LlamaConfig { heads: 3, ..tiny() };
        assert!(matches!(Pretraining::new(bad, 0, 0.0), Err(ModelError::Size { .. })));
    }
}
