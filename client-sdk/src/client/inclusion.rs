//! Whether what was delivered is counted: asked once its round is closed, and checked.

use gossamer_protocol::inclusion::Inclusion;
use gossamer_protocol::message::{Receipt, Signed};
use gossamer_protocol::problem::ProblemType;

use super::{Client, ClientError, Event};
use crate::state::StateError;
use crate::transport::Transport as _;
use crate::verify::{self, Believed};

const RECEIPT: &str = "receipt";

impl Client {
    /// Keeps a receipt's bytes, as signed, until [`prove_kept`](Self::prove_kept).
    pub(super) fn keep_receipt(&self, signed: &Signed) -> Result<(), ClientError> {
        if self.prove {
            self.state.write(RECEIPT, signed.bytes.clone())?;
        }
        Ok(())
    }

    /// Has the last delivered update proven to be counted, where its round is closed.
    pub(super) async fn prove_kept(&self) -> Result<(), ClientError> {
        let kept = if self.prove { self.state.read(RECEIPT)? } else { None };
        let Some(bytes) = kept else { return Ok(()) };
        let malformed = |_| StateError::Malformed { name: RECEIPT.to_owned() };
        let receipt: Receipt = serde_json::from_slice(&bytes).map_err(malformed)?;
        let proof = match self.inclusion(&receipt, &bytes).await {
            Ok(proof) => proof,
            // It is still on.
            Err(error) if is(&error, ProblemType::UnknownRound) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.state.remove(RECEIPT)?;
        self.tell(&Event::Included { round: receipt.round, updates: proof.head.size })
    }

    /// The proof that a receipt, by its bytes, is one of those that a closed round counts, which in buffered runs may
    /// be a later one than it is for: fetched and verified.
    ///
    /// # Errors
    /// [`ClientError::Transport`] with `unknown-round` while the round is on, and with `unknown-object` where the
    /// aggregator has none; [`ClientError::Verify`] where what it shows does not hold.
    pub async fn inclusion(
        &self,
        receipt: &Receipt,
        bytes: &[u8],
    ) -> Result<Inclusion, ClientError> {
        let proof = self.transport.inclusion(receipt.run, receipt.round).await?;
        let late = self.terms(receipt.run).await?.manifest.cohort.staleness_max();
        let counted = verify::counted_in(&proof, receipt.round, late)?;
        let next = self.transport.record(receipt.run, counted.next()).await?;
        let check = |by: Believed<'_>| verify::included(&proof, &next, by, receipt, bytes, late);
        self.believing(check).await?;
        Ok(proof)
    }
}

fn is(error: &ClientError, name: ProblemType) -> bool {
    matches!(error, ClientError::Transport(error) if error.problem() == Some(name))
}
