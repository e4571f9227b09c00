//! The estimate of a training's memory, within a tenth of what Linux counts.
//!
//! Alone in its file, and each case in a process of its own: the peak is the process's.

#[cfg(target_os = "linux")]
mod fresh;

#[cfg(target_os = "linux")]
#[test]
fn the_estimate_is_near_the_peak() {
    use gossamer_client::data::{Batch, Plan, TaskError, TrainingTask};
    use gossamer_client::train::{Footprint, Job, Memory, Work};
    use gossamer_protocol::digest::Digest;
    use gossamer_protocol::ids::{ClientId, RoundId};
    use gossamer_protocol::layout::Layout;
    use gossamer_protocol::manifest::{MANIFEST_VERSION, Manifest};

    struct Full;

    impl TrainingTask for Full {
        fn examples(&self) -> usize {
            1
        }

        fn has_loss(&self) -> bool {
            false
        }

        fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
            let (rows, cols) = (plan.rows, plan.cols);
            let token = |i: usize| (i * 7 + step as usize) as u32 % 4000;
            let inputs = (0..rows * cols).map(token).collect();
            let targets = (1..=rows * cols).map(token).collect();
            Ok(Batch { inputs, targets, lengths: vec![], rows, cols })
        }
    }

    const CASE: &str = "GOSSAMER_TEST_CASE";
    const CASES: [(u32, usize, f64, bool, u32); 6] = [
        (2, 8, 0.0, false, 0),
        (8, 8, 0.1, false, 0),
        (4, 128, 0.0, false, 0),
        (8, 8, 0.0, true, 0),
        (8, 8, 0.1, true, 0),
        (16, 8, 0.0, true, 4),
    ];
    let Ok(case) = std::env::var(CASE) else {
        for case in 0..CASES.len() {
            let mut again = std::process::Command::new(std::env::current_exe().expect("this test"));
            again.args(["--exact", "the_estimate_is_near_the_peak", "--nocapture"]);
            let status = again.env(CASE, case.to_string()).status().expect("runs");
            assert!(status.success(), "case {case}");
        }
        return;
    };
    let (batch, rank, dropout, checkpoint, micro) = CASES[case.parse::<usize>().expect("a number")];
    let footprint = Footprint { checkpoint, micro_batch: std::num::NonZeroU32::new(micro) };
    // In kB, by name.
    let status = |name: &str| -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let line = text.lines().find(|line| line.starts_with(name)).expect("is told");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    };
    let base = fresh::base([192, 512, 6, 6, 3, 32, 4000, 128]);
    let targets: Vec<String> = ["q_proj", "v_proj", "down_proj"].map(String::from).into();
    let layout = Layout::lora(&base.linears(), &targets, rank, false).expect("targets exist");
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "version": MANIFEST_VERSION, "name": "memory", "seed": 1, "rounds": 1,
        "base": { "name": "fresh", "digest": base.digest() },
        "lora": { "rank": rank, "alpha": 16.0, "targets": targets, "dropout": dropout },
        "layout": layout,
        "method": { "download": { "density": 1.0 }, "upload": { "density": 1.0 } },
        "training": {
            "steps": 2, "batch": batch, "context": 128,
            "optimizer": { "kind": "adamw", "lr": 0.001, "weight_decay": 0.0 },
        },
        "cohort": { "goal": 1, "ask": 1, "min": 1, "deadline_s": 60 },
        "optimizer": { "kind": "sgd", "lr": 1.0 },
    }))
    .expect("a manifest");
    let theta = manifest.layout.init(1);
    let (client, round) = (ClientId([1; 16]), RoundId(0));
    let job = Job { base: &base, manifest: &manifest, theta: &theta, support: None, client, round };
    // Forgets the peak so far.
    if std::fs::write("/proc/self/clear_refs", "5").is_err() {
        println!("NOT RUN: this system does not let a process forget its peak");
        return;
    }
    let before = status("VmRSS:");
    let mut work = Work::start(&job, &Full).expect("fits").footprint(footprint);
    while work.step().expect("trains").is_some() {
        std::hint::black_box(work.save(Digest::of(b"it")));
    }
    let grown = 1024 * (status("VmHWM:") - before);
    let estimate = Memory::of(&base, &manifest, false, footprint);
    // The adapter as received, and its frame, are not the training's own.
    let told = estimate.adapter - 8 * theta.len() as u64 + estimate.step;
    let ratio = told as f64 / grown as f64;
    println!(
        "{batch} x 128, rank {rank}, {footprint:?}: estimated {told}, grown {grown}, ratio {ratio:.2}"
    );
    assert!((0.9..1.1).contains(&ratio), "estimated {told}, grown {grown}");
}
