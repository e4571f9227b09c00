//! How long a device takes, and what it draws: a model in closed form, and each client's seeded luck.
//!
//! ```text
//! transfer = latency + 8 bytes / (bits (1 - loss))
//! training = (4 N + 6 n) tokens / flops * e^(spread z)
//! joules   = radio watts (download + upload) + train watts training
//! ```
//!
//! `N` weights of the frozen base take 2 operations forward and 2 for the gradient of what they took, a token;
//! the `n` trained ones 2 more for their own. Bytes are those of the frames that travelled.

use std::sync::Arc;

use gossamer_protocol::rng::Stream;

use crate::scenario::{DeviceTier, FleetSpec};
use crate::trace::{Stretch, Trace};

/// Which tier each client is in, and what a round asks of it.
#[derive(Clone, Debug)]
pub(super) struct Devices {
    spec: FleetSpec,
    /// Each client's tier, by its place in the fleet.
    tiers: Vec<usize>,
    /// Operations of one round's training.
    work: f64,
    /// Memory that it takes.
    memory: u64,
    /// What was measured of each client.
    trace: Option<Arc<Trace>>,
}

/// A client's luck in one attempt at a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Luck {
    /// How many times as long its training takes.
    pub(super) stretch: f64,
    /// It trains, and does not deliver.
    pub(super) drops: bool,
}

/// What one client's round took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spent {
    /// Seconds to receive and to train.
    pub(super) before_s: f64,
    /// Seconds to send.
    pub(super) upload_s: f64,
    /// Energy until it was ready to send.
    pub(super) before_joules: f64,
    /// Energy for sending.
    pub(super) upload_joules: f64,
}

impl Devices {
    /// Of `clients`, dealt to the tiers at random by their shares. `work`: operations of a client's training,
    /// which takes `memory` bytes.
    pub(super) fn new(spec: &FleetSpec, clients: usize, work: f64, memory: u64) -> Self {
        let mut order: Vec<usize> = (0..clients).collect();
        Stream::new(spec.seed, "sim/fleet/tiers", &[]).shuffle(&mut order);
        let mut tiers = vec![0; clients];
        for (rank, &client) in order.iter().enumerate() {
            let place = (rank as f64 + 0.5) / clients as f64;
            let mut upto = 0.0;
            let within = |tier: &DeviceTier| {
                upto += tier.share;
                place < upto
            };
            // Rounding may leave the last share a hair short of 1.
            let last = spec.tier.len() - 1;
            tiers[client] = spec.tier.iter().position(within).unwrap_or(last);
        }
        Self { spec: spec.clone(), tiers, work, memory, trace: None }
    }

    /// With what was measured of each client.
    pub(super) fn traced(self, trace: Option<Arc<Trace>>) -> Self {
        Self { trace, ..self }
    }

    fn traced_at(&self, client: usize, now_s: f64) -> Option<&Stretch> {
        self.trace.as_ref()?.at(client, now_s)
    }

    fn tier(&self, client: usize) -> &DeviceTier {
        &self.spec.tier[self.tiers[client]]
    }

    /// Draws everybody's luck.
    pub(super) fn seed(&self) -> u64 {
        self.spec.seed
    }

    /// What a client's tier is called.
    pub(super) fn tier_name(&self, client: usize) -> &str {
        &self.tier(client).name
    }

    /// Whether a client can begin `now_s` seconds after the first midnight.
    pub(super) fn can_begin(&self, client: usize, now_s: f64) -> bool {
        let tier = self.tier(client);
        let fits = tier.memory_bytes.is_none_or(|most| self.memory <= most);
        let hour = (now_s / 3600.0) % 24.0;
        let awake = tier.hours.is_none_or(|[from, to]| match from < to {
            true => (from..to).contains(&hour),
            false => hour >= from || hour < to,
        });
        fits && awake && self.traced_at(client, now_s).is_none_or(|stretch| stretch.available)
    }

    /// A client's luck, the same for every method.
    pub(super) fn luck(&self, client: usize, seed: u64, round: u64, attempt: u32) -> Luck {
        let words = [client as u64, seed, round, attempt.into()].map(u64::to_le_bytes);
        let parts: Vec<&[u8]> = words.iter().map(|word| &word[..]).collect();
        let mut stream = Stream::new(self.spec.seed, "sim/fleet/luck", &parts);
        let tier = self.tier(client);
        let drops = f64::from(stream.unit()) < tier.dropout;
        Luck { stretch: (tier.spread * stream.normal()).exp(), drops }
    }

    /// What so many bytes each way and the training take, begun `now_s` seconds after the first midnight.
    pub(super) fn spent(
        &self,
        client: usize,
        now_s: f64,
        luck: Luck,
        [down, up]: [u64; 2],
    ) -> Spent {
        let tier = self.tier(client);
        let traced = self.traced_at(client, now_s);
        let flops = traced.and_then(|stretch| stretch.flops).unwrap_or(tier.flops);
        let down_bits = traced.and_then(|stretch| stretch.down_bits).unwrap_or(tier.down_bits);
        let up_bits = traced.and_then(|stretch| stretch.up_bits).unwrap_or(tier.up_bits);
        let transfer = |bytes: u64, bits: f64| {
            tier.latency_s + 8.0 * bytes as f64 / (bits * (1.0 - tier.loss))
        };
        let (download_s, upload_s) = (transfer(down, down_bits), transfer(up, up_bits));
        let train_s = self.work / flops * luck.stretch;
        Spent {
            before_s: download_s + train_s,
            upload_s,
            before_joules: tier.radio_watts * download_s + tier.train_watts * train_s,
            upload_joules: tier.radio_watts * upload_s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> FleetSpec {
        toml::from_str(
            r#"
            [[tier]]
            name = "phone"
            share = 0.75
            flops = 1e9
            down_bits = 8e6
            up_bits = 1e6
            latency_s = 0.5
            train_watts = 4.0
            radio_watts = 1.0
            dropout = 0.25
            spread = 0.5
            hours = [22.0, 6.0]
            [[tier]]
            name = "board"
            share = 0.25
            flops = 4e9
            down_bits = 80e6
            up_bits = 80e6
            loss = 0.5
            memory_bytes = 1000
            "#,
        )
        .expect("a fleet")
    }

    fn of(devices: &Devices, tier: usize) -> usize {
        devices.tiers.iter().position(|&of| of == tier).expect("one of that tier")
    }

    /// By hand, 8e9 operations, 1 MB down, 125 kB up. Phone: 0.5 + 1 s, 8 s, 0.5 + 1 s, and
    /// 1.5 + 32 and 1.5 joules. Board: 0.2 s (half is lost), 2 s, 0.025 s.
    #[test]
    fn times_are_the_formula() {
        let devices = Devices::new(&spec(), 8, 8e9, 500);
        assert_eq!(devices.tiers.iter().filter(|&&tier| tier == 0).count(), 6);
        let luck = Luck { stretch: 1.0, drops: false };
        let phone = devices.spent(of(&devices, 0), 0.0, luck, [1_000_000, 125_000]);
        assert_eq!((phone.before_s, phone.upload_s), (9.5, 1.5));
        assert_eq!((phone.before_joules, phone.upload_joules), (33.5, 1.5));
        let board = devices.spent(of(&devices, 1), 0.0, luck, [1_000_000, 125_000]);
        assert!((board.before_s - 2.2).abs() < 1e-12 && (board.upload_s - 0.025).abs() < 1e-12);
        let slow = Luck { stretch: 2.0, drops: false };
        assert_eq!(devices.spent(of(&devices, 0), 0.0, slow, [1_000_000, 0]).before_s, 17.5);
    }

    /// A phone of 2e9 operations a second at 2 MB/s down, for its first ten seconds of twenty, then away.
    #[test]
    fn a_trace_has_the_last_word() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("trace.csv");
        let head = "client,from_s,to_s,available,flops,down_bits";
        let rows: String =
            (0..8).map(|at| format!("c{at},0,10,1,2e9,16e6\nc{at},10,20,0,,\n")).collect();
        std::fs::write(&path, format!("{head}\n{rows}")).expect("written");
        let names: Vec<String> = (0..8).map(|at| format!("c{at}")).collect();
        let trace = Trace::load(&path, &names).expect("sound");
        let devices = Devices::new(&spec(), 8, 8e9, 500).traced(Some(Arc::new(trace)));
        let phone = of(&devices, 0);
        let luck = Luck { stretch: 1.0, drops: false };
        let spent = devices.spent(phone, 25.0, luck, [1_000_000, 125_000]);
        assert_eq!((spent.before_s, spent.upload_s), (0.5 + 0.5 + 4.0, 1.5));
        assert_eq!(devices.spent(phone, 15.0, luck, [1_000_000, 0]).before_s, 9.5);
        assert_eq!(
            [5.0, 15.0, 25.0].map(|now_s| devices.can_begin(phone, now_s)),
            [true, false, true]
        );
    }

    #[test]
    fn who_can_begin() {
        let devices = Devices::new(&spec(), 8, 8e9, 2_000);
        let hour = |hour: f64| devices.can_begin(of(&devices, 0), hour * 3600.0);
        assert_eq!([21.9, 22.0, 24.0, 29.9, 30.0].map(hour), [false, true, true, true, false]);
        assert!(!devices.can_begin(of(&devices, 1), 0.0), "2,000 bytes are not there");
    }

    /// A quarter drops out, and the logarithm of the stretch has deviation 1/2.
    #[test]
    fn luck_is_drawn_as_the_tier_says() {
        let devices = Devices::new(&spec(), 8, 1.0, 0);
        let client = of(&devices, 0);
        let lucks: Vec<Luck> = (0..4_000).map(|round| devices.luck(client, 1, round, 0)).collect();
        let drops = lucks.iter().filter(|luck| luck.drops).count();
        // Binomial(4000, 1/4): sd 27.
        assert!(drops.abs_diff(1_000) < 140, "{drops}");
        let square: f64 = lucks.iter().map(|luck| luck.stretch.ln().powi(2)).sum();
        assert!((square / 4_000.0 - 0.25).abs() < 0.03, "{square}");
        assert_eq!(devices.luck(client, 1, 7, 0), lucks[7]);
        assert_ne!(devices.luck(client, 1, 7, 1), lucks[7]);
    }
}
