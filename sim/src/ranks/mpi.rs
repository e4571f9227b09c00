//! Ranks by MPI.
//!
//! A thread of its own starts the library and makes all calls; others ask it. So nothing of MPI is shared between
//! threads, and the library need not know of more than one.

use std::sync::mpsc::{Receiver, Sender, channel};

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::datatype::PartitionMut;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _};

use super::{Communicator, RanksError};

/// Numbers in one call: its count is an `i32`, and its buffers lie beside ours.
const WORDS: usize = 1 << 22;

enum Call {
    Gather(Vec<u8>, Sender<Result<Vec<Vec<u8>>, RanksError>>),
    Sum(Vec<i64>, Sender<Result<Vec<i64>, RanksError>>),
    Abort,
    Finish(Sender<()>),
}

/// This process in `MPI_COMM_WORLD`.
pub struct Mpi {
    rank: usize,
    size: usize,
    calls: Sender<Call>,
}

impl Mpi {
    /// Starts MPI; once a process.
    ///
    /// # Errors
    /// [`RanksError::Library`] where it runs already, or does not start.
    pub fn start() -> Result<Self, RanksError> {
        let (calls, asked) = channel();
        let (started, start) = channel();
        let work = move || {
            let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else {
                return;
            };
            let world = universe.world();
            let _ = started.send((world.rank(), world.size()));
            let done = serve(&world, &asked);
            drop(universe);
            drop(done);
        };
        let failed = |why: &str| RanksError::Library(why.to_owned());
        let thread = std::thread::Builder::new().name("mpi".to_owned()).spawn(work);
        thread.map_err(|e| failed(&e.to_string()))?;
        let (rank, size) = start.recv().map_err(|_| failed("it does not start"))?;
        let count = |count: i32| usize::try_from(count).map_err(|_| failed("a negative count"));
        Ok(Self { rank: count(rank)?, size: count(size)?, calls })
    }

    /// Ends the job: all ranks, wherever they are.
    pub fn abort(&self) {
        if self.calls.send(Call::Abort).is_ok() {
            // It does not come back; a library that hangs must not keep the process.
            std::thread::sleep(std::time::Duration::from_secs(5));
        }
    }

    /// Ends MPI in this process, once all ranks do.
    pub fn finish(&self) {
        let (done, wait) = channel();
        if self.calls.send(Call::Finish(done)).is_ok() {
            let _ = wait.recv();
        }
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, mine: Vec<u8>) -> Result<Vec<Vec<u8>>, RanksError> {
        let (reply, result) = channel();
        self.calls.send(Call::Gather(mine, reply)).map_err(|_| RanksError::Gone)?;
        result.recv().map_err(|_| RanksError::Gone)?
    }

    fn sum(&self, words: Vec<i64>) -> Result<Vec<i64>, RanksError> {
        let (reply, result) = channel();
        self.calls.send(Call::Sum(words, reply)).map_err(|_| RanksError::Gone)?;
        result.recv().map_err(|_| RanksError::Gone)?
    }
}

/// Answers until it is told to finish, or nobody is left to ask.
fn serve(world: &SimpleCommunicator, asked: &Receiver<Call>) -> Option<Sender<()>> {
    for call in asked {
        match call {
            // Whoever no longer waits for an answer has failed.
            Call::Gather(mine, reply) => drop(reply.send(gather(world, &mine))),
            Call::Sum(words, reply) => drop(reply.send(Ok(sum(world, &words)))),
            Call::Abort => world.abort(1),
            Call::Finish(done) => return Some(done),
        }
    }
    None
}

fn gather(world: &SimpleCommunicator, mine: &[u8]) -> Result<Vec<Vec<u8>>, RanksError> {
    let size = usize::try_from(world.size()).unwrap_or_default();
    let mut lengths = vec![0_u64; size];
    world.all_gather_into(&(mine.len() as u64), &mut lengths[..]);
    let mut starts = Vec::with_capacity(size);
    let mut total = 0_u64;
    for length in &lengths {
        starts.push(i32::try_from(total).unwrap_or(-1));
        total += length;
    }
    // All come to the same, so that none is left waiting.
    if i32::try_from(total).is_err() {
        let why = format!("{total} bytes in one exchange, at most {} can be", i32::MAX);
        return Err(RanksError::Library(why));
    }
    let counts: Vec<i32> = lengths.iter().map(|&length| length as i32).collect();
    let mut all = vec![0_u8; total as usize];
    let mut parts = PartitionMut::new(&mut all[..], counts, starts);
    world.all_gather_varcount_into(mine, &mut parts);
    drop(parts);
    let mut rest = &all[..];
    let part = |length: &u64| {
        let (part, after) = rest.split_at(*length as usize);
        rest = after;
        part.to_vec()
    };
    Ok(lengths.iter().map(part).collect())
}

fn sum(world: &SimpleCommunicator, words: &[i64]) -> Vec<i64> {
    let mut sums = vec![0_i64; words.len()];
    for (words, sums) in words.chunks(WORDS).zip(sums.chunks_mut(WORDS)) {
        world.all_reduce_into(words, sums, SystemOperation::sum());
    }
    sums
}
