use gossamer_protocol::codec::CodecError;
use gossamer_protocol::density::Density;
use gossamer_protocol::layout::BaseLinear;
use gossamer_protocol::manifest::{Coding, Ranking, Scope, Select, Values};
use proptest::prelude::*;

use super::entries::{Bits, BodyName};
use super::*;

/// Rank 2 on one linear 3 -> 2: A `[2, 3]`, B `[2, 2]`; the change is 1, 2, ... 10.
fn ten() -> Change {
    let linear = BaseLinear { name: "m.q".into(), d_in: 3, d_out: 2 };
    let layout = Layout::lora(&[linear], &["q".into()], 2, false).expect("valid");
    let delta = (1..=10_u8).map(|i| f32::from(i) / 2.0).collect();
    Change { path: "ten".into(), layout, delta }
}

fn rule(density: f64, values: Values) -> Rule {
    let density = Density::try_from(density).expect("a share");
    Rule { density, values, select: Select::default(), coding: Coding::Packed }
}

/// Every number by hand, from docs/wire.md: the three largest of ten, places 7, 8 and 9.
#[test]
fn costs_are_the_formulas() {
    let change = ten();
    let entries = rule(0.3, Values::F32).encode(&change, None).expect("in range");
    let cost = Cost::of(&entries, Some(&change.delta));
    // A block's head: "another length", the length in 10 bits. Rice parameter 1 in 5 bits, then gaps 7,
    // 0, 0 as 1110 1, 0 0, 0 0. Three values of 32 bits.
    assert_eq!(cost.bits, Bits { positions: 5 + 9, values: 96, scales: 11, outliers: 0 });
    assert_eq!((cost.n, cost.k, cost.body), (10, 3, BodyName::RicePacked));
    assert_eq!((cost.header, cost.total), (56, 56 + 16), "121 bits are 16 bytes");
    assert_eq!((cost.dense_f32, cost.dense_f16, cost.naive), (40, 20, 3 * 8));
    // C(10, 3) = 120.
    let bound = (120_f64.log2() + 96.0) / 8.0;
    assert!((cost.uniform_bound - bound).abs() < 1e-9, "{}", cost.uniform_bound);
    assert!((cost.over_bound().expect("entries") - (16.0 / bound - 1.0)).abs() < 1e-12);
    // The squares of 1 to 10 sum to 385, those of 1 to 7 to 140.
    assert!((cost.squared_error.expect("not 0") - 140.0 / 385.0).abs() < 1e-12);
    assert_eq!(Cost::of(&entries, None).squared_error, None);

    // One magnitude for all ten: their mean 2.75 is a scale there is; sum (i/2 - 2.75)^2 = 20.625.
    let entries = rule(1.0, Values::Sign).encode(&change, None).expect("in range");
    let cost = Cost::of(&entries, Some(&change.delta));
    assert_eq!(cost.bits, Bits { positions: 0, values: 10, scales: 11 + 8, outliers: 0 });
    assert_eq!((cost.total, cost.naive), (56 + 4, 40), "29 bits are 4 bytes; no places are told");
    assert!((cost.squared_error.expect("not 0") - 20.625 / 96.25).abs() < 1e-12);
}

/// A thousand equal values: zstd sees it, and has the naive bytes back.
#[test]
fn zstd_codes_the_naive_bytes() {
    let linear = BaseLinear { name: "m.q".into(), d_in: 100, d_out: 100 };
    let layout = Layout::lora(&[linear], &["q".into()], 5, false).expect("valid");
    let change = Change { path: "same".into(), delta: vec![0.5; layout.n()], layout };
    let entries = rule(1.0, Values::F32).encode(&change, None).expect("in range");
    let cost = Cost::of(&entries, Some(&change.delta));
    assert_eq!((cost.naive, cost.squared_error), (4_000, Some(0.0)));
    assert!(cost.zstd < 40, "{}", cost.zstd);
}

#[test]
fn a_table_has_a_line_a_rule() {
    let rules = [rule(0.3, Values::F32), rule(0.4, Values::Int8)];
    let text = table(&inspect(&ten(), None, &rules).expect("in range")).text();
    let lines: Vec<Vec<&str>> =
        text.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected = "1/3 f32 rice-packed 3 56 2 12 2 0 72 0.6× 0.3× 13 +24.4 % ";
    assert!(lines[2].join(" ").starts_with(expected), "{text}");
    assert!(lines[2].join(" ").ends_with(" 24 0.3636"), "{text}");
    assert_eq!(lines[3][..4], ["0.4000", "int8", "rice-packed", "4"]);
}

#[test]
fn rules_are_the_manifests() {
    let change = ten();
    let sent = |rule: Rule, theta: Option<&[f32]>| -> Vec<usize> {
        let entries = rule.encode(&change, theta).expect("in range");
        entries.decoded.iter().map(|(index, _)| index).collect()
    };
    let by = |select| Rule { select, ..rule(0.5, Values::F32) };
    assert_eq!(sent(by(Select::default()), None), [5, 6, 7, 8, 9]);
    // Of A's six three, of B's four two.
    let tensor = Select { scope: Scope::Tensor, ..Select::default() };
    assert_eq!(sent(by(tensor), None), [3, 4, 5, 8, 9]);
    // By importance A's second row counts most, as B's second column is largest.
    let importance = by(Select { by: Ranking::Importance, ..Select::default() });
    let theta = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 50.0, 1.0, 50.0];
    assert_eq!(sent(importance, Some(&theta)), [1, 2, 3, 4, 5]);
    assert!(matches!(importance.encode(&change, None), Err(WireError::NoAdapter)));
}

#[test]
fn a_head_travels_whole() {
    let linear = BaseLinear { name: "m.q".into(), d_in: 20, d_out: 20 };
    let layout = Layout::lora(&[linear], &["q".into()], 1, false).expect("valid");
    let layout = layout.with_head(2, 4).expect("valid");
    // 2 x 4 weights and 2 biases, all smaller than the adapter's.
    let delta = (0..50).map(|i| if i < 40 { 1.0 } else { 0.1 }).collect();
    let change = Change { path: "head".into(), layout, delta };
    let entries = rule(0.1, Values::F32).encode(&change, None).expect("in range");
    assert_eq!(entries.decoded.values(), [&[1.0; 4][..], &[0.1; 10]].concat());
}

#[test]
fn what_cannot_travel_is_refused_with_its_file() {
    let beyond = Change { delta: vec![9.0; 10], ..ten() };
    let refused = rule(1.0, Values::F32).encode(&beyond, None).expect_err("over 8");
    assert_eq!(refused.to_string(), "ten: the entries");
    assert!(matches!(
        refused,
        WireError::Entries { source: CodecError::Value { rank: 0, .. }, .. }
    ));
    let none = Change { delta: vec![f32::NAN; 10], ..ten() };
    let refused = rule(0.5, Values::F32).encode(&none, None).expect_err("no number");
    assert!(matches!(refused, WireError::Select { .. }), "{refused:?}");
}

#[test]
fn files_are_told_by_their_first_bytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let change = ten();
    deltas::save(&path("change"), &change.layout, &change.delta).expect("written");
    let Opened::Change(read) = open(&path("change")).expect("a change") else { panic!("coded") };
    assert_eq!((&read.layout, &read.delta), (&change.layout, &change.delta));

    let entries = rule(0.3, Values::Int8).encode(&change, None).expect("in range");
    entries.save(&path("entries")).expect("written");
    let Opened::Entries(read) = open(&path("entries")).expect("entries") else {
        panic!("a change")
    };
    assert_eq!(read, entries);
    assert_eq!(Entries::load(&path("entries")).expect("entries"), entries);
    // Zero where nothing was sent; int8 of 4, 4.5, 5 is within half a scale of 5/127, rounded up.
    let dense = read.dense();
    assert_eq!(dense[..7], [0.0; 7]);
    for (got, sent) in dense[7..].iter().zip([4.0, 4.5, 5.0]) {
        assert!((got - sent).abs() <= 5.0 / 127.0 * 9.0 / 16.0, "{got} for {sent}");
    }
    deltas::save(&path("dense"), &read.layout, &dense).expect("written");
    assert_eq!(deltas::load(&path("dense")).expect("read"), (change.layout.clone(), dense));

    std::fs::write(path("frame"), b"GSMR\x02\0").expect("written");
    assert!(matches!(open(&path("frame")), Err(WireError::Frame { .. })));
    std::fs::write(path("text"), b"hello").expect("written");
    let refused = open(&path("text")).expect_err("neither");
    assert!(refused.to_string().contains(&path("text").display().to_string()), "{refused}");
    assert!(matches!(Entries::load(&path("change")), Err(WireError::Foreign { .. })));
    assert!(matches!(open(&path("absent")), Err(WireError::File { .. })));

    let adapter = rule::adapter(&path("change"), &change).expect("the same tensors");
    assert_eq!(adapter, change.delta);
    let linear = BaseLinear { name: "m.k".into(), d_in: 3, d_out: 2 };
    let layout = Layout::lora(&[linear], &["k".into()], 2, false).expect("valid");
    let refused = rule::adapter(&path("change"), &Change { layout, ..ten() });
    assert!(matches!(refused, Err(WireError::Adapter { .. })), "{refused:?}");
}

/// Each claim of the first line is held against the bytes.
#[test]
fn a_false_first_line_is_refused() {
    let bytes = rule(0.3, Values::Int8).encode(&ten(), None).expect("in range").to_bytes();
    let end = bytes.iter().position(|&byte| byte == b'\n').expect("a line");
    let line = std::str::from_utf8(&bytes[..end]).expect("text");
    let refused = |from: &str, to: &str| {
        assert!(line.contains(from), "{line}");
        let bytes = [line.replacen(from, to, 1).as_bytes(), &bytes[end..]].concat();
        let refused = Entries::parse(Path::new("file"), &bytes).expect_err(to);
        assert!(refused.to_string().starts_with("file: "), "{refused}");
        refused
    };
    let field = |refused| match refused {
        WireError::Contradiction { what, .. } => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(refused("\"gossamer\":1", "\"gossamer\":2")), "gossamer");
    assert_eq!(field(refused("\"positions\":14", "\"positions\":140")), "bits");
    let refused = |from, to| match refused(from, to) {
        WireError::Entries { source, .. } => source,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused("\"k\":3", "\"k\":2"), CodecError::Block(3));
    assert_eq!(refused("\"shape\":[2,2]", "\"shape\":[2,1]"), CodecError::Past);

    let mut damaged = bytes.clone();
    *damaged.last_mut().expect("a body") ^= 1;
    let refused = Entries::parse(Path::new("file"), &damaged).expect_err("damaged");
    assert_eq!(field(refused), "sha256");
}

proptest! {
    /// Whatever the bytes, an error, or entries of the layout that they name.
    #[test]
    fn hostile(at in 0.0_f64..1.0, byte in any::<u8>(), cut in any::<bool>()) {
        let entries = rule(0.3, Values::Int8).encode(&ten(), None).expect("in range");
        let mut bytes = entries.to_bytes();
        let at = (at * bytes.len() as f64) as usize;
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        if let Ok(read) = Entries::parse(Path::new("file"), &bytes) {
            prop_assert_eq!(read.dense().len(), read.layout.n());
            prop_assert_eq!(read.encoded.bytes, entries.encoded.bytes, "the digest holds");
        }
    }
}

#[test]
fn options_are_the_manifests_words() {
    let share = |text| rule::density(text).ok().map(f64::from);
    assert_eq!(share("1/16"), Some(0.0625));
    assert_eq!(share("0.25"), Some(0.25));
    for bad in ["0", "1/0", "0/0", "2", "nan", "-1/2", "x", "1/2/3", ""] {
        assert_eq!(share(bad), None, "{bad}");
    }
    assert_eq!(rule::word::<Values>("lloyd3").expect("a word"), Values::Lloyd3);
    assert_eq!(rule::word::<Ranking>("rank-wise").expect("a word"), Ranking::RankWise);
    let refused = rule::word::<Values>("int5").expect_err("no word").to_string();
    assert!(refused.contains("`int4`"), "{refused}");
    assert_eq!(rule::scope("floor=0.5").expect("a floor"), Scope::Floor(0.5));
    assert_eq!(rule::scope("tensor").expect("a word"), Scope::Tensor);
    for bad in ["floor=0", "floor=1", "floor=nan", "floor", "Global"] {
        assert!(rule::scope(bad).is_err(), "{bad}");
    }
}
