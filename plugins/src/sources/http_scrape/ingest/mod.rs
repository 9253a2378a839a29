//! What becomes of the body of a scrape: what the scrape loop of Prometheus would make of it.
//!
//! A body is read to its end. One that cannot be read, or holds what its job does not allow, fails the scrape as
//! a whole, and nothing of it goes on. One that can goes on as it came, byte for byte, unless relabelling
//! changes or drops some of its series ([`crate::exposition::rewrite`]) or a sample lies so far in the future that
//! Prometheus would not store it. On the way the samples are counted as Prometheus counts them: it has looked
//! at each before an error ends its work, so a scrape that fails has its counts too.
//!
//! Where a job has neither rules nor limits for labels, no label is looked at: a scrape costs its parser, and a
//! hash of each series.

mod limits;
mod memory;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use prometheus_streams_core::event::Labels;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use self::limits::LabelLimit;
pub(super) use self::memory::Memory;
use self::memory::{Step, Tally, Walk};
use super::job::{Job, ScrapeLimits};
use crate::exposition::relabel::LabelSet;
use crate::exposition::rewrite::{Edits, Exposed, Fate, Relabeling, RewriteError, Unfit, relabel_protobuf};
use crate::exposition::{Entry, Format, MetricKind, Mode, ParseError, Parser};
use crate::support::scrape::PUBLISHER;

/// How far in the future a sample may lie.
const MOST_AHEAD: Duration = Duration::from_secs(600);

/// Why a body fails its scrape.
#[derive(Debug, thiserror::Error)]
pub(super) enum IngestError {
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    LabelLimit(#[from] LabelLimit),
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    #[error("sample limit exceeded")]
    SampleLimit,
}

/// How many samples a scrape had, as Prometheus reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Samples that the target exposed.
    pub(super) scraped: usize,
    /// Those that relabelling has left.
    pub(super) kept: usize,
    /// Series that were not there before.
    pub(super) added: usize,
    /// Samples of a series that came before in the same scrape.
    pub(super) duplicates: usize,
}

/// What all scrapes of a target have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    pub(super) relabeling: Relabeling<'a>,
    pub(super) limits: &'a ScrapeLimits,
    pub(super) honor_timestamps: bool,
    pub(super) native_histograms: bool,
    pub(super) classic_histograms: bool,
}

impl<'a> Terms<'a> {
    /// The terms of a job for a target with the labels in `target`.
    pub(super) fn new(job: &'a Job, target: &'a [(&'a str, &'a str)]) -> Self {
        Self {
            relabeling: Relabeling { target, honor_labels: job.honor_labels, rules: &job.metric_relabel },
            limits: &job.limits,
            honor_timestamps: job.honor_timestamps,
            native_histograms: job.scrape_native_histograms,
            classic_histograms: job.always_scrape_classic_histograms,
        }
    }
}

/// The labels of a target that relabelling and limits see: all but ours.
pub(super) fn visible(labels: &Labels) -> Vec<(&str, &str)> {
    labels.iter().filter(|(name, value)| *name != PUBLISHER && !value.is_empty()).collect()
}

/// Judges a body that was scraped at `now`, in milliseconds since 1970, and counts it. What goes on is the body itself
/// where nothing of it changed.
pub(super) fn ingest(
    format: Format,
    body: &Bytes,
    terms: &Terms<'_>,
    memory: &mut Memory,
    now: u64,
) -> (Counts, Result<Bytes, IngestError>) {
    // An empty answer says nothing, not even that the series are gone.
    if body.is_empty() {
        return (Counts::default(), Ok(Bytes::new()));
    }
    let mut pass = Pass::new(format, body, *terms, memory, now);
    let result = pass.run();
    let (latest, is_rewritten) = (pass.latest, pass.has_changed && format == Format::Protobuf);
    let Tally { added, duplicates, over_limit } = pass.walk.end(terms.limits.samples, result.is_err());
    let counts = Counts { scraped: pass.scraped, kept: pass.kept, added, duplicates };
    let changed = match result {
        Err(error) => return (counts, Err(error)),
        Ok(()) if over_limit => return (counts, Err(IngestError::SampleLimit)),
        Ok(()) if is_rewritten => match relabel_protobuf(body, &terms.relabeling, latest) {
            Ok(rewritten) => Some(rewritten),
            Err(error) => return (counts, Err(error.into())),
        },
        Ok(()) => pass.edits.finish(),
    };
    (counts, Ok(changed.map_or_else(|| body.clone(), Bytes::from)))
}

/// One reading of a body.
struct Pass<'a, 'm> {
    body: &'a [u8],
    parser: Parser<'a>,
    terms: Terms<'a>,
    looks_at_labels: bool,
    /// The last moment that is not too far in the future, in milliseconds.
    latest: i64,
    walk: Walk<'m>,
    edits: Edits<'a>,
    /// Whether not all of the body goes on as it is.
    has_changed: bool,
    set: LabelSet<'a>,
    /// The type that was named last.
    kind: MetricKind,
    scraped: usize,
    kept: usize,
}

impl<'a, 'm> Pass<'a, 'm> {
    fn new(format: Format, body: &'a [u8], terms: Terms<'a>, memory: &'m mut Memory, now: u64) -> Self {
        let most_ahead = MOST_AHEAD.as_millis() as u64;
        Self {
            body,
            parser: Parser::new(format, Mode::Compat, body),
            terms,
            looks_at_labels: !terms.relabeling.rules.is_empty() || limits::limits_labels(terms.limits),
            latest: if terms.honor_timestamps {
                i64::try_from(now.saturating_add(most_ahead)).unwrap_or(i64::MAX)
            } else {
                i64::MAX
            },
            walk: Walk::new(memory),
            edits: Edits::new(body),
            has_changed: false,
            set: LabelSet::new(),
            kind: MetricKind::Untyped,
            scraped: 0,
            kept: 0,
        }
    }
}

impl<'a> Pass<'a, '_> {
    fn run(&mut self) -> Result<(), IngestError> {
        // What is left of a histogram's classic form, where its native one was taken.
        let mut skipped = 0;
        while let Some(entry) = self.parser.next_entry()? {
            match entry {
                Entry::Sample { .. } if skipped > 0 => skipped -= 1,
                Entry::Sample { name, timestamp, .. } => self.sample(&name, timestamp)?,
                Entry::Histogram { name, timestamp, classic, has_buckets } => {
                    if self.terms.native_histograms {
                        let with_classic = has_buckets && self.terms.classic_histograms;
                        skipped = if with_classic { 0 } else { classic };
                        self.sample(&name, timestamp)?;
                    }
                }
                Entry::Type { kind, .. } => self.kind = kind,
                Entry::Help { .. } | Entry::Unit { .. } => {}
            }
        }
        Ok(())
    }

    #[inline]
    #[expect(clippy::ptr_arg, reason = "a borrowed name lives as long as the body")]
    fn sample(&mut self, name: &Cow<'a, str>, timestamp: Option<i64>) -> Result<(), IngestError> {
        self.scraped += 1;
        let timestamp = timestamp.filter(|_| self.terms.honor_timestamps);
        let is_future = timestamp.is_some_and(|timestamp| timestamp > self.latest);
        let step = self.walk.step(self.hash(name), timestamp.is_some(), is_future);
        let fate = if self.looks_at_labels { self.judge(name, &step, is_future)? } else { Fate::Kept };
        if fate == Fate::Dropped || is_future {
            self.remove();
        }
        self.kept += usize::from(fate != Fate::Dropped);
        self.walk.take(&step, fate);
        Ok(())
    }

    /// A hash of the series as it is exposed, which is how Prometheus tells series before it looks at labels.
    #[inline]
    fn hash(&self, name: &str) -> u64 {
        let series = self.parser.series();
        if !series.is_empty() {
            return xxh3_64(&self.body[series]);
        }
        self.parser.labels().iter().fold(xxh3_64(name.as_bytes()), |hash, label| {
            let hash = xxh3_64_with_seed(label.name.as_bytes(), hash);
            xxh3_64_with_seed(label.value().as_bytes(), hash)
        })
    }

    /// What relabelling and the limits for labels make of a sample. They are asked once for each series.
    #[expect(clippy::ptr_arg, reason = "a borrowed name lives as long as the body")]
    fn judge(&mut self, name: &Cow<'a, str>, step: &Step, is_future: bool) -> Result<Fate, IngestError> {
        let before = self.walk.before(step);
        if let Some(fate @ (Fate::Kept | Fate::Dropped)) = before {
            return Ok(fate);
        }
        let exposed = Exposed { name, labels: self.parser.labels(), kind: self.kind };
        let relabeling = &self.terms.relabeling;
        let fate = relabeling.judge(exposed, &mut self.set)?;
        if before.is_none() && fate != Fate::Dropped {
            limits::check(&self.set, self.terms.limits)?;
        }
        if relabeling.rules.is_empty() {
            return Ok(Fate::Kept);
        }
        if fate == Fate::Changed && !is_future {
            self.has_changed = true;
            let series = self.parser.series();
            if !series.is_empty() {
                self.edits.replace(series, |out| relabeling.write(exposed, &self.set, out));
            }
        }
        Ok(fate)
    }

    fn remove(&mut self) {
        self.has_changed = true;
        let line = self.parser.line();
        if !line.is_empty() {
            self.edits.remove(line);
        }
    }
}
