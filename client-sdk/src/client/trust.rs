//! Whom a client believes: the aggregator's key that it pinned, and those that followed it.

use std::sync::PoisonError;
use std::time::{SystemTime, UNIX_EPOCH};

use gossamer_protocol::rotation::Trust;

use super::enrolled::keep_trust;
use super::{Client, ClientError};
use crate::transport::{Transport, TransportError};
use crate::verify::{Believed, VerifyError};

impl Client {
    /// What `check` gives. Where a key signed that the client does not know, the aggregator is asked whether it
    /// follows.
    pub(super) async fn believing<T>(
        &self,
        check: impl Fn(Believed<'_>) -> Result<T, VerifyError>,
    ) -> Result<T, ClientError> {
        match self.check(&check) {
            Err(refused) if refused.is_by_stranger() => {
                if self.follow().await? {
                    Ok(self.check(&check)?)
                } else {
                    Err(refused.into())
                }
            }
            done => Ok(done?),
        }
    }

    /// What `check` gives with the keys that are known here.
    pub(super) fn check<T>(
        &self,
        check: impl Fn(Believed<'_>) -> Result<T, VerifyError>,
    ) -> Result<T, VerifyError> {
        check(Believed::knowing(&self.trust(), now_ms(), &self.shared))
    }

    /// Goes along the statements about the aggregator's keys; whether there was a newer one.
    async fn follow(&self) -> Result<bool, ClientError> {
        let mut trust = self.trust();
        let followed = follow(&self.transport, &mut trust).await?;
        if followed {
            tracing::info!(key = %trust.key, "the aggregator signs with another key, which the one before signed");
            // Before it is believed: who has followed never goes back.
            keep_trust(&self.state, &trust)?;
            *self.trust.lock().unwrap_or_else(PoisonError::into_inner) = trust;
        }
        Ok(followed)
    }

    /// The aggregator's keys that this client knows.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether there was a newer key. An aggregator of before there were any has no such route.
pub(super) async fn follow(
    transport: &dyn Transport,
    trust: &mut Trust,
) -> Result<bool, ClientError> {
    match transport.keys().await {
        Ok(chain) => Ok(trust.follow(&chain)),
        Err(TransportError::Refused(_) | TransportError::Malformed(_)) => Ok(false),
        Err(unreachable) => Err(unreachable.into()),
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
