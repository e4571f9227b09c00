//! `wire`: what saved changes cost, part by part.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use gossamer_protocol::density::Density;
use gossamer_protocol::manifest::{Coding, Ranking, Scope, Select, Values};
use gossamer_sim::deltas;
use gossamer_sim::wire::{self, Change, Cost, Entries, Opened, Rule};

use super::say;

#[derive(Subcommand)]
pub(crate) enum Wire {
    /// Shows the bytes of a change by part, beside the bound and other ways to write the same.
    ///
    /// FILE is a change, for which a table over densities and values is shown, or what `encode` wrote.
    /// They are told apart by their first bytes.
    Inspect {
        /// The file.
        file: PathBuf,
        /// Shares of entries sent [default: 1, 1/4, 1/16, 1/64].
        #[arg(long = "density", value_name = "SHARE", value_parser = wire::rule::density)]
        densities: Vec<Density>,
        /// How values are coded, as in a manifest [default: f32, int8, int4, lloyd3, lloyd2, sign].
        #[arg(long = "values", value_parser = wire::rule::word::<Values>)]
        values: Vec<Values>,
        #[command(flatten)]
        choice: Choice,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Writes a change as coded entries, in a file that stands alone.
    ///
    /// The file is one line of JSON, which has the layout, the values, the body's name, the number of
    /// entries, the bits spent on each part and the body's SHA-256; behind the line, the body.
    Encode {
        /// The change, a safetensors file.
        file: PathBuf,
        /// The file to write.
        #[arg(long, short)]
        out: PathBuf,
        /// Share of entries sent.
        #[arg(long, value_name = "SHARE", default_value = "1/16", value_parser = wire::rule::density)]
        density: Density,
        /// How values are coded, as in a manifest.
        #[arg(long, default_value = "int8", value_parser = wire::rule::word::<Values>)]
        values: Values,
        #[command(flatten)]
        choice: Choice,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Writes what `encode` wrote as a dense change again: zero where nothing was sent.
    Decode {
        /// The file that `encode` wrote.
        file: PathBuf,
        /// The safetensors file to write.
        #[arg(long, short)]
        out: PathBuf,
    },
}

/// Which entries travel, and in which bodies. A task head travels whole.
#[derive(Args)]
pub(crate) struct Choice {
    /// What ranks entries: magnitude, importance or rank-wise [default: magnitude].
    #[arg(long, value_name = "RANKING", value_parser = wire::rule::word::<Ranking>)]
    by: Option<Ranking>,
    /// What entries compete with: global, tensor or floor=SHARE [default: global].
    #[arg(long, value_parser = wire::rule::scope)]
    scope: Option<Scope>,
    /// Which bodies to choose from: smallest or packed [default: smallest].
    #[arg(long, value_parser = wire::rule::word::<Coding>)]
    coding: Option<Coding>,
    /// The adapter that was trained, a safetensors file; for importance.
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
}

impl Wire {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Inspect { file, densities, values, choice, json } => {
                let costs = match wire::open(&file)? {
                    Opened::Change(change) => {
                        let theta = choice.theta(&change)?;
                        let rules = choice.rules(&densities, &values);
                        wire::inspect(&change, theta.as_deref(), &rules)?
                    }
                    Opened::Entries(entries) => {
                        let free = densities.is_empty() && values.is_empty() && choice.is_empty();
                        let name = file.display();
                        anyhow::ensure!(free, "{name} is coded already: options cannot change it");
                        vec![Cost::of(&entries, None)]
                    }
                };
                show(&costs, json)
            }
            Self::Encode { file, out, density, values, choice, json } => {
                let change = Change::load(&file)?;
                let theta = choice.theta(&change)?;
                let rule = choice.rule(density, values);
                let entries = rule.encode(&change, theta.as_deref())?;
                entries.save(&out)?;
                show(&[Cost::of(&entries, Some(&change.delta))], json)
            }
            Self::Decode { file, out } => {
                let entries = Entries::load(&file)?;
                Ok(deltas::save(&out, &entries.layout, &entries.dense())?)
            }
        }
    }
}

fn show(costs: &[Cost], json: bool) -> anyhow::Result<()> {
    let text = match json {
        true => serde_json::to_string_pretty(costs)?,
        false => format!("{}\n{}", wire::table(costs).text(), wire::caption()),
    };
    say(&text)
}

impl Choice {
    fn is_empty(&self) -> bool {
        let Self { by, scope, coding, adapter } = self;
        by.is_none() && scope.is_none() && coding.is_none() && adapter.is_none()
    }

    fn theta(&self, change: &Change) -> anyhow::Result<Option<Vec<f32>>> {
        let read = |path: &PathBuf| wire::rule::adapter(path, change);
        Ok(self.adapter.as_ref().map(read).transpose()?)
    }

    fn rule(&self, density: Density, values: Values) -> Rule {
        let by = self.by.unwrap_or_default();
        let select = Select { by, scope: self.scope.unwrap_or_default(), ..Select::default() };
        Rule { density, values, select, coding: self.coding.unwrap_or_default() }
    }

    /// Every density with every one of `values`; the usual ones where none are given.
    fn rules(&self, densities: &[Density], values: &[Values]) -> Vec<Rule> {
        let densities =
            if densities.is_empty() { &wire::rule::usual_densities() } else { densities };
        let values = if values.is_empty() { &wire::rule::USUAL_VALUES } else { values };
        let each = |&density| values.iter().map(move |&values| self.rule(density, values));
        densities.iter().flat_map(each).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        wire: Wire,
    }

    #[test]
    fn a_table_has_what_is_asked_for_or_the_usual() {
        let rules = |line: &[&str]| {
            let line = ["wire", "inspect", "f"].iter().chain(line);
            let Wire::Inspect { densities, values, choice, .. } =
                Line::try_parse_from(line).expect("sound").wire
            else {
                panic!("another command")
            };
            choice.rules(&densities, &values)
        };
        assert_eq!(rules(&[]).len(), 4 * 6);
        let asked =
            ["--density", "1/8", "--values", "fp4", "--scope", "floor=0.5", "--by", "rank-wise"];
        let select =
            Select { by: Ranking::RankWise, scope: Scope::Floor(0.5), ..Select::default() };
        let density = Density::try_from(0.125).expect("a share");
        let expected = Rule { density, values: Values::Fp4, select, coding: Coding::Smallest };
        assert_eq!(rules(&asked), [expected]);
    }
}
