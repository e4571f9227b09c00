//! The TLS certificates that clients show.

use gossamer_protocol::ids::ClientId;
use sqlx::Row as _;

use super::database::transact;
use super::rows::int;
use super::{Store, StoreError, audit};
use crate::audit::Note;
use crate::certificate::Certificate;

impl Store {
    /// Binds a client to a certificate, where it has none, or one for the same names; false where it has one for
    /// others, or is not there. Told in the log where that changes something.
    pub(crate) async fn bind_certificate(
        &self,
        client: ClientId,
        shown: &Certificate,
        note: &Note,
    ) -> Result<bool, StoreError> {
        transact!(self, |tx| {
            audit::lock(tx).await?;
            let row = sqlx::query("SELECT certificate, certified FROM clients WHERE id = $1")
                .bind(&client.0[..])
                .fetch_optional(&mut *tx)
                .await?;
            let Some(row) = row else { return Ok(false) };
            let bound: Option<Vec<u8>> = row.try_get("certificate")?;
            let names: Option<Vec<u8>> = row.try_get("certified")?;
            if bound.as_deref() == Some(&shown.fingerprint.0[..]) {
                return Ok(true);
            }
            if bound.is_some() && names.as_deref() != Some(&shown.names.0[..]) {
                return Ok(false);
            }
            let entry = audit::append(tx, note).await?;
            // By the entry other processes find what is new.
            let bind =
                "UPDATE clients SET certificate = $1, certified = $2, entry = $3 WHERE id = $4";
            sqlx::query(bind)
                .bind(&shown.fingerprint.0[..])
                .bind(&shown.names.0[..])
                .bind(int(entry))
                .bind(&client.0[..])
                .execute(&mut *tx)
                .await?;
            Ok(true)
        })
    }

    /// Frees a client of its certificate: the next one that it shows is its own. False where it had none.
    pub(crate) async fn free_certificate(
        &self,
        client: ClientId,
        note: &Note,
    ) -> Result<bool, StoreError> {
        transact!(self, |tx| {
            audit::lock(tx).await?;
            let there =
                "SELECT COUNT(*) AS n FROM clients WHERE id = $1 AND certificate IS NOT NULL";
            let row = sqlx::query(there).bind(&client.0[..]).fetch_one(&mut *tx).await?;
            if row.try_get::<i64, _>("n")? == 0 {
                return Ok(false);
            }
            let entry = audit::append(tx, note).await?;
            let free =
                "UPDATE clients SET certificate = NULL, certified = NULL, entry = $1 WHERE id = $2";
            sqlx::query(free).bind(int(entry)).bind(&client.0[..]).execute(&mut *tx).await?;
            Ok(true)
        })
    }
}
