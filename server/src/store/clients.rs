//! Clients and revocations.

use std::collections::BTreeMap;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::sign::PublicKey;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::database::transact;
use super::rows::{array, count, int};
use super::{Store, StoreError, audit, projects};
use crate::audit::Note;
use crate::certificate::Certificate;
use crate::clock::Timestamp;
use crate::project::{ProjectName, Scope, text};

/// What an enrolment came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enrolling {
    /// The token is now used by this key.
    New,
    /// This key used this token before: its reply was lost.
    Again,
    /// No such token, or used up by other keys, or too old; or the key was replaced, or is another
    /// client's, or in another project.
    Refused,
    /// The key was revoked.
    Revoked,
}

/// What is to be known of an enrolled client to serve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// What it signs with.
    pub(crate) key: PublicKey,
    /// Whose it is.
    pub(crate) project: ProjectName,
    /// SHA-256 of the TLS certificate that it is bound to; none: the next one that it shows.
    pub(crate) certificate: Option<Digest>,
}

/// A client as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ClientRow {
    /// Its name.
    #[schemars(with = "String")]
    pub client: ClientId,
    /// Whose it is.
    #[schemars(with = "String")]
    pub project: ProjectName,
    /// SHA-256 of the TLS certificate that it must show, where it is bound to one.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Digest>,
    /// Unix time in milliseconds at which it enrolled; none: before that was noted.
    pub enrolled_ms: Option<u64>,
    /// When it was revoked, if it was.
    pub revoked_ms: Option<u64>,
    /// Why it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a client did in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Part {
    /// Updates of it that were accepted.
    pub updates: u64,
    /// The last round it has one in.
    #[schemars(with = "u64")]
    pub last: RoundId,
}

impl Store {
    /// Uses a token for `key`, at once with the client's row, which is bound to the certificate that it shows.
    pub(crate) async fn enrol(
        &self,
        token: Digest,
        key: &PublicKey,
        certificate: Option<&Certificate>,
        now: Timestamp,
        note: &Note,
    ) -> Result<Enrolling, StoreError> {
        let client = ClientId::of(&key.0);
        transact!(self, |tx| {
            audit::lock(tx).await?;
            let row = sqlx::query(
                "SELECT expires_ms, quota, project, \
                 (SELECT COUNT(*) FROM token_uses WHERE hash = $1) AS used, \
                 (SELECT COUNT(*) FROM token_uses WHERE hash = $1 AND client = $2) AS again, \
                 (SELECT COUNT(*) FROM revocations WHERE client = $2) AS revoked, \
                 (SELECT COUNT(*) FROM clients WHERE id = $2 \
                 AND (public_key <> $3 OR project <> tokens.project)) + \
                 (SELECT COUNT(*) FROM clients WHERE public_key = $3 AND id <> $2) + \
                 (SELECT COUNT(*) FROM former_keys WHERE public_key = $3) AS other \
                 FROM tokens WHERE hash = $1",
            )
            .bind(&token.0[..])
            .bind(&client.0[..])
            .bind(&key.0[..])
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(Enrolling::Refused) };
            if row.try_get::<i64, _>("revoked")? > 0 {
                return Ok(Enrolling::Revoked);
            }
            // A key that was replaced does not come back, no two clients have one, nobody is of two projects.
            if row.try_get::<i64, _>("other")? > 0 {
                return Ok(Enrolling::Refused);
            }
            if row.try_get::<i64, _>("again")? > 0 {
                return Ok(Enrolling::Again);
            }
            let (quota, used): (i64, i64) = (row.try_get("quota")?, row.try_get("used")?);
            if used >= quota || row.try_get::<i64, _>("expires_ms")? <= int(now.0) {
                return Ok(Enrolling::Refused);
            }
            sqlx::query("INSERT INTO token_uses (hash, client) VALUES ($1, $2)")
                .bind(&token.0[..])
                .bind(&client.0[..])
                .execute(&mut *tx)
                .await?;
            let entry = audit::append(tx, note).await?;
            sqlx::query(
                "INSERT INTO clients (id, public_key, enrolled_ms, entry, project, certificate, certified) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
            )
            .bind(&client.0[..])
            .bind(&key.0[..])
            .bind(int(now.0))
            .bind(int(entry))
            .bind(row.try_get::<String, _>("project")?)
            .bind(certificate.map(|shown| shown.fingerprint.0.to_vec()))
            .bind(certificate.map(|shown| shown.names.0.to_vec()))
            .execute(&mut *tx)
            .await?;
            Ok(Enrolling::New)
        })
    }

    /// Who enrolled after audit entry `after` (none: everyone), the revoked too, each with its entry.
    pub(crate) async fn enrolled(
        &self,
        after: Option<u64>,
    ) -> Result<Vec<(u64, ClientId, Member)>, StoreError> {
        // Who enrolled before entries were noted has none.
        let text =
            "SELECT id, public_key, project, certificate, COALESCE(entry, 0) AS entry FROM clients";
        let rows = match after {
            None => sqlx::query(text).fetch_all(&self.0.database.writer).await?,
            Some(after) => sqlx::query(
                "SELECT id, public_key, project, certificate, entry FROM clients WHERE entry > $1 \
                     ORDER BY entry",
            )
            .bind(int(after))
            .fetch_all(&self.0.database.reader)
            .await?,
        };
        rows.iter()
            .map(|row| {
                let id = ClientId(array(row.try_get("id")?)?);
                let key = PublicKey(array(row.try_get("public_key")?)?);
                let project = projects::name(row.try_get("project")?)?;
                let certificate = fingerprint(row)?;
                Ok((count(row.try_get("entry")?)?, id, Member { key, project, certificate }))
            })
            .collect()
    }

    /// Who was revoked after revocation `after`, in order, each with its number.
    pub(crate) async fn revoked(&self, after: u64) -> Result<Vec<(u64, ClientId)>, StoreError> {
        let rows = sqlx::query("SELECT seq, client FROM revocations WHERE seq > $1 ORDER BY seq")
            .bind(int(after))
            .fetch_all(&self.0.database.reader)
            .await?;
        rows.iter()
            .map(|row| Ok((count(row.try_get("seq")?)?, ClientId(array(row.try_get("client")?)?))))
            .collect()
    }

    /// Revokes a client for good; false where that was done before.
    pub(crate) async fn revoke(
        &self,
        client: ClientId,
        reason: &str,
        note: &Note,
    ) -> Result<bool, StoreError> {
        let statement = || {
            sqlx::query(
                "INSERT INTO revocations (client, at_ms, reason) VALUES ($1, $2, $3) \
                 ON CONFLICT (client) DO NOTHING",
            )
            .bind(&client.0[..])
            .bind(int(note.at.0))
            .bind(reason)
        };
        self.noted(statement, note).await
    }

    /// `limit` clients in `scope` behind `after`, by id.
    pub(crate) async fn client_rows(
        &self,
        scope: &Scope,
        after: Option<ClientId>,
        limit: u32,
    ) -> Result<Vec<ClientRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, project, certificate, enrolled_ms, at_ms, reason FROM clients \
             LEFT JOIN revocations ON client = id \
             WHERE id > $1 AND ($3 = '' OR project = $3) ORDER BY id LIMIT $2",
        )
        .bind(after.map_or_else(Vec::new, |after| after.0.to_vec()))
        .bind(i64::from(limit))
        .bind(text(scope))
        .fetch_all(&self.0.database.reader)
        .await?;
        rows.iter().map(client).collect()
    }

    /// One client in `scope`, and what it did in each run.
    pub(crate) async fn client_row(
        &self,
        scope: &Scope,
        id: ClientId,
    ) -> Result<Option<(ClientRow, BTreeMap<RunId, Part>)>, StoreError> {
        let row = sqlx::query(
            "SELECT id, project, certificate, enrolled_ms, at_ms, reason FROM clients \
             LEFT JOIN revocations ON client = id WHERE id = $1 AND ($2 = '' OR project = $2)",
        )
        .bind(&id.0[..])
        .bind(text(scope))
        .fetch_optional(&self.0.database.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let parts = sqlx::query(
            "SELECT run, COUNT(*) AS updates, MAX(round) AS last FROM updates \
             WHERE client = $1 GROUP BY run",
        )
        .bind(&id.0[..])
        .fetch_all(&self.0.database.reader)
        .await?;
        let part = |row: &AnyRow| {
            let run = RunId(array(row.try_get("run")?)?);
            let updates = count(row.try_get("updates")?)?;
            Ok((run, Part { updates, last: RoundId(count(row.try_get("last")?)?) }))
        };
        let parts = parts.iter().map(part).collect::<Result<_, StoreError>>()?;
        Ok(Some((client(&row)?, parts)))
    }
}

fn fingerprint(row: &AnyRow) -> Result<Option<Digest>, StoreError> {
    let bound: Option<Vec<u8>> = row.try_get("certificate")?;
    bound.map(|bound| Ok(Digest(array(&bound)?))).transpose()
}

fn client(row: &AnyRow) -> Result<ClientRow, StoreError> {
    let moment = |at: Option<i64>| at.map(count).transpose();
    Ok(ClientRow {
        client: ClientId(array(row.try_get("id")?)?),
        project: projects::name(row.try_get("project")?)?,
        certificate: fingerprint(row)?,
        enrolled_ms: moment(row.try_get("enrolled_ms")?)?,
        revoked_ms: moment(row.try_get("at_ms")?)?,
        reason: row.try_get("reason")?,
    })
}
