//! The adapter as others read it: safetensors with PEFT's tensor names.
//!
//! `model.layers.0.self_attn.q_proj.lora_A` becomes
//! `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`; a task head keeps its names behind
//! `base_model.model.`, and its bias has one dimension. FFA-LoRA's frozen A is not in
//! the layout; it is regenerated from the seed, for which the base model's shapes must be known.

use std::collections::HashMap;

use gossamer_protocol::layout::{BaseLinear, Part, TensorSpec, lora_pair};
use gossamer_protocol::manifest::Manifest;
use safetensors::tensor::{Dtype, TensorView};

/// Why an adapter cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// FFA-LoRA without the base model's shapes.
    #[error(
        "A is frozen and not in the layout, and the run was created without the base model's shapes"
    )]
    NoShapes,
    /// The shapes kept with the run are damaged, or lack a module.
    #[error("the base model's shapes kept with the run have no {0}")]
    NoModule(String),
    /// The file format refuses.
    #[error("safetensors: {0}")]
    Format(String),
}

/// The flat adapter `theta`, shape `[n]`, as a safetensors file. Equal adapters give equal bytes.
///
/// # Errors
/// [`ExportError`] where a frozen A cannot be regenerated.
pub fn safetensors(
    manifest: &Manifest,
    linears: Option<&[u8]>,
    theta: &[f32],
) -> Result<Vec<u8>, ExportError> {
    let mut tensors: Vec<(TensorSpec, Vec<u8>)> = Vec::new();
    for (spec, place) in manifest.layout.tensors() {
        if manifest.lora.freeze_a && spec.part == Part::LoraB {
            let frozen = frozen_a(manifest, linears, spec)?;
            let values = frozen.init(manifest.seed);
            tensors.push((frozen, bytes(&values)));
        }
        tensors.push((spec.clone(), bytes(&theta[place])));
    }
    let views: Vec<(String, TensorView<'_>)> = tensors
        .iter()
        .map(|(spec, data)| {
            let (name, shape) = match (spec.part, spec.shape) {
                (Part::LoraA | Part::LoraB, shape) => {
                    (format!("{}.weight", spec.name), shape.to_vec())
                }
                (Part::Head, [classes, 1]) => (spec.name.clone(), vec![classes]),
                (Part::Head, shape) => (spec.name.clone(), shape.to_vec()),
            };
            let view = TensorView::new(Dtype::F32, shape, data);
            let view = view.map_err(|e| ExportError::Format(e.to_string()))?;
            Ok((format!("base_model.model.{name}"), view))
        })
        .collect::<Result<_, ExportError>>()?;
    // One entry: a map of several would be written in any order.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(|e| ExportError::Format(e.to_string()))
}

/// PEFT's `adapter_config.json` for the same adapter.
#[must_use]
pub fn peft_config(manifest: &Manifest) -> serde_json::Value {
    let mut config = serde_json::json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": manifest.base.name,
        "r": manifest.lora.rank,
        "lora_alpha": manifest.lora.alpha,
        "lora_dropout": manifest.lora.dropout,
        "target_modules": manifest.lora.targets,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
    });
    if manifest.head.is_some() {
        config["task_type"] = "SEQ_CLS".into();
        config["modules_to_save"] = serde_json::json!(["classifier"]);
    }
    config
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn frozen_a(
    manifest: &Manifest,
    linears: Option<&[u8]>,
    b: &TensorSpec,
) -> Result<TensorSpec, ExportError> {
    let module = b.name.strip_suffix(".lora_B").unwrap_or(&b.name);
    let missing = || ExportError::NoModule(module.to_owned());
    let linears: HashMap<String, [usize; 2]> =
        serde_json::from_slice(linears.ok_or(ExportError::NoShapes)?).map_err(|_| missing())?;
    let &[d_in, d_out] = linears.get(module).ok_or_else(missing)?;
    let [a, _] = lora_pair(&BaseLinear { name: module.into(), d_in, d_out }, manifest.lora.rank);
    Ok(a)
}

/// The shapes of a base model's linears, as kept with a run: `{name: [d_in, d_out]}`.
pub(crate) fn linears_to_bytes(linears: &[BaseLinear]) -> Vec<u8> {
    let shapes: std::collections::BTreeMap<&str, [usize; 2]> =
        linears.iter().map(|l| (l.name.as_str(), [l.d_in, l.d_out])).collect();
    serde_json::to_vec(&shapes).expect("names and numbers are always JSON")
}

#[cfg(test)]
mod tests {
    use gossamer_protocol::layout::Layout;
    use safetensors::SafeTensors;

    use super::*;

    /// The names and shapes that PEFT gives a `SEQ_CLS` adapter of a BERT.
    #[test]
    fn a_head_keeps_its_names() {
        let linear = BaseLinear { name: "bert.query".into(), d_in: 3, d_out: 4 };
        let layout = Layout::lora(&[linear], &["query".into()], 2, false).expect("valid");
        let layout = layout.with_head(5, 4).expect("valid");
        let n = layout.n();
        let manifest: Manifest = serde_json::from_value(serde_json::json!({
            "version": 1, "name": "test", "seed": 1, "rounds": 1,
            "base": { "name": "b", "digest": gossamer_protocol::digest::Digest::of(b"b") },
            "lora": { "rank": 2, "alpha": 4.0, "targets": ["query"] },
            "layout": layout, "head": { "classes": 5 },
            "method": { "download": { "density": 1.0 }, "upload": { "density": 1.0 } },
            "training": {
                "steps": 1, "batch": 1, "context": 8, "optimizer": { "kind": "sgd", "lr": 0.1 },
            },
            "cohort": { "goal": 1, "ask": 1, "min": 1, "deadline_s": 60 },
            "optimizer": { "kind": "sgd", "lr": 1.0 },
        }))
        .expect("a manifest");
        let theta: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let file = safetensors(&manifest, None, &theta).expect("written");
        let file = SafeTensors::deserialize(&file).expect("whole");
        let shape = |name: &str| file.tensor(name).expect(name).shape().to_vec();
        assert_eq!(shape("base_model.model.bert.query.lora_A.weight"), [2, 3]);
        assert_eq!(shape("base_model.model.classifier.weight"), [5, 4]);
        assert_eq!(shape("base_model.model.classifier.bias"), [5]);
        let bias = file.tensor("base_model.model.classifier.bias").expect("there").data().to_vec();
        assert_eq!(bias, bytes(&theta[n - 5..]));
        let config = peft_config(&manifest);
        assert_eq!(config["task_type"], "SEQ_CLS");
        assert_eq!(config["modules_to_save"], serde_json::json!(["classifier"]));
    }
}
