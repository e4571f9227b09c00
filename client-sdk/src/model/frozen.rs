//! Frozen weights with the adapter beside them: what every layer of every family reads, and where the
//! gradients go.

use std::ops::Range;

use super::held::Weights;
use super::tensors::Tensors;
use crate::lora::Adapter;
use crate::ops::linear::{self, Dropout, Linear};
use crate::ops::matrix::Matrix;
use crate::ops::product::Store;

/// A model's weights, found by place, and its linears, found by number, each with its LoRA branch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frozen<'a> {
    pub(crate) tensors: &'a Tensors,
    pub(crate) weights: Weights<'a>,
    pub(crate) adapter: Option<Adapter<'a>>,
}

/// Where gradients are added; `None`: not wanted.
#[derive(Debug, Default)]
pub(crate) struct Gradients<'g> {
    /// The flat adapter's, of several clients one after the other.
    pub(crate) adapter: Option<&'g mut [f32]>,
    /// The flat base weights'.
    pub(crate) weights: Option<&'g mut [f32]>,
}

impl Gradients<'_> {
    pub(crate) fn weights_at(&mut self, place: &Range<usize>) -> Option<&mut [f32]> {
        self.weights.as_deref_mut().map(|w| &mut w[place.clone()])
    }
}

impl<'a> Frozen<'a> {
    /// A norm's weight, or a bias.
    pub(crate) fn at(&self, place: &Range<usize>) -> &'a [f32] {
        self.weights.at(place)
    }

    /// An embedding or a head, with rows of `cols` entries.
    pub(crate) fn matrix(&self, place: &Range<usize>, cols: usize) -> Matrix<'a> {
        self.weights.matrix(place, cols)
    }

    /// Linear number `at`, counted layer by layer.
    fn linear(&self, at: usize) -> Linear<'a> {
        let map = &self.tensors.linears()[at];
        Linear {
            d_in: map.d_in,
            d_out: map.d_out,
            weight: self.matrix(&map.weight, map.d_in),
            bias: map.bias.as_ref().map(|bias| self.at(bias)),
        }
    }

    /// See [`Linear::forward`] and [`Adapter::forward`].
    pub(crate) fn forward(
        &self,
        at: usize,
        out: &mut [f32],
        store: Store,
        x: &[f32],
        saved: &mut linear::Saved,
        dropout: Option<&mut Dropout>,
    ) {
        self.linear(at).forward(out, store, x);
        if let Some(adapter) = self.adapter {
            adapter.forward(at, out, x, saved, dropout);
        }
    }

    /// See [`Linear::backward`] and [`Adapter::backward`].
    #[expect(clippy::too_many_arguments, reason = "what a linear's backward pass takes")]
    pub(crate) fn backward(
        &self,
        at: usize,
        dx: Option<(&mut [f32], Store)>,
        gradients: &mut Gradients<'_>,
        dy: &[f32],
        x: &[f32],
        saved: &linear::Saved,
        scratch: &mut Vec<f32>,
    ) {
        let mut dx = dx;
        let base = dx.as_mut().map(|(dx, store)| (&mut **dx, *store));
        self.linear(at).backward(base, self.split(at, gradients), dy, x);
        if let Some(adapter) = self.adapter {
            let (dx, gradients) = (dx.map(|(dx, _)| dx), gradients.adapter.as_deref_mut());
            adapter.backward(at, dx, gradients, dy, x, saved, scratch);
        }
    }

    /// Whether there is a branch beside linear `at`.
    pub(crate) fn adapts(&self, at: usize) -> bool {
        self.adapter.is_some_and(|adapter| adapter.plan().adapts(at))
    }

    /// Whether linear `at`'s gradients read what it took.
    pub(crate) fn reads(&self, at: usize, gradients: &Gradients<'_>) -> bool {
        let adapter = self.adapter.filter(|_| gradients.adapter.is_some());
        gradients.weights.is_some() || adapter.is_some_and(|adapter| adapter.plan().reads(at))
    }

    /// Linear `at`'s parts of the base weights' gradients.
    fn split<'g>(&self, at: usize, gradients: &'g mut Gradients<'_>) -> linear::Gradients<'g> {
        let map = &self.tensors.linears()[at];
        let (weight, bias) = match (gradients.weights.as_deref_mut(), &map.bias) {
            (None, _) => (None, None),
            (Some(flat), None) => (Some(&mut flat[map.weight.clone()]), None),
            (Some(flat), Some(bias)) => {
                // The bias lies right behind its weight.
                let (weight, rest) =
                    flat[map.weight.start..bias.end].split_at_mut(map.weight.len());
                (Some(weight), Some(rest))
            }
        };
        linear::Gradients { weight, bias }
    }
}
