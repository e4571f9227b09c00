//! Quality against all bytes of a run: which methods no other beats in both.

use super::comparison::{Comparison, MethodSummary};
use super::curves::Measure;
use super::svg::{Plot, Point, Scale, Series, draw};
use super::{Interval, ReportError};

/// The front's name in the legend.
pub(super) const FRONT: &str = "none better for fewer bytes";

/// A dot for each method that reached the last round, and a line through those on the front; none where fewer than
/// two did.
///
/// # Errors
/// [`ReportError::Plot`] where the plotting library refuses.
pub(super) fn pareto(
    comparison: &Comparison,
    measure: Measure,
) -> Result<Option<String>, ReportError> {
    let reached: Vec<(&str, Point)> =
        comparison.methods.iter().filter_map(|m| at(m, measure)).collect();
    if reached.len() < 2 {
        return Ok(None);
    }
    let mut series: Vec<Series> = reached
        .iter()
        .map(|(name, point)| Series { name: (*name).to_owned(), points: vec![*point] })
        .collect();
    let points = front(reached.into_iter().map(|(_, point)| point).collect(), measure);
    series.push(Series { name: FRONT.to_owned(), points });
    let plot = Plot {
        title: format!("Last held-out {} by all bytes", measure.name()),
        x_label: "bytes of the whole run, up and down, all clients (log scale)".into(),
        y_label: measure.label(comparison),
        scale: Scale::LogBytes,
        series,
    };
    draw(&plot).map(Some)
}

fn at(method: &MethodSummary, measure: Measure) -> Option<(&str, Point)> {
    let last: Option<Interval> = match measure {
        Measure::Loss => method.final_loss,
        Measure::Accuracy => method.final_accuracy,
    };
    let y = last.map(|last| last.mean).filter(|y| y.is_finite() && method.diverged == 0)?;
    let x = method.total_bytes();
    Some((method.name.as_str(), Point { x, y, low: y, high: y }))
}

/// Those that no other is better than with as few bytes, by rising bytes.
fn front(mut points: Vec<Point>, measure: Measure) -> Vec<Point> {
    let sign = if measure == Measure::Accuracy { -1.0 } else { 1.0 };
    points.sort_by(|a, b| a.x.total_cmp(&b.x).then((sign * a.y).total_cmp(&(sign * b.y))));
    let mut best = f64::INFINITY;
    points.retain(|point| {
        let better = sign * point.y < best;
        best = best.min(sign * point.y);
        better
    });
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: of (1, 5) (2, 3) (3, 4) (4, 1) (4, 2) the third costs more than the second and is worse, the last
    /// costs as much as the fourth and is worse; of accuracies the first and the ones that rise above it stay.
    #[test]
    fn the_front_is_what_none_beats() {
        let point = |(x, y): (f64, f64)| Point { x, y, low: y, high: y };
        let points: Vec<Point> =
            [(4.0, 2.0), (3.0, 4.0), (1.0, 5.0), (4.0, 1.0), (2.0, 3.0)].map(point).to_vec();
        let of = |measure| -> Vec<(f64, f64)> {
            front(points.clone(), measure).into_iter().map(|point| (point.x, point.y)).collect()
        };
        assert_eq!(of(Measure::Loss), [(1.0, 5.0), (2.0, 3.0), (4.0, 1.0)]);
        assert_eq!(of(Measure::Accuracy), [(1.0, 5.0)]);
    }
}
