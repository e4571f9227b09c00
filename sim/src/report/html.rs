//! One page that needs nothing else: styles and plots inside, no script, no outside host.

use std::fmt::Write;

use super::table::Table;

/// A part of a page, top to bottom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Section {
    /// A heading.
    Heading(String),
    /// A paragraph.
    Paragraph(String),
    /// A table; the caption may be empty.
    Table {
        /// Its cells.
        table: Table,
        /// What its columns mean.
        caption: String,
    },
    /// A plot; the caption may be empty.
    Svg {
        /// An `<svg>` element of [`super::svg`]. The one thing put in as it is: never someone else's.
        svg: String,
        /// What it shows.
        caption: String,
    },
    /// Text as it is, line by line: a scenario, a log.
    Preformatted(String),
}

/// The whole page. All text is escaped.
#[must_use]
pub fn page(title: &str, sections: &[Section]) -> String {
    let title = escape(title);
    let mut body = String::new();
    for section in sections {
        push(&mut body, section);
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

fn push(body: &mut String, section: &Section) {
    // Writing to a string cannot fail.
    let _ = match section {
        Section::Heading(text) => writeln!(body, "<h2>{}</h2>", escape(text)),
        Section::Paragraph(text) => writeln!(body, "<p>{}</p>", escape(text)),
        Section::Preformatted(text) => {
            writeln!(body, "<pre tabindex=\"0\">{}</pre>", escape(text))
        }
        Section::Svg { svg, caption } => {
            writeln!(
                body,
                "<figure>\n<div class=\"wide\" tabindex=\"0\">{svg}</div>{}</figure>",
                figcaption(caption)
            )
        }
        Section::Table { table, caption } => {
            let rows: String =
                table.rows.iter().map(|row| format!("<tr>{}</tr>\n", cells(row))).collect();
            let head: String = table
                .head
                .iter()
                .map(|name| format!("<th scope=\"col\">{}</th>", escape(name)))
                .collect();
            writeln!(
                body,
                "<figure>\n<div class=\"wide\" tabindex=\"0\"><table>\n<thead><tr>{head}</tr></thead>\n\
                 <tbody>\n{rows}</tbody></table></div>{}</figure>",
                figcaption(caption)
            )
        }
    };
}

fn cells(row: &[String]) -> String {
    let cell = |(column, text): (usize, &String)| match column {
        0 => format!("<th scope=\"row\">{}</th>", escape(text)),
        _ => format!("<td>{}</td>", escape(text)),
    };
    row.iter().enumerate().map(cell).collect()
}

fn figcaption(caption: &str) -> String {
    if caption.is_empty() {
        return String::new();
    }
    format!("\n<figcaption>{}</figcaption>\n", escape(caption))
}

/// Text that is safe between tags and inside quoted attributes.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0; --page: #ffffff; --tint: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa4af; --line: #363d45; --page: #14171b; --tint: #1d2227; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
p { max-width: 44rem; overflow-wrap: anywhere; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .875rem; max-width: 44rem; margin-top: .5rem; }
.wide { overflow-x: auto; }
.wide .plot { display: block; width: 100%; min-width: 30rem; max-width: 52rem; height: auto; color: var(--ink); background: none; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .35rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th:first-child { text-align: left; font-weight: 600; position: sticky; left: 0; background: var(--page); padding-left: 0; }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: 6px; padding: .9rem 1rem; overflow-x: auto; font: .85rem/1.5 ui-monospace, monospace; }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_becomes_markup() {
        let nasty = "<script>alert('x')</script>\"&";
        let table =
            Table { head: vec![nasty.into()], rows: vec![vec![nasty.into(), nasty.into()]] };
        let page = page(
            nasty,
            &[
                Section::Heading(nasty.into()),
                Section::Paragraph(nasty.into()),
                Section::Table { table, caption: nasty.into() },
                Section::Svg { svg: "<svg></svg>".into(), caption: nasty.into() },
                Section::Preformatted(nasty.into()),
            ],
        );
        assert!(!page.contains("<script"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;").count(), 10);
    }

    #[test]
    fn nothing_is_fetched() {
        let page = page("t", &[Section::Paragraph("p".into())]);
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
