//! How far averaging A and B apart is from averaging their product:
//!
//! ```text
//! || mean_k(B_k A_k) - mean_k(B_k) mean_k(A_k) ||_F / || mean_k(B_k A_k) ||_F
//! ```
//!
//! over all adapted weights together, each with its scale, `B_k` and `A_k` as client `k` trained them. It is what FedIT
//! loses and FFA-LoRA, RoLoRA, FedEx-LoRA and others avoid; source: FedEx-LoRA, arXiv:2410.09432. Clients of a smaller
//! tier have 0 where they have nothing. A core R is the product's: `B_k R_k A_k` against
//! `mean(B_k) mean(R_k) mean(A_k)`. Up to rounding it is 0 where only one factor moves, and 0 where A is frozen.

use gossamer_protocol::layout::{self, Layout, Pair};
use gossamer_protocol::manifest::LoraRules;

/// Of the `locals`, one or more adapters, each of shape `[n]`. None where there is no product, or none has moved from
/// zero.
///
/// Takes `O(k rank d_in d_out)` for each adapted weight, and its size once in memory.
pub(super) fn product_error(
    layout: &Layout,
    rules: &LoraRules,
    locals: &[Vec<f32>],
) -> Option<f64> {
    let frozen = |pair: &Pair| pair.d_in == 0;
    if layout::pairs(layout).iter().any(frozen) {
        // The same A for all.
        let moved = |pair: Pair| locals.iter().any(|l| l[pair.b.clone()].iter().any(|&b| b != 0.0));
        return layout::pairs(layout).into_iter().any(moved).then_some(0.0);
    }
    let (mut square, mut whole) = (0.0, 0.0);
    let share = 1.0 / locals.len() as f32;
    let mut mean = vec![0.0; layout.n()];
    locals.iter().for_each(|local| add(&mut mean, local, share));
    for (module, pair) in pairs(layout) {
        let scale = rules.scale(module);
        let mut apart = vec![0.0_f32; pair.d_out * pair.d_in];
        locals.iter().for_each(|local| add_product(&mut apart, &pair, local, share));
        whole += scale * scale * norm(&apart);
        add_product(&mut apart, &pair, &mean, -1.0);
        square += scale * scale * norm(&apart);
    }
    (whole > 0.0).then(|| (square / whole).sqrt())
}

/// Each weight that has A and B, by its module.
fn pairs(layout: &Layout) -> impl Iterator<Item = (&str, Pair)> {
    let mut pairs = layout::pairs(layout).into_iter().filter(|pair| pair.d_in > 0).peekable();
    layout.tensors().filter_map(move |(tensor, place)| {
        let pair = pairs.next_if(|pair| pair.b == place)?;
        Some((tensor.name.rsplit_once('.').map_or("", |(module, _)| module), pair))
    })
}

/// `sum += share B R A` of the adapter `flat`.
fn add_product(sum: &mut [f32], pair: &Pair, flat: &[f32], share: f32) {
    let (b, a) = (pair.b_times_core(flat), &flat[pair.a.clone()]);
    for (row, b) in sum.chunks_exact_mut(pair.d_in).zip(b.chunks_exact(pair.rank)) {
        for (a, b) in a.chunks_exact(pair.d_in).zip(b) {
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
    use gossamer_protocol::layout::{BaseLinear, Part};
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

    /// `tests/numbers/product_error.py` printed them: of B A, and of B R A.
    #[test]
    fn as_numpy_has_it() {
        let (layout, rules) = setting(false);
        let cores = layout.clone().with_cores().expect("valid");
        for (layout, cored, expected) in
            [(layout, false, 0.864_057_764_527), (cores, true, 0.976_606_258_847)]
        {
            let local = |k: usize| -> Vec<f32> {
                let mut flat = Vec::new();
                for (module, (d_in, d_out)) in [(5, 4), (3, 6)].into_iter().enumerate() {
                    flat.extend(values(2 * d_in, 5 + k, 3 * module + k));
                    flat.extend(values(2 * d_out, 7 + k, 2 * module + 5 * k));
                    flat.extend(values(if cored { 4 } else { 0 }, 3 + k, module + 2 * k));
                }
                flat
            };
            let locals: Vec<Vec<f32>> = (0..3).map(local).collect();
            let error = product_error(&layout, &rules, &locals).expect("moved");
            assert!((error - expected).abs() < 1e-6, "{error}");
        }
    }

    #[test]
    fn exact_where_one_factor_stands() {
        let (layout, rules) = setting(false);
        let received: Vec<f32> = values(layout.n(), 3, 1).collect();
        let mut locals: Vec<Vec<f32>> =
            (0..4).map(|k| values(layout.n(), 5 + k, k).collect()).collect();
        for (tensor, range) in layout.tensors().filter(|(tensor, _)| tensor.part == Part::LoraA) {
            assert!(tensor.name.ends_with(".lora_A"));
            for local in &mut locals {
                local[range.clone()].copy_from_slice(&received[range.clone()]);
            }
        }
        let error = product_error(&layout, &rules, &locals).expect("moved");
        assert!(error < 1e-6, "{error}");
        // Before anything moved B is zero, and so is every product.
        let start = layout.init(1);
        assert_eq!(product_error(&layout, &rules, &[start.clone(), start]), None);
    }

    /// FFA-LoRA's A is not in the layout: nothing is lost, once B has moved.
    #[test]
    fn a_frozen_factor_loses_nothing() {
        let (layout, rules) = setting(true);
        let local = |k| values(layout.n(), 5 + k, k).collect();
        assert_eq!(product_error(&layout, &rules, &[local(0), local(1)]), Some(0.0));
        assert_eq!(product_error(&layout, &rules, &[vec![0.0; layout.n()]]), None);
    }
}
