//! The scenario file as written, before its parts are checked against each other.

use gossamer_protocol::manifest::{Cohort, Head, Lora, ServerOptimizer, Training};
use serde::Deserialize;

use super::data::RawData;
use super::partition::RawPartition;
use super::{Eval, FleetSpec, Heldout, MethodSpec};

/// A field and what is expected of it.
pub(super) type Misfit = (String, String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) name: String,
    pub(super) base: String,
    pub(super) rounds: u64,
    pub(super) registered: Option<usize>,
    pub(super) seeds: Vec<u64>,
    pub(super) data: RawData,
    pub(super) partition: RawPartition,
    pub(super) heldout: Heldout,
    pub(super) eval: Eval,
    pub(super) lora: Lora,
    pub(super) head: Option<Head>,
    pub(super) training: Training,
    pub(super) cohort: Cohort,
    pub(super) fleet: Option<FleetSpec>,
    pub(super) optimizer: ServerOptimizer,
    #[serde(default)]
    pub(super) method: Vec<MethodSpec>,
}
