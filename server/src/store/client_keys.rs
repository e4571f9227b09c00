//! Clients' keys that follow one another.

use gossamer_protocol::ids::ClientId;
use gossamer_protocol::sign::PublicKey;
use sqlx::Row as _;

use super::database::transact;
use super::rows::{array, int};
use super::{Store, StoreError, audit};
use crate::audit::Note;

/// Former keys of one client that are looked at.
const FORMER_MAX: i64 = 8;

/// What a change of keys came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rekeying {
    /// The client has the new key, now or since before.
    Done,
    /// The client has another key than the one that asked.
    Replaced,
    /// The new key is another client's, or was replaced once.
    Taken,
    /// The client was revoked.
    Revoked,
}

impl Store {
    /// Gives a client another key, where it has `from`, and notes that in the log; where it asks with the new one,
    /// that was done before.
    pub(crate) async fn change_key(
        &self,
        client: ClientId,
        from: &PublicKey,
        to: &PublicKey,
        note: &Note,
    ) -> Result<Rekeying, StoreError> {
        transact!(self, |tx| {
            audit::lock(tx).await?;
            let row = sqlx::query(
                "SELECT public_key, \
                 (SELECT COUNT(*) FROM revocations WHERE client = $1) AS revoked, \
                 (SELECT COUNT(*) FROM clients WHERE public_key = $2 AND id <> $1) + \
                 (SELECT COUNT(*) FROM clients WHERE id = $3 AND id <> $1) + \
                 (SELECT COUNT(*) FROM former_keys WHERE public_key = $2) AS taken \
                 FROM clients WHERE id = $1",
            )
            .bind(&client.0[..])
            .bind(&to.0[..])
            .bind(&ClientId::of(&to.0).0[..])
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(Rekeying::Replaced) };
            let stands: Vec<u8> = row.try_get("public_key")?;
            if row.try_get::<i64, _>("revoked")? > 0 {
                return Ok(Rekeying::Revoked);
            }
            if stands != from.0 {
                return Ok(Rekeying::Replaced);
            }
            if from == to {
                return Ok(Rekeying::Done);
            }
            if row.try_get::<i64, _>("taken")? > 0 {
                return Ok(Rekeying::Taken);
            }
            let former =
                "INSERT INTO former_keys (public_key, client, until_ms) VALUES ($1, $2, $3)";
            sqlx::query(former)
                .bind(&from.0[..])
                .bind(&client.0[..])
                .bind(int(note.at.0))
                .execute(&mut *tx)
                .await?;
            let entry = audit::append(tx, note).await?;
            // By the entry other processes find what is new.
            sqlx::query("UPDATE clients SET public_key = $1, entry = $2 WHERE id = $3")
                .bind(&to.0[..])
                .bind(int(entry))
                .bind(&client.0[..])
                .execute(&mut *tx)
                .await?;
            Ok(Rekeying::Done)
        })
    }

    /// The keys that a client replaced last, the latest first.
    pub(crate) async fn former_keys(&self, client: ClientId) -> Result<Vec<PublicKey>, StoreError> {
        let text = "SELECT public_key FROM former_keys WHERE client = $1 \
                    ORDER BY until_ms DESC LIMIT $2";
        let rows = sqlx::query(text)
            .bind(&client.0[..])
            .bind(FORMER_MAX)
            .fetch_all(&self.0.database.reader)
            .await?;
        rows.iter().map(|row| Ok(PublicKey(array(row.try_get("public_key")?)?))).collect()
    }
}
