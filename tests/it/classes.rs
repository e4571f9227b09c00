//! Sequence classification by the command lines alone: an encoder with a head, labelled texts, and out as PEFT has it.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use gossamer_client::model::BaseModel;
use gossamer_protocol::rng::Stream;
use gossamer_server::families::shapes;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::commands::{self, Served};

const WORDS: usize = 30;
const HIDDEN: usize = 16;
const INNER: usize = 24;

fn config() -> Value {
    json!({
        "architectures": ["BertModel"], "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": WORDS,
        "max_position_embeddings": 24, "type_vocab_size": 2, "pad_token_id": 0,
    })
}

/// A folder with a random encoder of words `w0`, `w1`, …; `w1` opens a sequence and `w2` ends it.
fn encoder(folder: &Path) {
    let d = HIDDEN;
    let mut tensors: Vec<(String, Vec<usize>)> = vec![
        ("embeddings.word_embeddings.weight".into(), vec![WORDS, d]),
        ("embeddings.position_embeddings.weight".into(), vec![24, d]),
        ("embeddings.token_type_embeddings.weight".into(), vec![2, d]),
    ];
    let norm = |path: &str| {
        ["weight", "bias"].map(|part| (format!("{path}.LayerNorm.{part}"), vec![HIDDEN]))
    };
    tensors.extend(norm("embeddings"));
    for layer in 0..2 {
        let path = format!("encoder.layer.{layer}");
        for (name, d_in, d_out) in [
            ("attention.self.query", d, d),
            ("attention.self.key", d, d),
            ("attention.self.value", d, d),
            ("attention.output.dense", d, d),
            ("intermediate.dense", d, INNER),
            ("output.dense", INNER, d),
        ] {
            tensors.push((format!("{path}.{name}.weight"), vec![d_out, d_in]));
            tensors.push((format!("{path}.{name}.bias"), vec![d_out]));
        }
        tensors.extend(norm(&format!("{path}.attention.output")));
        tensors.extend(norm(&format!("{path}.output")));
    }
    let mut rng = Stream::new(3, "encoder", &[]);
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(name, shape)| {
            let centre = f64::from(u8::from(name.ends_with("LayerNorm.weight")));
            let n = shape.iter().product();
            (0..n).flat_map(|_| ((centre + 0.3 * rng.normal()) as f32).to_le_bytes()).collect()
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("its shape"))
    });
    let weights = safetensors::serialize(views, None).expect("valid");
    let words: serde_json::Map<String, Value> =
        (0..WORDS).map(|i| (format!("w{i}"), i.into())).collect();
    let token = |word: &str| json!({ "SpecialToken": { "id": word, "type_id": 0 } });
    let special = |word: &str, id: u32| json!({ "id": word, "ids": [id], "tokens": [word] });
    let tokenizer = json!({
        "version": "1.0",
        "model": { "type": "WordLevel", "vocab": words, "unk_token": "w0" },
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("w1"), { "Sequence": { "id": "A", "type_id": 0 } }, token("w2")],
            "pair": [],
            "special_tokens": { "w1": special("w1", 1), "w2": special("w2", 2) },
        },
    });
    std::fs::create_dir(folder).expect("new");
    for (name, bytes) in [
        ("config.json", config().to_string().into_bytes()),
        ("tokenizer.json", tokenizer.to_string().into_bytes()),
        ("model.safetensors", weights),
    ] {
        std::fs::write(folder.join(name), bytes).expect("written");
    }
}

const RUN: &str = r#"name = "three classes"
seed = 1
rounds = 6
base = "model"

[lora]
rank = 2
alpha = 4.0
targets = ["query", "value"]

[head]
classes = 3

[method]
download = { density = 1.0, values = "int8" }
upload = { density = 0.5, values = "int8" }

[training]
steps = 8
batch = 4
context = 16
optimizer = { kind = "adamw", lr = 0.05 }

[cohort]
ask = 2
goal = 2
min = 2
enrolled_min = 2
deadline_s = 600
retry_s = 0.05

[optimizer]
kind = "sgd"
lr = 1.0
"#;

/// Which of three words a text has says its class.
fn labelled(n: usize) -> String {
    let line = |i: usize| {
        let (label, noise) = (i % 3, 10 + (7 * i + n) % 20);
        json!({ "text": format!("w{noise} w{} w{noise}", 4 + label), "label": label }).to_string()
    };
    (0..24).map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn devices_learn_to_tell_classes_apart() {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| temporary.path().join(name).display().to_string();
    encoder(Path::new(&path("model")));
    for at in 0..2 {
        std::fs::write(path(&format!("data{at}.jsonl")), labelled(at)).expect("written");
    }
    std::fs::write(path("run.toml"), RUN).expect("written");
    let dir = path("aggregator");
    commands::json(&["init", &dir, "--listen", "127.0.0.1:0"]);
    let tokens = commands::json(&["token", "new", &dir, "--count", "3"]);
    let created = commands::json(&["run", "create", &dir, &path("run.toml")]);
    let run = created["run"].as_str().expect("an id").to_owned();
    let two = RUN.replace("three classes", "two classes").replace("classes = 3", "classes = 2");
    let two = two.replace("ask = 2", "ask = 3").replace("enrolled_min = 2", "enrolled_min = 3");
    std::fs::write(path("two.toml"), two).expect("written");
    let created = commands::json(&["run", "create", &dir, &path("two.toml")]);
    let other = created["run"].as_str().expect("an id").to_owned();
    let serving = Served::start(&dir);

    let join = |at: usize, run: &str, data: &str| -> Child {
        Command::new(env!("CARGO_BIN_EXE_client-cli"))
            .args(["join", &serving.url, "--run", run, "--json"])
            .args(["--token", tokens[at].as_str().expect("a token")])
            .args(["--base", &path("model"), "--data", &path(data)])
            .args(["--state", &path(&format!("state{at}"))])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("joins")
    };
    let devices: Vec<Child> = (0..2).map(|at| join(at, &run, &format!("data{at}.jsonl"))).collect();
    for device in devices {
        let output = device.wait_with_output().expect("ends");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let losses: Vec<f64> = lines
            .filter(|line| line["event"] == "delivered")
            .map(|line| line["loss"].as_f64().expect("a number"))
            .collect();
        // ln 3 is chance. A device's key, and so the order of its texts, is another each time.
        assert_eq!(losses.len(), 6);
        let learned = losses[3..].iter().sum::<f64>() / 3.0;
        assert!(learned < 0.75 * 3f64.ln(), "{losses:?}");
    }
    commands::json(&["run", "export", &dir, &run, &path("peft")]);
    let exported = std::fs::read_to_string(path("peft/adapter_config.json")).expect("written");
    let exported: Value = serde_json::from_str(&exported).expect("JSON");
    assert_eq!(exported["task_type"], "SEQ_CLS");
    assert_eq!(exported["modules_to_save"], json!(["classifier"]));

    // A label that is none of the run's is told before anything is sent.
    let output = join(2, &other, "data0.jsonl").wait_with_output().expect("ends");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(!output.status.success() && text.contains("class 2, the run has 2"), "{text}");
    drop(serving);
}

/// What the aggregator reads out of a `config.json`, the device reads out of the same.
#[test]
fn both_ends_find_the_same_linears() {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let folder = temporary.path().join("model");
    encoder(&folder);
    let bert = BaseModel::load(&folder).expect("loads");
    let gpt2 = include_bytes!("../../client-sdk/tests/golden/gpt2.gguf");
    let gpt2 = BaseModel::from_gguf_bytes(gpt2, None).expect("loads");
    let sizes = gpt2.gpt2().expect("its family");
    let gpt2_json = json!({
        "architectures": ["GPT2LMHeadModel"], "n_embd": sizes.hidden, "n_layer": sizes.layers,
        "n_inner": sizes.intermediate,
    });
    let llama = gossamer_tests::base();
    let llama_json = gossamer_sim::base::tiny::CONFIG.to_vec();
    for (base, config) in [
        (&bert, config().to_string().into_bytes()),
        (&gpt2, gpt2_json.to_string().into_bytes()),
        (&llama, llama_json),
    ] {
        let found = shapes(&config).expect("a model");
        assert_eq!(found.linears, base.linears());
        assert_eq!((found.hidden, found.encoder), (base.hidden(), base.bert().is_some()));
    }
}
