//! The README's path for operators and devices, by the command lines alone.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use gossamer_sim::base::tiny;
use serde_json::Value;
use tempfile::TempDir;

use crate::commands::{Served, json, server};

/// A model folder, two devices' texts, and the example run cut down to two rounds.
fn files(dir: &Path) {
    let model = dir.join("model");
    std::fs::create_dir(&model).expect("new");
    for (name, bytes) in [
        ("config.json", tiny::CONFIG),
        ("tokenizer.json", tiny::TOKENIZER),
        ("model.safetensors", tiny::WEIGHTS),
    ] {
        std::fs::write(model.join(name), bytes).expect("written");
    }
    for (at, language) in ["danish", "czech"].into_iter().enumerate() {
        let text = gossamer_sim::languages::sentences(language).expect("there")[..40].join("\n\n");
        let folder = dir.join(format!("data{at}"));
        std::fs::create_dir(&folder).expect("new");
        std::fs::write(folder.join("notes.txt"), text).expect("written");
    }
    let mut run = include_str!("../../examples/run.toml").to_owned();
    for (from, to) in [
        ("\"../sim/assets/tiny\"", "\"model\""),
        ("rounds = 50", "rounds = 2"),
        ("steps = 8", "steps = 1"),
        ("ask = 10", "ask = 2"),
        ("goal = 8", "goal = 2"),
        ("min = 5", "min = 2"),
        ("retry_s = 5.0", "retry_s = 0.05"),
    ] {
        assert!(run.contains(from), "{from} is not in examples/run.toml");
        run = run.replacen(from, to, 1);
    }
    std::fs::write(dir.join("run.toml"), run).expect("written");
}

#[test]
fn from_init_to_export() {
    let temporary: TempDir = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| temporary.path().join(name).display().to_string();
    files(temporary.path());
    let dir = path("aggregator");

    json(&["init", &dir, "--listen", "127.0.0.1:0"]);
    let again = server(&["init", &dir]);
    assert!(!again.status.success(), "keys are never overwritten");
    let tokens = json(&["token", "new", &dir, "--count", "2"]);
    let created = json(&["run", "create", &dir, &path("run.toml")]);
    let run = created["run"].as_str().expect("an id").to_owned();

    let serving = Served::start(&dir);

    let devices: Vec<Child> = (0..2)
        .map(|at| {
            Command::new(env!("CARGO_BIN_EXE_client-cli"))
                .args(["join", &serving.url, "--json"])
                .args(["--token", tokens[at].as_str().expect("a token")])
                .args(["--base", &path("model")])
                .args(["--data", &path(&format!("data{at}"))])
                .args(["--state", &path(&format!("state{at}"))])
                .stdout(Stdio::piped())
                .spawn()
                .expect("joins")
        })
        .collect();
    for device in devices {
        let output = device.wait_with_output().expect("ends");
        assert!(output.status.success());
        let lines: Vec<Value> = output
            .stdout
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).expect("one JSON object a line"))
            .collect();
        let count = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
        assert_eq!(count("delivered"), 2, "{lines:?}");
        assert_eq!(lines.last().expect("some")["event"], "over");
    }

    let shown = json(&["run", "show", &dir, &run]);
    assert_eq!((&shown["round"], &shown["rounds"]), (&2.into(), &2.into()), "{shown}");
    let listed = json(&["run", "list", &dir]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    json(&["run", "export", &dir, &run, &path("adapter.safetensors")]);
    let adapter = std::fs::read(path("adapter.safetensors")).expect("exported");
    let parameters = created["parameters"].as_u64().expect("a number") as usize;
    assert!(adapter.len() > 4 * parameters, "{} bytes", adapter.len());
    adapters(&path, &dir, &run);
    tags(&path, &dir, &run, &serving.url);
    let aborted = server(&["run", "abort", &dir, &run]);
    assert!(!aborted.status.success(), "what is over stays over");
    drop(serving);
}

/// The run's adapter out of the aggregator and out of the devices, back in, and merged.
fn adapters(path: &dyn Fn(&str) -> String, dir: &str, run: &str) {
    let device = |args: &[&str]| -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_client-cli"));
        command.arg("adapter").args(args).args(["--base", &path("model"), "--json"]);
        let output = command.output().expect("runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {errors}");
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    };
    let read = |folder: &str, file: &str| {
        std::fs::read(Path::new(&path(folder)).join(file)).expect("written")
    };
    let (config, weights) = ("adapter_config.json", "adapter_model.safetensors");
    json(&["run", "export", dir, run, &path("peft")]);
    assert_eq!(read("peft", weights), std::fs::read(path("adapter.safetensors")).expect("there"));
    // A device has what the last round began with, and both the same.
    for (state, out) in [("state0", "held0"), ("state1", "held1")] {
        let told = device(&["export", "--state", &path(state), "--out", &path(out)]);
        assert_eq!(told["round"], 1);
        assert_eq!(read(out, weights), read("held0", weights));
        assert_ne!(read(out, weights), read("peft", weights), "a round older");
        for file in [config, "gossamer.json"] {
            assert_eq!(read(out, file), read("peft", file), "{file}");
        }
    }
    device(&["import", &path("peft"), "--out", &path("again")]);
    assert_eq!(read("again", weights), read("peft", weights));
    let info = device(&["info", &path("peft")]);
    assert_eq!((&info["lora"]["rank"], &info["head"]), (&8.into(), &Value::Null));
    device(&["merge", &path("peft"), "--out", &path("merged")]);
    let old = read("model", "model.safetensors");
    let merged = read("merged", "model.safetensors");
    assert!(old != merged && old.len().abs_diff(merged.len()) < 200, "{}", merged.len());
    let other = Command::new(env!("CARGO_BIN_EXE_client-cli"))
        .args(["adapter", "info", &path("peft"), "--base", &path("merged")])
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && said.contains("was made on base model"), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
}

/// The adapter that apps get: by a tag, and by its canary.
fn tags(path: &dyn Fn(&str) -> String, dir: &str, run: &str, url: &str) {
    let fetch = |state: &str, tag: &str, out: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_client-cli"));
        command.args(["fetch", url, "--tag", tag, "--base", &path("model"), "--json"]);
        command.args(["--state", &path(state), "--out", &path(out)]).output().expect("runs")
    };
    let told = |state: &str, out: &str| -> Value {
        let output = fetch(state, "stable", out);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    };
    let read = |folder: &str| {
        std::fs::read(Path::new(&path(folder)).join("adapter_model.safetensors")).expect("there")
    };
    let said = String::from_utf8(fetch("state0", "stable", "none").stderr).expect("text");
    assert!(said.contains("there is no tag stable"), "{said}");

    json(&["snapshot", "tag", dir, run, "stable", "--round", "1"]);
    json(&["run", "export", dir, run, &path("tagged"), "--tag", "stable"]);
    // The device took part in round 1, so that is here.
    let told1 = told("state0", "app0");
    assert_eq!((&told1["round"], &told1["moved"]), (&1.into(), &0.into()), "{told1}");
    assert_eq!(read("app0"), read("tagged"));

    // All get the canary, then nobody; then it is what the tag names.
    let canary = ["--run", run, "--permille", "1000"];
    json(&[&["snapshot", "canary", dir, "stable"][..], &canary].concat());
    let told2 = told("state1", "app1");
    assert_eq!(told2["round"], 2);
    assert!(told2["moved"].as_u64() > Some(0), "{told2}");
    assert_eq!(read("app1"), read("peft"), "the latest");
    assert_eq!(told("state1", "app1")["moved"], 0, "it is here");
    json(&["snapshot", "withdraw", dir, "stable"]);
    assert_eq!(told("state1", "app1")["round"], 1);
    json(&[&["snapshot", "canary", dir, "stable"][..], &canary].concat());
    let listed = json(&["snapshot", "promote", dir, "stable"]);
    assert_eq!((&listed["round"], &listed["canary"]), (&2.into(), &Value::Null));
    assert_eq!(told("state0", "app0")["round"], 2);
    json(&["snapshot", "untag", dir, "stable"]);
    assert_eq!(json(&["snapshot", "list", dir]).as_array().map(Vec::len), Some(0));
}

#[test]
fn a_mistake_is_told_in_one_line() {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| temporary.path().join(name).display().to_string();
    files(temporary.path());
    let device = |token: &str, base: &str, data: &str| {
        Command::new(env!("CARGO_BIN_EXE_client-cli"))
            .args(["join", "https://127.0.0.1:1", "--token", token])
            .args(["--base", &path(base), "--data", &path(data), "--state", &path("state")])
            .output()
            .expect("runs")
    };
    std::fs::create_dir(temporary.path().join("empty")).expect("new");
    for (expected, output) in [
        ("token", device("nonsense", "model", "data0")),
        ("nowhere", device("nonsense", "nowhere", "data0")),
        ("nothing", device("nonsense", "model", "nothing")),
        ("empty", device("nonsense", "model", "empty")),
        ("missing", server(&["serve", &path("missing")])),
        ("missing", server(&["run", "create", &path("missing"), &path("run.toml")])),
    ] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        assert!(said.contains(expected), "{expected}: {said}");
    }
}
