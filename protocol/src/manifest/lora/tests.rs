use super::*;
use crate::manifest::tests::manifest;
use crate::manifest::{Manifest, ManifestError};

fn lora(json: &str) -> Result<Lora, serde_json::Error> {
    serde_json::from_str(json)
}

fn linears() -> Vec<BaseLinear> {
    ["m.layers.0.q_proj", "m.layers.0.up_proj", "m.layers.1.q_proj"]
        .map(|name| BaseLinear { name: name.into(), d_in: 4, d_out: 6 })
        .into()
}

/// What a run of the first release says has the bytes it always had.
#[test]
fn plain_settings_name_no_new_field() {
    let plain = serde_json::to_string(&Lora::new(2, 4.0, vec!["q".into()])).expect("JSON");
    let old = r#"{"rank":2,"alpha":4.0,"targets":["q"],"dropout":0.0,"freeze_a":false}"#;
    assert_eq!(plain, old);
    assert_eq!(lora(old).expect("its own"), Lora::new(2, 4.0, vec!["q".into()]));
}

#[test]
fn every_field_there_and_back_in_order() {
    let text = concat!(
        r#"{"rank":2,"alpha":4.0,"targets":"all-linear","dropout":0.5,"freeze_a":true,"#,
        r#""rank_pattern":{"z":1,"a":3},"alpha_pattern":{"q":2.5},"rslora":true,"#,
        r#""fan_in_fan_out":true}"#
    );
    let read = lora(text).expect("settings");
    assert_eq!(serde_json::to_string(&read).expect("JSON"), text);
    let keys: Vec<&str> = read.rank_pattern.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["z", "a"], "not sorted: the first that matches counts");
    let refused = lora(r#"{"rank":2,"alpha":4.0,"targets":7}"#).expect_err("no targets");
    assert!(refused.to_string().contains("list of module names"), "{refused}");
}

#[test]
fn refused_by_name() {
    type Break = fn(&mut Lora);
    let cases: [(&str, Break); 7] = [
        ("lora.rank", |l| l.rank = 0),
        ("lora.rank_pattern", |l| l.rank_pattern = [("q".into(), 0)].into_iter().collect()),
        ("lora.alpha_pattern", |l| l.alpha_pattern = [("q".into(), -1.0)].into_iter().collect()),
        ("lora.layers", |l| l.layers = Some(vec![])),
        ("lora.layers", |l| {
            l.targets = Targets::Pattern("all-linear".into());
            l.layers = Some(vec![0]);
        }),
        ("lora.dropout", |l| l.dropout = f32::NAN),
        ("lora.alpha", |l| l.alpha = f64::INFINITY),
    ];
    for (name, break_it) in cases {
        let mut m = manifest();
        break_it(&mut m.lora);
        match m.to_bytes() {
            Err(ManifestError::Field { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let refused = |change: Break| {
        let mut m = manifest();
        change(&mut m.lora);
        match m.to_bytes() {
            Err(ManifestError::Pattern(bad)) => bad,
            other => panic!("{other:?}"),
        }
    };
    let open = refused(|l| l.targets = Targets::Pattern("(q_proj".into()));
    assert_eq!((open.field, open.pattern.as_str()), ("targets", "(q_proj"));
    let ahead = refused(|l| l.alpha_pattern = [("(?=q)".into(), 1.0)].into_iter().collect());
    assert!(ahead.why.contains("look-around"), "{ahead}");
    assert_eq!((ahead.field, ahead.pattern.as_str()), ("alpha_pattern", "(?=q)"));
    let brackets = refused(|l| l.targets = Targets::Pattern("q)|(v".into()));
    assert!(brackets.why.contains("unopened"), "{brackets}");
    // As many whole paths as the largest models have linears are no trouble.
    let paths = (0..1_000).map(|i| (format!("model.layers.{i}.self_attn.q_proj"), 1)).collect();
    let large = Lora { rank_pattern: paths, ..Lora::new(2, 4.0, vec!["q_proj".into()]) };
    assert!(large.rules().is_ok());
    // Four counted repetitions in one another: small to write, huge to compile.
    let vast = refused(|l| l.targets = Targets::Pattern("(((a{99}){99}){99}){99}".into()));
    assert!(vast.why.contains("size limit"), "{vast}");
    let long = refused(|l| l.targets = Targets::Pattern("a".repeat(5_000)));
    assert!(long.why.contains("5000 bytes"), "{long}");
    let many = refused(|l| l.rank_pattern = (0..5_000).map(|i| (i.to_string(), 1)).collect());
    assert!(many.why.contains("5000"), "{many}");
}

#[test]
fn version_1_knows_plain_settings_alone() {
    let old = |lora| Manifest { version: 1, lora, ..manifest() }.to_bytes().map(|_| ());
    let plain = Lora::new(2, 4.0, vec!["q_proj".into()]);
    assert_eq!(old(Lora { dropout: 0.1, ..plain.clone() }), Ok(()));
    let why = "without patterns in version 1";
    let field = Err(ManifestError::Field { field: "lora", why });
    assert_eq!(old(Lora { rslora: true, ..plain.clone() }), field);
    assert_eq!(old(Lora { targets: Targets::Pattern("q_proj".into()), ..plain }), field);
}

#[test]
fn a_pattern_without_a_module_is_refused() {
    let none = Lora::new(2, 4.0, Targets::Pattern("q_proj".into())).layout(&linears());
    let known = "q_proj, up_proj".to_owned();
    assert_eq!(none, Err(LayoutError::NoSuchTarget { target: "q_proj".into(), known }));
    let some = Lora::new(2, 4.0, Targets::Pattern(r".*\.q_proj".into())).layout(&linears());
    assert_eq!(some.expect("two").n(), 40);
    let second = Lora { layers: Some(vec![1]), ..Lora::new(2, 4.0, vec!["q_proj".into()]) };
    assert_eq!(second.layout(&linears()).expect("one").n(), 20);
    let third = Lora { layers: Some(vec![2]), ..second };
    assert_eq!(third.layout(&linears()), Err(LayoutError::Empty));
}
