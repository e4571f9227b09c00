//! Small comparisons on the embedded model.

use gossamer_client::client::chain;
use gossamer_protocol::rng::Stream;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use super::*;

const SMOKE: &str = include_str!("../../scenarios/smoke.toml");

fn scenario(change: impl FnOnce(&mut Scenario)) -> Scenario {
    let mut scenario = Scenario::parse(SMOKE, Path::new("")).expect("sound");
    scenario.rounds = 1;
    scenario.seeds = vec![1];
    scenario.methods.truncate(2);
    scenario.training.steps = 1;
    scenario.training.batch = 1;
    scenario.training.context = 16;
    scenario.eval.tokens = Some(64);
    change(&mut scenario);
    scenario
}

fn options(out: &Path, resume: bool) -> Options {
    let threads = NonZeroUsize::new(2).expect("not 0");
    Options {
        out: out.to_owned(),
        threads,
        deltas: None,
        resume,
        checkpoint: Duration::ZERO,
        command: None,
        tuning: false,
        tuned: Vec::new(),
        progress: Progress::Lines,
        ranks: Ranks::default(),
    }
}

/// The rows without how long they took.
fn rows(out: &Path) -> Vec<RoundRow> {
    let rows = crate::report::read_rows(&out.join("metrics.jsonl")).expect("rows");
    rows.into_iter().map(|row| RoundRow { wall_s: 0.0, train_loss: 0.0, ..row }).collect()
}

fn read(out: &Path, name: &str) -> String {
    std::fs::read_to_string(out.join(name)).expect(name)
}

/// Steps so large that the clients' losses are no number.
fn diverges(scenario: &mut Scenario) {
    let lr = 1e30;
    let sgd = gossamer_protocol::manifest::LocalOptimizer::Sgd { lr, momentum: 0.0 };
    scenario.methods[1].training.optimizer = Some(sgd);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_that_diverged_is_shown_as_such_and_costs_no_other() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path();
    let outcome = compare(scenario(diverges), &options(out, false)).await.expect("a result");
    let [sound, lost] = &outcome.comparison.methods[..] else { panic!("two methods") };
    assert_eq!((sound.diverged, lost.diverged), (0, 1));
    assert!(read(out, "report.html").contains("diverged, round 1"));
    assert_eq!(read(out, "summary.csv").lines().count(), 3);
    let last = rows(out).pop().expect("rows");
    assert!(last.diverged() && last.method == lost.name, "{last:?}");

    // As it stands it is not run again; mended it is, and the sound one is not.
    let line = |text: String, name: &str| -> Vec<String> {
        text.lines().filter(|line| line.contains(name)).map(str::to_owned).collect()
    };
    let before = read(out, "metrics.jsonl");
    compare(scenario(diverges), &options(out, true)).await.expect("a result");
    assert_eq!(read(out, "metrics.jsonl"), before);
    let mended = compare(scenario(|_| {}), &options(out, true)).await.expect("sound");
    assert_eq!(line(read(out, "metrics.jsonl"), &sound.name), line(before, &sound.name));
    assert_eq!((mended.records.len(), rows(out).len()), (2, 4));
    assert!(mended.comparison.methods.iter().all(|method| method.diverged == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_same_settings_are_resumed_and_the_same_seed_gives_the_same_rows() {
    let (dir, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("one"));
    let out = dir.path();
    let first = compare(scenario(|_| {}), &options(out, false)).await.expect("sound");
    let again = compare(scenario(|_| {}), &options(other.path(), false)).await.expect("sound");
    assert_eq!(first.records, again.records);
    assert_eq!(rows(out), rows(other.path()), "in the same order, too");

    // A filtered run leaves the other method's rows where they are.
    let stamped = read(out, "metrics.jsonl");
    let only = |scenario: &mut Scenario| scenario.methods.truncate(1);
    let outcome = compare(scenario(only), &options(out, true)).await.expect("sound");
    assert_eq!((outcome.records.len(), outcome.comparison.methods.len()), (1, 1));
    assert_eq!(rows(out).len(), 4);
    let outcome = compare(scenario(|_| {}), &options(out, true)).await.expect("sound");
    assert_eq!(outcome.records, first.records);
    assert_eq!(read(out, "metrics.jsonl"), stamped, "nothing was run again");

    // Other terms, another length, other text: nothing of before may stand.
    type Change = fn(&mut Scenario);
    let changes: [Change; 3] = [
        |scenario| scenario.training.steps = 2,
        |scenario| scenario.rounds = 2,
        |scenario| scenario.heldout.tail = 0.3,
    ];
    for change in changes {
        let before = read(out, "repetitions.jsonl");
        let outcome = compare(scenario(change), &options(out, true)).await.expect("sound");
        assert_eq!(outcome.comparison.methods[0].seeds, 1);
        let now = read(out, "repetitions.jsonl");
        assert!(now.lines().all(|line| !before.contains(line)), "{now}");
    }
}

/// Clients start at what they received, where FedProx pulls nowhere; from the second step on it does.
#[tokio::test(flavor = "multi_thread")]
async fn fed_prox_is_a_setting_of_a_method() {
    for (steps, equal) in [(1, true), (4, false)] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let prox = |scenario: &mut Scenario| {
            scenario.training.steps = steps;
            scenario.methods[1] = scenario.methods[0].clone();
            scenario.methods[1].name = "fed-prox".into();
            scenario.methods[1].training.proximal = Some(5.0);
        };
        let outcome = compare(scenario(prox), &options(dir.path(), false)).await.expect("sound");
        let loss = |at: usize| outcome.comparison.methods[at].final_loss.expect("measured").mean;
        assert_eq!(loss(0) == loss(1), equal, "{steps} steps: {} and {}", loss(0), loss(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_begin_costs_no_earlier_row() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("metrics.jsonl"), "earlier\n").expect("written");
    let missing =
        |scenario: &mut Scenario| scenario.base = crate::scenario::BaseModel::Folder("none".into());
    compare(scenario(missing), &options(dir.path(), false)).await.expect_err("no such base");
    assert_eq!(read(dir.path(), "metrics.jsonl"), "earlier\n");
}

/// A random encoder of one layer over the words `w0` to `w19`; `w1` opens a sequence, `w2` ends it.
fn write_encoder(dir: &Path) {
    const D: usize = 16;
    let config = json!({
        "architectures": ["BertModel"], "hidden_size": D, "intermediate_size": D,
        "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 20,
        "max_position_embeddings": 12, "type_vocab_size": 1,
    });
    let words: serde_json::Map<_, _> = (0..20).map(|i| (format!("w{i}"), i.into())).collect();
    let special = |word: &str, id: u32| json!({ "id": word, "ids": [id], "tokens": [word] });
    let token = |word: &str| json!({ "SpecialToken": { "id": word, "type_id": 0 } });
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
    let layer = "encoder.layer.0";
    let mut shapes: Vec<(String, Vec<usize>)> = [("word", 20), ("position", 12), ("token_type", 1)]
        .map(|(name, rows)| (format!("embeddings.{name}_embeddings.weight"), vec![rows, D]))
        .into();
    for linear in [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ] {
        shapes.push((format!("{layer}.{linear}.weight"), vec![D, D]));
        shapes.push((format!("{layer}.{linear}.bias"), vec![D]));
    }
    let norms = ["embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"];
    for part in ["weight", "bias"] {
        shapes.extend(norms.map(|path| (format!("{path}.LayerNorm.{part}"), vec![D])));
    }
    let mut rng = Stream::new(1, "test-encoder", &[]);
    let mut tensor = |name: &str, shape: &[usize]| -> Vec<u8> {
        let centre = f64::from(name.ends_with("LayerNorm.weight"));
        let draw = |_| (centre + 0.3 * rng.normal()) as f32;
        (0..shape.iter().product()).map(draw).flat_map(f32::to_le_bytes).collect()
    };
    let bytes: Vec<Vec<u8>> = shapes.iter().map(|(name, shape)| tensor(name, shape)).collect();
    let views = shapes.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("its own shape"))
    });
    let weights = safetensors::serialize(views, None).expect("valid");
    std::fs::write(dir.join("config.json"), config.to_string()).expect("written");
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).expect("written");
    std::fs::write(dir.join("model.safetensors"), weights).expect("written");
}

/// Three classes with words of their own, skewed over eight clients; and a test set.
fn classification(dir: &Path, classes: u32) -> Scenario {
    write_encoder(dir);
    let mut rows = String::new();
    for at in 0..200_u32 {
        let label = at % 3;
        let word = |i: u32| format!("w{}", 4 + 5 * label + (at * 3 + i * i) % 5);
        let text: Vec<String> = (0..2 + at % 4).map(word).collect();
        let split = if at < 140 { "train" } else { "test" };
        let row = json!({ "text": text.join(" "), "label": label, "split": split });
        rows += &format!("{row}\n");
    }
    std::fs::write(dir.join("rows.jsonl"), rows).expect("written");
    let text = SMOKE
        .replace("base = \"tiny\"", "base = \".\"")
        .replace(
            "kind = \"languages\"\nnames = [\"finnish\", \"estonian\"]",
            "path = \"rows.jsonl\"\ntext = \"text\"\nlabel = \"label\"\nonly = { split = \"train\" }",
        )
        .replace("kind = \"iid\"", "kind = \"dirichlet\"\nalpha = 0.3")
        .replace("tail = 0.2", "only = { split = \"test\" }")
        .replace("tokens = 2048", "examples = 50")
        .replace("[\"q_proj\", \"v_proj\"]", "[\"query\", \"value\"]")
        .replace("[training]", &format!("[head]\nclasses = {classes}\n\n[training]"))
        .replace("context = 32", "context = 12")
        .replace("steps = 2\nbatch = 2", "steps = 8\nbatch = 8")
        .replace("rounds = 3", "rounds = 24")
        .replace("lr = 5e-3", "lr = 2e-2");
    Scenario::parse(&text, dir).expect("sound")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_classification_is_learned_and_shown() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("out");
    let outcome =
        compare(classification(dir.path(), 3), &options(&out, false)).await.expect("sound");
    let rows = rows(&out);
    let accuracy = |row: &RoundRow| row.heldout_accuracy.expect("measured every round");
    // All logits are 0 at the start, so the first class is found: a third of the texts.
    assert!((accuracy(&rows[0]) - 1.0 / 3.0).abs() < 0.15, "{:?}", rows[0]);
    let loss = rows[0].heldout_loss.expect("measured");
    assert!((loss - 3.0_f64.ln()).abs() < 1e-6, "{loss}");
    let share = 50.0 * accuracy(&rows[0]);
    assert!((share - share.round()).abs() < 1e-9, "of 50 examples: {share}");
    let dense = &outcome.comparison.methods[0];
    let last = dense.final_accuracy.expect("measured").mean;
    assert!(last > 0.9, "{last}");
    assert_eq!(rows[24].server_accuracy, rows[24].heldout_accuracy, "dense: clients get all");
    // Rank 4 on query and value, 16 wide: 2 (64 + 64); the head 3 x 17; in f32, with a frame.
    let sent = dense.upload_bytes_a_client_round;
    assert!(sent > 4.0 * 307.0 && sent < 4.0 * 307.0 + 400.0, "{sent}");
    let page = read(&out, "report.html");
    assert!(page.contains("on 50 examples") && page.contains("nats an example"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_beyond_the_heads_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let scenario = classification(dir.path(), 2);
    let refused = compare(scenario, &options(&dir.path().join("out"), false)).await;
    let refused = chain(&refused.expect_err("labels 0 to 2"));
    assert!(refused.contains("is of class 2, the run has 2"), "{refused}");

    // A decoder with a head.
    let mut scenario = classification(dir.path(), 3);
    scenario.base = crate::scenario::BaseModel::Tiny;
    let refused = compare(scenario, &options(&dir.path().join("out"), false)).await;
    let refused = chain(&refused.expect_err("a decoder"));
    assert!(refused.contains("classification needs an encoder"), "{refused}");
}
