//! What both ends of Gossamer must agree on.
//!
//! No I/O, no async, no tensors, no clock: time and randomness are passed in. Imports point up this
//! list, never down.
//!
//! - [`hex`], [`digest`], [`ids`], [`density`], [`rng`]: words and numbers.
//! - [`layout`]: adapter tensors in order, and their places in one flat vector.
//! - [`manifest`]: what a run is.

pub mod density;
pub mod digest;
pub mod hex;
pub mod ids;
pub mod layout;
pub mod manifest;
pub mod rng;
