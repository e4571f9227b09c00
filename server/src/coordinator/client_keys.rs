//! Clients' keys that follow one another: the client stays the one that it was.

use std::sync::PoisonError;

use gossamer_protocol::ids::ClientId;
use gossamer_protocol::message::Enrolled;
use gossamer_protocol::rotation::NewKey;
use gossamer_protocol::sign::PublicKey;

use super::{Coordinator, CoordinatorError};
use crate::audit::{Actor, Event as Told};
use crate::store::{Member, Rekeying};

impl Coordinator {
    /// Gives `client`, which signed the request with `from`, another key. Asked with that one again, it is done.
    ///
    /// # Errors
    /// [`CoordinatorError::BadProof`] where it does not hold the new one, [`CoordinatorError::ReplacedKey`],
    /// [`CoordinatorError::KeyTaken`], [`CoordinatorError::Revoked`], and the store's.
    pub async fn change_key(
        &self,
        client: ClientId,
        from: PublicKey,
        new: &NewKey,
    ) -> Result<Enrolled, CoordinatorError> {
        new.verify(client).map_err(|_| CoordinatorError::BadProof)?;
        let member = self.member(client).await?;
        let key = new.public_key;
        let note = self.acting(Actor::Client(client));
        let note = note.note(Told::ClientKeyChanged { client, key }).of(&member.project);
        let change = move |this: Self| async move {
            Ok(this.0.store.change_key(client, &from, &key, &note).await?)
        };
        match self.apart(change).await? {
            Rekeying::Done => {}
            Rekeying::Replaced => return Err(CoordinatorError::ReplacedKey(client)),
            Rekeying::Taken => return Err(CoordinatorError::KeyTaken(key)),
            Rekeying::Revoked => return Err(CoordinatorError::Revoked(client)),
        }
        let mut fleet = self.0.fleet.write().unwrap_or_else(PoisonError::into_inner);
        fleet.insert(client, Member { key, ..member });
        drop(fleet);
        self.changed();
        Ok(Enrolled { client })
    }

    /// The client as the store has it: another process may have taken another key from it just now.
    pub(crate) async fn member_anew(&self, client: ClientId) -> Result<Member, CoordinatorError> {
        if self.0.store.is_shared() {
            self.refresh_fleet().await?;
        }
        self.member(client).await
    }

    /// Whether one of the keys that a client has replaced passes `check`. Where it has replaced none, that is known
    /// without a look.
    pub(crate) async fn is_replaced(
        &self,
        client: ClientId,
        present: &PublicKey,
        check: impl Fn(&PublicKey) -> bool,
    ) -> Result<bool, CoordinatorError> {
        if ClientId::of(&present.0) == client {
            return Ok(false);
        }
        Ok(self.0.store.former_keys(client).await?.iter().any(check))
    }
}
