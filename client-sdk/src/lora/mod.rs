//! Where each adapter tensor lies in the flat vector, and which linear, or the head, it belongs to.

mod adapter;

use std::ops::Range;

use gossamer_protocol::layout::{BaseLinear, Part, TensorSpec, core, head_pair, lora_pair, weight};
use gossamer_protocol::manifest::{Head, Manifest};
use gossamer_protocol::modules::BadPattern;

use crate::model::BaseModel;
use crate::ops::linear::LoraGradients;

/// Why a manifest's adapter does not fit a base model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// A tensor for a linear that the base does not have.
    #[error("the layout has tensor {name}, the base model has no such linear")]
    Unknown {
        /// The tensor.
        name: String,
    },
    /// A tensor of another shape than the linear's.
    #[error("tensor {name} has shape {found:?}, the base model and rank make it {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// By base model and rank.
        expected: [usize; 2],
        /// In the layout.
        found: [usize; 2],
    },
    /// A head with a tensor missing.
    #[error("the run has a head, its layout no {missing}")]
    Headless {
        /// The tensor.
        missing: String,
    },
    /// A linear with one factor in the layout and none frozen to go with it.
    #[error("the layout has {found} but not {missing}")]
    Unpaired {
        /// The factor there is.
        found: String,
        /// The one there is not.
        missing: String,
    },
    /// An encoder's run without a head.
    #[error("the base model is an encoder, which is trained through a head; the run has none")]
    NoHead,
    /// A head's run on a decoder.
    #[error("the run has a head, which needs an encoder; the base model is a decoder")]
    Decoder,
    /// A flat vector of another length than the layout's.
    #[error("the adapter has {found} values, the layout {expected}")]
    Length {
        /// By the layout.
        expected: usize,
        /// Given.
        found: usize,
    },
    /// A value that is not finite.
    #[error("adapter value {0} is not finite")]
    NonFinite(usize),
    /// Changes of whole weights, where the base is on a GPU.
    #[error("the run changes whole weights, which a base on a GPU has no place for; the CPU has")]
    WholeOnDevice,
    /// A pattern that cannot be matched.
    #[error(transparent)]
    Pattern(#[from] BadPattern),
}

/// A layout's tensors, found their linears.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    n: usize,
    /// By linear, in the base model's order.
    pairs: Vec<Option<Pair>>,
    /// Changes of whole weights, by linear.
    weights: Vec<Option<WeightPlan>>,
    /// Factors that stay at their seeded start (FFA-LoRA's A), end to end.
    frozen: Vec<f32>,
    head: Option<HeadPlan>,
}

/// The task head's places and sizes.
#[derive(Clone, Debug)]
struct HeadPlan {
    hidden: usize,
    classes: usize,
    weight: Range<usize>,
    bias: Range<usize>,
}

/// A whole weight's change: trained, unless factors before it are and it is the aggregator's.
#[derive(Clone, Debug)]
struct WeightPlan {
    d_in: usize,
    d_out: usize,
    place: Range<usize>,
    trained: bool,
}

#[derive(Clone, Debug)]
struct Pair {
    rank: usize,
    scale: f32,
    a: Factor,
    b: Range<usize>,
    /// Between them, where the run has one.
    core: Option<Range<usize>>,
}

#[derive(Clone, Debug)]
enum Factor {
    Trained(Range<usize>),
    Frozen(Range<usize>),
}

/// The values of one client's adapter, or of several clients', on one plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adapter<'a> {
    plan: &'a Plan,
    values: Values<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Values<'a> {
    One(&'a [f32]),
    Each(&'a [&'a [f32]]),
}

impl Plan {
    /// Matches the manifest's layout with the base model.
    pub(crate) fn new(base: &BaseModel, manifest: &Manifest) -> Result<Self, LoraError> {
        let plan = Self::of(&base.linears(), base.hidden(), manifest)?;
        let whole = plan.weights.iter().any(Option::is_some);
        if whole && base.graph().is_some() { Err(LoraError::WholeOnDevice) } else { Ok(plan) }
    }

    fn of(linears: &[BaseLinear], hidden: usize, manifest: &Manifest) -> Result<Self, LoraError> {
        let rules = manifest.lora.rules()?;
        let mut factors: Vec<[Option<Range<usize>>; 3]> = vec![[None, None, None]; linears.len()];
        let mut weights: Vec<Option<WeightPlan>> = vec![None; linears.len()];
        let mut head = Vec::new();
        for (tensor, place) in manifest.layout.tensors() {
            let unknown = || LoraError::Unknown { name: tensor.name.clone() };
            let part = match tensor.part {
                Part::LoraA => 0,
                Part::LoraB => 1,
                Part::Head => {
                    head.push((tensor, place));
                    continue;
                }
                Part::LoraR => 2,
                Part::Weight => 3,
                // Read beside training, not in it.
                Part::Control => continue,
            };
            let path = tensor.name.rsplit_once('.').map_or("", |(path, _)| path);
            let at = linears.iter().position(|l| l.name == path).ok_or_else(unknown)?;
            let BaseLinear { d_in, d_out, .. } = linears[at];
            let rank = rules.rank(path);
            let [a, b] = lora_pair(&linears[at], rank);
            let expected = &[a, b, core(path, rank), weight(path, d_in, d_out)][part];
            if expected.name != tensor.name {
                return Err(unknown());
            }
            if expected.shape != tensor.shape {
                let (name, found) = (tensor.name.clone(), tensor.shape);
                return Err(LoraError::Shape { name, expected: expected.shape, found });
            }
            match factors[at].get_mut(part) {
                Some(factor) => *factor = Some(place),
                None => weights[at] = Some(WeightPlan { d_in, d_out, place, trained: true }),
            }
        }
        for (weight, factors) in weights.iter_mut().zip(&factors) {
            let alone = factors.iter().all(Option::is_none);
            weight.iter_mut().for_each(|weight| weight.trained = alone);
        }
        let mut frozen = Vec::new();
        let mut pairs = Vec::with_capacity(linears.len());
        for (linear, factors) in linears.iter().zip(factors) {
            let rank = rules.rank(&linear.name);
            let scale = rules.scale(&linear.name) as f32;
            let [a, b] = lora_pair(linear, rank);
            pairs.push(match factors {
                [None, None, None] => None,
                [Some(a), Some(b), core] => {
                    Some(Pair { rank, scale, a: Factor::Trained(a), b, core })
                }
                [None, Some(b), None] if manifest.lora.freeze_a => {
                    let start = frozen.len();
                    frozen.extend(a.init(manifest.seed));
                    let a = Factor::Frozen(start..frozen.len());
                    Some(Pair { rank, scale, a, b, core: None })
                }
                [None, Some(_), _] => {
                    return Err(LoraError::Unpaired { found: b.name, missing: a.name });
                }
                [Some(_), None, _] => {
                    return Err(LoraError::Unpaired { found: a.name, missing: b.name });
                }
                [None, None, Some(_)] => {
                    let found = core(&linear.name, rank).name;
                    return Err(LoraError::Unpaired { found, missing: b.name });
                }
            });
        }
        let head = Self::head(manifest, &head, hidden)?;
        Ok(Self { n: manifest.layout.n(), pairs, weights, frozen, head })
    }

    /// Matches the head's tensors with the manifest's head.
    fn head(
        manifest: &Manifest,
        tensors: &[(&TensorSpec, Range<usize>)],
        hidden: usize,
    ) -> Result<Option<HeadPlan>, LoraError> {
        let Some(Head { classes }) = manifest.head else {
            let unknown = |(tensor, _): &(&TensorSpec, _)| tensor.name.clone();
            let name = tensors.first().map(unknown);
            return name.map_or(Ok(None), |name| Err(LoraError::Unknown { name }));
        };
        let place = |expected: TensorSpec| {
            let found = tensors.iter().find(|(tensor, _)| tensor.name == expected.name);
            let Some((found, place)) = found else {
                return Err(LoraError::Headless { missing: expected.name });
            };
            if found.shape != expected.shape {
                let (name, found) = (expected.name, found.shape);
                return Err(LoraError::Shape { name, expected: expected.shape, found });
            }
            Ok(place.clone())
        };
        let [weight, bias] = head_pair(classes, hidden);
        let (weight, bias) = (place(weight)?, place(bias)?);
        Ok(Some(HeadPlan { hidden, classes: classes as usize, weight, bias }))
    }

    /// Puts values on the plan.
    pub(crate) fn adapter<'a>(&'a self, theta: &'a [f32]) -> Result<Adapter<'a>, LoraError> {
        if theta.len() != self.n {
            return Err(LoraError::Length { expected: self.n, found: theta.len() });
        }
        if let Some(at) = theta.iter().position(|x| !x.is_finite()) {
            return Err(LoraError::NonFinite(at));
        }
        Ok(self.on(theta))
    }

    /// As [`adapter`](Self::adapter) for values already known to fit.
    pub(crate) fn on<'a>(&'a self, theta: &'a [f32]) -> Adapter<'a> {
        debug_assert_eq!(theta.len(), self.n);
        Adapter { plan: self, values: Values::One(theta) }
    }

    /// As [`on`](Self::on) for several clients, each with an equal share of the rows, in this order.
    pub(crate) fn on_each<'a>(&'a self, thetas: &'a [&'a [f32]]) -> Adapter<'a> {
        debug_assert!(thetas.iter().all(|theta| theta.len() == self.n));
        Adapter { plan: self, values: Values::Each(thetas) }
    }

    /// The first adapted linear: below it no gradient is wanted.
    pub(crate) fn first(&self) -> usize {
        (0..self.pairs.len()).find(|&at| self.adapts(at)).unwrap_or(self.pairs.len())
    }

    /// Whether linear `at` has a branch, or a change of its weight.
    pub(crate) fn adapts(&self, at: usize) -> bool {
        self.pairs[at].is_some() || self.weights[at].is_some()
    }

    /// Whether linear `at` has an A that is trained.
    pub(crate) fn trains_a(&self, at: usize) -> bool {
        matches!(self.pairs[at], Some(Pair { a: Factor::Trained(_), .. }))
    }

    /// Whether a gradient of linear `at` reads its input: that of an A, or of the whole weight.
    pub(crate) fn reads(&self, at: usize) -> bool {
        self.trains_a(at) || matches!(self.weights[at], Some(WeightPlan { trained: true, .. }))
    }

    /// The head's parts of a flat gradient: the weight's and the bias's.
    pub(crate) fn split_head<'g>(&self, gradient: &'g mut [f32]) -> [Option<&'g mut [f32]>; 2] {
        let Some(HeadPlan { weight, bias, .. }) = &self.head else { return [None, None] };
        match gradient.get_disjoint_mut([weight.clone(), bias.clone()]) {
            Ok(parts) => parts.map(Some),
            // A layout's places never overlap.
            Err(_) => [None, None],
        }
    }

    /// Linear `at`'s parts of a flat gradient: A's, where it is trained, B's and the core's.
    pub(crate) fn split<'g>(&self, at: usize, gradient: &'g mut [f32]) -> LoraGradients<'g> {
        let Some(Pair { a, b, core, .. }) = &self.pairs[at] else {
            return LoraGradients::default();
        };
        let a = match a {
            Factor::Trained(a) => Some(a.clone()),
            Factor::Frozen(_) => None,
        };
        let has = [a.is_some(), true, core.is_some()];
        let places = [a.unwrap_or(0..0), b.clone(), core.clone().unwrap_or(0..0)];
        // A layout's places never overlap.
        let Ok([a, b, core]) = gradient.get_disjoint_mut(places) else {
            return LoraGradients::default();
        };
        LoraGradients { a: has[0].then_some(a), b: Some(b), core: has[2].then_some(core) }
    }
}
