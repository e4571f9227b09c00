//! Which device trains, by its name.

use std::str::FromStr;

/// A CPU or a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    Cpu,
    Cuda(usize),
    Metal(usize),
}

impl Device {
    /// candle's, where it is not the CPU, whose trainings do not go by candle.
    pub(super) fn open(self) -> anyhow::Result<Option<candle_core::Device>> {
        let missing = |feature: &str| {
            anyhow::anyhow!(
                "this build trains on CPUs alone; build it with --features {feature} (docs/devices.md)"
            )
        };
        match self {
            Self::Cpu => Ok(None),
            Self::Cuda(_) if !cfg!(feature = "cuda") => Err(missing("cuda")),
            Self::Metal(_) if !cfg!(feature = "metal") => Err(missing("metal")),
            Self::Cuda(at) => Ok(Some(candle_core::Device::new_cuda(at)?)),
            Self::Metal(at) => Ok(Some(candle_core::Device::new_metal(at)?)),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let (kind, at) = name.split_once(':').unwrap_or((name, "0"));
        match (kind, at.parse()) {
            ("cpu", Ok(0)) if name == "cpu" => Ok(Self::Cpu),
            ("cuda", Ok(at)) => Ok(Self::Cuda(at)),
            ("metal", Ok(at)) => Ok(Self::Metal(at)),
            _ => Err("a device is cpu, cuda, cuda:N, metal or metal:N".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, device) in [
            ("cpu", Device::Cpu),
            ("cuda", Device::Cuda(0)),
            ("cuda:3", Device::Cuda(3)),
            ("metal", Device::Metal(0)),
        ] {
            assert_eq!(name.parse(), Ok(device));
        }
        for name in ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "metal:x"] {
            assert!(name.parse::<Device>().is_err(), "{name}");
        }
        assert!(Device::Cpu.open().expect("always there").is_none());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_a_gpu_says_how_to_get_one() {
        let refused = Device::Cuda(0).open().expect_err("it has none").to_string();
        assert!(refused.contains("--features cuda") && refused.contains("docs/devices.md"));
    }
}
