//! One parser in front of those of the formats.

use std::ops::Range;

use super::entry::{Entry, Label};
use super::error::ParseError;
use super::format::{Format, Mode};
use super::model::{Exemplar, NativeHistogram};
use super::openmetrics::OpenMetricsParser;
use super::protobuf::ProtobufParser;
use super::strict::{Checker, Context};
use super::text::TextParser;

/// Reads a body entry by entry, borrowing all that it can from the body.
#[derive(Debug)]
pub struct Parser<'a> {
    inner: Inner<'a>,
    body: &'a [u8],
    /// What [`Mode::Strict`] demands beyond the grammar.
    checker: Option<Box<Checker<'a>>>,
}

/// The parser of one format, which knows its grammar in both modes.
#[derive(Debug)]
enum Inner<'a> {
    Text(TextParser<'a>),
    OpenMetrics(Box<OpenMetricsParser<'a>>),
    Protobuf(Box<ProtobufParser<'a>>),
}

impl<'a> Parser<'a> {
    /// A parser at the start of `body`, with the verdicts of `mode`.
    pub fn new(format: Format, mode: Mode, body: &'a [u8]) -> Self {
        let inner = match format {
            Format::Text => Inner::Text(TextParser::new(body, mode)),
            Format::OpenMetrics => Inner::OpenMetrics(Box::new(OpenMetricsParser::new(body, mode))),
            Format::Protobuf => Inner::Protobuf(Box::new(ProtobufParser::new(body, mode))),
        };
        let checker = match mode {
            Mode::Compat => None,
            Mode::Strict => Checker::new(format).map(Box::new),
        };
        Self { inner, body, checker }
    }

    /// Reads on to the next entry; `None` at the end of the body. After an error the parser's
    /// position has no meaning.
    ///
    /// # Errors
    /// The body is not of its format here.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'a>>, ParseError> {
        let entry = match &mut self.inner {
            Inner::Text(parser) => parser.next_entry(),
            Inner::OpenMetrics(parser) => parser.next_entry(),
            Inner::Protobuf(parser) => parser.next_entry(),
        };
        if self.checker.is_some() { entry.and_then(|entry| self.check(entry)) } else { entry }
    }

    #[cold]
    fn check(&mut self, entry: Option<Entry<'a>>) -> Result<Option<Entry<'a>>, ParseError> {
        let Some(mut checker) = self.checker.take() else { return Ok(entry) };
        let (body, line, series) = (self.body, self.line(), self.series());
        let (labels, exemplars) = (self.labels(), self.exemplars());
        match &entry {
            Some(entry) => checker.entry(entry, &Context { body, line, series, labels, exemplars })?,
            None => checker.end(body)?,
        }
        self.checker = Some(checker);
        Ok(entry)
    }

    /// The labels of the sample or histogram that was read last, in the order of the body.
    pub fn labels(&self) -> &[Label<'a>] {
        match &self.inner {
            Inner::Text(parser) => parser.labels(),
            Inner::OpenMetrics(parser) => parser.labels(),
            Inner::Protobuf(parser) => parser.labels(),
        }
    }

    /// The exemplars of the sample (at most one) or histogram that was read last.
    pub fn exemplars(&self) -> &[Exemplar<'a>] {
        match &self.inner {
            Inner::Text(_) => &[],
            Inner::OpenMetrics(parser) => parser.exemplars(),
            Inner::Protobuf(parser) => parser.exemplars(),
        }
    }

    /// The native histogram that was read last.
    pub fn histogram(&self) -> Option<&NativeHistogram> {
        match &self.inner {
            Inner::Text(_) | Inner::OpenMetrics(_) => None,
            Inner::Protobuf(parser) => parser.histogram(),
        }
    }

    /// When the sample or histogram that was read last began to count, in milliseconds since 1970, if that is
    /// said of it (protobuf only; OpenMetrics has series for it, `_created`).
    pub fn created(&self) -> Option<i64> {
        match &self.inner {
            Inner::Text(_) | Inner::OpenMetrics(_) => None,
            Inner::Protobuf(parser) => parser.created(),
        }
    }

    /// Where in the body the entry that was read last stands: its line, with the line feed if there is one.
    /// Empty for formats without lines.
    pub fn line(&self) -> Range<usize> {
        match &self.inner {
            Inner::Text(parser) => parser.line(),
            Inner::OpenMetrics(parser) => parser.line(),
            Inner::Protobuf(_) => 0..0,
        }
    }

    /// Whether the sample that was read last, whose name is `name`, stands in its line as encoders write it: no
    /// blanks and nothing quoted that need not be, labels that are not empty, commas between them, one blank before
    /// the value, and nothing behind the line's last word. Never, for formats without lines.
    pub fn is_tidy(&self, name: &str) -> bool {
        let (line, series) = (self.line(), self.series());
        let byte = |at: usize| self.body.get(at).copied();
        let mut at = series.start + name.len();
        for (index, label) in self.labels().iter().enumerate() {
            let opener = if index == 0 { b'{' } else { b',' };
            let Some(len) = label.tidy_len().filter(|_| byte(at) == Some(opener) && label.at == at + 1)
            else {
                return false;
            };
            at += 1 + len;
        }
        if !self.labels().is_empty() {
            if byte(at) != Some(b'}') {
                return false;
            }
            at += 1;
        }
        let last = if byte(line.end.wrapping_sub(1)) == Some(b'\n') {
            line.end.wrapping_sub(2)
        } else {
            line.end.wrapping_sub(1)
        };
        let is_word = |at: usize| byte(at).is_some_and(|byte| byte > b' ');
        !series.is_empty() && at == series.end && byte(at) == Some(b' ') && is_word(at + 1) && is_word(last)
    }

    /// Where in the body the name and the labels of the sample that was read last stand: the start of its
    /// line, up to the blanks before its value. Empty for formats without lines.
    pub fn series(&self) -> Range<usize> {
        match &self.inner {
            Inner::Text(parser) => parser.series(),
            Inner::OpenMetrics(parser) => parser.series(),
            Inner::Protobuf(_) => 0..0,
        }
    }
}

/// How many samples and native histograms a body holds; checks all of it, and keeps nothing.
///
/// # Errors
/// Where the body is not of its format.
pub fn count_samples(format: Format, body: &[u8]) -> Result<usize, ParseError> {
    let mut parser = Parser::new(format, Mode::Compat, body);
    let mut samples = 0;
    while let Some(entry) = parser.next_entry()? {
        samples += usize::from(matches!(entry, Entry::Sample { .. } | Entry::Histogram { .. }));
    }
    Ok(samples)
}
