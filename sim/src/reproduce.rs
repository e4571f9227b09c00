//! The thesis this method starts from, held against measurement: Raje, "Communication-Efficient LLM Training for
//! Federated Learning", CMU-CS-24-123, and FLASC, arXiv:2406.05233.
//!
//! Two studies, each a scenario in `scenarios/thesis` with every baseline of the paper. The claims are checked on
//! bytes that travelled, positions and headers included; the paper's figures could not be read, only its words.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::report::claims::{Claims, Families, Thriftiest};
use crate::report::html::{self, Section};
use crate::report::table::{Table, bytes, times};
use crate::report::{ReportError, read_rows};
use crate::scenario::Scenario;

/// The studies: the names of their scenario files, and what each is.
pub const STUDIES: [(&str, &str); 2] = [
    ("shakespeare", "Next tokens of 620 roles of Shakespeare, a client each; stories260K"),
    ("newsgroups", "20 Newsgroups over 350 clients by a Dirichlet of 0.1; MiniLM"),
];

/// Who is who in them.
pub const FAMILIES: Families<'_> = Families {
    dense: "dense",
    sparse: &["ffa", "sparse-adapter", "fed-select", "adapter-lth", "hetlora", "rank-by-norm"],
    published: "flasc",
    ours: "gossamer",
};

/// "Up to" so many times fewer bytes than dense LoRA, at equal or better utility.
const OF_DENSE: f64 = 10.0;
/// "Up to" so many times fewer than sparse baselines.
const OF_SPARSE: f64 = 5.0;

/// One study's outcome.
#[derive(Debug, Serialize)]
pub struct Study {
    /// Its name.
    pub name: String,
    /// What it is.
    pub about: String,
    /// What the rows say.
    pub claims: Claims,
    /// The claims, and whether they hold here.
    pub verdicts: Vec<Verdict>,
}

/// A claim, and what was found.
#[derive(Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The claim.
    pub claim: &'static str,
    /// Whether it holds here.
    pub holds: bool,
    /// With the numbers.
    pub why: String,
}

impl Study {
    /// Of the rows in `dir`, a comparison's folder, of the methods and seeds that `scenario` has: others may be left
    /// from other settings. None where they do not have what the claims are about.
    ///
    /// # Errors
    /// [`ReportError`] where rows cannot be read.
    pub fn read(
        name: &str,
        about: &str,
        dir: &Path,
        scenario: &Scenario,
    ) -> Result<Option<Self>, ReportError> {
        let mut rows = read_rows(&dir.join("metrics.jsonl"))?;
        rows.retain(|row| {
            scenario.seeds.contains(&row.seed)
                && scenario.methods.iter().any(|method| method.name == row.method)
        });
        let study = Claims::of(&rows, &FAMILIES).map(|claims| {
            let verdicts = verdicts(&claims);
            Self { name: name.to_owned(), about: about.to_owned(), claims, verdicts }
        });
        Ok(study)
    }
}

/// The thesis's two claims and ours.
#[must_use]
pub fn verdicts(claims: &Claims) -> Vec<Verdict> {
    let published = |method: &&crate::report::claims::AgainstDense| {
        method.method.starts_with(FAMILIES.published)
    };
    let good = claims.against_dense.iter().filter(published).filter(|method| method.as_good);
    let best = good.max_by(|a, b| a.fewer.total_cmp(&b.fewer));
    let why = match best {
        Some(best) => format!(
            "{} is not shown to be worse than dense after the last round ({} apart) and moved {} fewer bytes",
            best.method,
            best.difference,
            times(best.fewer)
        ),
        None => "every setting of FLASC is worse than dense after the last round".to_owned(),
    };
    let dense = Verdict {
        claim: "FLASC: up to 10 times fewer bytes than dense LoRA at equal or better quality",
        holds: best.is_some_and(|best| best.fewer >= OF_DENSE),
        why,
    };
    let against = claims.against_sparse.iter();
    let against = against.filter_map(|a| Some((&a.baseline, a.published.as_ref()?)));
    let best = against.max_by(|(_, a), (_, b)| a.fewer.total_cmp(&b.fewer));
    let why = match best {
        Some((baseline, Thriftiest { method, fewer })) => format!(
            "what {baseline} reached at best, {method} reached with {} fewer bytes",
            times(*fewer)
        ),
        None => "there is no sparse baseline that learned and whose best FLASC reaches".to_owned(),
    };
    let sparse = Verdict {
        claim: "FLASC: up to 5 times fewer bytes than sparse baselines at equal or better quality",
        holds: best.is_some_and(|(_, best)| best.fewer >= OF_SPARSE),
        why,
    };
    let won = |at: &&crate::report::claims::AtEqualBytes| {
        at.winner().is_some_and(|winner| winner.starts_with(FAMILIES.ours))
    };
    let (all, won) =
        (claims.at_equal_bytes.len(), claims.at_equal_bytes.iter().filter(won).count());
    let ours = Verdict {
        claim: "Gossamer is better than FLASC at equal bytes",
        holds: all > 0 && won == all,
        why: format!(
            "at {won} of {all} settings of FLASC the interval of the difference is above 0"
        ),
    };
    vec![dense, sparse, ours]
}

/// The tables behind the verdicts, with their captions.
#[must_use]
pub fn tables(claims: &Claims) -> Vec<(Table, String)> {
    let none = || "–".to_owned();
    let fewest = |of: &Option<Thriftiest>| {
        of.as_ref().map_or_else(none, |of| format!("{} ({})", times(of.fewer), of.method))
    };
    let table = |head: &[&str], rows: Vec<Vec<String>>| Table {
        head: head.iter().map(|cell| (*cell).to_owned()).collect(),
        rows,
    };
    let against_dense = claims.against_dense.iter().map(|of| {
        let as_good = if of.as_good { "yes" } else { "no" };
        vec![of.method.clone(), of.difference.to_string(), times(of.fewer), as_good.to_owned()]
    });
    let to_share = claims.to_share.iter().map(|of| {
        vec![format!("{:.0} %", 100.0 * of.share), fewest(&of.published), fewest(&of.ours)]
    });
    let against_sparse = claims.against_sparse.iter().map(|of| {
        let reached = if of.reached < 0.0 { -of.reached } else { of.reached };
        let reached = format!("{reached:.4}");
        let (published, ours) = (fewest(&of.published), fewest(&of.ours));
        vec![of.baseline.clone(), reached, bytes(of.bytes), published, ours]
    });
    let equal = claims.at_equal_bytes.iter().map(|of| {
        let winner = of.winner().map_or_else(|| "tied".to_owned(), str::to_owned);
        let difference = of.difference.to_string();
        vec![of.published.clone(), bytes(of.bytes), of.ours.clone(), difference, winner]
    });
    let seeds = claims.seeds;
    vec![
        (
            table(&["method", "better than dense by", "fewer bytes", "as good"], against_dense.collect()),
            format!(
                "After the last round: quality (accuracy, or minus the loss) less dense's, paired over {seeds} \
                 seeds. As good: the 95 % interval reaches 0."
            ),
        ),
        (
            table(&["share of dense's gain", "FLASC", "Gossamer"], to_share.collect()),
            "How many times fewer bytes than dense, both ways and all clients, until the mean has made that share \
             of dense's gain."
                .to_owned(),
        ),
        (
            table(&["baseline", "at best", "bytes", "FLASC", "Gossamer"], against_sparse.collect()),
            "How many times fewer bytes until the mean is what the baseline's was at its best (loss, or accuracy). \
             –: nobody reaches it, or the baseline learned nothing."
                .to_owned(),
        ),
        (
            table(&["FLASC's setting", "bytes", "best of ours", "better by", "winner"], equal.collect()),
            "At the bytes of that setting's whole run, paired by seed. A winner's 95 % interval lies on its side of 0."
                .to_owned(),
        ),
    ]
}

/// Writes `thesis.json` and `thesis.html` to `dir`, in which each study's own report has a folder.
///
/// # Errors
/// [`ReportError`] where one cannot be written.
pub fn write(dir: &Path, studies: &[Study], command: &str) -> Result<PathBuf, ReportError> {
    let mut sections = vec![
        Section::Paragraph(
            "Raje's thesis (CMU-CS-24-123) and FLASC (arXiv:2406.05233) claim that dense local training with sparse \
             messages needs up to 10 times fewer bytes than dense LoRA, and up to 5 times fewer than sparse-LoRA \
             baselines, at equal or better quality. Here both are measured on bytes that travelled, positions and \
             headers included."
                .to_owned(),
        ),
        Section::Preformatted(command.to_owned()),
    ];
    for study in studies {
        sections.push(Section::Heading(study.name.clone()));
        sections.push(Section::Paragraph(format!(
            "{}. Curves, partition and scenario: {}/report.html.",
            study.about, study.name
        )));
        for Verdict { claim, holds, why } in &study.verdicts {
            let verdict = if *holds { "Confirmed" } else { "Not confirmed" };
            sections.push(Section::Paragraph(format!("{verdict}: {claim}. Here {why}.")));
        }
        for (table, caption) in tables(&study.claims) {
            sections.push(Section::Table { table, caption });
        }
    }
    let json = serde_json::to_string_pretty(studies)? + "\n";
    let page = html::page("The thesis, measured", &sections);
    for (name, text) in [("thesis.json", json), ("thesis.html", page)] {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|source| ReportError::File { path, source })?;
    }
    Ok(dir.join("thesis.html"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Interval;
    use crate::report::claims::{AgainstDense, AgainstSparse, AtEqualBytes};

    fn claims(fewer: f64, as_good: bool, of_sparse: f64, better: f64) -> Claims {
        let interval = |mean| Interval { mean, half: Some(0.01), n: 3 };
        let method = "flasc-1/4".to_owned();
        let published = Some(Thriftiest { method: method.clone(), fewer: of_sparse });
        Claims {
            seeds: 3,
            against_dense: vec![
                AgainstDense { method: method.clone(), difference: interval(0.0), fewer, as_good },
                // Ours is not the thesis's.
                AgainstDense {
                    method: "gossamer".into(),
                    difference: interval(0.0),
                    fewer: 99.0,
                    as_good,
                },
            ],
            to_share: Vec::new(),
            against_sparse: vec![AgainstSparse {
                baseline: "ffa".into(),
                reached: 0.5,
                bytes: 1e6,
                published,
                ours: None,
            }],
            at_equal_bytes: vec![AtEqualBytes {
                published: method,
                bytes: 1e6,
                ours: "gossamer".into(),
                difference: interval(better),
            }],
        }
    }

    #[test]
    fn claims_hold_or_do_not() {
        let holds = |claims| verdicts(&claims).iter().map(|v| v.holds).collect::<Vec<bool>>();
        assert_eq!(holds(claims(10.0, true, 5.0, 0.1)), [true, true, true]);
        assert_eq!(holds(claims(9.9, true, 4.9, 0.005)), [false, false, false]);
        assert_eq!(holds(claims(14.0, false, 6.0, -0.1)), [false, true, false]);
    }

    /// A folder may hold methods and seeds that an earlier call had.
    #[test]
    fn just_what_was_asked_for_is_judged() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let rows = crate::report::tests::rows();
        let lines = rows.iter().map(|row| serde_json::to_string(row).expect("JSON") + "\n");
        std::fs::write(dir.path().join("metrics.jsonl"), lines.collect::<String>())
            .expect("written");
        let text = include_str!("../scenarios/thesis/shakespeare.toml");
        let mut scenario = Scenario::parse(text, Path::new("")).expect("a scenario");
        scenario.seeds = vec![1, 3];
        scenario.methods.retain(|method| ["dense", "flasc-1/4"].contains(&method.name.as_str()));
        let read =
            |scenario: &Scenario| Study::read("s", "about", dir.path(), scenario).expect("rows");
        let study = read(&scenario).expect("claims");
        let names: Vec<&str> =
            study.claims.against_dense.iter().map(|of| of.method.as_str()).collect();
        assert_eq!((study.claims.seeds, names), (2, vec!["flasc-1/4"]));
        scenario.methods.truncate(1);
        assert!(read(&scenario).is_none(), "dense alone makes no claim");
    }

    /// Every method that the claims are about is in both studies, under the names they are known by.
    #[test]
    fn the_studies_have_every_family() {
        for text in [
            include_str!("../scenarios/thesis/shakespeare.toml"),
            include_str!("../scenarios/thesis/newsgroups.toml"),
        ] {
            let scenario = Scenario::parse(text, Path::new("")).expect("a scenario");
            let has =
                |name: &str| scenario.methods.iter().any(|method| method.name.starts_with(name));
            assert!(scenario.methods[0].name == FAMILIES.dense && scenario.seeds.len() == 3);
            for name in FAMILIES.sparse.iter().chain([&FAMILIES.published, &FAMILIES.ours]) {
                assert!(has(name), "{name} is not in {}", scenario.name);
            }
        }
    }
}
