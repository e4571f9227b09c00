//! One method, and all in which it may differ from the others.

use gossamer_protocol::manifest::{LocalOptimizer, Method, ServerOptimizer};
use serde::Deserialize;

/// One method, and all in which it may differ from the others.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodSpec {
    /// What reports call it. A name's part before `-` and a digit is its family: one colour.
    pub name: String,
    /// What travels.
    pub method: Method,
    /// Changes to `[lora]`.
    #[serde(default)]
    pub lora: LoraChange,
    /// Changes to `[training]`.
    #[serde(default)]
    pub training: TrainingChange,
    /// In place of `[optimizer]`.
    pub optimizer: Option<ServerOptimizer>,
}

/// Changes to `[lora]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraChange {
    /// In place of `lora.rank`.
    pub rank: Option<usize>,
    /// In place of `lora.alpha`.
    pub alpha: Option<f64>,
    /// In place of `lora.freeze_a`.
    pub freeze_a: Option<bool>,
}

/// Changes to `[training]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingChange {
    /// In place of `training.optimizer`.
    pub optimizer: Option<LocalOptimizer>,
    /// In place of `training.proximal`: FedProx.
    pub proximal: Option<f32>,
}
