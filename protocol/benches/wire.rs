//! Select, encode, decode and fold at n = 2^20 and 2^23, heavy-tailed values, one thread.
//!
//! Two things known are timed beside them: `memcpy` of the same vector, the least that any pass over it
//! can take, and the standard library's quickselect.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gossamer_protocol::codec::{self, Options, Shape};
use gossamer_protocol::density::Density;
use gossamer_protocol::fold::{Fold, VALUE_MAX};
use gossamer_protocol::layout::{Layout, Part, TensorSpec};
use gossamer_protocol::manifest::{Average, Coding, Values};
use gossamer_protocol::rng::Stream;
use gossamer_protocol::select::top_k;
use gossamer_protocol::sparse::{Sparse, Support};

const SEED: u64 = 1;
const SIZES: [usize; 2] = [1 << 20, 1 << 23];
const SIXTEENTH: f64 = 1.0 / 16.0;

/// Student-like tails, as LoRA deltas have.
fn delta(n: usize) -> Vec<f32> {
    let mut rng = Stream::new(SEED, "bench", &[]);
    (0..n).map(|_| (1e-3 * rng.normal() / rng.unit_f64().max(0.05)) as f32).collect()
}

fn wire(c: &mut Criterion) {
    let density = Density::try_from(SIXTEENTH).expect("a share");
    for n in SIZES {
        let dense = delta(n);
        let support = top_k(&dense, density.count(n)).expect("finite");
        let sparse = Sparse::gather(&dense, support).expect("own support");
        let mut group = c.benchmark_group(format!("n=2^{}", n.ilog2()));
        group.sample_size(20).throughput(Throughput::Elements(n as u64));

        let mut copy = vec![0.0_f32; n];
        group.bench_function("memcpy", |b| {
            b.iter(|| black_box(&mut copy).copy_from_slice(black_box(&dense)));
        });
        group.bench_function("top-k 1/16", |b| {
            b.iter(|| top_k(black_box(&dense), density.count(n)));
        });
        // What the standard library offers: quickselect on indices, then a sort of those kept.
        group.bench_function("select_nth 1/16", |b| {
            b.iter(|| {
                let k = density.count(n);
                let mut order: Vec<u32> = (0..n as u32).collect();
                order.select_nth_unstable_by(k, |&a, &b| {
                    dense[b as usize].abs().total_cmp(&dense[a as usize].abs())
                });
                order.truncate(k);
                order.sort_unstable();
                order
            });
        });
        let layout = Layout::new(vec![TensorSpec {
            name: "delta".into(),
            part: Part::LoraB,
            shape: [n / 1024, 1024],
        }])
        .expect("valid");
        let shape = Shape { layout: &layout, domain: &Support::All };
        for values in [Values::F32, Values::Int8, Values::Lloyd3] {
            for coding in [Coding::Packed, Coding::Smallest] {
                let options = || Options { values, coding, limit: VALUE_MAX, dice: None };
                let name = format!("{values:?} {coding:?}");
                let id = BenchmarkId::new("encode 1/16", &name);
                group.bench_with_input(id, &sparse, |b, sparse| {
                    b.iter(|| codec::encode(shape, black_box(sparse), options()));
                });
                let coded = codec::encode(shape, &sparse, options()).expect("in range");
                let k = coded.k as usize;
                let id = BenchmarkId::new("decode 1/16", &name);
                group.bench_with_input(id, &coded, |b, coded| {
                    let bytes = &coded.bytes;
                    b.iter(|| codec::decode_sparse(shape, coded.body, values, k, bytes, VALUE_MAX));
                });
            }
        }
        let mut fold = Fold::new(n, Average::Cohort);
        group.bench_function("fold 1/16", |b| b.iter(|| fold.add(black_box(&sparse))));
        group.finish();
    }
}

criterion_group!(benches, wire);
criterion_main!(benches);
