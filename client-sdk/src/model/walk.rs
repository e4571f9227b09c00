//! The walk that every family takes: embeddings, equal layers, features, and the same way back.
//!
//! A family is what stands in its own file: its `config.json`, the places of its tensors by name, and
//! [`Family`]: sizes, what the first layer takes, one layer both ways, what the head takes. Loading,
//! the order of the walk, where it ends on the way down, buffers and heads are here and in the files
//! beside.
//!
//! Invariant: gradients are added only where they are asked for, and the walk down ends at the first
//! layer that has any, below which nothing is kept; a frozen weight's own gradient is never formed.

use super::frozen::{Frozen, Gradients};
use super::tape::{Keep, LayerTape, Scratch, Tape};
use crate::data::Batch;
use crate::ops::linear::Dropout;
use crate::ops::product::Store;
use crate::ops::rope::Rope;
use crate::ops::{attention, room};

/// The sizes the walk goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    /// Linears in a layer.
    pub(crate) linears: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// One family's model over its weights. `n = rows * cols`.
pub(crate) trait Family {
    fn frozen(&self) -> &Frozen<'_>;

    fn sizes(&self) -> Sizes;

    /// Whether a token meets only those before it; else all of its row.
    fn causal(&self) -> bool;

    /// Angles for positions below `len`, where positions turn.
    fn rope(&self, _len: usize) -> Option<Rope> {
        None
    }

    /// Sets `out`, `[n, hidden]`: what the first layer takes; a row's first position is `past`.
    fn embed(&self, out: &mut [f32], batch: &Batch, past: usize);

    /// Adds the embeddings' gradients that follow from `dx`, `[n, hidden]`, where weights are trained.
    fn embed_backward(&self, _dx: &[f32], _tape: &Tape, _gradients: &mut Gradients<'_>) {}

    /// From the input, `tape.x`, to the output, `out`, both `[n, hidden]`; where the layer is made
    /// [again](Layer::again), `out` need not be set.
    fn layer(
        &self,
        at: Layer<'_>,
        tape: &mut LayerTape,
        out: &mut [f32],
        scratch: &mut Scratch,
        dropout: Option<&mut Dropout>,
    );

    /// `dx`: the gradient of the layer's output, becomes that of its input where `down`.
    fn layer_backward(
        &self,
        at: Layer<'_>,
        tape: &LayerTape,
        dx: &mut [f32],
        down: bool,
        gradients: &mut Gradients<'_>,
        scratch: &mut Scratch,
    );

    /// From `tape.x` to `tape.features`.
    fn features(&self, tape: &mut Tape);

    /// Sets `dx`, `[n, hidden]`, which holds zeros, from the features' gradient.
    fn features_backward(
        &self,
        dx: &mut [f32],
        dfeatures: &[f32],
        tape: &Tape,
        gradients: &mut Gradients<'_>,
    );
}

/// Which layer, and how its attention reaches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer<'t> {
    pub(crate) at: usize,
    /// The number of its first linear.
    pub(crate) first: usize,
    pub(crate) shape: attention::Shape,
    pub(crate) reach: attention::Reach<'t>,
    /// Made once more, for its tape alone.
    pub(crate) again: bool,
}

impl<'t> Layer<'t> {
    fn new(at: usize, sizes: Sizes, causal: bool, tape: View<'t>) -> Self {
        let Sizes { heads, kv_heads, head_dim, .. } = sizes;
        let View { rows, cols, past, rope, lengths } = tape;
        let shape = attention::Shape { rows, cols: past + cols, past, heads, kv_heads, head_dim };
        let reach = match causal {
            true => attention::Reach::Back(rope),
            false => attention::Reach::Row(lengths),
        };
        Self { at, first: at * sizes.linears, shape, reach, again: false }
    }
}

impl Layer<'_> {
    /// Rows of its input.
    pub(crate) fn n(&self) -> usize {
        self.shape.rows * (self.shape.cols - self.shape.past)
    }

    /// Room for so wide keys or values, behind those of the positions before.
    pub(crate) fn keys<'k>(&self, keys: &'k mut Vec<f32>, width: usize) -> &'k mut [f32] {
        let past = self.shape.past * width;
        &mut room(keys, past + self.n() * width)[past..]
    }
}

/// The parts of a tape that every layer reads.
#[derive(Clone, Copy)]
struct View<'t> {
    rows: usize,
    cols: usize,
    past: usize,
    rope: Option<&'t Rope>,
    lengths: &'t [usize],
}

/// Runs the batch; the features, `tape.features`.
pub(crate) fn forward<'t>(
    family: &dyn Family,
    tape: &'t mut Tape,
    batch: &Batch,
    mut dropout: Option<&mut Dropout>,
) -> &'t [f32] {
    let sizes = family.sizes();
    tape.start(sizes.layers, sizes.linears, batch);
    if tape.keep != Keep::Keys {
        tape.past = 0;
    }
    assert!(tape.past == 0 || batch.rows == 1, "one row goes on");
    let positions = tape.past + batch.cols;
    if tape.rope.as_ref().is_none_or(|rope| rope.len() < positions) {
        // One that grows by a position a pass is not made anew each time.
        let grows = tape.keep == Keep::Keys;
        tape.rope = family.rope(if grows { positions.next_power_of_two() } else { positions });
    }
    let lowest = lowest(family);
    let Tape { keep, rows, cols, past, rope, lengths, layers, spare, scratch, x, .. } = &mut *tape;
    let view = View { rows: *rows, cols: *cols, past: *past, rope: rope.as_ref(), lengths };
    let n = batch.rows * batch.cols * sizes.hidden;
    let mut stream = std::mem::take(x);
    family.embed(room(&mut stream, n), batch, *past);
    for (at, kept) in layers.iter_mut().enumerate() {
        let keep = match *keep {
            Keep::Layers | Keep::Inputs if at < lowest => Keep::Nothing,
            keep => keep,
        };
        kept.dropout = dropout.as_deref().filter(|_| keep == Keep::Inputs).cloned();
        if keep == Keep::Keys {
            std::mem::swap(&mut kept.k, &mut spare.k);
            std::mem::swap(&mut kept.v, &mut spare.v);
        }
        let layer = if keep == Keep::Layers { &mut *kept } else { &mut *spare };
        std::mem::swap(&mut layer.x, &mut stream);
        let out = room(&mut stream, n);
        let at = Layer::new(at, sizes, family.causal(), view);
        family.layer(at, layer, out, scratch, dropout.as_deref_mut());
        match keep {
            Keep::Inputs => std::mem::swap(&mut kept.x, &mut spare.x),
            Keep::Keys => {
                std::mem::swap(&mut kept.k, &mut spare.k);
                std::mem::swap(&mut kept.v, &mut spare.v);
            }
            Keep::Layers | Keep::Nothing => {}
        }
    }
    *past = if *keep == Keep::Keys { positions } else { 0 };
    *x = stream;
    family.features(tape);
    &tape.features
}

/// The first layer that has a gradient; without an adapter, weights may have one, so all layers do.
fn lowest(family: &dyn Family) -> usize {
    let adapter = family.frozen().adapter;
    adapter.map_or(0, |adapter| adapter.plan().first() / family.sizes().linears)
}

/// Adds the gradients that follow from the features', shaped as [`Tape::features`], after a forward pass that
/// kept what is needed.
pub(crate) fn backward(
    family: &dyn Family,
    tape: &mut Tape,
    dfeatures: &[f32],
    gradients: &mut Gradients<'_>,
) {
    assert!(matches!(tape.keep, Keep::Layers | Keep::Inputs), "a way back");
    let (sizes, lowest) = (family.sizes(), lowest(family));
    let mut scratch = std::mem::take(&mut tape.scratch);
    let mut dx = std::mem::take(&mut scratch.dx);
    dx.clear();
    dx.resize(tape.x.len(), 0.0);
    family.features_backward(&mut dx, dfeatures, tape, gradients);
    let Tape { keep, rows, cols, rope, lengths, layers, spare, .. } = &mut *tape;
    let view = View { rows: *rows, cols: *cols, past: 0, rope: rope.as_ref(), lengths };
    let weights = gradients.weights.is_some();
    if weights || family.frozen().adapter.is_some() {
        for (at, kept) in layers.iter_mut().enumerate().skip(lowest).rev() {
            let down = weights || at > lowest;
            let layer = Layer::new(at, sizes, family.causal(), view);
            let tape = match keep {
                Keep::Inputs => {
                    std::mem::swap(&mut spare.x, &mut kept.x);
                    let mut out = std::mem::take(&mut scratch.out);
                    let (again, dropout) = (Layer { again: true, ..layer }, kept.dropout.as_mut());
                    family.layer(again, spare, room(&mut out, dx.len()), &mut scratch, dropout);
                    scratch.out = out;
                    &*spare
                }
                _ => &*kept,
            };
            family.layer_backward(layer, tape, &mut dx, down, gradients, &mut scratch);
        }
        family.embed_backward(&dx, tape, gradients);
    }
    scratch.dx = dx;
    tape.scratch = scratch;
}

/// Attention's backward pass from `dattended`: sets `dq`, `dk` and `dv`.
pub(crate) fn attention_backward(layer: Layer<'_>, tape: &LayerTape, scratch: &mut Scratch) {
    let LayerTape { q, k, v, attended, attention, .. } = tape;
    let Scratch { dattended, dq, dk, dv, .. } = scratch;
    attention::backward(
        room(dq, q.len()),
        room(dk, k.len()),
        room(dv, v.len()),
        dattended,
        q,
        k,
        v,
        attended,
        layer.shape,
        layer.reach,
        attention,
    );
}

/// The gradients of the linears of one layer, in one place; see [`Frozen::backward`].
pub(crate) struct Back<'p, 'g> {
    pub(crate) frozen: &'p Frozen<'p>,
    pub(crate) layer: Layer<'p>,
    pub(crate) tape: &'p LayerTape,
    pub(crate) gradients: &'p mut Gradients<'g>,
    pub(crate) branch: &'p mut Vec<f32>,
}

impl Back<'_, '_> {
    /// Whether any of these linears' gradients read what it took.
    pub(crate) fn reads(&self, linears: &[usize]) -> bool {
        linears.iter().any(|i| self.frozen.reads(self.layer.first + i, self.gradients))
    }

    /// Linear `i` of the layer.
    pub(crate) fn linear(
        &mut self,
        i: usize,
        dx: Option<(&mut [f32], Store)>,
        dy: &[f32],
        x: &[f32],
    ) {
        let Self { frozen, layer, tape, gradients, branch } = self;
        frozen.backward(layer.first + i, dx, gradients, dy, x, &tape.linears[i], branch);
    }
}
