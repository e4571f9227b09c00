//! Federated evaluation, and the rules that end a run.

use gossamer_protocol::ids::{ClientId, RoundId, RunId};
use gossamer_protocol::manifest::Metric;
use gossamer_protocol::message::Measured;

use super::{Coordinator, CoordinatorError, Run};
use crate::round::RoundError;
use crate::round::stop::{Past, reached};
use crate::store::RoundRow;

impl Coordinator {
    /// Takes what `client` tells of the snapshot of a round that it is asked to take part in. Its first
    /// word stands.
    ///
    /// # Errors
    /// [`CoordinatorError::NotYours`], [`CoordinatorError::Measured`] where it is out of range or the run asks
    /// this client for none, [`CoordinatorError::Round`] where it is not asked in that round, and the store's.
    pub async fn measured(
        &self,
        caller: ClientId,
        run: RunId,
        round: RoundId,
        client: ClientId,
        measured: &Measured,
    ) -> Result<(), CoordinatorError> {
        let seen = self.as_client(caller).await?;
        let run = seen.find(run).await?;
        if caller != client {
            return Err(CoordinatorError::NotYours { caller, owner: client });
        }
        let manifest = &run.manifest;
        let asks = manifest.evaluation.is_some_and(|asked| asked.asks(manifest.seed, client));
        if !asks || !measured.is_sound() {
            return Err(CoordinatorError::Measured);
        }
        {
            let open = self.lock(&run).await?;
            let (now, asked) = (open.round.id(), open.round.asked().get(&client));
            let source = match asked {
                Some(task) if task.round == round => None,
                _ if round > now => Some(RoundError::Unknown { got: round, open: now }),
                None if round == now => Some(RoundError::NotInCohort(client)),
                _ => Some(RoundError::Stale { got: round, attempt: open.round.attempt() }),
            };
            if let Some(source) = source {
                let retry = self.retry_any(&run, self.now());
                return Err(CoordinatorError::Round { source, retry });
            }
        }
        let (id, measured) = (run.id, *measured);
        let note = move |this: Self| async move {
            Ok(this.0.store.evaluate(id, round, client, &measured).await?)
        };
        self.apart(note).await
    }

    /// The rule of the manifest that ends the run with `closed`, in words.
    pub(super) async fn stopped_by(
        &self,
        run: &Run,
        closed: &RoundRow,
    ) -> Result<Option<String>, CoordinatorError> {
        let Some(stop) = run.manifest.stop else { return Ok(None) };
        let past = |row: &RoundRow| Past {
            loss: match stop.metric {
                Metric::Training => row.loss,
                Metric::Evaluation => row.evaluation.map(|evaluated| evaluated.loss),
            },
            bytes_up: row.bytes_up,
            bytes_down: row.bytes_down,
        };
        let mut rows = self.0.store.rounds(run.id, RoundId(0), u32::MAX).await?;
        rows.retain(|row| row.round < closed.round);
        rows.push(*closed);
        Ok(reached(&stop, &rows.iter().map(past).collect::<Vec<_>>()))
    }
}
