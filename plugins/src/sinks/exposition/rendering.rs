//! One scrape, made ready for the page in one format: an index of its lines.
//!
//! A page has the lines of the targets with the labels of the target put in. Nearly all of them are copied from the
//! body while the page is sent, in two parts with the labels between; so what is stored of a scrape is its body and
//! where the parts are. Lines that must be changed in another way (a label of theirs has the name of one of the
//! target, they are loosely written, the page is of another format) are written anew, once, when the index is made.

mod maker;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use prometheus_streams_core::event::Event;

use self::maker::{Maker, is_reported};
use super::shape::{Names, Shape};
use crate::exposition::{Format, encode_labels, outline};
use crate::support::report::{self, Unreadable};
use crate::support::scrape;

/// The formats of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Text,
    OpenMetrics,
    Protobuf,
}

/// How many there are.
pub(super) const DIALECTS: usize = 3;

/// The index of a scrape, and what had to be written anew.
#[derive(Debug)]
pub(super) struct Rendering {
    pub(super) shape: Arc<Shape>,
    /// One for each family of the shape.
    parts: Box<[Part]>,
    lines: Box<[Line]>,
    own: Box<[u8]>,
}

/// What a scrape says of one family.
#[derive(Debug)]
struct Part {
    help: Text,
    unit: Text,
    lines: Range<u32>,
}

/// A piece of the body, or of what was written anew.
#[derive(Clone, Copy, Debug, Default)]
struct Text {
    start: u32,
    end: u32,
    is_own: bool,
}

/// A line without its line feed (in protobuf: the metrics of a family).
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    start: u32,
    /// Where the labels go.
    splice: u32,
    end: u32,
    form: Form,
}

/// How a line gets the labels of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// It has none of its own: braces and all.
    Bare,
    /// Behind its own.
    Labelled,
    /// It has been written anew, and has them.
    Written,
    /// The same, with names in quotes, which not every reader takes.
    Quoted,
}

/// What is known of a scrape once all of its lines were looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// A sample has a label that its target has too.
    pub(super) has_conflicts: bool,
    /// Something has a name in quotes.
    pub(super) has_quotes: bool,
    /// A sample has a timestamp.
    pub(super) has_timestamps: bool,
}

/// Whose scrape it is, and how it is to be shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// The labels of the target, none of them empty.
    pub(super) labels: &'a [(&'a str, &'a str)],
    /// The timestamp for samples that have none, in milliseconds since 1970.
    pub(super) timestamp: Option<i64>,
    pub(super) names: &'a Names,
}

/// The labels that stand between the parts of a line: those of the target; and without a value those that a reader would
/// otherwise give every sample that lacks them, because they are those of the page itself.
pub(super) fn label_block(labels: &[(&str, &str)]) -> Box<[u8]> {
    let missing = [scrape::INSTANCE, scrape::JOB].into_iter().filter(|name| !has(labels, name));
    let all = labels.iter().copied().chain(missing.map(|name| (name, "")));
    let all: Vec<_> = all.map(|(name, value)| (Cow::Borrowed(name), Cow::Borrowed(value))).collect();
    let mut block = Vec::new();
    encode_labels(&all, false, &mut block);
    block.into()
}

fn has(labels: &[(&str, &str)], name: &str) -> bool {
    labels.iter().any(|(own, _)| *own == name)
}

impl Rendering {
    /// Makes the index of a scrape for a page of `dialect`. `before` is the shape of the scrape before.
    ///
    /// # Errors
    /// The body cannot be read.
    pub(super) fn new(
        event: &Event,
        target: Target<'_>,
        dialect: Dialect,
        before: Option<&Arc<Shape>>,
    ) -> Result<(Self, Option<Facts>), Unreadable> {
        let format = report::format(event);
        let mut maker = Maker::new(event, target, dialect);
        let is_copied = matches!(
            (format, dialect),
            (Format::Text, Dialect::Text | Dialect::OpenMetrics)
                | (Format::OpenMetrics, Dialect::OpenMetrics)
        );
        // Places in a body are 32 bits wide.
        if is_copied && scrape::is_up(event) && u32::try_from(event.body.len()).is_ok() {
            let outline = outline(format, &event.body, |parser, entry| maker.note(parser, entry))
                .map_err(|error| report::unreadable(event, error))?;
            if !outline.families.iter().any(|family| is_reported(&family.name)) {
                maker.report(outline.samples.len());
                maker.take(outline, format);
                let facts = maker.facts;
                return Ok((maker.finish(before), Some(facts)));
            }
            maker = Maker::new(event, target, dialect);
        }
        let (families, readable) = report::families(event);
        readable?;
        maker.write_all(families);
        Ok((maker.finish(before), None))
    }

    /// As [`Rendering::new`], of a scrape that is known to be readable.
    pub(super) fn of_readable(
        event: &Event,
        target: Target<'_>,
        dialect: Dialect,
        before: Option<&Arc<Shape>>,
    ) -> Self {
        Self::new(event, target, dialect, before).map(|(made, _)| made).unwrap_or_else(|error| {
            tracing::error!(%error, labels = %event.labels, "a scrape that was readable is not any more");
            Maker::new(event, target, dialect).finish(before)
        })
    }

    /// The lines of a family.
    pub(super) fn lines(&self, part: usize) -> &[Line] {
        let range =
            self.parts.get(part).map_or(0..0, |part| part.lines.start as usize..part.lines.end as usize);
        self.lines.get(range).unwrap_or_default()
    }

    /// The help text of a family, unescaped; empty if there is none.
    pub(super) fn help<'a>(&'a self, part: usize, body: &'a [u8]) -> Option<Cow<'a, str>> {
        self.parts.get(part).and_then(|part| self.text(part.help, body))
    }

    /// The unit of a family.
    pub(super) fn unit<'a>(&'a self, part: usize, body: &'a [u8]) -> Option<Cow<'a, str>> {
        self.parts.get(part).and_then(|part| self.text(part.unit, body))
    }

    fn text<'a>(&'a self, text: Text, body: &'a [u8]) -> Option<Cow<'a, str>> {
        let source = if text.is_own { &self.own } else { body };
        let bytes = source.get(text.start as usize..text.end as usize)?;
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes))
    }

    /// A line as it stands in the body, or as it was written anew.
    pub(super) fn source<'a>(&'a self, line: &Line, body: &'a [u8]) -> &'a [u8] {
        let source = if line.is_written() { &self.own } else { body };
        source.get(line.start as usize..line.end as usize).unwrap_or_default()
    }

    /// What was written anew of a line.
    pub(super) fn written(&self, line: &Line) -> &[u8] {
        self.own.get(line.start as usize..line.end as usize).unwrap_or_default()
    }

    /// Appends a line with the labels in `block`, and the timestamp in `stamp`, if the line has not been written
    /// with one.
    #[inline]
    pub(super) fn write(&self, line: &Line, body: &[u8], block: &[u8], stamp: &[u8], out: &mut Vec<u8>) {
        let (start, splice, end) = (line.start as usize, line.splice as usize, line.end as usize);
        let opener = match line.form {
            Form::Bare => b'{',
            Form::Labelled => b',',
            Form::Written | Form::Quoted => {
                out.extend_from_slice(self.written(line));
                out.push(b'\n');
                return;
            }
        };
        let (Some(head), Some(tail)) = (body.get(start..splice), body.get(splice..end)) else { return };
        out.reserve(head.len() + block.len() + tail.len() + stamp.len() + 3);
        out.extend_from_slice(head);
        out.push(opener);
        out.extend_from_slice(block);
        if line.form == Form::Bare {
            out.push(b'}');
        }
        out.extend_from_slice(tail);
        out.extend_from_slice(stamp);
        out.push(b'\n');
    }

    /// Whether the series of a line has this name.
    pub(super) fn is_of(&self, line: &Line, name: &str, body: &[u8]) -> bool {
        let text = self.source(line, body);
        let text = text.strip_prefix(b"{\"").unwrap_or(text);
        let behind = text.strip_prefix(name.as_bytes()).and_then(<[u8]>::first);
        matches!(behind, Some(b'{' | b' ' | b'"'))
    }
}

impl Line {
    /// Whether a reader must know names in quotes.
    pub(super) fn is_quoted(&self) -> bool {
        self.form == Form::Quoted
    }

    fn is_written(&self) -> bool {
        matches!(self.form, Form::Written | Form::Quoted)
    }
}
