use super::*;
use gossamer_protocol::manifest::{Selection, Values};

const GOOD: &str = r#"name = "first"
seed = 7
rounds = 3
base = "model"

[lora]
rank = 4
alpha = 8.0
targets = ["q_proj", "v_proj"]

[method]
download = { density = 0.25, values = "int8" }
upload = { density = 0.0625 }

[training]
steps = 4
batch = 4
context = 64
optimizer = { kind = "sgd", lr = 0.1 }

[cohort]
goal = 2
ask = 3
min = 1
deadline_s = 60
selection = "seeded"

[optimizer]
kind = "adamw"
lr = 0.01
"#;

const CONFIG: &str = r#"{"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1}"#;

fn folder(manifest: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let model = dir.path().join("model");
    std::fs::create_dir(&model).expect("made");
    for (name, text) in
        [("config.json", CONFIG), ("tokenizer.json", "{}"), ("model.safetensors", "weights")]
    {
        std::fs::write(model.join(name), text).expect("written");
    }
    let path = dir.path().join("run.toml");
    std::fs::write(&path, manifest).expect("written");
    (dir, path)
}

#[test]
fn a_file_becomes_a_manifest() {
    let (_dir, path) = folder(GOOD);
    let Loaded { manifest, linears, .. } = load(&path).expect("good");
    assert_eq!(linears.len(), 14);
    // A [4, 8] and B [8, 4] on q; A [4, 8] and B [4, 4] on v: 112 a layer.
    assert_eq!(manifest.layout.n(), 224);
    assert_eq!(manifest.base.name, "model");
    let digests = [CONFIG, "{}", "weights"].map(|text| Digest::of(text.as_bytes()));
    let [config, tokenizer, weights] = digests;
    assert_eq!(manifest.base.digest, base_digest(config, tokenizer, weights));
    assert_eq!(manifest.method.download.values, Values::Int8);
    assert_eq!(manifest.method.upload.values, Values::F32);
    assert_eq!(manifest.cohort.selection, Selection::Seeded);
    let named = GOOD.replace("\"model\"", r#"{ path = "model", name = "tiny" }"#);
    let (_dir, path) = folder(&named);
    assert_eq!(load(&path).expect("good").manifest.base.name, "tiny");
}

/// A [3, 8], B [8, 3] on layer 1's q; A [4, 8], B [16, 4] on its up projection.
#[test]
fn targets_may_be_patterns_and_ranks_of_their_own() {
    let lora =
        "targets = '.*\\.1\\..*\\.(q|up)_proj'\nrank_pattern = { q_proj = 3 }\nrslora = true";
    let (_dir, path) = folder(&GOOD.replace("targets = [\"q_proj\", \"v_proj\"]", lora));
    let manifest = load(&path).expect("good").manifest;
    assert_eq!(manifest.layout.n(), 3 * 8 + 8 * 3 + 4 * 8 + 16 * 4);
    assert_eq!(manifest.layout.tensors().next().map(|(t, _)| t.shape), Some([3, 8]));
    let scale = manifest.lora.rules().expect("patterns").scale("model.layers.1.self_attn.q_proj");
    assert!((scale - 8.0 / 3.0_f64.sqrt()).abs() < 1e-12, "{scale}");
    let all = GOOD.replace("[\"q_proj\", \"v_proj\"]", "\"all-linear\"");
    let (_dir, path) = folder(&all);
    assert_eq!(load(&path).expect("good").manifest.layout.tensors().count(), 2 * 14);
}

#[test]
fn what_is_off_is_told_with_file_line_and_field() {
    let cases = [
        ("rounds = 3", "roundz = 3", "run.toml:3: unknown field `roundz`"),
        ("rank = 4", "rank = 4\nrang = 5", "run.toml:8: unknown field `rang`"),
        ("rounds = 3\n", "", "run.toml:1: missing field `rounds`"),
        ("rounds = 3", "rounds = \"x\"", "run.toml:3: invalid type: string \"x\", expected u64"),
        ("rounds = 3", "rounds = 0", "run.toml:3: rounds: expected at least 1"),
        ("0.0625", "1.5", "run.toml:13: density must be in (0, 1], got 1.5"),
        ("goal = 2", "goal = 5", "run.toml:22: cohort.goal: expected 1 to cohort.ask"),
        ("lr = 0.1", "lr = -1", "run.toml:19: training.optimizer.lr: expected positive"),
        ("deadline_s", "retry_s = 0\ndeadline_s", "run.toml:25: cohort.retry_s: expected in (0"),
        ("\"v_proj\"", "\"w_proj\"", "run.toml:9: lora.targets: LoRA target \"w_proj\""),
        ("[\"q_proj\", \"v_proj\"]", "\"(q\"", "run.toml:9: lora.targets: pattern \"(q\""),
        ("[\"q_proj\", \"v_proj\"]", "5", "run.toml:9: targets are a list of module names, one"),
        (
            "rank = 4",
            "rank = 4\nrank_pattern = { q = 0 }",
            "run.toml:8: lora.rank_pattern: expected every",
        ),
        ("seed = 7", "seed = = 7", "run.toml:2: "),
        ("kind = \"adamw\"", "kind = \"adamx\"", "unknown variant `adamx`"),
        ("\"model\"", "5", "run.toml:4: base is a model folder's path, or a table"),
    ];
    for (from, to, expected) in cases {
        assert!(GOOD.contains(from), "{from}");
        let (_dir, path) = folder(&GOOD.replacen(from, to, 1));
        let told = crate::problem::told(&load(&path).expect_err(expected));
        assert!(told.contains(expected), "{told}\nlacks\n{expected}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn a_model_that_is_not_there_is_told_by_its_file() {
    let (dir, path) = folder(GOOD);
    std::fs::remove_file(dir.path().join("model/tokenizer.json")).expect("gone");
    let told = load(&path).expect_err("incomplete").to_string();
    assert!(told.contains("tokenizer.json"), "{told}");
    std::fs::write(dir.path().join("model/config.json"), "{}").expect("written");
    let told = crate::problem::told(&load(&path).expect_err("no model"));
    assert!(told.contains("config.json") && told.contains("hidden_size"), "{told}");
}

/// An encoder's run has a head, a decoder's none; each is told what it lacks.
#[test]
fn a_head_is_an_encoders() {
    let encoder = r#"{"architectures": ["BertModel"], "hidden_size": 8, "intermediate_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2}"#;
    let good = GOOD.replace("q_proj", "query").replace("v_proj", "value");
    let headed = format!("{good}\n[head]\nclasses = 3\n");
    let load = |manifest: &str, config: &str| {
        let (dir, path) = folder(manifest);
        std::fs::write(dir.path().join("model/config.json"), config).expect("written");
        load(&path)
    };
    let Loaded { manifest, linears, .. } = load(&headed, encoder).expect("good");
    assert_eq!((manifest.head, linears.len()), (Some(Head { classes: 3 }), 12));
    // A [4, 8] and B [8, 4] on query and value of two layers, the head's weight [3, 8] and bias.
    assert_eq!(manifest.layout.n(), 2 * 2 * 64 + 27);
    let refused = |manifest: &str, config: &str, field: &str, said: &str| {
        let error = load(manifest, config).expect_err("a field is off").to_string();
        assert!(error.contains(field) && error.contains(said), "{error}");
    };
    refused(&good, encoder, "head: ", "is an encoder");
    let decoder = format!("{GOOD}\n[head]\nclasses = 3\n");
    refused(&decoder, CONFIG, "run.toml:32: head: ", "is a decoder");
    let none = headed.replace("classes = 3", "classes = 0");
    refused(&none, encoder, "head", "classes");
}
