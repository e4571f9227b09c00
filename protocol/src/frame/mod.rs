//! `GSMR` frames: what an update or a snapshot travels and is stored in.
//!
//! Version 2 is what new runs speak:
//!
//! ```text
//! magic "GSMR" | version u16 = 2 | kind u8 | coding u8 | k u32 | body length u32
//! update only: examples u32 | loss f32
//! body | SHA-256 [32] over what the frame is for, and everything before it
//! ```
//!
//! What it is for (run, round, client, snapshot) is known to both ends from the address and is hashed,
//! not sent: a frame that turns up anywhere else does not match its own trailer.
//! [`v1`] says all of that in each frame. `docs/wire.md` has both to the bit.
//!
//! Every claimed count is checked against the manifest and the bytes that arrived before anything is
//! reserved.

use crate::codec::CodecError;
use crate::digest::Digest;
use crate::ids::{Attempt, ClientId, RoundId, RunId};
use crate::manifest::{Manifest, Reference, Values};
use crate::sparse::{Sparse, Support};

mod terms;
pub mod v1;
mod v2;

pub use terms::Terms;
pub use v2::{Reader, SNAPSHOT_OVERHEAD, UPDATE_OVERHEAD, seal};

/// The newest frame version.
pub const FRAME_VERSION: u16 = 2;
/// Largest magnitude a snapshot's weight may have.
pub const WEIGHT_MAX: f32 = 128.0;

const MAGIC: [u8; 4] = *b"GSMR";
const TRAILER: usize = 32;

/// What an update is for, and from whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundId,
    /// The attempt at that round it was made for. It counts in later ones as well, so version 2 frames
    /// do not say it.
    pub attempt: Attempt,
    /// Who made it.
    pub client: ClientId,
    /// Digest of the snapshot frame it was trained from.
    pub snapshot: Digest,
}

/// A client's contribution to one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// What it is for.
    pub origin: Origin,
    /// Sequences it was trained on.
    pub examples: u32,
    /// Mean training loss, nats a token.
    pub loss: f32,
    /// Local minus received, on the entries that travel.
    pub delta: Sparse,
}

/// What an update's frame says before its entries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateHead {
    /// Sequences it was trained on.
    pub examples: u32,
    /// Mean training loss, nats a token.
    pub loss: f32,
    /// Entries it claims to carry.
    pub entries: usize,
}

/// What clients of one round start from.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The run it belongs to.
    pub run: RunId,
    /// The round that starts from it.
    pub round: RoundId,
    /// What its values are.
    pub reference: Reference,
    /// The entries that travel.
    pub values: Sparse,
}

/// Bytes that are no frame of this run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Fewer bytes than the header and trailer take, or than the header announces.
    #[error("frame of {got} bytes is truncated: at least {expected} are needed")]
    Truncated {
        /// Bytes found.
        got: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// More bytes than any frame of this run can have.
    #[error("frame of {got} bytes is over this run's limit of {limit}")]
    Oversized {
        /// Bytes found.
        got: usize,
        /// Most bytes allowed.
        limit: usize,
    },
    /// Bytes behind the trailer.
    #[error("frame of {got} bytes, its header announces {expected}")]
    Trailing {
        /// Bytes found.
        got: usize,
        /// Bytes announced.
        expected: usize,
    },
    /// The first four bytes are others.
    #[error("not a Gossamer frame: it starts with other bytes than GSMR (GSMD for a difference)")]
    Magic,
    /// Another version than the run's manifest has.
    #[error("frame version {got}, this run speaks {expected}")]
    Version {
        /// The version found.
        got: u16,
        /// The version expected.
        expected: u16,
    },
    /// A code byte that stands for nothing, or for something the manifest does not allow.
    #[error("frame field {field} is {got}, which this run does not allow")]
    Code {
        /// The field.
        field: &'static str,
        /// Its byte.
        got: u8,
    },
    /// The trailer is not the digest of what precedes it.
    #[error(
        "frame digest does not match: damaged, or made for another run, round, client or snapshot"
    )]
    Digest,
    /// A version 1 frame that says it is for something else.
    #[error("the frame's {field} is {got}, expected {expected}")]
    Address {
        /// Which field.
        field: &'static str,
        /// What the frame says.
        got: String,
        /// What was expected.
        expected: String,
    },
    /// A parameter count that is not the layout's.
    #[error("frame is for {got} parameters, the layout has {expected}")]
    Layout {
        /// Parameters claimed.
        got: u32,
        /// Parameters of the layout.
        expected: usize,
    },
    /// More entries than the density allows.
    #[error("frame carries {got} entries, the manifest allows {allowed}")]
    Density {
        /// Entries claimed.
        got: u32,
        /// Entries allowed.
        allowed: usize,
    },
    /// A training loss that is not finite, or no examples.
    #[error("update metadata is out of range: {0}")]
    Metadata(&'static str),
    /// The entries themselves.
    #[error("frame entries")]
    Entries(#[from] CodecError),
    /// The entries of a version 1 frame.
    #[error("frame entries")]
    EntriesV1(#[from] v1::CodecError),
}

impl Update {
    /// This update's frame.
    ///
    /// `shared` is the support of the round's snapshot, where [`Terms::needs_support`].
    ///
    /// # Errors
    /// [`FrameError::Entries`] for an entry that may not travel.
    pub fn encode(
        &self,
        terms: &Terms<'_>,
        shared: Option<&Support>,
    ) -> Result<Vec<u8>, FrameError> {
        match terms.version() {
            1 => v1::encode_update(self, terms),
            _ => v2::encode_update(self, terms, shared),
        }
    }

    /// As [`encode`](Self::encode), with other values than the manifest's: what a byte budget leaves to
    /// the encoder.
    ///
    /// # Errors
    /// [`FrameError::Entries`] for an entry that may not travel.
    pub fn encode_as(
        &self,
        terms: &Terms<'_>,
        shared: Option<&Support>,
        values: Values,
    ) -> Result<Vec<u8>, FrameError> {
        let rounding = terms.manifest.method.upload.rounding;
        v2::encode_update_as(self, terms, shared, values, rounding)
    }

    /// Reads the update of `origin`. `shared` is the support of the round's snapshot, where
    /// [`Terms::needs_support`].
    ///
    /// # Errors
    /// [`FrameError`] at the first thing that is off.
    pub fn decode(
        bytes: &[u8],
        terms: &Terms<'_>,
        origin: &Origin,
        shared: Option<&Support>,
    ) -> Result<Self, FrameError> {
        match terms.version() {
            1 => v1::decode_update(bytes, terms, origin, shared),
            _ => v2::decode_update(bytes, terms, origin, shared),
        }
    }

    /// As [`decode`](Self::decode), but keeps nothing: memory does not grow with the entries.
    ///
    /// # Errors
    /// [`FrameError`] at the first thing that is off.
    pub fn check(
        bytes: &[u8],
        terms: &Terms<'_>,
        origin: &Origin,
        shared: Option<&Support>,
    ) -> Result<UpdateHead, FrameError> {
        match terms.version() {
            1 => {
                v1::decode_update(bytes, terms, origin, shared)?;
                v1::peek(bytes, terms, origin)
            }
            _ => v2::visit_update(bytes, terms, origin, shared, &mut |_, _| ()),
        }
    }

    /// Checks the frame and reads what stands before its entries, which stay coded.
    ///
    /// # Errors
    /// [`FrameError`] at the first thing that is off.
    pub fn peek(
        bytes: &[u8],
        terms: &Terms<'_>,
        origin: &Origin,
    ) -> Result<UpdateHead, FrameError> {
        match terms.version() {
            1 => v1::peek(bytes, terms, origin),
            _ => v2::peek(bytes, terms, origin),
        }
    }
}

impl Snapshot {
    /// This snapshot's frame.
    ///
    /// # Errors
    /// [`FrameError::Entries`] for a value that may not travel.
    pub fn encode(&self, terms: &Terms<'_>) -> Result<Vec<u8>, FrameError> {
        match terms.version() {
            1 => v1::encode_snapshot(self, terms),
            _ => v2::encode_snapshot(self, terms),
        }
    }

    /// Reads the snapshot of `terms`' round.
    ///
    /// # Errors
    /// [`FrameError`] at the first thing that is off.
    pub fn decode(bytes: &[u8], terms: &Terms<'_>) -> Result<Self, FrameError> {
        match terms.version() {
            1 => v1::decode_snapshot(bytes, terms),
            _ => v2::decode_snapshot(bytes, terms),
        }
    }

    /// Codes `frame`, of a snapshot of `terms`' round, for a client that holds this earlier one. It takes
    /// fewer bytes, the more of the earlier one still stands.
    ///
    /// `None` in version 1, and where `frame` is not what an encoder writes: nobody could make it again.
    ///
    /// # Errors
    /// [`FrameError`] where `frame` is no snapshot of that round.
    pub fn difference(
        &self,
        frame: &[u8],
        terms: &Terms<'_>,
    ) -> Result<Option<Vec<u8>>, FrameError> {
        match terms.version() {
            1 => Ok(None),
            _ => v2::encode_difference(frame, terms, &self.held()),
        }
    }

    /// The frame that [`difference`](Self::difference) was given. It is what a signed record names only
    /// if its digest says so: a difference has no trailer of its own.
    ///
    /// # Errors
    /// [`FrameError`] where `bytes` are no difference to this snapshot.
    pub fn later(&self, bytes: &[u8], terms: &Terms<'_>) -> Result<Vec<u8>, FrameError> {
        match terms.version() {
            1 => Err(FrameError::Version { got: 1, expected: FRAME_VERSION }),
            _ => v2::decode_difference(bytes, terms, &self.held()),
        }
    }

    /// Its values on all coordinates, shape `[n]`; zero where none was sent.
    fn held(&self) -> Vec<f32> {
        let mut held = vec![0.0; self.values.n()];
        self.values.add_to(&mut held);
        held
    }

    /// The flat adapter a client starts from, shape `[n]`: the values, on the seeded start where
    /// they are changes from it.
    #[must_use]
    pub fn theta(&self, manifest: &Manifest) -> Vec<f32> {
        let mut theta = match self.reference {
            Reference::Change => manifest.layout.init(manifest.seed),
            Reference::Weights => vec![0.0; self.values.n()],
        };
        self.values.add_to(&mut theta);
        theta
    }
}

/// Reads on from a slice that was checked to be long enough.
struct At<'a>(&'a [u8]);

impl At<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_first_chunk().expect("the header's length was checked");
        self.0 = rest;
        *head
    }

    fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }
}

fn limit_entries(got: u32, allowed: usize) -> Result<(), FrameError> {
    if got as usize <= allowed { Ok(()) } else { Err(FrameError::Density { got, allowed }) }
}

fn check_metadata(examples: u32, loss: f32) -> Result<(), FrameError> {
    if !loss.is_finite() {
        return Err(FrameError::Metadata("loss is not finite"));
    }
    if examples == 0 {
        return Err(FrameError::Metadata("no examples"));
    }
    Ok(())
}
