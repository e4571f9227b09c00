//! Models from the Hugging Face hub, by name, into its usual cache.
//!
//! ```no_run
//! # async fn app() -> Result<(), Box<dyn std::error::Error>> {
//! use gossamer_client::model::BaseModel;
//! use gossamer_client::model::hub::Hub;
//!
//! let folder = Hub::from_env()?.model(&"HuggingFaceTB/SmolLM2-135M".parse()?).await?;
//! let base = BaseModel::load(&folder)?;
//! # Ok(())
//! # }
//! ```
//!
//! - [`Repo`]: what is asked for. `cache`: the folder. `download`: one file's bytes.
//!
//! A file is asked about with `HEAD`, whose answer has its commit, size and digest; bytes come only where
//! no blob of that digest is there. A cut download goes on where it ended, in a later process too.
//!
//! Invariant: a blob has the digest that is its name, and a file of a snapshot is whole.

mod cache;
mod download;
mod name;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode, Url};

use cache::{Cache, Etag};
pub use name::Repo;

/// Where the hub is when `HF_ENDPOINT` does not say.
const ENDPOINT: &str = "https://huggingface.co";
/// Steps from one address to the next.
const REDIRECTS: usize = 5;
/// What [`BaseModel::load`](super::BaseModel::load) wants of a folder.
const FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

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

/// The hub, and the cache of what came from it.
pub struct Hub {
    /// Goes along with redirections.
    follow: reqwest::Client,
    /// Stops at the first.
    stay: reqwest::Client,
    endpoint: Url,
    cache: PathBuf,
    token: Option<String>,
    offline: bool,
}

/// What the hub says of a file.
struct About {
    commit: String,
    etag: Etag,
    size: u64,
}

impl Hub {
    /// As the hub's own tools have it: `HF_ENDPOINT`; the cache at `HF_HUB_CACHE`, `$HF_HOME/hub` or
    /// `~/.cache/huggingface/hub`; the token in `HF_TOKEN` or `$HF_HOME/token`; `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// [`HubError::Endpoint`], [`HubError::NoCache`] or [`HubError::Tls`].
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_vars(&|name| std::env::var_os(name))
    }

    fn from_vars(var: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, HubError> {
        let text = |name: &str| {
            let value = var(name)?.into_string().ok()?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let cache = cache::root(var).ok_or(HubError::NoCache)?;
        let endpoint = text("HF_ENDPOINT");
        let hub = Self::new(endpoint.as_deref().unwrap_or(ENDPOINT), &cache)?;
        let file = || std::fs::read_to_string(cache::home(var)?.join("token")).ok();
        let token = text("HF_TOKEN").or_else(file).map(|token| token.trim().to_owned());
        let offline = text("HF_HUB_OFFLINE").map(|value| value.to_ascii_uppercase());
        let offline = offline.is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.as_str()));
        Ok(Self { token: token.filter(|token| !token.is_empty()), ..hub }.offline(offline))
    }

    /// The hub at `endpoint`, with its cache at `cache`.
    ///
    /// # Errors
    /// [`HubError::Endpoint`] or [`HubError::Tls`].
    pub fn new(endpoint: &str, cache: &Path) -> Result<Self, HubError> {
        // An app may have chosen a provider before; then that one serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = Url::parse(endpoint).ok();
        let url = url.filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
        let endpoint = url.ok_or_else(|| HubError::Endpoint(endpoint.to_owned()))?;
        let secure = endpoint.scheme() == "https";
        let client = |policy: Policy| {
            reqwest::Client::builder()
                .https_only(secure)
                .redirect(policy)
                .referer(false)
                .connect_timeout(Duration::from_secs(10))
                .read_timeout(Duration::from_secs(30))
                .user_agent(concat!("gossamer-client/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(HubError::Tls)
        };
        let (follow, stay) = (client(Policy::limited(REDIRECTS))?, client(Policy::none())?);
        Ok(Self { follow, stay, endpoint, cache: cache.to_owned(), token: None, offline: false })
    }

    /// Shows this token to the hub, and to nobody that it redirects to.
    #[must_use]
    pub fn token(self, token: String) -> Self {
        Self { token: Some(token), ..self }
    }

    /// Whether to ask nobody and make do with the cache.
    #[must_use]
    pub fn offline(self, offline: bool) -> Self {
        Self { offline, ..self }
    }

    /// The folder of a model, with what [`BaseModel::load`](super::BaseModel::load) wants, all of one commit.
    ///
    /// # Errors
    /// [`HubError`] at the first file that is not to be had; those before it stay in the cache.
    pub async fn model(&self, repo: &Repo) -> Result<PathBuf, HubError> {
        let mut at = repo.clone();
        let mut commit = String::new();
        for file in FILES {
            commit = self.fetch(&at, file).await?;
            at = at.at(&commit)?;
        }
        let cache = Cache::new(&self.cache, repo);
        cache.remember(repo, &commit)?;
        Ok(cache.snapshot(&commit))
    }

    /// One file of a repository, such as one of several of GGUF.
    ///
    /// # Errors
    /// [`HubError`] where it is not to be had.
    pub async fn file(&self, repo: &Repo, file: &str) -> Result<PathBuf, HubError> {
        let commit = self.fetch(repo, file).await?;
        let cache = Cache::new(&self.cache, repo);
        cache.remember(repo, &commit)?;
        Ok(cache.snapshot(&commit).join(file))
    }

    /// Sees to it that the file is in the cache; the commit that it is of.
    async fn fetch(&self, repo: &Repo, file: &str) -> Result<String, HubError> {
        name::check_file(file)?;
        let cache = Cache::new(&self.cache, repo);
        // A commit never changes, so nobody need be asked.
        let known = if self.offline { cache.commit(repo) } else { repo.commit().map(Into::into) };
        if let Some(commit) = known.filter(|commit| cache.file(commit, file).is_some()) {
            return Ok(commit);
        }
        if self.offline {
            let (repo, file, cache) = (repo.clone(), file.to_owned(), self.cache.clone());
            return Err(HubError::Offline { repo, file, cache });
        }
        let about = self.about(repo, file).await?;
        if cache.file(&about.commit, file).is_none() {
            let _lock = cache.lock(&about.etag).await?;
            if !cache.blob(&about.etag).is_file() {
                self.download(repo, file, &about, &cache).await?;
            }
            cache.link(&about.commit, file, &about.etag)?;
        }
        Ok(about.commit)
    }

    fn url(&self, repo: &Repo, file: &str) -> Url {
        let mut url = self.endpoint.clone();
        // A revision's slashes are not a path's.
        let (name, revision) = (repo.name(), repo.revision().replace('/', "%2F"));
        let before = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{before}/{name}/resolve/{revision}/{file}"));
        url
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name, value: &str| {
            if let Ok(value) = value.parse() {
                headers.insert(name, value);
            }
        };
        // A coded body has another length and could not be resumed.
        put(ACCEPT_ENCODING, "identity");
        if let Some(token) = &self.token {
            put(AUTHORIZATION, &format!("Bearer {token}"));
        }
        headers
    }

    async fn about(&self, repo: &Repo, file: &str) -> Result<About, HubError> {
        let mut url = self.url(repo, file);
        for _ in 0..=REDIRECTS {
            let answer = self.stay.head(url.clone()).headers(self.headers()).send().await;
            let answer =
                answer.map_err(|source| HubError::Unreachable { file: file.to_owned(), source })?;
            let moved = answer.status().is_redirection().then(|| text(&answer, LOCATION.as_str()));
            let next = moved.flatten().and_then(|to| url.join(&to).ok());
            match next.filter(|next| next.origin() == url.origin()) {
                // A repository of a new name. Files elsewhere are already named by this answer.
                Some(next) if !named(&answer) => url = next,
                _ => return self.read_about(repo, file, &answer),
            }
        }
        Err(HubError::Malformed { file: file.to_owned(), header: "Location" })
    }

    fn read_about(&self, repo: &Repo, file: &str, answer: &Response) -> Result<About, HubError> {
        let status = answer.status();
        let direct = status.is_success();
        if !direct && !status.is_redirection() {
            return Err(refusal(repo, file, answer));
        }
        let malformed = |header| move || HubError::Malformed { file: file.to_owned(), header };
        let commit = text(answer, "x-repo-commit").filter(|commit| name::hex(commit, 40));
        let own = |name: &str| if direct { text(answer, name) } else { None };
        let etag = text(answer, "x-linked-etag").or_else(|| own("etag"));
        let size = text(answer, "x-linked-size").or_else(|| own("content-length"));
        Ok(About {
            commit: commit.ok_or_else(malformed("X-Repo-Commit"))?,
            etag: etag.as_deref().and_then(Etag::parse).ok_or_else(malformed("ETag"))?,
            size: size.and_then(|n| n.parse().ok()).ok_or_else(malformed("X-Linked-Size"))?,
        })
    }
}

/// Whether an answer that leads elsewhere says what is there.
fn named(answer: &Response) -> bool {
    ["x-linked-etag", "x-linked-size"].iter().all(|header| text(answer, header).is_some())
}

fn text(answer: &Response, header: &str) -> Option<String> {
    Some(answer.headers().get(header)?.to_str().ok()?.to_owned())
}

/// What a status that is no success means.
fn refusal(repo: &Repo, file: &str, answer: &Response) -> HubError {
    let (status, file) = (answer.status(), file.to_owned());
    let code = text(answer, "x-error-code");
    match (status, code) {
        (StatusCode::NOT_FOUND, code) => {
            HubError::Missing { repo: repo.clone(), file, code: code.unwrap_or_default() }
        }
        // The hub hides what it has not behind 401.
        (StatusCode::UNAUTHORIZED, Some(code)) if code == "RepoNotFound" => {
            HubError::Missing { repo: repo.clone(), file, code }
        }
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            HubError::Refused { repo: repo.clone(), status: status.as_u16() }
        }
        _ => HubError::Status { file, status: status.as_u16() },
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (cache, offline) = (&self.cache, self.offline);
        // The token is nobody's business.
        write!(f, "Hub({}, cache {}, offline {offline})", self.endpoint, cache.display())
    }
}
