//! By magnitude. Source: FLASC, arXiv:2406.05233. Its code rounds `k` down, which can keep nothing.

use std::borrow::Cow;

use super::{Scene, Selector};

pub(super) struct Magnitude;

impl Selector for Magnitude {
    fn scores<'a>(&self, scene: &Scene<'a>) -> Cow<'a, [f32]> {
        Cow::Borrowed(scene.delta)
    }
}
