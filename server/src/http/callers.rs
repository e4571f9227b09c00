//! How many each caller has under way: one must not take every place there is.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Requests with a body that one client may have under way. One that behaves has one.
pub(crate) const REQUESTS_MAX: u32 = 8;

/// Who has how many: a client requests, an address connections.
#[derive(Clone, Debug)]
pub(crate) struct Callers<K: Eq + Hash> {
    counts: Arc<Mutex<HashMap<K, u32>>>,
    /// Of each; 0: no limit.
    most: u32,
}

/// A caller's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Underway<K: Eq + Hash> {
    counts: Arc<Mutex<HashMap<K, u32>>>,
    caller: K,
}

impl<K: Copy + Eq + Hash> Callers<K> {
    pub(crate) fn new(most: u32) -> Self {
        Self { counts: Arc::default(), most }
    }

    /// Takes a place for `caller`; `None` where it has all it may have.
    pub(crate) fn enter(&self, caller: K) -> Option<Underway<K>> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(caller).or_default();
        if self.most > 0 && *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Underway { counts: self.counts.clone(), caller })
    }
}

impl<K: Eq + Hash> Drop for Underway<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_so_many_and_what_is_left_is_free_again() {
        let callers = Callers::new(REQUESTS_MAX);
        let held: Vec<_> = (0..REQUESTS_MAX).map(|_| callers.enter(1).expect("a place")).collect();
        assert!(callers.enter(1).is_none());
        assert!(callers.enter(2).is_some(), "another has its own");
        drop(held);
        assert!(callers.enter(1).is_some());
        assert!(callers.counts.lock().expect("no panic").is_empty(), "nobody is remembered");
        let free = Callers::new(0);
        let held: Vec<_> = (0..100).filter_map(|_| free.enter(1)).collect();
        assert_eq!(held.len(), 100);
    }
}
