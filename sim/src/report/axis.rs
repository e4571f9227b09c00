//! Axes: their ranges, round ticks and the ticks' texts.

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;

use super::table;

/// The span with `margin` of itself on either side; never empty.
pub(super) fn widened((low, high): (f64, f64), margin: f64) -> (f64, f64) {
    if high - low < 1e-9 * high.abs().max(1e-9) {
        let half = (0.05 * high.abs()).max(0.5);
        return (low - half, high + half);
    }
    let margin = margin * (high - low);
    (low - margin, high + margin)
}

/// Multiples of 1, 2 or 5 times a power of ten, at most `most` of them.
pub(super) fn even_ticks((low, high): (f64, f64), most: usize) -> Vec<f64> {
    let least = (high - low) / most as f64;
    let unit = 10_f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|by| by * unit).into_iter().find(|&step| step >= least);
    let step = step.unwrap_or(10.0 * unit);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|at| at as f64 * step).collect()
}

/// Logarithms of 1, 2 and 5 times powers of ten; the powers alone where those would crowd.
pub(super) fn ratio_ticks((low, high): (f64, f64)) -> Vec<f64> {
    let ticks = |by: &[f64]| -> Vec<f64> {
        let powers = low.floor() as i32..=high.ceil() as i32;
        let ticks = powers.flat_map(|power| by.iter().map(move |by| f64::from(power) + by.log10()));
        ticks.filter(|tick| (low..=high).contains(tick)).collect()
    };
    [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]]
        .map(ticks)
        .into_iter()
        .find(|ticks| ticks.len() <= 10)
        .unwrap_or_else(|| even_ticks((low, high), 10))
}

/// As many digits as tell the ticks apart.
pub(super) fn number(value: f64, ticks: &[f64]) -> String {
    let step = ticks.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
    let digits = if step.is_finite() { (-(step.log10() + 1e-9).floor()).max(0.0) } else { 2.0 };
    if value.abs() >= 1e6 { format!("{value:.1e}") } else { format!("{value:.*}", digits as usize) }
}

/// `1 MB`, not `1.00 MB`.
pub(super) fn short_bytes(count: f64) -> String {
    let text = table::bytes(count);
    match text.split_once(' ') {
        Some((value, unit)) if value.contains('.') => {
            format!("{} {unit}", value.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// An even axis with the ticks it is given; plotters' own are not round.
pub(super) struct Axis {
    span: RangedCoordf64,
    ticks: Vec<f64>,
}

impl Axis {
    pub(super) fn new((low, high): (f64, f64), ticks: &[f64]) -> Self {
        Self { span: (low..high).into(), ticks: ticks.to_vec() }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.span.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.span.range()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(even_ticks((0.0, 60.0), 8), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        let bytes: Vec<String> =
            ratio_ticks((4.0, 6.0)).into_iter().map(|x| short_bytes(10_f64.powf(x))).collect();
        assert_eq!(bytes, ["10 kB", "20 kB", "50 kB", "100 kB", "200 kB", "500 kB", "1 MB"]);
        assert_eq!(number(2.5, &[2.0, 2.5]), "2.5");
        assert_eq!(number(20.0, &[0.0, 20.0]), "20");
    }
}
