//! Bodies that are no frames at all, that unfold, that are far too long, or that come in parts.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::problem::ProblemType as P;

use super::bits::{Bits, crc32};
use super::target::{Case, FRAME, LARGE, Sent, Target, VALUE, case};

/// Far more than any frame.
const FLOOD: usize = 64 << 20;
const BAD: &[P] = &[P::BadRequest];
const OFFSET: &[P] = &[P::WrongOffset];

pub(super) fn cases(target: &Target, others: &[Target]) -> Vec<Case> {
    [compressed(target), texts(target), floods(target), foreign(target, others), parts(target)]
        .into_iter()
        .flatten()
        .collect()
}

/// A gzip member (RFC 1952) around a DEFLATE stream.
fn gzip(deflate: &[u8], plain: &[u8]) -> Vec<u8> {
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let (crc, len) = (crc32(plain).to_le_bytes(), (plain.len() as u32).to_le_bytes());
    [&head[..], deflate, &crc, &len].concat()
}

/// One zero, then `copies` times 258 more: in DEFLATE's fixed codes (RFC 1951, section 3.2.6) 13 bits
/// each, length 285 as 11000101, distance 0 as 00000, both from their highest bit.
fn deflate_zeros(copies: usize) -> Vec<u8> {
    let start = Bits::default().put(1, 1).put(1, 2).put(0b0000_1100, 8);
    let bits = (0..copies).fold(start, |bits, _| bits.put(0b1010_0011, 8).put(0, 5));
    bits.put(0, 7).bytes()
}

/// A zstd frame (RFC 8878) of blocks that each stand for 128 KiB of zeros in 4 bytes.
fn zstd_zeros(header: &[u8], blocks: usize) -> Vec<u8> {
    let block = |last: u32| ((1 << 17) << 3 | 1 << 1 | last).to_le_bytes();
    let mut frame = [b"\x28\xb5\x2f\xfd", header].concat();
    for at in 1..=blocks {
        // A 3-byte header, then the byte that is repeated, which is 0 like the header's fourth.
        frame.extend(block(u32::from(at == blocks)));
    }
    frame
}

/// A zstd skippable frame that says it is `len` bytes long.
fn skippable(number: u8, len: u32, content: &[u8]) -> Vec<u8> {
    [&[0x50 | number, 0x2a, 0x4d, 0x18], &len.to_le_bytes()[..], content].concat()
}

/// With and without saying so, a compressed body is just no frame: nothing is ever unfolded.
fn compressed(target: &Target) -> Vec<Case> {
    let good = target.good();
    let room = target.terms().update_len_max();
    let copies = (room - 40) * 8 / 13;
    let bomb = deflate_zeros(copies);
    let gzip_bomb = gzip(&bomb, &vec![0; 1 + 258 * copies]);
    let stored = {
        let len = (good.len() as u16).to_le_bytes();
        let not = (!(good.len() as u16)).to_le_bytes();
        gzip(&[&[1], &len[..], &not, &good].concat(), &good)
    };
    // Window of 128 KiB; then one of 3.75 TiB; then 2^62 bytes announced.
    let zstd_bomb = zstd_zeros(&[0x00, 0x38], (room - 8) / 4);
    let wide = zstd_zeros(&[0x00, 0xff], 64);
    let announced = zstd_zeros(&[0xe0, 0, 0, 0, 0, 0, 0, 0, 0x40], 64);
    let zstd_raw = {
        let header = ((good.len() as u32) << 3 | 1).to_le_bytes();
        [&b"\x28\xb5\x2f\xfd\x00\x38"[..], &header[..3], &good].concat()
    };
    let skipped = skippable(0, 4, &[0; 4]);
    let bodies = [
        ("a gzip bomb", "gzip", gzip_bomb.clone()),
        ("a gzip bomb, cut off", "gzip", gzip_bomb[..room / 2].to_vec()),
        ("the good frame in gzip", "gzip", stored),
        ("a DEFLATE bomb", "deflate", bomb),
        ("a zstd bomb", "zstd", zstd_bomb.clone()),
        ("a zstd bomb with a window of 3.75 TiB", "zstd", wide),
        ("a zstd bomb that announces 2^62 bytes", "zstd", announced),
        ("a zstd header alone", "zstd", b"\x28\xb5\x2f\xfd".to_vec()),
        ("a zstd dictionary", "zstd", b"\x37\xa4\x30\xec\0\0\0\0".to_vec()),
        ("the good frame in zstd", "zstd", zstd_raw),
        ("a skippable frame", "zstd", skipped.clone()),
        ("the sixteenth skippable frame", "zstd", skippable(15, 0, &[])),
        ("a skippable frame of 2^32 - 1 bytes", "zstd", skippable(0, u32::MAX, &[0; 64])),
        ("a hundred skippable frames", "zstd", skipped.repeat(100)),
        ("the good frame behind a skippable one", "zstd", [&skipped[..], &good].concat()),
        ("the good frame in a skippable one", "zstd", skippable(1, good.len() as u32, &good)),
        ("a zstd bomb in gzip's name", "gzip", zstd_bomb),
        ("a gzip bomb in brotli's name", "br", gzip_bomb),
    ];
    let mut cases = Vec::new();
    for (name, encoding, body) in bodies {
        let told = format!("{name}, said to be {encoding}");
        cases.push(Case { sent: Sent::Encoded(encoding), ..case(told, FRAME, body.clone()) });
        cases.push(case(name, FRAME, body));
    }
    cases
}

fn texts(target: &Target) -> Vec<Case> {
    let run = target.slot.run;
    let texts = [
        ("an empty object", "{}".to_owned()),
        ("an empty list", "[]".to_owned()),
        ("null", "null".to_owned()),
        ("a check-in", format!("{{\"run\":\"{run}\"}}")),
        ("an update in words", "{\"examples\":1,\"loss\":1.0,\"values\":[0.5,NaN]}".to_owned()),
        ("nested lists", "[".repeat(3_000)),
        ("a number of digits", "9".repeat(3_000)),
        ("a page", "<!doctype html><title>502 Bad Gateway</title>".to_owned()),
        ("a form", "--x\r\nContent-Disposition: form-data; name=\"frame\"\r\n\r\nGSMR".to_owned()),
        ("a request", "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("the frame in hex", target.good()[..500].iter().map(|b| format!("{b:02x}")).collect()),
    ];
    let cases = texts.into_iter();
    cases.map(|(name, text)| case(format!("text: {name}"), FRAME, text)).collect()
}

/// Bodies that go on for long, and those that are just one byte too long.
fn floods(target: &Target) -> Vec<Case> {
    let good = target.good();
    let mut cases = Vec::new();
    for (said, announced) in [("announced", true), ("not announced", false)] {
        for (name, body, len) in [
            ("64 MiB of zeros", Vec::new(), FLOOD),
            ("64 MiB behind a good frame", good.clone(), FLOOD - good.len()),
            ("one byte past the limit", Vec::new(), target.terms().update_len_max() + 1),
        ] {
            let sent = Sent::Zeros { count: len, announced };
            cases.push(Case { sent, ..case(format!("{name}, {said}"), LARGE, body) });
        }
    }
    cases
}

/// Good frames of other runs.
fn foreign(target: &Target, others: &[Target]) -> Vec<Case> {
    let others = others.iter().filter(|other| other.slot.run != target.slot.run);
    let fitting = others.map(|other| (other.name, other.good()));
    let fitting = fitting.filter(|(_, frame)| frame.len() <= target.terms().update_len_max());
    fitting.map(|(name, frame)| case(format!("the good frame of {name}"), FRAME, frame)).collect()
}

/// `PATCH` of `body` with true headers; the first `begun` bytes were sent before.
fn part(
    name: &str,
    expected: &'static [P],
    body: Vec<u8>,
    begun: usize,
    lie: impl FnOnce(&mut [String; 3]),
) -> Case {
    let mut told = [Digest::of(&body).to_string(), body.len().to_string(), begun.to_string()];
    lie(&mut told);
    let [digest, length, offset] = told;
    let sent = Sent::Part { digest, length, offset, begun };
    Case { sent, ..case(format!("in parts: {name}"), expected, body) }
}

fn parts(target: &Target) -> Vec<Case> {
    let (good, limit) = (target.good(), target.terms().update_len_max());
    let nan = {
        let bits = Bits::default().length(1).put(0, 5).gap(0, 0).value(f32::NAN);
        target.with_body(1, 1, &bits.bytes())
    };
    let magic = target.patched(0, b"GSMS");
    let half = good.len() / 2;
    let set = |at: usize, text: &'static str| {
        move |told: &mut [String; 3]| text.clone_into(&mut told[at])
    };
    vec![
        part("nothing", FRAME, Vec::new(), 0, |_| ()),
        part("another magic, whole", FRAME, magic.clone(), 0, |_| ()),
        part("another magic, in two", FRAME, magic.clone(), 2, |_| ()),
        part("another magic, the last part a byte", FRAME, magic.clone(), magic.len() - 1, |_| ()),
        part("a NaN, whole", VALUE, nan.clone(), 0, |_| ()),
        part("a NaN, in two", VALUE, nan.clone(), nan.len() - 1, |_| ()),
        part("a frame cut short", FRAME, good[..good.len() - 1].to_vec(), half, |_| ()),
        part("zeros up to the limit", FRAME, vec![0; limit], limit / 2, |_| ()),
        part("zeros past the limit", LARGE, vec![0; limit + 1], 0, |_| ()),
        part("a bomb", FRAME, zstd_zeros(&[0x00, 0x38], 500), 100, |_| ()),
        part("the good frame as another digest", OFFSET, good.clone(), 0, |told| {
            told[0] = Digest::of(b"other").to_string();
        }),
        part("a length past the limit", LARGE, good.clone(), 0, |told| {
            told[1] = (limit + 1).to_string();
        }),
        part("a length of 2^40", LARGE, good.clone(), 0, set(1, "1099511627776")),
        part("a length of 2^64 - 1", LARGE, good.clone(), 0, set(1, "18446744073709551615")),
        part("a length less than the part", LARGE, good.clone(), 0, set(1, "5")),
        part("an offset of 2^64 - 1", LARGE, good.clone(), 0, set(2, "18446744073709551615")),
        part("length and offset of 2^64 - 1", LARGE, good.clone(), 0, |told| {
            told[1..].fill(u64::MAX.to_string());
        }),
        part("an offset where nothing stands", OFFSET, nan.clone(), 0, |told| {
            told[1] = (nan.len() + 10).to_string();
            told[2] = "10".into();
        }),
        part("no digest", BAD, good.clone(), 0, set(0, "")),
        part("no length", BAD, good.clone(), 0, set(1, "")),
        part("no offset", BAD, good.clone(), 0, set(2, "")),
        part("a digest of two digits", BAD, good.clone(), 0, set(0, "00")),
        part("a digest that is a path", BAD, good.clone(), 0, set(0, "../../../store.sqlite")),
        part("a negative length", BAD, good.clone(), 0, set(1, "-1")),
        part("a length of 2^64", BAD, good.clone(), 0, set(1, "18446744073709551616")),
        part("a length in words", BAD, good.clone(), 0, set(1, "1e3")),
        part("an offset in hex", BAD, good.clone(), 0, set(2, "0x0")),
        part("a part of 64 MiB", LARGE, vec![0; FLOOD], 0, |_| ()),
    ]
}
