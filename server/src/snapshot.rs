//! What clients of a round start from: some entries of the dense adapter, framed.
//!
//! `of = change`: the top-k of `theta - theta_0(seed)`; `of = weights`: the top-k of `theta`, as
//! FLASC has it. The server's own copy stays dense. Entries that are exactly 0 say what a missing
//! entry says, so they are left out where clients train all entries and that is shorter; where
//! clients train just the support, it is the message and stays whole.

use gossamer_protocol::frame::{FrameError, Snapshot, Terms};
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::manifest::{Coverage, Manifest, Reference, SupportRule};
use gossamer_protocol::select::{Scene, SelectError, select};
use gossamer_protocol::sparse::{Sparse, Support};

use crate::state::ServerState;

/// Why an adapter cannot be sent: it diverged.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A weight is not finite.
    #[error("the adapter diverged")]
    NonFinite(#[from] SelectError),
    /// A weight is too large to travel.
    #[error("the adapter diverged")]
    Frame(#[from] FrameError),
}

/// The frame of `round`'s snapshot of `state`.
///
/// Under [`SupportRule::Once`] the support is chosen at round 1 and written into `state`. What the
/// snapshot leaves out decays in `state` to its share `method.download.residual`.
///
/// # Errors
/// [`SnapshotError`] where a weight is not finite or over
/// [`WEIGHT_MAX`](gossamer_protocol::frame::WEIGHT_MAX).
pub fn take(
    manifest: &Manifest,
    run: RunId,
    round: RoundId,
    state: &mut ServerState,
) -> Result<Vec<u8>, SnapshotError> {
    let terms = Terms::new(manifest, run, round);
    let reference = manifest.method.download.of;
    let dense = match reference {
        Reference::Weights => state.theta.clone(),
        Reference::Change => {
            let start = manifest.layout.init(manifest.seed);
            state.theta.iter().zip(start).map(|(&now, start)| now - start).collect()
        }
    };
    let density = manifest.method.download.at(round).0;
    let scene = Scene { layout: &manifest.layout, delta: &dense, theta: &state.theta };
    let rule = &manifest.method.download.select;
    // Refuses what is not finite, whatever is sent.
    let chosen = select(manifest, rule, density, &Support::All, &scene)?;
    let support = if terms.is_dense_round() {
        Support::All
    } else if manifest.method.support != SupportRule::Once {
        chosen
    } else {
        match (&state.support, chosen) {
            (Some(fixed), _) => Support::Indices(fixed.clone()),
            (None, Support::All) => Support::All,
            (None, Support::Indices(chosen)) => {
                state.support = Some(chosen.clone());
                Support::Indices(chosen)
            }
        }
    };
    let encode = |support: Support| {
        let values = support.gather(&dense);
        // The support comes from top_k or from an earlier top_k over the same layout.
        let values = Sparse::new(dense.len(), support, values).expect("a support of this layout");
        Snapshot { run, round, reference, values }.encode(&terms)
    };
    let full = encode(support.clone())?;
    let frame = if manifest.method.train == Coverage::Support && !terms.is_dense_round() {
        full
    } else {
        let learned: Vec<u32> = match support {
            Support::All => (0..dense.len() as u32).filter(|&i| dense[i as usize] != 0.0).collect(),
            Support::Indices(indices) => {
                indices.into_iter().filter(|&i| dense[i as usize] != 0.0).collect()
            }
        };
        let short = encode(Support::Indices(learned))?;
        if short.len() < full.len() { short } else { full }
    };
    // Against what clients read, which rounding and zeros left out may have moved.
    forget(state, manifest, &Snapshot::decode(&frame, &terms)?);
    Ok(frame)
}

/// Decays what `snapshot` leaves out, entries as well as rounding, towards what clients have in its place.
fn forget(state: &mut ServerState, manifest: &Manifest, snapshot: &Snapshot) {
    let share = manifest.method.download.residual;
    if share < 1.0 {
        for (value, received) in state.theta.iter_mut().zip(snapshot.theta(manifest)) {
            *value = received + share * (*value - received);
        }
    }
}
