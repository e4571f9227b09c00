//! End to end: real HTTPS, real processes, real kills.

mod attestation;
mod believed;
mod buffered;
mod certificates;
mod classes;
mod commands;
mod faults;
mod hostile;
mod keys;
mod kill;
mod operator;
mod parity;
mod refusals;
mod replicas;
mod resume;
mod rounds;
