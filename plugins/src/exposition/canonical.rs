//! The strict form of a scrape, which a Push Gateway takes where it would refuse the original.
//!
//! A gateway is pickier than Prometheus: each series once, no timestamps, no label that starts
//! with `__`, one `TYPE` before its samples. Worse, it reads histograms and summaries into typed
//! structures and silently changes what does not fit: it cuts fractions off counts, invents a
//! missing `_sum`, drops a stray sample. A family that would not survive is therefore broken up:
//! its series are sent as untyped families of their own names, and arrive as they were exposed.
//! Only a missing `+Inf` bucket is left to the gateway, which makes it from `_count`.
//!
//! What came as OpenMetrics or protobuf is first put in the words of text: `unknown` is untyped, an `info` or
//! `stateset` is a gauge, a counter is named as its samples are (`…_total`), `_created` is a gauge, the series
//! of a `gaugehistogram` are untyped, and a native histogram is the classic one that came with it, or at
//! least its `_count`, its `_sum` and the bucket of all. Exemplars and units go.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::encode::{add_classic_forms, encode, spread};
use super::float::parse_float;
use super::model::{Family, LabelPair, MetricKind, Sample, is_plain_label_name, is_plain_metric_name};

/// A scrape in the form that a Push Gateway takes, and what it took to get there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canonical {
    /// Text format 0.0.4, line feeds only.
    pub body: Vec<u8>,
    /// How many samples the body has.
    pub samples: usize,
    /// Samples left out because their series came before; the first one stays.
    pub duplicates: usize,
    /// Samples left out because no Push Gateway 1.5 can hold their names: a metric or label name
    /// that needs quotes, or a label that starts with `__`.
    pub dropped: usize,
}

/// What [`normalize`] makes of a scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalized<'a> {
    /// The families, each name once, each with samples.
    pub families: Vec<Family<'a>>,
    /// As in [`Canonical`].
    pub duplicates: usize,
    /// As in [`Canonical`].
    pub dropped: usize,
}

/// Normalizes and encodes in one step. The result is stable: parsed again and made canonical
/// again, it stays the same.
pub fn canonical(families: Vec<Family<'_>>) -> Canonical {
    let normalized = normalize(families);
    let mut body = Vec::new();
    encode(&normalized.families, &mut body);
    Canonical {
        body,
        samples: normalized.families.iter().map(|f| f.samples.len()).sum(),
        duplicates: normalized.duplicates,
        dropped: normalized.dropped,
    }
}

/// Rewrites families of any format so that a Push Gateway takes each of them, alone or together: without
/// timestamps, exemplars, units and empty labels, labels sorted, series unique, families merged by name (the last
/// kind and help win) and broken up where the module's text says so.
pub fn normalize(families: Vec<Family<'_>>) -> Normalized<'_> {
    let mut families: Vec<_> = families.into_iter().flat_map(plain).collect();
    let dropped = drop_unspeakable(&mut families);
    for sample in families.iter_mut().flat_map(|f| &mut f.samples) {
        sample.timestamp = None;
        sample.exemplar = None;
        sample.labels.retain(|(_, value)| !value.is_empty());
        sample.labels.sort_unstable();
    }
    let duplicates = drop_duplicates(&mut families);
    let mut shelf = Shelf::default();
    for family in families {
        shelf.add(family);
    }
    shelf.break_up_misfits();
    let mut families = shelf.families;
    families.retain(|family| !family.samples.is_empty());
    Normalized { families, duplicates, dropped }
}

/// The families that text has for one of any format.
fn plain(mut family: Family<'_>) -> Vec<Family<'_>> {
    add_classic_forms(&mut family);
    family.histograms.clear();
    family.unit = None;
    spread(family)
}

fn drop_unspeakable(families: &mut [Family<'_>]) -> usize {
    let is_label = |name: &str| is_plain_label_name(name) && !name.starts_with("__");
    let mut dropped = 0;
    for family in families {
        let before = family.samples.len();
        family.samples.retain(|sample| {
            is_plain_metric_name(&sample.name) && sample.labels.iter().all(|(n, _)| is_label(n))
        });
        dropped += before - family.samples.len();
    }
    dropped
}

fn drop_duplicates(families: &mut [Family<'_>]) -> usize {
    let is_first: Vec<bool> = {
        let suspects = names_out_of_order(families);
        let mut seen = HashSet::new();
        let mut is_suspect = remembered(|name| suspects.contains(name));
        let samples = families.iter().flat_map(|f| &f.samples);
        samples.map(|s| !is_suspect(&s.name) || seen.insert((&s.name, &s.labels))).collect()
    };
    let mut verdicts = is_first.iter().copied();
    for family in families {
        family.samples.retain(|_| verdicts.next().unwrap_or_default());
    }
    is_first.iter().filter(|first| !**first).count()
}

/// The names whose series do not rise by their labels. The others cannot have a series twice, and most targets
/// sort what they expose, which is cheaper to see than a hash of every series.
fn names_out_of_order<'f>(families: &'f [Family<'_>]) -> HashSet<&'f str> {
    let mut last_labels: HashMap<&str, &Vec<LabelPair<'_>>> = HashMap::new();
    let mut suspects = HashSet::new();
    let mut run: Option<&Sample<'_>> = None;
    for sample in families.iter().flat_map(|f| &f.samples) {
        let before = match run.filter(|run| run.name == sample.name) {
            Some(run) => Some(&run.labels),
            None => {
                if let Some(run) = run {
                    last_labels.insert(&run.name, &run.labels);
                }
                last_labels.get(&*sample.name).copied()
            }
        };
        if before.is_some_and(|before| *before >= sample.labels) {
            suspects.insert(&*sample.name);
        }
        run = Some(sample);
    }
    suspects
}

/// A function of names that is asked once for equal neighbours.
fn remembered<'n>(mut ask: impl FnMut(&str) -> bool) -> impl FnMut(&'n str) -> bool {
    let mut last: Option<(&str, bool)> = None;
    move |name| match last {
        Some((known, answer)) if known == name => answer,
        _ => last.insert((name, ask(name))).1,
    }
}

/// Families by name, in the order of arrival.
#[derive(Default)]
struct Shelf<'a> {
    families: Vec<Family<'a>>,
    by_name: HashMap<Cow<'a, str>, usize>,
}

impl<'a> Shelf<'a> {
    fn add(&mut self, family: Family<'a>) {
        match self.by_name.get(&family.name) {
            Some(index) => {
                let known = &mut self.families[*index];
                known.kind = family.kind;
                known.help = family.help.or(known.help.take());
                known.samples.extend(family.samples);
            }
            None => {
                self.by_name.insert(family.name.clone(), self.families.len());
                self.families.push(family);
            }
        }
    }

    /// Breaks up misfits until there are none: the series of one can be in the way of the next.
    fn break_up_misfits(&mut self) {
        loop {
            let misfits: Vec<usize> =
                (0..self.families.len()).filter(|index| self.is_misfit(&self.families[*index])).collect();
            if misfits.is_empty() {
                return;
            }
            for index in misfits {
                self.break_up(index);
            }
        }
    }

    fn is_misfit(&self, family: &Family<'_>) -> bool {
        match family.kind {
            MetricKind::Histogram => self.is_crowded(family) || !is_whole(family, "_bucket", "le"),
            MetricKind::Summary => self.is_crowded(family) || !is_whole(family, "", "quantile"),
            _ => family.samples.iter().any(|s| s.name != family.name),
        }
    }

    /// Whether another family has the name of one of its series.
    fn is_crowded(&self, family: &Family<'_>) -> bool {
        family.kind.suffixes().iter().any(|suffix| {
            let series = format!("{}{suffix}", family.name);
            let other = self.by_name.get(series.as_str());
            other.is_some_and(|index| !self.families[*index].samples.is_empty())
        })
    }

    fn break_up(&mut self, index: usize) {
        let family = &mut self.families[index];
        family.kind = MetricKind::Untyped;
        let help = family.help.clone();
        let (own, stray) =
            std::mem::take(&mut family.samples).into_iter().partition(|sample| sample.name == family.name);
        family.samples = own;
        for sample in stray {
            let index = match self.by_name.get(&sample.name) {
                Some(index) => *index,
                None => {
                    let family = Family::new(sample.name.clone(), MetricKind::Untyped);
                    self.add(Family { help: help.clone(), ..family });
                    self.families.len() - 1
                }
            };
            self.families[index].samples.push(sample);
        }
    }
}

/// The parts of one histogram or summary: one set of labels without `le` or `quantile`.
#[derive(Default)]
struct Parts {
    bounds: HashSet<u64>,
    has_sum: bool,
    has_count: bool,
}

/// Whether a typed reader gives back just what the samples say: every group has one `_sum` and one
/// `_count`, bounds are distinct numbers, counts are natural numbers.
fn is_whole(family: &Family<'_>, bound_suffix: &str, bound_label: &str) -> bool {
    let mut groups: Vec<Parts> = Vec::new();
    let mut by_labels: HashMap<Vec<&LabelPair<'_>>, usize> = HashMap::new();
    let mut last: Option<(&Sample<'_>, usize)> = None;
    for sample in &family.samples {
        let key = |sample| own_labels(sample, bound_label);
        // Neighbours mostly are of one group.
        let index = match last {
            Some((before, index)) if key(before).eq(key(sample)) => index,
            _ => *by_labels.entry(key(sample).collect()).or_insert_with(|| {
                groups.push(Parts::default());
                groups.len() - 1
            }),
        };
        last = Some((sample, index));
        let parts = &mut groups[index];
        let bound = sample.label(bound_label);
        let fits = match sample.name.strip_prefix(&*family.name) {
            Some("_sum") => bound.is_empty() && !std::mem::replace(&mut parts.has_sum, true),
            Some("_count") => {
                bound.is_empty() && is_natural(sample.value) && !std::mem::replace(&mut parts.has_count, true)
            }
            Some(suffix) if suffix == bound_suffix => {
                has_new_bound(parts, bound) && (suffix.is_empty() || is_natural(sample.value))
            }
            _ => false,
        };
        if !fits {
            return false;
        }
    }
    groups.iter().all(|p| p.has_sum && p.has_count)
}

fn own_labels<'s, 'a>(sample: &'s Sample<'a>, bound_label: &str) -> impl Iterator<Item = &'s LabelPair<'a>> {
    sample.labels.iter().filter(move |(name, _)| name != bound_label)
}

fn has_new_bound(parts: &mut Parts, bound: &str) -> bool {
    let number = parse_float(bound.as_bytes()).filter(|number| !number.is_nan());
    // Adding zero makes -0 and 0 one bound.
    number.is_some_and(|number| parts.bounds.insert((number + 0.0).to_bits()))
}

/// Whether a gateway's unsigned counter holds the value exactly.
fn is_natural(value: f64) -> bool {
    value.fract() == 0.0 && value >= 0.0 && value < u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::super::model::{HistogramSample, NativeHistogram};
    use super::super::{Format, Mode, parse};
    use super::*;

    fn text(body: &str) -> String {
        String::from_utf8(canonical(parse(Format::Text, Mode::Compat, body.as_bytes()).unwrap()).body)
            .unwrap()
    }

    #[test]
    fn a_tidy_scrape_stays_as_it_is() {
        let tidy = "# HELP h Help \\\\ \\n.\n# TYPE h histogram\nh_bucket{a=\"1\",le=\"+Inf\"} 2\n\
            h_sum{a=\"1\"} 0.5\nh_count{a=\"1\"} 2\n# TYPE s summary\ns{quantile=\"0.5\"} NaN\n\
            s_sum 1\ns_count 1\n# TYPE c counter\nc{a=\"\\\"\"} 1\n";
        assert_eq!(text(tidy), tidy);
    }

    #[test]
    fn families_are_gathered_and_timestamps_go() {
        assert_eq!(
            text("x{b=\"2\",a=\"1\",c=\"\"} 1 17\ny 2\nx 3\n# TYPE x gauge\n# HELP z Nothing.\n"),
            "# TYPE x gauge\nx{a=\"1\",b=\"2\"} 1\nx 3\n# TYPE y untyped\ny 2\n"
        );
    }

    #[test]
    fn the_first_of_a_series_stays() {
        let all = canonical(
            parse(Format::Text, Mode::Compat, b"x{a=\"1\",b=\"2\"} 1\nx 2\nx{b=\"2\",a=\"1\"} 3\n").unwrap(),
        );
        assert_eq!((all.samples, all.duplicates), (2, 1));
        assert_eq!(all.body, b"# TYPE x untyped\nx{a=\"1\",b=\"2\"} 1\nx 2\n");
    }

    #[test]
    fn duplicates_are_found_in_every_order() {
        for (body, duplicates) in [
            ("x{a=\"1\"} 1\nx{a=\"2\"} 1\nx{a=\"3\"} 1\n", 0),
            ("x{a=\"1\"} 1\nx{a=\"1\"} 2\n", 1),
            ("x{a=\"2\"} 1\nx{a=\"1\"} 1\nx{a=\"2\"} 2\nx{a=\"1\"} 2\n", 2),
            ("x{a=\"1\"} 1\ny{a=\"1\"} 1\nx{a=\"1\"} 2\ny{a=\"0\"} 1\ny{a=\"1\"} 2\n", 2),
        ] {
            let all = canonical(parse(Format::Text, Mode::Compat, body.as_bytes()).unwrap());
            assert_eq!(all.duplicates, duplicates, "{body}");
        }
    }

    #[test]
    fn names_that_no_gateway_holds_are_counted() {
        let body = b"{\"a.b\"} 1\nx{__c=\"1\"} 1\nx{\"d.e\"=\"1\"} 1\nx 1\n";
        let all = canonical(parse(Format::Text, Mode::Compat, body).unwrap());
        assert_eq!((all.samples, all.dropped), (1, 3));
        assert_eq!(all.body, b"# TYPE x untyped\nx 1\n");
    }

    #[test]
    fn what_a_gateway_would_change_is_sent_untyped() {
        let sound = "h_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n";
        assert!(text(&format!("# TYPE h histogram\n{sound}")).contains("h histogram"));
        for unsound in [
            "h_bucket{le=\"x\"} 1\n",
            "h_bucket{le=\"1.0\"} 1\n",
            "h_bucket{le=\"NaN\"} 1\n",
            "h_bucket{le=\"2\"} 1.5\n",
            "h_bucket{le=\"2\"} -1\n",
            "h_bucket 1\n",
            "h 1\n",
            "h_sum{a=\"1\"} 1\n",
            "h_count{le=\"2\"} 1\n",
        ] {
            let all = text(&format!("# HELP h A.\n# TYPE h histogram\n{sound}{unsound}"));
            assert!(!all.contains("histogram"), "{all}");
            assert!(all.contains("# HELP h_sum A.\n# TYPE h_sum untyped\nh_sum 1\n"), "{all}");
        }
    }

    #[test]
    fn a_summary_needs_sum_count_and_quantiles() {
        let sound = "s{quantile=\"0.5\"} 1.5\ns_sum 1\ns_count 1\n";
        assert!(text(&format!("# TYPE s summary\n{sound}")).contains("s summary"));
        for unsound in ["s 1\n", "s{quantile=\"0.50\"} 2\n", "s{a=\"1\",quantile=\"0.5\"} 1\n"] {
            let all = text(&format!("# TYPE s summary\n{sound}{unsound}"));
            assert!(!all.contains("summary"), "{all}");
        }
    }

    #[test]
    fn a_family_in_the_way_of_a_histogram_breaks_it_up() {
        let body = "# TYPE h histogram\n# TYPE h_count counter\n# TYPE h_bucket histogram\n\
            h_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n";
        assert_eq!(
            text(body),
            "# TYPE h_count counter\nh_count 2\n# TYPE h_bucket untyped\n\
             h_bucket{le=\"+Inf\"} 2\n# TYPE h_sum untyped\nh_sum 3\n"
        );
    }

    #[test]
    fn openmetrics_is_put_in_the_words_of_text() {
        let body = "# TYPE c counter\n# HELP c Some.\n# UNIT c_s s\nc_total 1 17 # {a=\"b\"} 1\nc_created 5\n\
            # TYPE i info\ni_info{v=\"1\"} 1\n# TYPE s stateset\ns{s=\"a\"} 1\n\
            # TYPE g gaugehistogram\ng_bucket{le=\"+Inf\"} 2\ng_gcount 2\ng_gsum -1\n\
            # TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_count 1\nh_sum 2\nh_created 3\n\
            # TYPE u unknown\nu 1\n# EOF\n";
        let all = canonical(parse(Format::OpenMetrics, Mode::Compat, body.as_bytes()).unwrap());
        assert_eq!(
            String::from_utf8(all.body).unwrap(),
            "# HELP c_total Some.\n# TYPE c_total counter\nc_total 1\n\
             # HELP c_created Some.\n# TYPE c_created gauge\nc_created 5\n\
             # TYPE i_info gauge\ni_info{v=\"1\"} 1\n# TYPE s gauge\ns{s=\"a\"} 1\n\
             # TYPE g_bucket untyped\ng_bucket{le=\"+Inf\"} 2\n# TYPE g_gcount untyped\ng_gcount 2\n\
             # TYPE g_gsum untyped\ng_gsum -1\n\
             # TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_count 1\nh_sum 2\n\
             # TYPE h_created gauge\nh_created 3\n# TYPE u untyped\nu 1\n"
        );
    }

    #[test]
    fn a_native_histogram_leaves_its_classic_form() {
        let mut family = Family::new("h", MetricKind::Histogram);
        let value = NativeHistogram { count: 3.0, sum: 1.5, ..NativeHistogram::default() };
        let labels = vec![("a".into(), "1".into())];
        family.histograms.push(HistogramSample { labels, value, timestamp: Some(1), exemplars: Vec::new() });
        assert_eq!(
            String::from_utf8(canonical(vec![family]).body).unwrap(),
            "# TYPE h histogram\nh_count{a=\"1\"} 3\nh_sum{a=\"1\"} 1.5\nh_bucket{a=\"1\",le=\"+Inf\"} 3\n"
        );
    }

    #[test]
    fn a_label_le_of_a_native_histogram_stays_alone() {
        let mut family = Family::new("h", MetricKind::Histogram);
        let labels = vec![("le".into(), "x".into())];
        let value = NativeHistogram::default();
        family.histograms.push(HistogramSample { labels, value, timestamp: None, exemplars: Vec::new() });
        assert_eq!(
            String::from_utf8(canonical(vec![family]).body).unwrap(),
            "# TYPE h_count untyped\nh_count{le=\"x\"} 0\n# TYPE h_sum untyped\nh_sum{le=\"x\"} 0\n"
        );
    }

    #[test]
    fn families_of_one_name_become_one() {
        let mut families = parse(Format::Text, Mode::Compat, b"# HELP x A.\n# TYPE x gauge\nx 1\n").unwrap();
        families.extend(parse(Format::Text, Mode::Compat, b"# TYPE x counter\nx{a=\"1\"} 1\n").unwrap());
        let all = normalize(families);
        assert_eq!(all.families.len(), 1);
        assert_eq!(all.families[0].kind, MetricKind::Counter);
        assert_eq!(all.families[0].help.as_deref(), Some("A."));
    }
}
