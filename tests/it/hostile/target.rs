//! One run of each kind, what would be a good update of it, and what may be done to that.

use gossamer_client::transport::Slot;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Origin, Terms, Update, seal};
use gossamer_protocol::manifest::{Manifest, Values};
use gossamer_protocol::problem::ProblemType as P;
use gossamer_protocol::sparse::{Sparse, Support};

/// Bytes of an update's header in version 2.
pub(super) const HEAD: usize = 24;
/// Bytes of a trailer.
pub(super) const TRAILER: usize = 32;

/// Of bytes that make no sense it is chance which of the two is found first.
pub(super) const GARBAGE: &[P] = &[P::BadEntries, P::BadValue];
pub(super) const FRAME: &[P] = &[P::BadFrame];
pub(super) const ENTRIES: &[P] = &[P::BadEntries];
pub(super) const VALUE: &[P] = &[P::BadValue];
pub(super) const LARGE: &[P] = &[P::TooLarge];

/// A hostile body.
pub(super) struct Case {
    /// What is off.
    pub(super) name: String,
    /// The problem's name; one of these.
    pub(super) expected: &'static [P],
    pub(super) sent: Sent,
    pub(super) body: Vec<u8>,
}

/// How it is sent.
pub(super) enum Sent {
    Put,
    /// With such a `Content-Encoding`.
    Encoded(&'static str),
    /// Behind the body so many zeros, whose length is announced or not.
    Zeros {
        count: usize,
        announced: bool,
    },
    /// By PATCH, with `upload-digest`, `-length` and `-offset`; what is empty is left out. The first
    /// `begun` bytes were sent before, and taken.
    Part {
        digest: String,
        length: String,
        offset: String,
        begun: usize,
    },
}

pub(super) fn case(
    name: impl Into<String>,
    expected: &'static [P],
    body: impl Into<Vec<u8>>,
) -> Case {
    Case { name: name.into(), expected, sent: Sent::Put, body: body.into() }
}

/// A run, and a client in its cohort.
pub(super) struct Target {
    pub(super) name: &'static str,
    pub(super) manifest: Manifest,
    pub(super) slot: Slot,
    /// The snapshot's digest, its frame, and its support.
    pub(super) snapshot: Digest,
    pub(super) snapshot_frame: Vec<u8>,
    pub(super) shared: Support,
}

impl Target {
    pub(super) fn terms(&self) -> Terms<'_> {
        Terms::new(&self.manifest, self.slot.run, self.slot.round)
    }

    pub(super) fn origin(&self) -> Origin {
        let Slot { run, round, attempt, client } = self.slot;
        Origin { run, round, attempt, client, snapshot: self.snapshot }
    }

    pub(super) fn n(&self) -> usize {
        self.manifest.layout.n()
    }

    /// What the client may send.
    pub(super) fn domain(&self) -> Support {
        self.terms().domain(self.slot.client, Some(&self.shared))
    }

    /// How much of it.
    pub(super) fn allowed(&self) -> usize {
        self.terms().upload_share(&self.domain())
    }

    /// Values of magnitude 0.005 to 0.5, now and then 3, at evenly spread places: all that may travel
    /// where that is the whole domain, else fewer, so that one more is not too many.
    pub(super) fn update(&self) -> Update {
        let (n, domain) = (self.n(), self.domain());
        let (size, allowed) = (domain.count(n), self.allowed());
        let budgeted = self.manifest.method.upload.bytes_max.is_some();
        let k = match allowed == size {
            true if budgeted => 300,
            true => size,
            false => 3 * allowed / 4,
        };
        let place = |rank: usize| domain.indices().map_or(rank as u32, |indices| indices[rank]);
        let support = if k == n {
            Support::All
        } else {
            Support::Indices((0..k).map(|at| place(at * size / k)).collect())
        };
        let value = |at: usize| match at % 97 {
            5 => 3.0,
            _ => ((at * 37 % 101) as f32 - 50.5) / 101.0,
        };
        let delta = Sparse::new(n, support, (0..k).map(value).collect()).expect("rising");
        Update { origin: self.origin(), examples: 1, loss: 1.0, delta }
    }

    /// A frame that is taken.
    pub(super) fn good(&self) -> Vec<u8> {
        self.frame_of(&self.update(), &self.terms())
    }

    pub(super) fn frame_of(&self, update: &Update, terms: &Terms<'_>) -> Vec<u8> {
        let shared = Some(&self.shared);
        let frame = match self.manifest.method.upload.bytes_max {
            Some(_) => update.encode_as(terms, shared, Values::Int4),
            None => update.encode(terms, shared),
        };
        frame.expect("in range")
    }

    /// Whether the frame would be taken.
    pub(super) fn takes(&self, frame: &[u8]) -> bool {
        Update::check(frame, &self.terms(), &self.origin(), Some(&self.shared)).is_ok()
    }

    /// What the client was given, sent back: a frame of the other kind, and perhaps longer than its own.
    pub(super) fn snapshot(&self) -> Case {
        let large = self.snapshot_frame.len() > self.terms().update_len_max();
        let expected = if large { LARGE } else { FRAME };
        case("the round's own snapshot", expected, self.snapshot_frame.clone())
    }

    /// Puts a valid trailer behind `content`, as the run's version has it.
    pub(super) fn sealed(&self, content: Vec<u8>) -> Vec<u8> {
        if self.manifest.version == 1 {
            let digest = Digest::of(&content);
            return [content, digest.0.to_vec()].concat();
        }
        seal(content, &self.terms(), Some(&self.origin()))
    }

    /// The good frame with other bytes at `at`, under a valid trailer.
    pub(super) fn patched(&self, at: usize, with: &[u8]) -> Vec<u8> {
        let good = self.good();
        let mut content = good[..good.len() - TRAILER].to_vec();
        content[at..at + with.len()].copy_from_slice(with);
        self.sealed(content)
    }

    /// A version 2 frame of `k` entries in `body`, under a valid trailer.
    pub(super) fn with_body(&self, coding: u8, k: u32, body: &[u8]) -> Vec<u8> {
        let length = body.len() as u32;
        let content = [
            &b"GSMR"[..],
            &[2, 0, 1, coding],
            &k.to_le_bytes(),
            &length.to_le_bytes(),
            &1_u32.to_le_bytes(),
            &1_f32.to_le_bytes(),
            body,
        ];
        self.sealed(content.concat())
    }
}
