//! Native histograms: told from classic ones, checked and made compact as Prometheus does it.

use super::super::error::ParseError;
use super::super::model::{Buckets, NativeHistogram};
use super::metric::{Histogram, Side};
use super::wire::fail;

/// The schema of custom bounds, for which protobuf has no field.
const CUSTOM_BOUNDS: i32 = -53;

impl Histogram<'_> {
    /// Whether it has a native part. A float zero bucket does not count, as in Prometheus.
    pub(super) fn is_native(&self) -> bool {
        !self.positive.spans.is_empty()
            || !self.negative.spans.is_empty()
            || self.zero_threshold > 0.0
            || self.zero_count > 0
    }

    fn is_float(&self) -> bool {
        self.count_float > 0.0
            || self.zero_count_float > 0.0
            || !self.positive.counts.is_empty()
            || !self.negative.counts.is_empty()
    }

    /// The observations in classic form: those counted as floats unless there are none.
    pub(super) fn classic_count(&self) -> f64 {
        if self.count_float == 0.0 { self.count as f64 } else { self.count_float }
    }

    /// The native part.
    ///
    /// # Errors
    /// It contradicts itself: spans and buckets, or buckets and count, do not fit, a count is negative, or
    /// there is no such schema. Prometheus fails the scrape then.
    pub(super) fn native(&self) -> Result<NativeHistogram, ParseError> {
        self.checked().or_else(|why| fail(self.at, format!("Histogram: {why}")))
    }

    fn checked(&self) -> Result<NativeHistogram, String> {
        let is_float = self.is_float();
        let side = if is_float { Side::floats } else { Side::integers };
        let (positive, above) = side(&self.positive).map_err(|why| format!("positive side: {why}"))?;
        let (negative, below) = side(&self.negative).map_err(|why| format!("negative side: {why}"))?;
        let native = NativeHistogram {
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: if is_float { self.zero_count_float } else { self.zero_count as f64 },
            count: if is_float { self.count_float } else { self.count as f64 },
            sum: self.sum,
            is_float,
            positive,
            negative,
        };
        check_schema(&native)?;
        if !is_float {
            self.check_count(above.wrapping_add(below).wrapping_add(self.zero_count))?;
        } else if native.count < 0.0 || native.zero_count < 0.0 {
            return Err("expected counts of at least 0".into());
        }
        Ok(native)
    }

    /// Observations of NaN are in no bucket, and make the sum NaN.
    fn check_count(&self, in_buckets: u64) -> Result<(), String> {
        let fits = if self.sum.is_nan() { in_buckets <= self.count } else { in_buckets == self.count };
        if fits {
            return Ok(());
        }
        Err(format!("expected {} observations in the buckets, found {in_buckets}", self.count))
    }
}

fn check_schema(native: &NativeHistogram) -> Result<(), String> {
    match native.schema {
        -4..=8 => Ok(()),
        CUSTOM_BOUNDS => {
            // Without bounds there is only the bucket of everything.
            let is_whole = matches!(native.positive.spans[..], [] | [(0, 1)]);
            let has_rest = native.zero_count != 0.0
                || native.zero_threshold != 0.0
                || native.negative != Buckets::default();
            if is_whole && !has_rest { Ok(()) } else { Err("expected custom bounds for its buckets".into()) }
        }
        other => Err(format!("expected a schema from -4 to 8, found {other}")),
    }
}

impl Side {
    /// The buckets, and the sum of all counts.
    fn integers(&self) -> Result<(Buckets, u64), String> {
        let mut count = 0_i64;
        let mut sum = 0_u64;
        let counts = self.deltas.iter().map(|delta| {
            count = count.wrapping_add(*delta);
            sum = sum.wrapping_add(count as u64);
            count as f64
        });
        let buckets = compact(&self.spans, counts)?;
        Ok((buckets, sum))
    }

    fn floats(&self) -> Result<(Buckets, u64), String> {
        compact(&self.spans, self.counts.iter().copied()).map(|buckets| (buckets, 0))
    }
}

/// Buckets without the empty ones, in spans that do not touch.
fn compact(spans: &[(i32, u32)], counts: impl ExactSizeIterator<Item = f64>) -> Result<Buckets, String> {
    let wanted: u64 = spans.iter().map(|(_, length)| u64::from(*length)).sum();
    if wanted != counts.len() as u64 {
        return Err(format!("expected {wanted} buckets for the spans, found {}", counts.len()));
    }
    let mut counts = counts;
    let mut compact = Buckets::default();
    let (mut index, mut end) = (0_i64, 0_i64);
    for (offset, length) in spans {
        index += i64::from(*offset);
        for count in counts.by_ref().take(*length as usize) {
            if count < 0.0 {
                return Err(format!("expected counts of at least 0, found {count}"));
            }
            if count != 0.0 {
                append(&mut compact, index - end, count)?;
                end = index + 1;
            }
            index += 1;
        }
    }
    if i64::from(i32::MAX) < end - 1 {
        return Err(format!("expected bucket indexes of 32 bits, found {}", end - 1));
    }
    Ok(compact)
}

/// Appends the bucket that stands `gap` behind the last one; the first may stand anywhere.
fn append(buckets: &mut Buckets, gap: i64, count: f64) -> Result<(), String> {
    buckets.counts.push(count);
    match buckets.spans.last_mut() {
        Some((_, length)) if gap == 0 => *length += 1,
        last => {
            let is_later = last.is_some();
            match i32::try_from(gap) {
                Ok(gap) if !(is_later && gap < 0) && gap != i32::MIN => buckets.spans.push((gap, 1)),
                _ => return Err(format!("expected buckets in order, found a gap of {gap}")),
            }
        }
    }
    Ok(())
}
