//! Bytes by part, the bound, other ways to write the same entries, and the error.

use gossamer_protocol::codec::bound;
use gossamer_protocol::frame::UPDATE_OVERHEAD;
use gossamer_protocol::manifest::Values;
use gossamer_protocol::sparse::Support;
use serde::Serialize;

use super::entries::{Bits, BodyName, Entries};
use crate::report::table::Table;

/// Level of the general compressor: its highest that needs no special memory at the receiver.
const ZSTD_LEVEL: i32 = 19;

/// What entries of a change cost on the wire. All but `bits` and `squared_error` are bytes or counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Parameters of the layout.
    pub n: usize,
    /// Entries sent.
    pub k: usize,
    /// How values are coded.
    pub values: Values,
    /// Which body was the smallest.
    pub body: BodyName,
    /// What an update's frame has around its body.
    pub header: usize,
    /// The body's parts, in bits.
    pub bits: Bits,
    /// Frame and body.
    pub total: usize,
    /// The whole change in binary32.
    pub dense_f32: u64,
    /// The whole change in binary16.
    pub dense_f16: u64,
    /// The least that a body could take if places and levels were uniform.
    pub uniform_bound: f64,
    /// The decoded entries as `u32` and `f32`; as `f32` alone where all are sent.
    pub naive: u64,
    /// The same after zstd, level 19: all `u32`, then all `f32`.
    pub zstd: usize,
    /// `|change - decoded|^2 / |change|^2`, over all `n`; none where the change is not known, or 0.
    pub squared_error: Option<f64>,
}

impl Cost {
    /// Measures `entries`, which are of the change `delta`, shape `[n]`, where that is known.
    #[must_use]
    pub fn of(entries: &Entries, delta: Option<&[f32]>) -> Self {
        let (n, k) = (entries.layout.n(), entries.encoded.k as usize);
        let naive = naive(entries);
        let zstd = zstd::bulk::compress(&naive, ZSTD_LEVEL);
        Self {
            n,
            k,
            values: entries.values,
            body: entries.encoded.body.into(),
            header: UPDATE_OVERHEAD,
            bits: entries.encoded.parts.into(),
            total: UPDATE_OVERHEAD + entries.encoded.bytes.len(),
            dense_f32: bound::dense_bytes(n),
            dense_f16: bound::dense_bytes(n) / 2,
            uniform_bound: bound::uniform_bits(n, k, entries.values) / 8.0,
            naive: naive.len() as u64,
            zstd: zstd.expect("a level there is, in memory").len(),
            squared_error: delta.and_then(|delta| squared_error(delta, &entries.dense())),
        }
    }

    /// By how much the body is larger than the bound; negative where it is smaller, none without entries.
    #[must_use]
    pub fn over_bound(&self) -> Option<f64> {
        let body = (self.total - self.header) as f64;
        (self.uniform_bound > 0.0).then(|| body / self.uniform_bound - 1.0)
    }
}

fn naive(entries: &Entries) -> Vec<u8> {
    let places = match entries.decoded.support() {
        Support::All => &[],
        Support::Indices(indices) => indices.as_slice(),
    };
    let places = places.iter().flat_map(|index| index.to_le_bytes());
    places.chain(entries.decoded.values().iter().flat_map(|value| value.to_le_bytes())).collect()
}

fn squared_error(delta: &[f32], decoded: &[f32]) -> Option<f64> {
    let square = |x: f64| x * x;
    let norm: f64 = delta.iter().map(|&v| square(v.into())).sum();
    let lost: f64 =
        delta.iter().zip(decoded).map(|(&v, &d)| square(f64::from(v) - f64::from(d))).sum();
    (norm > 0.0).then(|| lost / norm)
}

/// One line for each of `costs`.
#[must_use]
pub fn table(costs: &[Cost]) -> Table {
    const HEAD: [&str; 17] = [
        "density",
        "values",
        "body",
        "k",
        "header",
        "positions",
        "magnitudes",
        "scales",
        "outliers",
        "total",
        "f32",
        "f16",
        "bound",
        "over",
        "zstd",
        "naive",
        "error",
    ];
    let none = || "–".to_owned();
    let bytes = |bits: u64| bits.div_ceil(8).to_string();
    let times = |dense: u64, cost: &Cost| format!("{:.1}×", dense as f64 / cost.total as f64);
    let row = |cost: &Cost| {
        vec![
            share(cost.k, cost.n),
            name(&cost.values),
            name(&cost.body),
            cost.k.to_string(),
            cost.header.to_string(),
            bytes(cost.bits.positions),
            bytes(cost.bits.values),
            bytes(cost.bits.scales),
            bytes(cost.bits.outliers),
            cost.total.to_string(),
            times(cost.dense_f32, cost),
            times(cost.dense_f16, cost),
            format!("{:.0}", cost.uniform_bound),
            cost.over_bound().map_or_else(none, |over| format!("{:+.1} %", 100.0 * over)),
            cost.zstd.to_string(),
            cost.naive.to_string(),
            cost.squared_error.map_or_else(none, |error| format!("{error:.4}")),
        ]
    };
    Table { head: HEAD.map(String::from).to_vec(), rows: costs.iter().map(row).collect() }
}

/// What the columns of [`table`] mean.
#[must_use]
pub fn caption() -> &'static str {
    "Bytes. header: of an update's frame. positions to outliers: the body's parts, each rounded up; \
     magnitudes with their signs. f32, f16: times fewer than the dense change takes. bound: of a body \
     if places and levels were uniform; over: the body against it. naive: the decoded entries as u32 \
     and f32, or f32 alone where all are sent; zstd: that at level 19. error: squared, relative to the \
     change."
}

/// As a manifest writes it.
fn name(value: &impl Serialize) -> String {
    // A plain variant always has a text.
    serde_json::to_string(value).unwrap_or_default().trim_matches('"').to_owned()
}

/// `1`, `1/16`, or in decimals.
fn share(k: usize, n: usize) -> String {
    let parts = n.checked_div(k).map_or(0, |_| (n as f64 / k as f64).round() as usize);
    match parts {
        1 if k == n => "1".into(),
        // A count is rounded to whole entries.
        2.. if k == (n as f64 / parts as f64).round() as usize => format!("1/{parts}"),
        _ => format!("{:.4}", k as f64 / n as f64),
    }
}
