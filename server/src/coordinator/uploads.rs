//! Uploads in parts: bounded, one a client and run, and checked as a whole like any other.

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::message::Signed;

use super::{Admission, Coordinator, CoordinatorError};
use crate::store::staging::{Key, Staged};

/// What came of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// So many bytes stand.
    Partly(u64),
    /// It was the last part, and the whole is accepted.
    Accepted(Signed),
}

impl Coordinator {
    /// How many bytes of the upload `digest` stand.
    ///
    /// # Errors
    /// The store's.
    pub async fn offset(&self, to: &Admission, digest: Digest) -> Result<u64, CoordinatorError> {
        Ok(self.store().staging().offset(&key(to, digest)).await?)
    }

    /// Takes the part at `offset` of a frame of `length` bytes; with the last one, submits it.
    ///
    /// # Errors
    /// [`CoordinatorError::WrongOffset`] where the upload stands elsewhere,
    /// [`CoordinatorError::Staged`] where the whole is not `digest`, and as for
    /// [`submit`](Self::submit).
    pub async fn append(
        &self,
        caller: ClientId,
        to: &Admission,
        digest: Digest,
        offset: u64,
        length: u64,
        part: Bytes,
    ) -> Result<Uploaded, CoordinatorError> {
        let limit = self.admit(caller, to).await? as u64;
        let end = offset.saturating_add(part.len() as u64);
        if length > limit || end > length {
            let limit = if length > limit { limit } else { length };
            return Err(CoordinatorError::TooLarge { got: length.max(end), limit });
        }
        let key = key(to, digest);
        let append = move |this: Self| async move {
            Ok(this.store().staging().append(&key, offset, part, length).await?)
        };
        let whole = match self.apart(append).await? {
            Staged::Partly(stands) => return Ok(Uploaded::Partly(stands)),
            Staged::Elsewhere(stands) => return Err(CoordinatorError::WrongOffset { stands }),
            Staged::Whole(whole) => whole,
        };
        if Digest::of(&whole) != digest {
            return Err(CoordinatorError::Staged);
        }
        let Admission { run, round, attempt, client } = *to;
        let receipt = self.submit(caller, run, round, attempt, client, whole.into()).await?;
        Ok(Uploaded::Accepted(receipt))
    }
}

fn key(to: &Admission, digest: Digest) -> Key {
    Key { run: to.run, client: to.client, round: to.round, digest }
}
