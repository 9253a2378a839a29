//! The messages inside a `MetricFamily`, decoded into buffers that all metrics of a body share.

use super::super::error::ParseError;
use super::super::model::{Exemplar, LabelPair};
use super::labels::Labels;
use super::wire::{Field, Message, push, too_many, zigzag};

/// One `Metric`, whatever its type. All of it is decoded, also what the type of the family does not use, as
/// Prometheus does; absent numbers are 0.
#[derive(Debug, Default)]
pub(super) struct Metric<'a> {
    pub(super) labels: Labels<'a>,
    pub(super) gauge: Option<f64>,
    pub(super) counter: Option<f64>,
    pub(super) untyped: Option<f64>,
    pub(super) summary: Option<Summary>,
    pub(super) histogram: Option<Histogram<'a>>,
    /// The exemplar of the counter.
    pub(super) exemplar: Option<Exemplar<'a>>,
    pub(super) timestamp: i64,
    /// When it began to count, in milliseconds since 1970; 0 where it does not say.
    pub(super) created: i64,
}

#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) count: u64,
    pub(super) sum: f64,
    /// Quantile and value.
    pub(super) quantiles: Vec<(f64, f64)>,
}

#[derive(Debug, Default)]
pub(super) struct Histogram<'a> {
    /// Where its bytes start.
    pub(super) at: usize,
    pub(super) count: u64,
    pub(super) count_float: f64,
    pub(super) sum: f64,
    pub(super) buckets: Vec<Bucket<'a>>,
    pub(super) schema: i32,
    pub(super) zero_threshold: f64,
    pub(super) zero_count: u64,
    pub(super) zero_count_float: f64,
    pub(super) negative: Side,
    pub(super) positive: Side,
    pub(super) exemplars: Vec<Exemplar<'a>>,
}

/// The native buckets of one side of zero: of integers as differences, of floats as they are.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) spans: Vec<(i32, u32)>,
    pub(super) deltas: Vec<i64>,
    pub(super) counts: Vec<f64>,
}

#[derive(Debug, Default)]
pub(super) struct Bucket<'a> {
    pub(super) count: f64,
    pub(super) bound: f64,
    pub(super) exemplar: Option<Box<Exemplar<'a>>>,
}

impl<'a> Metric<'a> {
    fn clear(&mut self) {
        self.labels.clear();
        (self.gauge, self.counter, self.untyped) = (None, None, None);
        (self.summary, self.histogram, self.exemplar) = (None, None, None);
        (self.timestamp, self.created) = (0, 0);
    }

    /// Decodes `message` in place of what was here.
    pub(super) fn decode(&mut self, mut message: Message<'a>) -> Result<(), ParseError> {
        self.clear();
        while let Some(field) = message.field("Metric")? {
            match field.number {
                1 => self.labels.decode(message.message(field, "Metric.label")?)?,
                2 => value(message.message(field, "Metric.gauge")?, "Gauge.value", &mut self.gauge)?,
                3 => self.decode_counter(message.message(field, "Metric.counter")?)?,
                4 => {
                    let summary = message.message(field, "Metric.summary")?;
                    self.summary.get_or_insert_default().decode(summary, &mut self.created)?;
                }
                5 => value(message.message(field, "Metric.untyped")?, "Untyped.value", &mut self.untyped)?,
                6 => self.timestamp = message.integer(field, "Metric.timestamp_ms")? as i64,
                7 => {
                    let histogram = message.message(field, "Metric.histogram")?;
                    self.histogram.get_or_insert_default().decode(histogram, &mut self.created)?;
                }
                _ => message.skip(field)?,
            }
        }
        self.labels.refuse_duplicates()
    }

    fn decode_counter(&mut self, mut message: Message<'a>) -> Result<(), ParseError> {
        let counter = self.counter.get_or_insert_default();
        while let Some(field) = message.field("Counter")? {
            match field.number {
                1 => *counter = message.double(field, "Counter.value")?,
                2 => {
                    let exemplar = message.message(field, "Counter.exemplar")?;
                    decode_exemplar(self.exemplar.get_or_insert_with(no_exemplar), exemplar)?;
                }
                3 => self.created = timestamp(message.message(field, "Counter.created_timestamp")?)?,
                _ => message.skip(field)?,
            }
        }
        Ok(())
    }
}

/// The only field of a `Gauge` or `Untyped`.
fn value(mut message: Message<'_>, name: &str, value: &mut Option<f64>) -> Result<(), ParseError> {
    let value = value.get_or_insert_default();
    while let Some(field) = message.field(name)? {
        match field.number {
            1 => *value = message.double(field, name)?,
            _ => message.skip(field)?,
        }
    }
    Ok(())
}

impl Summary {
    fn decode(&mut self, mut message: Message<'_>, created: &mut i64) -> Result<(), ParseError> {
        while let Some(field) = message.field("Summary")? {
            match field.number {
                1 => self.count = message.integer(field, "Summary.sample_count")?,
                2 => self.sum = message.double(field, "Summary.sample_sum")?,
                3 => {
                    let pair = message.message(field, "Summary.quantile")?;
                    add(&mut self.quantiles, quantile(pair)?, field, "Summary.quantile")?;
                }
                4 => *created = timestamp(message.message(field, "Summary.created_timestamp")?)?,
                _ => message.skip(field)?,
            }
        }
        Ok(())
    }
}

fn add<T>(list: &mut Vec<T>, element: T, field: Field, name: &str) -> Result<(), ParseError> {
    if push(list, element) { Ok(()) } else { too_many(field, name) }
}

fn quantile(mut message: Message<'_>) -> Result<(f64, f64), ParseError> {
    let mut pair = (0.0, 0.0);
    while let Some(field) = message.field("Quantile")? {
        match field.number {
            1 => pair.0 = message.double(field, "Quantile.quantile")?,
            2 => pair.1 = message.double(field, "Quantile.value")?,
            _ => message.skip(field)?,
        }
    }
    Ok(pair)
}

impl<'a> Histogram<'a> {
    fn decode(&mut self, mut message: Message<'a>, created: &mut i64) -> Result<(), ParseError> {
        self.at = message.at();
        while let Some(field) = message.field("Histogram")? {
            match field.number {
                1 => self.count = message.integer(field, "Histogram.sample_count")?,
                2 => self.sum = message.double(field, "Histogram.sample_sum")?,
                3 => {
                    let bucket = message.message(field, "Histogram.bucket")?;
                    add(&mut self.buckets, bucket_of(bucket)?, field, "Histogram.bucket")?;
                }
                4 => self.count_float = message.double(field, "Histogram.sample_count_float")?,
                5 => self.schema = message.sint32(field, "Histogram.schema")?,
                6 => self.zero_threshold = message.double(field, "Histogram.zero_threshold")?,
                7 => self.zero_count = message.integer(field, "Histogram.zero_count")?,
                8 => self.zero_count_float = message.double(field, "Histogram.zero_count_float")?,
                9..=11 => self.negative.decode(&mut message, field, 9, "Histogram.negative")?,
                12..=14 => self.positive.decode(&mut message, field, 12, "Histogram.positive")?,
                15 => *created = timestamp(message.message(field, "Histogram.created_timestamp")?)?,
                16 => {
                    let mut exemplar = no_exemplar();
                    decode_exemplar(&mut exemplar, message.message(field, "Histogram.exemplars")?)?;
                    add(&mut self.exemplars, exemplar, field, "Histogram.exemplars")?;
                }
                _ => message.skip(field)?,
            }
        }
        Ok(())
    }
}

impl Side {
    /// One of the three fields of a side, the first of which has the number `first`.
    fn decode(
        &mut self,
        message: &mut Message<'_>,
        field: Field,
        first: i32,
        name: &str,
    ) -> Result<(), ParseError> {
        match field.number - first {
            0 => add(&mut self.spans, span(message.message(field, name)?)?, field, name),
            1 => message.integers(field, name, |value| push(&mut self.deltas, zigzag(value))),
            _ => message.doubles(field, name, |value| push(&mut self.counts, value)),
        }
    }
}

fn span(mut message: Message<'_>) -> Result<(i32, u32), ParseError> {
    let mut span = (0, 0);
    while let Some(field) = message.field("BucketSpan")? {
        match field.number {
            1 => span.0 = message.sint32(field, "BucketSpan.offset")?,
            2 => span.1 = message.integer(field, "BucketSpan.length")? as u32,
            _ => message.skip(field)?,
        }
    }
    Ok(span)
}

fn bucket_of(mut message: Message<'_>) -> Result<Bucket<'_>, ParseError> {
    let mut bucket = Bucket::default();
    let mut float = 0.0;
    while let Some(field) = message.field("Bucket")? {
        match field.number {
            1 => bucket.count = message.integer(field, "Bucket.cumulative_count")? as f64,
            2 => bucket.bound = message.double(field, "Bucket.upper_bound")?,
            3 => {
                let exemplar = bucket.exemplar.get_or_insert_with(|| Box::new(no_exemplar()));
                decode_exemplar(exemplar, message.message(field, "Bucket.exemplar")?)?;
            }
            4 => float = message.double(field, "Bucket.cumulative_count_float")?,
            _ => message.skip(field)?,
        }
    }
    if float != 0.0 {
        bucket.count = float;
    }
    Ok(bucket)
}

fn no_exemplar<'a>() -> Exemplar<'a> {
    Exemplar { labels: Vec::new(), value: 0.0, timestamp: None }
}

fn decode_exemplar<'a>(exemplar: &mut Exemplar<'a>, mut message: Message<'a>) -> Result<(), ParseError> {
    while let Some(field) = message.field("Exemplar")? {
        match field.number {
            1 => {
                let pair = exemplar_label(message.message(field, "Exemplar.label")?)?;
                add(&mut exemplar.labels, pair, field, "Exemplar.label")?;
            }
            2 => exemplar.value = message.double(field, "Exemplar.value")?,
            3 => exemplar.timestamp = Some(timestamp(message.message(field, "Exemplar.timestamp")?)?),
            _ => message.skip(field)?,
        }
    }
    Ok(())
}

fn exemplar_label(mut message: Message<'_>) -> Result<LabelPair<'_>, ParseError> {
    let mut pair = LabelPair::default();
    while let Some(field) = message.field("LabelPair")? {
        match field.number {
            1 => pair.0 = message.lossy_text(field, "LabelPair.name")?,
            2 => pair.1 = message.lossy_text(field, "LabelPair.value")?,
            _ => message.skip(field)?,
        }
    }
    Ok(pair)
}

/// A `google.protobuf.Timestamp` in milliseconds since the epoch.
fn timestamp(mut message: Message<'_>) -> Result<i64, ParseError> {
    let (mut seconds, mut nanos) = (0_i64, 0_i32);
    while let Some(field) = message.field("Timestamp")? {
        match field.number {
            1 => seconds = message.integer(field, "Timestamp.seconds")? as i64,
            2 => nanos = message.integer(field, "Timestamp.nanos")? as i32,
            _ => message.skip(field)?,
        }
    }
    // What does not fit wraps round, as in Go.
    Ok(seconds.wrapping_mul(1000).wrapping_add(i64::from(nanos / 1_000_000)))
}
