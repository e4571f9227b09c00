//! Means over seeds, and how far they can be trusted.

use std::fmt;

use serde::Serialize;

/// A mean and its two-sided 95 % interval, from Student's t.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// Half the interval's width; none from a single value.
    pub half: Option<f64>,
    /// Values it is from.
    pub n: usize,
}

impl Interval {
    /// `mean ± t(0.975, n - 1) s / sqrt(n)`; none from nothing. A NaN makes the mean one.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let half = (n > 1).then(|| {
            let square: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            t_975(n - 1) * (square / (n - 1) as f64 / n as f64).sqrt()
        });
        Some(Self { mean, half, n })
    }

    /// With `digits` behind the point; what is no number is called diverged.
    #[must_use]
    pub fn text(&self, digits: usize) -> String {
        match self.half {
            _ if !self.mean.is_finite() => "diverged".to_owned(),
            Some(half) => format!("{:.digits$} ± {half:.digits$}", self.mean),
            None => format!("{:.digits$}", self.mean),
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(4))
    }
}

/// The 0.975 quantile of Student's t.
///
/// Tabulated up to 30 degrees of freedom; above, Cornish and Fisher's expansion around the normal
/// quantile `z`: `z + (z^3 + z) / 4 df + (5 z^5 + 16 z^3 + 3 z) / 96 df^2`, right to 1e-4.
fn t_975(df: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010,
        2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739,
        2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
    ];
    if (1..=TABLE.len()).contains(&df) {
        return TABLE[df - 1];
    }
    let z = 1.959_963_985_f64;
    let df = df as f64;
    z + (z.powi(3) + z) / (4.0 * df)
        + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * df * df)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_values_by_hand() {
        // s = 1, so the half width is 4.3027 / sqrt(3).
        let interval = Interval::of(&[1.0, 2.0, 3.0]).expect("some");
        assert_eq!(interval.mean, 2.0);
        assert!((interval.half.expect("three") - 2.484_17).abs() < 1e-4);
        assert_eq!(interval.to_string(), "2.0000 ± 2.4842");
    }

    #[test]
    fn one_value_has_no_width_and_none_no_mean() {
        assert_eq!(Interval::of(&[1.5]), Some(Interval { mean: 1.5, half: None, n: 1 }));
        assert_eq!(Interval::of(&[]), None);
        assert_eq!(Interval::of(&[1.0, f64::NAN]).expect("some").text(2), "diverged");
    }

    /// Published quantiles: 40 degrees 2.0211, 60 degrees 2.0003, 120 degrees 1.9799.
    #[test]
    fn the_expansion_meets_the_tables() {
        for (df, quantile) in [(40, 2.0211), (60, 2.0003), (120, 1.9799)] {
            assert!((t_975(df) - quantile).abs() < 1e-4, "{df}");
        }
        assert!(t_975(30) > t_975(31) && t_975(31) > t_975(32));
    }
}
