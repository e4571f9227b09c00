//! Skeleton.

pub mod dataset;
pub mod partition;
pub mod report;
pub mod scenario;
