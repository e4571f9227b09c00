//! The adapter's settings, as PEFT's `LoraConfig` has them: `W x + scale * B A x`.
//!
//! `scale` is `alpha / rank`, or `alpha / sqrt(rank)` with rsLoRA. Source: LoRA, arXiv:2106.09685; rsLoRA,
//! arXiv:2312.03732; which module a name, a pattern or a layer's number means: PEFT 0.21.
//! The layout names every tensor, so only who builds one reads [`Targets`]; ranks and scales are also read
//! by who trains.

use serde::{Deserialize, Serialize};

use super::ManifestError;
use crate::layout::{BaseLinear, Layout, LayoutError};
use crate::modules::{BadPattern, ends_in};

mod patterns;
mod rules;

pub use patterns::Patterns;
pub use rules::LoraRules;

/// The adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Inner dimension, where no pattern gives another.
    pub rank: usize,
    /// Numerator of the scale, where no pattern gives another.
    pub alpha: f64,
    /// Adapted modules.
    pub targets: Targets,
    /// Share of A's inputs dropped in training, in `[0, 1)`.
    #[serde(default)]
    pub dropout: f32,
    /// FFA-LoRA: A stays at its seeded start and never travels.
    #[serde(default)]
    pub freeze_a: bool,
    /// Other ranks, by the module's path or its end.
    #[serde(default, skip_serializing_if = "Patterns::is_empty")]
    pub rank_pattern: Patterns<usize>,
    /// Other numerators, by the module's path or its end.
    #[serde(default, skip_serializing_if = "Patterns::is_empty")]
    pub alpha_pattern: Patterns<f64>,
    /// rsLoRA: the scale is `alpha / sqrt(rank)`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub rslora: bool,
    /// Of what `targets` names, only these layers, counted from 0; PEFT's `layers_to_transform`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
    /// The base stores its weights as `[d_in, d_out]` (GPT-2's Conv1D). Only PEFT's merge asks: A and B
    /// have the same shapes either way.
    #[serde(default, skip_serializing_if = "is_false")]
    pub fan_in_fan_out: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Which modules are adapted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "targets are a list of module names, one pattern, or \"all-linear\"")]
pub enum Targets {
    /// Whole paths, or their ends behind a dot.
    Names(Vec<String>),
    /// A regular expression that matches a whole path, or `all-linear`: every linear of the base.
    Pattern(String),
}

impl Targets {
    /// Whether they can mean no module.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Names(names) => names.is_empty(),
            Self::Pattern(pattern) => pattern.is_empty(),
        }
    }
}

impl From<Vec<String>> for Targets {
    fn from(names: Vec<String>) -> Self {
        Self::Names(names)
    }
}

impl Lora {
    /// Plain LoRA: one rank and one scale `alpha / rank`, no dropout.
    #[must_use]
    pub fn new(rank: usize, alpha: f64, targets: impl Into<Targets>) -> Self {
        Self {
            rank,
            alpha,
            targets: targets.into(),
            dropout: 0.0,
            freeze_a: false,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
            rslora: false,
            layers: None,
            fan_in_fan_out: false,
        }
    }

    /// What each module gets, with the patterns compiled.
    ///
    /// # Errors
    /// [`BadPattern`] at the first that is no regular expression, or too large a one.
    pub fn rules(&self) -> Result<LoraRules, BadPattern> {
        LoraRules::new(self)
    }

    /// The factors beside every linear that is meant: A `[rank, d_in]` where it is trained, then B
    /// `[d_out, rank]`, in the order of `linears`.
    ///
    /// # Errors
    /// [`LayoutError::NoSuchTarget`] where a target matches nothing, [`LayoutError::Pattern`], and those
    /// of [`Layout::new`].
    pub fn layout(&self, linears: &[BaseLinear]) -> Result<Layout, LayoutError> {
        let rules = self.rules()?;
        let named = |target: &str| linears.iter().any(|l| ends_in(&l.name, target));
        match &self.targets {
            Targets::Names(names) => {
                if let Some(target) = names.iter().find(|name| !named(name)) {
                    return Err(LayoutError::no_such_target(target, linears));
                }
            }
            Targets::Pattern(pattern) => {
                if !linears.iter().any(|l| rules.targets(&l.name)) {
                    return Err(LayoutError::no_such_target(pattern, linears));
                }
            }
        }
        let rank = |l: &BaseLinear| rules.targets(&l.name).then(|| rules.rank(&l.name));
        Layout::adapting(linears, rank, self.freeze_a)
    }

    /// The first field outside its range, with what is expected.
    pub(crate) fn ranges(&self) -> Result<(), (&'static str, &'static str)> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let ranks = self.rank_pattern.iter().all(|(_, rank)| *rank > 0);
        let alphas = self.alpha_pattern.iter().all(|(_, alpha)| positive(*alpha));
        let listed = self.layers.is_none() || matches!(self.targets, Targets::Names(_));
        let checks = [
            (self.rank > 0, "lora.rank", "at least 1"),
            (positive(self.alpha), "lora.alpha", "positive"),
            ((0.0..1.0).contains(&self.dropout), "lora.dropout", "in [0, 1)"),
            (ranks, "lora.rank_pattern", "every rank at least 1"),
            (alphas, "lora.alpha_pattern", "every alpha positive"),
            (listed, "lora.layers", "absent where targets are a pattern"),
            (self.layers != Some(vec![]), "lora.layers", "at least one"),
        ];
        match checks.into_iter().find(|(fits, ..)| !fits) {
            Some((_, field, why)) => Err((field, why)),
            None => Ok(()),
        }
    }

    pub(super) fn check(
        &self,
        version: u16,
        field: impl Fn(bool, &'static str, &'static str) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        self.ranges().map_err(|(field, why)| ManifestError::Field { field, why })?;
        let plain = Self { dropout: self.dropout, freeze_a: self.freeze_a, ..self.plain() };
        let names = matches!(self.targets, Targets::Names(_));
        field(version > 1 || (names && *self == plain), "lora", "without patterns in version 1")?;
        self.rules()?;
        Ok(())
    }

    /// The same as [`new`](Self::new) would give.
    fn plain(&self) -> Self {
        Self::new(self.rank, self.alpha, self.targets.clone())
    }
}

#[cfg(test)]
mod tests;
