//! The server's own state between rounds: the dense adapter, the optimiser's slots, a fixed support.
//!
//! Private: clients see snapshots of it. Stored as a content-addressed object, little-endian:
//!
//! ```text
//! magic "GSMS" | version u16 = 1 | slots u16 | steps u64 | n u32 | support u32 (2^32 - 1: none)
//! theta f32 x n | slots x (f32 x n) | support u32 x k
//! ```

use gossamer_protocol::layout::PARAMETERS_MAX;
use gossamer_protocol::manifest::Manifest;

use crate::optimizer;

const MAGIC: [u8; 4] = *b"GSMS";
const VERSION: u16 = 1;
const HEADER: usize = 24;
const NO_SUPPORT: u32 = u32::MAX;

/// What the server keeps between rounds.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerState {
    /// Optimiser steps taken.
    pub steps: u64,
    /// The dense adapter, shape `[n]`; never pruned.
    pub theta: Vec<f32>,
    /// The optimiser's slots, each of shape `[n]`.
    pub slots: Vec<Vec<f32>>,
    /// The support fixed for ever, where the run fixes one and has chosen it. Rising.
    pub support: Option<Vec<u32>>,
}

/// Bytes that are no state of this run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("server state is damaged: {0}")]
pub struct BadState(&'static str);

impl ServerState {
    /// The state before round 0: the adapter `theta`, or else the seeded start.
    #[must_use]
    pub fn start(manifest: &Manifest, theta: Option<Vec<f32>>) -> Self {
        let n = manifest.layout.n();
        let slots = optimizer::of(&manifest.optimizer).slots();
        Self {
            steps: 0,
            theta: theta.unwrap_or_else(|| manifest.layout.init(manifest.seed)),
            slots: slots.into_iter().map(|start| vec![start; n]).collect(),
            support: None,
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let n = self.theta.len();
        let k = self.support.as_ref().map_or(0, Vec::len);
        let mut out = Vec::with_capacity(HEADER + 4 * (n * (1 + self.slots.len()) + k));
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        // All fit: a rule has two slots at most, a layout 2^28 parameters.
        out.extend((self.slots.len() as u16).to_le_bytes());
        out.extend(self.steps.to_le_bytes());
        out.extend((n as u32).to_le_bytes());
        out.extend(self.support.as_ref().map_or(NO_SUPPORT, |s| s.len() as u32).to_le_bytes());
        for vector in std::iter::once(&self.theta).chain(&self.slots) {
            out.extend(vector.iter().flat_map(|v| v.to_le_bytes()));
        }
        out.extend(self.support.iter().flatten().flat_map(|i| i.to_le_bytes()));
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`BadState`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadState> {
        let (head, mut rest) = bytes.split_first_chunk::<HEADER>().ok_or(BadState("truncated"))?;
        let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| head[at + i]));
        if head[..4] != MAGIC || u16::from_le_bytes([head[4], head[5]]) != VERSION {
            return Err(BadState("another format"));
        }
        let slots = usize::from(u16::from_le_bytes([head[6], head[7]]));
        let steps = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| head[8 + i]));
        let n = u32_at(16) as usize;
        let k = Some(u32_at(20)).filter(|&k| k != NO_SUPPORT);
        let words = n * (1 + slots) + k.unwrap_or(0) as usize;
        if n > PARAMETERS_MAX || slots > 8 || rest.len() != 4 * words {
            return Err(BadState("lengths disagree"));
        }
        let mut word = || {
            let (word, after) = rest.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
            rest = after;
            u32::from_le_bytes(*word)
        };
        let mut vector = |n| (0..n).map(|_| f32::from_bits(word())).collect::<Vec<f32>>();
        let theta = vector(n);
        let slots = (0..slots).map(|_| vector(n)).collect();
        let support = k.map(|k| (0..k).map(|_| word()).collect());
        Ok(Self { steps, theta, slots, support })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_damage() {
        let state = ServerState {
            steps: 3,
            theta: vec![1.0, -2.0],
            slots: vec![vec![0.5, 0.25], vec![9.0, 8.0]],
            support: Some(vec![1]),
        };
        for state in [ServerState { support: None, ..state.clone() }, state] {
            let bytes = state.encode();
            assert_eq!(ServerState::decode(&bytes), Ok(state));
            for cut in 0..bytes.len() {
                assert!(ServerState::decode(&bytes[..cut]).is_err(), "{cut}");
            }
            assert!(ServerState::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }
}
