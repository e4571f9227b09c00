//! How many requests each client has under way: one client must not take every place there is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use gossamer_protocol::ids::ClientId;

use super::problem::Refusal;

/// Requests with a body that one client may have under way. One that behaves has one.
const EACH_MAX: u32 = 8;

/// Who has how many.
#[derive(Clone, Default)]
pub(crate) struct Callers(Arc<Mutex<HashMap<ClientId, u32>>>);

/// A client's place, until it is dropped.
pub(crate) struct Underway {
    callers: Callers,
    client: ClientId,
}

impl Callers {
    /// Takes a place for `client`.
    pub(crate) fn enter(&self, client: ClientId) -> Result<Underway, Refusal> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= EACH_MAX {
            return Err(super::busy());
        }
        *count += 1;
        Ok(Underway { callers: self.clone(), client })
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut counts = self.callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_so_many_and_what_is_left_is_free_again() {
        let callers = Callers::default();
        let client = |b| ClientId([b; 16]);
        let held: Vec<_> =
            (0..EACH_MAX).map(|_| callers.enter(client(1)).expect("a place")).collect();
        assert!(callers.enter(client(1)).is_err());
        assert!(callers.enter(client(2)).is_ok(), "another client has its own");
        drop(held);
        assert!(callers.enter(client(1)).is_ok());
        assert!(callers.0.lock().expect("no panic").is_empty(), "nobody is remembered for ever");
    }
}
