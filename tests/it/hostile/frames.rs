//! What can be off in any version 2 frame, whatever its body carries.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::frame::{Origin, Terms, seal};
use gossamer_protocol::ids::{ClientId, RoundId, RunId};

use super::target::{Case, ENTRIES, FRAME, GARBAGE, HEAD, LARGE, TRAILER, Target, case};

pub(super) fn cases(target: &Target) -> Vec<Case> {
    let good = target.good();
    [
        header(target, &good),
        counts(target, &good),
        trailers(target, &good),
        lengths(target, &good),
        bodies(target, &good),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Magic, version, kind, coding and metadata, each under a valid trailer.
fn header(target: &Target, good: &[u8]) -> Vec<Case> {
    let patched =
        |name: String, at: usize, with: &[u8]| case(name, FRAME, target.patched(at, with));
    let mut cases = Vec::new();
    let elf = b"\x7fELF";
    for magic in [b"GSMS", b"gsmr", b"RMSG", b"\0\0\0\0", elf, b"PK\x03\x04", b"\x28\xb5\x2f\xfd"] {
        cases.push(patched(format!("magic {magic:02x?}"), 0, magic));
    }
    for version in [0, 1, 3, 0x0102, 0x0200, u16::MAX] {
        cases.push(patched(format!("version {version}"), 4, &version.to_le_bytes()));
    }
    for kind in [0, 2, 3, 0x80, 0x81, 0xff] {
        cases.push(patched(format!("kind {kind}"), 6, &[kind]));
    }
    let coding = good[7];
    // Code 11 is the first that stands for nothing. Under a budget any other is right.
    let budgeted = target.manifest.method.upload.bytes_max.is_some();
    let unknown = if target.name == "f32" { (11 << 2..=255).collect() } else { vec![11 << 2, 255] };
    let others = (0..11).filter(|&code| code != coding >> 2 && !budgeted);
    let others = others.map(|code| code << 2 | coding & 3);
    for coding in others.chain(unknown) {
        cases.push(patched(format!("coding {coding:#04x}"), 7, &[coding]));
    }
    cases.push(patched("no examples".into(), 16, &[0; 4]));
    for loss in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        cases.push(patched(format!("loss {:08x}", loss.to_bits()), 20, &loss.to_le_bytes()));
    }
    cases
}

/// Lies about the number of entries, the length, and how the body is to be read.
fn counts(target: &Target, good: &[u8]) -> Vec<Case> {
    let field =
        |at: usize| u32::from_le_bytes([good[at], good[at + 1], good[at + 2], good[at + 3]]);
    let (k, length, coding) = (field(8), field(12), good[7]);
    let (allowed, n) = (target.allowed() as u32, target.n() as u32);
    let mut cases = Vec::new();
    for (name, lie) in [
        ("0", 0),
        ("one", 1),
        ("one less", k - 1),
        ("one more", k + 1),
        ("one more than allowed", allowed + 1),
        ("one more than there are", n + 1),
        ("2^31", 1 << 31),
        ("2^32 - 1", u32::MAX),
    ] {
        let frame = target.patched(8, &lie.to_le_bytes());
        cases.push(case(format!("k {name}"), ENTRIES, frame));
    }
    for (name, lie) in [
        ("0", 0),
        ("one less", length - 1),
        ("one more", length + 1),
        ("2^31", 1 << 31),
        ("so that the frame's wraps", u32::MAX - 55),
        ("2^32 - 1", u32::MAX),
    ] {
        let frame = target.patched(12, &lie.to_le_bytes());
        cases.push(case(format!("body length {name}"), FRAME, frame));
    }
    for body in (0..4).filter(|&body| body != coding & 3) {
        // A body of the whole domain has as many entries; otherwise it is read as what it is not.
        let expected = if body % 2 == 0 && k != allowed { ENTRIES } else { GARBAGE };
        let frame = target.patched(7, &[coding & !3 | body]);
        cases.push(case(format!("read as body {body}"), expected, frame));
    }
    cases
}

/// Trailers of what the frame is not for, and damage that the trailer tells.
fn trailers(target: &Target, good: &[u8]) -> Vec<Case> {
    let content = &good[..good.len() - TRAILER];
    let origin = target.origin();
    let sealed = |run: RunId, round: RoundId, origin: Option<Origin>| {
        seal(content.to_vec(), &Terms::new(&target.manifest, run, round), origin.as_ref())
    };
    let with = |trailer: &[u8]| [content, trailer].concat();
    let other_client = Origin { client: ClientId([9; 16]), ..origin };
    let other_snapshot = Origin { snapshot: Digest::of(b"other"), ..origin };
    let (run, round) = (origin.run, origin.round);
    let mut cases = vec![
        ("sealed for another run", sealed(RunId([9; 16]), round, Some(origin))),
        ("sealed for the next round", sealed(run, RoundId(1), Some(origin))),
        ("sealed for the last round", sealed(run, RoundId(u64::MAX), Some(origin))),
        ("sealed for another client", sealed(run, round, Some(other_client))),
        ("sealed for another snapshot", sealed(run, round, Some(other_snapshot))),
        ("sealed as a snapshot", sealed(run, round, None)),
        ("sealed as in version 1", with(&Digest::of(content).0)),
        ("sealed with zeros", with(&[0; TRAILER])),
    ];
    for (name, at) in [
        ("a flipped bit in the magic", 0),
        ("a flipped bit in the version", 4),
        ("a flipped bit in k", 8),
        ("a flipped bit in the examples", 17),
        ("a flipped bit in the loss", 20),
        ("a flipped bit in the body", HEAD + 2),
        ("a flipped bit in the body's end", good.len() - TRAILER - 1),
        ("a flipped bit in the trailer", good.len() - 1),
    ] {
        let mut frame = good.to_vec();
        frame[at] ^= 1;
        cases.push((name, frame));
    }
    let cases = cases.into_iter().map(|(name, frame)| case(name, FRAME, frame));
    cases.chain([target.snapshot()]).collect()
}

/// Frames that are cut, prolonged, or too long.
fn lengths(target: &Target, good: &[u8]) -> Vec<Case> {
    let (whole, limit) = (good.len(), target.terms().update_len_max());
    let padded = |len: usize| [good, &vec![0; len - whole]].concat();
    let mut cases = Vec::new();
    for kept in
        [0, 1, 3, 4, 6, 8, 12, 15, 16, 20, 23, 24, 25, 55, 56, whole / 2, whole - 32, whole - 1]
    {
        cases.push(case(format!("cut to {kept} bytes"), FRAME, &good[..kept]));
    }
    for kept in [0, 4, 8, 16, 20, 23, HEAD, HEAD + 1, whole - TRAILER - 1] {
        let frame = target.sealed(good[..kept].to_vec());
        cases.push(case(format!("cut to {kept} bytes and sealed"), FRAME, frame));
    }
    cases.extend([
        case("a byte behind", FRAME, padded(whole + 1)),
        case("a trailer's length behind", FRAME, padded(whole + TRAILER)),
        case("zeros behind, up to the limit", FRAME, padded(limit)),
        case("zeros behind, past the limit", LARGE, padded(limit + 1)),
        case("zeros up to the limit", FRAME, vec![0; limit]),
        case("zeros past the limit", LARGE, vec![0; limit + 1]),
        case("ones up to the limit", FRAME, vec![0xff; limit]),
    ]);
    cases
}

/// Bodies cut or prolonged, the header telling their length right.
fn bodies(target: &Target, good: &[u8]) -> Vec<Case> {
    let (coding, body) = (good[7], &good[HEAD..good.len() - TRAILER]);
    let k = u32::from_le_bytes([good[8], good[9], good[10], good[11]]);
    let framed = |body: &[u8]| target.with_body(coding, k, body);
    // Zeros stand behind a modelled body's end, so values may be read from it that are not there, and
    // without its last byte it can be another update's.
    let (cut, end) = if coding & 2 == 2 { (GARBAGE, 8) } else { (ENTRIES, 1) };
    let mut noise = gossamer_protocol::rng::Stream::new(1, "noise", &[target.name.as_bytes()]);
    let mut noise = |len: usize| (0..len).map(|_| noise.word() as u8).collect::<Vec<u8>>();
    vec![
        case("an empty body", ENTRIES, framed(&[])),
        case("a body of one byte", ENTRIES, framed(&body[..1])),
        case("half a body", cut, framed(&body[..body.len() / 2])),
        case("a body without its end", cut, framed(&body[..body.len() - end])),
        case("a zero behind the body", ENTRIES, framed(&[body, &[0]].concat())),
        case("noise behind the body", cut, framed(&[body, &noise(16)].concat())),
        case("a body of zeros", GARBAGE, framed(&vec![0; body.len()])),
        case("a body of ones", GARBAGE, framed(&vec![0xff; body.len()])),
        case("a body of noise", GARBAGE, framed(&noise(body.len()))),
        case("a short body of noise", GARBAGE, framed(&noise(90))),
        case("a body that is a frame", GARBAGE, framed(&good[..body.len()])),
    ]
}
