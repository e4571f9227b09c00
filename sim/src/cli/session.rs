//! This process, alone or one of those that `mpirun` started.

use anyhow::bail;
use gossamer_sim::ranks::Ranks;

/// A process among its peers, from the start to the end of a command.
pub(crate) struct Session {
    #[cfg(feature = "mpi")]
    mpi: Option<std::sync::Arc<gossamer_sim::ranks::mpi::Mpi>>,
}

/// How many processes were started together, as Open MPI, MPICH and their kin say it.
fn started() -> usize {
    let said = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];
    let said = said.iter().find_map(|name| std::env::var(name).ok()?.parse().ok());
    said.unwrap_or(1)
}

impl Session {
    /// Of a command that one process does.
    pub(crate) fn only_alone() -> anyhow::Result<()> {
        match started() {
            0 | 1 => Ok(()),
            n => bail!(
                "started {n} times by mpirun: only run and compare do their work in several processes"
            ),
        }
    }

    #[cfg(not(feature = "mpi"))]
    pub(crate) fn start() -> anyhow::Result<Self> {
        match started() {
            0 | 1 => Ok(Self {}),
            n => bail!(
                "started {n} times by mpirun, and built without the feature \"mpi\": each would do the same"
            ),
        }
    }

    #[cfg(feature = "mpi")]
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mpi = match started() {
            0 | 1 => None,
            _ => Some(std::sync::Arc::new(gossamer_sim::ranks::mpi::Mpi::start()?)),
        };
        Ok(Self { mpi })
    }

    pub(crate) fn ranks(&self) -> Ranks {
        #[cfg(feature = "mpi")]
        if let Some(mpi) = &self.mpi {
            return Ranks::new(mpi.clone());
        }
        Ranks::default()
    }

    /// Ends this process's part; where it `failed`, everyone's.
    pub(crate) fn end(self, failed: Option<&anyhow::Error>) {
        #[cfg(feature = "mpi")]
        if let Some(mpi) = self.mpi {
            match failed {
                None => mpi.finish(),
                Some(error) => {
                    // The job may end before anybody else gets to say it.
                    eprintln!("gossamer-sim: rank {}: {error:#}", Ranks::new(mpi.clone()).rank());
                    mpi.abort();
                }
            }
        }
        let _ = failed;
    }
}
