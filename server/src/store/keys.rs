//! The statements by which the server's keys follow one another.

use gossamer_protocol::rotation::{Rotation, Trust};
use gossamer_protocol::sign::PublicKey;
use sqlx::{AnyConnection, Row as _};

use super::rows::int;
use super::{Store, StoreError};
use crate::audit::Note;

impl Store {
    /// The statements by which the server's keys follow one another, in order.
    pub(crate) async fn rotations(&self) -> Result<Vec<Rotation>, StoreError> {
        let mut reading = self.0.database.reader.acquire().await?;
        rotations(&mut reading).await
    }

    /// Adds one behind `known` others; false where there are more by now.
    pub(crate) async fn add_rotation(
        &self,
        rotation: &Rotation,
        known: usize,
        note: &Note,
    ) -> Result<bool, StoreError> {
        let statement = serde_json::to_vec(rotation).expect("keys and numbers are always JSON");
        let insert = || {
            let text = "INSERT INTO rotations (seq, statement) VALUES ($1, $2) \
                        ON CONFLICT DO NOTHING";
            sqlx::query(text).bind(int(known as u64 + 1)).bind(statement.clone())
        };
        self.noted(insert, note).await
    }
}

pub(super) async fn rotations(reading: &mut AnyConnection) -> Result<Vec<Rotation>, StoreError> {
    let all = sqlx::query("SELECT statement FROM rotations ORDER BY seq");
    let rows = all.fetch_all(reading).await?;
    let read = |row: &sqlx::any::AnyRow| {
        let statement: Vec<u8> = row.try_get("statement")?;
        serde_json::from_slice(&statement).map_err(|_| StoreError::Row("a key's statement"))
    };
    rows.iter().map(read).collect()
}

/// The keys that statements join with `key`, before it and after: each is signed by both.
pub(crate) fn joined(key: &PublicKey, rotations: &[Rotation]) -> Trust {
    let first = rotations.first().map_or(*key, |rotation| rotation.from);
    let mut trust = Trust::pinned(first);
    trust.follow(rotations);
    if trust.knows(key) {
        return trust;
    }
    // What comes before was changed: at least what follows it counts.
    let mut trust = Trust::pinned(*key);
    trust.follow(rotations);
    trust
}
