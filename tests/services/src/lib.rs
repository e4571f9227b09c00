//! What the tests of a shared store need: a PostgreSQL server and an S3 server, real ones, private to the
//! test binary, on this machine, gone with it.
//!
//! PostgreSQL is what the system has (Debian's package `postgresql`); where it is missing, a test that needs
//! it fails and says so. The S3 server is a crate, so that nothing has to be installed for it.

mod postgres;
mod s3;

pub use postgres::{Postgres, postgres};
pub use s3::{ACCESS_KEY, BUCKET, REGION, S3, SECRET_KEY, s3};
