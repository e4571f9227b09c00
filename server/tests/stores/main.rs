//! One suite on every store: what holds on one holds on all.
//!
//! PostgreSQL is a server of the test binary's own, and so is S3: see `tests/services`.

#[path = "../fixtures/mod.rs"]
mod fixtures;
#[path = "../fixtures/world.rs"]
mod world;

mod buffered;
mod certificates;
mod client_keys;
mod evaluations;
mod keys;
mod laws;
mod projects;
mod replicas;
mod retention;
mod rollback;
mod site;
mod tags;
