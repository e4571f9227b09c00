//! What both ends of Gossamer must agree on.
//!
//! No I/O, no async, no tensors, no clock: time and randomness are passed in. Imports point up this
//! list, never down.
//!
//! - [`hex`], [`digest`], [`ids`], [`density`], [`rng`]: words and numbers.
//! - [`modules`]: which module of a model a name or a pattern means.
//! - [`layout`]: adapter tensors in order, and their places in one flat vector.
//! - [`manifest`]: what a run is.
//! - [`peft`]: an adapter as PEFT keeps it.
//! - [`sparse`], [`select`]: some entries of a flat vector, and which.
//! - [`fold`]: the exact sum of updates.
//! - [`codec`], [`frame`]: those entries as bytes, and the frame around them.
//! - [`budget`]: what fits into so many bytes.
//! - [`sign`], [`request`], [`attestation`], [`message`], [`problem`]: who says what, and how it is refused.
//! - [`inclusion`]: that an update was counted. [`tag`]: names for adapters. [`rotation`]: keys that follow one
//!   another.

pub mod attestation;
pub mod budget;
pub mod codec;
pub mod density;
pub mod digest;
pub mod fold;
pub mod frame;
pub mod hex;
pub mod ids;
pub mod inclusion;
pub mod layout;
pub mod manifest;
pub mod message;
pub mod modules;
pub mod peft;
pub mod problem;
pub mod request;
pub mod rng;
pub mod rotation;
pub mod select;
pub mod sign;
pub mod sparse;
pub mod tag;
