//! `pretrain`: a tiny base model from scratch.

use std::path::PathBuf;

use clap::Args;
use gossamer_sim::pretrain::{Recipe, pretrain};

use super::say;

#[derive(Args)]
pub(crate) struct Pretrain {
    /// Folder for config.json, tokenizer.json, model.safetensors and README.md.
    #[arg(long)]
    out: PathBuf,
    /// Languages to learn [default: those of the embedded model].
    #[arg(long = "language")]
    languages: Vec<String>,
    /// Optimiser steps.
    #[arg(long, default_value_t = Recipe::default().steps)]
    steps: u32,
    /// Seeds weights and batches.
    #[arg(long, default_value_t = Recipe::default().seed)]
    seed: u64,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Pretrain {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut recipe = Recipe { steps: self.steps, seed: self.seed, ..Recipe::default() };
        if !self.languages.is_empty() {
            recipe.languages = self.languages;
        }
        let made = pretrain(&recipe, &self.out, !self.json)?;
        say(&if self.json { serde_json::to_string_pretty(&made)? } else { made.to_string() })
    }
}
