//! `config.toml` in a server's directory. Every field has a default; unknown ones are refused.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::coordinator::Folding;
use crate::store::Places;

/// The file's name.
pub const FILE: &str = "config.toml";

/// How a server runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where everything else is; not in the file.
    #[serde(skip)]
    pub dir: PathBuf,
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Connections served at once; some more are told to come back, the rest wait.
    pub connections_max: u32,
    /// Requests worked on at once; more are told to come back.
    pub requests_max: u32,
    /// Bytes of requests' bodies, and of snapshots read for one client, in memory at once; whoever
    /// would need more is told to come back. A frame must fit.
    pub bodies_bytes_max: u64,
    /// Seconds a TLS handshake may take.
    pub handshake_timeout_s: u32,
    /// Seconds a request's head may take, and a connection until its first request.
    pub header_timeout_s: u32,
    /// Seconds between two pieces of a body, either way. A body of more must come at 1 KiB/s or so.
    pub body_timeout_s: u32,
    /// Seconds that requests under way get when the server is told to stop.
    pub shutdown_timeout_s: u32,
    /// Bytes free on the disk of the store below which the server says that it is not ready.
    pub disk_free_min_bytes: u64,
    /// Milliseconds between looks at deadlines and at what the command line did.
    pub tick_ms: u32,
    /// What one client and one address may take.
    pub limits: Limits,
    /// The certificate.
    pub tls: Tls,
    /// The admin API and the dashboard.
    pub admin: Admin,
    /// Where rows and objects are, where that is not the directory.
    pub store: Store,
    /// Which snapshots are kept.
    pub retention: Retention,
    /// Where traces go.
    pub otlp: Otlp,
}

/// Where traces go: a collector that speaks OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Otlp {
    /// Its address, such as `http://localhost:4318`; none: no traces.
    pub endpoint: Option<String>,
    /// What this server is called there.
    pub service: String,
    /// The share of requests that is traced, where the caller does not say.
    pub share: f64,
}

impl Default for Otlp {
    fn default() -> Self {
        Self { endpoint: None, service: "gossamer-server".to_owned(), share: 1.0 }
    }
}

/// Which snapshots are kept, with the states behind them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Those of so many of each run's last rounds; none: all. What a tag names, the best one, and what clients may
    /// need is kept anyway.
    pub rounds: Option<NonZeroU32>,
}

/// Where rows and objects are: for several servers that share them, in Postgres and an S3-compatible store.
/// Passwords and keys are in the environment, never here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// The database, `postgres://USER@HOST/NAME`; its password is in `PGPASSWORD` or `~/.pgpass`.
    pub database: Option<String>,
    /// The objects, `s3://BUCKET/PREFIX`; the keys are in `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    pub objects: Option<String>,
    /// Where the bucket is spoken to, where that is not AWS.
    pub endpoint: Option<String>,
    /// Rounds of more updates than this are folded in parts of so many, which servers that share a store
    /// divide among them.
    pub fold_part: NonZeroU32,
    /// Seconds that a server has for such a part, until another may do it.
    pub fold_lease_s: NonZeroU32,
    /// Threads that decode updates when a round is folded; more close a large round sooner, and leave less to
    /// requests meanwhile.
    pub fold_threads: NonZeroU32,
}

impl Default for Store {
    fn default() -> Self {
        let Folding { part, lease_s, threads } = Folding::default();
        Self {
            database: None,
            objects: None,
            endpoint: None,
            fold_part: part,
            fold_lease_s: lease_s,
            fold_threads: threads,
        }
    }
}

/// What one client, one project, and all who come from one address, may take; more is refused with the time to wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Signed requests of one client.
    pub client: Rate,
    /// Signed requests of all clients of one project.
    pub project: Rate,
    /// Requests from one address: an IPv4 address, or an IPv6 network of 64 bits. Many devices may be behind one.
    pub address: Rate,
    /// Connections from one address; 0: as many as there are.
    pub address_connections: u32,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Tokens that come back a second; 0: no limit.
    pub a_second: f64,
    /// Tokens that a full bucket has.
    pub burst: u32,
}

/// The admin API, the dashboard and the metrics: on an address of their own, with the same
/// certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address to listen on; none: they are not served.
    pub listen: Option<SocketAddr>,
    /// Connections served at once.
    pub connections_max: u32,
    /// Requests worked on at once.
    pub requests_max: u32,
    /// Event streams open at once: a dashboard holds one.
    pub streams_max: u32,
    /// Whether `/metrics` is told to whoever asks, without a token.
    pub metrics_open: bool,
    /// The CAs of which operators must show a certificate beside their token, PEM; none: they show none.
    pub client_ca: Option<PathBuf>,
}

/// Where the certificate is; relative paths start at the server's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The CA that join tokens tell clients to trust, PEM; `""`: the ones their system trusts.
    pub ca: PathBuf,
    /// The CAs of which each client must show a certificate, PEM; none: clients show none.
    pub client_ca: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            connections_max: 4_096,
            requests_max: 256,
            bodies_bytes_max: 1 << 29,
            handshake_timeout_s: 10,
            header_timeout_s: 10,
            body_timeout_s: 30,
            shutdown_timeout_s: 10,
            disk_free_min_bytes: 1 << 28,
            tick_ms: 250,
            limits: Limits::default(),
            retention: Retention::default(),
            otlp: Otlp::default(),
            tls: Tls::default(),
            admin: Admin::default(),
            store: Store::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            client: Rate { a_second: 50.0, burst: 500 },
            project: Rate { a_second: 0.0, burst: 0 },
            address: Rate { a_second: 500.0, burst: 5_000 },
            address_connections: 1_024,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: None,
            connections_max: 64,
            requests_max: 32,
            streams_max: 16,
            metrics_open: false,
            client_ca: None,
        }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            certificate: "tls/server.pem".into(),
            key: "tls/server.key".into(),
            ca: "tls/ca.pem".into(),
            client_ca: None,
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The directory or the file is not there.
    #[error("cannot read {path}; `gossamer-server init` makes it")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, or an unknown or malformed field.
    #[error("{path}:{line}: {why}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is off.
        why: String,
    },
    /// A rate that nothing can keep.
    #[error("{path}: {field}: expected 0 (no limit), or 1e-6 to 1e6 a second, found {found}")]
    Rate {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        found: f64,
    },
    /// The store cannot be there.
    #[error("{path}: {field}: {why}")]
    Store {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What is off.
        why: &'static str,
    },
    /// A limit of 0 would serve nobody.
    #[error("{path}: {field}: expected at least 1")]
    Zero {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
    },
}

impl Store {
    /// The field that cannot be, and why.
    fn wrong(&self) -> Option<(&'static str, &'static str)> {
        if let Some(url) = &self.database {
            let Some(rest) =
                url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"))
            else {
                return Some(("store.database", "expected postgres://USER@HOST/NAME"));
            };
            let place = rest.split(['/', '?']).next().unwrap_or_default();
            let user = place.rsplit_once('@').map_or("", |(user, _)| user);
            if user.contains(':') || rest.contains("password=") {
                let why = "a password belongs into PGPASSWORD or ~/.pgpass, not into a file that is shown";
                return Some(("store.database", why));
            }
            if self.objects.is_none() {
                let why = "servers that share a database share their objects too: expected s3://BUCKET/PREFIX";
                return Some(("store.objects", why));
            }
        }
        match (&self.objects, &self.endpoint) {
            (Some(url), _) if !url.starts_with("s3://") => {
                Some(("store.objects", "expected s3://BUCKET/PREFIX"))
            }
            (None, Some(_)) => Some(("store.endpoint", "there is no store.objects that it is for")),
            _ => None,
        }
    }
}

impl Config {
    /// Where the store is.
    #[must_use]
    pub fn places(&self) -> Places {
        let Store { database, objects, endpoint, .. } = self.store.clone();
        Places { dir: self.dir.clone(), database, objects, endpoint }
    }

    /// Whether it can be used, as read from `path`.
    ///
    /// # Errors
    /// [`ConfigError::Store`] where the store cannot be where it says.
    pub fn check_store(&self, path: &Path) -> Result<(), ConfigError> {
        match self.store.wrong() {
            None => Ok(()),
            Some((field, why)) => Err(ConfigError::Store { path: path.to_owned(), field, why }),
        }
    }

    /// Reads `config.toml` in `dir`.
    ///
    /// # Errors
    /// [`ConfigError`] at the first thing that is off.
    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        let config = toml::from_str::<Self>(&text).map_err(|e| {
            let at = e.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(at).filter(|&b| b == b'\n').count();
            ConfigError::Syntax { path: path.clone(), line, why: e.message().to_owned() }
        })?;
        let positive = [
            ("connections_max", config.connections_max),
            ("requests_max", config.requests_max),
            ("handshake_timeout_s", config.handshake_timeout_s),
            ("header_timeout_s", config.header_timeout_s),
            ("body_timeout_s", config.body_timeout_s),
            ("tick_ms", config.tick_ms),
            ("admin.connections_max", config.admin.connections_max),
            ("admin.requests_max", config.admin.requests_max),
            ("admin.streams_max", config.admin.streams_max),
        ];
        let zero = positive.iter().find(|(_, value)| *value == 0).map(|(field, _)| *field);
        let zero = zero.or((config.bodies_bytes_max == 0).then_some("bodies_bytes_max"));
        if let Some(field) = zero {
            return Err(ConfigError::Zero { path, field });
        }
        for (field, Rate { a_second: found, .. }) in [
            ("limits.client.a_second", config.limits.client),
            ("limits.project.a_second", config.limits.project),
            ("limits.address.a_second", config.limits.address),
        ] {
            if found != 0.0 && !(1e-6..=1e6).contains(&found) {
                return Err(ConfigError::Rate { path, field, found });
            }
        }
        config.check_store(&path)?;
        Ok(Self { dir: dir.to_owned(), ..config })
    }

    /// A path of the configuration, from where the server's directory is.
    #[must_use]
    pub fn path(&self, path: &Path) -> PathBuf {
        self.dir.join(path)
    }
}
