//! Skeleton.

pub mod data;
pub mod lora;
pub mod model;
mod ops;
mod optim;
pub mod train;
