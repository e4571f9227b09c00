//! How well an adapter does: for all held-out text, and for each client and tier.

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
                    Some(each.iter().fold(Evaluation::default(), |sum, (_, one)| plus(sum, one)));
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
        let (lab, manifest) = (self.lab.clone(), self.manifest.clone());
        let permit = self.lab.threads.clone().acquire_owned().await;
        let work = move || {
            let _permit = permit;
            let each = lab.heldout.owners().iter().zip(asked).map(|(owner, (tier, theta))| {
                let one = lab.heldout.evaluate_owner(&lab.base, &manifest, &theta, owner)?;
                Ok::<_, EngineError>((tier, one))
            });
            each.collect()
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| EngineError::Thread)?
    }

    fn id_of(&self, place: usize) -> ClientId {
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
        let permit = self.lab.threads.clone().acquire_owned().await;
        let work = move || {
            let _permit = permit;
            lab.heldout.evaluate(&lab.base, &manifest, &theta)
        };
        let evaluation =
            tokio::task::spawn_blocking(work).await.map_err(|_| EngineError::Thread)?;
        Ok(evaluation?)
    }
}

fn plus(sum: Evaluation, one: &Evaluation) -> Evaluation {
    Evaluation {
        nats: sum.nats + one.nats,
        tokens: sum.tokens + one.tokens,
        right: one.right.map(|right| sum.right.unwrap_or(0) + right),
    }
}
