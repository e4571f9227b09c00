//! The Gossamer aggregator: who takes part, what is accepted, and the exact step it makes.
//!
//! Imports point up this list, never down.
//!
//! - [`clock`], [`status`], [`problem`], [`project`], [`operator`], [`tag`], [`audit`]: words, and the audit log's
//!   chain.
//! - [`round`]: one round. Pure: it never reads a clock, a socket, a disk or a global random source.
//! - [`aggregate`], [`optimizer`], [`state`], [`snapshot`], [`advance`]: from one round to the next, a
//!   pure function of the accepted set, the manifest and the state.
//! - [`families`], [`manifest_file`]: operators' files in. `export`: a run's shapes, for adapters out.
//! - [`store`]: everything durable. What it reports as done is on the disk.
//! - [`metrics`]: what is counted.
//! - [`coordinator`]: sole owner of the open rounds; runs their effects.
//! - [`config`], [`tls`], [`setup`], [`http`]: a server's directory, and the coordinator over HTTPS.
//! - [`telemetry`]: logs and traces. [`doctor`]: what is wrong with a server's directory. [`cli`]: what an operator types.
//!
//! Deliberately absent: tensors (candle), the client SDK, a broker, unsafe code.

// The fixtures that integration tests share name the crate from outside.
#[cfg(test)]
extern crate self as gossamer_server;

pub mod advance;
pub mod aggregate;
pub mod attestation;
pub mod audit;
pub mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
pub mod coordinator;
pub mod doctor;
mod export;
pub mod families;
pub mod http;
pub mod manifest_file;
pub mod metrics;
pub mod operator;
pub mod optimizer;
pub mod problem;
pub mod project;
pub mod round;
pub mod setup;
pub mod snapshot;
pub mod state;
pub mod status;
pub mod store;
pub mod tag;
pub mod telemetry;
pub mod tls;

pub use http::serve::{run, serve};
pub use setup::join_token;
