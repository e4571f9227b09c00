//! Instruction data against transformers: what is masked, cut and packed, and the loss that follows.
//!
//! Numbers from `python/instructions.py`, on 1,527 instructions of three public sets.

use std::io::Read;
use std::path::PathBuf;

use flate2::read::GzDecoder;
use gossamer_client::data::{Batch, InstructionDataset, Rows, Template, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_client::train::evaluate;
use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::{MANIFEST_VERSION, Manifest};
use serde_json::Value;

const GOLDEN: &str = include_str!("golden/instructions.json");

/// The model and the instructions, or `None`, said plainly, where they are not there; with `CI` set they
/// must be.
fn setting() -> Option<(BaseModel, tempfile::TempDir)> {
    let data = std::env::var_os("GOSSAMER_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")),
        PathBuf::from,
    );
    let (model, file) = (data.join("stories260k"), data.join("instructions.jsonl.gz"));
    if !model.is_dir() || !file.is_file() {
        assert!(
            std::env::var_os("CI").is_none(),
            "stories260k or instructions.jsonl.gz is missing in {}, and CI must run this test",
            data.display()
        );
        println!("SKIPPED: no instructions in {}; set GOSSAMER_DATA", data.display());
        return None;
    }
    let packed = std::fs::File::open(file).expect("readable");
    let mut text = String::new();
    GzDecoder::new(packed).read_to_string(&mut text).expect("gzip of text");
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("all.jsonl"), text).expect("written");
    Some((BaseModel::load(&model).expect("stories260k loads"), dir))
}

fn number(value: &Value) -> usize {
    value.as_u64().expect("a count") as usize
}

/// The base's own mean loss: the adapter's B is 0.
fn loss(base: &BaseModel, batches: &[Batch]) -> f64 {
    let targets = ["q_proj".to_owned()];
    let layout = Layout::lora(&base.linears(), &targets, 1, false).expect("it has them");
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "version": MANIFEST_VERSION, "name": "instructions", "seed": 1, "rounds": 1,
        "base": { "name": "stories260k", "digest": base.digest() },
        "lora": { "rank": 1, "alpha": 1.0, "targets": targets },
        "layout": layout,
        "method": { "download": { "density": 1.0 }, "upload": { "density": 1.0 } },
        "training": {
            "steps": 1, "batch": 8, "context": 384, "optimizer": { "kind": "sgd", "lr": 0.1 },
        },
        "cohort": { "goal": 1, "ask": 1, "min": 1, "deadline_s": 60 },
        "optimizer": { "kind": "sgd", "lr": 1.0 },
    }))
    .expect("a manifest");
    let theta = manifest.layout.init(1);
    evaluate(base, &manifest, &theta, batches).expect("runs").mean()
}

#[test]
fn real_instructions_give_transformers_numbers() {
    let Some((base, dir)) = setting() else { return };
    let golden: Value = serde_json::from_str(GOLDEN).expect("golden JSON");
    let open = |rows| InstructionDataset::open(&base, dir.path(), &Template::alpaca(), rows);
    let (padded, packed) = (open(Rows::Padded).expect("reads"), open(Rows::Packed).expect("reads"));
    assert_eq!(padded.examples(), number(&golden["examples"]));
    let cols = number(&golden["cols"]);

    // One a batch, so that there is no padding to count.
    for (cols, size) in [(cols, &golden["wide"]), (number(&golden["narrow"]), &golden["cut"])] {
        let rows = padded.batches(1, cols);
        assert_eq!(rows.len(), number(&size["rows"]), "at {cols}");
        let inputs: usize = rows.iter().map(|row| row.inputs.len()).sum();
        let learned: u64 = rows.iter().map(Batch::learned).sum();
        assert_eq!((inputs, learned as usize), (number(&size["inputs"]), number(&size["learned"])));
    }
    // The first answer's length, and its tokens in order.
    let first = &padded.batches(1, cols)[0];
    let prompt = first.targets.len() - first.learned() as usize;
    let answer = first.targets[prompt..].iter().zip(1..);
    let sum: usize = answer.map(|(&token, at)| at * token as usize).sum();
    let want = golden["answers"].as_array().expect("two");
    assert_eq!((first.learned() as usize, sum), (number(&want[0]), number(&want[1])));

    let rows = packed.batches(1, cols);
    assert_eq!(rows.len(), number(&golden["packed_rows"]));
    for (name, batches) in
        [("padded", &padded.batches(number(&golden["first"]), cols)[..1]), ("packed", &rows[..2])]
    {
        let learned: u64 = batches.iter().map(Batch::learned).sum();
        assert_eq!(learned as usize, number(&golden[name]["learned"]), "{name}");
        let (got, want) = (loss(&base, batches), golden[name]["loss"].as_f64().expect("nats"));
        assert!((got - want).abs() < 1e-4 * want, "{name}: {got}, transformers has {want}");
    }
}
