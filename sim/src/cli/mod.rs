//! The commands, a file each.

pub(crate) mod partition;
pub(crate) mod pretrain;
pub(crate) mod protocols;
pub(crate) mod reproduce;
pub(crate) mod search;
pub(crate) mod session;
pub(crate) mod simulate;
pub(crate) mod sweep;
pub(crate) mod tune;
pub(crate) mod wire;

use std::io::{ErrorKind, Write};

/// Prints `text`. A reader that has seen enough, such as `head`, is no fault.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
