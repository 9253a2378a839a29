//! The newest scrape of one target, and what has been made of it for its readers: once, and when first asked for.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use hyper::header::HeaderValue;
use prometheus_streams_core::event::{Event, Labels};

use super::negotiate::TEXT;
use super::rendering::{DIALECTS, Dialect, Facts, Rendering, Target, label_block};
use super::shape::{Names, Shape};
use crate::exposition::rewrite::{Relabeling, RewriteError, forget_timestamps, relabel};
use crate::exposition::{Format, count_samples};
use crate::support::report::{self, Unreadable};
use crate::support::scrape;

/// The newest scrape of one target.
#[derive(Debug)]
pub(super) struct Entry {
    /// The rank of the target by its first appearance.
    pub(super) rank: u64,
    /// When the target was scraped, or came here if that is earlier.
    pub(super) timestamp: SystemTime,
    /// The scrape. Its labels are not empty.
    pub(super) event: Event,
    /// The labels of the target as they stand in a line.
    pub(super) block: Box<[u8]>,
    /// The timestamp for samples without one, where they are to have one.
    pub(super) stamp: Option<i64>,
    facts: Option<Facts>,
    renderings: [OnceLock<Arc<Rendering>>; DIALECTS],
    /// The shapes of the scrape before.
    before: [Option<Arc<Shape>>; DIALECTS],
    original: OnceLock<Result<Original, String>>,
}

/// A scrape as the target exposed it, for a reader that honours its labels.
#[derive(Clone, Debug)]
pub(super) struct Original {
    pub(super) format: Format,
    pub(super) content_type: HeaderValue,
    pub(super) body: Bytes,
    /// Whether something has a name in quotes; of protobuf that is not known.
    pub(super) has_quotes: bool,
}

impl Entry {
    /// Judges a scrape, and makes it ready for a page of `dialect` if that costs little more. Where the body cannot
    /// be read, what comes back is a failed scrape, and why it failed.
    pub(super) fn new(
        mut event: Event,
        known: Option<&Entry>,
        dialect: Dialect,
        has_timestamps: bool,
        names: &Names,
    ) -> (Self, Result<(), Unreadable>) {
        let stamp = has_timestamps.then(|| scrape::unix_millis(event.timestamp) as i64);
        let labels: Vec<_> = event.labels.iter().collect();
        let block = match known {
            Some(known) if known.event.labels == event.labels => known.block.clone(),
            _ => label_block(&labels),
        };
        let before = [0, 1, 2].map(|dialect| known.and_then(|known| known.shape(dialect)));
        let dialect = match report::format(&event) {
            Format::Text if dialect != Dialect::Protobuf => Some(dialect),
            Format::Text => Some(Dialect::Text),
            Format::OpenMetrics => Some(Dialect::OpenMetrics),
            Format::Protobuf => None,
        };
        let target = Target { labels: &labels, timestamp: stamp, names };
        let judged = match dialect {
            Some(dialect) => {
                let before = before[dialect as usize].as_ref();
                Rendering::new(&event, target, dialect, before)
                    .map(|(made, facts)| (Some((dialect, made)), facts))
            }
            None if scrape::is_up(&event) => count_samples(Format::Protobuf, &event.body)
                .map(|_| (None, None))
                .map_err(|error| report::unreadable(&event, error)),
            None => Ok((None, None)),
        };
        let timestamp = event.timestamp;
        let (made, facts, readable) = match judged {
            Ok((made, facts)) => (made, facts, Ok(())),
            Err(error) => {
                event.attributes.insert(scrape::ERROR, error.to_string());
                event.body = Bytes::new();
                (None, None, Err(error))
            }
        };
        let renderings = [const { OnceLock::new() }; DIALECTS];
        if let Some((dialect, made)) = made {
            let _ = renderings[dialect as usize].set(Arc::new(made));
        }
        let original = OnceLock::new();
        let entry = Self { rank: 0, timestamp, event, block, stamp, facts, renderings, before, original };
        (entry, readable)
    }

    /// Whose scrape it is.
    pub(super) fn labels(&self) -> &Labels {
        &self.event.labels
    }

    /// The index of its lines for a page of `dialect`.
    pub(super) fn rendering(&self, dialect: Dialect, names: &Names) -> Arc<Rendering> {
        let make = || {
            let labels: Vec<_> = self.event.labels.iter().collect();
            let target = Target { labels: &labels, timestamp: self.stamp, names };
            let before = self.before[dialect as usize].as_ref();
            Arc::new(Rendering::of_readable(&self.event, target, dialect, before))
        };
        Arc::clone(self.renderings[dialect as usize].get_or_init(make))
    }

    /// The newest shape that is known.
    fn shape(&self, dialect: usize) -> Option<Arc<Shape>> {
        let made = self.renderings[dialect].get().map(|made| &made.shape);
        made.or(self.before[dialect].as_ref()).map(Arc::clone)
    }

    /// The scrape as it was. Two things are changed, and only where a reader would otherwise come to something else
    /// than a scrape of the target itself: samples with labels of the target get the names that they end with, and
    /// timestamps that mean nothing are left out.
    ///
    /// # Errors
    /// Why there is none: the scrape failed.
    pub(super) fn original(&self) -> Result<&Original, &str> {
        if let Some(error) = self.event.attributes.get(scrape::ERROR) {
            return Err(error);
        }
        let make = || self.make_original().map_err(|error| error.to_string());
        self.original.get_or_init(make).as_ref().map_err(String::as_str)
    }

    fn make_original(&self) -> Result<Original, RewriteError> {
        let event = &self.event;
        let format = report::format(event);
        let mut body = event.body.clone();
        if !scrape::honors_labels(event) && self.facts.is_none_or(|facts| facts.has_conflicts) {
            let labels: Vec<_> = event.labels.iter().collect();
            let relabeling = Relabeling { target: &labels, honor_labels: false, rules: &[] };
            body = relabel(format, &body, &relabeling)?.map_or(body, Bytes::from);
        }
        if !scrape::honors_timestamps(event) && self.facts.is_none_or(|facts| facts.has_timestamps) {
            body = forget_timestamps(format, &body)?.map_or(body, Bytes::from);
        }
        let said = event
            .attributes
            .get(scrape::CONTENT_TYPE)
            .filter(|said| Format::from_content_type(said).is_some());
        let content_type = said.and_then(|said| HeaderValue::from_str(said).ok());
        Ok(Original {
            format,
            content_type: content_type.unwrap_or(HeaderValue::from_static(TEXT)),
            body,
            has_quotes: self.facts.is_some_and(|facts| facts.has_quotes),
        })
    }
}
