//! The TLS certificates that clients show: each is bound to its own.

use std::sync::PoisonError;

use gossamer_protocol::ids::ClientId;

use super::{Coordinator, CoordinatorError};
use crate::audit::{Actor, Event as Told};
use crate::certificate::Certificate;
use crate::store::Member;

impl Coordinator {
    /// Binds `client` to the certificate that it shows: its first one, or a renewed one for the same names.
    ///
    /// # Errors
    /// [`CoordinatorError::OtherCertificate`] where it is bound to one for others, and the store's.
    pub async fn bind_certificate(
        &self,
        client: ClientId,
        shown: Certificate,
    ) -> Result<(), CoordinatorError> {
        let member = self.member_anew(client).await?;
        let certificate = shown.fingerprint;
        let note = self.acting(Actor::Client(client));
        let note = note.note(Told::CertificateBound { client, certificate }).of(&member.project);
        let bind = move |this: Self| async move {
            Ok(this.0.store.bind_certificate(client, &shown, &note).await?)
        };
        if !self.apart(bind).await? {
            return Err(CoordinatorError::OtherCertificate(client));
        }
        self.rebind(client, Member { certificate: Some(certificate), ..member });
        Ok(())
    }

    /// Frees a client of its certificate: the next one that it shows will be its own.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownClient`], and the store's.
    pub async fn free_certificate(&self, client: ClientId) -> Result<(), CoordinatorError> {
        let project = self.client(client).await?.row.project;
        let note = self.note(Told::CertificateFreed { client }).of(&project);
        let free = move |this: Self| async move {
            Ok(this.0.store.free_certificate(client, &note).await?)
        };
        self.apart(free).await?;
        self.refresh_fleet().await
    }

    fn rebind(&self, client: ClientId, member: Member) {
        let mut fleet = self.0.fleet.write().unwrap_or_else(PoisonError::into_inner);
        fleet.insert(client, member);
        drop(fleet);
        self.changed();
    }

    /// Whether `shown` is the certificate that `client` is bound to; `known`: who it was a moment ago. Where it is
    /// bound to none, it is to this one from now on.
    ///
    /// # Errors
    /// [`CoordinatorError::OtherCertificate`], and the store's.
    pub(crate) async fn must_show(
        &self,
        client: ClientId,
        known: &Member,
        shown: Certificate,
    ) -> Result<(), CoordinatorError> {
        if known.certificate == Some(shown.fingerprint) {
            return Ok(());
        }
        match self.member_anew(client).await?.certificate {
            None => self.bind_certificate(client, shown).await,
            Some(bound) if bound == shown.fingerprint => Ok(()),
            Some(_) => Err(CoordinatorError::OtherCertificate(client)),
        }
    }
}
