//! safetensors: a model's tensors in and out of the flat vector.
//!
//! Bytes: `header length: u64 LE | header: JSON | tensors, one behind the other`.

use std::collections::HashMap;
use std::io::Read;

use gossamer_protocol::digest::Digest;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorView};

use super::ModelError;
use super::held::Held;
use super::stored::{Entry, Format, Rows, Stream};
use super::tensors::Tensors;
use crate::ops::matrix::Storage;

/// The format's own limit.
const HEADER_MAX: u64 = 100_000_000;

fn bad(why: impl ToString) -> ModelError {
    ModelError::Weights(why.to_string())
}

/// Reads every tensor from a file of `len` bytes, which may hold others beside; and the file's digest.
pub(super) fn read(
    tensors: &Tensors,
    reader: &mut dyn Read,
    len: u64,
    storage: Storage,
) -> Result<(Held, Digest), ModelError> {
    let mut stream = Stream::new(reader, len);
    let length = stream.take(8)?;
    let length = length.first_chunk().map_or(0, |&bytes| u64::from_le_bytes(bytes));
    if length > HEADER_MAX {
        return Err(bad(format!("its header has {length} bytes, at most {HEADER_MAX} are read")));
    }
    let header: Metadata = serde_json::from_slice(&stream.take(length)?).map_err(bad)?;
    let entries = entries(&header, &stream)?;
    stream.read(tensors, &entries, &|_| Rows::Kept, "F32, F16 and BF16", storage)
}

/// The header's tensors, which must fill the rest of the file without a gap.
fn entries(header: &Metadata, stream: &Stream<'_>) -> Result<HashMap<String, Entry>, ModelError> {
    let mut tensors: Vec<_> = header.tensors().into_iter().collect();
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let (mut end, mut entries) = (0, HashMap::new());
    for (name, info) in tensors {
        let (start, stop) = info.data_offsets;
        let n = info.shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
        let bits = n.and_then(|n| n.checked_mul(info.dtype.bitsize()));
        if start != end || bits.is_none_or(|bits| stop.checked_sub(start) != Some(bits / 8)) {
            let (dtype, shape) = (info.dtype, &info.shape);
            let why = format!("tensor {name}, {dtype:?} {shape:?}, is at bytes {start} to {stop}");
            return Err(bad(why));
        }
        end = stop;
        let format = match info.dtype {
            Dtype::F32 => Ok(Format::F32),
            Dtype::F16 => Ok(Format::F16),
            Dtype::BF16 => Ok(Format::BF16),
            other => Err(format!("{other:?}")),
        };
        let start = stream.at() + start as u64;
        entries.insert(name, Entry { shape: info.shape.clone(), format, start });
    }
    let (expected, found) = (end as u64, stream.len() - stream.at());
    if expected != found {
        return Err(bad(format!("its tensors have {expected} bytes, the file {found} for them")));
    }
    Ok(entries)
}

/// The safetensors file of `flat`, in `f16`. Not for tensors that the file has transposed.
pub(crate) fn write_f16(tensors: &Tensors, flat: &[f32]) -> Result<Vec<u8>, ModelError> {
    let narrow = |x: &f32| half::f16::from_f32(*x).to_le_bytes();
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|tensor| flat[tensor.place.clone()].iter().flat_map(narrow).collect())
        .collect();
    let mut views = Vec::with_capacity(bytes.len());
    for (tensor, bytes) in tensors.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F16, tensor.shape.clone(), bytes).map_err(bad)?;
        views.push((tensor.name.as_str(), view));
    }
    safetensors::serialize(views, None).map_err(bad)
}
