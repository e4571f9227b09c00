//! What a round lets travel, from the manifest.

use super::{v1, v2};
use crate::ids::{ClientId, RoundId, RunId};
use crate::manifest::{Coding, Coverage, Manifest, SupportRule, Values};
use crate::select::domain;
use crate::sparse::Support;

/// What a round lets travel.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) run: RunId,
    pub(super) round: RoundId,
}

impl<'a> Terms<'a> {
    /// The terms of `round` of `run`.
    #[must_use]
    pub fn new(manifest: &'a Manifest, run: RunId, round: RoundId) -> Self {
        Self { manifest, run, round }
    }

    /// The run.
    #[must_use]
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The run's manifest.
    #[must_use]
    pub fn manifest(&self) -> &'a Manifest {
        self.manifest
    }

    /// The round.
    #[must_use]
    pub fn round(&self) -> RoundId {
        self.round
    }

    /// The version of the run's frames: its manifest's.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.manifest.version
    }

    /// Whether the round travels whole, both ways: the first, before a support can be chosen.
    #[must_use]
    pub fn is_dense_round(&self) -> bool {
        self.manifest.method.support != SupportRule::EachRound && self.round == RoundId(0)
    }

    /// Whether snapshots travel as differences to earlier ones too: they are modelled, which packed coding is to spare.
    #[must_use]
    pub fn has_differences(&self) -> bool {
        self.version() > 1 && self.manifest.method.coding == Coding::Smallest
    }

    /// Whether clients train, and send, just the download's support.
    #[must_use]
    pub fn shares_support(&self) -> bool {
        self.manifest.method.train == Coverage::Support && !self.is_dense_round()
    }

    /// Whether an update cannot be read without the support of the round's snapshot.
    #[must_use]
    pub fn needs_support(&self) -> bool {
        self.shares_support() || self.manifest.method.upload.select.within_download
    }

    /// The coordinates that `client` may send. `shared` is the support of the round's snapshot, where
    /// [`needs_support`](Self::needs_support).
    #[must_use]
    pub fn domain(&self, client: ClientId, shared: Option<&Support>) -> Support {
        if self.is_dense_round() {
            return Support::All;
        }
        let shared = shared.filter(|_| self.needs_support());
        domain::of(self.manifest, self.round, client, shared)
    }

    /// Values of an update, as the manifest has them for this round.
    #[must_use]
    pub fn upload_values(&self) -> Values {
        self.manifest.method.upload.at(self.round).1
    }

    /// Values of a snapshot.
    #[must_use]
    pub fn download_values(&self) -> Values {
        self.manifest.method.download.at(self.round).1
    }

    /// Entries a snapshot may have.
    #[must_use]
    pub fn download_entries(&self) -> usize {
        let n = self.manifest.layout.n();
        if self.is_dense_round() {
            return n;
        }
        let download = &self.manifest.method.download;
        let density = download.at(self.round).0;
        domain::share(self.manifest, &Support::All, density, download.select.scope)
    }

    /// Most entries an update may have, whoever sends it.
    #[must_use]
    pub fn upload_entries(&self) -> usize {
        let n = self.manifest.layout.n();
        if self.is_dense_round() || self.manifest.method.upload.bytes_max.is_some() {
            n
        } else if self.shares_support() {
            self.download_entries()
        } else {
            // The share of any domain is at most the share of all.
            self.share(&Support::All)
        }
    }

    /// Most entries an update may have whose coordinates are `domain`.
    #[must_use]
    pub fn upload_share(&self, domain: &Support) -> usize {
        if self.is_dense_round()
            || self.shares_support()
            || self.manifest.method.upload.bytes_max.is_some()
        {
            return domain.count(self.manifest.layout.n());
        }
        self.share(domain)
    }

    fn share(&self, domain: &Support) -> usize {
        let upload = &self.manifest.method.upload;
        domain::share(self.manifest, domain, upload.at(self.round).0, upload.select.scope)
    }

    /// Most bytes an update's frame may have.
    #[must_use]
    pub fn update_len_max(&self) -> usize {
        match (self.version(), self.manifest.method.upload.bytes_max) {
            (1, _) => v1::update_len_max(self),
            (_, Some(most)) => most as usize,
            _ => v2::update_len_max(self),
        }
    }

    /// Most bytes a snapshot's frame may have.
    #[must_use]
    pub fn snapshot_len_max(&self) -> usize {
        if self.version() == 1 { v1::snapshot_len_max(self) } else { v2::snapshot_len_max(self) }
    }
}
