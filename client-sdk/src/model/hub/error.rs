//! Why a file of the hub is not to be had.

use std::path::PathBuf;

use super::Repo;

/// Why a file is not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Not the name of a repository, a revision or a file.
    #[error("{0:?} is no name of a repository (owner/name), a revision or a file")]
    Name(String),
    /// Not an address.
    #[error("HF_ENDPOINT is {0:?}, expected: an http:// or https:// address")]
    Endpoint(String),
    /// No folder for the cache.
    #[error(
        "no place for the cache: neither HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME nor HOME is set"
    )]
    NoCache,
    /// The TLS library refused.
    #[error("cannot set up TLS")]
    Tls(#[source] reqwest::Error),
    /// Not in the cache, and nothing may be asked.
    #[error("{file} of {repo} is not in the cache {cache}, and HF_HUB_OFFLINE is set")]
    Offline {
        /// Which repository.
        repo: Repo,
        /// Which file.
        file: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// The hub has no such repository, revision or file.
    #[error("{file} of {repo}: not found ({code})")]
    Missing {
        /// Which repository.
        repo: Repo,
        /// Which file.
        file: String,
        /// What is missing, in the hub's word: `RepoNotFound`, `RevisionNotFound`, `EntryNotFound`.
        code: String,
    },
    /// Not for this token, or not without one.
    #[error("{repo} is refused ({status}); HF_TOKEN must be one that may read it")]
    Refused {
        /// Which repository.
        repo: Repo,
        /// 401 or 403.
        status: u16,
    },
    /// Another answer than a file's.
    #[error("{file}: the hub answers {status}")]
    Status {
        /// Which file.
        file: String,
        /// The answer's.
        status: u16,
    },
    /// No answer, or one that was cut again and again.
    #[error("{file}: the hub cannot be reached")]
    Unreachable {
        /// Which file.
        file: String,
        /// Why.
        source: reqwest::Error,
    },
    /// An answer without what must be in it.
    #[error("{file}: the hub's answer has no usable {header}")]
    Malformed {
        /// Which file.
        file: String,
        /// What is missing.
        header: &'static str,
    },
    /// More bytes, or fewer, than the hub named.
    #[error("{file} has {found} bytes, the hub named {expected}")]
    Length {
        /// Which file.
        file: String,
        /// As named.
        expected: u64,
        /// As received.
        found: u64,
    },
    /// Other bytes than the hub named; they are removed.
    #[error("{file} has digest {found}, the hub named {expected}")]
    Digest {
        /// Which file.
        file: String,
        /// As named.
        expected: String,
        /// Of what was received.
        found: String,
    },
    /// The cache cannot be read or written.
    #[error("cannot use {path}")]
    Disk {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
