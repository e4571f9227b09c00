//! What is refused on loading, and by which name.

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::llama::tests::tiny;
use super::{BaseModel, LlamaConfig, ModelError, fixture};

fn load(config: &LlamaConfig, vocab: usize, weights: &[u8]) -> Result<BaseModel, ModelError> {
    let json = config.to_json().to_string();
    BaseModel::from_bytes(json.as_bytes(), fixture::tokenizer(vocab).as_bytes(), weights)
}

/// The fixture's file with each tensor passed through `change`.
fn changed(change: impl Fn(&str, &mut Dtype, &mut Vec<usize>, &mut Vec<u8>) -> bool) -> Vec<u8> {
    let bytes = fixture::weights(&tiny(), 1);
    let file = SafeTensors::deserialize(&bytes).expect("whole");
    let mut kept = Vec::new();
    for (name, view) in file.tensors() {
        let (mut dtype, mut shape, mut data) =
            (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        if change(&name, &mut dtype, &mut shape, &mut data) {
            kept.push((name, dtype, shape, data));
        }
    }
    let views = kept.iter().map(|(name, dtype, shape, data)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).expect("consistent"))
    });
    safetensors::serialize(views, None).expect("consistent")
}

const NORM: &str = "model.norm.weight";

#[test]
fn digest_and_linears() {
    let base = fixture::base(&tiny());
    let names: Vec<String> = base.linears().into_iter().map(|l| l.name).collect();
    assert_eq!(names.len(), 14);
    assert_eq!(names[0], "model.layers.0.self_attn.q_proj");
    assert_eq!(names[6], "model.layers.0.mlp.down_proj");
    assert_eq!((base.linears()[6].d_in, base.linears()[6].d_out), (20, 12));
    assert_eq!(base.digest(), fixture::base(&tiny()).digest());
    let other = LlamaConfig { rope_theta: 9_999.0, ..tiny() };
    assert_ne!(base.digest(), fixture::base(&other).digest());
}

#[test]
fn half_precision_is_widened() {
    let wide = |data: &[u8]| -> Vec<f32> {
        data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    };
    let base = fixture::base(&tiny());
    let narrow = |to: Dtype| {
        changed(|_, dtype, _, data| {
            *dtype = to;
            *data = match to {
                Dtype::F16 => {
                    wide(data).into_iter().flat_map(|x| f16::from_f32(x).to_le_bytes()).collect()
                }
                _ => wide(data).into_iter().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
            };
            true
        })
    };
    for (dtype, error) in [(Dtype::F16, 1e-3), (Dtype::BF16, 1e-2)] {
        let loaded = load(&tiny(), 19, &narrow(dtype)).expect("loads");
        let [loaded, base] = [&loaded, &base].map(fixture::floats);
        assert_ne!(loaded, base);
        for (got, want) in loaded.iter().zip(&base) {
            assert!((got - want).abs() <= error * want.abs() + 1e-6, "{got} {want}");
        }
    }
}

#[test]
fn weights_that_do_not_fit() {
    let whole = fixture::weights(&tiny(), 1);
    for cut in [0, 4, 9, 200, whole.len() / 2, whole.len() - 1] {
        let refused = load(&tiny(), 19, &whole[..cut]);
        assert!(matches!(refused, Err(ModelError::Weights(_))), "{cut}: {refused:?}");
    }
    let missing = changed(|name, _, _, _| name != NORM);
    let refused = load(&tiny(), 19, &missing);
    assert!(matches!(&refused, Err(ModelError::Missing(name)) if name == NORM), "{refused:?}");

    let longer = changed(|name, _, shape, data| {
        if name == NORM {
            shape[0] += 1;
            data.extend([0; 4]);
        }
        true
    });
    match load(&tiny(), 19, &longer) {
        Err(ModelError::Shape { name, expected, found }) => {
            assert_eq!((name.as_str(), expected, found), (NORM, vec![12], vec![13]));
        }
        other => panic!("{other:?}"),
    }
    let integers = changed(|name, dtype, _, _| {
        *dtype = if name == NORM { Dtype::I32 } else { *dtype };
        true
    });
    let refused = load(&tiny(), 19, &integers);
    assert!(
        matches!(&refused, Err(ModelError::Dtype { found, .. }) if found == "I32"),
        "{refused:?}"
    );

    let broken = changed(|name, _, _, data| {
        if name == NORM {
            data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        true
    });
    let refused = load(&tiny(), 19, &broken);
    assert!(matches!(&refused, Err(ModelError::NonFinite(name)) if name == NORM), "{refused:?}");
}

#[test]
fn a_tokenizer_that_does_not_fit() {
    let weights = fixture::weights(&tiny(), 1);
    match load(&tiny(), 20, &weights) {
        Err(ModelError::Vocabulary { token, rows }) => assert_eq!((token, rows), (19, 19)),
        other => panic!("{other:?}"),
    }
    let json = tiny().to_json().to_string();
    let refused = BaseModel::from_bytes(json.as_bytes(), b"{}", &weights);
    assert!(matches!(refused, Err(ModelError::Tokenizer(_))), "{refused:?}");
    let config = LlamaConfig { bos: Some(19), ..tiny() };
    let refused = load(&config, 19, &weights);
    assert!(matches!(refused, Err(ModelError::Vocabulary { token: 19, .. })), "{refused:?}");
}

/// As tokenizers made for fixed windows have it; text would be lost in silence.
#[test]
fn a_text_is_neither_cut_nor_padded() {
    let mut json: serde_json::Value =
        serde_json::from_str(&fixture::tokenizer(19)).expect("its own");
    json["truncation"] = serde_json::json!({
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0,
    });
    json["padding"] = serde_json::json!({
        "strategy": { "Fixed": 4 }, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "w0",
    });
    let config = tiny().to_json().to_string();
    let weights = fixture::weights(&tiny(), 1);
    let base = BaseModel::from_bytes(config.as_bytes(), json.to_string().as_bytes(), &weights)
        .expect("loads");
    assert_eq!(base.encode("w5").expect("text"), [5]);
    assert_eq!(base.encode("w5 w6 w7 w8 w9 w10").expect("text"), [5, 6, 7, 8, 9, 10]);
}

#[test]
fn a_missing_file_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    match BaseModel::load(dir.path()) {
        Err(ModelError::File { path, .. }) => assert!(path.ends_with("config.json")),
        other => panic!("{other:?}"),
    }
}
