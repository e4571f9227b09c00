//! A base model's shapes as kept with a run, for the export of a frozen A.
//!
//! What is written, and under which names, is in [`gossamer_protocol::peft`].

use std::collections::BTreeMap;

use gossamer_protocol::layout::BaseLinear;

use crate::store::StoreError;

/// The shapes of a base model's linears: `{name: [d_in, d_out]}`.
pub(crate) fn linears_to_bytes(linears: &[BaseLinear]) -> Vec<u8> {
    let shapes: BTreeMap<&str, [usize; 2]> =
        linears.iter().map(|l| (l.name.as_str(), [l.d_in, l.d_out])).collect();
    serde_json::to_vec(&shapes).expect("names and numbers are always JSON")
}

/// The linears in such bytes, by name.
///
/// # Errors
/// [`StoreError::Row`] where they are damaged.
pub(crate) fn linears_from_bytes(bytes: &[u8]) -> Result<Vec<BaseLinear>, StoreError> {
    let shapes: BTreeMap<String, [usize; 2]> = serde_json::from_slice(bytes)
        .map_err(|_| StoreError::Row("a run's linears are damaged"))?;
    let linear = |(name, [d_in, d_out]): (String, [usize; 2])| BaseLinear { name, d_in, d_out };
    Ok(shapes.into_iter().map(linear).collect())
}
