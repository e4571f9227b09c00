//! On-device LoRA training and transport: what an app embeds.
//!
//! ```no_run
//! # async fn app(token: String) -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use gossamer_client::{client::Client, data::TextDataset, model::BaseModel};
//!
//! let base = BaseModel::load("models/base".as_ref())?;
//! let text = TextDataset::new(&base, &["text that never leaves this device".to_owned()])?;
//! let client = Client::builder("https://aggregator.example")
//!     .token(token)
//!     .state_dir("state")
//!     .base(base)
//!     .connect()
//!     .await?;
//! client.run(&(Arc::new(text) as Arc<_>)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Imports point up this list, never down.
//!
//! - `ops`: trainable layers on slices. [`model`]: the frozen base. [`lora`]: the adapter's factors.
//! - [`data`]: what is trained on. `optim`, [`train`]: one client's work in one round.
//! - [`transport`]: words to the aggregator. [`verify`]: what is believed of its answers.
//! - [`state`]: what a device remembers. [`client`]: all of it together.
//! - [`peft`]: adapters as others keep them, and merged ones. [`cli`]: the reference client's command line.
//!
//! Training draws no global random number and starts no thread; equal inputs give equal updates.

pub mod cli;
pub mod client;
pub mod data;
pub mod lora;
pub mod model;
mod ops;
mod optim;
pub mod peft;
pub mod state;
pub mod train;
pub mod transport;
pub mod verify;
