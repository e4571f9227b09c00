//! The adapter's tensors in order, and where each lies in one flat vector of `n` parameters.
//!
//! Only tensors a layout names can travel. A frozen tensor (FFA-LoRA's A) is simply not in it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::modules::{BadPattern, ends_in};
use crate::rng::Stream;

mod pairs;

pub use pairs::{Pair, pairs};

/// Most parameters an adapter may have: 2^28, 1 GiB in `f32`.
pub const PARAMETERS_MAX: usize = 1 << 28;

/// What an adapter tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// LoRA's down-projection A, shape `[rank, d_in]`; starts uniform on `±1/sqrt(d_in)`.
    LoraA,
    /// LoRA's up-projection B, shape `[d_out, rank]`; starts at zero.
    LoraB,
    /// The task head: `classifier.weight`, `[classes, hidden]`, and `classifier.bias`, `[classes, 1]`;
    /// start at zero.
    Head,
    /// A change of a whole weight, shape `[d_out, d_in]`; starts at zero.
    Weight,
    /// SCAFFOLD's control variate of another tensor, of its shape; starts at zero.
    Control,
    /// The core R between B and A, shape `[rank, rank]`; starts as the identity.
    LoraR,
}

/// One adapter tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// The adapted weight's module path with `.lora_A`, `.lora_B`, `.lora_R` or `.weight` behind; for a head see
    /// [`head_pair`]; of a control variate its tensor's name with `.control` behind.
    pub name: String,
    /// Which factor it is.
    pub part: Part,
    /// Rows and columns; stored row by row.
    pub shape: [usize; 2],
}

impl TensorSpec {
    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Whether it has no entry; a [`Layout`] holds no such tensor.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// This tensor's values before training, regenerated from `seed` alone.
    ///
    /// A is uniform on `±1/sqrt(d_in)`, which is PEFT's Kaiming-uniform with `a = sqrt(5)`; R is 1 on its
    /// diagonal; all else is 0.
    #[must_use]
    pub fn init(&self, seed: u64) -> Vec<f32> {
        match self.part {
            Part::LoraB | Part::Head | Part::Weight | Part::Control => vec![0.0; self.len()],
            Part::LoraA => {
                let bound = 1.0 / (self.shape[1] as f32).sqrt();
                let mut rng = Stream::new(seed, "lora-init", &[self.name.as_bytes()]);
                (0..self.len()).map(|_| (2.0 * rng.unit() - 1.0) * bound).collect()
            }
            Part::LoraR => {
                let mut values = vec![0.0; self.len()];
                values.iter_mut().step_by(self.shape[1] + 1).for_each(|value| *value = 1.0);
                values
            }
        }
    }
}

/// A weight matrix of the base model that LoRA may adapt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseLinear {
    /// Module path, without `.weight`.
    pub name: String,
    /// Columns of the weight `[d_out, d_in]`.
    pub d_in: usize,
    /// Rows of the weight `[d_out, d_in]`.
    pub d_out: usize,
}

/// Why tensors make no layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Nothing to train.
    #[error("the layout has no tensor")]
    Empty,
    /// A tensor without entries, or one over the limit.
    #[error("tensor {name} has shape {shape:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Its shape.
        shape: [usize; 2],
    },
    /// Two tensors of one name.
    #[error("tensor {0} appears twice")]
    Duplicate(String),
    /// More entries than [`PARAMETERS_MAX`].
    #[error("the layout has more than {PARAMETERS_MAX} parameters")]
    TooLarge,
    /// A target that matches no weight of the base model.
    #[error("LoRA target {target:?} matches no linear weight of the base model; it has {known}")]
    NoSuchTarget {
        /// The target as written.
        target: String,
        /// The last path segments there are, comma-separated.
        known: String,
    },
    /// Rank 0.
    #[error("LoRA rank must be at least 1")]
    ZeroRank,
    /// A pattern that cannot be matched.
    #[error(transparent)]
    Pattern(#[from] BadPattern),
}

impl LayoutError {
    pub(crate) fn no_such_target(target: &str, linears: &[BaseLinear]) -> Self {
        let mut known: Vec<&str> =
            linears.iter().filter_map(|l| l.name.rsplit('.').next()).collect();
        known.sort_unstable();
        known.dedup();
        Self::NoSuchTarget { target: target.to_owned(), known: known.join(", ") }
    }
}

/// Adapter tensors in order, with their offsets in the flat vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<TensorSpec>", into = "Vec<TensorSpec>")]
pub struct Layout {
    tensors: Vec<TensorSpec>,
    /// `offsets[i]..offsets[i + 1]` is tensor `i`.
    offsets: Vec<usize>,
}

impl Layout {
    /// Lays `tensors` end to end.
    ///
    /// # Errors
    /// [`LayoutError`] where a tensor is empty or named twice, or the whole is empty or too large.
    pub fn new(tensors: Vec<TensorSpec>) -> Result<Self, LayoutError> {
        if tensors.is_empty() {
            return Err(LayoutError::Empty);
        }
        let mut names = std::collections::HashSet::new();
        let mut offsets = Vec::with_capacity(tensors.len() + 1);
        let mut n: usize = 0;
        offsets.push(0);
        for tensor in &tensors {
            let len = tensor.shape[0].checked_mul(tensor.shape[1]).filter(|&len| len > 0);
            let len = len.ok_or_else(|| LayoutError::Shape {
                name: tensor.name.clone(),
                shape: tensor.shape,
            })?;
            if !names.insert(tensor.name.as_str()) {
                return Err(LayoutError::Duplicate(tensor.name.clone()));
            }
            n = n.checked_add(len).filter(|&n| n <= PARAMETERS_MAX).ok_or(LayoutError::TooLarge)?;
            offsets.push(n);
        }
        Ok(Self { tensors, offsets })
    }

    /// LoRA factors of rank `rank` on every linear whose path is, or ends in, one of `targets`.
    ///
    /// `linears` keeps its order; each gives A `[rank, d_in]` then B `[d_out, rank]`. With
    /// `freeze_a` (FFA-LoRA, arXiv:2403.12313) A stays at its seeded start, so only B is laid out.
    ///
    /// # Errors
    /// [`LayoutError::NoSuchTarget`] where a target matches nothing, and those of [`Layout::new`].
    pub fn lora(
        linears: &[BaseLinear],
        targets: &[String],
        rank: usize,
        freeze_a: bool,
    ) -> Result<Self, LayoutError> {
        if rank == 0 {
            return Err(LayoutError::ZeroRank);
        }
        let meant = |linear: &BaseLinear, target: &String| ends_in(&linear.name, target);
        if let Some(target) = targets.iter().find(|t| !linears.iter().any(|l| meant(l, t))) {
            return Err(LayoutError::no_such_target(target, linears));
        }
        let rank = |l: &BaseLinear| targets.iter().any(|t| meant(l, t)).then_some(rank);
        Self::adapting(linears, rank, freeze_a)
    }

    /// As [`lora`](Self::lora), on the linears that `rank` gives one for.
    pub(crate) fn adapting(
        linears: &[BaseLinear],
        rank: impl Fn(&BaseLinear) -> Option<usize>,
        freeze_a: bool,
    ) -> Result<Self, LayoutError> {
        let mut tensors = Vec::new();
        for linear in linears {
            let Some(rank) = rank(linear) else { continue };
            if rank == 0 {
                return Err(LayoutError::ZeroRank);
            }
            let [a, b] = lora_pair(linear, rank);
            if !freeze_a {
                tensors.push(a);
            }
            tensors.push(b);
        }
        Self::new(tensors)
    }

    /// The same with a task head behind it: `hidden` features in, `classes` logits out.
    ///
    /// # Errors
    /// Those of [`Layout::new`].
    pub fn with_head(self, classes: u32, hidden: usize) -> Result<Self, LayoutError> {
        let mut tensors = self.tensors;
        tensors.extend(head_pair(classes, hidden));
        Self::new(tensors)
    }

    /// Changes of the whole weights of the `linears` that are `meant`.
    ///
    /// # Errors
    /// Those of [`Layout::new`].
    pub fn weights(
        linears: &[BaseLinear],
        meant: impl Fn(&str) -> bool,
    ) -> Result<Self, LayoutError> {
        let linears = linears.iter().filter(|linear| meant(&linear.name));
        Self::new(linears.map(|l| weight(&l.name, l.d_in, l.d_out)).collect())
    }

    /// The task head alone; see [`with_head`](Self::with_head).
    ///
    /// # Errors
    /// Those of [`Layout::new`].
    pub fn head(classes: u32, hidden: usize) -> Result<Self, LayoutError> {
        Self::new(head_pair(classes, hidden).into())
    }

    /// The same with a change of the whole weight behind each B that has its A.
    ///
    /// # Errors
    /// Those of [`Layout::new`].
    pub fn with_weights(self) -> Result<Self, LayoutError> {
        self.behind_pairs(|module, pair| weight(module, pair.d_in, pair.d_out))
    }

    /// The same with a core behind each B that has its A.
    ///
    /// # Errors
    /// Those of [`Layout::new`].
    pub fn with_cores(self) -> Result<Self, LayoutError> {
        self.behind_pairs(|module, pair| core(module, pair.rank))
    }

    /// The same with what `made` gives behind each B that has its A.
    fn behind_pairs(self, made: impl Fn(&str, &Pair) -> TensorSpec) -> Result<Self, LayoutError> {
        let pairs = pairs(&self);
        let mut pairs = pairs.iter().filter(|pair| pair.d_in > 0).peekable();
        let mut tensors = Vec::with_capacity(2 * self.tensors.len());
        for (tensor, place) in self.tensors() {
            tensors.push(tensor.clone());
            let Some(pair) = pairs.next_if(|pair| pair.b == place) else { continue };
            let module = tensor.name.rsplit_once('.').map_or("", |(module, _)| module);
            tensors.push(made(module, pair));
        }
        Self::new(tensors)
    }

    /// The same with a control variate for each tensor, behind all.
    ///
    /// # Errors
    /// Those of [`Layout::new`].
    pub fn with_controls(self) -> Result<Self, LayoutError> {
        let mut tensors = self.tensors;
        let controls: Vec<TensorSpec> = tensors.iter().map(control).collect();
        tensors.extend(controls);
        Self::new(tensors)
    }

    /// Number of parameters.
    #[must_use]
    pub fn n(&self) -> usize {
        self.offsets[self.tensors.len()]
    }

    /// Each tensor with its place in the flat vector.
    pub fn tensors(&self) -> impl Iterator<Item = (&TensorSpec, Range<usize>)> {
        self.tensors.iter().zip(self.offsets.windows(2).map(|w| w[0]..w[1]))
    }

    /// The flat vector before training: every tensor's [`TensorSpec::init`], shape `[n]`.
    #[must_use]
    pub fn init(&self, seed: u64) -> Vec<f32> {
        self.tensors.iter().flat_map(|tensor| tensor.init(seed)).collect()
    }

    /// Names this layout: the SHA-256 of every tensor's name, part and shape in order.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::default();
        hasher.update(b"gossamer/v1/layout\0");
        for tensor in &self.tensors {
            hasher.update(&(tensor.name.len() as u64).to_le_bytes());
            hasher.update(tensor.name.as_bytes());
            hasher.update(&[match tensor.part {
                Part::LoraA => 0,
                Part::LoraB => 1,
                Part::Head => 2,
                Part::Weight => 3,
                Part::Control => 4,
                Part::LoraR => 5,
            }]);
            for size in tensor.shape {
                hasher.update(&(size as u64).to_le_bytes());
            }
        }
        hasher.finish()
    }
}

/// The factors LoRA puts beside `linear`: A, then B.
#[must_use]
pub fn lora_pair(linear: &BaseLinear, rank: usize) -> [TensorSpec; 2] {
    [
        TensorSpec {
            name: format!("{}.lora_A", linear.name),
            part: Part::LoraA,
            shape: [rank, linear.d_in],
        },
        TensorSpec {
            name: format!("{}.lora_B", linear.name),
            part: Part::LoraB,
            shape: [linear.d_out, rank],
        },
    ]
}

/// The change of the whole weight of the linear at `module`.
#[must_use]
pub fn weight(module: &str, d_in: usize, d_out: usize) -> TensorSpec {
    TensorSpec { name: format!("{module}.weight"), part: Part::Weight, shape: [d_out, d_in] }
}

/// The core between the factors of the linear at `module`.
#[must_use]
pub fn core(module: &str, rank: usize) -> TensorSpec {
    TensorSpec { name: format!("{module}.lora_R"), part: Part::LoraR, shape: [rank, rank] }
}

/// The control variate of `tensor`.
#[must_use]
pub fn control(tensor: &TensorSpec) -> TensorSpec {
    let name = format!("{}.control", tensor.name);
    TensorSpec { name, part: Part::Control, shape: tensor.shape }
}

/// A task head's tensors: `classifier.weight`, then `classifier.bias`.
#[must_use]
pub fn head_pair(classes: u32, hidden: usize) -> [TensorSpec; 2] {
    let tensor = |name: &str, columns| TensorSpec {
        name: name.into(),
        part: Part::Head,
        shape: [classes as usize, columns],
    };
    [tensor("classifier.weight", hidden), tensor("classifier.bias", 1)]
}

impl TryFrom<Vec<TensorSpec>> for Layout {
    type Error = LayoutError;

    fn try_from(tensors: Vec<TensorSpec>) -> Result<Self, LayoutError> {
        Self::new(tensors)
    }
}

impl From<Layout> for Vec<TensorSpec> {
    fn from(layout: Layout) -> Self {
        layout.tensors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linears() -> Vec<BaseLinear> {
        ["m.0.q_proj", "m.0.up_proj", "m.1.q_proj"]
            .map(|name| BaseLinear { name: name.into(), d_in: 4, d_out: 6 })
            .into()
    }

    #[test]
    fn lora_lays_a_then_b() {
        let layout = Layout::lora(&linears(), &["q_proj".into()], 2, false).expect("valid");
        let seen: Vec<_> = layout.tensors().map(|(t, r)| (t.name.clone(), t.shape, r)).collect();
        assert_eq!(seen[0], ("m.0.q_proj.lora_A".into(), [2, 4], 0..8));
        assert_eq!(seen[1], ("m.0.q_proj.lora_B".into(), [6, 2], 8..20));
        assert_eq!(seen[3].2, 28..40);
        assert_eq!(layout.n(), 40);
    }

    #[test]
    fn frozen_a_does_not_travel() {
        let layout = Layout::lora(&linears(), &["q_proj".into()], 2, true).expect("valid");
        assert_eq!(layout.n(), 24);
        assert!(layout.tensors().all(|(t, _)| t.part == Part::LoraB));
    }

    #[test]
    fn a_target_is_a_path_end_not_a_substring() {
        let none = Layout::lora(&linears(), &["proj".into()], 2, false);
        let known = "q_proj, up_proj".to_owned();
        assert_eq!(none, Err(LayoutError::NoSuchTarget { target: "proj".into(), known }));
    }

    #[test]
    fn init_is_bounded_and_uniform() {
        let [a, b] = lora_pair(&BaseLinear { name: "x".into(), d_in: 100, d_out: 3 }, 50);
        let values = a.init(1);
        assert!(values.iter().all(|v| v.abs() <= 0.1));
        // Var of U(-0.1, 0.1) is 0.01/3; its estimate from 5,000 draws has sd 4.2e-5.
        let var = values.iter().map(|v| f64::from(v * v)).sum::<f64>() / 5_000.0;
        assert!((var - 0.01 / 3.0).abs() < 2.2e-4, "{var}");
        assert!(b.init(1).iter().all(|&v| v == 0.0));
        assert_ne!(values, a.init(2));
    }

    /// The digest by Python's hashlib, from the layout line of `docs/wire.md`.
    #[test]
    fn a_head_lies_behind_and_starts_at_zero() {
        let layout = Layout::lora(&linears(), &["up_proj".into()], 2, false).expect("valid");
        let layout = layout.with_head(3, 4).expect("valid");
        let seen: Vec<_> = layout.tensors().map(|(t, r)| (t.name.as_str(), t.part, r)).collect();
        assert_eq!(seen[2], ("classifier.weight", Part::Head, 20..32));
        assert_eq!(seen[3], ("classifier.bias", Part::Head, 32..35));
        assert!(layout.init(1)[20..].iter().all(|&x| x == 0.0));
        assert_eq!(
            layout.digest().to_string(),
            "ce3eb351a1283a85847178895ab52c9dfca2742a998a0d3f00fdd6d26580c520"
        );
        let json = serde_json::to_value(&layout).expect("JSON");
        assert_eq!(json[3]["part"], "head");
    }

    #[test]
    fn refuses_empty_twice_and_too_large() {
        let t = |name: &str, shape| TensorSpec { name: name.into(), part: Part::LoraB, shape };
        assert_eq!(Layout::new(vec![]), Err(LayoutError::Empty));
        assert!(matches!(Layout::new(vec![t("a", [0, 2])]), Err(LayoutError::Shape { .. })));
        assert!(matches!(
            Layout::new(vec![t("a", [usize::MAX, 2])]),
            Err(LayoutError::Shape { .. })
        ));
        assert_eq!(
            Layout::new(vec![t("a", [1, 1]), t("a", [1, 1])]),
            Err(LayoutError::Duplicate("a".into()))
        );
        assert_eq!(Layout::new(vec![t("a", [1 << 14, 1 << 15])]), Err(LayoutError::TooLarge));
    }
}
