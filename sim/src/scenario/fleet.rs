//! `[fleet]`: what devices are like, so that rounds take virtual time.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::file::Misfit;

/// Devices in tiers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetSpec {
    /// Draws who is in which tier, and each client's luck in each round.
    #[serde(default)]
    pub seed: u64,
    /// When each device can begin and how fast it is, besides what its tier says; see [`crate::trace`]. Already
    /// joined to the scenario's own folder.
    pub trace: Option<PathBuf>,
    /// The tiers.
    #[serde(default)]
    pub tier: Vec<DeviceTier>,
}

/// Devices of one kind.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceTier {
    /// What people call them.
    pub name: String,
    /// Share of all clients; all tiers' are 1 together.
    pub share: f64,
    /// Floating-point operations a second that training sustains.
    pub flops: f64,
    /// Bits a second to the device.
    pub down_bits: f64,
    /// Bits a second from the device.
    pub up_bits: f64,
    /// Seconds before a transfer's first bit arrives, each way.
    #[serde(default)]
    pub latency_s: f64,
    /// Share of packets that are lost and sent again.
    #[serde(default)]
    pub loss: f64,
    /// Stragglers: training takes `e^(spread z)` times as long, `z` standard normal.
    #[serde(default)]
    pub spread: f64,
    /// Share of the asked that do not deliver, after they trained.
    #[serde(default)]
    pub dropout: f64,
    /// Hours of the day at which a device can begin, from and to; it may pass midnight. Time 0 is midnight.
    pub hours: Option<[f64; 2]>,
    /// Memory that training may take; a device whose training takes more never begins.
    pub memory_bytes: Option<u64>,
    /// Power above idle while it trains.
    #[serde(default)]
    pub train_watts: f64,
    /// Power above idle while it sends or receives.
    #[serde(default)]
    pub radio_watts: f64,
}

impl FleetSpec {
    /// With paths relative to `dir`.
    pub(super) fn within(mut self, dir: &Path) -> Self {
        self.trace = self.trace.map(|trace| dir.join(trace));
        self
    }

    pub(super) fn check(&self) -> Result<(), Misfit> {
        let field = |ok: bool, field: &str, why: String| {
            if ok { Ok(()) } else { Err((format!("fleet.{field}"), why)) }
        };
        field(!self.tier.is_empty(), "tier", "at least one [[fleet.tier]]".into())?;
        for tier in &self.tier {
            let name = &tier.name;
            for (at, value) in [
                ("share", tier.share),
                ("flops", tier.flops),
                ("down_bits", tier.down_bits),
                ("up_bits", tier.up_bits),
            ] {
                let ok = value.is_finite() && value > 0.0;
                field(ok, &format!("tier.{at}"), format!("above 0, got {value} (tier {name:?})"))?;
            }
            for (at, value) in [
                ("latency_s", tier.latency_s),
                ("spread", tier.spread),
                ("train_watts", tier.train_watts),
                ("radio_watts", tier.radio_watts),
            ] {
                let ok = value.is_finite() && value >= 0.0;
                let why = format!("at least 0, got {value} (tier {name:?})");
                field(ok, &format!("tier.{at}"), why)?;
            }
            for (at, value) in [("loss", tier.loss), ("dropout", tier.dropout)] {
                let why = format!("in [0, 1), got {value} (tier {name:?})");
                field((0.0..1.0).contains(&value), &format!("tier.{at}"), why)?;
            }
            let day = |hour: &f64| (0.0..=24.0).contains(hour);
            let ok = tier.hours.is_none_or(|[from, to]| day(&from) && day(&to) && from != to);
            field(ok, "tier.hours", format!("two hours of 0 to 24 that differ (tier {name:?})"))?;
        }
        let total: f64 = self.tier.iter().map(|tier| tier.share).sum();
        field((total - 1.0).abs() < 1e-6, "tier.share", format!("1 together, got {total}"))
    }
}
