//! The methods of `scenarios/methods.toml`, run side by side: what must be equal, and what each costs.

use std::collections::BTreeMap;

use super::*;
use crate::report::read_rows;

const METHODS: &str = include_str!("../../scenarios/methods.toml");

/// The rows over `rounds` rounds of each method that is `meant`.
async fn rows(rounds: u64, meant: impl Fn(&str) -> bool) -> BTreeMap<String, Vec<RoundRow>> {
    let mut scenario = Scenario::parse(METHODS, Path::new("")).expect("sound");
    scenario.rounds = rounds;
    scenario.methods.retain(|method| meant(&method.name));
    scenario.eval.tokens = Some(512);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let threads = NonZeroUsize::new(2).expect("not 0");
    let options = Options {
        out: dir.path().to_owned(),
        threads,
        deltas: None,
        resume: false,
        checkpoint: Duration::ZERO,
        command: None,
        tuning: false,
        tuned: Vec::new(),
        progress: Progress::Lines,
        ranks: Ranks::default(),
    };
    compare(scenario, &options).await.expect("sound");
    let mut methods: BTreeMap<String, Vec<RoundRow>> = BTreeMap::new();
    for row in read_rows(&dir.path().join("metrics.jsonl")).expect("rows") {
        methods.entry(row.method.clone()).or_default().push(row);
    }
    methods
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_agree_where_their_formulas_do() {
    let methods = rows(2, |name| name != "fed-sb").await;
    assert_eq!(methods.len(), 16);
    let at = |name: &str, round: usize| &methods[name][round];
    let loss = |name, round| at(name, round).heldout_loss.expect("measured");
    for (name, rows) in &methods {
        assert_eq!(rows.len(), 3, "{name}");
        assert!(loss(name, 2) < loss(name, 0), "{name} learns nothing");
    }

    // FLoRA and FedEx-LoRA both end round 1 at W + s sum w_k B_k A_k; the mean of factors is elsewhere.
    let [flora, fedex, dense] = ["flora", "fedex-lora", "dense"].map(|name| loss(name, 1));
    assert!((flora - fedex).abs() < 1e-5, "{flora} and {fedex}");
    assert!((flora - dense).abs() > 1e-4, "{flora} and {dense}");
    // Clients are dealt alike, so that examples weigh as much as clients do, but for their last windows.
    let fedit = loss("fedit", 1);
    assert!((fedit - dense).abs() < 1e-2, "{fedit} and {dense}");
    // With control variates that are all 0 round 1 is the mean's; momentum begins with round 2.
    for name in ["scaffold", "fedavgm"] {
        assert_eq!(loss(name, 1), dense, "{name}");
        assert_ne!(loss(name, 2), loss("dense", 2), "{name}");
    }

    // Averaging is exact where one factor moves, and in the first round of all nothing is lost but here.
    let lost = |name| at(name, 1).product_error.expect("measured");
    assert!(lost("rolora") < 1e-5, "{}", lost("rolora"));
    assert_eq!(lost("ffa"), 0.0);
    for name in ["dense", "hetlora", "rank-by-norm", "flasc-tiers"] {
        assert!(lost(name) > 1e-3, "{name}: {}", lost(name));
    }

    // Bytes: half the factors, both of each, what the weights take, and a round that is half as dense.
    let up = |name| at(name, 2).upload_bytes as f64;
    let down = |name| at(name, 2).download_bytes as f64;
    assert!((up("scaffold") / up("dense") - 2.0).abs() < 0.1, "{}", up("scaffold"));
    assert!((up("adapter-lth") / up("dense") - 0.5).abs() < 0.05, "{}", up("adapter-lth"));
    for less in ["ffa", "rolora", "hetlora", "rank-by-norm", "flasc-tiers"] {
        assert!(up(less) < 0.9 * up("dense"), "{less}: {}", up(less));
    }
    for same in ["flora", "fedex-lora", "flexlora", "lora-fair"] {
        assert!((up(same) / up("dense") - 1.0).abs() < 0.05, "{same}: {}", up(same));
    }
    for more in ["flora", "fedex-lora", "full"] {
        assert!(down(more) > 1.5 * down("dense"), "{more}: {}", down(more));
    }
}

/// Two rounds find the gradient's largest components, then the core alone is trained and sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_core_learns_with_few_numbers() {
    let methods = rows(5, |name| ["dense", "fed-sb"].contains(&name)).await;
    let [core, dense] = ["fed-sb", "dense"].map(|name| &methods[name]);
    let loss = |round: usize| core[round].heldout_loss.expect("measured");
    assert!((loss(1) - loss(0)).abs() < 1e-6, "a basis alone changes nothing: {}", loss(1));
    assert!(loss(2) < loss(0) && loss(5) < loss(2), "{} {} {}", loss(0), loss(2), loss(5));
    for row in &core[2..] {
        let lost = row.product_error.expect("measured");
        assert!(lost < 1e-4, "round {}: the mean is exact, {lost} is lost", row.round);
    }
    // Of q and v in four layers: 16 numbers each, where LoRA of this rank has 1,152 or fewer.
    assert!(20 * core[3].upload_bytes < dense[3].upload_bytes, "{}", core[3].upload_bytes);
    assert!(core[1].upload_bytes + core[2].upload_bytes < 2 * dense[1].upload_bytes);
}
