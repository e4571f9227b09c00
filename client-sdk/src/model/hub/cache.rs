//! The hub's usual cache folder, shared with its Python library.
//!
//! ```text
//! models--{owner}--{name}/
//!   blobs/{etag}            a file's bytes, by their digest; `.incomplete` while they come
//!   refs/{revision}         the commit of a branch or tag, as last seen
//!   snapshots/{commit}/     the files by name, links to blobs
//! .locks/models--{owner}--{name}/{etag}.lock    held by who downloads
//! ```

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::HubError;
use super::name::{Repo, hex};

/// One repository's part of a cache.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    root: PathBuf,
    folder: String,
}

/// A blob's digest, as the hub's `ETag` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Etag {
    /// Of the bytes: large files.
    Sha256(String),
    /// Of `"blob {length}\0"` and the bytes, as git has it: small files.
    Git(String),
}

impl Etag {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"').to_ascii_lowercase();
        match text.len() {
            _ if hex(&text, 64) => Some(Self::Sha256(text)),
            _ if hex(&text, 40) => Some(Self::Git(text)),
            _ => None,
        }
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::Git(text) => text,
        }
    }

    /// The same digest of the `size` bytes at `path`.
    fn of(&self, path: &Path, size: u64) -> std::io::Result<String> {
        let mut context = match self {
            Self::Sha256(_) => Context::new(&SHA256),
            Self::Git(_) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {size}\0").as_bytes());
                context
            }
        };
        let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 16]);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => context.update(&buffer[..n]),
            }
        }
        Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

pub(super) fn disk(path: &Path) -> impl FnOnce(std::io::Error) -> HubError {
    let path = path.to_owned();
    |source| HubError::Disk { path, source }
}

fn make_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(disk(parent))
}

impl Cache {
    pub(super) fn new(root: &Path, repo: &Repo) -> Self {
        let folder = format!("models--{}", repo.name().replace('/', "--"));
        Self { root: root.to_owned(), folder }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join(&self.folder).join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, etag: &Etag) -> PathBuf {
        self.root.join(&self.folder).join("blobs").join(etag.as_str())
    }

    pub(super) fn incomplete(&self, etag: &Etag) -> PathBuf {
        self.blob(etag).with_extension("incomplete")
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.root.join(&self.folder).join("refs").join(revision)
    }

    /// The commit that a revision was at when it was last asked for.
    pub(super) fn commit(&self, repo: &Repo) -> Option<String> {
        if let Some(commit) = repo.commit() {
            return Some(commit.to_owned());
        }
        let commit = fs::read_to_string(self.reference(repo.revision())).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| hex(commit, 40))
    }

    /// A file that is here whole.
    pub(super) fn file(&self, commit: &str, file: &str) -> Option<PathBuf> {
        Some(self.snapshot(commit).join(file)).filter(|path| path.is_file())
    }

    pub(super) fn remember(&self, repo: &Repo, commit: &str) -> Result<(), HubError> {
        // Also where the cache may only be read.
        if self.commit(repo).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.reference(repo.revision());
        make_parent(&path)?;
        fs::write(&path, commit).map_err(disk(&path))
    }

    /// Waits until no other process downloads this blob; until the result is dropped, none does.
    pub(super) async fn lock(&self, etag: &Etag) -> Result<File, HubError> {
        let name = format!("{}.lock", etag.as_str());
        let path = self.root.join(".locks").join(&self.folder).join(name);
        make_parent(&path)?;
        let file = File::options().create(true).append(true).open(&path).map_err(disk(&path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    tokio::time::sleep(Duration::from_millis(100)).await
                }
                Err(TryLockError::Error(source)) => return Err(HubError::Disk { path, source }),
            }
        }
    }

    /// Makes a blob of what was downloaded; what is not what its digest says is removed.
    pub(super) fn finish(&self, file: &str, etag: &Etag, size: u64) -> Result<(), HubError> {
        let path = self.incomplete(etag);
        let found = etag.of(&path, size).map_err(disk(&path))?;
        if found != etag.as_str() {
            fs::remove_file(&path).map_err(disk(&path))?;
            let (file, expected) = (file.to_owned(), etag.as_str().to_owned());
            return Err(HubError::Digest { file, expected, found });
        }
        fs::rename(&path, self.blob(etag)).map_err(disk(&path))
    }

    /// Gives a blob its name in a snapshot.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &Etag) -> Result<PathBuf, HubError> {
        let path = self.snapshot(commit).join(file);
        make_parent(&path)?;
        if !path.is_file() {
            // A link whose blob is gone.
            let _ = fs::remove_file(&path);
            let up = "../".repeat(2 + file.split('/').count() - 1);
            self.point(&path, &format!("{up}blobs/{}", etag.as_str()), etag)
                .map_err(disk(&path))?;
        }
        Ok(path)
    }

    #[cfg(unix)]
    fn point(&self, path: &Path, target: &str, _: &Etag) -> std::io::Result<()> {
        match std::os::unix::fs::symlink(target, path) {
            // Another process was faster.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Links need a right of their own there.
    #[cfg(not(unix))]
    fn point(&self, path: &Path, _: &str, etag: &Etag) -> std::io::Result<()> {
        fs::copy(self.blob(etag), path).map(drop)
    }
}

/// Where the cache is, by the environment's variables.
pub(super) fn root(var: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("HF_HUB_CACHE").or_else(|| Some(home(var)?.join("hub")))
}

/// Where the hub's own tools keep what they know.
pub(super) fn home(var: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = || {
        let home = || set("HOME").or_else(|| set("USERPROFILE"));
        set("XDG_CACHE_HOME").or_else(|| Some(home()?.join(".cache")))
    };
    set("HF_HOME").or_else(|| Some(caches()?.join("huggingface")))
}
