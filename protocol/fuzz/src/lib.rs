//! The run that fuzzed frames are for.
//!
//! The first bytes of an input choose the terms and the trailer is put behind the rest, so that the fuzzer
//! gets past them to the decoders.

use gossamer_protocol::density::Density;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Origin, Terms};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::manifest::{Alternation, Coverage, Manifest, Segments, Values};
use gossamer_protocol::sparse::Support;

const MANIFEST: &str = r#"{"version":2,"name":"fuzz","seed":1,"rounds":9,
"base":{"name":"b","digest":"0000000000000000000000000000000000000000000000000000000000000000"},
"lora":{"rank":4,"alpha":8.0,"targets":["q"]},
"layout":[{"name":"q.lora_A","part":"lora_a","shape":[4,96]},{"name":"q.lora_B","part":"lora_b","shape":[64,4]}],
"method":{"download":{"density":1.0},"upload":{"density":1.0}},
"training":{"steps":1,"batch":1,"context":8,"optimizer":{"kind":"sgd","lr":0.1}},
"cohort":{"ask":1,"goal":1,"min":1,"deadline_s":9},"optimizer":{"kind":"sgd","lr":1.0}}"#;

/// Terms, and the support that a round's snapshot might have.
pub struct Case {
    /// The run's manifest.
    pub manifest: Manifest,
    /// What updates are for.
    pub origin: Origin,
    /// The snapshot's support.
    pub shared: Support,
}

impl Case {
    /// The case that three bytes choose.
    pub fn of(choice: [u8; 3]) -> Self {
        let mut manifest = Manifest::from_bytes(MANIFEST.as_bytes()).expect("a manifest");
        let values = Values::ALL[usize::from(choice[0]) % Values::ALL.len()];
        let method = &mut manifest.method;
        method.download.values = values;
        method.upload.values = values;
        let share = |part: u8| Density::try_from(f64::from(part) / 8.0).expect("a share");
        method.download.density = share(choice[1] % 8 + 1);
        method.upload.density = share(choice[1] / 8 % 8 + 1);
        match choice[2] % 8 {
            0 => method.upload.select.segments = Segments(3),
            1 => method.upload.select.random = Some(share(3)),
            2 => method.alternate = Some(Alternation { rounds: 1 }),
            3 => method.upload.select.within_download = true,
            4 => method.train = Coverage::Support,
            5 => method.upload.bytes_max = Some(4_096),
            _ => {}
        }
        let origin = Origin {
            run: RunId([7; 16]),
            round: RoundId(u64::from(choice[2] / 8)),
            attempt: Attempt(0),
            client: ClientId([9; 16]),
            snapshot: Digest([5; 32]),
        };
        let shared = Support::Indices((0..640).filter(|i| i % 3 == 0).collect());
        Self { manifest, origin, shared }
    }

    /// Its terms.
    pub fn terms(&self) -> Terms<'_> {
        Terms::new(&self.manifest, self.origin.run, self.origin.round)
    }

    /// The support, where it is needed.
    pub fn shared(&self) -> Option<&Support> {
        Some(&self.shared).filter(|_| self.terms().needs_support())
    }
}

/// Splits the choice off an input.
pub fn split(input: &[u8]) -> Option<(Case, &[u8])> {
    let (choice, rest) = input.split_first_chunk()?;
    Some((Case::of(*choice), rest))
}
