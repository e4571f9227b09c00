//! By rank component: a row of A and the matching column of B together, by the norm of their change.
//!
//! Whole components travel, but for the last one taken, which may be cut. A head's entries count as they
//! are.

use std::borrow::Cow;

use super::{Scene, Selector};
use crate::layout::pairs;

pub(super) struct RankWise;

impl Selector for RankWise {
    fn scores<'a>(&self, scene: &Scene<'a>) -> Cow<'a, [f32]> {
        let mut scores = scene.delta.to_vec();
        for pair in pairs(scene.layout) {
            let of_a =
                if pair.a.is_empty() { vec![0.0; pair.rank] } else { pair.norms_a(scene.delta) };
            let of_b = pair.norms_b(scene.delta);
            let norms: Vec<f32> = of_a.iter().zip(&of_b).map(|(a, b)| a.hypot(*b)).collect();
            if !pair.a.is_empty() {
                for (row, &norm) in scores[pair.a.clone()].chunks_mut(pair.d_in).zip(&norms) {
                    row.fill(norm);
                }
            }
            for row in scores[pair.b.clone()].chunks_mut(pair.rank) {
                row.copy_from_slice(&norms);
            }
        }
        Cow::Owned(scores)
    }
}
