use super::*;
use crate::layout::{BaseLinear, Layout};

pub(crate) fn manifest() -> Manifest {
    let linear = BaseLinear { name: "m.q_proj".into(), d_in: 4, d_out: 6 };
    Manifest {
        version: MANIFEST_VERSION,
        name: "test".into(),
        seed: 1,
        rounds: 2,
        base: Base { name: "b".into(), digest: Digest::of(b"b") },
        lora: Lora::new(2, 4.0, vec!["q_proj".into()]),
        layout: Layout::lora(&[linear], &["q_proj".into()], 2, false).expect("valid"),
        head: None,
        method: Method::sparse(Density::FULL, Density::FULL),
        training: Training {
            steps: 1,
            batch: 1,
            context: 8,
            optimizer: LocalOptimizer::Sgd { lr: 0.1, momentum: 0.9 },
            clip: None,
            proximal: 0.0,
        },
        cohort: Cohort {
            goal: 2,
            ask: 3,
            min: 1,
            enrolled_min: 0,
            deadline_s: 60,
            selection: Selection::FirstCome,
            retry_s: 1.0,
            buffered: None,
            participation: None,
        },
        optimizer: ServerOptimizer::Sgd { lr: 1.0, momentum: 0.0 },
        stop: None,
        evaluation: None,
        start: None,
    }
}

#[test]
fn bytes_round_trip() {
    let bytes = manifest().to_bytes().expect("valid");
    assert_eq!(Manifest::from_bytes(&bytes), Ok(manifest()));
}

#[test]
fn a_training_alone_is_sound() {
    let Manifest { base, lora, layout, head, training, .. } = manifest();
    let alone = Manifest::alone(base, lora, layout, head, training);
    let bytes = alone.to_bytes().expect("sound");
    assert_eq!(Manifest::from_bytes(&bytes), Ok(alone));
}

#[test]
fn an_unknown_field_is_refused_by_name() {
    let text = String::from_utf8(manifest().to_bytes().expect("valid")).expect("JSON");
    let text = text.replacen("\"rounds\"", "\"roundz\"", 1);
    let refused = Manifest::from_bytes(text.as_bytes()).expect_err("unknown field");
    assert!(refused.to_string().contains("roundz"), "{refused}");
}

#[test]
fn a_field_out_of_range_is_refused_by_name() {
    type Break = fn(&mut Manifest);
    let cases: [(&str, Break); 10] = [
        ("rounds", |m| m.rounds = 0),
        ("lora.alpha", |m| m.lora.alpha = f64::NAN),
        ("lora.dropout", |m| m.lora.dropout = 1.0),
        ("method.download.residual", |m| m.method.download.residual = f32::NAN),
        ("training.clip", |m| m.training.clip = Some(0.0)),
        ("cohort.goal", |m| m.cohort.goal = 4),
        ("cohort.min", |m| m.cohort.min = 0),
        ("cohort.ask", |m| m.cohort.ask = COHORT_MAX + 1),
        ("method.support", |m| m.method.support = SupportRule::Once),
        ("optimizer.lr", |m| m.optimizer = ServerOptimizer::Sgd { lr: -1.0, momentum: 0.0 }),
    ];
    for (name, break_it) in cases {
        let mut m = manifest();
        break_it(&mut m);
        match m.to_bytes() {
            Err(ManifestError::Field { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// A manifest without a head has the bytes it always had; one with a head names its tensors.
#[test]
fn head_and_layout_agree() {
    let plain = String::from_utf8(manifest().to_bytes().expect("valid")).expect("JSON");
    assert!(!plain.contains("head"));
    let with = |classes, laid: &dyn Fn(Layout) -> Layout| {
        let manifest = manifest();
        let layout = laid(manifest.layout.clone());
        let manifest = Manifest { head: Some(Head { classes }), layout, ..manifest };
        manifest.to_bytes().map(|bytes| Manifest::from_bytes(&bytes).expect("its own"))
    };
    let three = |layout: Layout| layout.with_head(3, 4).expect("valid");
    assert_eq!(with(3, &three).expect("valid").head, Some(Head { classes: 3 }));

    let field = |refused| match refused {
        Err(ManifestError::Field { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(with(3, &|layout| layout)), "layout");
    assert_eq!(field(with(4, &three)), "layout");
    assert_eq!(field(with(1, &|layout| layout.with_head(1, 4).expect("valid"))), "head.classes");
    let twice = |layout: Layout| {
        let mut tensors: Vec<crate::layout::TensorSpec> = three(layout).into();
        tensors.insert(0, crate::layout::TensorSpec { name: "x".into(), ..tensors[3].clone() });
        Layout::new(tensors).expect("a layout")
    };
    assert_eq!(field(with(3, &twice)), "layout");
    let headless = Manifest { layout: three(manifest().layout), ..manifest() };
    assert_eq!(field(headless.to_bytes().map(|_| headless.clone())), "head");
}

/// Without them a manifest has the bytes it always had.
#[test]
fn buffered_rounds_are_a_mean_of_whoever_comes() {
    let plain = String::from_utf8(manifest().to_bytes().expect("valid")).expect("JSON");
    assert!(!plain.contains("buffered"));
    let with = |staleness_max, change: &dyn Fn(&mut Manifest)| {
        let mut manifest = manifest();
        manifest.cohort.buffered = Some(Buffered { staleness_max });
        change(&mut manifest);
        match manifest.to_bytes() {
            Ok(bytes) => (Manifest::from_bytes(&bytes) == Ok(manifest)).then_some("sound"),
            Err(ManifestError::Field { field, .. }) => Some(field),
            Err(_) => None,
        }
    };
    assert_eq!(with(STALENESS_MAX, &|_| ()), Some("sound"));
    assert_eq!(with(65, &|_| ()), Some("cohort.buffered.staleness_max"));
    let seeded = |m: &mut Manifest| m.cohort.selection = Selection::Seeded;
    assert_eq!(with(1, &seeded), Some("cohort.selection"));
    assert_eq!(with(1, &|m| m.method.average = Average::Examples), Some("method.average"));
    assert_eq!(with(1, &|m| m.version = 1), Some("cohort.buffered"));
}

/// A client multiplies once for each round gone by, so that a manifest must not ask for ever.
#[test]
fn feedback_reaches_back_so_far() {
    let with = |rounds_max| {
        let mut manifest = manifest();
        manifest.method.upload.feedback = Some(Feedback { decay: 0.5, rounds_max });
        manifest.to_bytes().map(|_| ())
    };
    assert_eq!(with(1_000_000), Ok(()));
    let field = "method.upload.feedback.rounds_max";
    assert_eq!(with(1_000_001), Err(ManifestError::Field { field, why: "at most 1,000,000" }));
}

#[test]
fn a_core_has_its_place_and_a_seeded_start() {
    type Break = fn(&mut Manifest);
    let cases: [(&str, Break); 6] = [
        ("layout", |m| m.layout = manifest().layout),
        ("layout", |m| m.layout = manifest().layout.with_weights().expect("valid")),
        ("layout", |m| m.method.combine = Combine::Svd),
        ("start", |m| m.start = Some(Digest::of(b"trained"))),
        ("method.tiers", |m| m.method.tiers = vec![Tier { rank: Some(1), density: None }]),
        ("optimizer", |m| m.optimizer = ServerOptimizer::Sgd { lr: 0.5, momentum: 0.0 }),
    ];
    let mut sound = manifest();
    sound.method.combine = Combine::Core;
    sound.layout = sound.layout.with_cores().expect("valid");
    let bytes = sound.to_bytes().expect("sound");
    assert_eq!(Manifest::from_bytes(&bytes).as_ref(), Ok(&sound));
    let core = sound.layout.tensors().last().expect("three tensors");
    assert_eq!((core.0.name.as_str(), core.0.shape, core.1), ("m.q_proj.lora_R", [2, 2], 20..24));
    assert_eq!(sound.layout.init(1)[20..], [1.0, 0.0, 0.0, 1.0]);
    for (name, break_it) in cases {
        let mut broken = sound.clone();
        break_it(&mut broken);
        match broken.to_bytes() {
            Err(ManifestError::Field { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}
