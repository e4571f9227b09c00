//! Sound scenarios, and what is refused.

use super::*;

const SHAKESPEARE: &str = include_str!("../../scenarios/shakespeare.toml");
const SMOKE: &str = include_str!("../../scenarios/smoke.toml");
const RESIDUAL: &str = include_str!("../../scenarios/residual.toml");
const FLEET: &str = include_str!("../../scenarios/fleet.toml");
const METHODS: &str = include_str!("../../scenarios/methods.toml");
const MILLION: &str = include_str!("../../scenarios/million.toml");
const NEWSGROUPS: &str = include_str!("../../scenarios/newsgroups.toml");

#[test]
fn the_shipped_scenarios_are_sound() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let shakespeare = Scenario::parse(SHAKESPEARE, &dir).expect("sound");
    assert_eq!(shakespeare.methods[0].name, "dense");
    assert_eq!(shakespeare.methods.len(), 14);
    assert!(shakespeare.lora(&shakespeare.methods[2]).freeze_a, "ffa freezes A");
    let residual = Scenario::parse(RESIDUAL, &dir).expect("sound");
    assert_eq!(residual.methods.len(), 4);
    let smoke = Scenario::parse(SMOKE, &dir).expect("sound");
    assert_eq!(smoke.base, BaseModel::Tiny);
    assert!(matches!(smoke.data, Data::Languages(_)));
    let million = Scenario::parse(MILLION, &dir).expect("sound");
    assert_eq!(million.registered, Some(1_000_000));
    assert!(million.check_registered(1_000_000).is_ok() && million.check_registered(2).is_ok());
    let refused = million.check_registered(1_000_001).expect_err("fewer than dealt to").to_string();
    assert!(refused.contains("field registered"), "{refused}");
    let newsgroups = Scenario::parse(NEWSGROUPS, &dir).expect("sound");
    assert_eq!(newsgroups.head, Some(Head { classes: 20 }));
    assert_eq!(newsgroups.heldout.only["split"], "test");
}

/// What only a classification has, and what it cannot have.
#[test]
fn a_head_needs_labels_and_whole_texts() {
    let cases = [
        ("label = \"label\"\n", "", "field data.label"),
        ("classes = 20", "classes = 1", "field head.classes: expected 2 to 65,536"),
        ("classes = 20", "classes = 20\nnames = 3", "names"),
        ("only = { split = \"test\" }", "tail = 0.2", "field heldout.tail"),
        ("examples = ", "tokens = ", "field eval.tokens"),
        ("examples = ", "examples = 0 #", "field eval.examples"),
        ("context = 64", "context = 2", "field training.context"),
        ("[head]\nclasses = 20\n", "", "field eval.examples"),
    ];
    for (from, to, expected) in cases {
        let text = NEWSGROUPS.replacen(from, to, 1);
        assert_ne!(text, NEWSGROUPS, "{from:?} is not in the file");
        let refused = Scenario::parse(&text, Path::new("")).expect_err(to).to_string();
        assert!(refused.contains(expected), "{to:?} gave: {refused}");
    }
}

#[test]
fn paths_are_relative_to_the_file() {
    let scenario = Scenario::parse(SHAKESPEARE, Path::new("/s")).expect("sound");
    let Data::Rows(rows) = scenario.data else { panic!("rows") };
    assert!(rows.path.starts_with("/s/../../.."), "{:?}", rows.path);
    assert_eq!(rows.format(), Format::Jsonl);
}

/// Each edit breaks one thing; the error must name it and the file.
#[test]
fn what_is_off_is_named() {
    let cases = [
        ("rounds = 60", "roundz = 60", "roundz"),
        ("rounds = 60", "rounds = \"60\"", "rounds"),
        ("rounds = 60", "rounds = 0", "field rounds: expected at least 1"),
        ("name = \"shakespeare\"", "name = \"../shakespeare\"", "field name: expected letters"),
        ("name = \"shakespeare\"", "name = \"/tmp/shakespeare\"", "field name: expected"),
        ("name = \"shakespeare\"", "name = \"..\"", "field name: expected letters"),
        ("rounds = 60\n", "", "missing field `rounds`"),
        ("seeds = [1, 2, 3]", "seeds = [1, 1]", "field seeds"),
        ("seeds = [1, 2, 3]", "seeds = []", "field seeds"),
        ("min_chars = 1000", "min_char = 1000", "min_char"),
        ("min_chars = 1000", "names = [\"x\"]", "field data.names"),
        ("text = \"utterances\"", "text = 3", "a key or a list of keys"),
        ("text = \"utterances\"\n", "", "field data.text"),
        ("client = \"client\"\n", "", "field data.client"),
        ("by_role.jsonl.gz", "by_role", "a folder of .txt has no key \"utterances\""),
        ("kind = \"natural\"", "kind = \"natura\"", "natura"),
        ("kind = \"natural\"", "kind = \"natural\"\nclients = 4", "field partition.clients"),
        ("kind = \"natural\"", "kind = \"iid\"", "field partition.clients"),
        ("kind = \"natural\"", "kind = \"iid\"\nclients = 9", "field cohort.ask"),
        (
            "kind = \"natural\"",
            "kind = \"dirichlet\"\nclients = 9\nalpha = 0.0",
            "field partition.alpha",
        ),
        (
            "kind = \"natural\"",
            "kind = \"dirichlet\"\nclients = 90\nalpha = 0.1",
            "field data.label",
        ),
        (
            "kind = \"natural\"",
            "kind = \"quantity\"\nclients = 90\nalpha = -1.0",
            "field partition.alpha: expected a number above 0",
        ),
        ("kind = \"natural\"", "kind = \"classes\"\nclients = 90", "field partition.classes"),
        ("kind = \"natural\"", "kind = \"classes\"\nclients = 90\nclasses = 2", "field data.label"),
        (
            "kind = \"natural\"",
            "kind = \"shards\"\nclients = 90\nshards = 0",
            "field partition.shards",
        ),
        ("kind = \"natural\"", "kind = \"natural\"\nshards = 2", "only kind = \"shards\" uses it"),
        ("kind = \"natural\"", "kind = \"natural\"\nmix = 1.5", "field partition.mix"),
        ("text = \"utterances\"", "text = \"utterances\"\nlist = \"glue\"", "glue"),
        ("clients = 0.1", "clients = 0.1\nexamples = 1.0", "field heldout.examples"),
        ("clients = 0.1", "clients = 1.0", "field heldout.clients"),
        ("clients = 0.1", "clients = nan", "field heldout.clients"),
        ("clients = 0.1", "clients = 0.0", "field heldout: expected clients, tail or examples"),
        ("every = ", "every = 0 #", "field eval.every"),
        ("rank = 8", "rank = 0", "field lora.rank"),
        ("steps = 4", "steps = 0", "field training.steps"),
        ("momentum = 0.9 }", "momentum = 1.9 }", "field training.optimizer.momentum"),
        ("momentum = 0.9 }", "momentun = 0.9 }", "momentun"),
        ("ask = 10", "ask = 9", "field cohort.goal"),
        ("weight_decay = 0.01", "weight_decay = -1.0", "field optimizer.weight_decay"),
        ("name = \"ffa\"", "name = \"dense\"", "\"dense\" is there twice"),
        ("name = \"ffa\"", "name = \"\"", "field method.name"),
        ("density = 0.25", "density = 1.25", "density must be in (0, 1], got 1.25"),
        ("support = \"once\"", "support = \"once\", trane = 1", "trane"),
    ];
    for (from, to, expected) in cases {
        let text = SHAKESPEARE.replacen(from, to, 1);
        assert_ne!(text, SHAKESPEARE, "{from:?} is not in the file");
        let refused = match Scenario::parse(&text, Path::new("")) {
            Ok(_) => panic!("{to:?} was accepted"),
            Err(error) => error.to_string(),
        };
        assert!(refused.contains(expected), "{to:?} gave: {refused}");
        assert!(refused.starts_with("scenario: "), "{refused}");
    }
}

/// With the feature the file itself is looked for, later.
#[test]
fn parquet_without_its_feature_is_named() {
    let text = SHAKESPEARE.replacen(".jsonl.gz", ".parquet", 1);
    assert_ne!(text, SHAKESPEARE, "rows as JSON lines");
    let said = Scenario::parse(&text, Path::new("")).err().map(|error| error.to_string());
    let named = said.as_deref().is_some_and(|said| said.contains("the feature \"parquet\""));
    assert_eq!(named, cfg!(not(feature = "parquet")), "{said:?}");
}

#[test]
fn no_method_no_scenario() {
    let text = &SHAKESPEARE[..SHAKESPEARE.find("[[method]]").expect("has methods")];
    let refused = Scenario::parse(text, Path::new("")).expect_err("nothing to compare");
    assert!(refused.to_string().contains("field method: expected at least one"), "{refused}");
}

#[test]
fn a_missing_file_is_named_with_its_field() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("s.toml");
    let refused = Scenario::load(&path).expect_err("not there").to_string();
    assert!(refused.contains("s.toml"), "{refused}");
    std::fs::write(&path, SHAKESPEARE).expect("written");
    let refused = Scenario::load(&path).expect_err("no base").to_string();
    assert!(refused.contains("s.toml: field base: "), "{refused}");
}

#[test]
fn a_cohort_needs_its_clients() {
    let scenario = Scenario::parse(SHAKESPEARE, Path::new("")).expect("sound");
    assert!(scenario.check_against(10).is_ok());
    let refused = scenario.check_against(9).expect_err("too few").to_string();
    assert!(refused.contains("field cohort.ask: expected at most the 9 clients"), "{refused}");
}

#[test]
fn evaluations_frame_the_run() {
    let eval = Eval { clients: None, tokens: None, examples: None, by_client: false, every: 4 };
    let due: Vec<u64> = (0..=10).filter(|&r| eval.is_due(r, 10)).collect();
    assert_eq!(due, [0, 4, 8, 10]);
}

#[test]
fn held_out_clients_leave_some_to_train() {
    let heldout = |clients| Heldout { clients, ..Heldout::default() };
    assert_eq!(heldout(0.1).count(620), 62);
    assert_eq!(heldout(0.01).count(10), 1);
    assert_eq!(heldout(0.99).count(3), 2);
    assert_eq!(heldout(0.0).count(10), 0);
}

/// Adapter-LTH: in round t the densities are `0.5^floor(t / 2)` of what they are.
#[test]
fn a_decay_is_written_out_in_stages() {
    let text = METHODS.replacen("share = 0.5, every = 1", "share = 0.5, every = 2", 1);
    let scenario = Scenario::parse(&text, Path::new("")).expect("sound");
    let of = |name: &str| scenario.methods.iter().find(|method| method.name == name);
    let method = of("adapter-lth").expect("there").method(7);
    let at = |round| {
        let round = gossamer_protocol::ids::RoundId(round);
        let [down, up] = [method.download.at(round).0, method.upload.at(round).0].map(f64::from);
        assert_eq!(down, up);
        down
    };
    let densities: Vec<f64> = (0..7).map(at).collect();
    assert_eq!(densities, [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125]);
    assert_eq!(of("dense").expect("there").method(7), of("dense").expect("there").method);
}

#[test]
fn a_method_that_cannot_be_is_named() {
    let cases = [
        ("share = 0.5, every", "share = 1.0, every", "field method.decay.share"),
        ("every = 1", "every = 0", "field method.decay.every"),
        ("refit = 0.01", "refit = 0.0", "field method.combine"),
        (
            "combine = \"svd\"",
            "combine = \"svd\", average = \"contributors\"",
            "field method.average",
        ),
        ("combine = \"stack\"", "combine = \"stack\", train = \"support\"", "field method.combine"),
        ("{ rank = 1 }", "{ rank = 0 }", "field method.tiers"),
        ("{ rank = 1 }", "{ rank = 1, density = 0.5 }", "field method.tiers"),
        (
            "tiers = [{ rank = 1 }, { rank = 2 }, {}], tier_ranks",
            "tier_ranks",
            "field method.tier_ranks",
        ),
        ("clients = 8 }, download", "clients = 7 }, download", "field method.scaffold.clients"),
        ("clients = 8 }, download", "clients = 2 }, download", "field method.scaffold.clients"),
        ("momentum = 0.0", "momentum = 0.9", "field training"),
        ("lora.whole = true", "lora.targets = []", "field method.lora.targets"),
    ];
    for (from, to, expected) in cases {
        let text = METHODS.replacen(from, to, 1);
        assert_ne!(text, METHODS, "{from:?} is not in the file");
        let refused = Scenario::parse(&text, Path::new("")).expect_err(to).to_string();
        assert!(refused.contains(expected), "{to:?} gave: {refused}");
    }
}

#[test]
fn an_impossible_fleet_is_named() {
    let cases = [
        ("share = 0.75", "share = 0.5", "field fleet.tier.share: expected 1 together, got 0.75"),
        ("share = 0.75", "share = -0.75", "field fleet.tier.share: expected above 0"),
        ("flops = 2e9", "flops = 0", "field fleet.tier.flops"),
        ("up_bits = 5e4", "up_bits = inf", "field fleet.tier.up_bits"),
        ("loss = 0.02", "loss = 1.0", "field fleet.tier.loss"),
        ("dropout = 0.1", "dropout = nan", "field fleet.tier.dropout"),
        ("latency_s = 0.1", "latency_s = -1.0", "field fleet.tier.latency_s"),
        ("latency_s = 0.1", "hours = [9.0, 25.0]", "field fleet.tier.hours"),
        ("latency_s = 0.1", "latency_ms = 1", "latency_ms"),
        ("\"seeded\"", "\"first-come\"", "field cohort.selection"),
    ];
    assert!(Scenario::parse(FLEET, Path::new("")).expect("sound").fleet.is_some());
    for (from, to, expected) in cases {
        let text = FLEET.replacen(from, to, 1);
        assert_ne!(text, FLEET, "{from:?} is not in the file");
        let refused = Scenario::parse(&text, Path::new("")).expect_err(to).to_string();
        assert!(refused.contains(expected), "{to:?} gave: {refused}");
    }
}
