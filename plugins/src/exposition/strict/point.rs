//! One OpenMetrics metric at one time: which samples belong to it, and what they may say.

use std::collections::HashSet;

use super::super::error::ParseError;
use super::super::float::parse_float;
use super::super::model::MetricKind;
use super::Context;

/// The samples of a metric that share a timestamp.
#[derive(Debug)]
pub(super) struct Point {
    /// Where the first sample stands.
    at: usize,
    /// The suffixes, and states and quantiles, that were there.
    seen: HashSet<String>,
    last_bucket: Option<Bucket>,
    has_negative_bound: bool,
    sum: Option<f64>,
    /// The count and where it stands.
    count: Option<(f64, usize)>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    bound: f64,
    value: f64,
}

/// The suffixes of the samples of a kind, all that there may be.
pub(super) fn suffixes(kind: MetricKind) -> &'static [&'static str] {
    match kind {
        MetricKind::Counter => &["_total", "_created"],
        MetricKind::Gauge | MetricKind::Untyped | MetricKind::StateSet => &[""],
        MetricKind::Histogram => &["_bucket", "_sum", "_count", "_created"],
        MetricKind::Summary => &["", "_sum", "_count", "_created"],
        MetricKind::GaugeHistogram => &["_bucket", "_gsum", "_gcount"],
        MetricKind::Info => &["_info"],
    }
}

/// The label that parts the samples of one point; empty if there is none.
pub(super) fn inner_label<'f>(kind: MetricKind, family: &'f str, suffix: &str) -> &'f str {
    match (kind, suffix) {
        (MetricKind::Histogram | MetricKind::GaugeHistogram, "_bucket") => "le",
        (MetricKind::Summary, "") => "quantile",
        (MetricKind::StateSet, "") => family,
        _ => "",
    }
}

impl Point {
    pub(super) fn new(at: usize) -> Self {
        Self {
            at,
            seen: HashSet::new(),
            last_bucket: None,
            has_negative_bound: false,
            sum: None,
            count: None,
        }
    }

    /// Takes one sample: `inner` is the label of [`inner_label`].
    pub(super) fn sample(
        &mut self,
        kind: MetricKind,
        suffix: &str,
        inner: &str,
        value: f64,
        context: &Context<'_, '_>,
    ) -> Result<(), ParseError> {
        no_stray_label(kind, inner, context)?;
        has_exemplar_place(kind, suffix, context)?;
        let part = match suffix {
            "_bucket" => return self.bucket(value, context),
            _ if inner.is_empty() => String::new(),
            _ => {
                let Some(label) = context.label(inner).filter(|label| !label.is_empty()) else {
                    return Err(context.fail(format!("expected the label {inner}")));
                };
                if kind == MetricKind::Summary {
                    quantile(&label.value(), label.at, context)?
                } else {
                    label.value().into_owned()
                }
            }
        };
        if !self.seen.insert(format!("{suffix}{part}")) {
            return Err(context.fail("expected each sample of a metric once, found this one again"));
        }
        match (kind, suffix) {
            (_, "_created") => finite(value, context),
            (MetricKind::Counter, _) => not_negative(value, context),
            (MetricKind::Summary, "") if value < 0.0 => {
                Err(context.fail(format!("expected no negative value of a quantile, found {value}")))
            }
            (_, "_sum") => {
                self.sum = Some(value);
                not_negative(value, context)
            }
            (_, "_gsum") => {
                self.sum = Some(value);
                if value.is_nan() { Err(context.fail("expected a number, found NaN")) } else { Ok(()) }
            }
            (_, "_count" | "_gcount") => {
                self.count = Some((value, context.line.start));
                natural(value, context)
            }
            (MetricKind::Info, _) if value != 1.0 => {
                Err(context.fail(format!("expected 1 as the value of an info, found {value}")))
            }
            (MetricKind::StateSet, _) if value != 0.0 && value != 1.0 => {
                Err(context.fail(format!("expected 0 or 1 as the value of a state, found {value}")))
            }
            _ => Ok(()),
        }
    }

    fn bucket(&mut self, value: f64, context: &Context<'_, '_>) -> Result<(), ParseError> {
        let Some(le) = context.label("le") else {
            return Err(context.fail("expected the label le"));
        };
        let text = le.value();
        let bound = parse_float(text.as_bytes()).filter(|bound| !bound.is_nan());
        let Some(bound) = bound.filter(|bound| *bound != f64::INFINITY || text == "+Inf") else {
            return Err(context.fail_at(le.at, format!("expected a number or +Inf as le, found {text:?}")));
        };
        natural(value, context)?;
        if let Some(last) = self.last_bucket {
            if last.bound >= bound {
                let message = format!("expected le in increasing order, found {text:?}");
                return Err(context.fail_at(le.at, message));
            }
            if last.value > value {
                let message = format!("expected cumulative buckets, found {value} after {}", last.value);
                return Err(context.fail(message));
            }
        }
        if let Some(exemplar) = context.exemplars.iter().find(|exemplar| exemplar.value > bound) {
            let message = format!("expected an exemplar within the bucket, found {}", exemplar.value);
            return Err(context.fail(message));
        }
        self.has_negative_bound |= bound < 0.0;
        self.last_bucket = Some(Bucket { bound, value });
        Ok(())
    }

    /// Checks that the point is whole.
    pub(super) fn end(&self, kind: MetricKind, body: &[u8]) -> Result<(), ParseError> {
        let fail = |at, message: String| Err(ParseError::new(body, at, message));
        match kind {
            MetricKind::Counter if !self.seen.contains("_total") => {
                return fail(self.at, "expected a _total of the counter".to_owned());
            }
            MetricKind::Histogram | MetricKind::GaugeHistogram => {}
            _ => return Ok(()),
        }
        let Some(last) = self.last_bucket.filter(|bucket| bucket.bound == f64::INFINITY) else {
            return fail(self.at, "expected a bucket with le=\"+Inf\" in the histogram".to_owned());
        };
        if self.sum.is_some() != self.count.is_some() {
            return fail(self.at, "expected both a sum and a count of the histogram, or neither".to_owned());
        }
        if let Some((count, at)) = self.count
            && count != last.value
        {
            return fail(at, format!("expected the count of the +Inf bucket, {}, found {count}", last.value));
        }
        match self.sum {
            Some(_) if kind == MetricKind::Histogram && self.has_negative_bound => {
                fail(self.at, "expected no sum of a histogram with negative bounds".to_owned())
            }
            Some(sum) if sum < 0.0 && !self.has_negative_bound => {
                fail(self.at, "expected no negative sum of a histogram without negative bounds".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// `le` and `quantile` belong to buckets and quantiles alone.
fn no_stray_label(kind: MetricKind, inner: &str, context: &Context<'_, '_>) -> Result<(), ParseError> {
    let reserved = match kind {
        MetricKind::Histogram | MetricKind::GaugeHistogram => "le",
        MetricKind::Summary => "quantile",
        _ => return Ok(()),
    };
    match context.label(reserved).filter(|_| inner != reserved) {
        Some(label) => Err(context.fail_at(label.at, format!("expected no label {reserved} here"))),
        None => Ok(()),
    }
}

fn has_exemplar_place(kind: MetricKind, suffix: &str, context: &Context<'_, '_>) -> Result<(), ParseError> {
    let has_place = match kind {
        MetricKind::Counter => suffix == "_total",
        MetricKind::Histogram | MetricKind::GaugeHistogram => suffix == "_bucket",
        _ => false,
    };
    if !has_place && !context.exemplars.is_empty() {
        return Err(context.fail("expected exemplars only on totals of counters and on buckets"));
    }
    Ok(())
}

/// The number that a quantile is, spelled so that equal numbers are equal texts.
fn quantile(text: &str, at: usize, context: &Context<'_, '_>) -> Result<String, ParseError> {
    match parse_float(text.as_bytes()).filter(|quantile| (0.0..=1.0).contains(quantile)) {
        Some(quantile) => Ok(quantile.to_string()),
        None => Err(context.fail_at(at, format!("expected a quantile from 0 to 1, found {text:?}"))),
    }
}

fn finite(value: f64, context: &Context<'_, '_>) -> Result<(), ParseError> {
    if value.is_finite() {
        return Ok(());
    }
    Err(context.fail(format!("expected a time, found {value}")))
}

fn not_negative(value: f64, context: &Context<'_, '_>) -> Result<(), ParseError> {
    if value >= 0.0 {
        return Ok(());
    }
    Err(context.fail(format!("expected a number of at least 0, found {value}")))
}

fn natural(value: f64, context: &Context<'_, '_>) -> Result<(), ParseError> {
    if value >= 0.0 && value.fract() == 0.0 {
        return Ok(());
    }
    Err(context.fail(format!("expected a natural number, found {value}")))
}
