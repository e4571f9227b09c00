//! A model's tensors end to end in one flat vector, and safetensors in and out of it.

use std::ops::Range;

use gossamer_protocol::layout::BaseLinear;
use safetensors::{Dtype, SafeTensors};

use super::ModelError;

/// Every tensor: its name, shape and place, in order; and which of them are the weights of linears.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tensors {
    tensors: Vec<Tensor>,
    linears: Vec<LinearMap>,
}

/// One stored tensor.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) place: Range<usize>,
}

/// A linear's places.
#[derive(Clone, Debug)]
pub(crate) struct LinearMap {
    /// Module path.
    name: String,
    pub(crate) d_in: usize,
    pub(crate) d_out: usize,
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Option<Range<usize>>,
}

impl Tensors {
    /// Puts a tensor behind the others.
    pub(crate) fn put(&mut self, name: String, shape: &[usize]) -> Range<usize> {
        let place = self.n()..self.n() + shape.iter().product::<usize>();
        self.tensors.push(Tensor { name, shape: shape.to_vec(), place: place.clone() });
        place
    }

    /// Puts the weight, `[d_out, d_in]`, of a linear that LoRA may adapt, and its bias, `[d_out]`, where
    /// it has one.
    pub(crate) fn put_linear(&mut self, name: String, [d_in, d_out]: [usize; 2], biased: bool) {
        let weight = self.put(format!("{name}.weight"), &[d_out, d_in]);
        let bias = biased.then(|| self.put(format!("{name}.bias"), &[d_out]));
        self.linears.push(LinearMap { name, d_in, d_out, weight, bias });
    }

    /// The linears that LoRA may adapt, in the order in which they were put.
    pub(crate) fn linears(&self) -> &[LinearMap] {
        &self.linears
    }

    /// The same by name and size.
    pub(crate) fn base_linears(&self) -> Vec<BaseLinear> {
        let linear = |linear: &LinearMap| {
            let LinearMap { name, d_in, d_out, .. } = linear;
            BaseLinear { name: name.clone(), d_in: *d_in, d_out: *d_out }
        };
        self.linears.iter().map(linear).collect()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Tensor> {
        self.tensors.iter()
    }

    /// Length of the flat vector.
    pub(crate) fn n(&self) -> usize {
        self.tensors.last().map_or(0, |last| last.place.end)
    }

    /// Reads every tensor from a safetensors file; the file may hold others beside.
    pub(crate) fn read(&self, bytes: &[u8]) -> Result<Vec<f32>, ModelError> {
        let file =
            SafeTensors::deserialize(bytes).map_err(|e| ModelError::Weights(e.to_string()))?;
        // By what the file has, not by what the configuration claims.
        let mut flat = Vec::new();
        for tensor in &self.tensors {
            let name = || tensor.name.clone();
            let view = file.tensor(&tensor.name).map_err(|_| ModelError::Missing(name()))?;
            if view.shape() != tensor.shape {
                let (expected, found) = (tensor.shape.clone(), view.shape().to_vec());
                return Err(ModelError::Shape { name: name(), expected, found });
            }
            let data = view.data();
            match view.dtype() {
                Dtype::F32 => {
                    flat.extend(data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)))
                }
                Dtype::F16 => {
                    let wide = |&b: &[u8; 2]| half::f16::from_le_bytes(b).to_f32();
                    flat.extend(data.as_chunks().0.iter().map(wide));
                }
                Dtype::BF16 => {
                    let wide = |&b: &[u8; 2]| half::bf16::from_le_bytes(b).to_f32();
                    flat.extend(data.as_chunks().0.iter().map(wide));
                }
                other => {
                    return Err(ModelError::Dtype { name: name(), found: format!("{other:?}") });
                }
            }
        }
        if let Some(at) = flat.iter().position(|x| !x.is_finite()) {
            let tensor = self.tensors.iter().find(|t| t.place.contains(&at));
            return Err(ModelError::NonFinite(tensor.map_or_else(String::new, |t| t.name.clone())));
        }
        Ok(flat)
    }

    /// The safetensors file of `flat`, in `f16`.
    pub(crate) fn write_f16(&self, flat: &[f32]) -> Result<Vec<u8>, ModelError> {
        let narrow = |x: &f32| half::f16::from_f32(*x).to_le_bytes();
        let bytes: Vec<Vec<u8>> = self
            .tensors
            .iter()
            .map(|tensor| flat[tensor.place.clone()].iter().flat_map(narrow).collect())
            .collect();
        let mut views = Vec::with_capacity(bytes.len());
        for (tensor, bytes) in self.tensors.iter().zip(&bytes) {
            let view =
                safetensors::tensor::TensorView::new(Dtype::F16, tensor.shape.clone(), bytes)
                    .map_err(|e| ModelError::Weights(e.to_string()))?;
            views.push((tensor.name.as_str(), view));
        }
        safetensors::serialize(views, None).map_err(|e| ModelError::Weights(e.to_string()))
    }
}
