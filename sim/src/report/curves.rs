//! What methods came to, as lines over rounds, bytes and virtual time.

use super::ReportError;
use super::comparison::{Band, Comparison, CurvePoint, MethodSummary};
use super::svg::{Plot, Point, Scale, Series, draw};

/// What a curve shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Held-out loss.
    Loss,
    /// Share of held-out examples whose class was found.
    Accuracy,
}

impl Measure {
    /// In file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Accuracy => "accuracy",
        }
    }

    /// At the beginning of a heading.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Loss => "Loss",
            Self::Accuracy => "Accuracy",
        }
    }

    pub(super) fn label(self, comparison: &Comparison) -> String {
        match self {
            Self::Loss if comparison.of_classes() => "held-out loss (nats per example)".into(),
            Self::Loss => "held-out loss (nats per token)".into(),
            Self::Accuracy => "held-out accuracy (share)".into(),
        }
    }
}

/// A measure against rounds.
///
/// # Errors
/// [`ReportError::Plot`] where the plotting library refuses.
pub(super) fn by_round(comparison: &Comparison, measure: Measure) -> Result<String, ReportError> {
    draw(&Plot {
        title: format!("Held-out {} by round", measure.name()),
        x_label: "rounds".into(),
        y_label: measure.label(comparison),
        scale: Scale::Linear,
        series: curves(comparison, measure, |point| Some(point.round as f64)),
    })
}

/// A measure against cumulative bytes, both ways, all clients.
///
/// # Errors
/// [`ReportError::Plot`] where the plotting library refuses.
pub(super) fn by_bytes(comparison: &Comparison, measure: Measure) -> Result<String, ReportError> {
    draw(&Plot {
        title: format!("Held-out {} by bytes moved", measure.name()),
        x_label: "cumulative bytes, up and down, all clients (log scale)".into(),
        y_label: measure.label(comparison),
        scale: Scale::LogBytes,
        series: curves(comparison, measure, |point| Some(point.bytes)),
    })
}

/// A measure against virtual time; none where no method has it.
///
/// # Errors
/// [`ReportError::Plot`] where the plotting library refuses.
pub(super) fn by_time(
    comparison: &Comparison,
    measure: Measure,
) -> Result<Option<String>, ReportError> {
    let mut series = curves(comparison, measure, |point| point.virtual_s);
    if series.iter().all(|series| series.points.is_empty()) {
        return Ok(None);
    }
    let points = || series.iter().flat_map(|series| &series.points);
    let longest = points().map(|point| point.x).fold(0.0, f64::max);
    let (unit, seconds) = match longest {
        ..300.0 => ("seconds", 1.0),
        ..7200.0 => ("minutes", 60.0),
        ..172_800.0 => ("hours", 3600.0),
        _ => ("days", 86_400.0),
    };
    series.iter_mut().flat_map(|series| &mut series.points).for_each(|point| point.x /= seconds);
    let plot = Plot {
        title: format!("Held-out {} by virtual time", measure.name()),
        x_label: format!("{unit} of virtual time"),
        y_label: measure.label(comparison),
        scale: Scale::Linear,
        series,
    };
    draw(&plot).map(Some)
}

/// A measure of the worst tenth of clients against rounds; none where clients were not told apart.
///
/// # Errors
/// [`ReportError::Plot`] where the plotting library refuses.
pub(super) fn worst_tenth(comparison: &Comparison) -> Result<Option<String>, ReportError> {
    let series = lines(comparison, |at| Some((at.round as f64, at.worst_tenth?)));
    if series.iter().all(|series| series.points.is_empty()) {
        return Ok(None);
    }
    let measure = if comparison.of_classes() { Measure::Accuracy } else { Measure::Loss };
    let plot = Plot {
        title: format!("Held-out {} of the worst tenth of clients", measure.name()),
        x_label: "rounds".into(),
        y_label: measure.label(comparison),
        scale: Scale::Linear,
        series,
    };
    draw(&plot).map(Some)
}

fn curves(
    comparison: &Comparison,
    measure: Measure,
    x: fn(&CurvePoint) -> Option<f64>,
) -> Vec<Series> {
    lines(comparison, |at| {
        let band = match measure {
            Measure::Loss => Band { mean: at.loss, low: at.low, high: at.high },
            Measure::Accuracy => at.accuracy?,
        };
        Some((x(at)?, band))
    })
}

/// A line a method.
fn lines(comparison: &Comparison, at: impl Fn(&CurvePoint) -> Option<(f64, Band)>) -> Vec<Series> {
    let point = |curve: &CurvePoint| {
        let (x, Band { mean, low, high }) = at(curve)?;
        Some(Point { x, y: mean, low, high })
    };
    let series = |method: &MethodSummary| Series {
        name: match method.diverged {
            0 => method.name.clone(),
            n if n == method.seeds => format!("{} (diverged)", method.name),
            n => format!("{} ({n} of {} diverged)", method.name, method.seeds),
        },
        points: method.curve.iter().filter_map(point).collect(),
    };
    comparison.methods.iter().map(series).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::rows;

    #[test]
    fn both_plots_name_every_method_and_keep_no_placeholder() {
        let comparison = Comparison::new(&rows(), "dense");
        for svg in [by_round(&comparison, Measure::Loss), by_bytes(&comparison, Measure::Loss)] {
            let svg = svg.expect("drawn");
            for method in &comparison.methods {
                assert!(svg.contains(&method.name), "{}", method.name);
            }
            assert!(svg.contains("nats per token"));
            for placeholder in ["\"#01", "\"#02", "\"#03"] {
                assert!(!svg.contains(placeholder), "a placeholder is left");
            }
            assert_eq!(svg.matches("<svg").count(), 1);
        }
    }
}
