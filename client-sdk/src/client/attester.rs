//! The hook at enrolment: what the device's platform says of it.

use gossamer_protocol::attestation::Attestation;

/// Makes a statement that the operator's verifier understands. There is none unless the app sets one.
#[async_trait::async_trait]
pub trait Attester: Send + Sync {
    /// A statement over `challenge`, which is of this enrolment alone.
    ///
    /// # Errors
    /// Whatever keeps the platform from making one: the client then does not enrol.
    async fn attest(
        &self,
        challenge: &[u8; 32],
    ) -> Result<Attestation, Box<dyn std::error::Error + Send + Sync>>;
}
