//! A base model with its adapter, from a batch to the logits of its targets and back.

use std::ops::Range;

use super::bert::Bert;
use super::frozen::{Frozen, Gradients};
use super::gpt2::Gpt2;
use super::llama::Llama;
pub(crate) use super::tape::{Keep, Tape};
use super::walk::{self, Family};
use crate::data::Batch;
use crate::lora::Adapter;
use crate::ops::cross_entropy::{self, Nats};
use crate::ops::linear::{self, Dropout, Linear, Share};
use crate::ops::product::{Factor, Store, View, product};
use crate::ops::room;

/// Logits held at once, at most: 32 MiB. Each part of the rows packs the head's weights anew, so more is
/// faster.
pub(crate) const LOGITS: usize = 1 << 23;

/// A family with what stands above its features.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network<'a> {
    pub(crate) body: Body<'a>,
    pub(crate) head: Head<'a>,
}

/// Which family.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body<'a> {
    Llama(Llama<'a>),
    Gpt2(Gpt2<'a>),
    Bert(Bert<'a>),
}

/// From features to logits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Head<'a> {
    /// Of every next token, `[rows * cols, vocab]`: a frozen `[vocab, hidden]`, by its place.
    Tokens(&'a Range<usize>),
    /// Of every sequence's class, `[rows, classes]`: the adapter's own head.
    Classes(Adapter<'a>),
}

/// One client's cross-entropy in a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loss<'t> {
    /// Those of the pass.
    pub(crate) targets: &'t [u32],
    /// What the mean is over: also those of other passes, where a batch is cut.
    pub(crate) tokens: usize,
    /// What came of it, and of the passes before.
    pub(crate) nats: Nats,
}

impl<'t> Loss<'t> {
    /// Of a whole batch's targets.
    pub(crate) fn of(targets: &'t [u32]) -> Self {
        Self { targets, tokens: cross_entropy::learned(targets), nats: Nats::default() }
    }
}

impl<'a> Body<'a> {
    fn family(&self) -> &dyn Family {
        match self {
            Self::Llama(llama) => llama,
            Self::Gpt2(gpt2) => gpt2,
            Self::Bert(bert) => bert,
        }
    }

    fn frozen(&self) -> &Frozen<'a> {
        match self {
            Self::Llama(llama) => &llama.frozen,
            Self::Gpt2(gpt2) => &gpt2.frozen,
            Self::Bert(bert) => &bert.frozen,
        }
    }
}

impl Network<'_> {
    /// What the head takes: `[rows * cols, hidden]` of a decoder, `[rows, hidden]` of an encoder.
    pub(crate) fn features<'t>(
        &self,
        tape: &'t mut Tape,
        batch: &Batch,
        dropout: Option<&mut Dropout>,
    ) -> &'t [f32] {
        walk::forward(self.body.family(), tape, batch, dropout)
    }

    /// The logits of some rows of features.
    pub(crate) fn logits(&self, logits: &mut Vec<f32>, features: &[f32]) {
        let d = self.body.family().sizes().hidden;
        let n = features.len() / d;
        match &self.head {
            Head::Tokens(place) => {
                let head = self.body.frozen().matrix(place, d);
                let (vocab, features) = (head.rows(), View::new(features, n, d));
                let head = Factor::stored(head).t();
                product(room(logits, n * vocab), vocab, features, head, 1.0, Store::Set);
            }
            Head::Classes(adapter) => {
                for (share, head) in heads(*adapter) {
                    let logits = share.part_mut(room(logits, n * head.d_out));
                    head.forward(logits, Store::Set, share.part(features));
                }
            }
        }
    }

    /// The logits of each target of `batch`, in order.
    pub(crate) fn forward(
        &self,
        tape: &mut Tape,
        logits: &mut Vec<f32>,
        batch: &Batch,
        dropout: Option<&mut Dropout>,
    ) {
        let features = self.features(tape, batch, dropout);
        self.logits(logits, features);
    }

    /// The cross-entropy of `targets`, after a forward pass that left its features; `see` meets every row's
    /// logits with its target, some rows at a time.
    pub(crate) fn nats(
        &self,
        tape: &Tape,
        logits: &mut Vec<f32>,
        targets: &[u32],
        mut see: impl FnMut(&[f32], &[u32]),
    ) -> Nats {
        let (mut nats, most) = (Nats::default(), self.rows_at_once().min(targets.len()).max(1));
        let d = tape.features.len() / targets.len().max(1);
        for (targets, features) in targets.chunks(most).zip(tape.features.chunks(most * d)) {
            self.logits(logits, features);
            cross_entropy::forward(&mut nats, logits, targets);
            see(logits, targets);
        }
        nats
    }

    /// Adds to `gradients` those of each client's mean cross-entropy, after a forward pass of equally many
    /// targets of each. The logits of all rows are never held at once.
    pub(crate) fn learn(
        &self,
        tape: &mut Tape,
        logits: &mut Vec<f32>,
        losses: &mut [Loss<'_>],
        gradients: &mut Gradients<'_>,
    ) {
        let most = match (&self.head, &gradients.weights) {
            (Head::Tokens(_), None) => self.rows_at_once(),
            // A head's own gradient is a sum over all rows, whose bits are those of one sum.
            _ => usize::MAX,
        };
        self.learn_by(most, tape, logits, losses, gradients);
    }

    /// [`learn`](Self::learn), at most so many rows of logits at a time: no row's numbers depend on another's.
    pub(super) fn learn_by(
        &self,
        most: usize,
        tape: &mut Tape,
        logits: &mut Vec<f32>,
        losses: &mut [Loss<'_>],
        gradients: &mut Gradients<'_>,
    ) {
        let mut dfeatures = std::mem::take(&mut tape.scratch.dfeatures);
        room(&mut dfeatures, tape.features.len());
        let each = losses.first().map_or(0, |loss| loss.targets.len());
        let d = tape.features.len() / (each * losses.len()).max(1);
        let part = most.min(each * losses.len()).max(1) * d;
        let mut row = 0;
        for (features, dfeatures) in tape.features.chunks(part).zip(dfeatures.chunks_mut(part)) {
            self.logits(logits, features);
            let width = logits.len() / (features.len() / d);
            let mut rest = &mut logits[..];
            while !rest.is_empty() {
                let Loss { targets, tokens, nats } = &mut losses[row / each];
                let targets = &targets[row % each..];
                let (some, others) = rest.split_at_mut(rest.len().min(targets.len() * width));
                let targets = &targets[..some.len() / width];
                cross_entropy::backward_in_place(nats, some, targets, *tokens);
                row += targets.len();
                rest = others;
            }
            self.head_backward(dfeatures, logits, features, gradients);
        }
        walk::backward(self.body.family(), tape, &dfeatures, gradients);
        tape.scratch.dfeatures = dfeatures;
    }

    /// Adds to `gradients` what follows from `dlogits`, of every target.
    pub(crate) fn backward(&self, tape: &mut Tape, dlogits: &[f32], gradients: &mut Gradients<'_>) {
        let mut dfeatures = std::mem::take(&mut tape.scratch.dfeatures);
        room(&mut dfeatures, tape.features.len());
        self.head_backward(&mut dfeatures, dlogits, &tape.features, gradients);
        walk::backward(self.body.family(), tape, &dfeatures, gradients);
        tape.scratch.dfeatures = dfeatures;
    }

    /// Sets `dfeatures` of some rows of features, and adds the head's own gradients.
    fn head_backward(
        &self,
        dfeatures: &mut [f32],
        dlogits: &[f32],
        features: &[f32],
        gradients: &mut Gradients<'_>,
    ) {
        match &self.head {
            Head::Tokens(place) => {
                let d = self.body.family().sizes().hidden;
                let head = self.body.frozen().matrix(place, d);
                let (n, vocab) = (features.len() / d, head.rows());
                let dlogits = View::new(dlogits, n, vocab);
                if let Some(dhead) = gradients.weights_at(place) {
                    let features = View::new(features, n, d);
                    product(dhead, d, dlogits.t(), features, 1.0, Store::Add);
                }
                product(dfeatures, d, dlogits, Factor::stored(head), 1.0, Store::Set);
            }
            Head::Classes(adapter) => {
                for (share, head) in heads(*adapter) {
                    let gradient = gradients.adapter.as_deref_mut();
                    let gradient = gradient.map(|all| share.part_mut(all));
                    let [weight, bias] = gradient
                        .map_or([None, None], |gradient| adapter.plan().split_head(gradient));
                    let dx = Some((share.part_mut(dfeatures), Store::Set));
                    let parts = linear::Gradients { weight, bias };
                    head.backward(dx, parts, share.part(dlogits), share.part(features));
                }
            }
        }
    }

    /// Rows of logits that are held at once.
    fn rows_at_once(&self) -> usize {
        match &self.head {
            Head::Tokens(place) => {
                (LOGITS * self.body.family().sizes().hidden / place.len().max(1)).max(1)
            }
            // They are few.
            Head::Classes(_) => usize::MAX,
        }
    }
}

/// Each client's head, with its share of the sequences.
fn heads<'a>(adapter: Adapter<'a>) -> impl Iterator<Item = (Share, Linear<'a>)> {
    adapter.shares().filter_map(move |share| Some((share, adapter.head(share.at)?)))
}
