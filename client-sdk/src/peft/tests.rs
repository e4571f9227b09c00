use gossamer_protocol::layout::Part;
use gossamer_protocol::manifest::{Head, LocalOptimizer, Lora};
use gossamer_protocol::peft::PeftError;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

use super::*;
use crate::data::Batch;
use crate::model::LlamaConfig;
use crate::model::fixture::{self, CLASSES};
use crate::model::llama::tests::tiny;
use crate::train::logits;

fn recipe() -> Training {
    let optimizer = LocalOptimizer::Sgd { lr: 0.1, momentum: 0.0 };
    Training { steps: 1, batch: 2, context: 16, optimizer, clip: None, proximal: 0.0 }
}

/// A model folder of the fixture's Llama, its weights narrowed to `dtype`.
fn folder(dtype: Dtype) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = tiny();
    let wide = fixture::weights(&config, 1);
    let file = SafeTensors::deserialize(&wide).expect("its own");
    let narrowed: Vec<_> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let values = view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b));
            let bytes: Vec<u8> = match dtype {
                Dtype::BF16 => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
                _ => values.flat_map(f32::to_le_bytes).collect(),
            };
            (name, view.shape().to_vec(), bytes)
        })
        .collect();
    let views = narrowed.iter().map(|(name, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes);
        (name.as_str(), view.expect("its own shape"))
    });
    let weights = safetensors::serialize(views, None).expect("valid");
    for (name, bytes) in [
        ("config.json", config.to_json().to_string().into_bytes()),
        ("tokenizer.json", fixture::tokenizer(config.vocab).into_bytes()),
        ("model.safetensors", weights),
        ("pytorch_model.bin", b"the same once more".to_vec()),
        ("generation_config.json", b"{}".to_vec()),
    ] {
        std::fs::write(dir.path().join(name), bytes).expect("written");
    }
    dir
}

/// Terms of an adapter with two ranks and two scales, and values that are not small.
fn adapter(base: &BaseModel) -> (Manifest, Vec<f32>) {
    let lora = Lora {
        rank_pattern: [("up_proj".to_owned(), 2)].into_iter().collect(),
        alpha_pattern: [("q_proj".to_owned(), 9.0)].into_iter().collect(),
        rslora: true,
        ..Lora::new(3, 4.0, ["q_proj", "up_proj", "down_proj"].map(String::from).to_vec())
    };
    let layout = lora.layout(&base.linears()).expect("targets there are");
    let frozen = Base { name: "fixture".into(), digest: base.digest() };
    let manifest = Manifest::alone(frozen, lora, layout, None, recipe());
    let theta = fixture::normal(manifest.layout.n(), 0.3, 4);
    (manifest, theta)
}

fn batch() -> Batch {
    fixture::batch(&tiny(), 2, 7)
}

#[test]
fn out_in_and_on() {
    let model = folder(Dtype::F32);
    let base = BaseModel::load(model.path()).expect("loads");
    let (manifest, theta) = adapter(&base);
    let out = model.path().join("adapter/new");
    export(&out, &manifest, &base, &theta).expect("written");
    let files = Files::export(&manifest, None, &theta).expect("the server's");
    for (name, bytes) in files.iter() {
        assert_eq!(std::fs::read(out.join(name)).expect("there"), bytes, "{name}");
    }
    let read = import(&out, &base).expect("its own");
    assert_eq!((&read.theta, &read.layout), (&theta, &manifest.layout));
    let terms = terms(&read, &base, recipe());
    let [got, want] = [(&terms, &read.theta), (&manifest, &theta)]
        .map(|(manifest, theta)| logits(&base, manifest, theta, &batch()).expect("runs"));
    assert_eq!(got, want);
    let none = vec![0.0; theta.len()];
    assert_ne!(logits(&base, &manifest, &none, &batch()).expect("runs"), want);
}

/// The merged model alone computes what base and adapter do: to rounding in `f32`; in `bf16` the merged
/// weights are those of `f64` rounded.
#[test]
fn merged_weights_compute_the_same() {
    for dtype in [Dtype::F32, Dtype::BF16] {
        let model = folder(dtype);
        let base = BaseModel::load(model.path()).expect("loads");
        let (manifest, theta) = adapter(&base);
        let (from, out) = (model.path().join("adapter"), model.path().join("merged"));
        export(&from, &manifest, &base, &theta).expect("written");
        merge(model.path(), &from, &out).expect("merged");

        let [old, new] = [model.path(), &out]
            .map(|dir| std::fs::read(dir.join("model.safetensors")).expect("there"));
        let [old, new] = [&old, &new].map(|bytes| SafeTensors::deserialize(bytes).expect("whole"));
        assert_eq!(old.len(), new.len());
        let adapted = |name: &str| {
            ["q_proj.weight", "up_proj.weight", "down_proj.weight"]
                .iter()
                .any(|end| name.ends_with(end))
        };
        for (name, before) in old.tensors() {
            let after = new.tensor(&name).expect("kept");
            assert_eq!((before.dtype(), before.shape()), (after.dtype(), after.shape()));
            assert_eq!(before.data() == after.data(), !adapted(&name), "{name}");
        }
        let values = |file: &SafeTensors<'_>, module: &str| -> Vec<f64> {
            let view = file.tensor(&format!("{module}.weight")).expect("its linear");
            let data = view.data();
            match dtype {
                Dtype::BF16 => {
                    let wide = |&b: &[u8; 2]| half::bf16::from_le_bytes(b).to_f64();
                    data.as_chunks().0.iter().map(wide).collect()
                }
                _ => data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b).into()).collect(),
            }
        };
        let rules = manifest.lora.rules().expect("patterns");
        let (mut checked, mut a) = (0, 0..0);
        for (tensor, place) in manifest.layout.tensors() {
            if tensor.part == Part::LoraA {
                a = place;
                continue;
            }
            let module = tensor.name.trim_end_matches(".lora_B");
            let (before, after) = (values(&old, module), values(&new, module));
            let rank = tensor.shape[1];
            let (a, b) = (&theta[a.clone()], &theta[place]);
            let d_in = a.len() / rank;
            for (i, (before, after)) in before.iter().zip(&after).enumerate() {
                let (o, c) = (i / d_in, i % d_in);
                let dot: f64 = (0..rank)
                    .map(|r| f64::from(b[o * rank + r]) * f64::from(a[r * d_in + c]))
                    .sum();
                let want = before + rules.scale(module) * dot;
                let half_a_place = if dtype == Dtype::F32 { 1e-6 } else { 1.001 / 256.0 };
                let near = (after - want).abs() <= half_a_place * want.abs().max(0.1);
                assert!(near, "{module} {i}");
                checked += 1;
            }
        }
        assert_eq!(checked, 2 * (12 * 16 + 12 * 20 + 20 * 12));
        for there in ["config.json", "tokenizer.json", "generation_config.json"] {
            assert!(out.join(there).is_file(), "{there}");
        }
        assert!(!out.join("pytorch_model.bin").exists(), "the old weights");
        if dtype == Dtype::F32 {
            let merged = BaseModel::load(&out).expect("loads");
            let want = logits(&base, &manifest, &theta, &batch()).expect("runs");
            let zero = vec![0.0; theta.len()];
            let alone = Manifest {
                base: Base { digest: merged.digest(), ..manifest.base.clone() },
                ..manifest
            };
            let got = logits(&merged, &alone, &zero, &batch()).expect("runs");
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() <= 1e-4 * want.abs().max(1.0), "{got}, not {want}");
            }
        }
        let same = merge(model.path(), &from, model.path());
        assert!(matches!(same, Err(AdapterError::Same(_))), "{same:?}");
    }
}

#[test]
fn refused_by_name() {
    let model = folder(Dtype::F32);
    let base = BaseModel::load(model.path()).expect("loads");
    let (manifest, theta) = adapter(&base);
    let dir = model.path().join("adapter");
    export(&dir, &manifest, &base, &theta).expect("written");

    let other = fixture::base(&LlamaConfig { layers: 1, ..tiny() });
    let refused = import(&dir, &other).expect_err("another base");
    assert!(matches!(refused, AdapterError::Files { source: PeftError::Base { .. }, .. }));
    let refused = export(&dir, &manifest, &other, &theta).expect_err("another base");
    assert!(matches!(refused, AdapterError::Export(PeftError::Base { .. })));
    // Without an origin, as PEFT leaves it, by the first tensor that the base does not have.
    std::fs::remove_file(dir.join(ORIGIN_FILE)).expect("there");
    let refused = import(&dir, &other).expect_err("another base");
    match refused {
        AdapterError::Files { source: PeftError::Unknown(name), .. } => {
            assert!(name.starts_with("base_model.model.model.layers.1."), "{name}");
        }
        other => panic!("{other:?}"),
    }
    let bert = fixture::bert(&serde_json::json!({})).expect("the fixture's");
    let refused = import(&dir, &bert).expect_err("a Llama's");
    assert!(matches!(refused, AdapterError::Files { source: PeftError::Layout(_), .. }));
    let headless = fixture::manifest(&bert, &["query"], false);
    let Manifest { base: frozen, lora, training, .. } = headless.clone();
    let layout = lora.layout(&bert.linears()).expect("there");
    let headless = Manifest::alone(frozen, lora, layout, None, training);
    export(&dir, &headless, &bert, &vec![0.0; headless.layout.n()]).expect("written");
    let refused = import(&dir, &bert).expect_err("no head");
    assert!(matches!(refused, AdapterError::Fit(LoraError::NoHead)), "{refused:?}");

    std::fs::rename(dir.join(WEIGHTS_FILE), dir.join("adapter_model.bin")).expect("there");
    assert!(matches!(import(&dir, &bert), Err(AdapterError::Pickle(_))));
    std::fs::remove_file(dir.join("adapter_model.bin")).expect("there");
    assert!(matches!(import(&dir, &bert), Err(AdapterError::Io { what: "read", .. })));
}

#[test]
fn a_head_goes_out_in_and_into_the_merged_model() {
    let base = fixture::bert(&serde_json::json!({})).expect("the fixture's");
    let manifest = fixture::manifest(&base, &["query", "output.dense"], true);
    let theta = fixture::normal(manifest.layout.n(), 0.3, 4);
    let dir = tempfile::tempdir().expect("a temporary folder");
    export(dir.path(), &manifest, &base, &theta).expect("written");
    let read = import(dir.path(), &base).expect("its own");
    assert_eq!(read.head, Some(Head { classes: CLASSES }));
    // A was frozen, so the file has tensors that the run's layout does not.
    assert!(read.layout.n() > manifest.layout.n());
    let terms = terms(&read, &base, recipe());
    let batch = Batch {
        inputs: vec![1, 5, 9, 2, 1, 7, 2, 0],
        targets: vec![0, 1],
        lengths: vec![4, 3],
        rows: 2,
        cols: 4,
    };
    let got = logits(&base, &terms, &read.theta, &batch).expect("runs");
    assert_eq!(got, logits(&base, &manifest, &theta, &batch).expect("runs"));
    assert_eq!(got.len(), 2 * CLASSES as usize);
}
