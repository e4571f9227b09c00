//! The same steps on a GPU: ours by candle's graph, PyTorch's on the same card.

use std::error::Error;
use std::path::Path;
use std::process::Command;

use candle_core::Device;
use gossamer_client::model::{BaseModel, Storage};

use super::{Measured, ROWS, Row, TURNS, measured, place, steps};

/// A device by its name: `cuda`, `metal`, or candle's own `cpu`.
fn open(name: &str) -> Result<Device, Box<dyn Error>> {
    match name {
        "cuda" => Ok(Device::new_cuda(0)?),
        "metal" => Ok(Device::new_metal(0)?),
        "cpu" => Ok(Device::Cpu),
        other => Err(format!("a device is cuda, metal or cpu, not {other}").into()),
    }
}

/// This process's side.
pub(crate) fn ours(row: &Row, device: &str, storage: Storage) -> Result<Measured, Box<dyn Error>> {
    let base = BaseModel::load_as(&place(row), storage)?.on(&open(device)?)?;
    let mut found = steps(row, &base)?;
    found.peak_kib = used_kib();
    Ok(found)
}

/// A line for each row and storage.
pub(crate) fn table(device: &str, rows: &[String]) -> Result<(), Box<dyn Error>> {
    open(device)?;
    let python = std::env::var_os("GOSSAMER_PYTHON").unwrap_or_else(|| "python3".into());
    println!(
        "ms a step, median by the clock; ratio: PyTorch by ours; MiB: of the whole card, after the steps"
    );
    println!(
        "row                base      ours  PyTorch  ratio  tokens/s ours  PyTorch  MiB ours  PyTorch"
    );
    for row in ROWS.iter().filter(|row| rows.iter().all(|word| row.name.contains(word.as_str()))) {
        if !place(row).is_dir() {
            println!("{:<18} NOT RUN: sim/models/fetch-{} gets its model", row.name, row.model);
            continue;
        }
        for storage in [Storage::F32, Storage::Bf16] {
            let (mut our, mut their) = <(Measured, Measured)>::default();
            for _ in 0..TURNS {
                let mut run = Command::new(std::env::current_exe()?);
                our.add(measured(run.args(["gpu", row.name, device, &storage.to_string()]))?);
                their.add(pytorch(&python, row, device, storage)?);
            }
            if our.trained != their.trained {
                return Err(format!("{} parameters, PyTorch {}", our.trained, their.trained).into());
            }
            // By the clock, as for several threads: the processor only waits.
            let seconds = |of: &Measured| of.median(2);
            let rate = |of: &Measured| (row.rows * row.cols) as f64 / seconds(of);
            println!(
                "{:<18} {storage:<6} {:>7.2} {:>8.2} {:>5.2}x {:>14.0} {:>8.0} {:>9} {:>8}",
                row.name,
                1e3 * seconds(&our),
                1e3 * seconds(&their),
                seconds(&their) / seconds(&our),
                rate(&our),
                rate(&their),
                our.peak_kib / 1024,
                their.peak_kib / 1024,
            );
        }
    }
    Ok(())
}

fn pytorch(
    python: &std::ffi::OsStr,
    row: &Row,
    device: &str,
    storage: Storage,
) -> Result<Measured, Box<dyn Error>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/train_step.py");
    let numbers = [row.rows, row.cols].map(|n| n.to_string());
    let rest = [row.classes as usize, 1, row.steps].map(|n| n.to_string());
    let mut run = Command::new(python);
    run.arg(script).arg(place(row)).args(numbers).arg(row.targets.join(",")).args(rest);
    let device = if device == "metal" { "mps" } else { device };
    measured(run.args([device, &storage.to_string()]))
}

/// What the first card has in use, by `nvidia-smi`; 0 where there is none.
fn used_kib() -> u64 {
    let mut ask = Command::new("nvidia-smi");
    ask.args(["--query-gpu=memory.used", "--format=csv,noheader,nounits"]);
    let Ok(output) = ask.output() else { return 0 };
    let text = String::from_utf8_lossy(&output.stdout);
    let mib = text.lines().next().and_then(|line| line.trim().parse::<u64>().ok());
    mib.unwrap_or(0) * 1024
}
