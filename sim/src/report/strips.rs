//! How clients are spread, a strip for each method and tier: the shape of their density, quartiles and median in
//! it, and a stroke at the worst tenth.
//!
//! The density is a Gaussian kernel's, as wide as Silverman's rule of thumb says (`0.9 min(sd, IQR / 1.34) n^(-1/5)`),
//! from the lowest to the highest client; of fewer than five clients, or all alike, only dots are there.

use plotters::prelude::*;

use super::axis::{Axis, even_ticks, number, widened};
use super::comparison::{Comparison, MethodSummary};
use super::svg::{Area, FONT, GRID, INK, compose, left_words, placeholder};
use super::{Measure, ReportError, TierSummary};

/// Heights, in the plot's own units.
const NAME: f64 = 46.0;
const STRIP: f64 = 54.0;
const AROUND: f64 = 200.0;
/// Clients of a strip up to which each has a dot.
const DOTS_MAX: usize = 60;
/// Fewest clients that have a density.
const DENSITY_MIN: usize = 5;
/// Places at which a density is drawn.
const PLACES: usize = 80;

/// A strip for each tier of each method that did not diverge; none where clients were not told apart.
///
/// # Errors
/// [`ReportError::Plot`] where the plotting library refuses.
pub(super) fn strips(comparison: &Comparison) -> Result<Option<String>, ReportError> {
    let sound = |method: &&MethodSummary| method.diverged == 0 && !method.tiers.is_empty();
    let methods: Vec<&MethodSummary> = comparison.methods.iter().filter(sound).collect();
    if methods.is_empty() {
        return Ok(None);
    }
    let mut names: Vec<&str> = Vec::new();
    for tier in methods.iter().flat_map(|method| &method.tiers) {
        if !names.contains(&tier.tier.as_str()) {
            names.push(&tier.tier);
        }
    }
    let measure = if comparison.of_classes() { Measure::Accuracy } else { Measure::Loss };
    let title = format!("Held-out {} of each client, after the last round", measure.name());
    let tall: f64 = methods.iter().map(|method| NAME + STRIP * method.tiers.len() as f64).sum();
    let svg = compose(&title, &names, (tall + AROUND) as u32, |area| {
        draw(area, &title, &measure.label(comparison), &methods, &names, tall)
    })?;
    Ok(Some(svg))
}

fn draw(
    area: &Area<'_>,
    title: &str,
    label: &str,
    methods: &[&MethodSummary],
    names: &[&str],
    tall: f64,
) -> Result<(), String> {
    let said = |error: DrawingAreaErrorKind<_>| -> String { error.to_string() };
    let words = |size: f64| TextStyle::from((FONT, size).into_font()).color(&INK);
    let spreads = || methods.iter().flat_map(|method| &method.tiers).map(|tier| tier.spread);
    let low = spreads().map(|spread| spread.low).fold(f64::INFINITY, f64::min);
    let high = spreads().map(|spread| spread.high).fold(f64::NEG_INFINITY, f64::max);
    let x = widened((low, high), 0.03);
    let ticks = even_ticks(x, 8);
    let mut chart = ChartBuilder::on(area)
        .caption(title, words(42.0))
        .margin(20)
        .margin_left(50)
        .margin_right(60)
        .x_label_area_size(92)
        .build_cartesian_2d(Axis::new(x, &ticks), Axis::new((0.0, tall), &[]))
        .map_err(said)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .label_style(words(32.0))
        .axis_desc_style(words(32.0))
        .disable_y_axis()
        .x_desc(label)
        .x_label_formatter(&|x| number(*x, &ticks))
        .draw()
        .map_err(said)?;
    let plane = chart.plotting_area();
    let mut top = tall;
    for method in methods {
        let name = Text::new(method.name.clone(), (x.0, top - NAME / 2.0), left_words());
        plane.draw(&name).map_err(said)?;
        top -= NAME;
        for tier in &method.tiers {
            let style = placeholder(names.iter().position(|name| *name == tier.tier).unwrap_or(0));
            let middle = top - STRIP / 2.0;
            let half = STRIP * 0.44;
            let spread = &tier.spread;
            let shape = outline(tier, middle, half);
            if !shape.is_empty() {
                let filled = Polygon::new(shape, style.mix(0.2).filled());
                plane.draw(&filled).map_err(said)?;
            }
            let line = |from: (f64, f64), to: (f64, f64), width: u32| {
                PathElement::new(vec![from, to], style.stroke_width(width))
            };
            for (from, to, width) in [
                (spread.low, spread.high, 2),
                (spread.p10, spread.p90, 4),
                (spread.p25, spread.p75, 10),
            ] {
                plane.draw(&line((from, middle), (to, middle), width)).map_err(said)?;
            }
            let worst = spread.worst_tenth;
            plane.draw(&line((worst, middle - half), (worst, middle + half), 5)).map_err(said)?;
            if tier.values.len() <= DOTS_MAX {
                for value in &tier.values {
                    let dot = Circle::new((*value, middle - half * 0.6), 4, style.filled());
                    plane.draw(&dot).map_err(said)?;
                }
            }
            plane.draw(&Circle::new((spread.median, middle), 8, INK.filled())).map_err(said)?;
            top -= STRIP;
        }
    }
    Ok(())
}

/// The density's shape around `middle`, at most `half` to either side.
fn outline(tier: &TierSummary, middle: f64, half: f64) -> Vec<(f64, f64)> {
    let (spread, values) = (&tier.spread, &tier.values);
    let Some(width) = bandwidth(values, spread.mean, spread.p75 - spread.p25) else {
        return Vec::new();
    };
    let at =
        |place: usize| spread.low + (spread.high - spread.low) * place as f64 / (PLACES - 1) as f64;
    let density = |x: f64| -> f64 {
        values.iter().map(|value| (-0.5 * ((x - value) / width).powi(2)).exp()).sum()
    };
    let heights: Vec<f64> = (0..PLACES).map(|place| density(at(place))).collect();
    let most = heights.iter().copied().fold(0.0, f64::max);
    let side = |sign: f64| {
        let heights = &heights;
        move |place: usize| (at(place), middle + sign * half * heights[place] / most)
    };
    (0..PLACES).map(side(1.0)).chain((0..PLACES).rev().map(side(-1.0))).collect()
}

/// Silverman's rule of thumb; none of too few values, or where it is 0.
fn bandwidth(values: &[f64], mean: f64, between_quartiles: f64) -> Option<f64> {
    let n = values.len();
    if n < DENSITY_MIN {
        return None;
    }
    let square: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = (square / (n - 1) as f64).sqrt();
    let width = 0.9 * deviation.min(between_quartiles / 1.34) * (n as f64).powf(-0.2);
    (width > 0.0).then_some(width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::told_apart;

    /// R's `bw.nrd0(c(1, 2, 3, 4, 6, 9))` by hand: sd 2.9268869, IQR 3.25, `n^-0.2` 0.6988271.
    #[test]
    fn the_rule_of_thumb_is_silvermans() {
        let values = [1.0, 2.0, 3.0, 4.0, 6.0, 9.0];
        let width = bandwidth(&values, 25.0 / 6.0, 3.25).expect("six");
        assert!((width - 0.9 * (3.25 / 1.34) * 0.698_827_1).abs() < 1e-6, "{width}");
        let wide = bandwidth(&values, 25.0 / 6.0, 100.0).expect("six");
        assert!((wide - 0.9 * 2.926_886_9 * 0.698_827_1).abs() < 1e-6, "{wide}");
        assert_eq!(bandwidth(&values[..4], 2.5, 1.0), None);
        assert_eq!(bandwidth(&[1.0; 9], 1.0, 0.0), None);
    }

    #[test]
    fn every_method_and_tier_has_a_strip() {
        let comparison = Comparison::new(&told_apart(), "dense");
        let svg = strips(&comparison).expect("drawn").expect("told apart");
        for seen in ["dense", "gossamer-1/16", "all clients", "phone", "board", "nats per token"] {
            assert!(svg.contains(seen), "{seen} is not in {svg}");
        }
        // Ten methods of two tiers and all.
        assert_eq!(svg.matches("<polygon").count(), 30);
        assert!(!svg.contains("NaN") && !svg.contains("<rect"));
        assert!(["\"#01", "\"#02", "\"#03"].iter().all(|left| !svg.contains(left)));
        let plain = Comparison::new(&crate::report::tests::rows(), "dense");
        assert_eq!(strips(&plain).expect("nothing to draw"), None);
    }
}
