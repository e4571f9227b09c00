//! LayerNorms of a model's own weights, for the families that have them.

use std::ops::Range;

use super::frozen::Frozen;
use super::tape::NormTape;
use crate::ops::product::Store;
use crate::ops::{layer_norm, room};

/// Where a norm's weight and bias lie.
pub(crate) type NormMap = [Range<usize>; 2];

impl Frozen<'_> {
    fn parameters(&self, map: &NormMap) -> [&[f32]; 2] {
        map.each_ref().map(|place| self.at(place))
    }

    /// Sets `out`; shapes as in [`layer_norm::forward`].
    pub(crate) fn norm(
        &self,
        out: &mut [f32],
        tape: &mut NormTape,
        x: &[f32],
        map: &NormMap,
        eps: f64,
    ) {
        layer_norm::forward(out, &mut tape.layer, x, self.parameters(map), eps as f32);
    }

    /// [`norm`](Self::norm)'s output again, where it is read; else nothing.
    pub(crate) fn norm_again<'o>(
        &self,
        out: &'o mut Vec<f32>,
        read: bool,
        x: &[f32],
        tape: &NormTape,
        map: &NormMap,
    ) -> &'o [f32] {
        if !read {
            return &[];
        }
        let out = room(out, x.len());
        layer_norm::again(out, &tape.layer, x, self.parameters(map));
        out
    }

    /// Sets `dx`, or adds to it.
    pub(crate) fn norm_backward(
        &self,
        dx: (&mut [f32], Store),
        dy: &[f32],
        x: &[f32],
        tape: &NormTape,
        [w, _]: &NormMap,
    ) {
        let (dx, store) = dx;
        layer_norm::backward(dx, store, dy, x, &tape.layer, self.at(w));
    }
}
