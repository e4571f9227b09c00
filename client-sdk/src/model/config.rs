//! What the families' `config.json` files share: which family one is for, sizes, tokens.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ModelError;

/// No known model has a size that comes near; with [`LAYERS_MAX`] the sum of all weights stays
/// below 2^54.
pub(super) const MOST: usize = 1 << 20;
const LAYERS_MAX: usize = 1 << 10;

/// One token or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMore {
    One(u32),
    More(Vec<u32>),
}

impl OneOrMore {
    pub(super) fn list(tokens: Option<Self>) -> Vec<u32> {
        match tokens {
            None => Vec::new(),
            Some(Self::One(id)) => vec![id],
            Some(Self::More(ids)) => ids,
        }
    }
}

/// The architecture that the file names; alone at first, since another family's file lacks the other
/// fields.
pub(super) fn architecture(bytes: &[u8]) -> Result<String, ModelError> {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(default)]
        architectures: Vec<String>,
    }
    Ok(parse::<Kind>(bytes)?.architectures.join(", "))
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ModelError> {
    serde_json::from_slice(bytes).map_err(|e| ModelError::Config(e.to_string()))
}

pub(super) fn unsupported(field: &'static str, got: String, expected: &'static str) -> ModelError {
    ModelError::Unsupported { field, got, expected }
}

/// Whether each of `sizes` is one that a model has; `layers` is the number of layers, by its name.
pub(super) fn check_sizes(
    layers: (&'static str, usize),
    sizes: &[(&'static str, usize)],
) -> Result<(), ModelError> {
    for &(field, got) in [layers].iter().chain(sizes) {
        if !(1..=MOST).contains(&got) {
            return Err(ModelError::Size { field, got, why: "1 to 1,048,576" });
        }
    }
    let (field, got) = layers;
    if got > LAYERS_MAX {
        return Err(ModelError::Size { field, got, why: "at most 1,024" });
    }
    Ok(())
}

/// An epsilon, a base, a factor: a number above 0.
pub(super) fn check_positive(field: &'static str, got: f64) -> Result<(), ModelError> {
    match got.is_finite() && got > 0.0 {
        true => Ok(()),
        false => Err(ModelError::Config(format!("{field} is {got}, expected: above 0"))),
    }
}
