//! `doctor`: what is wrong with a server's directory, and what to do.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::print;
use crate::doctor::{self, State};

#[derive(Args)]
pub(super) struct Doctor {
    /// The server's directory.
    dir: PathBuf,
}

/// Fails where something is bad.
pub(super) async fn run(Doctor { dir }: Doctor, json: bool) -> Result<()> {
    let findings = doctor::examine(&dir).await;
    let mut lines = Vec::new();
    for finding in &findings {
        let mark = match finding.state {
            State::Good => "good",
            State::Warning => "WARN",
            State::Bad => "BAD",
        };
        lines.push(format!("{mark:4}  {:14}  {}", finding.check, finding.found));
        lines.extend(finding.advice.iter().map(|advice| format!("{:22}-> {advice}", "")));
    }
    print(json, &serde_json::to_value(&findings)?, &lines.join("\n"))?;
    let bad = findings.iter().filter(|finding| finding.state == State::Bad).count();
    if bad > 0 {
        bail!("{bad} of {} checks found something bad", findings.len());
    }
    Ok(())
}
