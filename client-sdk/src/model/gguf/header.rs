//! A GGUF file's header: metadata by key, tensors by name.
//!
//! Bytes, all little-endian: `"GGUF" | version: u32, 2 or 3 | tensors: u64 | pairs: u64`; then the pairs,
//! `key | kind: u32 | value`; then the tensors, `name | n_dims: u32 | dims: u64 each, innermost first |
//! format: u32 | offset: u64`. A text is `length: u64 | UTF-8`; an array `kind: u32 | n: u64 | values`.
//! The tensors' bytes begin at the next multiple of `general.alignment`, 32 where it is not there.
//!
//! What is kept of a header is bounded by the header's own bytes, and those by [`HEADER_MAX`].
//!
//! Source: ggml's `docs/gguf.md`.

use std::collections::HashMap;

use super::blocks::Blocks;
use crate::model::ModelError;
use crate::model::stored::{Entry, Format, Stream};

/// The largest vocabularies in use take a tenth of it.
const HEADER_MAX: u64 = 64 << 20;
/// Of pairs, and of tensors.
const COUNT_MAX: u64 = 1 << 16;

/// A metadata value; of arrays only those of texts and of 32-bit integers are kept.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Integer(i128),
    /// As the shortest decimal that is the file's `f32`.
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i64>),
    Other,
}

/// What stands before the tensors' bytes.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: HashMap<String, Value>,
    pub(super) tensors: HashMap<String, Entry>,
}

fn bad(why: String) -> ModelError {
    ModelError::Weights(why)
}

impl Header {
    /// Reads `stream` up to the first tensor's bytes, or a little before.
    pub(super) fn read(stream: &mut Stream<'_>) -> Result<Self, ModelError> {
        let mut bytes = Bytes { stream, buffer: Vec::new() };
        let magic = bytes.array::<4>()?;
        if magic != *b"GGUF" {
            return Err(bad(format!("it begins with {magic:?}, a GGUF file with \"GGUF\"")));
        }
        let version = bytes.u32()?;
        if !(2..=3).contains(&version) {
            return Err(bad(format!("GGUF version {version}; this build reads 2 and 3")));
        }
        let [tensors, pairs] = [bytes.u64()?, bytes.u64()?];
        if tensors.max(pairs) > COUNT_MAX {
            let why = format!("{tensors} tensors and {pairs} keys, at most {COUNT_MAX} are read");
            return Err(bad(why));
        }
        let mut metadata = HashMap::new();
        for _ in 0..pairs {
            let key = bytes.text()?;
            let kind = bytes.u32()?;
            let value = bytes.value(&key, kind)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(bad(format!("key {key} is there twice")));
            }
        }
        let mut raw = Vec::new();
        for _ in 0..tensors {
            raw.push(bytes.tensor()?);
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(&Value::Integer(n @ 1..=0x10_0000)) if (n as u64).is_power_of_two() => n as u64,
            Some(other) => return Err(bad(format!("general.alignment is {other:?}"))),
        };
        let start = stream.at().next_multiple_of(alignment);
        let mut tensors = HashMap::new();
        for (name, mut entry) in raw {
            let at = start.checked_add(entry.start).filter(|_| entry.start % alignment == 0);
            let at = at.ok_or_else(|| bad(format!("tensor {name} is at {}", entry.start)))?;
            entry.start = at;
            if tensors.insert(name.clone(), entry).is_some() {
                return Err(bad(format!("tensor {name} is there twice")));
            }
        }
        Ok(Self { metadata, tensors })
    }
}

struct Bytes<'s, 'r> {
    stream: &'s mut Stream<'r>,
    buffer: Vec<u8>,
}

impl Bytes<'_, '_> {
    fn take(&mut self, n: u64) -> Result<&[u8], ModelError> {
        if n > HEADER_MAX.saturating_sub(self.stream.at()) {
            let at = self.stream.at();
            let why =
                format!("its header has {n} bytes at byte {at}, at most {HEADER_MAX} are read");
            return Err(bad(why));
        }
        self.stream.fill(&mut self.buffer, n)?;
        Ok(&self.buffer)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        let short = || bad("its header is cut".into());
        self.take(N as u64)?.first_chunk().copied().ok_or_else(short)
    }

    fn u32(&mut self) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String, ModelError> {
        let n = self.u64()?;
        let text = std::str::from_utf8(self.take(n)?).map(str::to_owned);
        let at = self.stream.at();
        text.map_err(|e| bad(format!("the text that ends at byte {at} is no UTF-8: {e}")))
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<Value, ModelError> {
        Ok(match kind {
            0 => Value::Integer(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.array()?).into()),
            6 => {
                let value = f32::from_le_bytes(self.array()?);
                Value::Float(value.to_string().parse().unwrap_or(f64::from(value)))
            }
            7 => Value::Bool(self.array()? != [0]),
            8 => Value::Text(self.text()?),
            9 => self.values(key)?,
            10 => Value::Integer(self.u64()?.into()),
            11 => Value::Integer(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(bad(format!("key {key} has a value of kind {other}"))),
        })
    }

    fn values(&mut self, key: &str) -> Result<Value, ModelError> {
        let (kind, n) = (self.u32()?, self.u64()?);
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 => 8,
            10..=12 => 8,
            other => return Err(bad(format!("key {key} is an array of kind {other}"))),
        };
        let least = n.checked_mul(size).filter(|&n| n <= HEADER_MAX);
        let least = least.ok_or_else(|| bad(format!("key {key} is an array of {n}")))?;
        Ok(match kind {
            8 => {
                let mut texts = Vec::new();
                for _ in 0..n {
                    texts.push(self.text()?);
                }
                Value::Texts(texts)
            }
            4 | 5 => {
                let wide = |&b: &[u8; 4]| match kind {
                    4 => u32::from_le_bytes(b).into(),
                    _ => i32::from_le_bytes(b).into(),
                };
                Value::Integers(self.take(least)?.as_chunks().0.iter().map(wide).collect())
            }
            _ => {
                self.take(least)?;
                Value::Other
            }
        })
    }

    /// Its `start` still counts from the first tensor's.
    fn tensor(&mut self) -> Result<(String, Entry), ModelError> {
        let name = self.text()?;
        let dims = self.u32()?;
        if !(1..=4).contains(&dims) {
            return Err(bad(format!("tensor {name} has {dims} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            let d = self.u64()?;
            let d =
                usize::try_from(d).map_err(|_| bad(format!("tensor {name} has {d} entries")))?;
            shape.insert(0, d);
        }
        let format = format(self.u32()?);
        let whole =
            |format: &Format| shape.last().is_some_and(|d| d.is_multiple_of(format.block()[0]));
        if format.as_ref().is_ok_and(|format| !whole(format)) {
            return Err(bad(format!(
                "tensor {name}, {format:?} {shape:?}, has rows of no whole blocks"
            )));
        }
        let start = self.u64()?;
        Ok((name, Entry { shape, format, start }))
    }
}

/// By ggml's number; or the name of one that is not read.
fn format(number: u32) -> Result<Format, String> {
    Ok(match number {
        0 => Format::F32,
        1 => Format::F16,
        30 => Format::BF16,
        2 => Format::Blocks(Blocks::Q4_0),
        3 => Format::Blocks(Blocks::Q4_1),
        6 => Format::Blocks(Blocks::Q5_0),
        7 => Format::Blocks(Blocks::Q5_1),
        8 => Format::Blocks(Blocks::Q8_0),
        12 => Format::Blocks(Blocks::Q4_K),
        13 => Format::Blocks(Blocks::Q5_K),
        14 => Format::Blocks(Blocks::Q6_K),
        other => {
            let name = UNREAD.iter().find(|(number, _)| *number == other);
            return Err(name.map_or_else(|| format!("format {other}"), |(_, name)| (*name).into()));
        }
    })
}

/// Formats by what people call them.
const UNREAD: [(u32, &str); 22] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];
