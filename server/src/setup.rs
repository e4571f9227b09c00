//! A server's directory: what `init` makes, and what is read from it again.
//!
//! ```text
//! config.toml    keys/{server.key, those that followed it}    tls/{ca.pem, server.pem, server.key}
//! store.sqlite   objects/           staging/      lock
//! ```
//!
//! Where `[store]` in the configuration says so, rows and objects are elsewhere; then other directories, with
//! the same key, may be served on the same store.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use gossamer_protocol::hex;
use gossamer_protocol::message::JoinToken;
use gossamer_protocol::sign::PublicKey;

use crate::clock::SystemClock;
use crate::config::{self, Config, ConfigError};
use crate::coordinator::{Coordinator, CoordinatorError, Keyring};
use crate::store::{Places, Store, StoreError, joined};
use crate::tls::{self, TlsError};

mod secrets;

use secrets::Folder;
pub(crate) use secrets::key_files;
pub use secrets::{has_key, new_key, signing_key};

const KEYS: &str = "keys";
const KEY: &str = "keys/server.key";
const LOCK: &str = "lock";

/// Why a directory cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// `init` never overwrites: a lost key would orphan every client.
    #[error("{0} already holds a server")]
    Exists(PathBuf),
    /// A file failed.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The key file holds no key.
    #[error("{0} is no key: 64 hexadecimal digits are expected")]
    BadKey(PathBuf),
    /// Another process serves this directory.
    #[error("another gossamer-server serves {0}")]
    Locked(PathBuf),
    /// The store is another aggregator's.
    #[error(
        "the store belongs to servers of the key {owner}, this one has {ours}: copy their keys/server.key"
    )]
    NotOurs {
        /// Whose it is.
        owner: PublicKey,
        /// This server's key.
        ours: PublicKey,
    },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The coordinator.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
}

/// Makes a server's directory: a signing key, a development CA with a certificate for localhost,
/// its addresses and `names`, a configuration and an empty store.
///
/// # Errors
/// [`SetupError::Exists`] where there is one already, and what fails on the way.
///
/// # Panics
/// Where the system has no randomness: a key made without would be known to all.
pub async fn init(dir: &Path, names: &[String], config: &Config) -> Result<(), SetupError> {
    if dir.join(config::FILE).exists() {
        return Err(SetupError::Exists(dir.to_owned()));
    }
    let config = Config { dir: dir.to_owned(), ..config.clone() };
    config.check_store(&dir.join(config::FILE))?;
    // A key without a configuration: an `init` that was cut off, and is ended now with that key.
    let has_key = dir.join(KEY).exists();
    if has_key {
        signing_key(dir)?;
    }
    let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    all.extend(
        names
            .iter()
            .filter(|name| !["localhost", "127.0.0.1", "::1"].contains(&name.as_str()))
            .cloned(),
    );
    let certificates = tls::development(&all)?;
    if !has_key {
        write(&dir.join(KEY), hex::encode(&secrets::new_seed()).as_bytes(), true)?;
    }
    let files = [
        ("tls/ca.pem", certificates.ca, false),
        ("tls/server.pem", certificates.certificate, false),
        ("tls/server.key", certificates.key, true),
    ];
    // All or none: they go together, and clients may trust this CA already.
    if !files.iter().all(|(name, ..)| dir.join(name).exists()) {
        for (name, text, secret) in files {
            write(&dir.join(name), text.as_bytes(), secret)?;
        }
    }
    let store = Store::create_at(&config.places()).await?;
    let ours = must_be_ours(&store, &signing_key(dir)?.public()).await;
    store.close().await;
    ours?;
    // Last, so that a directory with a configuration is whole.
    let text = toml::to_string(&config).expect("a configuration is always TOML");
    write(&dir.join(config::FILE), text.as_bytes(), false)
}

/// The coordinator of a directory, by the system's clock.
///
/// # Errors
/// [`SetupError`] where something is missing or damaged.
pub async fn coordinator(dir: &Path) -> Result<Coordinator, SetupError> {
    let (store, key) = (store(dir).await?, signing_key(dir)?);
    must_be_ours(&store, &key.public()).await?;
    let ring = Some(Arc::new(Folder(dir.join(KEYS))) as Arc<dyn Keyring>);
    Ok(Coordinator::open_with(store, key, ring, Arc::new(SystemClock)).await?)
}

/// The store of a directory, where its configuration says.
///
/// # Errors
/// [`SetupError`] where there is none or it cannot be read.
pub async fn store(dir: &Path) -> Result<Store, SetupError> {
    let configured = dir.join(config::FILE).exists();
    let places = if configured { Config::load(dir)?.places() } else { Places::within(dir) };
    Ok(Store::open_at(&places).await?)
}

/// Two keys on one store would sign one chain of records.
async fn must_be_ours(store: &Store, ours: &PublicKey) -> Result<(), SetupError> {
    let owner = store.belongs_to(ours).await?;
    if joined(&owner, &store.rotations().await?).knows(ours) {
        Ok(())
    } else {
        Err(SetupError::NotOurs { owner, ours: *ours })
    }
}

/// What a device is handed: the token's secret, the server's key, and the CA to trust.
///
/// # Errors
/// [`SetupError`] where the key or the CA cannot be read.
pub fn join_token(config: &Config, secret: String) -> Result<JoinToken, SetupError> {
    join_token_of(config, secret, signing_key(&config.dir)?.public())
}

/// As [`join_token`], with the key that the device is to pin: the one that signs now.
///
/// # Errors
/// [`SetupError`] where the CA cannot be read.
pub fn join_token_of(
    config: &Config,
    secret: String,
    server_key: PublicKey,
) -> Result<JoinToken, SetupError> {
    let ca = if config.tls.ca.as_os_str().is_empty() {
        None
    } else {
        let found = tls::certificates(&config.path(&config.tls.ca))?;
        found.first().map(|ca| BASE64.encode(ca))
    };
    Ok(JoinToken { secret, server_key, ca })
}

/// Held while a process serves a directory; let go by the system when it ends, however it ends.
#[derive(Debug)]
pub struct ServeLock {
    _file: File,
}

impl ServeLock {
    /// Takes it.
    ///
    /// # Errors
    /// [`SetupError::Locked`] where another process has it.
    pub fn take(dir: &Path) -> Result<Self, SetupError> {
        let path = dir.join(LOCK);
        let io = |source| SetupError::Io { what: "lock", path: path.clone(), source };
        let file = File::create(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => Err(SetupError::Locked(dir.to_owned())),
            Err(std::fs::TryLockError::Error(source)) => Err(io(source)),
        }
    }
}

fn write(path: &Path, bytes: &[u8], secret: bool) -> Result<(), SetupError> {
    let io = |what| move |source| SetupError::Io { what, path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(io("make the folder of"))?;
    }
    // Only what a cut-off `init` left can be there; anew, so that a secret has its mode.
    if path.exists() {
        std::fs::remove_file(path).map_err(io("replace"))?;
    }
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if secret {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = secret;
    let mut file = options.open(path).map_err(io("create"))?;
    file.write_all(bytes).map_err(io("write"))?;
    file.sync_all().map_err(io("flush"))
}
