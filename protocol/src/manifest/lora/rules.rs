//! Each module's part in the adapter: whether it is adapted, with which rank and scale.

use regex::Regex;

use super::{Lora, Targets};
use crate::modules::{BadPattern, FirstOf, ends_in, layer, whole};

/// A [`Lora`]'s rules for each module.
#[derive(Clone, Debug)]
pub struct LoraRules {
    targets: Chosen,
    layers: Option<Vec<usize>>,
    rank: usize,
    alpha: f64,
    ranks: FirstOf<usize>,
    alphas: FirstOf<f64>,
    rslora: bool,
}

#[derive(Clone, Debug)]
enum Chosen {
    All,
    Ends(Vec<String>),
    Whole(Regex),
}

impl LoraRules {
    pub(super) fn new(lora: &Lora) -> Result<Self, BadPattern> {
        let targets = match &lora.targets {
            Targets::Names(names) => Chosen::Ends(names.clone()),
            Targets::Pattern(all) if all.eq_ignore_ascii_case("all-linear") => Chosen::All,
            Targets::Pattern(pattern) => Chosen::Whole(whole(pattern)?),
        };
        Ok(Self {
            targets,
            layers: lora.layers.clone(),
            rank: lora.rank,
            alpha: lora.alpha,
            ranks: FirstOf::new("rank_pattern", lora.rank_pattern.iter())?,
            alphas: FirstOf::new("alpha_pattern", lora.alpha_pattern.iter())?,
            rslora: lora.rslora,
        })
    }

    /// Whether the linear at path `module` is adapted.
    #[must_use]
    pub fn targets(&self, module: &str) -> bool {
        let named = match &self.targets {
            Chosen::All => true,
            Chosen::Ends(names) => names.iter().any(|name| ends_in(module, name)),
            Chosen::Whole(pattern) => pattern.is_match(module),
        };
        let among = |layers: &Vec<usize>| layer(module).is_some_and(|at| layers.contains(&at));
        named && self.layers.as_ref().is_none_or(among)
    }

    /// Its rank.
    #[must_use]
    pub fn rank(&self, module: &str) -> usize {
        self.ranks.of(module).unwrap_or(self.rank)
    }

    /// Its scale: `alpha / rank`, with rsLoRA `alpha / sqrt(rank)`.
    #[must_use]
    pub fn scale(&self, module: &str) -> f64 {
        let alpha = self.alphas.of(module).unwrap_or(self.alpha);
        let rank = self.rank(module) as f64;
        alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}
