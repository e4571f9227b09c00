//! One method, and all in which it may differ from the others.

use gossamer_protocol::density::Density;
use gossamer_protocol::layout::{BaseLinear, Layout, LayoutError};
use gossamer_protocol::manifest::{
    Buffered, Head, LocalOptimizer, Lora, Method, ServerOptimizer, Stage, Targets,
};
use serde::Deserialize;

/// One method, and all in which it may differ from the others.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodSpec {
    /// What reports call it. A name's part before `-` and a digit is its family: one colour.
    pub name: String,
    /// What travels.
    pub method: Method,
    /// How densities shrink from round to round.
    pub decay: Option<Decay>,
    /// Changes to `[lora]`.
    #[serde(default)]
    pub lora: LoraChange,
    /// Changes to `[training]`.
    #[serde(default)]
    pub training: TrainingChange,
    /// Changes to `[cohort]`.
    #[serde(default)]
    pub cohort: CohortChange,
    /// In place of `[optimizer]`.
    pub optimizer: Option<ServerOptimizer>,
}

/// In round `t` both densities are `share^floor(t / every)` of what the method says. With `train =
/// "support"` and both densities 1 this is Adapter-LTH, as FLASC (arXiv:2406.05233) compares it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decay {
    /// What is left each time, in `(0, 1)`.
    pub share: f64,
    /// Rounds between two times.
    pub every: u64,
}

/// Changes to `[lora]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraChange {
    /// In place of `lora.rank`.
    pub rank: Option<usize>,
    /// In place of `lora.alpha`.
    pub alpha: Option<f64>,
    /// In place of `lora.freeze_a`.
    pub freeze_a: Option<bool>,
    /// In place of `lora.targets`; none at all: just the head is trained.
    pub targets: Option<Targets>,
    /// The targets' whole weights are trained, in place of factors: full fine-tuning, but for what is no
    /// linear's weight.
    #[serde(default)]
    pub whole: bool,
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

/// Changes to `[cohort]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CohortChange {
    /// In place of `cohort.goal`.
    pub goal: Option<u32>,
    /// In place of `cohort.ask`.
    pub ask: Option<u32>,
    /// In place of `cohort.min`.
    pub min: Option<u32>,
    /// In place of `cohort.deadline_s`.
    pub deadline_s: Option<u32>,
    /// In place of `cohort.buffered`; then whoever is free comes, whatever `cohort.selection` says.
    pub buffered: Option<Buffered>,
}

impl MethodSpec {
    /// Its method over `rounds` rounds, the stages of its decay written out.
    #[must_use]
    pub fn method(&self, rounds: u64) -> Method {
        let mut method = self.method.clone();
        let Some(decay) = self.decay.filter(|decay| decay.every > 0) else { return method };
        let mut left = 1.0;
        for from in
            (decay.every..rounds).step_by(usize::try_from(decay.every).unwrap_or(usize::MAX))
        {
            left *= decay.share;
            let stage = |density: Density, values| {
                // Shrinks to nothing only where a share does, which is refused.
                let density = (f64::from(density) * left).try_into().ok()?;
                Some(Stage { from, density, values })
            };
            let (down, up) = (&method.download, &method.upload);
            let stages = [stage(down.density, down.values), stage(up.density, up.values)];
            let [down, up] = stages;
            method.download.stages.extend(down);
            method.upload.stages.extend(up);
        }
        method
    }

    /// The tensors it trains of a model with these `linears` and `hidden` features; `lora` is its own.
    ///
    /// # Errors
    /// [`LayoutError`] where the targets match nothing, or there is nothing to train.
    pub fn layout(
        &self,
        lora: &Lora,
        linears: &[BaseLinear],
        head: Option<Head>,
        hidden: usize,
    ) -> Result<Layout, LayoutError> {
        let layout = match head {
            Some(head) if lora.targets.is_empty() => Layout::head(head.classes, hidden)?,
            _ => {
                let factors = lora.layout(linears)?;
                let layout = if self.lora.whole {
                    let rules = lora.rules()?;
                    Layout::weights(linears, |module| rules.targets(module))?
                } else {
                    factors
                };
                match head {
                    Some(head) => layout.with_head(head.classes, hidden)?,
                    None => layout,
                }
            }
        };
        self.method.complete(layout)
    }
}
