//! The devices: a language, a real client, and what they tell while they work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use gossamer_client::client::{Client, Event};
use gossamer_client::data::{Batch, TextDataset, TrainingTask};
use gossamer_client::model::BaseModel;
use gossamer_client::train::{Control, evaluate};
use gossamer_protocol::manifest::Manifest;
use gossamer_sim::partition::ClientText;

use super::aggregator::Aggregator;

/// A device: its text, and the client that trains on it.
pub(super) struct Device {
    pub(super) language: String,
    pub(super) client: Client,
    pub(super) task: Arc<dyn TrainingTask>,
    heldout: Vec<Batch>,
}

impl Device {
    /// Enrols a device that trains on `training` and is measured on `heldout`.
    pub(super) async fn enrol(
        training: &ClientText,
        heldout: &ClientText,
        base: &BaseModel,
        (context, windows): (usize, usize),
        aggregator: &Aggregator,
        progress: &Arc<Progress>,
    ) -> anyhow::Result<Self> {
        let task = Arc::new(TextDataset::new(base, &training.documents)?);
        let mut heldout = TextDataset::new(base, &heldout.documents)?.sequences(windows, context);
        heldout.truncate(1);
        let heard = progress.clone();
        let client = Client::builder(&aggregator.url)
            .token(aggregator.token().await?)
            // A real device draws its key; with a fixed one everybody's quick start prints the same.
            .identity(gossamer_sim::engine::identity(&training.name))
            .base(base.clone())
            .watch(Arc::new(move |event| {
                heard.hear(event);
                Control::Continue
            }))
            .connect()
            .await?;
        Ok(Self { language: training.name.clone(), client, task, heldout })
    }

    /// Loss of the adapter `theta` on this device's kept-out text, nats a token.
    pub(super) fn loss(
        &self,
        base: &BaseModel,
        manifest: &Manifest,
        theta: &[f32],
    ) -> anyhow::Result<f64> {
        Ok(evaluate(base, manifest, theta, &self.heldout)?.mean())
    }
}

/// What devices told, by round.
#[derive(Default)]
pub(super) struct Progress(Mutex<BTreeMap<u64, Told>>);

/// What devices told of one round.
#[derive(Clone, Copy, Default)]
pub(super) struct Told {
    pub(super) download_bytes: u64,
    pub(super) upload_bytes: u64,
    pub(super) updates: u32,
    loss: f64,
}

impl Told {
    /// Mean training loss; NaN where nobody told.
    pub(super) fn mean_loss(&self) -> f64 {
        self.loss / f64::from(self.updates)
    }
}

impl Progress {
    fn hear(&self, event: &Event<'_>) {
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Downloaded { round, bytes } => {
                rounds.entry(round.0).or_default().download_bytes += bytes;
            }
            Event::Delivered(contribution) => {
                let told = rounds.entry(contribution.receipt.round.0).or_default();
                told.upload_bytes += contribution.update_bytes;
                told.updates += 1;
                told.loss += f64::from(contribution.loss);
            }
            _ => {}
        }
    }

    /// All that was told since the last time.
    pub(super) fn take(&self) -> BTreeMap<u64, Told> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
