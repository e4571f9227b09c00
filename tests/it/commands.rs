//! The server's command line, as an operator types it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use gossamer_tests::Process;
use serde_json::Value;

/// An aggregator that serves until this is dropped.
pub(crate) struct Served {
    /// Its address.
    pub(crate) url: String,
    _process: Process,
}

impl Served {
    /// Serves the directory `dir`.
    pub(crate) fn start(dir: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_server-cli"))
            .args(["serve", dir, "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("serves");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        let process = Process(child);
        BufReader::new(stdout).read_line(&mut line).expect("says where");
        let told: Value = serde_json::from_str(&line).expect("JSON");
        let url = format!("https://{}", told["listening"].as_str().expect("an address"));
        Self { url, _process: process }
    }
}

pub(crate) fn server(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server-cli"));
    command.args(args).output().expect("the server's command line runs")
}

/// What a command that must succeed printed as JSON.
pub(crate) fn json(args: &[&str]) -> Value {
    let output = server(&[args, &["--json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    serde_json::from_slice(&output.stdout).expect("one JSON value")
}
