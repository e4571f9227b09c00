//! TensorBoard event files: TFRecords of `tensorflow.Event` messages, written by hand.
//!
//! ```text
//! record   length u64 LE | masked CRC of the length u32 LE | message | masked CRC of the message u32 LE
//! masked   ((crc >> 15) | (crc << 17)) + 0xa282ead8, of CRC-32C
//! Event    1 wall_time: double | 2 step: int64 | 3 file_version: string | 5 summary: Summary
//! Summary  1 value: { 1 tag: string, 2 simple_value: float }, any number of times
//! ```
//!
//! Wall time is what the rounds took so far, from 0: nothing here reads a clock. Sources:
//! `tensorflow/core/lib/io/record_writer.h`, `core/util/event.proto`, `core/framework/summary.proto`.

use super::RoundRow;

/// A record that opens every file.
#[must_use]
pub fn version() -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, 0.0);
    bytes(&mut event, 3, b"brain.Event:2");
    record(&event)
}

/// One round's scalars as one record; `wall_s` is what all rounds up to it took.
#[must_use]
pub fn row(row: &RoundRow, wall_s: f64) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars(row) {
        let mut scalar = Vec::new();
        bytes(&mut scalar, 1, tag.as_bytes());
        float(&mut scalar, 2, value as f32);
        bytes(&mut summary, 1, &scalar);
    }
    let mut event = Vec::new();
    double(&mut event, 1, wall_s);
    key(&mut event, 2, 0);
    varint(&mut event, row.round);
    bytes(&mut event, 5, &summary);
    record(&event)
}

fn scalars(row: &RoundRow) -> Vec<(&'static str, f64)> {
    let measured = [
        ("loss/train", Some(row.train_loss).filter(|_| row.round > 0)),
        ("loss/heldout", row.heldout_loss),
        ("loss/server", row.server_loss),
        ("accuracy/heldout", row.heldout_accuracy),
        ("accuracy/server", row.server_accuracy),
        ("product_error", row.product_error),
        ("bytes/upload", Some(row.upload_bytes as f64)),
        ("bytes/download", Some(row.download_bytes as f64)),
        ("time/virtual_s", row.virtual_s),
        ("energy/joules", row.joules),
        ("bytes/cumulative", Some(row.cumulative_bytes as f64)),
    ];
    measured.into_iter().filter_map(|(tag, value)| Some((tag, value?))).collect()
}

fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(message.len() + 16);
    record.extend(length);
    record.extend(masked(&length).to_le_bytes());
    record.extend(message);
    record.extend(masked(message).to_le_bytes());
    record
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected, as in RFC 3720.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    let step = |crc: u32, &byte: &u8| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    !bytes.iter().fold(u32::MAX, step)
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut crc = at as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { 0x82f6_3b78 ^ (crc >> 1) } else { crc >> 1 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
}

fn key(message: &mut Vec<u8>, field: u8, wire: u8) {
    message.push(field << 3 | wire);
}

fn double(message: &mut Vec<u8>, field: u8, value: f64) {
    key(message, field, 1);
    message.extend(value.to_le_bytes());
}

fn float(message: &mut Vec<u8>, field: u8, value: f32) {
    key(message, field, 5);
    message.extend(value.to_le_bytes());
}

fn bytes(message: &mut Vec<u8>, field: u8, value: &[u8]) {
    key(message, field, 2);
    varint(message, value.len() as u64);
    message.extend(value);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::rows;

    /// RFC 3720, appendix B.4, and the usual check value.
    #[test]
    fn the_published_crcs() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising), 0x46dd_794e);
        let falling: Vec<u8> = (0..32).rev().collect();
        assert_eq!(crc32c(&falling), 0x113f_db5c);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn numbers_that_take_more_than_a_byte() {
        let mut message = Vec::new();
        varint(&mut message, 300);
        varint(&mut message, 0);
        assert_eq!(message, [0xac, 2, 0]);
    }

    /// The bytes that TensorBoard's own writer gives; `tests/numbers/tensorboard_events.py` printed them.
    #[test]
    fn as_tensorboard_writes_it() {
        let hex = |bytes: Vec<u8>| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        assert_eq!(
            hex(version()),
            include_str!("../../tests/numbers/tensorboard_version.hex").trim()
        );
        let given = RoundRow {
            round: 300,
            train_loss: 1.5,
            heldout_loss: Some(f64::NAN),
            server_loss: None,
            upload_bytes: 1_000_000,
            download_bytes: 0,
            cumulative_bytes: 123_456_789,
            ..rows().remove(0)
        };
        assert_eq!(
            hex(row(&given, 2.25)),
            include_str!("../../tests/numbers/tensorboard_row.hex").trim()
        );
    }
}
