//! The page of all targets: one `HELP` and one `TYPE` for each family, then every target's samples.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use super::entry::{Entry, Lines};
use crate::exposition::{MetricKind, encode_type, is_plain_metric_name};

/// What all targets say of one family.
type Parts<'a> = Vec<(&'a Entry, &'a Lines)>;

/// The families of all targets by name, the first of each deciding what the family is.
pub(super) struct Page<'a> {
    families: Vec<(&'a str, MetricKind, Parts<'a>)>,
    /// Names of families that some targets expose as another kind; their parts are not on the page.
    pub(super) conflicts: Vec<&'a str>,
}

impl<'a> Page<'a> {
    /// Gathers the families of `entries`, which are sorted by rank.
    pub(super) fn new(entries: &'a [Arc<Entry>]) -> Self {
        let mut by_name: HashMap<&str, Parts<'a>> = HashMap::new();
        for entry in entries {
            for lines in &entry.families {
                by_name.entry(&lines.name).or_default().push((entry, lines));
            }
        }
        let mut page = Self { families: Vec::with_capacity(by_name.len()), conflicts: Vec::new() };
        for (name, mut parts) in by_name {
            let mut kinds = parts.iter().map(|(_, lines)| lines.kind);
            let kind = kinds.find(|kind| *kind != MetricKind::Untyped).unwrap_or(MetricKind::Untyped);
            let before = parts.len();
            parts.retain(|(_, lines)| fits(lines.kind, kind));
            if parts.len() < before {
                page.conflicts.push(name);
            }
            page.families.push((name, kind, parts));
        }
        page.families.sort_unstable_by_key(|(name, ..)| *name);
        page.conflicts.sort_unstable();
        page
    }

    /// Writes the page, with names in quotes only for a reader that knows them.
    pub(super) fn write(&self, with_quotes: bool, out: &mut dyn Write) -> io::Result<()> {
        let mut type_line = Vec::new();
        for (name, kind, parts) in &self.families {
            if !with_quotes && !is_plain_metric_name(name) {
                continue;
            }
            let mut help = parts.iter().map(|(entry, lines)| entry.help(lines));
            out.write_all(help.find(|help| !help.is_empty()).unwrap_or_default())?;
            type_line.clear();
            encode_type(name, *kind, &mut type_line);
            out.write_all(&type_line)?;
            for (entry, lines) in parts {
                out.write_all(entry.plain(lines))?;
                if with_quotes {
                    out.write_all(entry.quoted(lines))?;
                }
            }
        }
        Ok(())
    }
}

/// Whether samples of `kind` may stand in a family of kind `family`. Untyped ones have the same form as
/// counters and gauges, and a target that does not say what they are does not contradict one that does.
fn fits(kind: MetricKind, family: MetricKind) -> bool {
    let is_simple = matches!(family, MetricKind::Counter | MetricKind::Gauge);
    kind == family || kind == MetricKind::Untyped && is_simple
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::exposition;

    fn entries(bodies: &[&str]) -> Vec<Arc<Entry>> {
        let entry = |body: &&str| {
            let families =
                exposition::parse(exposition::Format::Text, exposition::Mode::Compat, body.as_bytes())
                    .unwrap();
            Arc::new(Entry::new(SystemTime::UNIX_EPOCH, &families))
        };
        bodies.iter().map(entry).collect()
    }

    fn page(bodies: &[&str], with_quotes: bool) -> (String, Vec<String>) {
        let entries = entries(bodies);
        let page = Page::new(&entries);
        let mut text = Vec::new();
        page.write(with_quotes, &mut text).unwrap();
        let conflicts = page.conflicts.iter().map(ToString::to_string).collect();
        (String::from_utf8(text).unwrap(), conflicts)
    }

    #[test]
    fn each_family_has_its_metadata_once() {
        let first = "# TYPE b gauge\nb{t=\"1\"} 1\n# TYPE a gauge\na{t=\"1\"} 2 17\n# HELP c Alone.\n";
        let second = "# HELP b B.\n# TYPE b gauge\nb{t=\"2\"} 3\n";
        assert_eq!(
            page(&[first, second], false),
            (
                "# TYPE a gauge\na{t=\"1\"} 2 17\n# HELP b B.\n# TYPE b gauge\nb{t=\"1\"} 1\nb{t=\"2\"} 3\n"
                    .to_owned(),
                vec![]
            )
        );
    }

    #[test]
    fn a_family_of_another_kind_is_left_out() {
        let bodies =
            ["x{t=\"1\"} 1\n", "# TYPE x gauge\nx{t=\"2\"} 2\n", "# TYPE x counter\nx{t=\"3\"} 3\ny 1\n"];
        let (text, conflicts) = page(&bodies, false);
        assert_eq!(text, "# TYPE x gauge\nx{t=\"1\"} 1\nx{t=\"2\"} 2\n# TYPE y untyped\ny 1\n");
        assert_eq!(conflicts, ["x"]);
        let (text, conflicts) = page(&["# TYPE x histogram\nx_sum 1\n", "x 1\n"], false);
        assert_eq!((text.as_str(), conflicts.len()), ("# TYPE x histogram\nx_sum 1\n", 1));
    }

    #[test]
    fn quoted_names_are_for_those_who_read_them() {
        let body = "# TYPE x gauge\nx 1\nx{\"a.b\"=\"1\"} 2\n# TYPE \"y.z\" gauge\n{\"y.z\"} 3\n";
        assert_eq!(page(&[body], true).0, body);
        assert_eq!(page(&[body], false).0, "# TYPE x gauge\nx 1\n");
    }

    #[test]
    fn the_page_can_be_parsed() {
        let histogram = "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n";
        let (text, _) = page(&[histogram, "h_bucket 1\n", "x{a=\"\\\"\\\\\"} NaN\n"], false);
        assert_eq!(exposition::count_samples(exposition::Format::Text, text.as_bytes()), Ok(5));
    }
}
