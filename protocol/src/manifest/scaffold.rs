//! SCAFFOLD: control variates against the drift of clients. Source: arXiv:1910.06378.
//!
//! ```text
//! client: y <- y - lr (g(y) - c_k + c), K steps;  dc_k = (x - y) / (K lr) - c;  c_k <- c_k + dc_k
//! server: x <- the optimiser's step by mean(y - x);  c <- c + |S| / N mean(dc_k)
//! ```
//!
//! (option II). The server's `c` is in the layout, a tensor beside each that is trained, so that it travels
//! as they do, in both directions; a client keeps its `c_k`.

use serde::{Deserialize, Serialize};

use super::{Coverage, LocalOptimizer, Manifest, ManifestError};
use crate::layout::{Layout, Part, TensorSpec};

/// SCAFFOLD's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaffold {
    /// All clients there are, `N`.
    pub clients: u32,
}

impl Scaffold {
    pub(super) fn check(
        manifest: &Manifest,
        field: impl Fn(bool, &'static str, &'static str) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let tensors: Vec<TensorSpec> = manifest.layout.clone().into();
        let is_control = |tensor: &TensorSpec| tensor.part == Part::Control;
        let Some(Self { clients }) = manifest.method.scaffold else {
            let none = !tensors.iter().any(is_control);
            return field(none, "layout", "no control variate without method.scaffold");
        };
        let trained = tensors.into_iter().filter(|tensor| !is_control(tensor)).collect();
        let laid = Layout::new(trained).and_then(Layout::with_controls);
        field(
            laid.as_ref() == Ok(&manifest.layout),
            "layout",
            "a control variate for each tensor",
        )?;
        let enough = clients >= manifest.cohort.ask;
        field(enough, "method.scaffold.clients", "at least cohort.ask")?;
        let (method, training) = (&manifest.method, &manifest.training);
        let plain = matches!(training.optimizer, LocalOptimizer::Sgd { momentum: 0.0, .. });
        let plain = plain && training.clip.is_none();
        field(plain, "training", "sgd without momentum or clip under method.scaffold")?;
        let (down, up) = (&method.download, &method.upload);
        let whole = down.density.is_full() && up.density.is_full() && up.bytes_max.is_none();
        let whole = whole && down.stages.is_empty() && up.stages.is_empty();
        let all = up.select == Default::default() && up.feedback.is_none();
        let dense = method.train == Coverage::Dense && method.tiers.is_empty();
        let each = method.alternate.is_none() && !method.combine.is_of_products();
        let why = "absent where not all is trained, sent and averaged";
        field(whole && all && dense && each, "method.scaffold", why)
    }
}
