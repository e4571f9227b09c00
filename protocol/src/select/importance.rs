//! By what an entry changes in the product: `|dB[u,v]| ||A[v,:]||` and `|dA[u,v]| ||B[:,u]||`.
//!
//! A and B differ in scale, and at the start B is 0, so that changes of A change nothing yet; magnitude
//! alone does not see it. Source: FedSRD, arXiv:2510.04601. A head's entries count as they are.

use std::borrow::Cow;

use super::{Scene, Selector};
use crate::layout::pairs;

pub(super) struct Importance;

impl Selector for Importance {
    fn scores<'a>(&self, scene: &Scene<'a>) -> Cow<'a, [f32]> {
        let mut scores = scene.delta.to_vec();
        for pair in pairs(scene.layout) {
            let (of_a, of_b) = (pair.norms_a(scene.theta), pair.norms_b(scene.theta));
            if !pair.a.is_empty() {
                for (row, norm) in scores[pair.a.clone()].chunks_mut(pair.d_in).zip(of_b) {
                    row.iter_mut().for_each(|score| *score *= norm);
                }
            }
            for row in scores[pair.b.clone()].chunks_mut(pair.rank) {
                row.iter_mut().zip(&of_a).for_each(|(score, norm)| *score *= norm);
            }
        }
        Cow::Owned(scores)
    }
}
