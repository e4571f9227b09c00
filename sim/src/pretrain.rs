//! Trains a tiny base model from scratch, so that the quick start needs nothing but cargo.
//!
//! Text is the sentences of some languages; every tenth is kept out and measured. The result is a
//! Hugging Face folder, with a README that says how it was made. Equal recipes give equal files.

use std::fmt;
use std::path::{Path, PathBuf};

use gossamer_client::data::{Plan, TaskError, TextDataset, TrainingTask};
use gossamer_client::model::{BaseModel, LlamaConfig, ModelError};
use gossamer_client::train::{self, Pretraining};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer, TokenizerBuilder};

use crate::dataset::{Dataset, DatasetError};
use crate::languages::PRETRAINING;

/// Every so many sentences one is kept out.
const KEPT_OUT: usize = 10;
/// AdamW's weight decay.
const DECAY: f64 = 0.1;
/// Largest norm of a step's gradient.
const CLIP: f32 = 1.0;
/// Parts of a batch that run beside each other.
const HALVES: usize = 2;
/// First and last token of a text.
const SPECIAL: [&str; 2] = ["<s>", "</s>"];

/// What makes a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// Its languages.
    pub languages: Vec<String>,
    /// Tokens.
    pub vocab: usize,
    /// Width.
    pub hidden: usize,
    /// Width of the feed-forward part.
    pub ffn: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Longest text it takes.
    pub positions: usize,
    /// Optimiser steps (AdamW, warm-up over the first twentieth, then a cosine to a tenth).
    pub steps: u32,
    /// Sequences a step.
    pub batch: usize,
    /// Tokens a sequence.
    pub context: usize,
    /// Largest step size.
    pub lr: f64,
    /// Seeds weights and batches.
    pub seed: u64,
}

impl Default for Recipe {
    /// The embedded model's.
    fn default() -> Self {
        Self {
            languages: PRETRAINING.map(str::to_owned).to_vec(),
            vocab: 1024,
            hidden: 96,
            ffn: 256,
            layers: 4,
            heads: 4,
            kv_heads: 2,
            positions: 256,
            steps: 3000,
            batch: 16,
            context: 96,
            lr: 4e-3,
            seed: 1,
        }
    }
}

/// What was made.
#[derive(Clone, Debug, Serialize)]
pub struct Made {
    /// The folder.
    pub out: PathBuf,
    /// How.
    pub recipe: Recipe,
    /// Digest of the text, as [`Dataset::digest`] has it.
    pub text: Digest,
    /// Weights.
    pub parameters: usize,
    /// Mean training loss of the last twentieth of the steps, nats a token.
    pub training_loss: f64,
    /// Loss on the sentences kept out, nats a token, before the weights are rounded to f16.
    pub heldout_loss: f64,
    /// The same, nats a byte of text: comparable between tokenizers.
    pub heldout_loss_a_byte: f64,
    /// The model's digest, as manifests name it.
    pub digest: Digest,
}

/// Why no model was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PretrainError {
    /// The sentences are not there.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The tokenizer could not be learned.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The recipe makes no model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A batch could not be made.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Training failed.
    #[error(transparent)]
    Train(#[from] train::PretrainError),
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Makes a model by `recipe` and writes it to `out`.
///
/// # Errors
/// [`PretrainError`] at the first thing that fails; then nothing was written.
pub fn pretrain(recipe: &Recipe, out: &Path, progress: bool) -> Result<Made, PretrainError> {
    let dataset = Dataset::languages(&recipe.languages)?;
    let texts = |kept_out: bool| -> Vec<String> {
        let all = dataset.documents.iter().enumerate();
        all.filter(|(at, _)| (at % KEPT_OUT == KEPT_OUT - 1) == kept_out)
            .map(|(_, document)| document.text.clone())
            .collect()
    };
    let (training, kept_out) = (texts(false), texts(true));

    let tokenizer = learn_tokenizer(&training, recipe.vocab)?;
    let config = config(recipe);
    let mut model =
        Pretraining::new(LlamaConfig::from_json(config.as_bytes())?, recipe.seed, DECAY)?;
    // The dataset needs a model only for its tokenizer and its context.
    let untrained = BaseModel::from_bytes(config.as_bytes(), &tokenizer, &model.to_safetensors()?)?;
    let task = TextDataset::new(&untrained, &training)?;
    // Two halves of a batch, a thread each.
    let plan = Plan {
        seed: recipe.seed,
        client: ClientId([0; 16]),
        round: RoundId(0),
        rows: recipe.batch / HALVES,
        cols: recipe.context,
    };

    let bar = if progress { ProgressBar::new(recipe.steps.into()) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {eta} {msg}") {
        bar.set_style(style);
    }
    let tail = (recipe.steps / 20).max(1);
    let mut tail_loss = 0.0;
    for step in 0..recipe.steps {
        let halves = HALVES as u32;
        let batches: Result<Vec<_>, _> =
            (0..halves).map(|half| task.batch(&plan, step * halves + half)).collect();
        let loss = model.step(&batches?, rate(recipe, step), Some(CLIP))?;
        if step >= recipe.steps - tail {
            tail_loss += loss / f64::from(tail);
        }
        bar.set_position(u64::from(step) + 1);
        bar.set_message(format!("{loss:.3}"));
    }
    bar.finish();

    let weights = model.to_safetensors()?;
    let base = BaseModel::from_bytes(config.as_bytes(), &tokenizer, &weights)?;
    let heldout = TextDataset::new(&base, &kept_out)?;
    let batches = heldout.sequences(recipe.batch, recipe.context);
    let heldout_loss = model.evaluate(&batches)?;
    let tokens: u64 = batches.iter().map(gossamer_client::data::Batch::learned).sum();
    let bytes: usize = kept_out.iter().map(String::len).sum();
    let made = Made {
        out: out.to_owned(),
        recipe: recipe.clone(),
        text: dataset.digest,
        parameters: model.n_weights(),
        training_loss: tail_loss,
        heldout_loss,
        heldout_loss_a_byte: heldout_loss * tokens as f64 / bytes as f64,
        digest: base.digest(),
    };
    let readme = made.readme();
    let failed = |path: &Path, source| PretrainError::Write { path: path.to_owned(), source };
    std::fs::create_dir_all(out).map_err(|e| failed(out, e))?;
    for (name, bytes) in [
        ("config.json", config.as_bytes()),
        ("tokenizer.json", &tokenizer),
        ("model.safetensors", &weights),
        ("README.md", readme.as_bytes()),
    ] {
        let path = out.join(name);
        std::fs::write(&path, bytes).map_err(|e| failed(&path, e))?;
    }
    Ok(made)
}

/// Step size at `step`.
fn rate(recipe: &Recipe, step: u32) -> f64 {
    let warm_up = f64::from((recipe.steps / 20).max(1));
    let step = f64::from(step);
    if step < warm_up {
        return recipe.lr * (step + 1.0) / warm_up;
    }
    let share = (step - warm_up) / (f64::from(recipe.steps) - warm_up).max(1.0);
    recipe.lr * (0.1 + 0.45 * (1.0 + (std::f64::consts::PI * share).cos()))
}

/// Byte-level BPE: every text of every language has tokens.
fn learn_tokenizer(texts: &[String], vocab: usize) -> Result<Vec<u8>, PretrainError> {
    let failed = |e: tokenizers::Error| PretrainError::Tokenizer(e.to_string());
    let byte_level = ByteLevel::new(false, true, true);
    let mut learner = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(byte_level))
        .with_post_processor(Some(byte_level))
        .with_decoder(Some(byte_level))
        .build()
        .map_err(failed)?;
    let special = SPECIAL.map(|token| AddedToken::from(token, true)).to_vec();
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab)
        .show_progress(false)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    learner.train(&mut trainer, texts.iter()).map_err(failed)?;
    let tokenizer: Tokenizer = learner.to_string(false).map_err(failed)?.parse().map_err(failed)?;
    Ok(tokenizer.to_string(false).map_err(failed)?.into_bytes())
}

fn config(recipe: &Recipe) -> String {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.ffn,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.kv_heads,
        "vocab_size": recipe.vocab,
        "max_position_embeddings": recipe.positions,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "attention_bias": false,
        "mlp_bias": false,
        "torch_dtype": "float16",
    });
    format!("{config:#}\n")
}

impl Made {
    /// How it was made, beside the files.
    fn readme(&self) -> String {
        let Recipe { languages, steps, seed, .. } = &self.recipe;
        let flags: String = languages.iter().map(|name| format!(" --language {name}")).collect();
        format!(
            "# A tiny base model\n\n\
             Made by\n\n```\ngossamer-sim pretrain --out DIR --seed {seed} --steps {steps}{flags}\n```\n\n\
             from the thousand sentences that the crate `lingua-LANGUAGE-language-model` (Apache-2.0) \
             carries for each language.\n\n{self}\n"
        )
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { recipe, text, parameters, digest, .. } = self;
        let (r, loss) = (recipe, self.heldout_loss);
        writeln!(f, "| what | value |\n|---|---|")?;
        writeln!(f, "| languages | {} |", r.languages.join(", "))?;
        writeln!(f, "| text | {text} |")?;
        writeln!(
            f,
            "| shape | {} layers, width {}, feed-forward {}, {} heads, {} kv heads, {} tokens |",
            r.layers, r.hidden, r.ffn, r.heads, r.kv_heads, r.vocab
        )?;
        writeln!(f, "| weights | {parameters}, stored in f16 |")?;
        writeln!(
            f,
            "| training | {} steps of {} x {} tokens, AdamW, step size up to {}, seed {} |",
            r.steps, r.batch, r.context, r.lr, r.seed
        )?;
        writeln!(f, "| training loss | {:.4} nats a token |", self.training_loss)?;
        writeln!(
            f,
            "| loss on kept-out sentences | {loss:.4} nats a token, {:.4} nats a byte |",
            self.heldout_loss_a_byte
        )?;
        write!(f, "| digest | {digest} |")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_size_rises_and_falls() {
        let recipe = Recipe { steps: 200, lr: 1.0, ..Recipe::default() };
        assert!((rate(&recipe, 0) - 0.1).abs() < 1e-12);
        assert!((rate(&recipe, 9) - 1.0).abs() < 1e-12);
        assert!((rate(&recipe, 10) - 1.0).abs() < 1e-12);
        assert!((rate(&recipe, 105) - 0.55).abs() < 1e-9);
        assert!(rate(&recipe, 199) < 0.11);
    }

    #[test]
    fn every_byte_has_a_token() {
        let texts = ["ein kleines Haus".to_owned(), "una casa pequeña".to_owned()];
        let json = learn_tokenizer(&texts, 300).expect("learned");
        assert_eq!(learn_tokenizer(&texts, 300).expect("learned"), json, "the same again");
        let tokenizer = Tokenizer::from_bytes(&json).expect("its own bytes");
        for text in ["Ωμέγα 漢字", "una casa", "\u{0}\n\t"] {
            let tokens = tokenizer.encode(text, false).expect("every byte has a token");
            assert_eq!(tokenizer.decode(tokens.get_ids(), false).expect("its own tokens"), text);
        }
    }
}
