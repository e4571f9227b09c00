//! How well an adapter does: for all held-out text, and for each client and tier.

use std::ops::Range;
use std::sync::Arc;

use gossamer_client::train::Evaluation;
use gossamer_protocol::frame::Snapshot;
use gossamer_protocol::ids::{ClientId, RoundId};
use gossamer_protocol::manifest::Tier;
use gossamer_protocol::select::tier;
use gossamer_protocol::sign::SigningKey;

use super::EngineError;
use super::evaluation::Owner;
use super::federation::Run;
use crate::report::ClientLoss;

/// What one evaluation came to.
pub(super) struct Evaluated {
    /// With the adapter that clients receive; of a method with tiers, the largest tier's.
    pub(super) received: Evaluation,
    /// With the aggregator's own.
    pub(super) own: Evaluation,
    /// Each client's, with what it receives, where that is asked for.
    pub(super) clients: Vec<ClientLoss>,
}

impl Run<'_> {
    /// How well the adapters of `round` do.
    pub(super) async fn evaluate(&self, round: u64) -> Result<Evaluated, EngineError> {
        if round == 0 {
            self.coordinator.tick().await?;
        }
        let snapshot = self.snapshot(round).await?;
        let theta = Arc::new(snapshot.theta(&self.manifest));
        let own = Arc::new(self.coordinator.theta(self.id, RoundId(round)).await?);
        let (mut clients, mut together) = (Vec::new(), None);
        if !self.lab.heldout.owners().is_empty() {
            let each = self.evaluate_each(&snapshot, &theta).await?;
            if self.manifest.method.tiers.is_empty() {
                together =
                    Some(each.iter().fold(Evaluation::default(), |sum, (_, one)| sum.plus(*one)));
            }
            let told = self.lab.heldout.owners().iter().zip(each);
            let told = told.map(|(owner, (tier, one))| {
                let (loss, accuracy) = (one.mean(), one.accuracy());
                ClientLoss { client: owner.name.clone(), tier, targets: one.tokens, loss, accuracy }
            });
            clients = told.collect();
        }
        let received = match together {
            Some(together) => together,
            None => self.evaluate_at(theta.clone()).await?,
        };
        let own = if own == theta { received } else { self.evaluate_at(own).await? };
        Ok(Evaluated { received, own, clients })
    }

    /// Each owner's tier, and its text with what a client of that tier receives.
    async fn evaluate_each(
        &self,
        snapshot: &Snapshot,
        theta: &Arc<Vec<f32>>,
    ) -> Result<Vec<(Option<String>, Evaluation)>, EngineError> {
        // One adapter a tier: clients of a tier start from the same.
        let mut adapters: Vec<(Tier, Arc<Vec<f32>>)> = Vec::new();
        let mut asked = Vec::new();
        for owner in self.lab.heldout.owners() {
            let of = owner.place.map(|at| self.id_of(at));
            let adapter = match of.and_then(|id| Some((id, *tier::of(&self.manifest, id)?))) {
                None => theta.clone(),
                Some((id, tier)) => match adapters.iter().find(|(known, _)| *known == tier) {
                    Some((_, adapter)) => adapter.clone(),
                    None => {
                        let part = tier::part(&self.manifest, id, snapshot);
                        let part = part.map_err(|e| EngineError::Diverged {
                            round: snapshot.round.0,
                            why: e.to_string(),
                        })?;
                        let adapter = Arc::new(part.theta);
                        adapters.push((tier, adapter.clone()));
                        adapter
                    }
                },
            };
            asked.push((self.tier_name(owner), adapter));
        }
        let (lab, manifest, asked) = (self.lab.clone(), self.manifest.clone(), Arc::new(asked));
        let owners = self.lab.heldout.owners().len();
        self.in_parts(owners, move |part| {
            let owners = lab.heldout.owners()[part.clone()].iter().zip(&asked[part]);
            owners
                .map(|(owner, (tier, theta))| {
                    let one = lab.heldout.evaluate_owner(&lab.base, &manifest, theta, owner)?;
                    Ok((tier.clone(), one))
                })
                .collect()
        })
        .await
    }

    /// What `work` gives for all of `0..n`, in order; each thread does a part.
    async fn in_parts<T: Send + 'static>(
        &self,
        n: usize,
        work: impl Fn(Range<usize>) -> Result<Vec<T>, EngineError> + Send + Sync + 'static,
    ) -> Result<Vec<T>, EngineError> {
        let (work, each) = (Arc::new(work), n.div_ceil(self.lab.n_threads.get()).max(1));
        let parts = (0..n).step_by(each).map(|first| {
            let work = work.clone();
            tokio::spawn(self.lab.on_a_thread(move || work(first..n.min(first + each))))
        });
        let mut all = Vec::with_capacity(n);
        for part in parts.collect::<Vec<_>>() {
            all.extend(part.await.map_err(|_| EngineError::Thread)???);
        }
        Ok(all)
    }

    /// The name of the client at `place`.
    pub(super) fn id_of(&self, place: usize) -> ClientId {
        ClientId::of(&SigningKey::from_seed(&self.lab.fleet.seed(place)).public().0)
    }

    /// The tier of devices, and the method's.
    fn tier_name(&self, owner: &Owner) -> Option<String> {
        let place = owner.place?;
        let device = self.timing.as_ref().map(|timing| timing.tier_name(place).to_owned());
        let of_method = tier::of(&self.manifest, self.id_of(place)).map(|tier| match tier {
            Tier { rank: Some(rank), .. } => format!("rank {rank}"),
            Tier { density: Some(density), .. } => format!("density {}", f64::from(*density)),
            Tier { .. } => "whole".to_owned(),
        });
        let words: Vec<String> = device.into_iter().chain(of_method).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }

    async fn evaluate_at(&self, theta: Arc<Vec<f32>>) -> Result<Evaluation, EngineError> {
        let (lab, manifest) = (self.lab.clone(), self.manifest.clone());
        let none = Evaluation { right: manifest.head.map(|_| 0), ..Evaluation::default() };
        let batches = self.lab.heldout.batches();
        let work = move |part| Ok(lab.heldout.evaluate(&lab.base, &manifest, &theta, part)?);
        let each = self.in_parts(batches, work).await?;
        Ok(each.into_iter().fold(none, Evaluation::plus))
    }
}
