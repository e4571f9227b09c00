//! Frames of version 1: they say what they are for, and their parts have other places.

use gossamer_protocol::frame::Terms;
use gossamer_protocol::manifest::{Coverage, Values};
use gossamer_protocol::problem::ProblemType as P;

use super::bits::Bits;
use super::bodies::OVER;
use super::target::{Case, ENTRIES, FRAME, LARGE, TRAILER, Target, VALUE, case};

const POSITIONS: usize = 7;
const VALUES: usize = 8;
const RESERVED: usize = 9;
const RUN: usize = 10;
const ROUND: usize = 26;
const N: usize = 34;
const K: usize = 38;
const POSITION_LENGTH: usize = 42;
const ATTEMPT: usize = 46;
const CLIENT: usize = 50;
const SNAPSHOT: usize = 66;
const EXAMPLES: usize = 98;
const LOSS: usize = 102;
/// Where positions start, and bytes of a header.
const HEAD: usize = 106;

const DENSE: u8 = 0;
const BITMAP: u8 = 1;
const RICE: u8 = 2;
const SHARED: u8 = 3;

pub(super) fn cases(target: &Target) -> Vec<Case> {
    let method = &target.manifest.method;
    let own = match (method.train, method.upload.values) {
        (Coverage::Support, _) => shared(target),
        (_, Values::Int8) => int8(target),
        _ => [floats(target), rice(target), other_positions(target)].concat(),
    };
    let mut cases = header(target);
    cases.extend(lengths(target));
    cases.push(newer(target));
    cases.extend(own.into_iter().map(|(name, expected, frame)| case(name, expected, frame)));
    cases
}

type Bad = (String, &'static [P], Vec<u8>);

fn header(target: &Target) -> Vec<Case> {
    let good = target.good();
    let n = (target.n() as u32).to_le_bytes();
    let over = (target.allowed() as u32 + 1).to_le_bytes();
    let k = u32::from_le_bytes([good[K], good[K + 1], good[K + 2], good[K + 3]]);
    let other = [1 - good[VALUES]];
    let not_n = (target.n() as u32 + 1).to_le_bytes();
    let cases: Vec<(&str, &'static [P], usize, &[u8])> = vec![
        ("magic GSMS", FRAME, 0, b"GSMS"),
        ("magic of zeros", FRAME, 0, &[0; 4]),
        ("version 0", FRAME, 4, &[0, 0]),
        ("version 2", FRAME, 4, &[2, 0]),
        ("version 256", FRAME, 4, &[0, 1]),
        ("version 65535", FRAME, 4, &[0xff; 2]),
        ("kind snapshot", FRAME, 6, &[0]),
        ("kind 2", FRAME, 6, &[2]),
        ("kind 255", FRAME, 6, &[255]),
        ("position code 4", FRAME, POSITIONS, &[4]),
        ("position code 255", FRAME, POSITIONS, &[255]),
        ("the other value code", FRAME, VALUES, &other),
        ("value code 2", FRAME, VALUES, &[2]),
        ("value code 255", FRAME, VALUES, &[255]),
        ("a reserved bit", FRAME, RESERVED, &[1]),
        ("all reserved bits", FRAME, RESERVED, &[255]),
        ("another run", FRAME, RUN, &[9; 16]),
        ("the next round", FRAME, ROUND, &[1]),
        ("round 2^64 - 1", FRAME, ROUND, &[255; 8]),
        ("another layout", &[P::BadLayout], N, &not_n),
        ("a layout of nothing", &[P::BadLayout], N, &[0; 4]),
        ("a layout of 2^32 - 1", &[P::BadLayout], N, &[255; 4]),
        ("k 0", ENTRIES, K, &[0; 4]),
        ("k one more than allowed", ENTRIES, K, &over),
        ("k n", ENTRIES, K, &n),
        ("k 2^32 - 1", ENTRIES, K, &[255; 4]),
        ("positions of 2^32 - 1 bytes", FRAME, POSITION_LENGTH, &[255; 4]),
        ("positions of 2^31 bytes", FRAME, POSITION_LENGTH, &[0, 0, 0, 128]),
        ("the next attempt", FRAME, ATTEMPT, &[1]),
        ("another client", &[P::NotYours], CLIENT, &[9; 16]),
        ("another snapshot", &[P::WrongBase], SNAPSHOT, &[9; 32]),
        ("no examples", FRAME, EXAMPLES, &[0; 4]),
        ("loss NaN", FRAME, LOSS, &[0, 0, 0xc0, 0x7f]),
        ("loss infinity", FRAME, LOSS, &[0, 0, 0x80, 0x7f]),
    ];
    let cases = cases.into_iter();
    let mut cases: Vec<Case> =
        cases.map(|(name, names, at, with)| case(name, names, target.patched(at, with))).collect();
    for (name, lie) in [("k one less", k - 1), ("k one more", k + 1)] {
        cases.push(case(name, ENTRIES, target.patched(K, &lie.to_le_bytes())));
    }
    cases
}

fn lengths(target: &Target) -> Vec<Case> {
    let (good, limit) = (target.good(), target.terms().update_len_max());
    let whole = good.len();
    let mut cases = Vec::new();
    for kept in [0, 1, 3, 4, 6, 10, 45, 46, HEAD - 1, HEAD, 137, whole / 2, whole - 32, whole - 1] {
        cases.push(case(format!("cut to {kept} bytes"), FRAME, &good[..kept]));
    }
    for kept in [0, 4, 6, 46, HEAD - 1] {
        let frame = target.sealed(good[..kept].to_vec());
        cases.push(case(format!("cut to {kept} bytes and sealed"), FRAME, frame));
    }
    let mut flipped = good.clone();
    flipped[HEAD + 1] ^= 1;
    let content = &good[..whole - TRAILER];
    let short = target.sealed(content[..content.len() - 1].to_vec());
    cases.extend([
        case("without its last value byte", ENTRIES, short),
        case("a byte behind the values", ENTRIES, target.sealed([content, &[0]].concat())),
        case("a byte behind", FRAME, [&good[..], &[0]].concat()),
        case("a flipped bit", FRAME, flipped),
        case("sealed with zeros", FRAME, [content, &[0; TRAILER]].concat()),
        case("sealed with its own good trailer and a byte", FRAME, [&good[..], &[1]].concat()),
        case("zeros up to the limit", FRAME, vec![0; limit]),
        case("zeros past the limit", LARGE, vec![0; limit + 1]),
        target.snapshot(),
    ]);
    cases
}

/// A frame with these positions and values.
fn frame(target: &Target, code: u8, k: u32, positions: &[u8], values: &[u8]) -> Vec<u8> {
    let mut head = target.good()[..HEAD].to_vec();
    head[POSITIONS] = code;
    head[K..K + 4].copy_from_slice(&k.to_le_bytes());
    head[POSITION_LENGTH..ATTEMPT].copy_from_slice(&(positions.len() as u32).to_le_bytes());
    target.sealed([&head, positions, values].concat())
}

fn floats(target: &Target) -> Vec<Bad> {
    // Coordinates 0 and 1: two gaps of 0.
    let framed = |first: f32, second: f32| {
        let values = [first.to_le_bytes(), second.to_le_bytes()].concat();
        frame(target, RICE, 2, &[0, 0], &values)
    };
    assert!(target.takes(&framed(8.0, -8.0)), "at the limit");
    let cases = OVER.into_iter().enumerate();
    let first =
        cases.clone().map(|(at, over)| (format!("first {over:e} ({at})"), framed(over, 0.5)));
    let second = cases.map(|(at, over)| (format!("second {over:e} ({at})"), framed(0.5, over)));
    first.chain(second).map(|(name, frame)| (name, VALUE, frame)).collect()
}

fn rice(target: &Target) -> Vec<Bad> {
    let n = target.n() as u64;
    let framed = |k: u32, positions: &[u8]| {
        frame(target, RICE, k, positions, &0.5_f32.to_le_bytes().repeat(k as usize))
    };
    let gaps = |low: u8, gaps: &[u64]| {
        let bits = gaps.iter().fold(Bits::default(), |b, &gap| b.gap(gap, low.into()));
        [vec![low], bits.bytes()].concat()
    };
    assert!(target.takes(&framed(2, &gaps(8, &[0, n - 2]))), "up to the last coordinate");
    let mut cases = vec![
        ("no Rice parameter", framed(2, &[])),
        ("a gap to n", framed(2, &gaps(8, &[0, n - 1]))),
        ("a first gap over n", framed(2, &gaps(8, &[n, 0]))),
        ("an entry behind the last one", framed(2, &gaps(8, &[n - 1, 0]))),
        ("a gap of 2^32", framed(2, &gaps(27, &[1 << 32, 0]))),
        ("one-bits without end", framed(2, &[vec![0], vec![0xff; 200]].concat())),
        ("one-bits past n", framed(2, &[vec![0], vec![0xff; 340]].concat())),
        ("one-bits past n, Rice parameter 27", framed(2, &[27, 0xff, 0xff, 0xff, 0xff])),
        ("gaps that end early", framed(2, &[20, 0, 0, 0])),
        ("more entries than bits", framed(9, &[0, 0])),
        ("a byte behind the gaps", framed(2, &[0, 0, 0])),
        ("a set bit in the padding", framed(2, &[0, 0x80])),
    ];
    for (name, low) in [("28", 28), ("29", 29), ("30", 30), ("31", 31), ("255", 255)] {
        cases.push((name, framed(2, &[low, 0, 0, 0, 0, 0, 0, 0, 0])));
    }
    let named = |name: &str| match name.parse::<u8>() {
        Ok(low) => format!("Rice parameter {low}"),
        Err(_) => name.to_owned(),
    };
    cases.into_iter().map(|(name, frame)| (named(name), ENTRIES, frame)).collect()
}

fn other_positions(target: &Target) -> Vec<Bad> {
    let n = target.n();
    let values = |k: usize| 0.5_f32.to_le_bytes().repeat(k);
    let bitmap = |first: u8, len: usize| [vec![first], vec![0; len - 1]].concat();
    let whole = n.div_ceil(8);
    let framed =
        |code, k: usize, positions: &[u8]| frame(target, code, k as u32, positions, &values(k));
    assert!(target.takes(&framed(BITMAP, 2, &bitmap(0b11, whole))));
    let entries = [
        ("a bitmap of one bit for two entries", framed(BITMAP, 2, &bitmap(1, whole))),
        ("a bitmap of three bits for two entries", framed(BITMAP, 2, &bitmap(0b111, whole))),
        ("a bitmap of ones", framed(BITMAP, 2, &vec![0xff; whole])),
        ("a bitmap that is short", framed(BITMAP, 2, &bitmap(0b11, whole - 1))),
        ("a bitmap that is long", framed(BITMAP, 2, &bitmap(0b11, whole + 1))),
        ("no bitmap", framed(BITMAP, 2, &[])),
        ("two entries as the whole", framed(DENSE, 2, &[])),
        ("the whole, and positions", framed(DENSE, 2, &[0])),
        ("fewer values than entries", frame(target, RICE, 3, &[0, 0], &values(2))),
        ("more values than entries", frame(target, RICE, 2, &[0, 0], &values(3))),
    ];
    let mut cases: Vec<Bad> =
        entries.into_iter().map(|(name, frame)| (name.to_owned(), ENTRIES, frame)).collect();
    cases.push(("positions that nobody shares".into(), FRAME, framed(SHARED, 2, &[])));
    cases
}

fn int8(target: &Target) -> Vec<Bad> {
    let framed = |exponent: i8, integer: i8| {
        let values = [exponent, 1, integer].map(|byte| byte.to_le_bytes()[0]);
        frame(target, RICE, 2, &[0, 0], &values)
    };
    assert!(target.takes(&framed(-4, 127)) && target.takes(&framed(-30, -127)));
    let mut cases = Vec::new();
    for exponent in [2, 3, 64, 127, -31, -64, -128] {
        cases.push((format!("exponent {exponent}"), framed(exponent, 1)));
    }
    for (exponent, integer) in [(1, 127), (1, 5), (0, 9), (-3, 65), (-4, -128), (-30, -128)] {
        cases.push((format!("{integer} * 2^{exponent}"), framed(exponent, integer)));
    }
    cases.into_iter().map(|(name, frame)| (name, VALUE, frame)).collect()
}

/// Both ends hold the support: no other code may be used, and each of its entries is sent.
fn shared(target: &Target) -> Vec<Bad> {
    let k = target.allowed();
    let values = |k: usize| [vec![0; k.div_ceil(256)], vec![1; k]].concat();
    let framed =
        |code, k: usize, positions: &[u8]| frame(target, code, k as u32, positions, &values(k));
    assert!(target.takes(&framed(SHARED, k, &[])));
    vec![
        ("told positions".into(), FRAME, framed(RICE, 2, &[0, 0])),
        ("a told bitmap".into(), FRAME, framed(BITMAP, 2, &[3])),
        ("the whole".into(), FRAME, framed(DENSE, 2, &[])),
        ("positions with the shared ones".into(), ENTRIES, framed(SHARED, k, &[0])),
        ("one value less than the support".into(), ENTRIES, framed(SHARED, k - 1, &[])),
        ("no value of the support".into(), ENTRIES, framed(SHARED, 0, &[])),
    ]
}

/// A version 2 frame of the same update, for a run of version 1.
fn newer(target: &Target) -> Case {
    let mut manifest = target.manifest.clone();
    manifest.version = 2;
    let terms = Terms::new(&manifest, target.slot.run, target.slot.round);
    let frame = target.update().encode(&terms, Some(&target.shared)).expect("in range");
    case("the same update in version 2", FRAME, frame)
}
