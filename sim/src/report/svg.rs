//! Line plots as SVG text that follows light and dark, stands alone, and scales to any width.
//!
//! plotters lays out and draws, but knows neither dashes nor colour schemes. So every role is drawn in
//! a placeholder colour, and the placeholders are then replaced: ink by `currentColor`, a series by its
//! own colour and dash. Colours are Okabe and Ito's, told apart by colour-blind readers; the first
//! family has the ink. Methods of one family (`flasc-1/4`, `flasc-1/16`) share a colour and differ in
//! dash. The legend has a strip of its own below the axes, where no line can be.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::{Axis, even_ticks, number, ratio_ticks, short_bytes, widened};
use super::{ReportError, html};

/// Lines over one pair of axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// Above the axes.
    pub title: String,
    /// Below the horizontal axis, with its unit.
    pub x_label: String,
    /// Beside the vertical axis, with its unit.
    pub y_label: String,
    /// How the horizontal axis runs.
    pub scale: Scale,
    /// The lines.
    pub series: Vec<Series>,
}

/// How a horizontal axis runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, plain numbers.
    Linear,
    /// By ratio, in bytes; points at 0 cannot be shown and are left out.
    LogBytes,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its place in the legend.
    pub name: String,
    /// Left to right; what is not finite is left out.
    pub points: Vec<Point>,
}

/// A point and the band around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// How much.
    pub y: f64,
    /// The band's lower edge.
    pub low: f64,
    /// The band's upper edge.
    pub high: f64,
}

/// Units of the view box; shown at half, so that plotters' whole numbers do not show.
const WIDTH: u32 = 1280;
const AXES_HEIGHT: u32 = 760;
const LEGEND_LINE: u32 = 44;
/// Evaluations of a line up to which each has a dot.
const DOTS_MAX: usize = 25;
pub(super) const FONT: &str = "system-ui, sans-serif";

/// Placeholders; a series has `SERIES` plus its number in green and blue.
pub(super) const INK: RGBColor = RGBColor(1, 0, 0);
pub(super) const GRID: RGBColor = RGBColor(2, 0, 0);
const SERIES: u8 = 3;

const PALETTE: [&str; 7] =
    ["currentColor", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#D55E00", "#56B4E9"];
const DASHES: [&str; 4] = ["", "22 9", "9 7", "3 7"];

/// Draws `plot` as one `<svg>` element.
///
/// # Errors
/// [`ReportError::Plot`] where the plotting library refuses.
pub fn draw(plot: &Plot) -> Result<String, ReportError> {
    let frame = Frame::around(plot);
    let names: Vec<&str> = plot.series.iter().map(|series| series.name.as_str()).collect();
    compose(&plot.title, &names, AXES_HEIGHT, |axes| draw_axes(axes, plot, &frame))
}

/// One `<svg>` element: axes, `height` high, as `draw_axes` makes them in placeholder colours; below, the legend.
pub(super) fn compose(
    title: &str,
    names: &[&str],
    height: u32,
    draw_axes: impl FnOnce(&Area<'_>) -> Result<(), String>,
) -> Result<String, ReportError> {
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    // A letter is about 16 wide at this size; the sample line and the gap need 130.
    let columns = ((WIDTH - 80) as usize / (16 * longest + 130)).clamp(1, 4);
    let lines = names.len().div_ceil(columns) as u32;
    let total = height + lines * LEGEND_LINE + 16;

    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, total)).into_drawing_area();
        let (axes, legend) = root.split_vertically(height);
        let drawn = draw_axes(&axes)
            .and_then(|()| draw_legend(&legend, names, columns))
            .and_then(|()| root.present().map_err(|error| error.to_string()));
        drawn.map_err(|why| ReportError::Plot { title: title.to_owned(), why })?;
    }
    Ok(dress(&text, title, names, total))
}

/// The ranges shown, and where their ticks are; x is already a logarithm where it shall be one.
struct Frame {
    scale: Scale,
    x: (f64, f64),
    y: (f64, f64),
    x_ticks: Vec<f64>,
    y_ticks: Vec<f64>,
}

impl Frame {
    fn around(plot: &Plot) -> Self {
        let mut frame = Self {
            scale: plot.scale,
            x: (0.0, 1.0),
            y: (0.0, 1.0),
            x_ticks: Vec::new(),
            y_ticks: Vec::new(),
        };
        let points: Vec<Point> =
            plot.series.iter().flat_map(|series| frame.shown(&series.points)).collect();
        let span = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            })
        };
        if !points.is_empty() {
            let margin = if plot.scale == Scale::LogBytes { 0.02 } else { 0.0 };
            frame.x = widened(span(&mut points.iter().map(|point| point.x)), margin);
            let (low, high) = span(&mut points.iter().flat_map(|point| [point.low, point.high]));
            // A method that diverges must not press the others flat: it leaves through the top.
            let starts = plot.series.iter().filter_map(|series| {
                series.points.iter().map(|point| point.y).find(|y| y.is_finite())
            });
            let (_, start) = span(&mut starts.into_iter());
            let ceiling = start + (start - low).max(0.0) * 0.5;
            frame.y = widened((low, if ceiling > low { high.min(ceiling) } else { high }), 0.05);
        }
        frame.x_ticks = match plot.scale {
            Scale::Linear => even_ticks(frame.x, 8),
            Scale::LogBytes => ratio_ticks(frame.x),
        };
        frame.y_ticks = even_ticks(frame.y, 7);
        frame
    }

    /// What can be shown of `points`, x on the axis's own scale.
    fn shown(&self, points: &[Point]) -> Vec<Point> {
        let finite =
            |point: &Point| [point.x, point.y, point.low, point.high].iter().all(|v| v.is_finite());
        let placed = |point: &Point| match self.scale {
            Scale::Linear => *point,
            Scale::LogBytes => Point { x: point.x.log10(), ..*point },
        };
        points.iter().map(placed).filter(finite).collect()
    }

    fn x_text(&self, x: f64) -> String {
        match self.scale {
            Scale::Linear => number(x, &self.x_ticks),
            Scale::LogBytes => short_bytes(10_f64.powf(x)),
        }
    }

    fn clamp(&self, y: f64) -> f64 {
        y.clamp(self.y.0, self.y.1)
    }
}

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw_axes(area: &Area<'_>, plot: &Plot, frame: &Frame) -> Result<(), String> {
    let words = |size: f64| TextStyle::from((FONT, size).into_font()).color(&INK);
    let x = Axis::new(frame.x, &frame.x_ticks);
    let y = Axis::new(frame.y, &frame.y_ticks);
    let mut chart = ChartBuilder::on(area)
        .caption(&plot.title, words(42.0))
        .margin(20)
        .margin_right(60)
        .x_label_area_size(92)
        .y_label_area_size(130)
        .build_cartesian_2d(x, y)
        .map_err(|error| error.to_string())?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .label_style(words(32.0))
        .axis_desc_style(words(32.0))
        .x_desc(&plot.x_label)
        .y_desc(&plot.y_label)
        .x_label_formatter(&|x| frame.x_text(*x))
        .y_label_formatter(&|y| number(*y, &frame.y_ticks))
        .draw()
        .map_err(|error| error.to_string())?;

    // All bands first, so that none covers a line.
    for (at, series) in plot.series.iter().enumerate() {
        let points = frame.shown(&series.points);
        let upper = points.iter().map(|point| (point.x, frame.clamp(point.high)));
        let lower = points.iter().rev().map(|point| (point.x, frame.clamp(point.low)));
        let edge: Vec<(f64, f64)> = upper.chain(lower).collect();
        if points.iter().any(|point| point.high > point.low) {
            let band = Polygon::new(edge, placeholder(at).mix(0.13).filled());
            chart.draw_series([band]).map_err(|error| error.to_string())?;
        }
    }
    // The first on top; a front last of all, and without dots, so that it hides none.
    for (at, series) in plot.series.iter().enumerate().rev() {
        let points = frame.shown(&series.points);
        let line = points.iter().map(|point| (point.x, frame.clamp(point.y)));
        let style = placeholder(at);
        chart
            .draw_series(LineSeries::new(line.clone(), style.stroke_width(4)))
            .map_err(|error| error.to_string())?;
        // Where there are many they would hide the dashes; one alone has no line.
        if points.len() <= DOTS_MAX && series.name != super::pareto::FRONT {
            let dots = line.map(|at| Circle::new(at, 5, style.filled()));
            chart.draw_series(dots).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

fn draw_legend(area: &Area<'_>, names: &[&str], columns: usize) -> Result<(), String> {
    let words = left_words();
    let column_width = (WIDTH as usize - 80) / columns;
    let lines = names.len().div_ceil(columns);
    for (at, name) in names.iter().enumerate() {
        // Down each column, so that a family stays together.
        let (column, line) = (at / lines, at % lines);
        let x = (60 + column * column_width) as i32;
        let y = (line as u32 * LEGEND_LINE + LEGEND_LINE / 2) as i32;
        let style = placeholder(at);
        let sample = PathElement::new([(x, y), (x + 84, y)], style.stroke_width(4));
        area.draw(&sample).map_err(|error| error.to_string())?;
        area.draw(&Circle::new((x + 42, y), 6, style.filled()))
            .map_err(|error| error.to_string())?;
        area.draw(&Text::new((*name).to_owned(), (x + 100, y), words.clone()))
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Words that begin at a place, centred on its height.
pub(super) fn left_words() -> TextStyle<'static> {
    let pos = Pos::new(HPos::Left, VPos::Center);
    TextStyle::from((FONT, 32.0).into_font()).color(&INK).pos(pos)
}

/// A series's colour until [`compose`] gives it its own.
pub(super) fn placeholder(series: usize) -> RGBColor {
    RGBColor(SERIES, (series >> 8) as u8, series as u8)
}

/// Replaces placeholders and plotters' opening tag.
fn dress(text: &str, title: &str, names: &[&str], height: u32) -> String {
    let mut dressed = text.to_owned();
    // Quotes in text are escaped, so `="#` can only be an attribute's.
    for (at, look) in looks(names).into_iter().enumerate() {
        let RGBColor(r, g, b) = placeholder(at);
        let color = format!("=\"#{r:02X}{g:02X}{b:02X}\"");
        let (family, dash) = look;
        let stroke = if dash.is_empty() {
            format!("stroke=\"{family}\"")
        } else {
            format!("stroke=\"{family}\" stroke-dasharray=\"{dash}\"")
        };
        dressed = dressed
            .replace(&format!("stroke{color}"), &stroke)
            .replace(&format!("fill{color}"), &format!("fill=\"{family}\""));
    }
    dressed = dressed
        .replace("=\"#010000\"", "=\"currentColor\"")
        .replace("=\"#020000\"", "=\"currentColor\" stroke-opacity=\"0.16\"");

    let body = dressed.split_once(">\n").map_or("", |(_, body)| body);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" role=\"img\" width=\"{}\" \
         height=\"{}\" viewBox=\"0 0 {WIDTH} {height}\" stroke-linejoin=\"round\">\n\
         <title>{}</title>\n<style>.plot{{color:#1b1f24;background:#fff}}\
         @media (prefers-color-scheme:dark){{.plot{{color:#e6e9ed;background:#14171b}}}}</style>\n\
         {body}",
        WIDTH / 2,
        height / 2,
        html::escape(title),
    )
}

/// Colour by family, dash by place in the family.
fn looks(names: &[&str]) -> Vec<(&'static str, &'static str)> {
    let mut families: Vec<(&str, usize)> = Vec::new();
    let look = |series| {
        let family = family(series);
        let at = families.iter().position(|(name, _)| *name == family).unwrap_or_else(|| {
            families.push((family, 0));
            families.len() - 1
        });
        let member = families[at].1;
        families[at].1 += 1;
        // Where colours run out they begin again with another dash.
        (PALETTE[at % PALETTE.len()], DASHES[(member + at / PALETTE.len()) % DASHES.len()])
    };
    names.iter().copied().map(look).collect()
}

/// The part of a name before `-` and a digit.
fn family(name: &str) -> &str {
    let cut = name.char_indices().find(|&(at, c)| {
        c == '-' && name[at + 1..].starts_with(|next: char| next.is_ascii_digit())
    });
    cut.map_or(name, |(at, _)| &name[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(scale: Scale, points: &[(f64, f64)]) -> Plot {
        let point = |&(x, y): &(f64, f64)| Point { x, y, low: y, high: y };
        Plot {
            title: "a < b".into(),
            x_label: "x".into(),
            y_label: "y".into(),
            scale,
            series: vec![Series {
                name: "s & t".into(),
                points: points.iter().map(point).collect(),
            }],
        }
    }

    /// plotters must not have drawn a rectangle: it writes one attribute twice, which is no XML.
    #[test]
    fn text_is_escaped_and_no_attribute_repeats() {
        let svg = draw(&plot(Scale::Linear, &[(0.0, 1.0), (1.0, 2.0)])).expect("drawn");
        assert!(svg.contains("a &lt; b") && svg.contains("s &amp; t") && !svg.contains("a < b"));
        assert!(!svg.contains("<rect"));
    }

    #[test]
    fn odd_data_still_draw() {
        for points in [
            &[][..],
            &[(1.0, 1.0)],
            &[(0.0, 1.0), (10.0, 1.0)],
            &[(0.0, f64::NAN), (1.0, f64::INFINITY), (2.0, 3.0)],
            &[(0.0, 2.0), (5.0, 1.0), (6.0, 1e30)],
            &[(-1.0, 0.0), (1e30, 1e30)],
        ] {
            for scale in [Scale::Linear, Scale::LogBytes] {
                let svg = draw(&plot(scale, points)).expect("drawn");
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{points:?}: {svg}");
            }
        }
    }

    #[test]
    fn families_share_a_colour_and_differ_in_dash() {
        let names = ["dense", "flasc-1/4", "flasc-1/16", "sparse-adapter-1/4", "flasc-1/16-int8"];
        let looks = looks(&names);
        assert_eq!(looks[0].0, "currentColor");
        assert_eq!((looks[1].0, looks[2].0), (looks[4].0, looks[4].0));
        assert_ne!(looks[1].0, looks[3].0);
        assert!(looks[1].1 != looks[2].1 && looks[2].1 != looks[4].1);
        assert_eq!(family("sparse-adapter-1/4"), "sparse-adapter");
        assert_eq!(family("a-"), "a-");
    }
}
