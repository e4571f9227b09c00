//! A client's next key: the aggregator is told by the old one, and the client stays the one it was.
//!
//! The new seed is kept before anything is asked, so that a process that is killed ends the change when it connects
//! again, whether the aggregator had heard of it or not.

use std::sync::Arc;

use gossamer_protocol::problem::ProblemType;
use gossamer_protocol::rotation::NewKey;
use gossamer_protocol::sign::{PublicKey, SigningKey};

use super::enrolled::{self, next};
use super::{Client, ClientError};
use crate::state::State;
use crate::transport::Transport;
use crate::transport::signer::Signer;

impl Client {
    /// Gives this client another key, and keeps it; gives its public half. To be called between two
    /// [`step`](Self::step)s: requests that are under way may be refused.
    ///
    /// # Errors
    /// [`ClientError::NotItsKey`] where the app keeps the key or the transport is its own, and as for
    /// [`Builder::connect`](super::Builder::connect). What failed can be tried again, also by another process.
    pub async fn rotate_key(&self) -> Result<PublicKey, ClientError> {
        let signer = self.signer.as_ref().ok_or(ClientError::NotItsKey)?;
        rotate(&self.transport, signer, &self.state).await
    }
}

/// Begins a change of keys, or ends the one that was begun.
pub(super) async fn rotate(
    transport: &dyn Transport,
    signer: &Signer,
    state: &State,
) -> Result<PublicKey, ClientError> {
    let seed = next(state)?;
    let (old, new) = (signer.key(), Arc::new(SigningKey::from_seed(&seed)));
    let ask = NewKey::new(signer.client(), &new);
    match transport.change_key(&ask).await {
        Ok(_) => signer.set(new.clone()),
        // Where an answer was lost, the old one is good no more; then the new one is.
        Err(error) if error.problem() == Some(ProblemType::ReplacedKey) => {
            signer.set(new.clone());
            if let Err(error) = transport.change_key(&ask).await {
                signer.set(old);
                return Err(error.into());
            }
        }
        Err(error) => return Err(error.into()),
    }
    enrolled::changed(state, &seed, &new.public())?;
    Ok(new.public())
}
