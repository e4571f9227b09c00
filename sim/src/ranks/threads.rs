//! Ranks that are threads of one process: for tests, and for whoever has no MPI.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Communicator, RanksError};

/// One of several in this process. Dropped, it is gone, and the others hear so.
pub struct Thread {
    rank: usize,
    hall: Arc<Hall>,
}

/// Where they meet.
struct Hall {
    size: usize,
    meeting: Mutex<Meeting>,
    changed: Condvar,
}

#[derive(Default)]
struct Meeting {
    /// What those who came brought.
    brought: Vec<Option<Vec<u8>>>,
    /// What the meeting came to, and who has not fetched it yet.
    came_to: Option<(Vec<Vec<u8>>, usize)>,
    gone: bool,
}

/// `size` ranks that hear each other.
#[must_use]
pub fn ranks(size: usize) -> Vec<Thread> {
    let meeting = Mutex::new(Meeting { brought: vec![None; size], ..Meeting::default() });
    let hall = Arc::new(Hall { size, meeting, changed: Condvar::new() });
    (0..size).map(|rank| Thread { rank, hall: hall.clone() }).collect()
}

impl Hall {
    fn lock(&self) -> MutexGuard<'_, Meeting> {
        self.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `is_so`, or somebody is gone.
    fn wait<'a>(
        &'a self,
        meeting: MutexGuard<'a, Meeting>,
        is_so: impl Fn(&Meeting) -> bool,
    ) -> Result<MutexGuard<'a, Meeting>, RanksError> {
        let still = |meeting: &mut Meeting| !is_so(meeting) && !meeting.gone;
        let meeting =
            self.changed.wait_while(meeting, still).unwrap_or_else(PoisonError::into_inner);
        if is_so(&meeting) { Ok(meeting) } else { Err(RanksError::Gone) }
    }
}

impl Communicator for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.hall.size
    }

    fn gather(&self, mine: Vec<u8>) -> Result<Vec<Vec<u8>>, RanksError> {
        let hall = &self.hall;
        // The meeting before is over once all have fetched what it came to.
        let mut meeting = hall.wait(hall.lock(), |meeting| meeting.came_to.is_none())?;
        meeting.brought[self.rank] = Some(mine);
        if meeting.brought.iter().all(Option::is_some) {
            let all = meeting.brought.iter_mut().filter_map(Option::take).collect();
            meeting.came_to = Some((all, hall.size));
            hall.changed.notify_all();
        }
        let mut meeting = hall.wait(meeting, |meeting| meeting.came_to.is_some())?;
        let (all, left) = meeting.came_to.take().ok_or(RanksError::Gone)?;
        let result = all.clone();
        if left > 1 {
            meeting.came_to = Some((all, left - 1));
        }
        hall.changed.notify_all();
        Ok(result)
    }

    fn sum(&self, mut words: Vec<i64>) -> Result<Vec<i64>, RanksError> {
        let mine = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        words.fill(0);
        for (rank, bytes) in self.gather(mine)?.into_iter().enumerate() {
            let (theirs, rest) = bytes.as_chunks::<8>();
            if theirs.len() != words.len() || !rest.is_empty() {
                return Err(RanksError::Unreadable(rank));
            }
            for (word, theirs) in words.iter_mut().zip(theirs) {
                *word = word.wrapping_add(i64::from_le_bytes(*theirs));
            }
        }
        Ok(words)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.hall.lock().gone = true;
        self.hall.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_hears_everyone_until_one_is_gone() {
        let threads = ranks(3).into_iter().map(|rank| {
            std::thread::spawn(move || {
                for turn in 0..50_u8 {
                    let all = rank.gather(vec![rank.rank() as u8, turn]).expect("all are there");
                    assert_eq!(all, [[0, turn], [1, turn], [2, turn]]);
                    let sum = rank.sum(vec![rank.rank() as i64, -1]).expect("all are there");
                    assert_eq!(sum, [3, -3]);
                }
                if rank.rank() < 2 {
                    assert_eq!(rank.gather(Vec::new()), Err(RanksError::Gone));
                }
            })
        });
        threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().expect("sound"));
    }
}
