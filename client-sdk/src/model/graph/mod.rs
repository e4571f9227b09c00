//! A base model as a graph of candle's differentiable operations, on any device that candle has: how a GPU
//! trains, and an independent reference for the hand-written passes.
//!
//! It computes what [`network`](super::network) computes, with the same dropout masks, in another order of
//! sums. candle's fused `rms_norm`, `softmax_last_dim` and `rope` would cut the gradient in silence, so none is
//! used; the product with a frozen weight is [`frozen`]'s, since candle's forms the weight's gradient too. What
//! is a family's own is in its own `graph.rs`; here and in [`layers`] is what they share.
//!
//! The adapter's factors go to the device for each step and their gradients come back: a few megabytes at most,
//! so that optimiser, saving, gates and coding are one code for all devices. Activations and gradients are
//! `f32`; matrices are held as `bf16` where the base is, else as `f32`.

mod frozen;
pub(crate) mod layers;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::family::Kind;
use super::held::Weights;
use super::tensors::{LinearMap, Tensor as Entry, Tensors};
use super::{Storage, bert, gpt2, llama};
use crate::data::Batch;
use crate::lora::Adapter;
use crate::ops::linear::{Dropout, Lora};

/// A model's tensors on a device.
#[derive(Debug)]
pub(crate) struct Graph {
    device: Device,
    /// By where each begins in the flat vector.
    tensors: HashMap<usize, Tensor>,
    /// Whether the weights are variables, so that their gradients are wanted.
    trained: bool,
}

/// An adapter's tensors on a device.
#[derive(Debug)]
pub(crate) struct Factors {
    /// By linear.
    branches: Vec<Option<Branch>>,
    head: Option<[Tensor; 2]>,
}

/// A low-rank branch.
#[derive(Debug)]
struct Branch {
    /// `[rank, d_in]`; a variable where it is trained.
    a: Tensor,
    /// `[d_out, rank]`, a variable.
    b: Tensor,
    /// `[rank, rank]`, a variable.
    core: Option<Tensor>,
    scale: f64,
}

/// One batch's way through the graph.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    pub(crate) batch: &'a Batch,
    graph: &'a Graph,
    linears: &'a [LinearMap],
    factors: &'a Factors,
    dropout: Option<&'a mut Dropout>,
}

impl Graph {
    /// Copies `weights` to `device`.
    pub(super) fn new(
        tensors: &Tensors,
        weights: Weights<'_>,
        storage: Storage,
        device: &Device,
    ) -> Result<Self> {
        let matrix = if storage == Storage::Bf16 { DType::BF16 } else { DType::F32 };
        let on_device = |entry: &Entry| {
            let shape = shape(entry);
            let dtype = if shape.len() == 2 { matrix } else { DType::F32 };
            let values = weights.values(entry);
            let tensor = Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?;
            Ok((entry.place.start, tensor))
        };
        let tensors = tensors.iter().map(on_device).collect::<Result<_>>()?;
        Ok(Self { device: device.clone(), tensors, trained: false })
    }

    /// Of variables in place of a model's weights, in their order.
    #[cfg(test)]
    pub(crate) fn of_variables(tensors: &Tensors, variables: &[Var]) -> Self {
        let pairs = tensors.iter().zip(variables);
        let tensors = pairs.map(|(entry, var)| (entry.place.start, var.as_tensor().clone()));
        Self { device: Device::Cpu, tensors: tensors.collect(), trained: true }
    }

    /// Where it is.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The tensor that begins where `place` does.
    pub(crate) fn at(&self, place: &Range<usize>) -> Result<&Tensor> {
        match self.tensors.get(&place.start) {
            Some(tensor) => Ok(tensor),
            None => candle_core::bail!("the model has no tensor at {}", place.start),
        }
    }

    /// `x W^T`; `x`: `[n, d_in]`, the weight: `[d_out, d_in]`.
    pub(crate) fn product(&self, x: &Tensor, weight: &Range<usize>) -> Result<Tensor> {
        let weight = self.at(weight)?.t()?;
        if self.trained {
            return x.matmul(&weight);
        }
        let x = x.to_dtype(weight.dtype())?;
        x.apply_op2(&weight, frozen::Product)?.to_dtype(DType::F32)
    }

    /// The logits of each target of `batch`, in order: `[rows * cols, vocab]`, or with a head `[rows, classes]`.
    pub(crate) fn logits(
        &self,
        kind: &Kind,
        factors: &Factors,
        batch: &Batch,
        dropout: Option<&mut Dropout>,
    ) -> Result<Tensor> {
        let linears = kind.tensors().linears();
        let mut pass = Pass { batch, graph: self, linears, factors, dropout };
        match kind {
            Kind::Llama(config, map) => {
                let features = llama::graph::features(config, map, &mut pass)?;
                self.product(&features, &map.head)
            }
            Kind::Gpt2(config, map) => {
                let features = gpt2::graph::features(config, map, &mut pass)?;
                self.product(&features, &map.head)
            }
            Kind::Bert(config, map) => {
                let features = bert::graph::features(config, map, &mut pass)?;
                let Some([weight, bias]) = &factors.head else {
                    candle_core::bail!("an encoder without a head");
                };
                features.matmul(&weight.t()?)?.broadcast_add(bias)
            }
        }
    }
}

impl Factors {
    /// Copies one client's adapter to `device`.
    pub(crate) fn new(adapter: Adapter<'_>, linears: usize, device: &Device) -> Result<Self> {
        let var = |values: &[f32], shape: &[usize]| {
            Ok::<_, candle_core::Error>(Var::from_slice(values, shape, device)?.into_inner())
        };
        let branch = |at: usize| {
            let Some(branch) = adapter.branch_at(at) else { return Ok(None) };
            let Lora { rank, scale, a, b, core } = branch;
            let shape = [rank, a.len() / rank];
            let a = match adapter.plan().trains_a(at) {
                true => var(a, &shape)?,
                false => Tensor::from_slice(a, &shape, device)?,
            };
            let b = var(b, &[b.len() / rank, rank])?;
            let core = core.map(|core| var(core, &[rank, rank])).transpose()?;
            Ok(Some(Branch { a, b, core, scale: f64::from(scale) }))
        };
        let head = adapter.head(0).map(|head| {
            let weight = head.weight.floats().unwrap_or_default();
            let bias = head.bias.unwrap_or_default();
            Ok::<_, candle_core::Error>([
                var(weight, &[head.d_out, head.d_in])?,
                var(bias, &[head.d_out])?,
            ])
        });
        Ok(Self {
            branches: (0..linears).map(branch).collect::<Result<_>>()?,
            head: head.transpose()?,
        })
    }

    /// No branch beside any of so many linears.
    #[cfg(test)]
    pub(crate) fn none(linears: usize) -> Self {
        Self { branches: (0..linears).map(|_| None).collect(), head: None }
    }

    /// Adds the gradients of `loss`, a scalar, to `gradient`, the flat adapter's.
    pub(crate) fn backward(
        &self,
        adapter: Adapter<'_>,
        loss: &Tensor,
        gradient: &mut [f32],
    ) -> Result<()> {
        let gradients = loss.backward()?;
        let add = |into: Option<&mut [f32]>, of: &Tensor| {
            let Some(into) = into else { return Ok(()) };
            // A layer whose graph was cut would otherwise never learn, and nobody would know.
            let Some(found) = gradients.get(of) else {
                candle_core::bail!("no gradient reaches an adapter tensor of shape {:?}", of.dims())
            };
            let found: Vec<f32> = found.flatten_all()?.to_vec1()?;
            crate::ops::add(into, &found);
            Ok::<_, candle_core::Error>(())
        };
        let plan = adapter.plan();
        for (at, branch) in self.branches.iter().enumerate() {
            let Some(Branch { a, b, core, .. }) = branch else { continue };
            let to = plan.split(at, gradient);
            add(to.a, a)?;
            add(to.b, b)?;
            if let Some(core) = core {
                add(to.core, core)?;
            }
        }
        if let Some([weight, bias]) = &self.head {
            let [to_weight, to_bias] = plan.split_head(gradient);
            add(to_weight, weight)?;
            add(to_bias, bias)?;
        }
        Ok(())
    }
}

impl Pass<'_> {
    /// A model's own tensor.
    pub(crate) fn at(&self, place: &Range<usize>) -> Result<&Tensor> {
        self.graph.at(place)
    }

    /// The rows `ids` of an embedding, `[n, hidden]`.
    pub(crate) fn rows(&self, embedding: &Range<usize>, ids: &[u32]) -> Result<Tensor> {
        let ids = Tensor::from_slice(ids, ids.len(), &self.graph.device)?;
        self.at(embedding)?.index_select(&ids, 0)?.to_dtype(DType::F32)
    }

    /// Linear `at` with its branch; see [`crate::ops::linear`].
    pub(crate) fn linear(&mut self, at: usize, x: &Tensor) -> Result<Tensor> {
        let LinearMap { weight, bias, .. } = &self.linears[at];
        let mut y = self.graph.product(x, weight)?;
        if let Some(bias) = bias {
            y = y.broadcast_add(self.graph.at(bias)?)?;
        }
        let Some(Branch { a, b, core, scale }) = &self.factors.branches[at] else {
            return Ok(y);
        };
        let dropped = match self.dropout.as_deref_mut() {
            None => x.clone(),
            Some(dropout) => {
                let mask: Vec<f32> = dropout.mask(0, x.elem_count()).collect();
                (x * Tensor::from_vec(mask, x.dims(), &self.graph.device)?)?
            }
        };
        let mut h = dropped.matmul(&a.t()?)?;
        if let Some(core) = core {
            h = h.matmul(&core.t()?)?;
        }
        y + (h.matmul(&b.t()?)? * *scale)?
    }

    /// A matrix of constants.
    pub(crate) fn constant(&self, values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
        Tensor::from_vec(values, shape, &self.graph.device)
    }
}

/// As the flat vector has it: the weights of transformers' Conv1D are turned there.
fn shape(entry: &Entry) -> Vec<usize> {
    match entry.shape.len() {
        2 => entry.matrix().to_vec(),
        _ => entry.shape.clone(),
    }
}
