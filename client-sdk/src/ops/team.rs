//! Several threads at one operation.
//!
//! Only outputs are split, never a sum: each entry is computed as it is on one thread, so the bytes of a result
//! do not depend on how many threads there are. An operation asks here how many parts its work is worth; it
//! is one outside of [`Team::run`], so nothing starts a thread behind the app's back.

use std::cell::Cell;
use std::num::NonZeroUsize;

/// Floating-point operations, or that many bytes read and written, below which handing a part over costs more
/// than it saves: some 20 us of work.
const SMALL: usize = 4 << 20;

thread_local! {
    /// Threads of the team that this one leads at the moment.
    static SIZE: Cell<usize> = const { Cell::new(1) };
}

/// Threads that work together on one training, evaluation or text at a time.
///
/// They are started by [`new`](Self::new), sleep when there is nothing to do and end with it. Results have the
/// same bytes whatever their number. Work of fewer than some millions of operations stays on one thread.
///
/// ```
/// # use std::num::NonZeroUsize;
/// # use gossamer_client::train::Team;
/// let team = Team::new(NonZeroUsize::MIN)?;
/// assert_eq!(team.run(|| 6 * 7), 42); // In place of this: `train(&job, &task, &mut watch)`.
/// # Ok::<(), gossamer_client::train::TeamError>(())
/// ```
#[derive(Debug)]
pub struct Team(Option<rayon::ThreadPool>);

/// The system has no more threads.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {threads} threads")]
pub struct TeamError {
    /// So many were wanted.
    pub threads: usize,
    source: rayon::ThreadPoolBuildError,
}

impl Team {
    /// Starts `threads`; for one none is started, and all runs on the caller's.
    ///
    /// # Errors
    /// [`TeamError`] where the system refuses one.
    pub fn new(threads: NonZeroUsize) -> Result<Self, TeamError> {
        let threads = threads.get();
        if threads == 1 {
            return Ok(Self(None));
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|at| format!("gossamer-team-{at}"));
        let pool = pool.build().map_err(|source| TeamError { threads, source })?;
        Ok(Self(Some(pool)))
    }

    /// Runs `work` on one of the threads; what it trains, evaluates or writes is split over all of them. A panic
    /// goes on in the caller.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let Some(pool) = &self.0 else { return work() };
        let size = pool.current_num_threads();
        pool.install(|| {
            let _lead = Lead::of(size);
            work()
        })
    }
}

/// Sets [`SIZE`] until it is dropped.
struct Lead(usize);

impl Lead {
    fn of(size: usize) -> Self {
        Self(SIZE.replace(size))
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        SIZE.set(self.0);
    }
}

/// Parts that `work` floating-point operations should be cut into.
pub(super) fn parts(work: usize) -> usize {
    if work < SMALL { 1 } else { SIZE.get() }
}

/// Entries of a part of `len`, where each entry takes `work` operations. At least 1.
pub(super) fn share(len: usize, work: usize) -> usize {
    len.div_ceil(parts(len.saturating_mul(work))).max(1)
}

/// Runs `f` on each of `tasks`: the first here, the others wherever a thread of the team is free.
pub(super) fn each<T: Send>(mut tasks: impl Iterator<Item = T>, f: impl Fn(T) + Sync) {
    let Some(first) = tasks.next() else { return };
    let Some(second) = tasks.next() else { return f(first) };
    // What a part itself calls is not split again.
    let _alone = Lead::of(1);
    rayon::in_place_scope(|scope| {
        let f = &f;
        for task in std::iter::once(second).chain(tasks) {
            scope.spawn(move |_| f(task));
        }
        f(first);
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn team(threads: usize) -> Team {
        Team::new(NonZeroUsize::new(threads).expect("not 0")).expect("threads")
    }

    #[test]
    fn only_a_team_splits_and_only_once() {
        assert_eq!(parts(usize::MAX), 1);
        team(3).run(|| {
            assert_eq!((parts(SMALL - 1), parts(SMALL)), (1, 3));
            assert_eq!(share(3 * SMALL + 1, 1), SMALL + 1);
            each(0..3, |_| assert_eq!(parts(usize::MAX), 1));
            assert_eq!(parts(usize::MAX), 3);
        });
        assert_eq!(parts(usize::MAX), 1);
    }

    /// Parts run on several threads at once: each waits for the other.
    #[test]
    fn parts_meet() {
        let barrier = std::sync::Barrier::new(2);
        let threads = Mutex::new(Vec::new());
        team(2).run(|| {
            each(0..2, |_| {
                barrier.wait();
                threads.lock().expect("not poisoned").push(std::thread::current().id());
            });
        });
        let threads = threads.into_inner().expect("not poisoned");
        assert_ne!(threads[0], threads[1]);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let team = team(2);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            team.run(|| each(0..2, |at| assert_eq!(at, 0, "the second part")));
        }));
        assert!(caught.is_err());
        team.run(|| assert_eq!(parts(usize::MAX), 2));
    }
}
