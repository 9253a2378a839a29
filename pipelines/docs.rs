//! The stage reference: the doc comments, types and defaults of the config structs, as Markdown. What
//! it prints is committed as `plugins/README.md`, and a test compares the two.

mod schema;

use std::fmt::Write;

use prometheus_streams_core::config;
use prometheus_streams_core::error::BoxError;
use prometheus_streams_core::registry::{self, Kind};
use schemars::Schema;

use schema::{Row, Tree};

const HEAD: &str = "\
# Settings

Printed by `prometheus-streams docs`; change the doc comments of the config structs, not this file.

Durations and sizes carry their unit: `500ms`, `10s`, `1m30s`; `64KiB`, `10MB`, `1GiB`. A secret is given in
place, best as `${env:NAME}`, or by the `*_file` key beside it. In the tables `[]` stands for each element of
a list, and `<name>` for each key of a map. Unknown keys are errors.
";

/// What is inside the delivery settings of a stage.
const DELIVERY: &str = ".delivery.";
/// What is inside a sink.
const SINKS: &str = ".sinks[].";

/// The whole reference.
///
/// # Errors
/// Two stages have one name.
pub(crate) fn reference() -> Result<String, BoxError> {
    let mut text = HEAD.to_owned();
    frame(&mut text);
    let mut before = None;
    for ((kind, type_name), registration) in registry::all()? {
        if before.replace(kind) != Some(kind) {
            let _ = write!(text, "\n## {}\n", heading(kind));
        }
        let schema = (registration.schema)();
        let description = schema::description(schema.as_value()).unwrap_or_default();
        let _ = write!(text, "\n### `{type_name}`\n\n{description}\n");
        table(&mut text, Tree::brief(schema.as_value()).rows());
    }
    Ok(text)
}

/// What core knows of a configuration; the `delivery` of a sink has a table of its own.
fn frame(text: &mut String) {
    let schema = config::schema();
    let (delivery, frame): (Vec<_>, Vec<_>) =
        Tree::new(schema.as_value()).rows().into_iter().partition(|row| row.key.contains(DELIVERY));
    let is_of_a_sink = |row: &Row| row.key.contains(SINKS) || !row.key.ends_with("delivery");
    text.push_str("\n## The frame\n");
    table(text, frame.into_iter().filter(is_of_a_sink).collect());
    text.push_str("\n## The delivery of a sink\n");
    let of_a_sink = delivery.into_iter().filter_map(|row| {
        let key = row.key.split_once(SINKS)?.1.to_owned();
        Some(Row { key, ..row })
    });
    table(text, of_a_sink.collect());
}

/// The word over the stages of a kind.
pub(crate) fn heading(kind: Kind) -> &'static str {
    match kind {
        Kind::Source => "Sources",
        Kind::Transform => "Transforms",
        Kind::Sink => "Sinks",
        Kind::Extension => "Extensions",
    }
}

/// The first sentence of what a stage says of itself.
pub(crate) fn summary(schema: &Schema) -> String {
    let text = schema::description(schema.as_value()).unwrap_or_default();
    let first = text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    match first.split_once(". ") {
        Some((sentence, _)) => format!("{sentence}."),
        None => first,
    }
}

fn table(text: &mut String, rows: Vec<Row>) {
    if rows.is_empty() {
        text.push_str("\nIt has no settings.\n");
        return;
    }
    text.push_str("\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
    for row in rows {
        let _ = writeln!(text, "{}", line(&row));
    }
}

fn line(row: &Row) -> String {
    let (meaning, said) = without_default(&row.meaning);
    let default = match row.default.as_deref().or(said) {
        _ if row.required => "required".to_owned(),
        Some(default) => format!("`{default}`"),
        None => String::new(),
    };
    format!("| `{}` | {} | {} | {} |", row.key, cell(&row.type_name), default, cell(&meaning))
}

/// A doc comment without its `Default: 60s.`, which has a column of its own; and that default. One that
/// needs more words stays where it is.
fn without_default(meaning: &str) -> (String, Option<&str>) {
    for (before, after) in [("Default: ", "."), ("Default: `", "`."), ("Default `", "`.")] {
        let Some((text, rest)) = meaning.split_once(before) else { continue };
        let Some((default, more)) = rest.split_once(after) else { continue };
        let is_one_word =
            !default.is_empty() && default.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if is_one_word && (more.is_empty() || more.starts_with([' ', '\n'])) {
            return (format!("{}{more}", text.trim_end()), Some(default));
        }
    }
    (meaning.to_owned(), None)
}

/// Text that fits a cell of a table.
fn cell(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
    paragraphs.collect::<Vec<_>>().join("<br>").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::without_default;

    #[test]
    fn a_default_of_one_word_leaves_the_text() {
        for (text, meaning, default) in [
            ("How often. Default: 60s.", "How often.", Some("60s")),
            ("How. Default `none`.\n\nMore.", "How.\n\nMore.", Some("none")),
            ("On. Default: `true`. Really.", "On. Really.", Some("true")),
            ("Long. Default: 10s, or less.", "Long. Default: 10s, or less.", None),
            ("Labels. Default: all labels.", "Labels. Default: all labels.", None),
            ("No default.", "No default.", None),
        ] {
            assert_eq!(without_default(text), (meaning.to_owned(), default));
        }
    }
}
