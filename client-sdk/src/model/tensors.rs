//! A model's tensors end to end in one flat vector.

use std::ops::Range;

use gossamer_protocol::layout::BaseLinear;

/// Every tensor: its name, shape and place, in order; and which of them are the weights of linears.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tensors {
    tensors: Vec<Tensor>,
    linears: Vec<LinearMap>,
    /// What the names of some files lack at their beginning.
    prefix: Option<&'static str>,
}

/// One tensor.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// In Hugging Face's file.
    pub(crate) shape: Vec<usize>,
    pub(crate) place: Range<usize>,
    /// Whether `place` has it transposed.
    pub(crate) turned: bool,
}

/// A linear's places.
#[derive(Clone, Debug)]
pub(crate) struct LinearMap {
    /// Module path.
    name: String,
    pub(crate) d_in: usize,
    pub(crate) d_out: usize,
    /// `[d_out, d_in]`.
    pub(crate) weight: Range<usize>,
    /// Right behind the weight, where there is one.
    pub(crate) bias: Option<Range<usize>>,
}

impl Tensor {
    /// Rows and columns as `place` has them; a vector is one row.
    pub(crate) fn matrix(&self) -> [usize; 2] {
        match (&self.shape[..], self.turned) {
            (&[rows, cols], false) => [rows, cols],
            (&[rows, cols], true) => [cols, rows],
            _ => [1, self.place.len()],
        }
    }
}

impl Tensors {
    /// None yet; a file's names may all lack `prefix`.
    pub(crate) fn with_optional_prefix(prefix: &'static str) -> Self {
        Self { prefix: Some(prefix), ..Self::default() }
    }

    /// Puts a tensor behind the others.
    pub(crate) fn put(&mut self, name: String, shape: &[usize]) -> Range<usize> {
        let place = self.n()..self.n() + shape.iter().product::<usize>();
        let shape = shape.to_vec();
        self.tensors.push(Tensor { name, shape, place: place.clone(), turned: false });
        place
    }

    /// Puts the weight, `[d_out, d_in]`, of a linear that LoRA may adapt, and its bias, `[d_out]`, where
    /// it has one.
    pub(crate) fn put_linear(&mut self, name: String, [d_in, d_out]: [usize; 2], biased: bool) {
        let weight = self.put(format!("{name}.weight"), &[d_out, d_in]);
        let bias = biased.then(|| self.put(format!("{name}.bias"), &[d_out]));
        self.linears.push(LinearMap { name, d_in, d_out, weight, bias });
    }

    /// As [`put_linear`](Self::put_linear), with a bias and a file that has the weight as `[d_in, d_out]`.
    pub(crate) fn put_conv1d(&mut self, name: String, [d_in, d_out]: [usize; 2]) {
        let weight = self.put(format!("{name}.weight"), &[d_in, d_out]);
        if let Some(last) = self.tensors.last_mut() {
            last.turned = true;
        }
        let bias = Some(self.put(format!("{name}.bias"), &[d_out]));
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

    /// The name that some files have in place of `name`.
    pub(crate) fn other_name<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(self.prefix?)
    }

    /// Length of the flat vector.
    pub(crate) fn n(&self) -> usize {
        self.tensors.last().map_or(0, |last| last.place.end)
    }
}
