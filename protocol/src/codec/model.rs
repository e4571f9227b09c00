//! How likely an entry is, and its magnitude: the model under the range coder.
//!
//! Several adaptive chances, each from what is known of the place, are mixed in the logistic domain by
//! weights that learn from each error (after Mahoney's PAQ). All integers; the tables follow from the
//! 33 numbers of [`SIGMOID`]. `docs/wire.md` has every constant.
//!
//! What the chances look at was chosen by what real deltas of LoRA tensors gain: a row of A or a
//! column of B is one rank component, and a column of A one input. The download's support was tried as
//! well and gains 1 to 3 %, which does not pay for a decoder that needs it.

use std::sync::LazyLock;

use super::range::Probability;

/// `round(2^16 / (1 + exp(-x)))` for `x` = -8, -7.5, ... 8, at most 65,535.
const SIGMOID: [u32; 33] = [
    22, 36, 60, 98, 162, 267, 439, 720, 1_179, 1_921, 3_108, 4_971, 7_812, 11_955, 17_625, 24_743,
    32_768, 40_793, 47_911, 53_581, 57_724, 60_565, 62_428, 63_615, 64_357, 64_816, 65_097, 65_269,
    65_374, 65_438, 65_476, 65_500, 65_514,
];

/// Largest log-odds, in units of 1/256.
const ODDS_MAX: i32 = 2_047;

/// The chance with log-odds `x / 256`.
#[inline]
fn squash(x: i32) -> u32 {
    let x = (x.clamp(-ODDS_MAX, ODDS_MAX) + 2_048) as u32;
    let (place, between) = ((x >> 7) as usize, x & 127);
    (SIGMOID[place] * (128 - between) + SIGMOID[place + 1] * between + 64) >> 7
}

/// Log-odds of a chance given by its top 12 bits: the least `x` whose chance reaches them.
static STRETCH: LazyLock<[i16; 4_096]> = LazyLock::new(|| {
    let mut table = [ODDS_MAX as i16; 4_096];
    let mut next = 0;
    for x in -ODDS_MAX..=ODDS_MAX {
        let reaches = squash(x) >> 4;
        while next <= reaches {
            table[next as usize] = x as i16;
            next += 1;
        }
    }
    table
});

/// `floor(2^16 / (n + 1.5))`: how far the n-th observation moves a chance.
pub(super) static PACE: LazyLock<[i32; 256]> =
    LazyLock::new(|| std::array::from_fn(|n| (131_072 / (2 * n + 3)) as i32));

/// A chance that learns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chance {
    pub(super) one: Probability,
    seen: u8,
}

impl Chance {
    pub(super) const fn new(one: Probability) -> Self {
        Self { one, seen: 0 }
    }

    /// Moves to `bit`; after `most` observations the pace stays.
    #[inline]
    pub(super) fn learn(&mut self, bit: bool, most: u8, pace: &[i32; 256]) {
        let target = if bit { 65_535 } else { 0 };
        let one = i32::from(self.one);
        let moved = one + (((target - one) * (pace[usize::from(self.seen)] >> 1)) >> 15);
        self.one = moved.clamp(32, 65_503) as Probability;
        self.seen += u8::from(self.seen < most);
    }
}

/// An entry is sent with this chance before anything is known.
const START: Probability = 1 << 12;
/// Chances mixed; the last two say nothing but in a difference.
const INPUTS: usize = 8;
/// Weights before anything is known, in units of 2^-16.
const WEIGHTS: [i32; INPUTS] = [18_000, 18_000, 22_000, 12_000, 12_000, 0, 0, 0];
/// The same in a difference, where what the receiver holds tells most.
const WEIGHTS_HELD: [i32; INPUTS] = [4_000, 4_000, 6_000, 2_000, 2_000, 0, 30_000, 30_000];
/// Classes of what is held at a place.
const HELD: usize = 64;
/// How fast weights learn.
const RATE: i32 = 20;

/// The model of which entries are sent, for one frame.
pub(super) struct Map {
    stretch: &'static [i16; 4_096],
    pace: &'static [i32; 256],
    /// By what lies around: 3 x 3 x 5 x 3 for each part.
    around: Vec<Chance>,
    /// By what is held at the place, and by that and the nearest neighbours; only in a difference.
    held: [Vec<Chance>; 2],
    weights: [[i32; INPUTS]; 3],
    tensor: Chance,
    row: Chance,
    columns: Vec<Chance>,
    part: usize,
    /// How many rows up each context reaches: this row and the two before, a level class an entry.
    rows: [Vec<u8>; 3],
    width: usize,
    at: usize,
    inputs: [i32; INPUTS],
    mixed: i32,
    context: usize,
    held_contexts: [usize; 2],
}

/// Neighbours beyond the first and the last column read as nothing.
const MARGIN: usize = 2;

impl Map {
    pub(super) fn new() -> Self {
        Self {
            stretch: &STRETCH,
            pace: &PACE,
            around: vec![Chance::new(START); 3 * 135],
            held: [Vec::new(), Vec::new()],
            weights: [WEIGHTS; 3],
            tensor: Chance::new(START),
            row: Chance::new(START),
            columns: Vec::new(),
            part: 0,
            rows: [Vec::new(), Vec::new(), Vec::new()],
            width: 0,
            at: 0,
            inputs: [0; INPUTS],
            mixed: 0,
            context: 0,
            held_contexts: [0; 2],
        }
    }

    /// Of a difference: [`chance`](Self::chance) is told what is held.
    pub(super) fn of_difference() -> Self {
        // What was sent before is sent again, mostly.
        let start = |place: usize| match place % HELD {
            0 => Chance::new(START),
            _ => Chance::new(3 << 14),
        };
        let table = |places: usize| (0..places * HELD).map(start).collect();
        Self { held: [table(3), table(27)], weights: [WEIGHTS_HELD; 3], ..Self::new() }
    }

    /// Starts a tensor of `width` columns; `part` is 0 for A, 1 for B, 2 for a head.
    pub(super) fn tensor(&mut self, width: usize, part: usize) {
        // A tensor starts where the last one of its width ended: their columns are often the same inputs.
        if width != self.width || part != self.part {
            self.columns.clear();
            self.columns.resize(width, Chance { one: self.tensor.one, seen: 2 });
        } else {
            self.columns.iter_mut().for_each(|column| column.seen = column.seen.min(6));
        }
        (self.width, self.part) = (width, part);
        self.tensor.seen = self.tensor.seen.min(20);
        for row in &mut self.rows {
            row.clear();
            row.resize(width + 2 * MARGIN, 0);
        }
        self.row();
    }

    /// Starts the next row.
    pub(super) fn row(&mut self) {
        self.rows.rotate_right(1);
        self.rows[0].fill(0);
        // Half of what the last row was like, half of the tensor.
        let one = (u32::from(self.row.one) + u32::from(self.tensor.one)) / 2;
        self.row = Chance { one: one as Probability, seen: 3 };
    }

    /// The chance that column `column` of this row is sent; `held` is the class of what the receiver
    /// holds there, in a difference.
    #[inline]
    pub(super) fn chance(&mut self, column: usize, held: Option<usize>) -> Probability {
        let at = column + MARGIN;
        self.at = at;
        let [this, up, above] = &self.rows;
        let some = |level: u8| usize::from(level > 0);
        let near = some(up[at - 1]) + some(up[at + 1]) + some(this[at - 2]) + some(above[at]);
        let both = usize::from(this[at - 1].min(2)) * 3 + usize::from(up[at].min(2));
        self.context = self.part * 135 + (both * 5 + near) * 3 + usize::from(above[at].min(2));
        let odds = |chance: Chance| i32::from(self.stretch[usize::from(chance.one >> 4)]);
        let mut from_held = [0; 2];
        if let Some(held) = held {
            self.held_contexts = [self.part * HELD + held, (self.part * 9 + both) * HELD + held];
            for ((odd, table), at) in from_held.iter_mut().zip(&self.held).zip(self.held_contexts) {
                *odd = odds(table[at]);
            }
        }
        self.inputs = [
            odds(self.row),
            odds(self.columns[column]),
            odds(self.around[self.context]),
            odds(self.tensor),
            (odds(self.row) + odds(self.columns[column]) - odds(self.tensor)).clamp(-2_047, 2_047),
            256,
            from_held[0],
            from_held[1],
        ];
        let weights = &self.weights[self.part];
        let sum: i64 =
            self.inputs.iter().zip(weights).map(|(&x, &w)| i64::from(x) * i64::from(w)).sum();
        self.mixed = squash((sum >> 16).clamp(-2_047, 2_047) as i32) as i32;
        self.mixed as Probability
    }

    /// Learns from what column `column` was: 0, or one more than its level's class.
    #[inline]
    pub(super) fn learn(&mut self, column: usize, class: u8) {
        let bit = class > 0;
        let error = (if bit { 65_535 } else { 0 }) - self.mixed;
        for (weight, &input) in self.weights[self.part].iter_mut().zip(&self.inputs) {
            *weight += (((input * (error >> 4)) >> 10) * RATE) >> 6;
        }
        self.row.learn(bit, 40, self.pace);
        self.columns[column].learn(bit, 30, self.pace);
        self.around[self.context].learn(bit, 250, self.pace);
        self.tensor.learn(bit, 250, self.pace);
        for (table, at) in self.held.iter_mut().zip(self.held_contexts) {
            if let Some(chance) = table.get_mut(at) {
                chance.learn(bit, 250, self.pace);
            }
        }
        self.rows[0][self.at] = class;
    }

    /// Notes what column `column` was, where nothing is to be learned from its being sent.
    pub(super) fn note(&mut self, column: usize, class: u8) {
        self.rows[0][column + MARGIN] = class;
    }

    /// How large the neighbours are: what a magnitude's model looks at.
    #[inline]
    pub(super) fn surroundings(&self, column: usize) -> usize {
        let at = column + MARGIN;
        usize::from(self.rows[0][at - 1].max(self.rows[1][at]).min(2))
    }
}

/// The model of magnitudes, for one frame: an index is told in unary by chances that learn, `int8` by its
/// bit length in unary and the bits below the first.
pub(super) struct Magnitudes {
    chances: Vec<Chance>,
    pace: &'static [i32; 256],
}

impl Magnitudes {
    pub(super) fn new() -> Self {
        Self { chances: vec![Chance::new(24_000); 3 * 8], pace: &PACE }
    }

    /// Codes `rungs` of at most `most` through `bit`, which codes or decodes one bit and returns it.
    #[inline]
    pub(super) fn unary<E>(
        &mut self,
        surroundings: usize,
        most: u32,
        mut bit: impl FnMut(u32, Probability) -> Result<bool, E>,
    ) -> Result<u32, E> {
        let mut rung = 0;
        while rung < most {
            let chance = &mut self.chances[surroundings * 8 + rung as usize];
            let more = bit(rung, chance.one)?;
            chance.learn(more, 200, self.pace);
            if !more {
                break;
            }
            rung += 1;
        }
        Ok(rung)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigmoid_is_the_formula() {
        for (place, &entry) in SIGMOID.iter().enumerate() {
            let x = place as f64 / 2.0 - 8.0;
            assert_eq!(entry, (65_536.0 / (1.0 + (-x).exp())).round() as u32, "{x}");
        }
        for x in [-2_047, -700, -1, 0, 3, 900, 2_047] {
            let exact = 65_536.0 / (1.0 + (-f64::from(x) / 256.0).exp());
            let relative = f64::from(squash(x)) / exact - 1.0;
            assert!(relative.abs() < 0.04, "{x}: {relative}");
        }
    }

    #[test]
    fn stretch_undoes_squash() {
        assert_eq!((STRETCH[0], STRETCH[2_048], STRETCH[4_095]), (-2_047, 0, 2_047));
        assert!(STRETCH.windows(2).all(|pair| pair[0] <= pair[1]));
        for twelfth in [16, 100, 1_000, 3_000, 4_000] {
            let back = squash(i32::from(STRETCH[twelfth])) >> 4;
            assert!((back as usize).abs_diff(twelfth) <= 1 + twelfth / 64, "{twelfth}: {back}");
        }
    }
}
