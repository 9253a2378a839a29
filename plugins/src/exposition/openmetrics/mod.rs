//! The streaming parser of OpenMetrics 1.0 and 0.0.1: one entry at a time, borrowed from the body.
//!
//! In [`Mode::Compat`] it follows the lexer of Prometheus: exactly one space between the parts of a line
//! and none elsewhere, no blank lines and no comments of one's own, `# EOF` and at most one line feed at the
//! end; timestamps are seconds with a fraction, of which milliseconds remain; a unit must be the end of its
//! family's name; names may be quoted. It takes every sample as it stands, `_created` ones too, since
//! Prometheus asks neither for the order of lines nor for what suits a type; and as Prometheus does, it
//! steps over NUL bytes in and behind keywords, and behind help texts and label values.
//!
//! In [`Mode::Strict`] it takes what the grammar of the specification derives: no quoted names, no comma
//! behind the last label, units of the characters of names, UTF-8 throughout. The grammar has no bare `"` and
//! no last backslash in a help text either, but the parser and the tests that came with the specification
//! take both, and so does this one. Numbers and timestamps are the same for both modes.

use std::borrow::Cow;
use std::ops::Range;

use crate::exposition::entry::{Entry, Label, unescape};
use crate::exposition::error::ParseError;
use crate::exposition::float::{parse_float, read_float};
use crate::exposition::format::Mode;
use crate::exposition::model::{Exemplar, MetricKind};
use crate::exposition::scan::{Escapes, Nuls, Quoting, Scanner};
use crate::exposition::series::{BadNames, Commas, Grammar, Labels};
use crate::exposition::swar::name_len;

const COMPAT: Grammar = Grammar {
    blanks: false,
    commas: Commas::Trailing,
    empty: true,
    quoted_names: true,
    metric_names: true,
    bad_names: BadNames::OfEmptyValues,
    names: Quoting { line_feeds: true, nuls: Nuls::Refused, escapes: Escapes::Any },
    values: Quoting { line_feeds: false, nuls: Nuls::SteppedOver, escapes: Escapes::Any },
};

const COMPAT_EXEMPLAR: Grammar = Grammar {
    metric_names: false,
    bad_names: BadNames::Dropped,
    names: Quoting { line_feeds: false, nuls: Nuls::Refused, escapes: Escapes::Any },
    values: Quoting { line_feeds: false, nuls: Nuls::Refused, escapes: Escapes::Any },
    ..COMPAT
};

const STRICT: Grammar = Grammar {
    blanks: false,
    commas: Commas::Between,
    empty: true,
    quoted_names: false,
    metric_names: false,
    bad_names: BadNames::Refused,
    names: Quoting { line_feeds: false, nuls: Nuls::Plain, escapes: Escapes::Any },
    values: Quoting { line_feeds: false, nuls: Nuls::Plain, escapes: Escapes::Any },
};

/// Reads a body entry by entry. Allocates only for names and help texts with escapes, for the one buffer
/// of labels that all samples share, and for the labels of exemplars.
#[derive(Debug)]
pub(super) struct OpenMetricsParser<'a> {
    scan: Scanner<'a>,
    is_strict: bool,
    has_ended: bool,
    labels: Labels<'a>,
    exemplar_labels: Labels<'a>,
    exemplar: Option<Exemplar<'a>>,
    line_start: usize,
    series_end: usize,
}

/// What a line of metadata tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keyword {
    Help,
    Type,
    Unit,
}

impl<'a> OpenMetricsParser<'a> {
    /// A parser at the start of `body`.
    pub(super) fn new(body: &'a [u8], mode: Mode) -> Self {
        Self {
            scan: Scanner::new(body),
            is_strict: mode == Mode::Strict,
            has_ended: false,
            labels: Labels::default(),
            exemplar_labels: Labels::default(),
            exemplar: None,
            line_start: 0,
            series_end: 0,
        }
    }

    /// The labels of the sample that was read last, in the order of the body.
    pub(super) fn labels(&self) -> &[Label<'a>] {
        self.labels.as_slice()
    }

    /// The exemplar of the sample that was read last.
    pub(super) fn exemplars(&self) -> &[Exemplar<'a>] {
        self.exemplar.as_slice()
    }

    /// See [`crate::exposition::Parser::line`].
    pub(super) fn line(&self) -> Range<usize> {
        self.line_start..self.scan.at
    }

    /// See [`crate::exposition::Parser::series`].
    pub(super) fn series(&self) -> Range<usize> {
        self.line_start..self.series_end
    }

    /// Reads on to the next entry; `None` behind `# EOF`. After an error the parser's position has no
    /// meaning.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry<'a>>, ParseError> {
        if self.is_strict && self.scan.at == 0 {
            self.scan.expect_utf8()?;
        }
        while !self.has_ended {
            match self.scan.peek() {
                Some(b'#') => {
                    if let Some(entry) = self.comment()? {
                        return Ok(Some(entry));
                    }
                }
                Some(_) => return self.sample().map(Some),
                None => return self.scan.expected("# EOF at the end"),
            }
        }
        Ok(None)
    }

    /// A line that starts with `#`; `None` if it tells nothing.
    fn comment(&mut self) -> Result<Option<Entry<'a>>, ParseError> {
        self.line_start = self.scan.at;
        let keyword = match self.scan.rest().first_chunk() {
            Some(b"# HELP ") => Keyword::Help,
            Some(b"# TYPE ") => Keyword::Type,
            Some(b"# UNIT ") => Keyword::Unit,
            _ => return self.unusual_comment(),
        };
        self.scan.at += b"# HELP ".len();
        self.meta(keyword)
    }

    /// The end of the body, or a line of metadata with NUL bytes in its keyword.
    fn unusual_comment(&mut self) -> Result<Option<Entry<'a>>, ParseError> {
        let scan = &mut self.scan;
        scan.at += 1;
        if !scan.take(b' ') {
            return scan.expected("one space behind '#'");
        }
        let steps_over_nuls = !self.is_strict;
        if let Some(end) = scan.keyword(b"EOF", steps_over_nuls) {
            return self.eof(end).map(|()| None);
        }
        for (word, keyword) in [("HELP", Keyword::Help), ("TYPE", Keyword::Type), ("UNIT", Keyword::Unit)] {
            if let Some(end) = scan.keyword(word.as_bytes(), steps_over_nuls)
                && scan.byte(end) == Some(b' ')
            {
                scan.at = end + 1;
                return self.meta(keyword);
            }
        }
        scan.expected("HELP, TYPE, UNIT or EOF, with one space on each side")
    }

    /// The end of the body, which is also that of the keyword `EOF`.
    fn eof(&mut self, end: usize) -> Result<(), ParseError> {
        let scan = &mut self.scan;
        scan.at = end;
        scan.take(b'\n');
        if !self.is_strict {
            scan.skip_nuls();
        }
        if scan.peek().is_some() {
            return scan.expected("nothing behind # EOF but one line feed");
        }
        self.has_ended = true;
        Ok(())
    }

    /// The rest of a line of metadata behind its keyword and a space; `None` if it describes a name that no
    /// sample can have, which Prometheus does not mind.
    #[inline]
    fn meta(&mut self, keyword: Keyword) -> Result<Option<Entry<'a>>, ParseError> {
        let scan = &mut self.scan;
        if !self.is_strict {
            scan.skip_nuls();
        }
        let (name, token) = scan.meta_name((!self.is_strict).then_some(&COMPAT.names), self.is_strict)?;
        if !scan.take(b' ') {
            return scan.expected("one space behind the metric name");
        }
        let entry = match keyword {
            Keyword::Help => {
                let text = self.help()?;
                name.map(|name| Entry::Help { name, text })
            }
            Keyword::Type => {
                let kind = self.kind()?;
                name.map(|name| Entry::Type { name, kind })
            }
            Keyword::Unit => {
                let unit = self.unit(token)?;
                name.map(|name| Entry::Unit { name, unit: String::from_utf8_lossy(unit) })
            }
        };
        self.end_line()?;
        if !self.is_strict && keyword == Keyword::Help {
            self.scan.skip_nuls();
        }
        Ok(entry)
    }

    #[inline]
    fn help(&mut self) -> Result<Cow<'a, str>, ParseError> {
        let (text, has_escapes) = self.scan.line_text()?;
        Ok(if has_escapes { unescape(text, true) } else { Cow::Borrowed(text) })
    }

    #[inline]
    fn kind(&mut self) -> Result<MetricKind, ParseError> {
        let start = self.scan.at;
        let word = self.scan.line_bytes();
        MetricKind::from_openmetrics_word(word).ok_or_else(|| {
            let kinds = "counter, gauge, histogram, gaugehistogram, summary, info, stateset or unknown";
            self.scan.unfit(kinds, start, word)
        })
    }

    /// A unit is what the name ends with, behind an underscore; or nothing.
    fn unit(&mut self, name: &[u8]) -> Result<&'a [u8], ParseError> {
        let start = self.scan.at;
        let unit = self.scan.line_bytes();
        if self.is_strict && name_len(unit) < unit.len() {
            return Err(self.scan.fail(start + name_len(unit), "expected a unit of the characters of names"));
        }
        match name.strip_suffix(unit) {
            _ if unit.is_empty() => Ok(unit),
            Some([.., b'_']) => Ok(unit),
            _ => Err(self.scan.unfit("a unit with which the name ends", start, unit)),
        }
    }

    fn sample(&mut self) -> Result<Entry<'a>, ParseError> {
        self.labels.clear();
        self.exemplar = None;
        let scan = &mut self.scan;
        let start = scan.at;
        self.line_start = start;
        let mut name = match scan.peek() {
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'_' | b':') => Some(Cow::Borrowed(scan.metric_name()?)),
            Some(b'{') if !self.is_strict => None,
            Some(b'\n') => return scan.expected("no blank lines"),
            _ => return scan.expected("a metric name or '#'"),
        };
        if scan.peek() == Some(b'{') {
            let grammar = if self.is_strict { &STRICT } else { &COMPAT };
            self.labels.read(scan, grammar, &mut name)?;
            self.labels.check(scan, !self.is_strict)?;
        }
        self.series_end = scan.at;
        let Some(name) = name else {
            return Err(scan.fail(start, "expected a quoted metric name in the braces"));
        };
        let value = value(scan)?;
        let timestamp = timestamp(scan)?;
        if !scan.take(b'\n') {
            self.exemplar()?;
            self.end_line()?;
        }
        Ok(Entry::Sample { name, value, timestamp })
    }

    /// ` # {...} value [timestamp]`.
    fn exemplar(&mut self) -> Result<(), ParseError> {
        let scan = &mut self.scan;
        if !scan.rest().starts_with(b" # {") {
            return scan
                .expected("a timestamp behind one space, ' # {' of an exemplar, or the end of the line");
        }
        scan.at += 3;
        let grammar = if self.is_strict { &STRICT } else { &COMPAT_EXEMPLAR };
        self.exemplar_labels.clear();
        self.exemplar_labels.read(scan, grammar, &mut None)?;
        let (value, timestamp) = (value(scan)?, timestamp(scan)?);
        let labels = self.exemplar_labels.as_slice();
        let labels = labels.iter().map(|label| (label.name.clone(), label.value())).collect();
        self.exemplar = Some(Exemplar { labels, value, timestamp });
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), ParseError> {
        if self.scan.take(b'\n') {
            Ok(())
        } else {
            self.scan.expected("the end of the line, and # EOF at the end")
        }
    }
}

/// ` 1.5`, the value of a sample or an exemplar.
#[inline]
fn value(scan: &mut Scanner<'_>) -> Result<f64, ParseError> {
    if !scan.take(b' ') {
        return scan.expected("one space and a value");
    }
    number(scan, "a number behind one space")
}

/// ` 1700000000.123` in milliseconds, if it stands here.
#[inline]
fn timestamp(scan: &mut Scanner<'_>) -> Result<Option<i64>, ParseError> {
    if !matches!(scan.rest(), [b' ', next, ..] if *next != b'#') {
        return Ok(None);
    }
    scan.at += 1;
    let start = scan.at;
    let seconds = number(scan, "a timestamp in seconds behind one space")?;
    if !seconds.is_finite() {
        return Err(scan.fail(start, "expected a timestamp, found no finite number"));
    }
    Ok(Some(milliseconds(seconds)))
}

/// The token that reaches to the next space or the end of the line.
#[inline]
fn number(scan: &mut Scanner<'_>, what: &str) -> Result<f64, ParseError> {
    if let Some((value, len)) = read_float(scan.rest())
        && let Some(b' ' | b'\n') = scan.byte(scan.at + len)
    {
        scan.at += len;
        return Ok(value);
    }
    let start = scan.take_while(|byte| !matches!(byte, b' ' | b'\n'));
    let token = scan.bytes(start, scan.at);
    if token.is_empty() {
        return scan.expected(what);
    }
    parse_float(token).ok_or_else(|| scan.unfit(what, start, token))
}

/// Whole milliseconds towards zero. What does not fit is the smallest number there is, as it is for a
/// Prometheus on the usual machines: too old for everybody.
fn milliseconds(seconds: f64) -> i64 {
    let millis = seconds * 1000.0;
    let limit = 2f64.powi(63);
    if (-limit..limit).contains(&millis) { millis as i64 } else { i64::MIN }
}

#[cfg(test)]
mod tests;
