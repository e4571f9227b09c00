//! Updates decoded and folded a second, on one core.

use std::time::Instant;

use gossamer_protocol::density::Density;
use gossamer_protocol::frame::{Origin, Terms, Update};
use gossamer_protocol::ids::{Attempt, ClientId, RoundId, RunId};
use gossamer_protocol::manifest::{Coding, Values};
use gossamer_protocol::rng::Stream;
use gossamer_protocol::select::top_k;
use gossamer_protocol::sparse::{Sparse, Support};
use gossamer_server::advance::Combining;
use gossamer_tests::device::dense;
use serde_json::json;

use super::{Outcome, Teller};

const PARAMETERS: usize = 262_144;
const UPDATES: usize = 32;

pub(crate) fn run(teller: Teller) -> Outcome {
    for (name, density, values, coding) in [
        ("every entry in f32", 1.0, Values::F32, Coding::Packed),
        ("a quarter in int8", 0.25, Values::Int8, Coding::Packed),
        ("a quarter in int4", 0.25, Values::Int4, Coding::Packed),
        ("a quarter in int4, smallest coding", 0.25, Values::Int4, Coding::Smallest),
    ] {
        let mut terms = dense("fold", PARAMETERS, UPDATES as u32, 1);
        terms.method.upload.density = Density::try_from(density)?;
        terms.method.upload.values = values;
        terms.method.coding = coding;
        let (run, round) = (RunId([1; 16]), RoundId(0));
        let (attempt, snapshot) = (Attempt(0), terms.base.digest);
        let on = Terms::new(&terms, run, round);
        let mut frames = Vec::new();
        for n in 0..UPDATES {
            let client = ClientId([n as u8; 16]);
            let mut rng = Stream::new(1, "fold", &[&client.0]);
            let dense: Vec<f32> = (0..PARAMETERS).map(|_| (rng.normal() * 0.01) as f32).collect();
            let support = match density < 1.0 {
                true => top_k(&dense, (density * PARAMETERS as f64) as usize)?,
                false => Support::All,
            };
            let values = support.gather(&dense);
            let origin = Origin { run, round, attempt, client, snapshot };
            let delta = Sparse::new(PARAMETERS, support, values)?;
            let update = Update { origin, examples: 1, loss: 1.0, delta };
            frames.push((origin, update.encode(&on, None)?));
        }
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            let start = Instant::now();
            let mut combining = Combining::new(&terms, None)?;
            for (origin, frame) in &frames {
                combining.add(frame, &on, origin, None, 0)?;
            }
            std::hint::black_box(combining.finish());
            best = best.min(start.elapsed().as_secs_f64());
        }
        let rate = UPDATES as f64 / best;
        let bytes = frames.iter().map(|(_, frame)| frame.len()).sum::<usize>() / UPDATES;
        let words = format!(
            "fold of {PARAMETERS} parameters, {name}: {rate:.0} updates/s on one core ({bytes} bytes each)"
        );
        let numbers = json!({
            "part": "fold", "what": name, "parameters": PARAMETERS, "per_second": rate, "bytes": bytes,
        });
        teller.tell(&words, &numbers);
    }
    Ok(())
}
