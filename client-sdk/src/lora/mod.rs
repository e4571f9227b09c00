//! Where each adapter tensor lies in the flat vector, and which linear it belongs to.

use std::ops::Range;

use gossamer_protocol::layout::{BaseLinear, Part, lora_pair};
use gossamer_protocol::manifest::Manifest;

use crate::model::BaseModel;
use crate::ops::linear::Lora;

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
    /// A linear with one factor in the layout and none frozen to go with it.
    #[error("the layout has {found} but not {missing}")]
    Unpaired {
        /// The factor there is.
        found: String,
        /// The one there is not.
        missing: String,
    },
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
}

/// A layout's tensors, found their linears.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    rank: usize,
    scale: f32,
    n: usize,
    /// By linear, in the base model's order.
    pairs: Vec<Option<Pair>>,
    /// Factors that stay at their seeded start (FFA-LoRA's A), end to end.
    frozen: Vec<f32>,
}

#[derive(Clone, Debug)]
struct Pair {
    a: Factor,
    b: Range<usize>,
}

#[derive(Clone, Debug)]
enum Factor {
    Trained(Range<usize>),
    Frozen(Range<usize>),
}

/// An adapter's values on a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adapter<'a> {
    plan: &'a Plan,
    theta: &'a [f32],
}

impl Plan {
    /// Matches the manifest's layout with the base model.
    pub(crate) fn new(base: &BaseModel, manifest: &Manifest) -> Result<Self, LoraError> {
        Self::of(&base.linears(), manifest)
    }

    fn of(linears: &[BaseLinear], manifest: &Manifest) -> Result<Self, LoraError> {
        let rank = manifest.lora.rank;
        let mut factors: Vec<[Option<Range<usize>>; 2]> = vec![[None, None]; linears.len()];
        for (tensor, place) in manifest.layout.tensors() {
            let unknown = || LoraError::Unknown { name: tensor.name.clone() };
            let part = match tensor.part {
                Part::LoraA => 0,
                Part::LoraB => 1,
            };
            let path = tensor.name.rsplit_once('.').map_or("", |(path, _)| path);
            let at = linears.iter().position(|l| l.name == path).ok_or_else(unknown)?;
            let expected = &lora_pair(&linears[at], rank)[part];
            if expected.name != tensor.name {
                return Err(unknown());
            }
            if expected.shape != tensor.shape {
                let (name, found) = (tensor.name.clone(), tensor.shape);
                return Err(LoraError::Shape { name, expected: expected.shape, found });
            }
            factors[at][part] = Some(place);
        }
        let mut frozen = Vec::new();
        let mut pairs = Vec::with_capacity(linears.len());
        for (linear, factors) in linears.iter().zip(factors) {
            let [a, b] = lora_pair(linear, rank);
            pairs.push(match factors {
                [None, None] => None,
                [Some(a), Some(b)] => Some(Pair { a: Factor::Trained(a), b }),
                [None, Some(b)] if manifest.lora.freeze_a => {
                    let start = frozen.len();
                    frozen.extend(a.init(manifest.seed));
                    Some(Pair { a: Factor::Frozen(start..frozen.len()), b })
                }
                [None, Some(_)] => {
                    return Err(LoraError::Unpaired { found: b.name, missing: a.name });
                }
                [Some(_), None] => {
                    return Err(LoraError::Unpaired { found: a.name, missing: b.name });
                }
            });
        }
        let scale = manifest.lora_scale() as f32;
        Ok(Self { rank, scale, n: manifest.layout.n(), pairs, frozen })
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
        Adapter { plan: self, theta }
    }

    /// The first adapted linear: below it no gradient is wanted.
    pub(crate) fn first(&self) -> usize {
        self.pairs.iter().position(Option::is_some).unwrap_or(self.pairs.len())
    }

    /// Linear `at`'s part of a flat gradient: A's, where it is trained, and B's.
    pub(crate) fn split<'g>(
        &self,
        at: usize,
        gradient: &'g mut [f32],
    ) -> (Option<&'g mut [f32]>, Option<&'g mut [f32]>) {
        let Some(Pair { a, b }) = &self.pairs[at] else { return (None, None) };
        let Factor::Trained(a) = a else { return (None, Some(&mut gradient[b.clone()])) };
        match gradient.get_disjoint_mut([a.clone(), b.clone()]) {
            Ok([a, b]) => (Some(a), Some(b)),
            // A layout's places never overlap.
            Err(_) => (None, None),
        }
    }
}

impl<'a> Adapter<'a> {
    pub(crate) fn plan(self) -> &'a Plan {
        self.plan
    }

    /// The branch beside linear `at`.
    pub(crate) fn branch(self, at: usize) -> Option<Lora<'a>> {
        let Pair { a, b } = self.plan.pairs[at].as_ref()?;
        let a = match a {
            Factor::Trained(a) => &self.theta[a.clone()],
            Factor::Frozen(a) => &self.plan.frozen[a.clone()],
        };
        let (rank, scale) = (self.plan.rank, self.plan.scale);
        Some(Lora { rank, scale, a, b: &self.theta[b.clone()] })
    }
}
