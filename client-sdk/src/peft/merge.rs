//! An adapter put into its base for good: `W + scale * B A`, as a Hugging Face folder.
//!
//! Each weight keeps its name, its type and the way it lies (Conv1D: `[d_in, d_out]`); every other tensor
//! is copied byte for byte, so that tied embeddings stay tied, and so are the folder's other files. A
//! task head is added as `classifier.weight`, `[classes, hidden]`, and `classifier.bias`, `[classes]`.
//! The product and the sum are made in `f32` and then rounded to the weight's type.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use gossamer_protocol::layout::Part;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};

use super::{Adapter, AdapterError, import, io};
use crate::model::BaseModel;

/// What holds weights in one way or another, and is not copied.
const WEIGHTS: [&str; 9] =
    ["bin", "gguf", "h5", "msgpack", "onnx", "ot", "pt", "pth", "safetensors"];

/// A tensor that the merge changes or adds.
struct Made {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Merges the adapter folder `adapter` into the model folder `base`, and writes the folder `out`.
///
/// # Errors
/// [`AdapterError`] where one of them cannot be read, the adapter is for another base, or `out` is `base`.
pub fn merge(base: &Path, adapter: &Path, out: &Path) -> Result<(), AdapterError> {
    let model = BaseModel::load(base)
        .map_err(|source| AdapterError::Model { path: base.to_owned(), source })?;
    let adapter = import(adapter, &model)?;
    let turned = model.fan_in_fan_out();
    // The file is read once more as it is; two copies of the weights need not be held.
    drop(model);
    std::fs::create_dir_all(out).map_err(io("make", out))?;
    let real = |path: &Path| path.canonicalize().map_err(io("find", path));
    if real(base)? == real(out)? {
        return Err(AdapterError::Same(out.to_owned()));
    }
    let path = base.join("model.safetensors");
    let bytes = std::fs::read(&path).map_err(io("read", &path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(format)?;
    let made = tensors(&file, &adapter, turned)?;
    let mut views = BTreeMap::new();
    for (name, view) in file.tensors() {
        views.insert(name, view);
    }
    for (name, Made { dtype, shape, data }) in &made {
        let view = TensorView::new(*dtype, shape.clone(), data).map_err(format)?;
        views.insert(name.clone(), view);
    }
    // What transformers asks for; a map of several entries would be written in any order.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let path = out.join("model.safetensors");
    safetensors::serialize_to_file(views, Some(metadata), &path).map_err(format)?;
    beside(base, out)
}

/// Copies what is no weights.
fn beside(base: &Path, out: &Path) -> Result<(), AdapterError> {
    for entry in std::fs::read_dir(base).map_err(io("read", base))? {
        let path = entry.map_err(io("read", base))?.path();
        let name = path.file_name().unwrap_or_default();
        let extension = path.extension().and_then(|x| x.to_str()).unwrap_or_default();
        let text = name.to_string_lossy();
        let hidden = text.starts_with('.') || text.ends_with(".index.json");
        if path.is_file() && !hidden && !WEIGHTS.contains(&extension) {
            std::fs::copy(&path, out.join(name)).map_err(io("copy", &path))?;
        }
    }
    Ok(())
}

/// The merged weights, and the head's.
fn tensors(
    file: &SafeTensors<'_>,
    adapter: &Adapter,
    turned: bool,
) -> Result<BTreeMap<String, Made>, AdapterError> {
    let rules = adapter.lora.rules().map_err(crate::lora::LoraError::from)?;
    let mut made = BTreeMap::new();
    let mut first = None;
    let mut factor_a: Option<(&str, &[f32], [usize; 2])> = None;
    for (tensor, place) in adapter.layout.tensors() {
        let values = &adapter.theta[place];
        let path = tensor.name.rsplit_once('.').map_or("", |(path, _)| path);
        match tensor.part {
            Part::LoraA => factor_a = Some((path, values, tensor.shape)),
            Part::LoraB => {
                // An imported layout has every A right before its B.
                let a = factor_a.take().filter(|(module, ..)| *module == path);
                let (_, a, [rank, d_in]) = a.ok_or_else(|| missing(&tensor.name))?;
                let delta = Delta { a, b: values, rank, d_in, scale: rules.scale(path) as f32 };
                let (name, view) = find(file, path).ok_or_else(|| missing(path))?;
                first = first.or(Some(view.dtype()));
                made.insert(name.clone(), delta.onto(&name, &view, turned)?);
            }
            // No adapter's file has them.
            Part::Weight | Part::Control | Part::LoraR => return Err(missing(&tensor.name)),
            Part::Head => {
                let dtype = first.unwrap_or(Dtype::F32);
                let shape = match tensor.shape {
                    [classes, 1] if tensor.name.ends_with(".bias") => vec![classes],
                    shape => shape.to_vec(),
                };
                let data = narrow(&tensor.name, values, dtype)?;
                made.insert(tensor.name.clone(), Made { dtype, shape, data });
            }
        }
    }
    Ok(made)
}

/// The weight of the linear at `path`; some files leave out the first parts of their names.
fn find<'f>(file: &'f SafeTensors<'_>, path: &str) -> Option<(String, TensorView<'f>)> {
    let mut name = format!("{path}.weight");
    loop {
        if let Ok(view) = file.tensor(&name) {
            return Some((name, view));
        }
        name = name.split_once('.')?.1.to_owned();
    }
}

/// `scale * B A`.
struct Delta<'a> {
    /// `[rank, d_in]`.
    a: &'a [f32],
    /// `[d_out, rank]`.
    b: &'a [f32],
    rank: usize,
    d_in: usize,
    scale: f32,
}

impl Delta<'_> {
    /// The weight of `view`, `[d_out, d_in]` or turned, with this added.
    fn onto(&self, name: &str, view: &TensorView<'_>, turned: bool) -> Result<Made, AdapterError> {
        let (d_in, d_out) = (self.d_in, self.b.len() / self.rank);
        let expected = if turned { [d_in, d_out] } else { [d_out, d_in] };
        if view.shape() != expected {
            let found = view.shape();
            let text = format!("tensor {name} has shape {found:?}, expected {expected:?}");
            return Err(AdapterError::Weights(text));
        }
        let mut weight = wide(name, view)?;
        let mut row = vec![0.0; d_in];
        for (o, b) in self.b.chunks_exact(self.rank).enumerate() {
            row.fill(0.0);
            for (b, a) in b.iter().zip(self.a.chunks_exact(d_in)) {
                row.iter_mut().zip(a).for_each(|(row, a)| *row += b * a);
            }
            // Without a turn the stride is 1 and the row starts at its own width.
            let (start, stride) = if turned { (o, d_out) } else { (o * d_in, 1) };
            let places = weight[start..].iter_mut().step_by(stride);
            places.zip(&row).for_each(|(w, delta)| *w += self.scale * delta);
        }
        let dtype = view.dtype();
        let data = narrow(name, &weight, dtype)?;
        Ok(Made { dtype, shape: expected.to_vec(), data })
    }
}

fn wide(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, AdapterError> {
    let data = view.data();
    match view.dtype() {
        Dtype::F32 => Ok(data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()),
        Dtype::F16 => {
            let wide = |&b: &[u8; 2]| half::f16::from_le_bytes(b).to_f32();
            Ok(data.as_chunks().0.iter().map(wide).collect())
        }
        Dtype::BF16 => {
            let wide = |&b: &[u8; 2]| half::bf16::from_le_bytes(b).to_f32();
            Ok(data.as_chunks().0.iter().map(wide).collect())
        }
        other => Err(unread(name, other)),
    }
}

fn narrow(name: &str, values: &[f32], dtype: Dtype) -> Result<Vec<u8>, AdapterError> {
    let finite = |x: &f32| match dtype {
        Dtype::F16 => half::f16::from_f32(*x).is_finite(),
        Dtype::BF16 => half::bf16::from_f32(*x).is_finite(),
        _ => x.is_finite(),
    };
    if !values.iter().all(finite) {
        let (name, dtype) = (name.to_owned(), format!("{dtype:?}"));
        return Err(AdapterError::Range { name, dtype });
    }
    match dtype {
        Dtype::F32 => Ok(values.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Dtype::F16 => {
            Ok(values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect())
        }
        Dtype::BF16 => {
            Ok(values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect())
        }
        other => Err(unread(name, other)),
    }
}

fn unread(name: &str, dtype: Dtype) -> AdapterError {
    AdapterError::Weights(format!("tensor {name} is {dtype:?}, expected F32, F16 or BF16"))
}

fn missing(name: &str) -> AdapterError {
    AdapterError::Weights(format!("there is no tensor for {name}"))
}

fn format(error: SafeTensorError) -> AdapterError {
    AdapterError::Weights(error.to_string())
}
