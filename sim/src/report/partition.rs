//! Who got what, as tables and as a plot.

use std::fmt::Write;

use super::html::escape;
use super::table::Table;
use crate::partition::{Census, Holding};

/// Clients that a plot or a page shows; of more, evenly spaced ones, by size.
const CLIENTS_MAX: usize = 100;
/// Classes that a plot shows, the commonest.
const CLASSES_MAX: usize = 40;

/// One line for what trains and one for what is held out: how many, and how they spread.
#[must_use]
pub fn summary(census: &Census) -> Table {
    let head = ["", "clients", "documents", "a client", "characters a client", "classes a client"];
    let row = |name: &str, holdings: &[Holding]| {
        let spread = |of: fn(&Holding) -> usize| {
            let mut values: Vec<usize> = holdings.iter().map(of).collect();
            values.sort_unstable();
            match values[..] {
                [] => "–".to_owned(),
                [first, .., last] => format!("{first} / {} / {last}", values[values.len() / 2]),
                [only] => only.to_string(),
            }
        };
        let documents: usize = holdings.iter().map(|holding| holding.documents).sum();
        let labelled = holdings.iter().any(|holding| !holding.classes.is_empty());
        vec![
            name.to_owned(),
            holdings.len().to_string(),
            documents.to_string(),
            spread(|holding| holding.documents),
            spread(|holding| holding.chars),
            if labelled { spread(|holding| holding.classes.len()) } else { "–".to_owned() },
        ]
    };
    let rows = vec![row("train", &census.train), row("held out", &census.heldout)];
    Table { head: head.map(str::to_owned).to_vec(), rows }
}

/// What [`summary`] says.
#[must_use]
pub fn caption(census: &Census) -> String {
    let mut caption = "a client: least / median / most.".to_owned();
    if let (Some(skew), n) = (census.skew, census.classes.len()) {
        caption += &format!(
            " {n} classes; skew {skew:.3}, the mean total variation distance of a client's classes \
             from those of all."
        );
    }
    caption
}

/// A line for each client that trains, and of how many documents of each class.
#[must_use]
pub fn clients(census: &Census) -> Table {
    let mut head = vec!["client".to_owned(), "documents".to_owned(), "characters".to_owned()];
    if !census.classes.is_empty() {
        head.push("class:documents".to_owned());
    }
    let row = |holding: &Holding| {
        let mut row =
            vec![holding.client.clone(), holding.documents.to_string(), holding.chars.to_string()];
        if !census.classes.is_empty() {
            let classes = holding.classes.iter().map(|(class, n)| format!("{class}:{n}"));
            row.push(classes.collect::<Vec<_>>().join(" "));
        }
        row
    };
    Table { head, rows: census.train.iter().map(row).collect() }
}

const WIDTH: f64 = 1280.0;
const LEFT: f64 = 110.0;
const BARS: f64 = 220.0;
const TOP: f64 = 70.0;

/// The clients that train from the largest to the smallest: a bar for how much each has, and under it,
/// where there are classes, a square for each class, the darker the larger its share of the client's
/// documents.
#[must_use]
pub fn svg(census: &Census) -> String {
    let labelled = !census.classes.is_empty();
    let size = |holding: &Holding| if labelled { holding.documents } else { holding.chars };
    let shown = shown(census, size);
    let classes = commonest(census);
    let step = (WIDTH - LEFT - 40.0) / shown.len().max(1) as f64;
    let line = (520.0 / classes.len().max(1) as f64).clamp(12.0, 30.0);
    let floor = TOP + BARS;
    let height = floor + 20.0 + line * classes.len() as f64 + 60.0;
    let title = "Who got what";

    let mut body = String::new();
    let mut rect = |x: f64, y: f64, w: f64, h: f64, opacity: f64, tip: &str| {
        let tip = escape(tip);
        // Writing to a string cannot fail.
        let _ = writeln!(
            body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" fill=\"#0072B2\" \
             fill-opacity=\"{opacity:.3}\"><title>{tip}</title></rect>"
        );
    };
    let most = shown.iter().map(|holding| size(holding)).max().unwrap_or(1).max(1);
    let unit = if labelled { "documents" } else { "characters" };
    let wide = (step - 1.0).max(step * 0.7);
    for (at, holding) in shown.iter().enumerate() {
        let x = LEFT + step * at as f64;
        let tall = BARS * size(holding) as f64 / most as f64;
        let tip = format!("{}: {} {unit}", holding.client, size(holding));
        rect(x, floor - tall, wide, tall, 0.85, &tip);
        for (row, class) in classes.iter().enumerate() {
            if let Some(&n) = holding.classes.get(class) {
                let y = floor + 20.0 + line * row as f64;
                let share = n as f64 / holding.documents.max(1) as f64;
                let tip = format!("{}: {n} of class {class}", holding.client);
                rect(x, y, wide, line - 1.0, 0.08 + 0.92 * share.min(1.0), &tip);
            }
        }
    }
    let mut text = |x: f64, y: f64, anchor: &str, size: f64, words: &str| {
        let words = escape(words);
        let _ = writeln!(
            body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" \
             font-family=\"system-ui, sans-serif\" fill=\"currentColor\">{words}</text>"
        );
    };
    text(WIDTH / 2.0, 44.0, "middle", 42.0, title);
    text(LEFT - 12.0, TOP + 22.0, "end", 26.0, &most.to_string());
    text(LEFT - 12.0, floor, "end", 26.0, "0");
    for (row, class) in classes.iter().enumerate() {
        // Every line where there is room, else every other.
        if line >= 18.0 || row % 2 == 0 {
            let y = floor + 20.0 + line * (row as f64 + 0.5) + 8.0;
            text(LEFT - 12.0, y, "end", line.min(24.0), &class.to_string());
        }
    }
    let of = census.train.len();
    let mut under = match shown.len() == of {
        true => format!("{of} clients, by {unit}"),
        false => format!("{} of {of} clients, evenly spaced by {unit}", shown.len()),
    };
    if classes.len() < census.classes.len() {
        under += &format!("; the {} commonest classes", classes.len());
    }
    text(WIDTH / 2.0, height - 18.0, "middle", 30.0, &under);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" role=\"img\" width=\"{}\" \
         height=\"{:.0}\" viewBox=\"0 0 {WIDTH} {height:.0}\">\n<title>{title}</title>\n\
         <style>.plot{{color:#1b1f24;background:#fff}}\
         @media (prefers-color-scheme:dark){{.plot{{color:#e6e9ed;background:#14171b}}}}</style>\n\
         {body}</svg>\n",
        WIDTH / 2.0,
        height / 2.0,
    )
}

/// From the largest, [`CLIENTS_MAX`] at most, the smallest always among them.
fn shown(census: &Census, size: impl Fn(&Holding) -> usize) -> Vec<&Holding> {
    let mut all: Vec<&Holding> = census.train.iter().collect();
    all.sort_by_key(|holding| std::cmp::Reverse(size(holding)));
    if all.len() <= CLIENTS_MAX {
        return all;
    }
    let last = all.len() - 1;
    (0..CLIENTS_MAX).map(|at| all[at * last / (CLIENTS_MAX - 1)]).collect()
}

/// Classes in rising order, of many the commonest.
fn commonest(census: &Census) -> Vec<u32> {
    let count = |class: u32| -> usize {
        census.train.iter().filter_map(|holding| holding.classes.get(&class)).sum()
    };
    let mut classes = census.classes.clone();
    if classes.len() > CLASSES_MAX {
        classes.sort_by_key(|&class| std::cmp::Reverse(count(class)));
        classes.truncate(CLASSES_MAX);
        classes.sort_unstable();
    }
    classes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn census(clients: usize, classes: u32) -> Census {
        let holding = |at: usize| Holding {
            client: format!("<{at}>"),
            documents: at + 1,
            chars: 10 * (at + 1),
            classes: (0..classes.min(1)).map(|_| (at as u32 % classes, at + 1)).collect(),
        };
        let train: Vec<Holding> = (0..clients).map(holding).collect();
        let skew = (classes > 0).then_some(0.5);
        Census { classes: (0..classes).collect(), skew, train, heldout: Vec::new() }
    }

    #[test]
    fn a_bar_and_a_square_for_each_client() {
        let svg = svg(&census(12, 3));
        assert_eq!(svg.matches("<rect").count(), 24);
        assert!(svg.contains("&lt;11&gt;: 12 of class 2") && !svg.contains("<11>"), "{svg}");
        assert!(svg.contains("12 clients, by documents"));
    }

    #[test]
    fn many_clients_and_classes_are_thinned_and_said_so() {
        let svg = svg(&census(620, 60));
        assert!(svg.contains("100 of 620 clients") && svg.contains("the 40 commonest classes"));
        assert!(svg.contains("&lt;619&gt;: 620 ") && svg.contains("&lt;0&gt;: 1 "), "both ends");
        let svg = super::svg(&census(5, 0));
        assert_eq!(svg.matches("<rect").count(), 5);
        assert!(svg.contains("by characters"));
        assert!(super::svg(&census(0, 0)).contains("0 clients"));
    }

    #[test]
    fn tables_say_how_they_spread() {
        let mut census = census(3, 2);
        census.train[0].classes = BTreeMap::from([(0, 1), (1, 2)]);
        let lines = summary(&census).rows;
        assert_eq!(lines[0][1..], ["3", "6", "1 / 2 / 3", "10 / 20 / 30", "1 / 1 / 2"]);
        assert_eq!(lines[1][3], "–");
        assert!(caption(&census).contains("2 classes; skew 0.500"));
        assert_eq!(clients(&census).rows[0], ["<0>", "1", "10", "0:1 1:2"]);
    }
}
