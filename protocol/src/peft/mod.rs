//! Adapters as PEFT keeps them: the three files of a folder, out and in. The server, the SDK and their
//! command lines all write and read through here, so equal adapters are equal bytes.
//!
//! - `adapter_config.json` ([`config`]): PEFT's `LoraConfig`.
//! - `adapter_model.safetensors` ([`weights`]): the tensors, under PEFT's names.
//! - `gossamer.json` ([`Origin`]): which run on which base made it. PEFT does not read it; where it is
//!   there, an adapter for another base is refused by digest, and otherwise by names and shapes.
//!
//! A setting whose adapter would compute something else than `W x + scale * B A x` is refused by its name.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::layout::{BaseLinear, Layout, LayoutError};
use crate::manifest::{Base, Head, Lora, Manifest};
use crate::modules::BadPattern;

pub mod config;
pub mod weights;

/// PEFT's name of the settings' file.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// PEFT's name of the tensors' file.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// Our name of the file that says where the adapter is from.
pub const ORIGIN_FILE: &str = "gossamer.json";

/// The bytes of a folder's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// `adapter_config.json`.
    pub config: Vec<u8>,
    /// `adapter_model.safetensors`.
    pub weights: Vec<u8>,
    /// `gossamer.json`, where there is one.
    pub origin: Option<Vec<u8>>,
}

/// Where an adapter is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The run's name.
    pub run: String,
    /// The model underneath.
    pub base: Base,
}

/// What is known of the base model that an adapter is to fit.
#[derive(Clone, Copy, Debug)]
pub struct Shapes<'a> {
    /// Its digest.
    pub digest: Digest,
    /// What LoRA may adapt, in the model's order.
    pub linears: &'a [BaseLinear],
    /// Width of the features that a head takes.
    pub hidden: usize,
}

/// An adapter without a run around it.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// What its configuration calls the base model.
    pub base: String,
    /// Its settings.
    pub lora: Lora,
    /// Its tensors, in the base model's order.
    pub layout: Layout,
    /// Its task head.
    pub head: Option<Head>,
    /// Its values, shape `[n]`.
    pub theta: Vec<f32>,
}

/// Why an adapter can be neither written nor read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PeftError {
    /// Not the JSON of a LoRA configuration.
    #[error("{CONFIG_FILE}: {0}")]
    Config(String),
    /// A setting that this build does not compute.
    #[error("{CONFIG_FILE}: {field} is {found}, expected {expected}")]
    Setting {
        /// Its name.
        field: String,
        /// Its value, as JSON.
        found: String,
        /// What is computed.
        expected: &'static str,
    },
    /// A pattern that cannot be matched.
    #[error(transparent)]
    Pattern(#[from] BadPattern),
    /// Targets that mean nothing in the base model.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Not a whole safetensors file.
    #[error("{WEIGHTS_FILE}: {0}")]
    Weights(String),
    /// A tensor that is not there.
    #[error("{WEIGHTS_FILE} has no tensor {0}, which its settings and the base model ask for")]
    Missing(String),
    /// A tensor too many.
    #[error("{WEIGHTS_FILE} has tensor {0}, which its settings and the base model do not know")]
    Unknown(String),
    /// A tensor of another shape.
    #[error(
        "tensor {name} has shape {found:?}, the settings and the base model make it {expected:?}"
    )]
    Shape {
        /// The tensor.
        name: String,
        /// By settings and base model.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// A tensor of a type that is not read.
    #[error("tensor {name} is {found}, expected F32, F16 or BF16")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// A tensor with a NaN or an infinity.
    #[error("tensor {0} has an entry that is not finite")]
    NonFinite(String),
    /// Not the JSON of an origin.
    #[error("{ORIGIN_FILE}: {0}")]
    Origin(String),
    /// Made on another base model.
    #[error("the adapter was made on base model {expected} ({name}), this one is {found}")]
    Base {
        /// What its maker called the model.
        name: String,
        /// The model it was made on.
        expected: Digest,
        /// The model at hand.
        found: Digest,
    },
    /// A vector of another length than the layout's.
    #[error("the adapter has {found} values, its layout {expected}")]
    Length {
        /// By the layout.
        expected: usize,
        /// Given.
        found: usize,
    },
    /// FFA-LoRA without the base model's shapes.
    #[error("A is frozen and not in the layout, and the base model's linears are not known")]
    NoShapes,
    /// FFA-LoRA with shapes that lack a module.
    #[error("A is frozen and not in the layout, and the base model's linears known have no {0}")]
    NoModule(String),
    /// A change of a whole weight, for which an adapter's files have no place.
    #[error("tensor {0} is a change of a whole weight; an adapter has factors alone")]
    Whole(String),
}

impl Files {
    /// Each file's name and bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let origin = self.origin.as_deref().map(|bytes| (ORIGIN_FILE, bytes));
        [(CONFIG_FILE, &*self.config), (WEIGHTS_FILE, &*self.weights)].into_iter().chain(origin)
    }

    /// The adapter `theta`, shape `[n]`, of the run or training that `manifest` describes.
    ///
    /// `linears`: the base model's, needed where A is frozen and so not in the layout.
    ///
    /// # Errors
    /// [`PeftError::Length`], [`PeftError::NoShapes`] or [`PeftError::NoModule`].
    pub fn export(
        manifest: &Manifest,
        linears: Option<&[BaseLinear]>,
        theta: &[f32],
    ) -> Result<Self, PeftError> {
        let origin = Origin { run: manifest.name.clone(), base: manifest.base.clone() };
        let origin = serde_json::to_vec_pretty(&origin);
        Ok(Self {
            config: config::write(manifest)?,
            weights: weights::write(manifest, linears, theta)?,
            origin: Some(origin.map_err(|e| PeftError::Origin(e.to_string()))?),
        })
    }

    /// The adapter in these files, for the base model of `shapes`.
    ///
    /// # Errors
    /// [`PeftError`] at the first thing that is off, among them [`PeftError::Base`] and, where there is no
    /// origin, names and shapes that the base model does not have.
    pub fn import(&self, shapes: &Shapes<'_>) -> Result<Adapter, PeftError> {
        if let Some(origin) = &self.origin {
            let origin: Origin =
                serde_json::from_slice(origin).map_err(|e| PeftError::Origin(e.to_string()))?;
            let Base { name, digest: expected } = origin.base;
            if expected != shapes.digest {
                return Err(PeftError::Base { name, expected, found: shapes.digest });
            }
        }
        let config::Settings { base, lora, may_have_head } = config::read(&self.config, shapes)?;
        let hidden = may_have_head.then_some(shapes.hidden);
        let (layout, head, theta) =
            weights::read(&self.weights, lora.layout(shapes.linears)?, hidden)?;
        Ok(Adapter { base, lora, layout, head, theta })
    }
}
