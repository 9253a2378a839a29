//! Relabelling in a format without lines: what changed is taken apart and put together again.

use std::borrow::Cow;
use std::collections::HashMap;

use super::super::encode::encode_protobuf;
use super::super::entry::{Label, RawValue};
use super::super::model::{Family, HistogramSample, LabelPair, MetricKind, Sample};
use super::super::relabel::LabelSet;
use super::{Exposed, Fate, Format, Mode, Relabeling, RewriteError, parse};

/// Relabels all samples of a protobuf body, and leaves out those that are later than `latest`, in milliseconds
/// since 1970. The series of a metric that were relabelled differently are no metric any more, and become
/// untyped ones.
///
/// # Errors
/// As [`super::relabel`].
pub fn relabel_protobuf(
    body: &[u8],
    relabeling: &Relabeling<'_>,
    latest: i64,
) -> Result<Vec<u8>, RewriteError> {
    let in_time = |timestamp: Option<i64>| timestamp.is_none_or(|timestamp| timestamp <= latest);
    let mut shelf = Shelf::default();
    for mut family in parse(Format::Protobuf, Mode::Compat, body)? {
        let samples = std::mem::take(&mut family.samples);
        let histograms = std::mem::take(&mut family.histograms);
        let (name, kind) = (family.name.clone(), family.kind);
        let at = shelf.push(family);
        for sample in samples.into_iter().filter(|sample| in_time(sample.timestamp)) {
            let Some((new, labels)) = relabelled(relabeling, &sample.name, &sample.labels)? else { continue };
            let same = Some(at).filter(|_| new == sample.name);
            let home = shelf.home(same, &new, MetricKind::Untyped);
            home.samples.push(Sample { name: new.into(), labels, ..sample });
        }
        for histogram in histograms.into_iter().filter(|histogram| in_time(histogram.timestamp)) {
            let Some((new, labels)) = relabelled(relabeling, &name, &histogram.labels)? else { continue };
            let home = shelf.home(Some(at).filter(|_| new == name), &new, kind);
            home.histograms.push(HistogramSample { labels, ..histogram });
        }
    }
    let mut relabelled = Vec::with_capacity(body.len());
    encode_protobuf(&shelf.families, &mut relabelled);
    Ok(relabelled)
}

/// The families that come out.
#[derive(Default)]
struct Shelf<'a> {
    families: Vec<Family<'a>>,
    /// Where the first of a name and a type is.
    places: HashMap<(String, MetricKind), usize>,
}

impl<'a> Shelf<'a> {
    fn push(&mut self, family: Family<'a>) -> usize {
        let at = self.families.len();
        self.places.entry((family.name.clone().into_owned(), family.kind)).or_insert(at);
        self.families.push(family);
        at
    }

    /// The family of index `at`, or that of a series which has got a new name.
    fn home(&mut self, at: Option<usize>, name: &str, kind: MetricKind) -> &mut Family<'a> {
        let at = at.or_else(|| self.places.get(&(name.to_owned(), kind)).copied());
        let at = at.unwrap_or_else(|| self.push(Family::new(name.to_owned(), kind)));
        &mut self.families[at]
    }
}

/// The name and the labels that a series must be given; `None` if it is dropped.
fn relabelled<'a>(
    relabeling: &Relabeling<'_>,
    name: &str,
    labels: &[LabelPair<'a>],
) -> Result<Option<(String, Vec<LabelPair<'a>>)>, RewriteError> {
    if relabeling.rules.is_empty() {
        return Ok(Some((name.to_owned(), labels.to_vec())));
    }
    let own: Vec<_> = labels
        .iter()
        .map(|(name, value)| Label { name: Cow::Borrowed(&**name), raw: RawValue::Plain(value), at: 0 })
        .collect();
    let name = Cow::Borrowed(name);
    let exposed = Exposed { name: &name, labels: &own, kind: MetricKind::Untyped };
    let mut set = LabelSet::new();
    Ok(match relabeling.judge(exposed, &mut set)? {
        Fate::Dropped => None,
        Fate::Kept => Some((name.into_owned(), labels.to_vec())),
        Fate::Changed => {
            let labels = relabeling.labels(exposed, &set);
            let labels = labels.map(|(name, value)| (name.to_owned().into(), value.into_owned().into()));
            Some((set.get("__name__").to_owned(), labels.collect()))
        }
    })
}
