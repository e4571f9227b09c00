//! How far averaging A and B apart is from averaging their product:
//!
//! ```text
//! || mean_k(B_k A_k) - mean_k(B_k) mean_k(A_k) ||_F / || mean_k(B_k A_k) ||_F
//! ```
//!
//! over all adapted weights together, each with its scale, `B_k` and `A_k` as client `k` trained them. It is
//! what FedIT loses and FFA-LoRA, RoLoRA, FedEx-LoRA and others avoid; source: FedEx-LoRA,
//! arXiv:2410.09432. Up to rounding it is 0 where only one of the two moves; of a frozen A it is not told.

use std::collections::HashMap;
use std::ops::Range;

use gossamer_protocol::layout::{Layout, Part, TensorSpec};
use gossamer_protocol::manifest::LoraRules;

/// Of the adapters `received + deltas[k]`, each of shape `[n]`. None where no product has moved from zero.
///
/// Takes `O(k rank d_in d_out)` for each adapted weight, and its size twice in memory.
pub(super) fn product_error(
    layout: &Layout,
    rules: &LoraRules,
    received: &[f32],
    deltas: &[Vec<f32>],
) -> Option<f64> {
    let (mut square, mut whole) = (0.0, 0.0);
    for Pair { module, a, b } in pairs(layout) {
        let scale = rules.scale(module);
        let (rank, d_in) = (a.0.shape[0], a.0.shape[1]);
        let local = |range: &Range<usize>, delta: &[f32]| -> Vec<f32> {
            let pairs = received[range.clone()].iter().zip(&delta[range.clone()]);
            pairs.map(|(received, delta)| received + delta).collect()
        };
        let mut mean = vec![0.0_f32; b.0.shape[0] * d_in];
        let (mut mean_a, mut mean_b) = (vec![0.0_f32; a.1.len()], vec![0.0_f32; b.1.len()]);
        let share = 1.0 / deltas.len() as f32;
        for delta in deltas {
            let (own_a, own_b) = (local(&a.1, delta), local(&b.1, delta));
            add_product(&mut mean, &own_b, &own_a, rank, share);
            add(&mut mean_a, &own_a, share);
            add(&mut mean_b, &own_b, share);
        }
        whole += scale * scale * norm(&mean);
        add_product(&mut mean, &mean_b, &mean_a, rank, -1.0);
        square += scale * scale * norm(&mean);
    }
    (whole > 0.0).then(|| (square / whole).sqrt())
}

struct Pair<'a> {
    module: &'a str,
    a: (&'a TensorSpec, Range<usize>),
    b: (&'a TensorSpec, Range<usize>),
}

/// A and B of each weight that has both; a frozen A is the same for all, so its product is exact.
fn pairs(layout: &Layout) -> Vec<Pair<'_>> {
    let mut firsts = HashMap::new();
    let mut pairs = Vec::new();
    for (tensor, range) in layout.tensors() {
        match tensor.part {
            Part::LoraA => drop(firsts.insert(stem(&tensor.name), (tensor, range))),
            Part::LoraB => {
                let module = stem(&tensor.name);
                if let Some(a) = firsts.remove(module) {
                    pairs.push(Pair { module, a, b: (tensor, range) });
                }
            }
            Part::Head | Part::Weight | Part::Control => {}
        }
    }
    pairs
}

/// A tensor's module path.
fn stem(name: &str) -> &str {
    name.strip_suffix(".lora_A").or_else(|| name.strip_suffix(".lora_B")).unwrap_or(name)
}

/// `sum += share b a`, with `b` `[d_out, rank]` and `a` `[rank, d_in]`.
fn add_product(sum: &mut [f32], b: &[f32], a: &[f32], rank: usize, share: f32) {
    let d_in = a.len() / rank;
    for (row, b) in sum.chunks_exact_mut(d_in).zip(b.chunks_exact(rank)) {
        for (a, b) in a.chunks_exact(d_in).zip(b) {
            let b = share * b;
            row.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
        }
    }
}

fn add(sum: &mut [f32], values: &[f32], share: f32) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += share * value);
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value) * f64::from(value)).sum()
}

#[cfg(test)]
mod tests {
    use gossamer_protocol::layout::BaseLinear;
    use gossamer_protocol::manifest::Lora;

    use super::*;

    fn values(n: usize, step: usize, shift: usize) -> impl Iterator<Item = f32> {
        (0..n).map(move |i| ((i * step + shift) % 17) as f32 / 8.0 - 1.0)
    }

    fn setting(freeze_a: bool) -> (Layout, LoraRules) {
        let linear = |name: &str, d_in, d_out| BaseLinear { name: name.to_owned(), d_in, d_out };
        let linears = [linear("m.0", 5, 4), linear("m.1", 3, 6)];
        let text = format!(
            "{{\"rank\": 2, \"alpha\": 4.0, \"targets\": \"all-linear\", \"freeze_a\": {freeze_a}, \
             \"alpha_pattern\": {{\"1\": 1.0}}}}"
        );
        let lora: Lora = serde_json::from_str(&text).expect("a lora");
        (lora.layout(&linears).expect("valid"), lora.rules().expect("valid"))
    }

    /// `tests/numbers/product_error.py` printed it.
    #[test]
    fn as_numpy_has_it() {
        let (layout, rules) = setting(false);
        let local = |k: usize| -> Vec<f32> {
            let mut flat = Vec::new();
            for (module, (d_in, d_out)) in [(5, 4), (3, 6)].into_iter().enumerate() {
                flat.extend(values(2 * d_in, 5 + k, 3 * module + k));
                flat.extend(values(2 * d_out, 7 + k, 2 * module + 5 * k));
            }
            flat
        };
        let received: Vec<f32> = values(layout.n(), 3, 1).collect();
        let delta = |k| local(k).iter().zip(&received).map(|(l, r)| l - r).collect();
        let deltas: Vec<Vec<f32>> = (0..3).map(delta).collect();
        let error = product_error(&layout, &rules, &received, &deltas).expect("moved");
        assert!((error - 0.864_057_764_527).abs() < 1e-6, "{error}");
    }

    #[test]
    fn exact_where_one_factor_stands() {
        let (layout, rules) = setting(false);
        let received: Vec<f32> = values(layout.n(), 3, 1).collect();
        let mut deltas: Vec<Vec<f32>> =
            (0..4).map(|k| values(layout.n(), 5 + k, k).collect()).collect();
        for (tensor, range) in layout.tensors().filter(|(tensor, _)| tensor.part == Part::LoraA) {
            assert!(tensor.name.ends_with(".lora_A"));
            deltas.iter_mut().for_each(|delta| delta[range.clone()].fill(0.0));
        }
        let error = product_error(&layout, &rules, &received, &deltas).expect("moved");
        assert!(error < 1e-6, "{error}");
        // Before anything moved B is zero, and so is every product.
        let still = vec![vec![0.0; layout.n()]; 2];
        let start = layout.init(1);
        assert_eq!(product_error(&layout, &rules, &start, &still), None);
    }
}
