//! A base model with its adapter, from a batch to the logits of its targets and back.

use std::ops::Range;

use super::bert::Bert;
use super::frozen::{Frozen, Gradients};
use super::gpt2::Gpt2;
use super::llama::Llama;
pub(crate) use super::tape::Tape;
use super::walk::{self, Family};
use crate::data::Batch;
use crate::lora::Adapter;
use crate::ops::linear::{self, Dropout, Linear, Share};
use crate::ops::product::{Store, View, product};
use crate::ops::room;

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
                let weight = self.body.frozen().at(place);
                let vocab = weight.len() / d;
                let head = View::new(weight, vocab, d);
                let features = View::new(features, n, d);
                product(room(logits, n * vocab), vocab, features, head.t(), 1.0, Store::Set);
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

    /// Adds to the flat adapter's `gradient` what follows from `dlogits`.
    pub(crate) fn backward(&self, tape: &Tape, dlogits: &[f32], gradient: &mut [f32]) {
        self.backward_into(
            tape,
            dlogits,
            &mut Gradients { adapter: Some(gradient), weights: None },
        );
    }

    /// Adds to `gradients` what follows from `dlogits`.
    pub(crate) fn backward_into(
        &self,
        tape: &Tape,
        dlogits: &[f32],
        gradients: &mut Gradients<'_>,
    ) {
        let features = &tape.features;
        let mut dfeatures = vec![0.0; features.len()];
        match &self.head {
            Head::Tokens(place) => {
                let weight = self.body.frozen().at(place);
                let d = self.body.family().sizes().hidden;
                let (n, vocab) = (features.len() / d, weight.len() / d);
                let dlogits = View::new(dlogits, n, vocab);
                if let Some(dhead) = gradients.weights_at(place) {
                    let features = View::new(features, n, d);
                    product(dhead, d, dlogits.t(), features, 1.0, Store::Add);
                }
                let head = View::new(weight, vocab, d);
                product(&mut dfeatures, d, dlogits, head, 1.0, Store::Set);
            }
            Head::Classes(adapter) => {
                for (share, head) in heads(*adapter) {
                    let gradient = gradients.adapter.as_deref_mut();
                    let gradient = gradient.map(|all| share.part_mut(all));
                    let [weight, bias] = gradient
                        .map_or([None, None], |gradient| adapter.plan().split_head(gradient));
                    let dx = Some((share.part_mut(&mut dfeatures), Store::Set));
                    let parts = linear::Gradients { weight, bias };
                    head.backward(dx, parts, share.part(dlogits), share.part(features));
                }
            }
        }
        walk::backward(self.body.family(), tape, &dfeatures, gradients);
    }
}

/// Each client's head, with its share of the sequences.
fn heads<'a>(adapter: Adapter<'a>) -> impl Iterator<Item = (Share, Linear<'a>)> {
    adapter.shares().filter_map(move |share| Some((share, adapter.head(share.at)?)))
}
