//! `doctor`: looks at a server's directory and says what is wrong with it, and what to do.
//!
//! It changes nothing, and can run beside a server.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use gossamer_protocol::rotation::Rotation;
use serde::Serialize;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::{self, Config};
use crate::coordinator::disk_free;
use crate::problem::told;
use crate::setup::{self, ServeLock, SetupError};
use crate::store::{Kind, Store, StoreError, joined};
use crate::tls;

/// A certificate that ends sooner should be renewed.
const SOON_S: i64 = 30 * 86_400;
/// A clock that stands so far before the last sign of life was put back.
const BACK_MS: u64 = 5_000;
/// Before 2024, no clock is right.
const YEAR_2024_MS: u64 = 1_704_067_200_000;

/// How it stands with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing to do.
    Good,
    /// It works, but something should be done.
    Warning,
    /// It does not work.
    Bad,
}

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it stands with it.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do, where something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

fn good(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, state: State::Good, found: found.into(), advice: None }
}

fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    let (found, advice) = (found.into(), Some(advice.into()));
    Finding { check, state: State::Warning, found, advice }
}

fn bad(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    let (found, advice) = (found.into(), Some(advice.into()));
    Finding { check, state: State::Bad, found, advice }
}

/// Looks at everything in `dir`, as far as it can be looked at.
pub async fn examine(dir: &Path) -> Vec<Finding> {
    let mut findings =
        vec![good("version", format!("gossamer-server {}", env!("CARGO_PKG_VERSION")))];
    let config = match Config::load(dir) {
        Ok(config) => {
            findings.push(good("config", dir.join(config::FILE).display().to_string()));
            config
        }
        Err(error) => {
            let advice = "mend the file, or make a directory with `gossamer-server init`";
            findings.push(bad("config", told(&error), advice));
            return findings;
        }
    };
    findings.push(key(dir));
    findings.extend(certificates(&config));
    findings.push(disk(&config));
    let now = SystemClock.now();
    findings.extend(store(dir, now).await);
    findings.extend(ports(&config));
    findings
}

fn key(dir: &Path) -> Finding {
    let check = "server key";
    let key = match setup::signing_key(dir) {
        Ok(key) => key.public(),
        Err(error) => {
            return bad(
                check,
                told(&error),
                "restore keys/server.key from a backup: clients pin it",
            );
        }
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        for path in setup::key_files(dir) {
            let mode = std::fs::metadata(&path).map(|found| found.permissions().mode() & 0o777);
            if let Ok(mode) = mode.as_ref()
                && mode & 0o077 != 0
            {
                let advice = format!("chmod 600 {}", path.display());
                return warning(check, format!("others may read it (mode {mode:o})"), advice);
            }
        }
    }
    good(check, key.to_string())
}

fn certificates(config: &Config) -> Vec<Finding> {
    let check = "certificate";
    let (chain, key) = (config.path(&config.tls.certificate), config.path(&config.tls.key));
    if let Err(error) = tls::server_config(&chain, &key, None) {
        let advice = "put a PEM chain and its key where [tls] says";
        return vec![bad(check, told(&error), advice)];
    }
    let mut findings = vec![expiry(check, &chain)];
    if !config.tls.ca.as_os_str().is_empty() {
        let ca = config.path(&config.tls.ca);
        let mut found = expiry("CA for clients", &ca);
        if found.state == State::Good && !signs(&ca, &chain) {
            let advice = "name the CA that signed the chain in [tls] ca, or \"\" for the system's";
            let text = "it did not sign the certificate";
            found = bad("CA for clients", text, advice);
        }
        findings.push(found);
    }
    let asked =
        [("CA of clients", &config.tls.client_ca), ("CA of operators", &config.admin.client_ca)];
    for (check, path) in asked {
        let Some(path) = path.as_deref().map(|path| config.path(path)) else { continue };
        findings.push(match tls::server_config(&chain, &key, Some(&path)) {
            Ok(_) => expiry(check, &path),
            Err(error) => bad(check, told(&error), "put the CA's certificate there, PEM"),
        });
    }
    findings
}

/// Whether the first certificate in `ca` signed one in `chain`, by name.
fn signs(ca: &Path, chain: &Path) -> bool {
    let (Ok(ca), Ok(chain)) = (tls::certificates(ca), tls::certificates(chain)) else {
        return false;
    };
    let Some(Ok((_, ca))) = ca.first().map(|ca| X509Certificate::from_der(ca)) else {
        return false;
    };
    chain.iter().any(|one| match X509Certificate::from_der(one) {
        Ok((_, one)) => one.issuer() == ca.subject(),
        Err(_) => false,
    })
}

fn expiry(check: &'static str, path: &Path) -> Finding {
    let advice = format!("put a certificate that holds in {}", path.display());
    let chain = match tls::certificates(path) {
        Ok(chain) => chain,
        Err(error) => return bad(check, told(&error), advice),
    };
    let Some(Ok((_, leaf))) = chain.first().map(|leaf| X509Certificate::from_der(leaf)) else {
        return bad(check, "it is no X.509 certificate", advice);
    };
    let now = i64::try_from(SystemClock.now().0 / 1_000).unwrap_or(i64::MAX);
    let validity = leaf.validity();
    let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if now < from {
        return bad(
            check,
            format!("not valid before {}", validity.not_before),
            "set the clock right",
        );
    }
    if now >= to {
        return bad(check, format!("it ended {}", validity.not_after), advice);
    }
    let found = format!("for {}; until {}", names(&leaf), validity.not_after);
    if to - now < SOON_S { warning(check, found, advice) } else { good(check, found) }
}

/// The names a certificate is for.
fn names(leaf: &X509Certificate<'_>) -> String {
    let Ok(Some(names)) = leaf.subject_alternative_name() else {
        return leaf.subject().to_string();
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => {
            match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                (Ok(v4), _) => std::net::Ipv4Addr::from(v4).to_string(),
                (_, Ok(v6)) => std::net::Ipv6Addr::from(v6).to_string(),
                _ => "a malformed address".to_owned(),
            }
        }
        other => format!("{other:?}"),
    };
    names.value.general_names.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn disk(config: &Config) -> Finding {
    let check = "disk";
    let Some(free) = disk_free(&config.dir) else {
        return warning(check, "the system does not tell how much is free", "look yourself");
    };
    let (found, least) = (format!("{} MiB free", free >> 20), config.disk_free_min_bytes);
    let advice = "free some space, or put the directory on a larger disk";
    if free < least {
        bad(check, format!("{found}; disk_free_min_bytes is {} MiB", least >> 20), advice)
    } else if free < least.saturating_mul(4) {
        warning(check, found, advice)
    } else {
        good(check, found)
    }
}

async fn store(dir: &Path, now: Timestamp) -> Vec<Finding> {
    let store = match setup::store(dir).await {
        Ok(store) => store,
        Err(error) => {
            let advice = match &error {
                SetupError::Store(StoreError::Migrate(_)) => {
                    "use the build that last served it, or a newer one"
                }
                SetupError::Store(StoreError::NoStore(_)) => "make one with `gossamer-server init`",
                SetupError::Store(StoreError::Away(_)) => {
                    "see that the database runs, and that [store] and PGPASSWORD are right"
                }
                _ => "restore the directory from a backup",
            };
            return vec![bad("store", told(&error), advice)];
        }
    };
    let mut findings = vec![rows(&store).await, clock(&store, now).await];
    findings.push(objects(&store).await);
    if let Ok(key) = setup::signing_key(dir) {
        findings.extend(rotations(dir, &store, now).await);
        let chain = store.rotations().await.unwrap_or_default();
        match store.owner().await {
            Ok(Some(owner)) if !joined(&owner, &chain).knows(&key.public()) => {
                let advice = "copy keys/server.key from a server that serves this store";
                findings.push(bad("store's key", format!("it belongs to {owner}"), advice));
            }
            Ok(_) => {}
            Err(error) => findings.push(bad("store's key", told(&error), "try again")),
        }
        findings.push(match store.verify_audit(&key.public(), None).await {
            Ok(head) => good("audit log", format!("{} entries, whole", head.seq)),
            Err(fault) => {
                let advice = "find out who changed it: compare with a backup";
                bad("audit log", told(&fault), advice)
            }
        });
    }
    store.close().await;
    findings
}

/// Whether the secrets of the keys that followed the first one are here; nothing where there was only ever one.
async fn rotations(dir: &Path, store: &Store, now: Timestamp) -> Option<Finding> {
    let check = "signing key";
    let chain = match store.rotations().await {
        Ok(chain) => chain,
        Err(error) => return Some(bad(check, told(&error), "restore the store from a backup")),
    };
    let (first, newest) = (chain.first()?.from, chain.last()?.to);
    if joined(&first, &chain).key != newest {
        let found = "a statement by which one key follows another is not signed by both";
        return Some(bad(check, found, "find out who changed it: compare with a backup"));
    }
    let advice = "copy it into keys/ from the server where `key rotate` was run";
    let begun = |next: &&Rotation| next.at_ms <= now.0;
    let due = chain.iter().rev().find(begun).map_or(first, |next| next.to);
    if !setup::has_key(dir, &due) {
        let found = format!("the secret of {due}, which should sign now, is not here");
        return Some(bad(check, found, advice));
    }
    if let Some(next) = chain.iter().find(|next| !begun(next) && !setup::has_key(dir, &next.to)) {
        let (key, at) = (next.to, next.at_ms);
        let found = format!("the secret of {key}, which signs from {at} (Unix ms) on, is not here");
        return Some(warning(check, found, advice));
    }
    let over = |next: &&Rotation| next.until_ms <= now.0 && setup::has_key(dir, &next.from);
    if let Some(Rotation { from, .. }) = chain.iter().find(over) {
        let found = format!("the secret of {from} is here, which is believed no more");
        let advice = "take it out of keys/: it can only be stolen";
        return Some(warning(check, found, advice));
    }
    Some(good(check, format!("{due} signs; it is one of {}", chain.len() + 1)))
}

async fn rows(store: &Store) -> Finding {
    let advice = "stop the server and restore the directory from a backup";
    match store.integrity().await {
        Ok(wrong) if wrong.is_empty() && store.is_shared() => {
            good("store", "Postgres answers, and flushes what it commits")
        }
        Ok(wrong) if wrong.is_empty() => good("store", "the database is whole"),
        Ok(wrong) => bad("store", wrong.join("; "), advice),
        Err(error) => bad("store", told(&error), advice),
    }
}

async fn clock(store: &Store, now: Timestamp) -> Finding {
    let advice = "set the clock right, and keep it so (NTP): deadlines and signatures need it";
    if now.0 < YEAR_2024_MS {
        return bad("clock", format!("it says {} ms after 1970", now.0), advice);
    }
    match store.alive().await {
        Ok(Some(alive)) if alive.0 > now.0.saturating_add(BACK_MS) => {
            let found = format!(
                "it stands {} s before the server's last sign of life",
                (alive.0 - now.0) / 1_000
            );
            bad("clock", found, advice)
        }
        Ok(_) => good("clock", "after all that the store knows of"),
        Err(error) => bad("clock", told(&error), advice),
    }
}

/// What every run needs to go on.
async fn objects(store: &Store) -> Finding {
    let looked = async {
        let (mut wrong, mut seen) = (Vec::new(), 0);
        store.objects().reach().await?;
        for run in store.run_rows().await? {
            let Some(record) = store.record(run.id, run.round).await? else {
                wrong.push(format!("run {} has no record of its round", run.id));
                continue;
            };
            seen += 1;
            if let Err(error) = store.state(run.id, run.round, record.state).await {
                wrong.push(format!("run {}: {}", run.id, told(&error)));
            }
            let mut needed = vec![(Kind::Snapshot, record.snapshot)];
            let frames = store.accepted(run.id).await?;
            needed.extend(frames.into_iter().map(|frame| (Kind::Update, frame)));
            for (kind, digest) in needed {
                seen += 1;
                if let Err(error) = store.objects().get(kind, digest).await {
                    wrong.push(format!("run {}: {}", run.id, told(&error)));
                }
            }
        }
        Ok::<_, StoreError>((wrong, seen))
    };
    let advice = match store.is_shared() {
        false => "restore objects/ from a backup",
        true => {
            "see that the bucket is there, and that AWS_ACCESS_KEY_ID and what goes with it are right"
        }
    };
    match looked.await {
        Ok((wrong, seen)) if wrong.is_empty() => {
            good("objects", format!("{seen} that runs need, all whole"))
        }
        Ok((wrong, _)) => bad("objects", wrong.join("; "), advice),
        Err(error) => bad("objects", told(&error), advice),
    }
}

fn ports(config: &Config) -> Vec<Finding> {
    match ServeLock::take(&config.dir) {
        Err(SetupError::Locked(_)) => return vec![good("ports", "a server is running on it")],
        Err(error) => return vec![bad("ports", told(&error), "make the directory writable")],
        Ok(_lock) => {}
    }
    let listeners = [("port", Some(config.listen)), ("admin port", config.admin.listen)];
    listeners.into_iter().filter_map(|(check, address)| Some(port(check, address?))).collect()
}

fn port(check: &'static str, address: SocketAddr) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => good(check, format!("{address} is free")),
        Err(error) => {
            let advice = "stop what listens there, or choose another address in config.toml";
            bad(check, format!("cannot listen on {address}: {error}"), advice)
        }
    }
}
