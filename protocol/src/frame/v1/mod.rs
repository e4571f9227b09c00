//! Frames of version 1: runs that were created with it keep it.
//!
//! ```text
//! magic "GSMR" | version u16 = 1 | kind u8 | positions u8 | values u8 | reserved u8 = 0
//! run [16] | round u64 | n u32 | k u32 | position_len u32
//! update only:   attempt u32 | client [16] | snapshot [32] | examples u32 | loss f32
//! snapshot only: reference u8
//! position bytes | value bytes | SHA-256 of everything before it [32]
//! ```

mod codec;
mod positions;
mod values;

pub use codec::CodecError;
use codec::Coded;
use positions::Positions;

use super::{
    At, FrameError, MAGIC, Origin, Snapshot, TRAILER, Terms, Update, UpdateHead, WEIGHT_MAX,
    check_metadata, limit_entries,
};
use crate::digest::Digest;
use crate::fold::VALUE_MAX;
use crate::ids::{Attempt, ClientId, RoundId, RunId};
use crate::manifest::{Reference, Values};
use crate::sparse::Support;

const VERSION: u16 = 1;
const HEADER: usize = 46;
const UPDATE_HEADER: usize = 60;
const SNAPSHOT_HEADER: usize = 1;

/// A bitmap never loses to another code.
pub(super) fn update_len_max(terms: &Terms<'_>) -> usize {
    let values = values::len(terms.manifest.method.upload.values, terms.upload_entries());
    // At most 2^28 parameters of 4 bytes, which fits.
    HEADER + UPDATE_HEADER + TRAILER + terms.manifest.layout.n().div_ceil(8) + values as usize
}

pub(super) fn snapshot_len_max(terms: &Terms<'_>) -> usize {
    let values = values::len(terms.manifest.method.download.values, terms.download_entries());
    HEADER + SNAPSHOT_HEADER + TRAILER + terms.manifest.layout.n().div_ceil(8) + values as usize
}

pub(super) fn encode_update(update: &Update, terms: &Terms<'_>) -> Result<Vec<u8>, FrameError> {
    let values = terms.manifest.method.upload.values;
    let coded = codec::encode(&update.delta, values, terms.shares_support(), VALUE_MAX)?;
    let Origin { run, round, attempt, client, snapshot } = update.origin;
    let head = Head { kind: Kind::Update, run, round, n: update.delta.n() };
    let mut out = head.write(&coded, values);
    out.extend(attempt.0.to_le_bytes());
    out.extend(client.0);
    out.extend(snapshot.0);
    out.extend(update.examples.to_le_bytes());
    out.extend(update.loss.to_le_bytes());
    Ok(finish(out, &coded))
}

pub(super) fn decode_update(
    bytes: &[u8],
    terms: &Terms<'_>,
    origin: &Origin,
    shared: Option<&Support>,
) -> Result<Update, FrameError> {
    let method = &terms.manifest.method;
    let (head, body) = read_update(bytes, terms, origin)?;
    let wants_shared = terms.shares_support() && shared.is_some_and(|s| *s != Support::All);
    if wants_shared != (body.positions == Positions::Shared) {
        let got = position_code(body.positions);
        return Err(FrameError::Code { field: "positions", got });
    }
    allow("values", value_code(body.values), value_code(method.upload.values))?;
    limit_entries(body.k, terms.upload_entries())?;
    let delta = codec::decode(terms.manifest.layout.n(), &body, shared, VALUE_MAX)?;
    Ok(Update { origin: *origin, examples: head.examples, loss: head.loss, delta })
}

pub(super) fn peek(
    bytes: &[u8],
    terms: &Terms<'_>,
    origin: &Origin,
) -> Result<UpdateHead, FrameError> {
    read_update(bytes, terms, origin).map(|(head, _)| head)
}

fn read_update<'b>(
    bytes: &'b [u8],
    terms: &Terms<'_>,
    origin: &Origin,
) -> Result<(UpdateHead, Coded<'b>), FrameError> {
    let (mut at, head, body) = Head::read(bytes, Kind::Update, terms, update_len_max(terms))?;
    let (attempt, client) = (Attempt(at.u32()), ClientId(at.array()));
    let snapshot = Digest(at.array());
    let (examples, loss) = (at.u32(), f32::from_bits(at.u32()));
    check_metadata(examples, loss)?;
    is_for(&head, &origin.run, &origin.round)?;
    says("attempt", attempt, origin.attempt)?;
    says("client", client, origin.client)?;
    says("snapshot", snapshot, origin.snapshot)?;
    Ok((UpdateHead { examples, loss, entries: body.k as usize }, body))
}

fn is_for(head: &Head, run: &RunId, round: &RoundId) -> Result<(), FrameError> {
    says("run", head.run, *run)?;
    says("round", head.round, *round)
}

fn says<T: PartialEq + std::fmt::Display>(
    field: &'static str,
    got: T,
    expected: T,
) -> Result<(), FrameError> {
    if got == expected {
        return Ok(());
    }
    Err(FrameError::Address { field, got: got.to_string(), expected: expected.to_string() })
}

pub(super) fn encode_snapshot(
    snapshot: &Snapshot,
    terms: &Terms<'_>,
) -> Result<Vec<u8>, FrameError> {
    let values = terms.manifest.method.download.values;
    let coded = codec::encode(&snapshot.values, values, false, WEIGHT_MAX)?;
    let Snapshot { run, round, .. } = *snapshot;
    let head = Head { kind: Kind::Snapshot, run, round, n: snapshot.values.n() };
    let mut out = head.write(&coded, values);
    out.push(reference_code(snapshot.reference));
    Ok(finish(out, &coded))
}

pub(super) fn decode_snapshot(bytes: &[u8], terms: &Terms<'_>) -> Result<Snapshot, FrameError> {
    let method = &terms.manifest.method;
    let (mut at, head, body) = Head::read(bytes, Kind::Snapshot, terms, snapshot_len_max(terms))?;
    allow("reference", at.u8(), reference_code(method.download.of))?;
    is_for(&head, &terms.run, &terms.round)?;
    allow("values", value_code(body.values), value_code(method.download.values))?;
    limit_entries(body.k, terms.download_entries())?;
    let values = codec::decode(terms.manifest.layout.n(), &body, None, WEIGHT_MAX)?;
    let Head { run, round, .. } = head;
    Ok(Snapshot { run, round, reference: method.download.of, values })
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
        out.extend(VERSION.to_le_bytes());
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
        if version != VERSION {
            return Err(FrameError::Version { got: version, expected: VERSION });
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

fn allow(field: &'static str, got: u8, expected: u8) -> Result<(), FrameError> {
    if got == expected { Ok(()) } else { Err(FrameError::Code { field, got }) }
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
        Values::Int8 => 1,
        // A version 1 manifest has no third.
        _ => 0,
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
