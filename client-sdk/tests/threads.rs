//! Training starts no thread, at a size where candle's own gradient sums would start a pool; on a team of
//! threads it gives the same bytes.
//!
//! Alone in its file: other tests' threads would be counted. (One `Tensor` sum of 2^17 entries in the
//! watcher makes it fail where there is a second core.)

#[cfg(target_os = "linux")]
mod fresh;

#[cfg(target_os = "linux")]
#[test]
fn training_starts_no_thread_and_a_team_changes_no_byte() {
    use gossamer_client::data::{Batch, Plan, TaskError, TrainingTask};
    use gossamer_client::train::{Control, Job, Team, Trained, train};
    use gossamer_protocol::ids::{ClientId, RoundId};
    use gossamer_protocol::layout::Layout;
    use gossamer_protocol::manifest::{MANIFEST_VERSION, Manifest};

    struct Counting;

    impl TrainingTask for Counting {
        fn examples(&self) -> usize {
            1
        }

        fn batch(&self, _: &Plan, step: u32) -> Result<Batch, TaskError> {
            let token = |i: u32| (i * 7 + step) % 600;
            let inputs = (0..256).map(token).collect();
            let targets = (1..257).map(token).collect();
            Ok(Batch { inputs, targets, lengths: vec![], rows: 4, cols: 64 })
        }
    }

    let threads = || std::fs::read_dir("/proc/self/task").expect("Linux").count();
    let base = fresh::base([256, 300, 1, 4, 2, 64, 600, 64]);
    let targets: Vec<String> = ["q_proj", "up_proj"].map(String::from).into();
    let layout = Layout::lora(&base.linears(), &targets, 128, false).expect("targets exist");
    assert!(layout.n() > 1 << 16, "candle's threshold");
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "version": MANIFEST_VERSION, "name": "threads", "seed": 1, "rounds": 1,
        "base": { "name": "fresh", "digest": base.digest() },
        "lora": { "rank": 128, "alpha": 128.0, "targets": targets },
        "layout": layout,
        "method": { "download": { "density": 1.0 }, "upload": { "density": 1.0 } },
        "training": {
            "steps": 2, "batch": 4, "context": 64,
            "optimizer": { "kind": "sgd", "lr": 0.1 }, "clip": 1.0,
        },
        "cohort": { "goal": 1, "ask": 1, "min": 1, "deadline_s": 60 },
        "optimizer": { "kind": "sgd", "lr": 1.0 },
    }))
    .expect("a manifest");
    let theta = manifest.layout.init(1);
    let (client, round) = (ClientId([1; 16]), RoundId(0));
    let job = Job { base: &base, manifest: &manifest, theta: &theta, support: None, client, round };
    let run = || {
        let mut during = 0;
        let trained = train(&job, &Counting, &mut |_| {
            during = threads();
            Control::Continue
        });
        (trained.expect("trains"), during)
    };
    let bits = |trained: &Trained| -> Vec<u32> {
        let loss = trained.last_loss.to_bits();
        trained.delta.iter().map(|x| x.to_bits()).chain([loss]).collect()
    };
    let before = threads();
    let (alone, during) = run();
    assert_eq!((during, threads()), (before, before));
    // Products of 256 x 256 x 300, 8 heads' attention, 256 x 300 activations: all are worth splitting.
    let team = Team::new(3.try_into().expect("not 0")).expect("threads");
    let (together, during) = team.run(run);
    assert_eq!(during, before + 3);
    assert_eq!(bits(&together), bits(&alone));
}
