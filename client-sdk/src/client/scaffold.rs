//! A client's side of SCAFFOLD: what it adds to its gradients, and how its control variate moves.
//!
//! The aggregator's `c` is what the control tensors of the adapter received hold; the client's own `c_k` is
//! kept from the time it last took part, 0 before. Source: arXiv:1910.06378, algorithm 1, option II.

use gossamer_protocol::layout::Part;
use gossamer_protocol::manifest::{LocalOptimizer, Manifest};
use gossamer_protocol::sparse::Support;

/// One client's control variate and the aggregator's, over the trained entries.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Controls {
    /// Steps times their size.
    way: f32,
    /// Entries that are trained: the first half of the adapter.
    trained: usize,
    /// `c`.
    all: Vec<f32>,
    /// `c_k`.
    own: Vec<f32>,
}

impl Controls {
    /// `None` where the run has none. `theta`: the adapter received; `kept`: what [`to_bytes`](Self::to_bytes)
    /// gave the last time, which is forgotten where it does not fit.
    pub(super) fn of(manifest: &Manifest, theta: &[f32], kept: Option<&[u8]>) -> Option<Self> {
        manifest.method.scaffold?;
        let LocalOptimizer::Sgd { lr, .. } = manifest.training.optimizer else { return None };
        let mut trained = manifest.layout.tensors().filter(|(t, _)| t.part != Part::Control);
        let trained = trained.by_ref().map(|(_, place)| place.end).max()?;
        let all = theta.get(trained..)?.to_vec();
        let floats = |bytes: &[u8]| -> Vec<f32> {
            bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
        };
        let own = kept.filter(|kept| kept.len() == 4 * all.len()).map(floats);
        let own = own.filter(|own| own.iter().all(|v| v.is_finite()));
        let own = own.unwrap_or_else(|| vec![0.0; all.len()]);
        let way = (f64::from(manifest.training.steps) * lr) as f32;
        Some(Self { way, trained, all, own })
    }

    /// The entries that are trained.
    pub(super) fn trained(&self) -> Support {
        // A layout has at most 2^28 entries.
        Support::Indices((0..self.trained as u32).collect())
    }

    /// What every gradient gets more: `c - c_k`.
    pub(super) fn correction(&self) -> Vec<f32> {
        self.all.iter().zip(&self.own).map(|(all, own)| all - own).collect()
    }

    /// Puts `dc_k = (x - y) / (K lr) - c` behind the trained change `y - x`, and moves `c_k` by it.
    pub(super) fn step(&mut self, delta: &mut [f32]) {
        let (trained, moved) = delta.split_at_mut(self.trained);
        for (((moved, change), all), own) in
            moved.iter_mut().zip(trained).zip(&self.all).zip(&mut self.own)
        {
            *moved = -*change / self.way - all;
            *own += *moved;
        }
    }

    /// `c_k`, little-endian.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.own.iter().flat_map(|v| v.to_le_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossamer_protocol::layout::BaseLinear;
    use gossamer_protocol::manifest::Scaffold;

    /// Two clients with `h_k / 2 (x - a_k)^2`, of which both, one, and both take part; the numbers are
    /// `tests/python/scaffold.py`'s.
    #[test]
    fn as_the_paper_has_it() {
        let base = crate::model::fixture::base(&crate::model::llama::tests::tiny());
        let mut manifest = crate::model::fixture::manifest(&base, &["q_proj"], false);
        let linear = BaseLinear { name: "m.q".into(), d_in: 1, d_out: 1 };
        let layout = gossamer_protocol::layout::Layout::lora(&[linear], &["q".into()], 1, false);
        manifest.layout = layout.and_then(|layout| layout.with_controls()).expect("a layout");
        manifest.training.steps = 3;
        manifest.training.optimizer = LocalOptimizer::Sgd { lr: 0.1, momentum: 0.0 };
        manifest.method.scaffold = Some(Scaffold { clients: 2 });

        // The second entry does what the first does, from another start.
        let (h, a) = ([1.0_f32, 3.0], [2.0_f32, -1.0]);
        let mut theta = vec![0.5_f32, -2.0, 0.0, 0.0];
        let mut kept: [Option<Vec<u8>>; 2] = [None, None];
        let expected: [[f32; 4]; 3] =
            serde_json::from_str(include_str!("../../tests/golden/scaffold.json"))
                .expect("numbers");
        for (round, expected) in [&[0, 1][..], &[1], &[0, 1]].into_iter().zip(expected) {
            let mut sum = [0.0_f32; 4];
            for &k in round {
                let mut controls =
                    Controls::of(&manifest, &theta, kept[k].as_deref()).expect("scaffold");
                assert_eq!(controls.trained(), Support::Indices(vec![0, 1]));
                let correction = controls.correction();
                let mut y = theta[..2].to_vec();
                for _ in 0..3 {
                    for (y, correction) in y.iter_mut().zip(&correction) {
                        *y -= 0.1 * (h[k] * (*y - a[k]) + correction);
                    }
                }
                let mut delta = vec![y[0] - theta[0], y[1] - theta[1], 0.0, 0.0];
                controls.step(&mut delta);
                kept[k] = Some(controls.to_bytes());
                sum.iter_mut().zip(&delta).for_each(|(sum, v)| *sum += v);
            }
            let n = round.len() as f32;
            (0..2).for_each(|i| theta[i] += sum[i] / n);
            // |S| / N times the mean.
            (2..4).for_each(|i| theta[i] += n / 2.0 * (sum[i] / n));
            for (got, expected) in theta.iter().zip(expected) {
                assert!((got - expected).abs() < 1e-5, "{theta:?} is not {expected:?}");
            }
        }
        let torn = Controls::of(&manifest, &theta, Some(&[1, 2, 3])).expect("scaffold");
        assert_eq!(torn.own, [0.0, 0.0]);
    }
}
