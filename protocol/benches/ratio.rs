//! How many copies of the vector its way over the wire costs: n = 2^23, density 1/16, one thread.
//!
//! In each round every stage runs a few times beside `memcpy` of the same vector; a stage's ratio is the
//! median over rounds of its time by that round's `memcpy`. Time is this thread's on the processor, where
//! Linux tells it, so that what else runs on the machine is not counted; elsewhere that of the clock.

use std::hint::black_box;
use std::time::Instant;

use gossamer_protocol::codec::{self, CodecError, Options, Shape};
use gossamer_protocol::fold::{Fold, FoldError, VALUE_MAX};
use gossamer_protocol::layout::{Layout, Part, TensorSpec};
use gossamer_protocol::manifest::{Average, Coding, Values};
use gossamer_protocol::rng::Stream;
use gossamer_protocol::select::top_k;
use gossamer_protocol::sparse::{Sparse, Support};

/// The allocator of the binaries.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const N: usize = 1 << 23;
const K: usize = N / 16;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Fold(#[from] FoldError),
}

/// Milliseconds of one run of one stage, a round each.
struct Stage {
    name: &'static str,
    times: Vec<f64>,
}

impl Stage {
    fn run<T>(&mut self, repeats: usize, mut work: impl FnMut() -> T) -> T {
        let mut out = work();
        let clock = Clock::start();
        for _ in 0..repeats {
            out = black_box(work());
        }
        self.times.push(clock.elapsed_ms() / repeats as f64);
        out
    }
}

struct Clock(Instant, Option<f64>);

impl Clock {
    fn start() -> Self {
        Self(Instant::now(), on_processor_ms())
    }

    fn elapsed_ms(&self) -> f64 {
        match (self.1, on_processor_ms()) {
            (Some(began), Some(now)) => now - began,
            _ => 1e3 * self.0.elapsed().as_secs_f64(),
        }
    }
}

/// Time of this thread on the processor so far, as of the last tick.
fn on_processor_ms() -> Option<f64> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = told.split(' ').next()?.parse().ok()?;
    Some(1e-6 * nanoseconds)
}

fn main() {
    // `cargo test --benches` passes no such word: run, but measure little.
    let measured = std::env::args().any(|arg| arg == "--bench");
    let mut rng = Stream::new(1, "bench", &[]);
    // Student-like tails, as LoRA deltas have.
    let dense: Vec<f32> =
        (0..N).map(|_| (1e-3 * rng.normal() / rng.unit_f64().max(0.05)) as f32).collect();
    for (values, coding, rounds) in [
        (Values::Lloyd3, Coding::Packed, 15),
        (Values::Sign, Coding::Packed, 15),
        (Values::Lloyd3, Coding::Smallest, 5),
    ] {
        println!("\n{values:?} {coding:?}, n = {N}, k = {K}");
        let (rounds, repeats) = if measured { (rounds, 8) } else { (1, 1) };
        measure(&dense, values, coding, rounds, repeats);
    }
}

fn measure(dense: &[f32], values: Values, coding: Coding, rounds: usize, repeats: usize) {
    let tensor = TensorSpec { name: "delta".into(), part: Part::LoraB, shape: [N / 1024, 1024] };
    let layout = Layout::new(vec![tensor]).expect("valid");
    let shape = Shape { layout: &layout, domain: &Support::All };
    let options = || Options { values, coding, limit: VALUE_MAX, dice: None };
    let mut copy = vec![0.0_f32; N];
    let mut fold = Fold::new(N, Average::Cohort);
    let mut stages = ["memcpy", "top-k", "top-k, quantise, encode", "decode", "decode, fold"]
        .map(|name| Stage { name, times: Vec::new() });
    let mut bytes = 0;
    for _ in 0..rounds {
        let [memcpy, selection, upload, decoding, folding] = &mut stages;
        memcpy.run(8 * repeats, || black_box(&mut copy).copy_from_slice(black_box(dense)));
        selection.run(repeats, || top_k(black_box(dense), K).expect("finite"));
        let coded = upload.run(repeats, || {
            let support = top_k(black_box(dense), K).expect("finite");
            let sparse = Sparse::gather(dense, support).expect("own support");
            codec::encode(shape, &sparse, options()).expect("in range")
        });
        let (k, len, source) = (coded.k as usize, coded.bytes.len() as u64, &coded.bytes[..]);
        bytes = len;
        decoding.run(repeats, || {
            let mut sum = 0.0;
            let mut entry = |_, value| sum += value;
            codec::decode(shape, coded.body, values, k, len, source, VALUE_MAX, &mut entry)
                .expect("own bytes");
            sum
        });
        folding.run(repeats, || {
            fold.add_entries(|adding| -> Result<(), Failure> {
                let mut entry = |index, value| adding.entry(index, value);
                codec::decode(shape, coded.body, values, k, len, source, VALUE_MAX, &mut entry)?;
                Ok(())
            })
            .expect("own bytes");
        });
    }
    let copies = stages[0].times.clone();
    println!("{:<24} {:>8} {:>14} {:>9}", "stage", "ms", "parameters/s", "x memcpy");
    for Stage { name, times } in stages {
        let ratio = median(times.iter().zip(&copies).map(|(time, copy)| time / copy));
        let time = median(times.into_iter());
        println!("{name:<24} {time:>8.2} {:>14.2e} {ratio:>9.2}", 1e3 * N as f64 / time);
    }
    println!("{bytes} bytes, {:.2} bits an entry", 8.0 * bytes as f64 / K as f64);
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
