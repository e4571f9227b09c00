//! Whether ranks are about to simulate the same thing.

use gossamer_protocol::digest::Digest;

use super::{Ranks, RanksError};
use crate::engine::{EngineError, Laboratory};

/// All that a comparison follows from, by the names that people know it under.
pub(crate) fn facts(lab: &Laboratory) -> Result<Vec<(String, Digest)>, EngineError> {
    let scenario = lab.scenario();
    let mut facts = vec![("version".to_owned(), Digest::of(env!("CARGO_PKG_VERSION").as_bytes()))];
    let table: toml::Table = scenario.text.parse().unwrap_or_default();
    for (key, value) in table {
        facts.push((format!("scenario ({key})"), Digest::of(value.to_string().as_bytes())));
    }
    let mut say = |name: &str, bytes: &[u8]| facts.push((name.to_owned(), Digest::of(bytes)));
    say("scenario", scenario.text.as_bytes());
    say("number of rounds", &scenario.rounds.to_le_bytes());
    say("choice of seeds", format!("{:?}", scenario.seeds).as_bytes());
    say("choice of methods", format!("{:?}", scenario.methods).as_bytes());
    // Terms and text of the first: base and data as they were read.
    if let (Some(method), Some(&seed)) = (scenario.methods.first(), scenario.seeds.first()) {
        say("base model", format!("{:?}", lab.manifest(method, seed)?.base).as_bytes());
        facts.push(("data".to_owned(), lab.settings(method, seed)?));
    }
    Ok(facts)
}

impl Ranks {
    /// Refuses ranks whose `facts` differ from rank 0's, by the first that does.
    pub(crate) async fn agree(&self, facts: &Vec<(String, Digest)>) -> Result<(), RanksError> {
        let all = self.gather(facts).await?;
        for (rank, theirs) in all.iter().enumerate().skip(1) {
            let differs = all[0].iter().zip(theirs).find(|(ours, theirs)| ours != theirs);
            let longer = all[0].len() != theirs.len();
            let field = match differs {
                Some(((field, _), _)) => field.clone(),
                None if longer => "scenario".to_owned(),
                None => continue,
            };
            return Err(RanksError::Disagree { rank, field });
        }
        Ok(())
    }
}
