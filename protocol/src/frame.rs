//! `GSMR` version 1: the frame an update or a snapshot travels and is stored in.
//!
//! Little-endian, fixed header, self-delimiting:
//!
//! ```text
//! magic "GSMR" | version u16 = 1 | kind u8 | positions u8 | values u8 | reserved u8 = 0
//! run [16] | round u64 | n u32 | k u32 | position_len u32
//! update only:   attempt u32 | client [16] | snapshot [32] | examples u32 | loss f32
//! snapshot only: reference u8
//! position bytes | value bytes | SHA-256 of everything before it [32]
//! ```
//!
//! `docs/wire.md` has it to the bit. Every claimed count is checked against the manifest and the
//! bytes that arrived before anything is reserved.

use crate::codec::{self, CodecError, Coded, Positions};
use crate::digest::Digest;
use crate::fold::VALUE_MAX;
use crate::ids::{Attempt, ClientId, RoundId, RunId};
use crate::manifest::{Coverage, Manifest, Reference, SupportRule, Values};
use crate::sparse::{Sparse, Support};

/// The frame's version.
pub const FRAME_VERSION: u16 = 1;
/// Largest magnitude a snapshot's weight may have.
pub const WEIGHT_MAX: f32 = 128.0;

const MAGIC: [u8; 4] = *b"GSMR";
const HEADER: usize = 46;
const UPDATE_HEADER: usize = 60;
const SNAPSHOT_HEADER: usize = 1;
const TRAILER: usize = 32;

/// A client's contribution to one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The run it is for.
    pub run: RunId,
    /// The round it is for.
    pub round: RoundId,
    /// The attempt at that round.
    pub attempt: Attempt,
    /// Who made it.
    pub client: ClientId,
    /// Digest of the snapshot frame it was trained from.
    pub snapshot: Digest,
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
    /// The run it is for.
    pub run: RunId,
    /// The round it is for.
    pub round: RoundId,
    /// The attempt at that round.
    pub attempt: Attempt,
    /// Who made it.
    pub client: ClientId,
    /// Digest of the snapshot frame it was trained from.
    pub snapshot: Digest,
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
    /// Fewer bytes than the header and trailer take.
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
    /// The first four bytes are others.
    #[error("not a Gossamer frame: it does not start with GSMR")]
    Magic,
    /// Another version.
    #[error("frame version {got}, this build knows {FRAME_VERSION}")]
    Version {
        /// The version found.
        got: u16,
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
    #[error("frame digest does not match its bytes")]
    Digest,
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
}

/// What a round lets travel, from the manifest.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    manifest: &'a Manifest,
    round: RoundId,
}

impl<'a> Terms<'a> {
    /// The terms of `round`.
    #[must_use]
    pub fn new(manifest: &'a Manifest, round: RoundId) -> Self {
        Self { manifest, round }
    }

    /// Whether the round travels whole, both ways: the first, before a support can be chosen.
    #[must_use]
    pub fn is_dense_round(&self) -> bool {
        self.manifest.method.support != SupportRule::EachRound && self.round == RoundId(0)
    }

    /// Whether clients train, and send, just the download's support.
    #[must_use]
    pub fn shares_support(&self) -> bool {
        self.manifest.method.train == Coverage::Support && !self.is_dense_round()
    }

    /// Entries a snapshot may have.
    #[must_use]
    pub fn download_entries(&self) -> usize {
        let n = self.manifest.layout.n();
        if self.is_dense_round() { n } else { self.manifest.method.download.density.count(n) }
    }

    /// Entries an update may have.
    #[must_use]
    pub fn upload_entries(&self) -> usize {
        let n = self.manifest.layout.n();
        if self.is_dense_round() {
            n
        } else if self.shares_support() {
            self.download_entries()
        } else {
            self.manifest.method.upload.density.count(n)
        }
    }

    /// Most bytes an update's frame may have: a bitmap never loses to another code.
    #[must_use]
    pub fn update_len_max(&self) -> usize {
        let values = codec::values::len(self.manifest.method.upload.values, self.upload_entries());
        // At most 2^28 parameters of 4 bytes, which fits.
        HEADER + UPDATE_HEADER + TRAILER + self.manifest.layout.n().div_ceil(8) + values as usize
    }

    /// Most bytes a snapshot's frame may have.
    #[must_use]
    pub fn snapshot_len_max(&self) -> usize {
        let values =
            codec::values::len(self.manifest.method.download.values, self.download_entries());
        HEADER + SNAPSHOT_HEADER + TRAILER + self.manifest.layout.n().div_ceil(8) + values as usize
    }
}

impl Update {
    /// This update's frame.
    ///
    /// # Errors
    /// [`FrameError::Entries`] for a value that may not travel.
    pub fn encode(&self, terms: &Terms<'_>) -> Result<Vec<u8>, FrameError> {
        let values = terms.manifest.method.upload.values;
        let coded = codec::encode(&self.delta, values, terms.shares_support(), VALUE_MAX)?;
        let head = Head { kind: Kind::Update, run: self.run, round: self.round, n: self.delta.n() };
        let mut out = head.write(&coded, values);
        out.extend(self.attempt.0.to_le_bytes());
        out.extend(self.client.0);
        out.extend(self.snapshot.0);
        out.extend(self.examples.to_le_bytes());
        out.extend(self.loss.to_le_bytes());
        Ok(finish(out, &coded))
    }

    /// Reads an update of `terms`' round. `shared` is that round's support, where clients share one.
    ///
    /// # Errors
    /// [`FrameError`] at the first thing that is off.
    pub fn decode(
        bytes: &[u8],
        terms: &Terms<'_>,
        shared: Option<&Support>,
    ) -> Result<Self, FrameError> {
        let method = &terms.manifest.method;
        let (head, body) = read_update(bytes, terms)?;
        let wants_shared = terms.shares_support() && shared.is_some_and(|s| *s != Support::All);
        if wants_shared != (body.positions == Positions::Shared) {
            let got = position_code(body.positions);
            return Err(FrameError::Code { field: "positions", got });
        }
        allow("values", value_code(body.values), value_code(method.upload.values))?;
        limit_entries(body.k, terms.upload_entries())?;
        let delta = codec::decode(terms.manifest.layout.n(), &body, shared, VALUE_MAX)?;
        let UpdateHead { run, round, attempt, client, snapshot, examples, loss, .. } = head;
        Ok(Self { run, round, attempt, client, snapshot, examples, loss, delta })
    }

    /// Checks the frame and reads what stands before its entries, which stay coded.
    ///
    /// # Errors
    /// [`FrameError`] at the first thing that is off.
    pub fn peek(bytes: &[u8], terms: &Terms<'_>) -> Result<UpdateHead, FrameError> {
        read_update(bytes, terms).map(|(head, _)| head)
    }
}

fn read_update<'b>(
    bytes: &'b [u8],
    terms: &Terms<'_>,
) -> Result<(UpdateHead, Coded<'b>), FrameError> {
    let (mut at, head, body) = Head::read(bytes, Kind::Update, terms, terms.update_len_max())?;
    let Head { run, round, .. } = head;
    let head = UpdateHead {
        run,
        round,
        attempt: Attempt(at.u32()),
        client: ClientId(at.array()),
        snapshot: Digest(at.array()),
        examples: at.u32(),
        loss: f32::from_bits(at.u32()),
        entries: body.k as usize,
    };
    if !head.loss.is_finite() {
        return Err(FrameError::Metadata("loss is not finite"));
    }
    if head.examples == 0 {
        return Err(FrameError::Metadata("no examples"));
    }
    Ok((head, body))
}

impl Snapshot {
    /// This snapshot's frame.
    ///
    /// # Errors
    /// [`FrameError::Entries`] for a value that may not travel.
    pub fn encode(&self, terms: &Terms<'_>) -> Result<Vec<u8>, FrameError> {
        let values = terms.manifest.method.download.values;
        let coded = codec::encode(&self.values, values, false, WEIGHT_MAX)?;
        let head =
            Head { kind: Kind::Snapshot, run: self.run, round: self.round, n: self.values.n() };
        let mut out = head.write(&coded, values);
        out.push(reference_code(self.reference));
        Ok(finish(out, &coded))
    }

    /// Reads the snapshot of `terms`' round.
    ///
    /// # Errors
    /// [`FrameError`] at the first thing that is off.
    pub fn decode(bytes: &[u8], terms: &Terms<'_>) -> Result<Self, FrameError> {
        let method = &terms.manifest.method;
        let (mut at, head, body) =
            Head::read(bytes, Kind::Snapshot, terms, terms.snapshot_len_max())?;
        allow("reference", at.u8(), reference_code(method.download.of))?;
        allow("values", value_code(body.values), value_code(method.download.values))?;
        limit_entries(body.k, terms.download_entries())?;
        let values = codec::decode(terms.manifest.layout.n(), &body, None, WEIGHT_MAX)?;
        let Head { run, round, .. } = head;
        Ok(Self { run, round, reference: method.download.of, values })
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Snapshot,
    Update,
}

/// The header fields both kinds share.
struct Head {
    kind: Kind,
    run: RunId,
    round: RoundId,
    n: usize,
}

impl Head {
    fn write(&self, coded: &codec::Encoded, values: Values) -> Vec<u8> {
        let mut out = Vec::with_capacity(
            HEADER + UPDATE_HEADER + TRAILER + coded.position_bytes.len() + coded.value_bytes.len(),
        );
        out.extend(MAGIC);
        out.extend(FRAME_VERSION.to_le_bytes());
        out.push(kind_code(self.kind));
        out.push(position_code(coded.positions));
        out.push(value_code(values));
        out.push(0);
        out.extend(self.run.0);
        out.extend(self.round.0.to_le_bytes());
        // Both fit: a layout has at most 2^28 parameters.
        out.extend((self.n as u32).to_le_bytes());
        out.extend(coded.k.to_le_bytes());
        out.extend((coded.position_bytes.len() as u32).to_le_bytes());
        out
    }

    /// Checks everything but the kind's own fields; gives those, and the body, still coded.
    fn read<'b>(
        bytes: &'b [u8],
        kind: Kind,
        terms: &Terms<'_>,
        limit: usize,
    ) -> Result<(At<'b>, Self, Coded<'b>), FrameError> {
        let own = if kind == Kind::Update { UPDATE_HEADER } else { SNAPSHOT_HEADER };
        if bytes.len() > limit {
            return Err(FrameError::Oversized { got: bytes.len(), limit });
        }
        if bytes.len() >= 4 && bytes[..4] != MAGIC {
            return Err(FrameError::Magic);
        }
        let expected = HEADER + own + TRAILER;
        if bytes.len() < expected {
            return Err(FrameError::Truncated { got: bytes.len(), expected });
        }
        let (content, trailer) = bytes.split_at(bytes.len() - TRAILER);
        let mut at = At(&content[4..]);
        let version = u16::from_le_bytes(at.array());
        if version != FRAME_VERSION {
            return Err(FrameError::Version { got: version });
        }
        if Digest::of(content).0 != trailer {
            return Err(FrameError::Digest);
        }
        allow("kind", at.u8(), kind_code(kind))?;
        let positions = at.u8();
        let positions = [Positions::Dense, Positions::Bitmap, Positions::Rice, Positions::Shared]
            .into_iter()
            .find(|&p| position_code(p) == positions)
            .ok_or(FrameError::Code { field: "positions", got: positions })?;
        let values = at.u8();
        let values = [Values::F32, Values::Int8]
            .into_iter()
            .find(|&v| value_code(v) == values)
            .ok_or(FrameError::Code { field: "values", got: values })?;
        allow("reserved", at.u8(), 0)?;
        let run = RunId(at.array());
        let round = RoundId(u64::from_le_bytes(at.array()));
        let n = at.u32();
        let k = at.u32();
        let position_len = at.u32() as usize;
        let expected = terms.manifest.layout.n();
        if n as usize != expected {
            return Err(FrameError::Layout { got: n, expected });
        }
        let (own, body) = at.0.split_at(own);
        if position_len > body.len() {
            let expected = HEADER + own.len() + TRAILER + position_len;
            return Err(FrameError::Truncated { got: bytes.len(), expected });
        }
        let (position_bytes, value_bytes) = body.split_at(position_len);
        let coded = Coded { positions, values, k, position_bytes, value_bytes };
        Ok((At(own), Self { kind, run, round, n: expected }, coded))
    }
}

fn finish(mut out: Vec<u8>, coded: &codec::Encoded) -> Vec<u8> {
    out.extend(&coded.position_bytes);
    out.extend(&coded.value_bytes);
    let digest = Digest::of(&out);
    out.extend(digest.0);
    out
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

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }
}

fn allow(field: &'static str, got: u8, expected: u8) -> Result<(), FrameError> {
    if got == expected { Ok(()) } else { Err(FrameError::Code { field, got }) }
}

fn limit_entries(got: u32, allowed: usize) -> Result<(), FrameError> {
    if got as usize <= allowed { Ok(()) } else { Err(FrameError::Density { got, allowed }) }
}

fn kind_code(kind: Kind) -> u8 {
    match kind {
        Kind::Snapshot => 0,
        Kind::Update => 1,
    }
}

fn position_code(positions: Positions) -> u8 {
    match positions {
        Positions::Dense => 0,
        Positions::Bitmap => 1,
        Positions::Rice => 2,
        Positions::Shared => 3,
    }
}

fn value_code(values: Values) -> u8 {
    match values {
        Values::F32 => 0,
        Values::Int8 => 1,
    }
}

fn reference_code(reference: Reference) -> u8 {
    match reference {
        Reference::Change => 0,
        Reference::Weights => 1,
    }
}

#[cfg(test)]
mod tests;
