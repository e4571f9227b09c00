//! Modules, ranks and scales as PEFT has them, on names of Llama, BERT and GPT-2.
//!
//! `vectors/lora.json` is what `client-sdk/tests/python/peft_rules.py` read back from PEFT's own models.

use std::collections::BTreeMap;

use gossamer_protocol::layout::{BaseLinear, Part};
use gossamer_protocol::manifest::{Lora, Patterns, Targets};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    paths: Vec<String>,
    settings: Settings,
    adapted: BTreeMap<String, (usize, f64)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    r: usize,
    lora_alpha: f64,
    target_modules: Targets,
    #[serde(default)]
    rank_pattern: Patterns<usize>,
    #[serde(default)]
    alpha_pattern: Patterns<f64>,
    #[serde(default)]
    use_rslora: bool,
    layers_to_transform: Option<Vec<usize>>,
}

#[test]
fn pefts_modules_ranks_and_scales() {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("vectors/lora.json")).expect("the script's shape");
    assert_eq!(cases.len(), 15);
    for Case { paths, settings, adapted } in cases {
        let what = format!("{settings:?}");
        let lora = Lora {
            rank_pattern: settings.rank_pattern,
            alpha_pattern: settings.alpha_pattern,
            rslora: settings.use_rslora,
            layers: settings.layers_to_transform,
            ..Lora::new(settings.r, settings.lora_alpha, settings.target_modules)
        };
        let rules = lora.rules().expect("patterns this build knows");
        for path in &paths {
            let found = rules.targets(path).then(|| (rules.rank(path), rules.scale(path)));
            match (found, adapted.get(path)) {
                (None, None) => {}
                (Some((rank, scale)), Some(&(peft_rank, peft_scale))) => {
                    assert_eq!(rank, peft_rank, "{path}: {what}");
                    assert!((scale - peft_scale).abs() < 1e-12, "{path}: {scale}, {what}");
                }
                other => panic!("{path}: {other:?}, {what}"),
            }
        }

        let linear = |name: &String| BaseLinear { name: name.clone(), d_in: 4, d_out: 6 };
        let linears: Vec<BaseLinear> = paths.iter().map(linear).collect();
        let layout = lora.layout(&linears).expect("targets there are");
        let mut tensors = layout.tensors();
        for path in paths.iter().filter(|path| adapted.contains_key(*path)) {
            let (rank, _) = adapted[path];
            let (a, _) = tensors.next().expect("A");
            let (b, _) = tensors.next().expect("B");
            assert_eq!((&a.name, a.part), (&format!("{path}.lora_A"), Part::LoraA));
            assert_eq!((a.shape, b.shape), ([rank, 4], [6, rank]));
        }
        assert_eq!(tensors.next(), None);
    }
}
