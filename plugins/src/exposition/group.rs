//! From the stream of entries to families.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use super::entry::Entry;
use super::error::ParseError;
use super::format::{Format, Mode};
use super::model::{Family, HistogramSample, LabelPair, MetricKind, Sample};
use super::parser::Parser;

/// How many bytes there are for each sample of an ordinary body.
const TYPICAL_SAMPLE: usize = 100;

/// How many bytes there are for each family of an ordinary body.
const TYPICAL_FAMILY: usize = 200;

/// Parses a whole body.
///
/// Families come in the order of first appearance and hold their samples in the order of the body,
/// also when the body mixes families. As in Prometheus, metadata may stand anywhere and the last
/// `TYPE` and the last `HELP` of a name win. A series `x_count` belongs to `x` if that is a
/// histogram or summary and `x_count` has no metadata of its own; so does, in OpenMetrics, `x_total` to the
/// counter `x`. Duplicate series are kept.
///
/// # Errors
/// Where the body is not of its format; then nothing of it is used.
pub fn parse(format: Format, mode: Mode, body: &[u8]) -> Result<Vec<Family<'_>>, ParseError> {
    let mut names = Names::new(format, body);
    let mut samples = Vec::with_capacity(body.len() / TYPICAL_SAMPLE);
    let mut histograms = Vec::new();
    let mut parser = Parser::new(format, mode, body);
    while let Some(entry) = parser.next_entry()? {
        match entry {
            Entry::Help { name, text } => names.declared(name).help = Some(text),
            Entry::Type { name, kind } => names.declared(name).kind = kind,
            Entry::Unit { name, unit } => names.declared(name).unit = Some(unit),
            Entry::Sample { name, value, timestamp } => {
                let labels = labels(&parser);
                let exemplar = parser.exemplars().first().cloned().map(Box::new);
                let sample = Sample { name: name.clone(), labels, value, timestamp, exemplar };
                samples.push((names.index(name), sample));
            }
            Entry::Histogram { name, timestamp, .. } => {
                let labels = labels(&parser);
                let exemplars = parser.exemplars().to_vec();
                let Some(value) = parser.histogram().cloned() else { continue };
                let histogram = HistogramSample { labels, value, timestamp, exemplars };
                histograms.push((names.index(name), histogram));
            }
        }
    }
    Ok(names.gather(samples, histograms))
}

/// What a body says of its families, and what a caller has noted of their samples.
#[derive(Debug)]
pub struct Outline<'a, T> {
    /// The families that have samples, in the order of first appearance.
    pub families: Vec<FamilyOutline<'a>>,
    /// One note for each sample, family by family, in the order of the body.
    pub samples: Vec<T>,
}

/// A family without its samples; the fields are those of [`Family`].
#[derive(Debug)]
#[allow(missing_docs)]
pub struct FamilyOutline<'a> {
    pub name: Cow<'a, str>,
    pub kind: MetricKind,
    pub help: Option<Cow<'a, str>>,
    pub unit: Option<Cow<'a, str>>,
    /// Where the notes of its samples are.
    pub samples: Range<usize>,
}

/// As [`parse`], with a note in the place of each sample and native histogram, which `note` makes while the parser
/// stands on it. Nothing is allocated for a sample.
///
/// # Errors
/// Where the body is not of its format.
pub fn outline<'a, T>(
    format: Format,
    body: &'a [u8],
    mut note: impl FnMut(&Parser<'a>, &Entry<'a>) -> T,
) -> Result<Outline<'a, T>, ParseError> {
    let mut names = Names::new(format, body);
    let mut samples = Vec::with_capacity(body.len() / TYPICAL_SAMPLE);
    let mut parser = Parser::new(format, Mode::Compat, body);
    while let Some(entry) = parser.next_entry()? {
        match entry {
            Entry::Help { name, text } => names.declared(name).help = Some(text),
            Entry::Type { name, kind } => names.declared(name).kind = kind,
            Entry::Unit { name, unit } => names.declared(name).unit = Some(unit),
            Entry::Sample { ref name, .. } | Entry::Histogram { ref name, .. } => {
                let name = name.clone();
                let noted = note(&parser, &entry);
                samples.push((names.index(name), noted));
            }
        }
    }
    Ok(names.outline(samples))
}

fn labels<'a>(parser: &Parser<'a>) -> Vec<LabelPair<'a>> {
    parser.labels().iter().map(|label| (label.name.clone(), label.value())).collect()
}

/// Every name of a body, of families and of series, in the order of appearance.
struct Names<'a> {
    format: Format,
    known: Vec<Known<'a>>,
    by_name: HashMap<Cow<'a, str>, usize>,
    last: usize,
}

struct Known<'a> {
    name: Cow<'a, str>,
    kind: MetricKind,
    help: Option<Cow<'a, str>>,
    unit: Option<Cow<'a, str>>,
    is_declared: bool,
}

impl<'a> Names<'a> {
    /// Room for as much as a body of its size has, roughly: to grow step by step would cost more.
    fn new(format: Format, body: &[u8]) -> Self {
        let families = body.len() / TYPICAL_FAMILY;
        let (known, by_name) = (Vec::with_capacity(families), HashMap::with_capacity(families));
        Self { format, known, by_name, last: 0 }
    }

    fn declared(&mut self, name: Cow<'a, str>) -> &mut Known<'a> {
        let index = self.index(name);
        let known = &mut self.known[index];
        known.is_declared = true;
        known
    }

    fn index(&mut self, name: Cow<'a, str>) -> usize {
        // Neighbouring lines mostly share their name.
        if self.known.get(self.last).is_some_and(|k| k.name == name) {
            return self.last;
        }
        self.last = *self.by_name.entry(name).or_insert_with_key(|name| {
            self.known.push(Known {
                name: name.clone(),
                kind: MetricKind::Untyped,
                help: None,
                unit: None,
                is_declared: false,
            });
            self.known.len() - 1
        });
        self.last
    }

    /// The name under which the series of name `index` are kept.
    fn family_of(&self, index: usize) -> usize {
        let own = &self.known[index];
        if own.is_declared {
            return index;
        }
        let suffix = own.name.rfind('_').map_or("", |at| &own.name[at..]);
        match self.by_name.get(&own.name[..own.name.len() - suffix.len()]) {
            Some(base) if self.has_suffix(self.known[*base].kind, suffix) => *base,
            _ => index,
        }
    }

    fn has_suffix(&self, kind: MetricKind, suffix: &str) -> bool {
        match (kind, suffix) {
            (MetricKind::Counter, "_total")
            | (MetricKind::Counter | MetricKind::Histogram | MetricKind::Summary, "_created") => {
                self.format == Format::OpenMetrics
            }
            _ => kind.suffixes().contains(&suffix),
        }
    }

    /// Names of families, in the order of the first name of each, by the number of each name.
    fn families(&self) -> (Vec<usize>, Vec<usize>) {
        let mut families = Vec::with_capacity(self.known.len());
        let mut slots = vec![None; self.known.len()];
        let mut slot_of_name = Vec::with_capacity(self.known.len());
        for index in 0..self.known.len() {
            let base = self.family_of(index);
            let slot = *slots[base].get_or_insert_with(|| {
                families.push(base);
                families.len() - 1
            });
            slot_of_name.push(slot);
        }
        (families, slot_of_name)
    }

    fn outline<T>(mut self, mut samples: Vec<(usize, T)>) -> Outline<'a, T> {
        let (families, slot_of_name) = self.families();
        for (index, _) in &mut samples {
            *index = slot_of_name[*index];
        }
        if !samples.is_sorted_by_key(|(slot, _)| *slot) {
            samples.sort_by_key(|(slot, _)| *slot);
        }
        let mut outlines = Vec::with_capacity(families.len());
        for run in samples.chunk_by(|(a, _), (b, _)| a == b) {
            let start = outlines.last().map_or(0, |last: &FamilyOutline<'_>| last.samples.end);
            let known = &mut self.known[families[run[0].0]];
            outlines.push(FamilyOutline {
                name: known.name.clone(),
                kind: known.kind,
                help: known.help.take(),
                unit: known.unit.take(),
                samples: start..start + run.len(),
            });
        }
        Outline { families: outlines, samples: samples.into_iter().map(|(_, note)| note).collect() }
    }

    fn gather(
        mut self,
        samples: Vec<(usize, Sample<'a>)>,
        histograms: Vec<(usize, HistogramSample<'a>)>,
    ) -> Vec<Family<'a>> {
        let mut counts = vec![0; self.known.len()];
        for (index, _) in &samples {
            counts[*index] += 1;
        }
        let (bases, slot_of_name) = self.families();
        let mut families: Vec<_> = bases
            .into_iter()
            .map(|base| {
                let known = &mut self.known[base];
                Family {
                    name: known.name.clone(),
                    kind: known.kind,
                    help: known.help.take(),
                    unit: known.unit.take(),
                    samples: Vec::new(),
                    histograms: Vec::new(),
                }
            })
            .collect();
        for (index, count) in counts.into_iter().enumerate() {
            families[slot_of_name[index]].samples.reserve_exact(count);
        }
        for (index, sample) in samples {
            families[slot_of_name[index]].samples.push(sample);
        }
        for (index, histogram) in histograms {
            families[slot_of_name[index]].histograms.push(histogram);
        }
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(body: &str) -> Vec<(String, MetricKind, Vec<String>)> {
        let families = parse(Format::Text, Mode::Compat, body.as_bytes()).unwrap();
        let names = |f: &Family<'_>| f.samples.iter().map(|s| s.name.to_string()).collect();
        families.iter().map(|f| (f.name.to_string(), f.kind, names(f))).collect()
    }

    fn family(name: &str, kind: MetricKind, samples: &[&str]) -> (String, MetricKind, Vec<String>) {
        let samples = samples.iter().map(ToString::to_string).collect();
        (name.to_owned(), kind, samples)
    }

    #[test]
    fn mixed_families_are_sorted_out() {
        assert_eq!(
            shape("x 1\ny 1\nx{a=\"1\"} 2\n"),
            [family("x", MetricKind::Untyped, &["x", "x"]), family("y", MetricKind::Untyped, &["y"])]
        );
    }

    #[test]
    fn a_histogram_owns_its_suffixes_wherever_its_type_stands() {
        let body = "x_count 1\ny 1\nx_bucket{le=\"+Inf\"} 1\n# TYPE x histogram\nx_sum 1\n";
        assert_eq!(
            shape(body),
            [
                family("x", MetricKind::Histogram, &["x_count", "x_bucket", "x_sum"]),
                family("y", MetricKind::Untyped, &["y"])
            ]
        );
    }

    #[test]
    fn a_summary_does_not_own_buckets_nor_declared_names() {
        let body = "# TYPE x summary\n# HELP x_sum Own.\nx_sum 1\nx_bucket 1\nx_count 1\n";
        assert_eq!(
            shape(body),
            [
                family("x", MetricKind::Summary, &["x_count"]),
                family("x_sum", MetricKind::Untyped, &["x_sum"]),
                family("x_bucket", MetricKind::Untyped, &["x_bucket"])
            ]
        );
    }

    #[test]
    fn openmetrics_families_own_what_their_types_add() {
        let body = "# TYPE c_s counter\n# UNIT c_s s\nc_s_total 1 # {a=\"b\"} 2\nc_s_created 3\n\
                    # TYPE h gaugehistogram\nh_bucket{le=\"+Inf\"} 1\nh_gcount 1\nh_gsum 1\n\
                    # TYPE i info\ni_info 1\n# TYPE g gauge\ng_total 1\n# EOF\n";
        let families = parse(Format::OpenMetrics, Mode::Compat, body.as_bytes()).unwrap();
        let sizes: Vec<_> = families.iter().map(|f| (&*f.name, f.samples.len())).collect();
        assert_eq!(sizes, [("c_s", 2), ("h", 3), ("i", 1), ("g", 0), ("g_total", 1)]);
        assert_eq!(families[0].unit.as_deref(), Some("s"));
        let exemplar = families[0].samples[0].exemplar.as_deref().unwrap();
        assert_eq!((exemplar.labels.len(), exemplar.value), (1, 2.0));
    }

    #[test]
    fn an_outline_has_the_families_that_parsing_has() {
        let body = b"x_count 1\n# HELP y Y.\ny 1\nx_bucket{le=\"+Inf\"} 2\n# TYPE x histogram\nx_sum 3\n# TYPE z gauge\n";
        let note = |_: &Parser<'_>, entry: &Entry<'_>| match entry {
            Entry::Sample { value, .. } => *value,
            _ => f64::NAN,
        };
        let outline = outline(Format::Text, body, note).unwrap();
        let families: Vec<_> =
            outline.families.iter().map(|f| (&*f.name, f.kind, f.samples.clone())).collect();
        assert_eq!(families, [("x", MetricKind::Histogram, 0..3), ("y", MetricKind::Untyped, 3..4)]);
        assert_eq!(outline.families[1].help.as_deref(), Some("Y."));
        assert_eq!(outline.samples, [1.0, 2.0, 3.0, 1.0]);
    }

    #[test]
    fn a_counter_of_the_text_format_has_its_own_name() {
        assert_eq!(
            shape("# TYPE c counter\nc 1\nc_total 1\n"),
            [family("c", MetricKind::Counter, &["c"]), family("c_total", MetricKind::Untyped, &["c_total"])]
        );
    }

    #[test]
    fn the_last_metadata_wins() {
        let body = b"# TYPE x gauge\n# HELP x a\nx 1\n# HELP x b\\nc\n# TYPE x counter\n";
        let families = parse(Format::Text, Mode::Compat, body).unwrap();
        assert_eq!(families[0].kind, MetricKind::Counter);
        assert_eq!(families[0].help.as_deref(), Some("b\nc"));
    }

    #[test]
    fn samples_keep_all_that_they_say() {
        let families = parse(Format::Text, Mode::Compat, b"x{b=\"1\\\"\\q\",a=\"\"} 2.5 1700\n").unwrap();
        let sample = &families[0].samples[0];
        let labels = [("b".into(), "1\"\\q".into()), ("a".into(), "".into())];
        assert_eq!(sample.labels, labels);
        assert_eq!((sample.value, sample.timestamp), (2.5, Some(1700)));
        assert!(matches!(sample.name, Cow::Borrowed(_)));
    }
}
