//! `project add | list`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use super::print;
use crate::project::ProjectName;
use crate::setup;

#[derive(Subcommand)]
pub(super) enum Project {
    /// Make a project.
    Add {
        /// The server's directory.
        dir: PathBuf,
        /// What it is called.
        name: ProjectName,
    },
    /// List projects by name.
    List {
        /// The server's directory.
        dir: PathBuf,
    },
}

pub(super) async fn run(command: Project, json: bool) -> Result<()> {
    match command {
        Project::Add { dir, name } => {
            let made = setup::coordinator(&dir).await?.add_project(name).await?;
            print(json, &serde_json::to_value(&made)?, &format!("project {}", made.name))
        }
        Project::List { dir } => {
            let all = setup::coordinator(&dir).await?.projects().await?;
            let names: Vec<&str> = all.iter().map(|project| project.name.as_str()).collect();
            print(json, &serde_json::to_value(&all)?, &names.join("\n"))
        }
    }
}
