//! Blocks against the `gguf` package's own; `tests/python/gguf_files.py` wrote the numbers.

use serde_json::Value;

use super::blocks::Blocks;

const GOLDEN: &str = include_str!("../../../tests/golden/gguf.json");

#[test]
fn blocks_are_ggmls() {
    let golden: Value = serde_json::from_str(GOLDEN).expect("golden JSON");
    let kinds = [
        ("Q4_0", Blocks::Q4_0),
        ("Q4_1", Blocks::Q4_1),
        ("Q5_0", Blocks::Q5_0),
        ("Q5_1", Blocks::Q5_1),
        ("Q8_0", Blocks::Q8_0),
        ("Q4_K", Blocks::Q4_K),
        ("Q5_K", Blocks::Q5_K),
        ("Q6_K", Blocks::Q6_K),
    ];
    for (name, kind) in kinds {
        let case = &golden["blocks"][name];
        let hex = case["raw"].as_str().expect("hex").as_bytes();
        let byte = |pair: &[u8; 2]| {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(pair, 16).expect("hex")
        };
        let raw: Vec<u8> = hex.as_chunks().0.iter().map(byte).collect();
        let mut values = Vec::new();
        kind.decode(&mut values, &raw);
        let [entries, bytes] = kind.size();
        assert_eq!((raw.len(), values.len()), (3 * bytes, 3 * entries), "{name}");
        let number = |value: &Value| value.as_f64().expect("a number");
        let want = &case["values"];
        let size = number(&want["norm"]);
        let near = |got: f64, want: f64| {
            assert!((got - want).abs() <= 1e-6 * size, "{name}: {got} {want}")
        };
        near(values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt(), size);
        // Each entry has a weight of its own, so none may trade places.
        let sum = values.iter().enumerate().map(|(i, &x)| f64::from(x) * (i as f64).cos()).sum();
        near(sum, number(&want["sum"]));
        for (got, want) in values.iter().zip(want["first"].as_array().expect("entries")) {
            near(f64::from(*got), number(want));
        }
    }
}
