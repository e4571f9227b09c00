//! `adapter_config.json`, out and in. Field names and meanings: PEFT 0.21's `LoraConfig`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{PeftError, Shapes};
use crate::layout::LayoutError;
use crate::manifest::{Lora, Manifest, Patterns, Targets};

/// What a head is called in PEFT; the second is another family's name, which PEFT writes beside it.
const HEADS: [&str; 2] = ["classifier", "score"];

/// Says nothing about what an adapter computes.
const BESIDE: [&str; 10] = [
    "auto_mapping",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

/// As PEFT sorts it: by name.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    alpha_pattern: Patterns<Number>,
    base_model_name_or_path: &'a str,
    bias: &'static str,
    fan_in_fan_out: bool,
    inference_mode: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers_to_transform: Option<&'a [usize]>,
    lora_alpha: Number,
    lora_dropout: f32,
    modules_to_save: Option<[&'static str; 1]>,
    peft_type: &'static str,
    r: usize,
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    rank_pattern: &'a Patterns<usize>,
    target_modules: &'a Targets,
    task_type: &'static str,
    use_rslora: bool,
}

/// PEFT's alphas are whole numbers as a rule.
#[derive(Serialize)]
#[serde(untagged)]
enum Number {
    Whole(i64),
    Any(f64),
}

impl From<f64> for Number {
    fn from(x: f64) -> Self {
        let whole = x as i64;
        if whole as f64 == x { Self::Whole(whole) } else { Self::Any(x) }
    }
}

/// The manifest's adapter as PEFT's configuration.
///
/// # Errors
/// [`PeftError::Config`] where it is no JSON, which no checked manifest leads to.
pub fn write(manifest: &Manifest) -> Result<Vec<u8>, PeftError> {
    let Lora { rank, alpha, targets, rank_pattern, alpha_pattern, .. } = &manifest.lora;
    let head = manifest.head.is_some();
    let written = Written {
        alpha_pattern: alpha_pattern.iter().map(|(key, x)| (key.clone(), (*x).into())).collect(),
        base_model_name_or_path: &manifest.base.name,
        bias: "none",
        fan_in_fan_out: manifest.lora.fan_in_fan_out,
        inference_mode: true,
        layers_to_transform: manifest.lora.layers.as_deref(),
        lora_alpha: (*alpha).into(),
        lora_dropout: manifest.lora.dropout,
        modules_to_save: head.then_some([HEADS[0]]),
        peft_type: "LORA",
        r: *rank,
        rank_pattern,
        target_modules: targets,
        task_type: if head { "SEQ_CLS" } else { "CAUSAL_LM" },
        use_rslora: manifest.lora.rslora,
    };
    serde_json::to_vec_pretty(&written).map_err(|e| PeftError::Config(e.to_string()))
}

/// A configuration that is understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What it calls the base model; may be empty.
    pub base: String,
    /// The adapter; of a list of targets, those that the base model has.
    pub lora: Lora,
    /// Whether a task head may be among the tensors.
    pub may_have_head: bool,
}

#[derive(Deserialize)]
struct Kind {
    peft_type: Option<String>,
}

/// What is read of the file; all else is in `rest`.
#[derive(Deserialize)]
struct File {
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f32,
    target_modules: Option<Targets>,
    layers_to_transform: Option<Layers>,
    rank_pattern: Option<Patterns<usize>>,
    alpha_pattern: Option<Patterns<f64>>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    modules_to_save: Option<Vec<String>>,
    bias: Option<String>,
    init_lora_weights: Option<Value>,
    base_model_name_or_path: Option<String>,
    task_type: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Layers {
    One(usize),
    Some(Vec<usize>),
}

/// Reads a configuration for the base model of `shapes`.
///
/// # Errors
/// [`PeftError::Setting`] names what would compute something else, [`PeftError::Layout`] targets that the
/// base model lacks.
pub fn read(json: &[u8], shapes: &Shapes<'_>) -> Result<Settings, PeftError> {
    let syntax = |e: serde_json::Error| PeftError::Config(e.to_string());
    // Alone at first: another method's file lacks the other fields.
    let kind: Kind = serde_json::from_slice(json).map_err(syntax)?;
    if kind.peft_type.as_deref() != Some("LORA") {
        let found =
            kind.peft_type.map_or("absent".to_owned(), |kind| Value::from(kind).to_string());
        return Err(setting("peft_type", &found, "\"LORA\""));
    }
    let file: File = serde_json::from_slice(json).map_err(syntax)?;
    file.refuse()?;
    let targets = file.target_modules.ok_or_else(|| setting("target_modules", "null", TARGETS))?;
    let lora = Lora {
        dropout: file.lora_dropout,
        rank_pattern: file.rank_pattern.unwrap_or_default(),
        alpha_pattern: file.alpha_pattern.unwrap_or_default(),
        rslora: file.use_rslora,
        fan_in_fan_out: file.fan_in_fan_out,
        layers: match file.layers_to_transform {
            None => None,
            Some(Layers::One(layer)) => Some(vec![layer]),
            // PEFT takes an empty list for none at all.
            Some(Layers::Some(layers)) => Some(layers).filter(|layers| !layers.is_empty()),
        },
        ..Lora::new(file.r, file.lora_alpha, of(targets, shapes)?)
    };
    let may_have_head = file.modules_to_save.is_some_and(|modules| !modules.is_empty());
    in_range(&lora)?;
    Ok(Settings { base: file.base_model_name_or_path.unwrap_or_default(), lora, may_have_head })
}

/// Whether every number is one a manifest may have; told by PEFT's name.
fn in_range(lora: &Lora) -> Result<(), PeftError> {
    let Err((field, expected)) = lora.ranges() else { return Ok(()) };
    let ours = field.trim_start_matches("lora.");
    let value = serde_json::to_value(lora).map_err(|e| PeftError::Config(e.to_string()))?;
    let found = value.get(ours).cloned().unwrap_or_default().to_string();
    let theirs = match ours {
        "rank" => "r",
        "alpha" => "lora_alpha",
        "dropout" => "lora_dropout",
        "layers" => "layers_to_transform",
        same => same,
    };
    Err(setting(theirs, &found, expected))
}

const TARGETS: &str = "a list of module names, a pattern, or \"all-linear\"";

/// PEFT lets a list name modules that a model does not have, as long as it has one of them.
fn of(targets: Targets, shapes: &Shapes<'_>) -> Result<Targets, PeftError> {
    let Targets::Names(mut names) = targets else { return Ok(targets) };
    let linears = shapes.linears;
    let first = names.first().cloned().unwrap_or_default();
    names.retain(|name| linears.iter().any(|l| crate::modules::ends_in(&l.name, name)));
    if names.is_empty() {
        return Err(LayoutError::no_such_target(&first, linears).into());
    }
    // PEFT writes a set, in any order.
    names.sort_unstable();
    Ok(Targets::Names(names))
}

impl File {
    fn refuse(&self) -> Result<(), PeftError> {
        known("bias", self.bias.as_deref(), &["none"], "\"none\"")?;
        let tasks = "\"CAUSAL_LM\", \"SEQ_CLS\", \"FEATURE_EXTRACTION\" or null";
        let good = ["CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION"];
        known("task_type", self.task_type.as_deref(), &good, tasks)?;
        // What PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA start from is taken off the base's own weights, so
        // that their adapter fits no unmodified model.
        let init = self.init_lora_weights.as_ref().filter(|init| match init {
            Value::Null | Value::Bool(_) => false,
            Value::String(init) => !["gaussian", "eva", "orthogonal"].contains(&init.as_str()),
            _ => true,
        });
        if let Some(init) = init {
            let expected = "true, false, \"gaussian\", \"eva\" or \"orthogonal\"";
            return Err(setting("init_lora_weights", &init.to_string(), expected));
        }
        let mut saved = self.modules_to_save.iter().flatten();
        if let Some(module) = saved.find(|module| !HEADS.contains(&module.as_str())) {
            let found = Value::from(module.as_str()).to_string();
            return Err(setting("modules_to_save", &found, "\"classifier\" and \"score\" alone"));
        }
        let empty = |value: &Value| match value {
            Value::Null => true,
            Value::Bool(on) => !on,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Number(_) | Value::String(_) => false,
        };
        let beside = |name: &String| BESIDE.contains(&name.as_str());
        match self.rest.iter().find(|(name, value)| !beside(name) && !empty(value)) {
            Some((name, value)) => Err(setting(name, &value.to_string(), "null, false or empty")),
            None => Ok(()),
        }
    }
}

/// Refuses a text setting that is there and is none of `good`.
fn known(
    field: &str,
    found: Option<&str>,
    good: &[&str],
    expected: &'static str,
) -> Result<(), PeftError> {
    match found {
        Some(found) if !good.contains(&found) => {
            Err(setting(field, &Value::from(found).to_string(), expected))
        }
        _ => Ok(()),
    }
}

fn setting(field: &str, found: &str, expected: &'static str) -> PeftError {
    // Long enough to know it by.
    let found = found.chars().take(120).collect();
    PeftError::Setting { field: field.to_owned(), found, expected }
}
