//! Fixed-length hexadecimal text, as ids and digests are written.

/// Text that is not the expected number of hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits, got {got} characters")]
pub struct BadHex {
    /// Digits wanted.
    pub expected: usize,
    /// Characters found.
    pub got: usize,
}

/// Lower-case hexadecimal digits of `bytes`.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

/// Parses exactly `N` bytes.
///
/// # Errors
/// [`BadHex`] for another length or another character.
pub fn decode_array<const N: usize>(text: &str) -> Result<[u8; N], BadHex> {
    let bad = BadHex { expected: 2 * N, got: text.chars().count() };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(bad);
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0]).ok_or(bad)? << 4 | nibble(pair[1]).ok_or(bad)?;
    }
    Ok(out)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}
