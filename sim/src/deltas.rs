//! Adapters and their changes as safetensors: one F32 tensor for each of the layout's.
//!
//! Safetensors keeps no order, so that of the layout stands in the file's metadata, under `layout`. A
//! file without it is read in the order of its bytes, and a tensor's part told by its name's end.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use gossamer_protocol::layout::{Layout, LayoutError, Part, TensorSpec};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};

/// Key of the layout in a file's metadata.
const LAYOUT: &str = "layout";

/// Why a file holds no adapter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// It could not be read or written.
    #[error("{path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no safetensors file.
    #[error("{path} is no safetensors file")]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SafeTensorError,
    },
    /// A tensor that cannot be one of an adapter.
    #[error(
        "{path}: tensor {name} has dtype {dtype} and shape {shape:?}; expected F32, F16 or BF16 of two dimensions, named .lora_A or .lora_B"
    )]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Its metadata names other tensors than it holds.
    #[error("{path}: the metadata's layout is not that of its tensors")]
    Metadata {
        /// The file.
        path: PathBuf,
    },
    /// Its tensors make no layout.
    #[error("{path}")]
    Layout {
        /// The file.
        path: PathBuf,
        /// Why.
        source: LayoutError,
    },
}

/// Writes the flat vector `values`, shape `[n]`, to `path`.
///
/// # Errors
/// [`DeltaError`] where the file cannot be written.
pub fn save(path: &Path, layout: &Layout, values: &[f32]) -> Result<(), DeltaError> {
    let format = |source| DeltaError::Format { path: path.into(), source };
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = |(tensor, range): (&TensorSpec, std::ops::Range<usize>)| {
        let data = &bytes[4 * range.start..4 * range.end];
        TensorView::new(Dtype::F32, tensor.shape.to_vec(), data).map(|v| (tensor.name.clone(), v))
    };
    let views: Result<Vec<_>, _> = layout.tensors().map(view).collect();
    // A layout of plain values always has a text.
    let text = serde_json::to_string(layout).unwrap_or_default();
    let metadata = HashMap::from([(LAYOUT.to_owned(), text)]);
    let file = safetensors::serialize(views.map_err(format)?, Some(metadata)).map_err(format)?;
    std::fs::write(path, file).map_err(|source| DeltaError::File { path: path.into(), source })
}

/// Reads what [`save`] wrote, or any safetensors file of LoRA tensors.
///
/// # Errors
/// [`DeltaError`] at the first thing that is off.
pub fn load(path: &Path) -> Result<(Layout, Vec<f32>), DeltaError> {
    let bytes =
        std::fs::read(path).map_err(|source| DeltaError::File { path: path.into(), source })?;
    let format = |source| DeltaError::Format { path: path.into(), source };
    let file = SafeTensors::deserialize(&bytes).map_err(format)?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(format)?;
    let said = metadata.metadata().as_ref().and_then(|map| map.get(LAYOUT));
    let layout = match said {
        Some(text) => {
            serde_json::from_str(text).map_err(|_| DeltaError::Metadata { path: path.into() })?
        }
        None => {
            let mut tensors: Vec<(String, TensorView<'_>)> = file.tensors();
            tensors.sort_by_key(|(_, view)| view.data().as_ptr() as usize);
            let spec = |(name, view): (String, TensorView<'_>)| spec(path, name, &view);
            let specs: Result<Vec<_>, _> = tensors.into_iter().map(spec).collect();
            Layout::new(specs?)
                .map_err(|source| DeltaError::Layout { path: path.into(), source })?
        }
    };
    if layout.tensors().count() != file.len() {
        return Err(DeltaError::Metadata { path: path.into() });
    }
    let mut values = Vec::new();
    for (tensor, _) in layout.tensors() {
        let view = file.tensor(&tensor.name).map_err(format)?;
        if view.shape() != tensor.shape {
            return Err(DeltaError::Metadata { path: path.into() });
        }
        let pairs = || view.data().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        match view.dtype() {
            Dtype::F32 => values.extend(
                view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            ),
            Dtype::F16 => values.extend(pairs().map(|b| half::f16::from_bits(b).to_f32())),
            Dtype::BF16 => values.extend(pairs().map(|b| half::bf16::from_bits(b).to_f32())),
            _ => return Err(misfit(path, &tensor.name, &view)),
        }
    }
    Ok((layout, values))
}

fn spec(path: &Path, name: String, view: &TensorView<'_>) -> Result<TensorSpec, DeltaError> {
    let stem = name.strip_suffix(".weight").unwrap_or(&name);
    let part = match stem.rsplit('.').next() {
        Some("lora_A") => Some(Part::LoraA),
        Some("lora_B") => Some(Part::LoraB),
        _ => None,
    };
    match (part, view.shape()) {
        (Some(part), &[rows, columns]) => Ok(TensorSpec { name, part, shape: [rows, columns] }),
        _ => Err(misfit(path, &name, view)),
    }
}

fn misfit(path: &Path, name: &str, view: &TensorView<'_>) -> DeltaError {
    DeltaError::Tensor {
        path: path.into(),
        name: name.into(),
        dtype: format!("{:?}", view.dtype()),
        shape: view.shape().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossamer_protocol::layout::BaseLinear;

    #[test]
    fn round_trip_keeps_order_and_bits() {
        let linears =
            ["z.q", "a.q"].map(|name| BaseLinear { name: name.into(), d_in: 3, d_out: 2 });
        let layout = Layout::lora(&linears, &["q".into()], 2, false).expect("valid");
        let values: Vec<f32> = (0..layout.n()).map(|i| i as f32 - 7.5).collect();
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("d.safetensors");
        save(&path, &layout, &values).expect("written");
        assert_eq!(load(&path).expect("read"), (layout, values));
        std::fs::write(&path, b"no").expect("written");
        assert!(matches!(load(&path), Err(DeltaError::Format { .. })));
    }
}
