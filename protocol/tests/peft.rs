//! PEFT's files in and out. `vectors/peft.json` is what `client-sdk/tests/python/peft_config.py` printed:
//! the configuration that PEFT saved of a GPT-2 adapter, its tensors' names and shapes, its scales.

use std::collections::{BTreeMap, HashMap};

use gossamer_protocol::digest::Digest;
use gossamer_protocol::layout::{BaseLinear, Part};
use gossamer_protocol::manifest::{Head, Lora, Manifest, Targets};
use gossamer_protocol::peft::{Files, PeftError, Shapes, config, weights};
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

#[derive(serde::Deserialize)]
struct Golden {
    config: String,
    shapes: BTreeMap<String, Vec<usize>>,
    scaling: BTreeMap<String, f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("vectors/peft.json")).expect("the script's shape")
}

/// The linears of the script's GPT-2.
fn linears() -> Vec<BaseLinear> {
    let modules =
        [("attn.c_attn", 8, 24), ("attn.c_proj", 8, 8), ("mlp.c_fc", 8, 32), ("mlp.c_proj", 32, 8)];
    let layer = |at: usize| {
        modules.map(|(name, d_in, d_out)| BaseLinear {
            name: format!("transformer.h.{at}.{name}"),
            d_in,
            d_out,
        })
    };
    (0..2).flat_map(layer).collect()
}

fn shapes(linears: &[BaseLinear]) -> Shapes<'_> {
    Shapes { digest: Digest::of(b"gpt2"), linears, hidden: 8 }
}

/// A file of these tensors; entry `i` of tensor `t` is `i + 1000 t`, in `f32`, `f16` or `bf16`.
fn file(shapes: &BTreeMap<String, Vec<usize>>, dtype: Dtype) -> Vec<u8> {
    let tensors = shapes.iter().enumerate().map(|(t, (name, shape))| {
        let value = |i: usize| (i + 1000 * t) as f32;
        let bytes = |i| match dtype {
            Dtype::F16 => half::f16::from_f32(value(i)).to_le_bytes().to_vec(),
            Dtype::BF16 => half::bf16::from_f32(value(i)).to_le_bytes().to_vec(),
            _ => value(i).to_le_bytes().to_vec(),
        };
        (name, shape.clone(), (0..shape.iter().product()).flat_map(bytes).collect::<Vec<u8>>())
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter().map(|(name, shape, data)| {
        (name.as_str(), TensorView::new(dtype, shape.clone(), data).expect("its own shape"))
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).expect("valid")
}

fn files(golden: &Golden) -> Files {
    Files {
        config: golden.config.clone().into_bytes(),
        weights: file(&golden.shapes, Dtype::F32),
        origin: None,
    }
}

/// A manifest around `lora` on the script's model.
fn manifest(lora: &Lora, head: Option<Head>) -> Manifest {
    let mut layout = lora.layout(&linears()).expect("targets there are");
    if let Some(Head { classes }) = head {
        layout = layout.with_head(classes, 8).expect("fits");
    }
    let manifest: Manifest = serde_json::from_value(json!({
        "version": 2, "name": "test", "seed": 1, "rounds": 1,
        "base": { "name": "gpt2", "digest": Digest::of(b"gpt2") },
        "lora": lora, "layout": layout,
        "method": { "download": { "density": 1.0 }, "upload": { "density": 1.0 } },
        "training": {
            "steps": 1, "batch": 1, "context": 8, "optimizer": { "kind": "sgd", "lr": 0.1 },
        },
        "cohort": { "goal": 1, "ask": 1, "min": 1, "deadline_s": 60 },
        "optimizer": { "kind": "sgd", "lr": 1.0 },
    }))
    .expect("a manifest");
    Manifest { head, ..manifest }
}

#[test]
fn pefts_own_files_are_read() {
    let (golden, linears) = (golden(), linears());
    let adapter = files(&golden).import(&shapes(&linears)).expect("PEFT's own");
    assert_eq!(adapter.layout.n(), adapter.theta.len());
    assert_eq!(adapter.layout.tensors().count(), golden.shapes.len());
    assert_eq!((adapter.head, adapter.lora.fan_in_fan_out), (None, true));
    let rules = adapter.lora.rules().expect("patterns");
    for (tensor, place) in adapter.layout.tensors() {
        let name = format!("base_model.model.{}.weight", tensor.name);
        let t = golden.shapes.keys().position(|key| *key == name).expect("PEFT has it");
        assert_eq!(tensor.shape.as_slice(), golden.shapes[&name], "{name}");
        let values = adapter.theta[place].iter().enumerate();
        assert!({ values }.all(|(i, &x)| x == (i + 1000 * t) as f32), "{name}");
        let module = tensor.name.rsplit_once('.').expect("a path").0;
        assert!((rules.scale(module) - golden.scaling[module]).abs() < 1e-12, "{module}");
    }
}

#[test]
fn narrow_types_are_read() {
    let (golden, linears) = (golden(), linears());
    let first: BTreeMap<_, _> =
        golden.shapes.iter().take(2).map(|(k, v)| (k.clone(), v.clone())).collect();
    let lora = Lora::new(2, 4.0, vec!["h.0.attn.c_attn".into()]);
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F32] {
        let layout = lora.layout(&linears).expect("there");
        let (layout, _, theta) = weights::read(&file(&first, dtype), layout, None).expect("reads");
        // 1000 is a multiple of 8, and 15 needs four bits: all are exact in `bf16` too.
        assert_eq!((theta[15], theta[16]), (15.0, 1000.0), "{dtype:?}");
        assert_eq!(layout.n(), theta.len());
    }
    let bytes = vec![0; 2 * 8 * 8];
    let view = TensorView::new(Dtype::F64, vec![2, 8], &bytes).expect("its own shape");
    let name = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight";
    let wide = safetensors::serialize([(name, view)], None).expect("valid");
    let refused = weights::read(&wide, lora.layout(&linears).expect("there"), None);
    let found = "F64".to_owned();
    assert_eq!(refused.expect_err("F64"), PeftError::Dtype { name: name.into(), found });
}

/// What is written is read again, and says in PEFT's words what the manifest says in ours.
#[test]
fn out_and_in() {
    let lora = Lora {
        rank_pattern: [("c_fc".into(), 3)].into_iter().collect(),
        alpha_pattern: [("c_proj".into(), 2.5)].into_iter().collect(),
        rslora: true,
        layers: Some(vec![1]),
        dropout: 0.25,
        fan_in_fan_out: true,
        ..Lora::new(2, 4.0, vec!["c_attn".into(), "c_fc".into(), "c_proj".into()])
    };
    let manifest = manifest(&lora, Some(Head { classes: 3 }));
    let theta: Vec<f32> = (0..manifest.layout.n()).map(|i| i as f32).collect();
    let linears = linears();
    let files = Files::export(&manifest, None, &theta).expect("written");
    assert_eq!(files, Files::export(&manifest, Some(&linears), &theta).expect("the same bytes"));
    let adapter = files.import(&shapes(&linears)).expect("its own");
    assert_eq!((&adapter.lora, &adapter.layout), (&lora, &manifest.layout));
    assert_eq!((adapter.head, adapter.theta), (manifest.head, theta.clone()));

    let config: Value = serde_json::from_slice(&files.config).expect("JSON");
    assert_eq!(config["lora_alpha"], json!(4), "a whole number, as PEFT has it");
    assert_eq!(config["alpha_pattern"], json!({ "c_proj": 2.5 }));
    assert_eq!(config["rank_pattern"], json!({ "c_fc": 3 }));
    assert_eq!(config["layers_to_transform"], json!([1]));
    assert_eq!((&config["use_rslora"], &config["fan_in_fan_out"]), (&true.into(), &true.into()));
    assert_eq!(config["task_type"], "SEQ_CLS");
    assert_eq!(config["modules_to_save"], json!(["classifier"]));
    let file = SafeTensors::deserialize(&files.weights).expect("whole");
    let shape = |name: &str| file.tensor(name).expect(name).shape().to_vec();
    assert_eq!(shape("base_model.model.transformer.h.1.mlp.c_fc.lora_A.weight"), [3, 8]);
    assert_eq!(shape("base_model.model.transformer.h.1.attn.c_attn.lora_B.weight"), [24, 2]);
    assert_eq!(shape("base_model.model.classifier.weight"), [3, 8]);
    assert_eq!(shape("base_model.model.classifier.bias"), [3]);
    let bias = file.tensor("base_model.model.classifier.bias").expect("there").data().to_vec();
    let want: Vec<u8> = theta[theta.len() - 3..].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(bias, want);

    // A head trained in PEFT is in its configuration, and then only if its tensors are there.
    let short = Files::export(&manifest, None, &theta[1..]);
    let (expected, found) = (theta.len(), theta.len() - 1);
    assert_eq!(short, Err(PeftError::Length { expected, found }));
}

#[test]
fn a_frozen_a_is_written_from_the_seed() {
    let frozen = Lora { freeze_a: true, ..Lora::new(2, 4.0, vec!["c_attn".into()]) };
    let manifest = manifest(&frozen, None);
    let theta = vec![1.0; manifest.layout.n()];
    let linears = linears();
    let files = Files::export(&manifest, Some(&linears), &theta).expect("written");
    let adapter = files.import(&shapes(&linears)).expect("its own");
    assert!(!adapter.lora.freeze_a, "A is in the file");
    for (tensor, place) in adapter.layout.tensors() {
        let want = match tensor.part {
            Part::LoraA => tensor.init(manifest.seed),
            _ => vec![1.0; tensor.len()],
        };
        assert_eq!(adapter.theta[place], want);
    }
    assert_eq!(Files::export(&manifest, None, &theta), Err(PeftError::NoShapes));
    let lacking = Files::export(&manifest, Some(&linears[1..]), &theta);
    assert_eq!(lacking, Err(PeftError::NoModule("transformer.h.0.attn.c_attn".into())));
}

#[test]
fn settings_that_compute_something_else_are_refused_by_name() {
    let (golden, linears) = (golden(), linears());
    let with = |field: &str, value: Value| {
        let mut changed: Value = serde_json::from_str(&golden.config).expect("JSON");
        changed[field] = value;
        config::read(changed.to_string().as_bytes(), &shapes(&linears))
    };
    for (field, value, found) in [
        ("peft_type", json!("IA3"), "\"IA3\""),
        ("peft_type", Value::Null, "absent"),
        ("bias", json!("all"), "\"all\""),
        ("task_type", json!("SEQ_2_SEQ_LM"), "\"SEQ_2_SEQ_LM\""),
        ("use_dora", json!(true), "true"),
        ("use_qalora", json!(true), "true"),
        ("lora_bias", json!(true), "true"),
        ("init_lora_weights", json!("pissa_niter_4"), "\"pissa_niter_4\""),
        ("init_lora_weights", json!("loftq"), "\"loftq\""),
        ("modules_to_save", json!(["classifier", "lm_head"]), "\"lm_head\""),
        ("layer_replication", json!([[0, 1]]), "[[0,1]]"),
        ("layers_pattern", json!(["h"]), "[\"h\"]"),
        ("exclude_modules", json!(["c_fc"]), "[\"c_fc\"]"),
        ("target_parameters", json!(["experts.w"]), "[\"experts.w\"]"),
        ("trainable_token_indices", json!([1]), "[1]"),
        ("target_modules", Value::Null, "null"),
        ("a_field_of_the_future", json!(0.5), "0.5"),
        ("r", json!(0), "0"),
        ("lora_alpha", json!(-1), "-1.0"),
        ("lora_dropout", json!(1.5), "1.5"),
        ("rank_pattern", json!({ "c_fc": 0 }), "{\"c_fc\":0}"),
    ] {
        match with(field, value) {
            Err(PeftError::Setting { field: told, found: seen, .. }) => {
                assert_eq!((told.as_str(), seen.as_str()), (field, found));
            }
            other => panic!("{field}: {other:?}"),
        }
    }
    for (field, value) in [
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!(false)),
        ("layers_to_transform", json!([])),
        ("modules_to_save", json!(["classifier", "score"])),
        ("a_field_of_the_future", json!({})),
        ("bias", Value::Null),
    ] {
        assert!(with(field, value).is_ok(), "{field}");
    }
    let ours = with("target_modules", json!(["c_fc", "q_proj"])).expect("one is there");
    assert_eq!(ours.lora.targets, Targets::Names(vec!["c_fc".into()]));
    let none = with("target_modules", json!(["q_proj"])).expect_err("a Llama's");
    assert!(none.to_string().contains("q_proj") && none.to_string().contains("c_attn"), "{none}");
    let pattern = with("target_modules", json!("(c_fc")).expect("read").lora.rules();
    assert!(pattern.is_err());
    let syntax = config::read(b"{", &shapes(&linears)).expect_err("not JSON");
    assert!(matches!(syntax, PeftError::Config(_)));
}

#[test]
fn an_adapter_for_another_base_is_refused_by_name() {
    let (golden, linears) = (golden(), linears());
    let files = files(&golden);
    let refused = |shapes: &Shapes<'_>| files.import(shapes).expect_err("another base");

    let deeper: Vec<BaseLinear> = linears
        .iter()
        .map(|l| BaseLinear { name: l.name.replace(".1.", ".2."), ..l.clone() })
        .collect();
    let missing = "base_model.model.transformer.h.1.attn.c_attn.lora_A.weight".to_owned();
    assert_eq!(refused(&shapes(&deeper)), PeftError::Unknown(missing));
    let mut wider = linears.clone();
    wider[2].d_out = 40;
    let name = "base_model.model.transformer.h.0.mlp.c_fc.lora_B.weight".to_owned();
    let (expected, found) = (vec![40, 2], vec![32, 2]);
    assert_eq!(refused(&shapes(&wider)), PeftError::Shape { name, expected, found });

    let lora = Lora::new(2, 4.0, vec!["c_attn".into()]);
    let manifest = manifest(&lora, None);
    let files = Files::export(&manifest, None, &vec![0.0; manifest.layout.n()]).expect("written");
    let other = Shapes { digest: Digest::of(b"another"), ..shapes(&linears) };
    let (expected, found) = (Digest::of(b"gpt2"), Digest::of(b"another"));
    let name = "gpt2".to_owned();
    assert_eq!(files.import(&other), Err(PeftError::Base { name, expected, found }));
    let origin = Some(b"{}".to_vec());
    let damaged = Files { origin, ..files.clone() }.import(&shapes(&linears));
    assert!(matches!(damaged, Err(PeftError::Origin(_))));
}

#[test]
fn damaged_tensors_are_refused_by_name() {
    let (golden, linears) = (golden(), linears());
    let good = files(&golden);
    for len in 0..good.weights.len() {
        let files = Files { weights: good.weights[..len].to_vec(), ..good.clone() };
        let refused = files.import(&shapes(&linears)).expect_err("cut off");
        assert!(matches!(refused, PeftError::Weights(_)), "{len}: {refused}");
    }
    let mut bad = good.clone();
    let at = bad.weights.len() - 4;
    bad.weights[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(matches!(bad.import(&shapes(&linears)), Err(PeftError::NonFinite(_))));
    let mut less = golden.shapes.clone();
    let (name, _) = less.pop_last().expect("there");
    let files = Files { weights: file(&less, Dtype::F32), ..good.clone() };
    assert_eq!(files.import(&shapes(&linears)), Err(PeftError::Missing(name)));
    let mut more = golden.shapes;
    more.insert("base_model.model.lm_head.weight".into(), vec![20, 8]);
    let files = Files { weights: file(&more, Dtype::F32), ..good };
    let name = "base_model.model.lm_head.weight".to_owned();
    assert_eq!(files.import(&shapes(&linears)), Err(PeftError::Unknown(name)));
}

proptest! {
    /// A changed byte may be refused, or read as something else, but nothing panics.
    #[test]
    fn hostile_bytes(at: prop::sample::Index, byte: u8, settings: bool, len: prop::sample::Index, cut: bool) {
        let (golden, linears) = (golden(), linears());
        let mut files = files(&golden);
        let bytes = if settings { &mut files.config } else { &mut files.weights };
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cut {
            bytes.truncate(len.index(bytes.len()));
        }
        let _ = files.import(&shapes(&linears));
    }
}
