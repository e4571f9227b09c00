//! Operators and their tokens, and the audit log as they see it.

use std::time::Duration;

use super::clients::secret;
use super::{Coordinator, CoordinatorError};
use crate::audit::Event as Told;
use crate::operator::{self, Operator, OperatorName, Role};
use crate::store::Entry;

impl Coordinator {
    /// Makes an operator of this handle's project, or of all of them; gives its token, which is kept only as a
    /// hash.
    ///
    /// # Errors
    /// [`CoordinatorError::OperatorExists`], and the store's.
    ///
    /// # Panics
    /// Where the system has no randomness: nothing signed would be safe then.
    pub async fn add_operator(
        &self,
        name: OperatorName,
        role: Role,
        ttl: Option<Duration>,
    ) -> Result<(Operator, String), CoordinatorError> {
        let now = self.now();
        let expires_ms = ttl.map(|ttl| now.after(ttl).0);
        let made = Operator { name, project: self.2.clone(), role, created_ms: now.0, expires_ms };
        let token = operator::token(&secret());
        let hash = operator::token_hash(&token).ok_or(CoordinatorError::Stopping)?;
        let event = Told::OperatorAdded { name: made.name.clone(), role, expires_ms };
        let (note, row) = (self.note(event), made.clone());
        let add =
            |this: Self| async move { Ok(this.0.store.add_operator(&row, hash, &note).await?) };
        if self.apart(add).await? {
            self.changed();
            Ok((made, token))
        } else {
            Err(CoordinatorError::OperatorExists(made.name))
        }
    }

    /// Voids the token of an operator of this handle's project; of one that sees all projects, where the handle
    /// does.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownOperator`], and the store's.
    pub async fn revoke_operator(&self, name: &OperatorName) -> Result<(), CoordinatorError> {
        let (note, row) = (self.note(Told::OperatorRevoked { name: name.clone() }), name.clone());
        let drop =
            |this: Self| async move { Ok(this.0.store.drop_operator(&this.2, &row, &note).await?) };
        if self.apart(drop).await? {
            self.changed();
            Ok(())
        } else {
            Err(CoordinatorError::UnknownOperator(name.clone()))
        }
    }

    /// Every operator that this handle sees, by name.
    ///
    /// # Errors
    /// The store's.
    pub async fn operators(&self) -> Result<Vec<Operator>, CoordinatorError> {
        Ok(self.0.store.operators(&self.2).await?)
    }

    /// Whose token that is, unless it is nobody's or void.
    pub(crate) async fn operator_of(
        &self,
        token: &str,
    ) -> Result<Option<Operator>, CoordinatorError> {
        let Some(hash) = operator::token_hash(token) else { return Ok(None) };
        Ok(self.0.store.operator(hash, self.now()).await?)
    }

    /// The `limit` entries of the audit log that this handle sees before entry `before`, latest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn audit(&self, before: u64, limit: u32) -> Result<Vec<Entry>, CoordinatorError> {
        Ok(self.0.store.audit(&self.2, before, limit).await?)
    }

    /// The `limit` entries behind entry `after`, in order.
    pub(crate) async fn audit_after(
        &self,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, CoordinatorError> {
        Ok(self.0.store.audit_after(&self.2, after, limit).await?)
    }
}
