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
//! - [`Repo`]: what is asked for. `ask`: what the hub says of it. `cache`: the folder. `download`: one
//!   file's bytes.
//!
//! A file is asked about with `HEAD`, whose answer has its commit, size and digest; bytes come only where
//! no blob of that digest is there. A cut download goes on where it ended, in a later process too.
//!
//! Invariant: a blob has the digest that is its name, and a file of a snapshot is whole.

mod ask;
mod cache;
mod download;
mod error;
mod name;
#[cfg(test)]
mod shelf;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::redirect::Policy;

use cache::Cache;
pub use error::HubError;
pub use name::Repo;

/// Where the hub is when `HF_ENDPOINT` does not say.
const ENDPOINT: &str = "https://huggingface.co";
/// Steps from one address to the next.
const REDIRECTS: usize = 5;
/// What [`BaseModel::load`](super::BaseModel::load) wants of a folder.
const FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

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
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (cache, offline) = (&self.cache, self.offline);
        // The token is nobody's business.
        write!(f, "Hub({}, cache {}, offline {offline})", self.endpoint, cache.display())
    }
}
