//! A snapshot's frame, piece by piece.

use bytes::Bytes;
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::RunId;

use super::{Client, ClientError};
use crate::transport::Transport as _;
use crate::verify::VerifyError;

/// Bytes of a snapshot asked for at once.
const PIECE: u64 = 1 << 20;

/// A snapshot to be fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) run: RunId,
    pub(super) digest: Digest,
    /// Its length in bytes.
    pub(super) len: u64,
    /// What the state calls what is there of it.
    pub(super) part: &'a str,
}

impl Client {
    /// Fetches a snapshot; what a kill or a broken line cut off is resumed.
    ///
    /// The part's first 32 bytes say of which snapshot it is.
    pub(super) async fn download(&self, wanted: &Wanted<'_>) -> Result<Bytes, ClientError> {
        let Wanted { digest, len, part, .. } = *wanted;
        let mut kept = self.state.read(part)?.and_then(|kept| {
            let rest = kept.strip_prefix(&digest.0)?;
            (rest.len() as u64 <= len).then(|| rest.to_vec())
        });
        loop {
            let resumed = kept.is_some();
            let bytes = self.fetch(wanted, kept.take()).await?;
            if self.shared.digest(&bytes) == digest {
                return Ok(bytes);
            }
            self.state.remove(part)?;
            // What lay here may be what is wrong: once more, from the start.
            if !resumed {
                return Err(VerifyError::Snapshot.into());
            }
        }
    }

    /// What is missing behind `kept`, piece by piece; every piece but the last is kept as the part.
    async fn fetch(
        &self,
        wanted: &Wanted<'_>,
        kept: Option<Vec<u8>>,
    ) -> Result<Bytes, ClientError> {
        let Wanted { run, digest, len, part } = *wanted;
        let mut bytes = kept.unwrap_or_default();
        while (bytes.len() as u64) < len {
            let offset = bytes.len() as u64;
            let end = len.min(offset + PIECE);
            let piece = self.transport.object(run, digest, offset..end).await?;
            if piece.len() as u64 != end - offset {
                return Err(VerifyError::Snapshot.into());
            }
            if offset == 0 && end == len {
                // Not copied: simulated clients share the aggregator's own.
                return Ok(piece);
            }
            if end < len {
                match offset {
                    0 => self.state.write(part, [&digest.0, &*piece].concat())?,
                    _ => self.state.append(part, &piece)?,
                }
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.into())
    }
}
