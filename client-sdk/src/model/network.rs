//! A base model with its adapter, from a batch to the logits of its targets and back.

use super::decoder::{self, Decoder, Gradients};
use super::encoder::{self, Encoder};
use crate::data::Batch;
use crate::lora::Adapter;
use crate::ops::linear::{self, Dropout, Linear, Saved};
use crate::ops::product::Store;
use crate::ops::room;

/// Either family, with what is trained beside it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Network<'a> {
    /// Logits of every next token, `[rows * cols, vocab]`.
    Decoder(Decoder<'a>),
    /// Logits of every sequence's class, `[rows, classes]`, by the task head.
    Encoder(Encoder<'a>, Linear<'a>),
}

/// What a forward pass leaves for the backward pass; reused from step to step.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    decoder: decoder::Tape,
    encoder: encoder::Tape,
    /// Each row's features, `[rows, hidden]`.
    features: Vec<f32>,
}

impl Network<'_> {
    /// The logits of each target of `batch`, in order.
    pub(crate) fn forward(
        &self,
        tape: &mut Tape,
        logits: &mut Vec<f32>,
        batch: &Batch,
        dropout: Option<&mut Dropout>,
    ) {
        match self {
            Self::Decoder(decoder) => {
                let hidden = decoder.forward(&mut tape.decoder, batch, dropout);
                decoder.logits(logits, hidden);
            }
            Self::Encoder(encoder, head) => {
                let features = encoder.forward(&mut tape.encoder, batch, dropout);
                tape.features.clear();
                tape.features.extend_from_slice(features);
                let logits = room(logits, batch.rows * head.d_out);
                head.forward(logits, Store::Set, &tape.features, &mut Saved::default(), None);
            }
        }
    }

    /// Adds to the flat adapter's `gradient` what follows from `dlogits`.
    pub(crate) fn backward(&self, tape: &Tape, dlogits: &[f32], gradient: &mut [f32]) {
        match self {
            Self::Decoder(decoder) => {
                let mut gradients = Gradients { adapter: Some(gradient), weights: None };
                decoder.backward(&tape.decoder, dlogits, &mut gradients);
            }
            Self::Encoder(encoder, head) => {
                let mut dfeatures = vec![0.0; tape.features.len()];
                let plan = encoder.adapter.map(Adapter::plan);
                let [weight, bias] = plan.map_or([None, None], |plan| plan.split_head(gradient));
                let parts = linear::Gradients { weight, bias, ..Default::default() };
                let dx = Some((&mut dfeatures[..], Store::Set));
                let saved = Saved::default();
                head.backward(dx, parts, dlogits, &tape.features, &saved, &mut Vec::new());
                encoder.backward(&tape.encoder, &dfeatures, gradient);
            }
        }
    }
}
