//! Simulated federations on Gossamer's deployed code.
//!
//! One scenario file becomes one comparison: text is dealt to virtual clients, each method and seed
//! runs on the aggregator's own coordinator and the client's own training, and what they came to is
//! written as tables and plots. Replaced are only the transport, the clock and the data.
//!
//! - [`scenario`]: the file, checked.
//! - [`languages`], [`dataset`], [`partition`]: text, and who has it.
//! - [`base`], [`pretrain`]: the frozen model underneath, and how the embedded one was made.
//! - [`trace`]: what a fleet was measured to do.
//! - [`transport`], [`engine`]: the federation.
//! - [`ranks`]: one simulation in several processes.
//! - [`compare`]: every method and seed of a scenario, side by side; what was done before is kept.
//! - [`sweep`]: the same over a grid of its fields. [`search`]: over rank and density, under a byte budget.
//! - [`tune`]: learning rates, for each method by itself.
//! - [`protocols`]: quality under a budget, cost to a target, robustness.
//! - [`report`]: tables, plots, one page, files for TensorBoard.
//! - [`reproduce`]: a thesis's claims, held against what was measured.
//! - [`deltas`], [`wire`]: saved changes, and what they cost on the wire.
//!
//! Nothing here reads a clock except to say how long a round took.

pub mod base;
pub mod compare;
pub mod dataset;
pub mod deltas;
pub mod engine;
pub mod languages;
pub mod partition;
pub mod pretrain;
pub mod protocols;
pub mod ranks;
pub mod report;
pub mod reproduce;
pub mod scenario;
pub mod search;
pub mod sweep;
pub mod trace;
pub mod transport;
pub mod tune;
pub mod wire;
