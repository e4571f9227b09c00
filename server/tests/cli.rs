//! The binary: what an operator types, and what it says when that cannot be.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use gossamer_protocol::message::JoinToken;
use serde_json::Value;

const MANIFEST: &str = r#"name = "first"
seed = 7
rounds = 3
base = "model"
lora = { rank = 2, alpha = 4.0, targets = ["q_proj"] }
method = { download = { density = 0.25 }, upload = { density = 0.25 } }
cohort = { goal = 1, ask = 1, min = 1, deadline_s = 60 }
optimizer = { kind = "sgd", lr = 1.0 }

[training]
steps = 1
batch = 1
context = 8
optimizer = { kind = "sgd", lr = 0.1 }
"#;

struct Place {
    _dir: tempfile::TempDir,
    root: PathBuf,
}

impl Place {
    /// A server's directory `s`, a model, and a manifest `run.toml`.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().to_owned();
        let model = root.join("model");
        std::fs::create_dir(&model).expect("made");
        let config = r#"{"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 1}"#;
        for (name, text) in
            [("config.json", config), ("tokenizer.json", "{}"), ("model.safetensors", "w")]
        {
            std::fs::write(model.join(name), text).expect("written");
        }
        std::fs::write(root.join("run.toml"), MANIFEST).expect("written");
        let place = Self { _dir: dir, root };
        place.good(&["init", "s", "--listen", "127.0.0.1:0", "--name", "example.org"]);
        place
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gossamer-server"));
        command.args(args).current_dir(&self.root).env("RUST_LOG", "warn");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("it starts")
    }

    fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.good(&[args, &["--json"]].concat())).expect("JSON")
    }

    /// The one line on stderr of a command that fails.
    fn bad(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        said
    }
}

#[test]
fn a_run_from_its_manifest_to_its_export() {
    let place = Place::new();
    let created = place.json(&["run", "create", "s", "run.toml"]);
    let run = created["run"].as_str().expect("an id").to_owned();
    assert_eq!(created["parameters"], 16);
    assert_eq!(place.json(&["run", "create", "s", "run.toml"])["run"], run.as_str(), "the same");
    let list = place.json(&["run", "list", "s"]);
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    assert_eq!(list[0]["status"], "running");
    assert_eq!(place.json(&["run", "pause", "s"])["status"], "paused");
    assert_eq!(place.json(&["run", "show", "s", &run[..6]])["status"], "paused");
    assert_eq!(place.json(&["run", "resume", "s", "first"])["status"], "running");
    assert!(place.good(&["run", "show", "s"]).contains("round     0 of 3"));

    place.good(&["run", "export", "s", &run, "adapter.safetensors"]);
    let bytes = std::fs::read(place.root.join("adapter.safetensors")).expect("written");
    assert!(safetensors::SafeTensors::deserialize(&bytes).is_ok());
    place.good(&["run", "export", "s", &run, "peft"]);
    let peft = std::fs::read(place.root.join("peft/adapter_config.json")).expect("written");
    let peft: Value = serde_json::from_slice(&peft).expect("JSON");
    assert_eq!((&peft["r"], &peft["peft_type"]), (&2.into(), &"LORA".into()));
    let same = std::fs::read(place.root.join("peft/adapter_model.safetensors")).expect("written");
    assert_eq!(same, bytes);
    let origin = std::fs::read(place.root.join("peft/gossamer.json")).expect("written");
    let origin: Value = serde_json::from_slice(&origin).expect("JSON");
    assert_eq!(origin["run"], "first");

    assert_eq!(place.json(&["run", "abort", "s"])["status"], "aborted");
    assert!(place.bad(&["run", "resume", "s"]).contains("is aborted and stays so"));
    assert!(place.bad(&["run", "create", "s", "run.toml"]).contains("is aborted"), "not anew");
    assert!(place.bad(&["run", "show", "s", "nope"]).contains("there is no run \"nope\""));

    let warm = place.json(&["run", "create", "s", "run.toml", "--from", "peft"])["run"].clone();
    assert_ne!(warm, run.as_str(), "another start is another run");
    let again = place.json(&["run", "create", "s", "run.toml", "--from-run", &run]);
    assert_eq!(again["run"], warm, "it is the same adapter");
    let nowhere = place.bad(&["run", "create", "s", "run.toml", "--from", "nowhere"]);
    assert!(nowhere.contains("nowhere/adapter_config.json"), "{nowhere}");
}

#[test]
fn tokens_pin_the_server() {
    let place = Place::new();
    let tokens = place.json(&["token", "new", "s", "--count", "3", "--ttl", "2h"]);
    let mut secrets = std::collections::HashSet::new();
    for token in tokens.as_array().expect("a list") {
        let token = JoinToken::decode(token.as_str().expect("text")).expect("a token");
        assert!(token.ca.is_some());
        secrets.insert(token.secret);
    }
    assert_eq!(secrets.len(), 3);
    let one = place.good(&["token", "new", "s"]);
    assert!(JoinToken::decode(&one).is_ok());
}

#[test]
fn a_key_follows_another() {
    let place = Place::new();
    let pinned = |place: &Place| {
        let token = place.good(&["token", "new", "s"]);
        JoinToken::decode(&token).expect("a token").server_key.to_string()
    };
    let first = pinned(&place);
    let listed = place.json(&["key", "list", "s"]);
    assert_eq!((&listed["first"], &listed["signs"]), (&first[..].into(), &first[..].into()));
    // The doctor fails for ports that are taken, too: only the finding counts.
    let doctor = || {
        let output = place.run(&["doctor", "s", "--json"]);
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let found = found.as_array().expect("a list").iter();
        found.filter(|f| f["check"] == "signing key").map(|f| f["state"].clone()).next()
    };
    assert_eq!(doctor(), None, "there is one key");
    let warned = Some(Value::from("warning"));

    let made = place.json(&["key", "rotate", "s", "--in", "1h", "--overlap", "2d"]);
    let rotation = &made["rotation"];
    let number = |field: &str| rotation[field].as_u64().expect("a number");
    assert_eq!(number("until_ms") - number("at_ms"), 2 * 86_400_000);
    assert_eq!(rotation["from"], first[..]);
    assert_eq!(pinned(&place), first, "not yet");
    assert_eq!(doctor(), Some(Value::from("good")));
    std::fs::remove_file(made["file"].as_str().map(|f| place.root.join(f)).expect("a path"))
        .expect("there");
    assert_eq!(doctor(), warned, "it will be needed");
    assert_eq!(place.run(&["key", "rotate", "s", "--overlap", "0s"]).status.code(), Some(2));
}

#[test]
fn a_key_that_follows_signs_and_the_old_one_can_go() {
    let place = Place::new();
    let first = place.json(&["key", "list", "s"])["first"].as_str().expect("hex").to_owned();
    place.json(&["run", "create", "s", "run.toml"]);
    let made = place.json(&["key", "rotate", "s", "--overlap", "1s"]);
    let second = made["rotation"]["to"].as_str().expect("hex").to_owned();
    let listed = place.json(&["key", "list", "s"]);
    assert_eq!((&listed["first"], &listed["signs"]), (&first[..].into(), &second[..].into()));
    assert_eq!(listed["here"].as_array().map(Vec::len), Some(2));
    assert_eq!(listed["rotations"][0], made["rotation"]);
    let token = place.good(&["token", "new", "s"]);
    let pinned = JoinToken::decode(&token).expect("a token").server_key.to_string();
    assert_eq!(pinned, second, "whoever enrols now pins the new one");

    let doctor = |place: &Place| {
        let output = place.run(&["doctor", "s", "--json"]);
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let found = found.as_array().expect("a list").clone();
        let is = |f: &&Value| f["check"] == "signing key";
        let found = found.iter().find(is).expect("there is more than one key");
        (found["state"].clone(), found["found"].as_str().expect("text").to_owned())
    };
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let (state, found) = doctor(&place);
    assert!(state == "warning" && found.contains(&first), "it can go: {found}");
    std::fs::remove_file(place.root.join("s/keys/server.key")).expect("there");
    let (state, found) = doctor(&place);
    assert!(state == "good" && found.contains(&second), "{found}");
    assert_eq!(place.json(&["key", "list", "s"])["signs"], second[..]);
    let whole = place.good(&["verify-log", "s"]);
    assert!(whole.contains("whole"), "{whole}");
    let third = place.json(&["key", "rotate", "s"])["rotation"]["to"].clone();
    assert_eq!(place.json(&["key", "list", "s"])["signs"], third);

    // Who lacks the newest secret is told, and makes nothing.
    let keys = place.root.join("s/keys");
    let newest = keys.join(format!("{}.key", &third.as_str().expect("hex")[..16]));
    std::fs::rename(&newest, place.root.join("elsewhere")).expect("there");
    let before = std::fs::read_dir(&keys).expect("there").count();
    let refused = place.bad(&["key", "rotate", "s"]);
    assert!(refused.contains(third.as_str().expect("hex")), "{refused}");
    assert_eq!(std::fs::read_dir(&keys).expect("there").count(), before);
    let (state, _) = doctor(&place);
    assert_eq!(state, "bad", "it should sign by now");
    std::fs::rename(place.root.join("elsewhere"), &newest).expect("there");
    assert_eq!(doctor(&place).0, "good");
}

#[test]
fn what_cannot_be_is_one_clear_line() {
    let place = Place::new();
    assert!(place.bad(&["init", "s"]).contains("already holds a server"));
    for args in [
        &["serve", "none"][..],
        &["token", "new", "none"],
        &["run", "list", "none"],
        &["run", "create", "none", "run.toml"],
    ] {
        let said = place.bad(args);
        assert!(said.contains("none") && said.contains("gossamer-server init"), "{said}");
    }
    assert!(!place.root.join("none").exists(), "looking makes nothing");
    assert!(place.bad(&["run", "create", "s", "no.toml"]).contains("no.toml: No such file"));

    let manifest = place.root.join("run.toml");
    std::fs::write(&manifest, MANIFEST.replace("steps", "stepz")).expect("written");
    let said = place.bad(&["run", "create", "s", "run.toml"]);
    assert!(said.contains("run.toml:11: unknown field `stepz`"), "{said}");
    let config = place.root.join("s/config.toml");
    let good = std::fs::read_to_string(&config).expect("there");
    std::fs::write(&config, format!("speed = 9\n{good}")).expect("written");
    let said = place.bad(&["serve", "s"]);
    assert!(said.contains("config.toml:1: unknown field `speed`"), "{said}");
    std::fs::write(&config, good.replace("requests_max = 256", "requests_max = 0"))
        .expect("written");
    assert!(place.bad(&["serve", "s"]).contains("requests_max: expected at least 1"));
    std::fs::write(&config, &good).expect("written");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let said = place.bad(&["serve", "s", "--listen", &address]);
    assert!(said.contains(&format!("cannot listen on {address}")), "{said}");
    assert!(said.contains("in use"), "{said}");

    let key = place.root.join("s/keys/server.key");
    std::fs::write(&key, "short").expect("written");
    assert!(place.bad(&["run", "list", "s"]).contains("server.key is no key"));
    assert_eq!(place.run(&["serve"]).status.code(), Some(2), "no directory given");
    assert_eq!(place.run(&["token", "new", "s", "--ttl", "soon"]).status.code(), Some(2));
}

#[test]
fn an_init_that_was_cut_off_is_ended_with_its_key() {
    let place = Place::new();
    let keys = || {
        ["s/keys/server.key", "s/tls/ca.pem"]
            .map(|file| std::fs::read(place.root.join(file)).expect("there"))
    };
    let first = keys();
    // The configuration is written last.
    std::fs::remove_file(place.root.join("s/config.toml")).expect("there");
    place.good(&["init", "s"]);
    assert_eq!(keys(), first);
    place.good(&["token", "new", "s"]);
    assert!(place.bad(&["init", "s"]).contains("already holds a server"));
}

#[test]
fn one_process_serves_a_directory_and_stops_when_told() {
    let place = Place::new();
    let mut server = place.command(&["serve", "s"]).stdout(Stdio::piped()).spawn().expect("starts");
    let mut line = String::new();
    let stdout = server.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    assert!(line.starts_with("listening on https://127.0.0.1:"), "{line}");
    let second = || {
        // The first may still be on its way to the lock.
        for _ in 0..100 {
            if is_locked(&place.root.join("s/lock")) {
                return place.run(&["serve", "s"]);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("the lock is never taken");
    };
    let second = second();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(second.stdout.is_empty(), "an address that is not served is not told");
    assert!(said.contains("another gossamer-server serves s"), "{said}");
    // The command line works beside it.
    place.good(&["run", "create", "s", "run.toml"]);
    let mut kill = Command::new("kill").arg(server.id().to_string()).spawn().expect("kill");
    kill.wait().expect("sent");
    assert!(server.wait().expect("ends").success(), "SIGTERM ends it in good order");
}

fn is_locked(path: &Path) -> bool {
    let Ok(file) = std::fs::File::open(path) else { return false };
    matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock))
}
