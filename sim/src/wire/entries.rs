//! A file of coded entries that stands alone.
//!
//! ```text
//! one line of JSON, starting {"gossamer":1, | "\n" | the body, to the end of the file
//! ```
//!
//! A body alone cannot be read: layout, values, the body's kind and the number of entries are its
//! frame's and its manifest's to say. Here the line says them: `layout` as in a manifest; `values` as in
//! a manifest; `body`, one of `dense-packed`, `rice-packed`, `dense-modelled`, `map-modelled`; `k`;
//! `bits`, what the encoder spent on positions, values, scales and outliers, which no decoder can tell;
//! and `sha256` of the body. Every coordinate of the layout may travel.

use std::path::Path;

use gossamer_protocol::codec::{Body, Encoded, Parts, Shape, decode_sparse};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::fold::VALUE_MAX;
use gossamer_protocol::layout::Layout;
use gossamer_protocol::manifest::Values;
use gossamer_protocol::sparse::{Sparse, Support};
use serde::{Deserialize, Serialize};

use super::WireError;

/// How such a file starts.
pub(super) const START: &[u8] = b"{\"gossamer\":";
const VERSION: u32 = 1;

/// Entries of a change: coded, and as they are decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Entries {
    /// The tensors.
    pub layout: Layout,
    /// How values are coded.
    pub values: Values,
    /// The body.
    pub encoded: Encoded,
    /// What a receiver reads from it.
    pub decoded: Sparse,
}

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    /// The version. Stands first: a file is told by it.
    gossamer: u32,
    layout: Layout,
    values: Values,
    body: BodyName,
    k: u32,
    bits: Bits,
    sha256: Digest,
}

/// What bits were spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bits {
    /// Which coordinates.
    pub positions: u64,
    /// Signs and magnitudes.
    pub values: u64,
    /// Lengths, floors and scales of blocks.
    pub scales: u64,
    /// What lies beyond `fp4`'s largest level.
    pub outliers: u64,
}

/// A body by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BodyName {
    /// Body 0.
    DensePacked,
    /// Body 1.
    RicePacked,
    /// Body 2.
    DenseModelled,
    /// Body 3.
    MapModelled,
}

impl From<Body> for BodyName {
    fn from(body: Body) -> Self {
        match body {
            Body::DensePacked => Self::DensePacked,
            Body::RicePacked => Self::RicePacked,
            Body::DenseModelled => Self::DenseModelled,
            Body::MapModelled => Self::MapModelled,
        }
    }
}

impl From<BodyName> for Body {
    fn from(name: BodyName) -> Self {
        match name {
            BodyName::DensePacked => Self::DensePacked,
            BodyName::RicePacked => Self::RicePacked,
            BodyName::DenseModelled => Self::DenseModelled,
            BodyName::MapModelled => Self::MapModelled,
        }
    }
}

impl From<Parts> for Bits {
    fn from(Parts { positions, values, scales, outliers }: Parts) -> Self {
        Self { positions, values, scales, outliers }
    }
}

impl From<Bits> for Parts {
    fn from(Bits { positions, values, scales, outliers }: Bits) -> Self {
        Self { positions, values, scales, outliers }
    }
}

impl Entries {
    /// Decodes `encoded`, whose bytes are from `path`.
    ///
    /// # Errors
    /// [`WireError::Entries`] at the first thing that is off.
    pub(super) fn new(
        path: &Path,
        layout: Layout,
        values: Values,
        encoded: Encoded,
    ) -> Result<Self, WireError> {
        let shape = Shape { layout: &layout, domain: &Support::All };
        let (body, k) = (encoded.body, encoded.k as usize);
        let decoded = decode_sparse(shape, body, values, k, &encoded.bytes, VALUE_MAX)
            .map_err(|source| WireError::Entries { path: path.into(), source })?;
        Ok(Self { layout, values, encoded, decoded })
    }

    /// The file's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Encoded { body, k, bytes, parts } = &self.encoded;
        let head = Head {
            gossamer: VERSION,
            layout: self.layout.clone(),
            values: self.values,
            body: (*body).into(),
            k: *k,
            bits: (*parts).into(),
            sha256: Digest::of(bytes),
        };
        let line = serde_json::to_string(&head).expect("plain fields have a text");
        [line.as_bytes(), b"\n", bytes].concat()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`WireError::File`] where it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), WireError> {
        std::fs::write(path, self.to_bytes())
            .map_err(|source| WireError::File { path: path.into(), source })
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`WireError`] at the first thing that is off; it names the file.
    pub fn load(path: &Path) -> Result<Self, WireError> {
        let bytes =
            std::fs::read(path).map_err(|source| WireError::File { path: path.into(), source })?;
        Self::parse(path, &bytes)
    }

    /// Reads `bytes`, which are from `path`.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, WireError> {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let Some(end) = end.filter(|_| bytes.starts_with(START)) else {
            return Err(WireError::Foreign { path: path.into() });
        };
        let head: Head = serde_json::from_slice(&bytes[..end])
            .map_err(|source| WireError::Head { path: path.into(), source })?;
        let body = &bytes[end + 1..];
        let says = |what, got: String, expected: String| match got == expected {
            true => Ok(()),
            false => Err(WireError::Contradiction { path: path.into(), what, got, expected }),
        };
        says("gossamer", head.gossamer.to_string(), VERSION.to_string())?;
        says("sha256", head.sha256.to_string(), Digest::of(body).to_string())?;
        let Bits { positions, values, scales, outliers } = head.bits;
        let spent = [positions, values, scales, outliers]
            .into_iter()
            .fold(0_u64, |sum, bits| sum.saturating_add(bits));
        // The parts are rounded, and the last bytes stand for less than they could.
        if spent.div_ceil(8).abs_diff(body.len() as u64) > 4 {
            says("bits", spent.to_string(), format!("near {}", 8 * body.len()))?;
        }
        let encoded = Encoded {
            body: head.body.into(),
            k: head.k,
            bytes: body.to_vec(),
            parts: head.bits.into(),
        };
        Self::new(path, head.layout, head.values, encoded)
    }

    /// The dense change, shape `[n]`: zero where nothing was sent.
    #[must_use]
    pub fn dense(&self) -> Vec<f32> {
        let mut dense = vec![0.0; self.layout.n()];
        self.decoded.add_to(&mut dense);
        dense
    }
}
