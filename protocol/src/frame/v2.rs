//! Frames of version 2, and snapshots as differences, which have a magic and a version of their own.

use std::io::{BufReader, Read};

use super::{
    At, FrameError, MAGIC, Origin, Snapshot, TRAILER, Terms, Update, UpdateHead, WEIGHT_MAX,
    check_metadata, limit_entries,
};
use crate::codec::{self, Body, Encoded, Options, Shape, difference};
use crate::digest::Hasher;
use crate::fold::VALUE_MAX;
use crate::manifest::{Rounding, Values};
use crate::rng::Stream;
use crate::sparse::Support;

const HEADER: usize = 16;
const UPDATE_HEADER: usize = 8;
const VERSION: u16 = 2;
const DIFFERENCE_MAGIC: [u8; 4] = *b"GSMD";
const DIFFERENCE_VERSION: u16 = 1;
/// Bytes read at once.
const PIECE: usize = 8 << 10;

/// Bytes of an update's frame around its body.
pub const UPDATE_OVERHEAD: usize = HEADER + UPDATE_HEADER + TRAILER;
/// Bytes of a snapshot's frame around its body.
pub const SNAPSHOT_OVERHEAD: usize = HEADER + TRAILER;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Snapshot,
    Update,
    Difference,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Snapshot | Self::Difference => 0,
            Self::Update => 1,
        }
    }

    fn magic(self) -> [u8; 4] {
        if self == Self::Difference { DIFFERENCE_MAGIC } else { MAGIC }
    }

    fn version(self) -> u16 {
        if self == Self::Difference { DIFFERENCE_VERSION } else { VERSION }
    }

    fn overhead(self) -> usize {
        match self {
            Self::Snapshot => SNAPSHOT_OVERHEAD,
            Self::Update => UPDATE_OVERHEAD,
            Self::Difference => HEADER,
        }
    }
}

/// Body in the low two bits, values in the four above.
fn coding_byte(body: Body, values: Values) -> u8 {
    let place = |found: Option<usize>| found.unwrap_or_default() as u8;
    place(Body::ALL.iter().position(|&b| b == body))
        | place(Values::ALL.iter().position(|&v| v == values)) << 2
}

/// Hashes what a frame is for.
fn context(terms: &Terms<'_>, origin: Option<&Origin>) -> Hasher {
    let mut hasher = Hasher::default();
    hasher.update(b"gossamer/v2/frame\0");
    hasher.update(&terms.run.0);
    hasher.update(&terms.round.0.to_le_bytes());
    if let Some(origin) = origin {
        hasher.update(&origin.client.0);
        hasher.update(&origin.snapshot.0);
    }
    hasher
}

pub(super) fn encode_update(
    update: &Update,
    terms: &Terms<'_>,
    shared: Option<&Support>,
) -> Result<Vec<u8>, FrameError> {
    let method = &terms.manifest.method;
    encode_update_as(update, terms, shared, terms.upload_values(), method.upload.rounding)
}

/// As the manifest has it, but for `values` and `rounding`.
pub(super) fn encode_update_as(
    update: &Update,
    terms: &Terms<'_>,
    shared: Option<&Support>,
    values: Values,
    rounding: Rounding,
) -> Result<Vec<u8>, FrameError> {
    let origin = &update.origin;
    let domain = terms.domain(origin.client, shared);
    let shape = Shape { layout: &terms.manifest.layout, domain: &domain };
    let dice = (rounding == Rounding::Stochastic).then(|| {
        let parts: [&[u8]; 2] = [&origin.client.0, &origin.round.0.to_le_bytes()];
        Stream::new(terms.manifest.seed, "rounding", &parts)
    });
    let coding = terms.manifest.method.coding;
    let options = Options { values, coding, limit: VALUE_MAX, dice };
    let body = codec::encode(shape, &update.delta, options)?;
    let own = [update.examples.to_le_bytes(), update.loss.to_le_bytes()].concat();
    Ok(frame(Kind::Update, values, body, &own, context(terms, Some(origin))))
}

pub(super) fn encode_snapshot(
    snapshot: &Snapshot,
    terms: &Terms<'_>,
) -> Result<Vec<u8>, FrameError> {
    let shape = Shape { layout: &terms.manifest.layout, domain: &Support::All };
    let (values, coding) = (terms.download_values(), terms.manifest.method.coding);
    let options = Options { values, coding, limit: WEIGHT_MAX, dice: None };
    let body = codec::encode(shape, &snapshot.values, options)?;
    Ok(frame(Kind::Snapshot, values, body, &[], context(terms, None)))
}

fn frame(kind: Kind, values: Values, body: Encoded, own: &[u8], mut context: Hasher) -> Vec<u8> {
    // Fits: at most 2^28 entries of about 8 bytes.
    let head = Head { body: body.body, values, k: body.k, len: body.bytes.len() as u32 };
    let mut out = head.write(kind);
    out.extend(own);
    out.extend(&body.bytes);
    context.update(&out);
    out.extend(context.finish().0);
    out
}

/// Puts the trailer behind `content`: of an update of `origin`, or of a snapshot. What the content says
/// is not looked at; tests and tools make malformed frames with it.
#[must_use]
pub fn seal(mut content: Vec<u8>, terms: &Terms<'_>, origin: Option<&Origin>) -> Vec<u8> {
    let mut context = context(terms, origin);
    context.update(&content);
    content.extend(context.finish().0);
    content
}

/// The header's fields, checked as far as they can be alone.
#[derive(Clone, Copy)]
struct Head {
    body: Body,
    values: Values,
    k: u32,
    len: u32,
}

impl Head {
    /// The header, with room for what follows.
    fn write(&self, kind: Kind) -> Vec<u8> {
        let mut out = Vec::with_capacity(kind.overhead() + self.len as usize);
        out.extend(kind.magic());
        out.extend(kind.version().to_le_bytes());
        out.push(kind.code());
        out.push(coding_byte(self.body, self.values));
        out.extend(self.k.to_le_bytes());
        out.extend(self.len.to_le_bytes());
        out
    }

    fn read(at: &mut At<'_>, kind: Kind) -> Result<Self, FrameError> {
        if at.array() != kind.magic() {
            return Err(FrameError::Magic);
        }
        let (got, expected) = (at.u16(), kind.version());
        if got != expected {
            return Err(FrameError::Version { got, expected });
        }
        let got = at.u8();
        if got != kind.code() {
            return Err(FrameError::Code { field: "kind", got });
        }
        let got = at.u8();
        let unknown = FrameError::Code { field: "coding", got };
        let body = Body::ALL[usize::from(got & 3)];
        let values = *Values::ALL.get(usize::from(got >> 2)).ok_or(unknown)?;
        Ok(Self { body, values, k: at.u32(), len: at.u32() })
    }

    /// Checks that the round's snapshot may be like this.
    fn allow_snapshot(&self, terms: &Terms<'_>) -> Result<(), FrameError> {
        if self.values != terms.download_values() {
            let got = coding_byte(Body::DensePacked, self.values) >> 2;
            return Err(FrameError::Code { field: "values", got });
        }
        limit_entries(self.k, terms.download_entries())
    }

    /// What its body is.
    fn coded(&self) -> difference::Header {
        difference::Header { body: self.body, values: self.values, k: self.k as usize }
    }
}

/// Checks lengths and trailer of a frame in memory; gives its header, its own fields and its body.
fn open<'b>(
    bytes: &'b [u8],
    kind: Kind,
    limit: usize,
    mut context: Hasher,
) -> Result<(Head, At<'b>, &'b [u8]), FrameError> {
    let got = bytes.len();
    if got > limit {
        return Err(FrameError::Oversized { got, limit });
    }
    if got >= 4 && bytes[..4] != MAGIC {
        return Err(FrameError::Magic);
    }
    if got < kind.overhead() {
        return Err(FrameError::Truncated { got, expected: kind.overhead() });
    }
    let head = Head::read(&mut At(bytes), kind)?;
    let expected = kind.overhead().saturating_add(head.len as usize);
    if got < expected {
        return Err(FrameError::Truncated { got, expected });
    }
    if got > expected {
        return Err(FrameError::Trailing { got, expected });
    }
    let (content, trailer) = bytes.split_at(got - TRAILER);
    context.update(content);
    if context.finish().0 != trailer {
        return Err(FrameError::Digest);
    }
    let (own, body) = content[HEADER..].split_at(kind.overhead() - HEADER - TRAILER);
    Ok((head, At(own), body))
}

fn open_update<'b>(
    bytes: &'b [u8],
    terms: &Terms<'_>,
    origin: &Origin,
) -> Result<(Head, UpdateHead, &'b [u8]), FrameError> {
    let limit = terms.update_len_max();
    let (head, mut own, body) = open(bytes, Kind::Update, limit, context(terms, Some(origin)))?;
    let (examples, loss) = (own.u32(), f32::from_bits(own.u32()));
    check_metadata(examples, loss)?;
    let said = UpdateHead { examples, loss, entries: head.k as usize };
    Ok((head, said, body))
}

pub(super) fn peek(
    bytes: &[u8],
    terms: &Terms<'_>,
    origin: &Origin,
) -> Result<UpdateHead, FrameError> {
    open_update(bytes, terms, origin).map(|(_, said, _)| said)
}

fn allow_values(terms: &Terms<'_>, got: Values) -> Result<(), FrameError> {
    // Under a byte budget the encoder picks the values itself.
    let free = terms.manifest.method.upload.bytes_max.is_some();
    if free || got == terms.upload_values() {
        return Ok(());
    }
    Err(FrameError::Code { field: "values", got: coding_byte(Body::DensePacked, got) >> 2 })
}

pub(super) fn decode_update(
    bytes: &[u8],
    terms: &Terms<'_>,
    origin: &Origin,
    shared: Option<&Support>,
) -> Result<Update, FrameError> {
    let (head, said, body) = open_update(bytes, terms, origin)?;
    allow_values(terms, head.values)?;
    let domain = terms.domain(origin.client, shared);
    limit_entries(head.k, terms.upload_share(&domain))?;
    let shape = Shape { layout: &terms.manifest.layout, domain: &domain };
    let k = head.k as usize;
    let delta = codec::decode_sparse(shape, head.body, head.values, k, body, VALUE_MAX)?;
    Ok(Update { origin: *origin, examples: said.examples, loss: said.loss, delta })
}

/// Gives each coordinate with its value, in rising order.
pub(super) fn visit_update(
    bytes: &[u8],
    terms: &Terms<'_>,
    origin: &Origin,
    shared: Option<&Support>,
    entry: &mut impl FnMut(u32, f32),
) -> Result<UpdateHead, FrameError> {
    let (head, said, body) = open_update(bytes, terms, origin)?;
    allow_values(terms, head.values)?;
    let domain = terms.domain(origin.client, shared);
    limit_entries(head.k, terms.upload_share(&domain))?;
    let shape = Shape { layout: &terms.manifest.layout, domain: &domain };
    let (k, len) = (head.k as usize, body.len() as u64);
    codec::decode(shape, head.body, head.values, k, len, body, VALUE_MAX, entry)?;
    Ok(said)
}

/// Checks a snapshot's frame, all but its entries.
fn open_snapshot<'b>(bytes: &'b [u8], terms: &Terms<'_>) -> Result<(Head, &'b [u8]), FrameError> {
    let limit = terms.snapshot_len_max();
    let (head, _, body) = open(bytes, Kind::Snapshot, limit, context(terms, None))?;
    head.allow_snapshot(terms)?;
    Ok((head, body))
}

/// Codes a snapshot's frame for who holds `held`, shape `[n]`; `None` where nobody could write it again.
pub(super) fn encode_difference(
    frame: &[u8],
    terms: &Terms<'_>,
    held: &[f32],
) -> Result<Option<Vec<u8>>, FrameError> {
    let (head, body) = open_snapshot(frame, terms)?;
    let shape = Shape { layout: &terms.manifest.layout, domain: &Support::All };
    let coded = difference::encode(shape, head.coded(), body, held, WEIGHT_MAX)?;
    Ok(coded.map(|coded| {
        let mut out = Head { len: coded.len() as u32, ..head }.write(Kind::Difference);
        out.extend(coded);
        out
    }))
}

/// The snapshot's frame. No trailer is checked: that of the result is made here.
pub(super) fn decode_difference(
    bytes: &[u8],
    terms: &Terms<'_>,
    held: &[f32],
) -> Result<Vec<u8>, FrameError> {
    let (got, limit) = (bytes.len(), terms.snapshot_len_max());
    if got > limit {
        return Err(FrameError::Oversized { got, limit });
    }
    if got < HEADER {
        return Err(FrameError::Truncated { got, expected: HEADER });
    }
    let head = Head::read(&mut At(bytes), Kind::Difference)?;
    let expected = HEADER + head.len as usize;
    if got < expected {
        return Err(FrameError::Truncated { got, expected });
    }
    if got > expected {
        return Err(FrameError::Trailing { got, expected });
    }
    head.allow_snapshot(terms)?;
    let shape = Shape { layout: &terms.manifest.layout, domain: &Support::All };
    let body = difference::decode(shape, head.coded(), &bytes[HEADER..], held, WEIGHT_MAX)?;
    let mut out = Head { len: body.len() as u32, ..head }.write(Kind::Snapshot);
    out.extend(body);
    Ok(seal(out, terms, None))
}

pub(super) fn decode_snapshot(bytes: &[u8], terms: &Terms<'_>) -> Result<Snapshot, FrameError> {
    let (head, body) = open_snapshot(bytes, terms)?;
    let shape = Shape { layout: &terms.manifest.layout, domain: &Support::All };
    let k = head.k as usize;
    let values = codec::decode_sparse(shape, head.body, head.values, k, body, WEIGHT_MAX)?;
    let reference = terms.manifest.method.download.of;
    Ok(Snapshot { run: terms.run, round: terms.round, reference, values })
}

/// Rice never takes more than a bitmap and five bits a block; blocks hold one entry at least.
fn len_max(n: usize, k: usize, values: Values) -> usize {
    let bits = n + k * (values.index_bits() as usize + 1);
    // Blocks: an encoder's close at 256 entries or more, but for the last.
    let blocks = k / 256 + 1;
    let headers = blocks * (values.header_bits() as usize + 10 + 5 + 8 + 2);
    let outliers = if values == Values::Fp4 { 24 * (k / 64 + 1) } else { 0 };
    (bits + headers + outliers) / 8 + 16
}

pub(super) fn update_len_max(terms: &Terms<'_>) -> usize {
    let n = terms.manifest.layout.n();
    UPDATE_OVERHEAD + len_max(n, terms.upload_entries(), terms.upload_values())
}

pub(super) fn snapshot_len_max(terms: &Terms<'_>) -> usize {
    let n = terms.manifest.layout.n();
    SNAPSHOT_OVERHEAD + len_max(n, terms.download_entries(), terms.download_values())
}

/// Reads an update as it arrives: memory does not grow with the frame.
///
/// Entries are given before the trailer is seen, so what they are added to counts only once
/// [`Reader::update`] has returned `Ok`.
pub struct Reader<'a> {
    terms: Terms<'a>,
    origin: Origin,
    domain: Support,
}

impl<'a> Reader<'a> {
    /// Of updates that `origin` names.
    #[must_use]
    pub fn new(terms: Terms<'a>, origin: Origin, shared: Option<&Support>) -> Self {
        let domain = terms.domain(origin.client, shared);
        Self { terms, origin, domain }
    }

    /// Gives each coordinate with its value, in rising order, then says what the update says of itself.
    ///
    /// # Errors
    /// [`FrameError`] at the first thing that is off; entries before it were given.
    pub fn update(
        &self,
        source: impl Read,
        entry: &mut impl FnMut(u32, f32),
    ) -> Result<UpdateHead, FrameError> {
        let terms = &self.terms;
        let read = |error: std::io::Error| FrameError::Entries(error.into());
        let mut source = Hashing { source, hasher: context(terms, Some(&self.origin)) };
        let mut start = [0; HEADER + UPDATE_HEADER];
        source.read_exact(&mut start).map_err(read)?;
        let mut at = At(&start);
        let head = Head::read(&mut at, Kind::Update)?;
        let (examples, loss) = (at.u32(), f32::from_bits(at.u32()));
        check_metadata(examples, loss)?;
        let (got, limit) = (UPDATE_OVERHEAD + head.len as usize, terms.update_len_max());
        if got > limit {
            return Err(FrameError::Oversized { got, limit });
        }
        allow_values(terms, head.values)?;
        limit_entries(head.k, terms.upload_share(&self.domain))?;
        let shape = Shape { layout: &terms.manifest.layout, domain: &self.domain };
        let (k, len) = (head.k as usize, u64::from(head.len));
        let body = BufReader::with_capacity(PIECE, (&mut source).take(len));
        codec::decode(shape, head.body, head.values, k, len, body, VALUE_MAX, entry)?;
        let expected = source.hasher.finish().0;
        let mut trailer = [0; TRAILER];
        source.source.read_exact(&mut trailer).map_err(read)?;
        if trailer != expected {
            return Err(FrameError::Digest);
        }
        if source.source.read(&mut [0]).map_err(read)? > 0 {
            return Err(FrameError::Trailing { got: got + 1, expected: got });
        }
        Ok(UpdateHead { examples, loss, entries: k })
    }
}

/// Hashes what is read.
struct Hashing<R> {
    source: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(out)?;
        self.hasher.update(&out[..count]);
        Ok(count)
    }
}
