//! `reproduce`: published claims, measured again.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use gossamer_sim::reproduce::{self, STUDIES, Study};

use super::say;
use super::simulate::{Keep, Only, command};

#[derive(Subcommand)]
pub(crate) enum Reproduce {
    /// FLASC and its baselines on Shakespeare and 20 Newsgroups, three seeds. Takes hours, and goes on where it was.
    Thesis(Thesis),
}

#[derive(Args)]
pub(crate) struct Thesis {
    /// Only this study.
    #[arg(long, value_parser = STUDIES.map(|(name, _)| name))]
    study: Option<String>,
    /// Where the scenarios are [default: the checkout's].
    #[arg(long, value_name = "DIR")]
    scenarios: Option<PathBuf>,
    /// The claims need `dense`.
    #[command(flatten)]
    only: Only,
    #[command(flatten)]
    keep: Keep,
}

impl Reproduce {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Self::Thesis(thesis) = self;
        thesis.run()
    }
}

impl Thesis {
    fn run(self) -> anyhow::Result<()> {
        let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/thesis");
        let scenarios = self.scenarios.clone().unwrap_or_else(here);
        let wanted =
            |(name, _): &&(&str, &str)| self.study.as_deref().is_none_or(|one| one == *name);
        let studies: Vec<_> = STUDIES.iter().filter(wanted).collect();
        // All are looked at before the first is run: hours later is no time to learn of a missing file.
        let load = |(name, about): &(&'static str, &'static str)| {
            let path = scenarios.join(name).with_extension("toml");
            let mut scenario =
                self.keep.load(&path).with_context(|| format!("the study {name}"))?;
            self.only.keep(&mut scenario)?;
            anyhow::Ok((*name, *about, scenario))
        };
        let studies: Vec<_> = studies.into_iter().map(load).collect::<anyhow::Result<_>>()?;
        let out = self.keep.out("thesis");
        let mut done = Vec::new();
        for (name, about, scenario) in studies {
            eprintln!("{name}: {about}");
            let dir = out.join(name);
            self.keep.simulate(scenario.clone(), dir.clone(), true)?;
            let study = Study::read(name, about, &dir, &scenario)?;
            done.push(study.with_context(|| {
                format!("{name}: the claims need dense and a method of FLASC, and neither diverged")
            })?);
            reproduce::write(&out, &done, &command())?;
        }
        if self.keep.json() {
            return say(&serde_json::to_string_pretty(&done)?);
        }
        let mut text = String::new();
        for study in &done {
            text += &format!("{}: {}\n\n", study.name, study.about);
            for (table, caption) in reproduce::tables(&study.claims) {
                text += &format!("{}{caption}\n\n", table.text());
            }
            for verdict in &study.verdicts {
                let holds = if verdict.holds { "confirmed" } else { "not confirmed" };
                text += &format!("{holds}: {}\n  {}\n", verdict.claim, verdict.why);
            }
            text.push('\n');
        }
        say(&format!("{text}Report: {}", out.join("thesis.html").display()))
    }
}
