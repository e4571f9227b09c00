//! The hook at enrolment: an operator's verifier decides whether a device is what it says. There is none unless the
//! program that embeds the server sets one.

use gossamer_protocol::attestation::Attestation;
use gossamer_protocol::digest::Digest;

use crate::project::ProjectName;

/// A device that wants to enrol; its token is good, and it holds its key.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The token's project.
    pub project: &'a ProjectName,
    /// What the statement must be over.
    pub challenge: Digest,
    /// The statement, where the device sends one.
    pub attestation: Option<&'a Attestation>,
}

/// Why a device is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unattested {
    /// The statement is missing, or does not convince.
    #[error("the device is not attested: {0}")]
    Refused(String),
    /// It cannot be told now; the device is to come back.
    #[error("attestations cannot be verified now: {0}")]
    Away(String),
}

/// Decides who may enrol. Asked again with the same statement it gives the same answer, since an answer may be lost.
#[async_trait::async_trait]
pub trait Verifier: Send + Sync {
    /// Whether the device may enrol.
    ///
    /// # Errors
    /// [`Unattested`] where it may not; the words are told to the device.
    async fn verify(&self, asking: &Asking<'_>) -> Result<(), Unattested>;
}
