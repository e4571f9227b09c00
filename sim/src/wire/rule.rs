//! Which entries of a change travel, and how they are coded: a manifest's words, as options.

use std::path::Path;

use gossamer_protocol::codec::{self, Encoded, Options, Shape};
use gossamer_protocol::density::Density;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::fold::VALUE_MAX;
use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::{
    Base, Coding, Cohort, LocalOptimizer, Lora, MANIFEST_VERSION, Manifest, Method, Ranking, Scope,
    Select, Selection, ServerOptimizer, Training, Values,
};
use gossamer_protocol::select::{Scene, select};
use gossamer_protocol::sparse::{Sparse, Support};
use serde::de::DeserializeOwned;

use super::{Change, Entries, WireError};
use crate::deltas;

/// Values that a table shows where none are asked for.
pub const USUAL_VALUES: [Values; 6] =
    [Values::F32, Values::Int8, Values::Int4, Values::Lloyd3, Values::Lloyd2, Values::Sign];

/// Densities that a table shows where none are asked for: 1, 1/4, 1/16, 1/64.
#[must_use]
pub fn usual_densities() -> Vec<Density> {
    let shares = [1.0, 0.25, 0.0625, 0.015_625];
    shares.into_iter().filter_map(|share| Density::try_from(share).ok()).collect()
}

/// What travels of a change, and how. The whole of it may; a task head travels whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Share of entries sent.
    pub density: Density,
    /// How values are coded; rounded to the nearest.
    pub values: Values,
    /// What ranks entries, and what they compete with.
    pub select: Select,
    /// Which bodies to choose from.
    pub coding: Coding,
}

impl Rule {
    /// Selects and codes. `theta`: the adapter that was trained, shape `[n]`; only a ranking by
    /// importance looks at it.
    ///
    /// # Errors
    /// [`WireError`] for values that are not finite or beyond what an update may carry, and for a ranking
    /// by importance without `theta`.
    pub fn encode(&self, change: &Change, theta: Option<&[f32]>) -> Result<Entries, WireError> {
        let Change { path, layout, delta } = change;
        if self.select.by == Ranking::Importance && theta.is_none() {
            return Err(WireError::NoAdapter);
        }
        let scene = Scene { layout, delta, theta: theta.unwrap_or(delta) };
        let manifest = manifest(layout);
        let support = select(&manifest, &self.select, self.density, &Support::All, &scene)
            .map_err(|source| WireError::Select { path: path.clone(), source })?;
        let failed = |source| WireError::Entries { path: path.clone(), source };
        let sparse = Sparse::gather(delta, support).map_err(|error| failed(error.into()))?;
        let shape = Shape { layout, domain: &Support::All };
        let Self { values, coding, .. } = *self;
        let options = Options { values, coding, limit: VALUE_MAX, dice: None };
        let encoded: Encoded = codec::encode(shape, &sparse, options).map_err(failed)?;
        Entries::new(path, layout.clone(), values, encoded)
    }
}

/// Reads the adapter that `change` is of.
///
/// # Errors
/// [`WireError::Adapter`] where it has other tensors, or in another order.
pub fn adapter(path: &Path, change: &Change) -> Result<Vec<f32>, WireError> {
    let (layout, theta) = deltas::load(path)?;
    match layout == change.layout {
        true => Ok(theta),
        false => Err(WireError::Adapter { path: path.into() }),
    }
}

/// A selection looks at a manifest's layout and its head's density; the rest is never read.
fn manifest(layout: &Layout) -> Manifest {
    Manifest {
        version: MANIFEST_VERSION,
        name: "wire".into(),
        seed: 0,
        rounds: 1,
        base: Base { name: "none".into(), digest: Digest::of(b"") },
        lora: Lora::new(1, 1.0, Vec::new()),
        layout: layout.clone(),
        head: None,
        method: Method::sparse(Density::FULL, Density::FULL),
        training: Training {
            steps: 1,
            batch: 1,
            context: 1,
            optimizer: LocalOptimizer::Sgd { lr: 1.0, momentum: 0.0 },
            clip: None,
            proximal: 0.0,
        },
        cohort: Cohort {
            goal: 1,
            ask: 1,
            min: 1,
            enrolled_min: 0,
            deadline_s: 1,
            selection: Selection::FirstCome,
            retry_s: 1.0,
            buffered: None,
            participation: None,
        },
        optimizer: ServerOptimizer::Sgd { lr: 1.0, momentum: 0.0 },
        stop: None,
        evaluation: None,
        start: None,
    }
}

/// A word of the manifest: a ranking, values, a coding.
///
/// # Errors
/// [`WireError::Word`] with the words there are.
pub fn word<T: DeserializeOwned>(text: &str) -> Result<T, WireError> {
    let word = serde_json::Value::String(text.into());
    serde_json::from_value(word).map_err(|error| WireError::Word(error.to_string()))
}

/// `global`, `tensor` or `floor=SHARE`.
///
/// # Errors
/// [`WireError::Word`] for anything else.
pub fn scope(text: &str) -> Result<Scope, WireError> {
    let floor = text.strip_prefix("floor=").and_then(|share| share.parse().ok());
    match (text, floor) {
        ("global", _) => Ok(Scope::Global),
        ("tensor", _) => Ok(Scope::Tensor),
        (_, Some(share)) if 0.0 < share && share < 1.0 => Ok(Scope::Floor(share)),
        _ => {
            Err(WireError::Word("expected global, tensor, or floor= and a share in (0, 1)".into()))
        }
    }
}

/// `0.0625` or `1/16`.
///
/// # Errors
/// [`WireError::Word`] for what is no share in `(0, 1]`.
pub fn density(text: &str) -> Result<Density, WireError> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let share = match text.split_once('/') {
        Some((above, below)) => number(above).zip(number(below)).map(|(a, b)| a / b),
        None => number(text),
    };
    share
        .and_then(|share| Density::try_from(share).ok())
        .ok_or_else(|| WireError::Word("expected a share in (0, 1], as 0.0625 or 1/16".into()))
}
