//! `adapter_model.safetensors`, out and in.
//!
//! `p.lora_A` of the layout, `[rank, d_in]`, is `base_model.model.p.lora_A.weight`, and `p.lora_B`,
//! `[d_out, rank]`, likewise; GPT-2's Conv1D changes nothing here. A task head keeps its names behind
//! `base_model.model.`, and its bias has one dimension. A core is multiplied into its B. FFA-LoRA's frozen A
//! is not in the layout; it is regenerated from the seed, for which the base model's shapes must be known.

use std::collections::{HashMap, HashSet};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::PeftError;
use crate::layout::{BaseLinear, Layout, Part, TensorSpec, head_pair, lora_pair, pairs};
use crate::manifest::{Head, Manifest};

/// What PEFT puts in front of the model's own paths.
const PREFIX: &str = "base_model.model.";

/// The flat adapter `theta`, shape `[n]`, in F32. Equal adapters give equal bytes.
///
/// # Errors
/// [`PeftError::Length`], [`PeftError::NoShapes`] or [`PeftError::NoModule`].
pub fn write(
    manifest: &Manifest,
    linears: Option<&[BaseLinear]>,
    theta: &[f32],
) -> Result<Vec<u8>, PeftError> {
    let (expected, found) = (manifest.layout.n(), theta.len());
    if found != expected {
        return Err(PeftError::Length { expected, found });
    }
    let pairs = pairs(&manifest.layout);
    let mut tensors: Vec<(TensorSpec, Vec<u8>)> = Vec::new();
    for (spec, place) in manifest.layout.tensors() {
        match spec.part {
            Part::LoraA | Part::LoraB | Part::Head => {}
            // Only training needs the one; the other is in its B.
            Part::Control | Part::LoraR => continue,
            Part::Weight => return Err(PeftError::Whole(spec.name.clone())),
        }
        if manifest.lora.freeze_a && spec.part == Part::LoraB {
            let frozen = frozen_a(linears, spec)?;
            let values = frozen.init(manifest.seed);
            tensors.push((frozen, bytes(&values)));
        }
        let pair = pairs.iter().find(|pair| pair.b == place && !pair.core.is_empty());
        let values = match pair {
            Some(pair) => bytes(&pair.b_times_core(theta)),
            None => bytes(&theta[place]),
        };
        tensors.push((spec.clone(), values));
    }
    let format = |e: safetensors::SafeTensorError| PeftError::Weights(e.to_string());
    let mut views = Vec::with_capacity(tensors.len());
    for (spec, data) in &tensors {
        let view = TensorView::new(Dtype::F32, shape(spec), data).map_err(format)?;
        views.push((name(spec), view));
    }
    // One entry: a map of several would be written in any order.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(format)
}

/// The tensors of `layout`, and those of a head on `hidden` features where the file has one.
///
/// # Errors
/// [`PeftError`] at the first tensor that is missing, too many, or of another shape or type.
pub fn read(
    file: &[u8],
    layout: Layout,
    hidden: Option<usize>,
) -> Result<(Layout, Option<Head>, Vec<f32>), PeftError> {
    let file = SafeTensors::deserialize(file).map_err(|e| PeftError::Weights(e.to_string()))?;
    let (layout, head) = match hidden.and_then(|hidden| Some((hidden, classes(&file)?))) {
        Some((hidden, classes)) => (layout.with_head(classes, hidden)?, Some(Head { classes })),
        None => (layout, None),
    };
    let mut known = HashSet::new();
    // Grows by what the file has, not by what the settings claim.
    let mut theta = Vec::new();
    for (spec, _) in layout.tensors() {
        let name = name(spec);
        let Ok(view) = file.tensor(&name) else { return Err(PeftError::Missing(name)) };
        if view.shape() != shape(spec) {
            let (expected, found) = (shape(spec), view.shape().to_vec());
            return Err(PeftError::Shape { name, expected, found });
        }
        let start = theta.len();
        let data = view.data();
        match view.dtype() {
            Dtype::F32 => theta.extend(data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
            Dtype::F16 => {
                let wide = |&b: &[u8; 2]| half::f16::from_le_bytes(b).to_f32();
                theta.extend(data.as_chunks().0.iter().map(wide));
            }
            Dtype::BF16 => {
                let wide = |&b: &[u8; 2]| half::bf16::from_le_bytes(b).to_f32();
                theta.extend(data.as_chunks().0.iter().map(wide));
            }
            other => return Err(PeftError::Dtype { name, found: format!("{other:?}") }),
        }
        if !theta[start..].iter().all(|x| x.is_finite()) {
            return Err(PeftError::NonFinite(name));
        }
        known.insert(name);
    }
    let mut names = file.names();
    names.sort_unstable();
    match names.into_iter().find(|name| !known.contains(*name)) {
        Some(name) => Err(PeftError::Unknown(name.to_owned())),
        None => Ok((layout, head, theta)),
    }
}

/// Rows of the head's weight, where the file has one.
fn classes(file: &SafeTensors<'_>) -> Option<u32> {
    let [weight, _] = head_pair(1, 1);
    let view = file.tensor(&name(&weight)).ok()?;
    view.shape().first().and_then(|&rows| u32::try_from(rows).ok())
}

fn name(spec: &TensorSpec) -> String {
    match spec.part {
        Part::LoraA | Part::LoraB => format!("{PREFIX}{}.weight", spec.name),
        Part::Head | Part::Weight | Part::Control | Part::LoraR => format!("{PREFIX}{}", spec.name),
    }
}

/// PEFT's: a head's bias is a vector.
fn shape(spec: &TensorSpec) -> Vec<usize> {
    match (spec.part, spec.shape) {
        (Part::Head, [classes, 1]) if spec.name.ends_with(".bias") => vec![classes],
        (_, shape) => shape.to_vec(),
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The A that goes with `b`.
fn frozen_a(linears: Option<&[BaseLinear]>, b: &TensorSpec) -> Result<TensorSpec, PeftError> {
    let module = b.name.strip_suffix(".lora_B").unwrap_or(&b.name);
    let linear = linears.ok_or(PeftError::NoShapes)?.iter().find(|l| l.name == module);
    let linear = linear.ok_or_else(|| PeftError::NoModule(module.to_owned()))?;
    let [a, _] = lora_pair(linear, b.shape[1]);
    Ok(a)
}
