//! What a run is: everything both ends must agree on, signed once and never re-serialised.
//!
//! Every piece of the method is a value here, so that FLASC as published, dense LoRA, FFA-LoRA,
//! FedSelect, SparseAdapter and Gossamer's own default are settings of one engine.

use serde::{Deserialize, Serialize};

use crate::density::Density;
use crate::digest::{Digest, Hasher};
use crate::layout::{Layout, LayoutError, Part, head_pair};
use crate::modules::BadPattern;

mod cohort;
mod combine;
mod goal;
mod lora;
mod method;
mod scaffold;
mod tier;

pub use cohort::{Buffered, Cohort, Participation, STALENESS_MAX, Selection};
pub use combine::{Combine, PRODUCTS_MAX};
pub use goal::{Evaluation, Metric, Stop};
pub use lora::{Lora, LoraRules, Patterns, Targets};
pub use method::{
    Alternation, Average, Coding, Coverage, Download, Feedback, Method, Ranking, Reference,
    Rounding, Scope, Segments, Select, Stage, SupportRule, Upload, Values,
};
pub use scaffold::Scaffold;
pub use tier::{Tier, TierRanks};

/// The manifest's version. Version 1 is still run; it has fewer settings, and version 1 frames.
pub const MANIFEST_VERSION: u16 = 2;

/// Most clients one round may ask: what the fold's headroom allows (see [`crate::fold`]).
pub const COHORT_MAX: u32 = 1 << 14;

/// One training job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`], or an older one that still runs.
    pub version: u16,
    /// What people call it.
    pub name: String,
    /// Seeds the adapter's start, the cohorts and every client's training.
    pub seed: u64,
    /// Rounds to run.
    pub rounds: u64,
    /// The frozen model underneath.
    pub base: Base,
    /// The adapter's shape.
    pub lora: Lora,
    /// The tensors that may travel.
    pub layout: Layout,
    /// What makes the run a sequence classification; without it, it predicts the next token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// What travels, and how it is coded.
    pub method: Method,
    /// What a client does with its data.
    pub training: Training,
    /// Who takes part.
    pub cohort: Cohort,
    /// How the mean delta becomes a step.
    pub optimizer: ServerOptimizer,
    /// What ends the run before its last round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// Whether clients tell how well snapshots predict what they hold out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
    /// [`start_digest`] of the adapter that the run starts from; none: the seeded start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Digest>,
}

/// The frozen model a run adapts; it never travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// What people call it.
    pub name: String,
    /// SHA-256 over its files; see [`base_digest`].
    pub digest: Digest,
}

/// Names a base model: the SHA-256 of `"{name}\0{sha256 hex}\n"` for config, tokenizer, weights.
#[must_use]
pub fn base_digest(config: Digest, tokenizer: Digest, weights: Digest) -> Digest {
    let text = format!(
        "config.json\0{config}\ntokenizer.json\0{tokenizer}\nmodel.safetensors\0{weights}\n"
    );
    Digest::of(text.as_bytes())
}

/// Names an adapter that a run starts from: the SHA-256 of `"gossamer/v1/start\0"` and its values in the
/// layout's order, f32, little-endian.
#[must_use]
pub fn start_digest(theta: &[f32]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(b"gossamer/v1/start\0");
    theta.iter().for_each(|value| hasher.update(&value.to_le_bytes()));
    hasher.finish()
}

/// A linear layer over an encoder's mean features, trained and sent with the adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Classes told apart; labels count from 0.
    pub classes: u32,
}

/// A client's work in one round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Optimiser steps.
    pub steps: u32,
    /// Sequences a step.
    pub batch: u32,
    /// Tokens a sequence.
    pub context: u32,
    /// The local optimiser, fresh each round.
    pub optimizer: LocalOptimizer,
    /// Largest Euclidean norm of the whole gradient; larger ones are scaled down to it.
    #[serde(default)]
    pub clip: Option<f32>,
    /// FedProx's mu: the loss has `mu / 2 ||theta - received||^2` beside it, which holds clients near what
    /// they received. 0: none. Source: arXiv:1812.06127.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub proximal: f32,
}

fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

/// A client's optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LocalOptimizer {
    /// `v <- momentum v + g; theta <- theta - lr v`, as torch has it.
    Sgd {
        /// Step size.
        lr: f64,
        /// Share of the last step kept.
        #[serde(default = "momentum")]
        momentum: f64,
    },
    /// Adam with decoupled weight decay, torch's defaults.
    #[serde(rename = "adamw")]
    AdamW {
        /// Step size.
        lr: f64,
        /// Decoupled decay.
        #[serde(default)]
        weight_decay: f64,
    },
}

fn momentum() -> f64 {
    0.9
}

/// How the mean delta becomes a step; the pseudo-gradient is its negative.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ServerOptimizer {
    /// `v <- momentum v + g; theta <- theta - lr v`. `lr = 1`, no momentum: FedAvg.
    Sgd {
        /// Step size.
        lr: f64,
        /// Share of the last step kept.
        #[serde(default)]
        momentum: f64,
    },
    /// `torch.optim.AdamW`: bias-corrected, decoupled decay. FLASC's choice.
    #[serde(rename = "adamw")]
    AdamW {
        /// Step size.
        lr: f64,
        /// Decay of the mean.
        #[serde(default = "beta1")]
        beta1: f64,
        /// Decay of the square.
        #[serde(default = "beta2")]
        beta2: f64,
        /// Added to the root.
        #[serde(default = "eps")]
        eps: f64,
        /// Decoupled decay; torch's default is 0.01.
        #[serde(default = "weight_decay")]
        weight_decay: f64,
    },
    /// FedAdam, no bias correction. Source: arXiv:2003.00295, algorithm 2.
    #[serde(rename = "fed-adam")]
    FedAdam {
        /// Step size.
        lr: f64,
        /// Decay of the mean.
        #[serde(default = "beta1")]
        beta1: f64,
        /// Decay of the square.
        #[serde(default = "beta2_fed")]
        beta2: f64,
        /// Adaptivity: added to the root, and its square starts the square.
        #[serde(default = "tau")]
        tau: f64,
    },
    /// FedYogi. Source: arXiv:2003.00295, algorithm 2.
    #[serde(rename = "fed-yogi")]
    FedYogi {
        /// Step size.
        lr: f64,
        /// Decay of the mean.
        #[serde(default = "beta1")]
        beta1: f64,
        /// Decay of the square.
        #[serde(default = "beta2_fed")]
        beta2: f64,
        /// Adaptivity: added to the root, and its square starts the square.
        #[serde(default = "tau")]
        tau: f64,
    },
    /// FedAdagrad. Source: arXiv:2003.00295, algorithm 2.
    #[serde(rename = "fed-adagrad")]
    FedAdagrad {
        /// Step size.
        lr: f64,
        /// Decay of the mean; the paper's experiments use 0.
        #[serde(default)]
        beta1: f64,
        /// Adaptivity: added to the root, and its square starts the square.
        #[serde(default = "tau")]
        tau: f64,
    },
}

fn beta1() -> f64 {
    0.9
}
fn beta2() -> f64 {
    0.999
}
fn beta2_fed() -> f64 {
    0.99
}
fn eps() -> f64 {
    1e-8
}
fn weight_decay() -> f64 {
    0.01
}
fn tau() -> f64 {
    1e-3
}

/// Why a manifest cannot be run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not the JSON of a manifest: unknown, missing or malformed field.
    #[error("manifest: {0}")]
    Syntax(String),
    /// Another version.
    #[error("manifest version {got}, this build knows 1 to {MANIFEST_VERSION}")]
    Version {
        /// The version found.
        got: u16,
    },
    /// A field outside its range.
    #[error("manifest field {field}: {why}")]
    Field {
        /// Its dotted name.
        field: &'static str,
        /// What is expected.
        why: &'static str,
    },
    /// Tensors that make no layout.
    #[error("manifest field layout")]
    Layout(#[from] LayoutError),
    /// A pattern that cannot be matched.
    #[error("manifest")]
    Pattern(#[from] BadPattern),
}

impl Manifest {
    /// Parses and checks the signed bytes.
    ///
    /// # Errors
    /// [`ManifestError`] at the first thing that is off.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|e| ManifestError::Syntax(e.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The bytes to sign; written once, kept for ever.
    ///
    /// # Errors
    /// [`ManifestError`] where a field is out of range.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        serde_json::to_vec(self).map_err(|e| ManifestError::Syntax(e.to_string()))
    }

    /// The terms of a training on one device with nobody else: one round, and everything counts.
    #[must_use]
    pub fn alone(
        base: Base,
        lora: Lora,
        layout: Layout,
        head: Option<Head>,
        training: Training,
    ) -> Self {
        Self {
            version: MANIFEST_VERSION,
            name: "alone".into(),
            seed: 0,
            rounds: 1,
            base,
            lora,
            layout,
            head,
            method: Method::sparse(Density::FULL, Density::FULL),
            training,
            cohort: Cohort {
                goal: 1,
                ask: 1,
                min: 1,
                enrolled_min: 0,
                deadline_s: 86_400,
                selection: Selection::FirstCome,
                retry_s: cohort::retry_s(),
                buffered: None,
                participation: None,
            },
            optimizer: ServerOptimizer::Sgd { lr: 1.0, momentum: 0.0 },
            stop: None,
            evaluation: None,
            start: None,
        }
    }

    fn check(&self) -> Result<(), ManifestError> {
        if !(1..=MANIFEST_VERSION).contains(&self.version) {
            return Err(ManifestError::Version { got: self.version });
        }
        let field = |ok: bool, field, why| {
            if ok { Ok(()) } else { Err(ManifestError::Field { field, why }) }
        };
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let share = |x: f64| (0.0..1.0).contains(&x);
        field(!self.name.is_empty() && self.name.len() <= 200, "name", "1 to 200 bytes")?;
        field(self.rounds > 0, "rounds", "at least 1")?;
        self.lora.check(self.version, field)?;
        self.method.check(self.version, field)?;

        let t = &self.training;
        field((1..=1_000_000).contains(&t.steps), "training.steps", "1 to 1,000,000")?;
        field((1..=65_536).contains(&t.batch), "training.batch", "1 to 65,536")?;
        field((1..=1 << 20).contains(&t.context), "training.context", "1 to 1,048,576")?;
        field(t.clip.is_none_or(|c| positive(f64::from(c))), "training.clip", "positive")?;
        let ok = t.proximal.is_finite() && t.proximal >= 0.0;
        field(ok, "training.proximal", "at least 0")?;
        let known = t.proximal == 0.0 || self.version > 1;
        field(known, "training.proximal", "absent in version 1")?;
        match t.optimizer {
            LocalOptimizer::Sgd { lr, momentum } => {
                field(positive(lr), "training.optimizer.lr", "positive")?;
                field(share(momentum), "training.optimizer.momentum", "in [0, 1)")?;
            }
            LocalOptimizer::AdamW { lr, weight_decay } => {
                field(positive(lr), "training.optimizer.lr", "positive")?;
                let ok = weight_decay.is_finite() && weight_decay >= 0.0;
                field(ok, "training.optimizer.weight_decay", "at least 0")?;
            }
        }

        self.check_head(field)?;
        self.method.combine.check_run(self, field)?;
        Scaffold::check(self, field)?;

        Cohort::check(self, field)?;
        Stop::check(self, field)?;
        let known = self.start.is_none() || self.version > 1;
        field(known, "start", "absent in version 1")?;
        self.optimizer.check(field)
    }

    /// Whether head and layout say the same.
    fn check_head(
        &self,
        field: impl Fn(bool, &'static str, &'static str) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let tensors = self.layout.tensors().map(|(tensor, _)| tensor);
        let tensors: Vec<_> = tensors.filter(|tensor| tensor.part != Part::Control).collect();
        let laid = tensors.iter().filter(|tensor| tensor.part == Part::Head).count();
        field(self.head.is_none() || self.version > 1, "head", "absent in version 1")?;
        let Some(Head { classes }) = self.head else {
            return field(laid == 0, "head", "there, since the layout has its tensors");
        };
        field((2..=65_536).contains(&classes), "head.classes", "2 to 65,536")?;
        let fits = match tensors[..] {
            [.., weight, bias] => [weight, bias] == head_pair(classes, weight.shape[1]).each_ref(),
            _ => false,
        };
        let why = "ending in the head's two tensors, and no other of its part";
        field(laid == 2 && fits, "layout", why)?;
        let t = &self.training;
        field(t.context >= 3, "training.context", "at least 3: a token between [CLS] and [SEP]")
    }
}

impl ServerOptimizer {
    fn check(
        &self,
        field: impl Fn(bool, &'static str, &'static str) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let share = |x: f64| (0.0..1.0).contains(&x);
        let (lr, shares, floor) = match *self {
            Self::Sgd { lr, momentum } => (lr, [momentum, 0.0], 1.0),
            Self::AdamW { lr, beta1, beta2, eps, weight_decay } => {
                let ok = weight_decay.is_finite() && weight_decay >= 0.0;
                field(ok, "optimizer.weight_decay", "at least 0")?;
                (lr, [beta1, beta2], eps)
            }
            Self::FedAdam { lr, beta1, beta2, tau } | Self::FedYogi { lr, beta1, beta2, tau } => {
                (lr, [beta1, beta2], tau)
            }
            Self::FedAdagrad { lr, beta1, tau } => (lr, [beta1, 0.0], tau),
        };
        field(positive(lr), "optimizer.lr", "positive")?;
        field(shares.into_iter().all(share), "optimizer", "every decay in [0, 1)")?;
        field(positive(floor), "optimizer", "eps or tau positive")
    }
}

#[cfg(test)]
pub(crate) mod tests;
