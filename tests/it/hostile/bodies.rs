//! Bodies by hand, each with one thing off: positions, blocks, values, scales, outliers, ends.
//!
//! Each is written as `docs/wire.md` has it, and beside it stands that the same body with nothing off
//! would be taken.

use super::bits::{Bits, Range};
use super::target::{Case, ENTRIES, GARBAGE, Target, VALUE, case};

/// `f32`s that may not travel: just over the limit of 8, and what is not finite.
pub(super) const OVER: [f32; 9] = [
    8.000_001,
    -8.000_001,
    240.0,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    -f32::NAN,
];

/// A body's coding byte: its number and its values'.
const fn coding(body: u8, values: u8) -> u8 {
    values << 2 | body
}

// Value codes, as section 8 numbers them.
const F32: u8 = 0;
const F16: u8 = 1;
const INT8: u8 = 2;
const LLOYD3: u8 = 7;
const SIGN: u8 = 9;
const FP4: u8 = 10;

/// The first rank's chance in a map, from section 11: `stretch(4096)` is -700, so the inputs are five
/// times -700 and 256, their weighted sum is -700 * 82000, and `squash` of its 2^16th is 2106.
const FIRST_CHANCE: u32 = 2_106;
/// A magnitude's first chance.
const RUNG: u32 = 24_000;

pub(super) fn cases(target: &Target) -> Vec<Case> {
    match target.name {
        "f32" => {
            [positions(target), blocks(target), floats(target)].into_iter().flatten().collect()
        }
        "f16" => halves(target),
        "int8" => int8(target),
        "lloyd3" => lloyd3(target),
        "sign" => sign(target),
        "fp4" => fp4(target),
        "whole" => whole(target),
        "segments" => segments(target),
        "support" => support(target),
        "budget" => budget(target),
        _ => Vec::new(),
    }
}

/// A block of so many entries at ranks 0, 1, 2..., up to its values.
fn block(entries: u64, header: &[u8]) -> Bits {
    let bits = header.iter().fold(Bits::default().length(entries), |b, &x| b.put(x.into(), 8));
    (0..entries).fold(bits.put(0, 5), |bits, _| bits.gap(0, 0))
}

/// Two `f32` entries with these gaps, after one of gap 0.
fn gaps(low: u64, first: u64, second: u64) -> Bits {
    let width = low as u32;
    let bits = Bits::default().length(3).put(low, 5).gap(0, width).gap(first, width);
    bits.gap(second, width).value(0.5).value(0.25).value(0.125)
}

fn positions(target: &Target) -> Vec<Case> {
    let n = target.n() as u64;
    let framed = |bits: &Bits| target.with_body(coding(1, F32), 3, &bits.bytes());
    assert!(target.takes(&framed(&gaps(9, 7, n - 10))), "up to the last rank");
    let mut cases: Vec<Case> = [
        ("a gap to n", gaps(9, 7, n - 9)),
        ("a gap over n", gaps(9, 7, n)),
        ("a first gap over n", gaps(9, n, 0)),
        ("an entry behind the last one", gaps(9, n - 2, 0)),
        ("a gap of 2^31", gaps(27, 1 << 31, 0)),
        ("a gap of 2^32", gaps(27, 1 << 32, 0)),
        ("a gap of 2^33 - 1", gaps(27, (1 << 33) - 1, 0)),
    ]
    .into_iter()
    .map(|(name, bits)| case(name, ENTRIES, framed(&bits)))
    .collect();
    for low in 28..32 {
        cases.push(case(format!("Rice parameter {low}"), ENTRIES, framed(&gaps(low, 0, 0))));
    }
    // The longest run of one-bits that a frame has room for: below n and without an end, or past n.
    let room = target.terms().update_len_max() - 56;
    for (low, bytes) in [(0, 200), (0, room), (8, 40), (27, 40), (27, room)] {
        let start = Bits::default().length(3).put(low, 5);
        let ones = (start.bytes().len()..bytes).fold(start, |bits, _| bits.put(0xff, 8));
        let name = format!("{bytes} bytes of one-bits, Rice parameter {low}");
        cases.push(case(name, ENTRIES, framed(&ones)));
    }
    cases
}

fn blocks(target: &Target) -> Vec<Case> {
    let framed = |k: u32, bits: &Bits| target.with_body(coding(1, F32), k, &bits.bytes());
    let one = |length: u64| Bits::default().length(length).put(0, 5).gap(0, 0).value(0.5);
    assert!(target.takes(&framed(1, &one(1))));
    let two = one(1).length(1).put(0, 5).gap(0, 0).value(0.25);
    assert!(target.takes(&framed(2, &two)));
    let same = one(1).put(1, 1).put(0, 5).gap(0, 0).value(0.25);
    assert!(target.takes(&framed(2, &same)), "as long as the one before");
    let full = Bits::default().put(1, 1).put(0, 5).gap(0, 0).value(0.5);
    let longer = one(1).length(2).put(0, 5).gap(0, 0).gap(0, 0).value(0.25).value(0.125);
    [
        ("a block of 2 where 1 is left", framed(1, &one(2))),
        ("a block of 1024 where 1 is left", framed(1, &one(1024))),
        ("a full block where 1 is left", framed(1, &full)),
        ("a second block longer than what is left", framed(2, &longer)),
        ("a second block of none left", framed(1, &two)),
        ("a block's length alone", framed(1, &Bits::default().length(1))),
        ("a block without values", framed(1, &Bits::default().length(1).put(0, 5).gap(0, 0))),
        ("a set bit in the padding", framed(1, &one(1).put(0b100, 3))),
        ("a byte behind the only block", framed(1, &one(1).put(0, 8))),
        ("bytes where k is 0", framed(0, &Bits::default().put(0, 8))),
        ("an entry where k is 0", framed(0, &one(1))),
    ]
    .into_iter()
    .map(|(name, frame)| case(name, ENTRIES, frame))
    .collect()
}

fn floats(target: &Target) -> Vec<Case> {
    let framed = |values: [f32; 3]| {
        let bits = values.into_iter().fold(block(3, &[]), Bits::value);
        target.with_body(coding(1, F32), 3, &bits.bytes())
    };
    assert!(target.takes(&framed([8.0, -8.0, -0.0])), "at the limit");
    let first = OVER.map(|over| (format!("first value {over:e}"), framed([over, 0.5, 0.5])));
    let last = OVER.map(|over| (format!("last value {over:e}"), framed([0.5, 0.5, over])));
    let all = OVER.map(|over| (format!("each value {over:e}"), framed([over; 3])));
    let cases = first.into_iter().chain(last).chain(all).enumerate();
    // Two NaNs are written alike.
    cases.map(|(at, (name, frame))| case(format!("{name} ({at})"), VALUE, frame)).collect()
}

fn halves(target: &Target) -> Vec<Case> {
    let framed = |half: u64| {
        let bits = block(2, &[]).entry(false, 0x3800, 15).entry(half >> 15 == 1, half & 0x7fff, 15);
        target.with_body(coding(1, F16), 2, &bits.bytes())
    };
    assert!(target.takes(&framed(0xc800)), "-8");
    let bad = [
        ("8.0078125", 0x4801),
        ("-8.0078125", 0xc801),
        ("65504", 0x7bff),
        ("infinity", 0x7c00),
        ("minus infinity", 0xfc00),
        ("a quiet NaN", 0x7e00),
        ("a signalling NaN", 0x7c01),
        ("all bits set", 0xffff),
    ];
    bad.into_iter().map(|(name, half)| case(name, VALUE, framed(half))).collect()
}

/// Scale bytes: 216 is 8, 217 is 9, 255 is 240; 192 is 1, and 160 is 1/16.
fn int8(target: &Target) -> Vec<Case> {
    let framed = |scale: u8, negative: bool, index: u64| {
        let bits = block(2, &[scale]).entry(false, 1, 7).entry(negative, index, 7);
        target.with_body(coding(1, INT8), 2, &bits.bytes())
    };
    assert!(target.takes(&framed(216, true, 1)) && target.takes(&framed(160, false, 127)));
    let long = |length: u64| {
        let bits = (0..length).fold(block(length, &[160]), |bits, _| bits.entry(false, 1, 7));
        target.with_body(coding(1, INT8), length as u32, &bits.bytes())
    };
    assert!(target.takes(&long(256)));
    let zero = |index: bool| {
        // A block of one entry at rank 0, scale 1, a sign, and whether the index is above 0.
        let start = Range::new().bit(true, FIRST_CHANCE).raw(0, 11).raw(192, 8).raw(1, 1);
        start.bit(index, RUNG)
    };
    let rest = |range: Range| target.with_body(coding(3, INT8), 1, &range.bytes());
    vec![
        case("scale 9", VALUE, framed(217, false, 1)),
        case("scale 240", VALUE, framed(255, false, 1)),
        case("scale 240 times 127", VALUE, framed(255, true, 127)),
        case("scale 1/16 times 127, and more", VALUE, framed(161, false, 127)),
        case("scale 1 times 9", VALUE, framed(192, true, 9)),
        case("minus zero", ENTRIES, framed(192, true, 0)),
        case("minus zero, modelled", ENTRIES, rest(zero(false))),
        case("one value and no end, modelled", GARBAGE, rest(zero(true))),
        case("a block of 257", ENTRIES, long(257)),
    ]
}

/// Floors and scales of codes that have both; the largest level of `lloyd3` is 279/64.
fn lloyd3(target: &Target) -> Vec<Case> {
    let framed = |floor: u8, scale: u8, index: u64| {
        let bits = block(2, &[floor, scale]).entry(false, 0, 2).entry(true, index, 2);
        target.with_body(coding(1, LLOYD3), 2, &bits.bytes())
    };
    // 8 + 0 and 0 + 1.75 * 279/64 = 7.63; then 0 + 1.875 * 279/64 = 8.17.
    assert!(target.takes(&framed(216, 0, 3)) && target.takes(&framed(0, 198, 3)));
    let head = |length: u32, floor: u32, scale: u32| {
        let start = Range::new().bit(true, FIRST_CHANCE);
        start.raw(0, 1).raw(length - 1, 10).raw(floor, 8).raw(scale, 8).raw(0, 1)
    };
    // Rank 0 alone: index 0, and the other ranks are not sent. Only its start is looked at.
    let rest = |k: u32, range: Range| {
        let body = [range.bit(false, RUNG).bytes(), vec![0; 100]].concat();
        target.with_body(coding(3, LLOYD3), k, &body)
    };
    vec![
        case("floor 9", VALUE, framed(217, 0, 0)),
        case("floor 240", VALUE, framed(255, 0, 0)),
        case("floor 8 and a scale", VALUE, framed(216, 100, 0)),
        case("scale 1.875 at the top", VALUE, framed(0, 199, 3)),
        case("scale 240", VALUE, framed(0, 255, 0)),
        case("floor 240 and scale 240", VALUE, framed(255, 255, 3)),
        case("floor 240, modelled", VALUE, rest(1, head(1, 255, 0))),
        case("scale 240, modelled", VALUE, rest(1, head(1, 0, 255))),
        case("a block of 2 where 1 is left, modelled", ENTRIES, rest(1, head(2, 0, 0))),
        case("a block of 1024 where 1 is left, modelled", ENTRIES, rest(1, head(1024, 0, 0))),
        case("a block of 1024 where 600 are left, modelled", ENTRIES, rest(600, head(1024, 0, 0))),
    ]
}

fn sign(target: &Target) -> Vec<Case> {
    let framed = |scale: u8| {
        let bits = block(2, &[scale]).entry(false, 0, 0).entry(true, 0, 0);
        target.with_body(coding(1, SIGN), 2, &bits.bytes())
    };
    assert!(target.takes(&framed(216)), "8");
    let cases = (217..=255).step_by(2);
    cases.map(|scale| case(format!("scale byte {scale}"), VALUE, framed(scale))).collect()
}

/// `E2M1` goes to 6; `f16` bits: 3c00 is 1, 4400 is 4, 7bff is 65504.
fn fp4(target: &Target) -> Vec<Case> {
    let framed = |scale: u8, index: u64, outliers: &[(u64, u64)]| {
        let bits = block(2, &[scale]).entry(false, 1, 3).entry(index == 0, index, 3);
        let bits = bits.put(outliers.len() as u64, 8);
        let bits = outliers.iter().fold(bits, |bits, &(place, half)| bits.outlier(place, half));
        target.with_body(coding(1, FP4), 2, &bits.bytes())
    };
    assert!(target.takes(&framed(192, 7, &[(0, 0x3c00), (1, 0xbc00)])));
    let many = |said: u64, sent: u64| {
        let bits = block(2, &[192]).entry(false, 1, 3).entry(false, 1, 3).put(said, 8);
        let bits = (0..sent).fold(bits, |bits, place| bits.outlier(place, 0));
        target.with_body(coding(1, FP4), 2, &bits.bytes())
    };
    let long = |length: u64| {
        let bits = (0..length).fold(block(length, &[160]), |bits, _| bits.entry(false, 1, 3));
        target.with_body(coding(1, FP4), length as u32, &bits.put(0, 8).bytes())
    };
    assert!(target.takes(&long(256)));
    let modelled = |places: &[(u32, u32)]| {
        // A block of one entry at rank 0, scale 1.
        let start = Range::new().bit(true, FIRST_CHANCE).raw(0, 11).raw(192, 8);
        let start = start.raw(places.len() as u32, 8);
        let range = places.iter().fold(start, |r, &(place, half)| r.raw(place, 8).raw(half, 16));
        target.with_body(coding(3, FP4), 1, &[range.bytes(), vec![0; 40]].concat())
    };
    vec![
        case("scale 1.375 times 6", VALUE, framed(195, 7, &[])),
        case("scale 240", VALUE, framed(255, 7, &[])),
        case("an outlier over the limit", VALUE, framed(192, 7, &[(1, 0x4400)])),
        case("an outlier of 65504", VALUE, framed(192, 7, &[(0, 0x7bff)])),
        case("minus zero", ENTRIES, framed(192, 0, &[])),
        case("an outlier of infinity", ENTRIES, framed(192, 7, &[(0, 0x7c00)])),
        case("an outlier of NaN", ENTRIES, framed(192, 7, &[(0, 0x7e00)])),
        case("an outlier behind the block", ENTRIES, framed(192, 7, &[(2, 0)])),
        case("an outlier at 255", ENTRIES, framed(192, 7, &[(255, 0)])),
        case("an outlier twice", ENTRIES, framed(192, 7, &[(1, 0), (1, 0)])),
        case("outliers that fall", ENTRIES, framed(192, 7, &[(1, 0), (0, 0)])),
        case("255 outliers announced, none sent", ENTRIES, many(255, 0)),
        case("200 outliers of two entries", ENTRIES, many(200, 200)),
        case("a block of 257", ENTRIES, long(257)),
        case("an outlier of infinity, modelled", ENTRIES, modelled(&[(0, 0x7c00)])),
        case("an outlier behind the block, modelled", ENTRIES, modelled(&[(1, 0)])),
        case("an outlier twice, modelled", ENTRIES, modelled(&[(0, 0), (0, 0)])),
    ]
}

/// Bodies of the whole domain, in `f32`: all of it is raw bits, so the range coder can be held by hand.
fn whole(target: &Target) -> Vec<Case> {
    let n = target.n();
    let value = |at: usize| (at % 64) as f32 / 64.0;
    let modelled = |odd: usize, with: f32| {
        (0..n).fold(Range::new(), |range, at| {
            let left = (n - at).min(1024) as u32;
            let range = match (at % 1024, left) {
                (0, 1024) => range.raw(1, 1),
                (0, left) => range.raw(0, 1).raw(left - 1, 10),
                _ => range,
            };
            range.value(if at == odd { with } else { value(at) })
        })
    };
    let framed = |bytes: &[u8]| target.with_body(coding(2, F32), n as u32, bytes);
    let good = modelled(0, 1.0);
    assert!(target.takes(&framed(&good.bytes())));
    let mut cases = Vec::new();
    for (at, over) in OVER.into_iter().enumerate() {
        // Early, in the middle, and as the last one.
        let odd = [0, n / 2, n - 1][at % 3];
        let name = format!("value {odd} is {over:e} ({at})");
        cases.push(case(name, VALUE, framed(&modelled(odd, over).bytes())));
    }
    for (name, bytes) in good.other_bytes() {
        cases.push(case(name, ENTRIES, framed(&bytes)));
    }
    let bytes = good.bytes();
    for left in [4, 5, 1024, bytes.len() - 5] {
        let name = format!("modelled, cut to {left} bytes");
        cases.push(case(name, GARBAGE, framed(&bytes[..left])));
    }
    // Packed, in blocks of 1024, 1024 and what is left.
    let packed = |start: Bits, bad: f32| {
        let bits = (0..n).fold(start, |bits, at| match at {
            1024 => bits.put(1, 1).value(value(at)),
            2048 => bits.length(n as u64 - 2048).value(value(at)),
            at if at + 1 == n => bits.value(bad),
            _ => bits.value(value(at)),
        });
        target.with_body(coding(0, F32), n as u32, &bits.bytes())
    };
    let start = Bits::default().put(1, 1);
    assert!(target.takes(&packed(start.clone(), 0.5)));
    cases.extend([
        case("packed, the last value NaN", VALUE, packed(start.clone(), f32::NAN)),
        case("packed, the last value over the limit", VALUE, packed(start.clone(), 9.0)),
        case("packed, one-bits only", GARBAGE, {
            target.with_body(coding(0, F32), n as u32, &vec![0xff; n * 4])
        }),
        case("one entry as the whole domain", ENTRIES, {
            target.with_body(coding(0, F32), 1, &start.value(0.5).bytes())
        }),
    ]);
    cases
}

/// Only a quarter of the coordinates may travel, and a quarter of those.
fn segments(target: &Target) -> Vec<Case> {
    let (size, allowed) = (target.domain().count(target.n()) as u64, target.allowed() as u64);
    let last = |rank: u64| {
        let bits = Bits::default().length(1).put(192, 8).put(8, 5).gap(rank, 8);
        target.with_body(coding(1, INT8), 1, &bits.entry(true, 1, 7).bytes())
    };
    let many = |k: u64| {
        let body = (0..k).fold(block(k, &[192]), |bits, _| bits.entry(false, 1, 7));
        target.with_body(coding(1, INT8), k as u32, &body.bytes())
    };
    assert!(target.takes(&last(size - 1)) && target.takes(&many(allowed)));
    vec![
        case("the first rank past the segment", ENTRIES, last(size)),
        case("a rank of another segment", ENTRIES, last(size + 256)),
        case("the layout's last coordinate as a rank", ENTRIES, last(target.n() as u64 - 1)),
        case("one entry more than the segment's share", ENTRIES, many(allowed + 1)),
        case("what the whole layout's share would be", ENTRIES, many(4 * allowed)),
    ]
}

/// What may travel is what the snapshot carries.
fn support(target: &Target) -> Vec<Case> {
    let size = target.domain().count(target.n()) as u64;
    let last = |rank: u64| {
        let bits = Bits::default().length(1).put(192, 8).put(8, 5).gap(rank, 8);
        target.with_body(coding(1, INT8), 1, &bits.entry(true, 1, 7).bytes())
    };
    let dense = |k: u64| {
        let bits = (0..k).fold(Bits::default(), |bits, at| match at {
            0 | 256 => bits.put(1, 1).put(192, 8).entry(false, 1, 7),
            512 => bits.length(k - 512).put(192, 8).entry(false, 1, 7),
            _ => bits.entry(false, 1, 7),
        });
        target.with_body(coding(0, INT8), k as u32, &bits.bytes())
    };
    assert!(target.takes(&last(size - 1)) && target.takes(&dense(size)));
    vec![
        case("the first rank past the support", ENTRIES, last(size)),
        case("the layout's last coordinate as a rank", ENTRIES, last(target.n() as u64 - 1)),
        case("one value less than the support", ENTRIES, dense(size - 1)),
        case("one value more than the support", ENTRIES, dense(size + 1)),
    ]
}

/// Any values may come, and as many entries as there are.
fn budget(target: &Target) -> Vec<Case> {
    let n = target.n() as u32;
    let mut cases = Vec::new();
    // Index bits of codes 2 to 10.
    for (code, width) in (2..).zip([7, 3, 2, 1, 3, 2, 1, 0, 3]) {
        // Floor, where there is one, and scale: 240 each; then the largest index, and no outlier.
        let header: &[u8] = if (3..9).contains(&code) { &[255, 255] } else { &[255] };
        let bits = block(1, header).entry(false, (1 << width) - 1, width).put(0, 8);
        let frame = target.with_body(coding(1, code), 1, &bits.bytes());
        cases.push(case(format!("value code {code} at its largest"), VALUE, frame));
    }
    for body in 0..4 {
        let frame = target.with_body(coding(body, SIGN), n, &[0x55; 300]);
        cases.push(case(format!("all of n in 300 bytes, body {body}"), ENTRIES, frame));
    }
    cases
}
