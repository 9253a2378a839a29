//! The streaming parser of text formats 0.0.4 and 1.0.0: one entry at a time, borrowed from the body.
//!
//! In [`Mode::Compat`] it follows the lexer of Prometheus rather than the prose of the format, so its
//! verdicts are those of a scrape: commas between labels are optional, a name may touch its value
//! (`x+1`), indentation is fine before a comment and an error before a sample. Names in quotes, as
//! Prometheus 3 has them (`{"a.b", x="y"} 1`), are read too.
//!
//! Two quirks are not followed. To Prometheus a NUL byte at the start of a line is the end of the
//! body (and in a comment, if no blank follows the `#`, or nothing but blanks), and what follows
//! disappears without a word; here it is an error in place of a sample, and nothing special in a comment.
//! And Prometheus 3 takes blanks before a sample for a part of its name, where Prometheus 2 refuses them,
//! as we do.
//!
//! In [`Mode::Strict`] it takes what the published documentation of the format allows: blanks around
//! every line, signed timestamps, the three escapes of label values and the two of help texts, commas
//! between labels and perhaps one behind them, at least one label in braces, a line feed behind the last
//! line, UTF-8 throughout. Quoted names are in, since version 1.0.0 of the format is this one with them.

use std::borrow::Cow;
use std::ops::Range;

use super::entry::{Entry, Label, unescape};
use super::error::ParseError;
use super::float::{parse_float, read_float};
use super::format::Mode;
use super::model::MetricKind;
use super::scan::{Escapes, Nuls, Quoting, Scanner};
use super::series::{BadNames, Commas, Grammar, Labels, STRICT_STRING};

const COMPAT: Grammar = Grammar {
    blanks: true,
    commas: Commas::Optional,
    empty: true,
    quoted_names: true,
    metric_names: true,
    bad_names: BadNames::OfEmptyValues,
    names: Quoting { line_feeds: true, nuls: Nuls::Refused, escapes: Escapes::Any },
    values: Quoting { line_feeds: true, nuls: Nuls::SteppedOver, escapes: Escapes::Any },
};

const STRICT: Grammar = Grammar {
    blanks: true,
    commas: Commas::Trailing,
    empty: false,
    quoted_names: true,
    metric_names: true,
    bad_names: BadNames::Refused,
    names: STRICT_STRING,
    values: STRICT_STRING,
};

/// Reads a body entry by entry. Allocates only for names and help texts with escapes, and for the
/// one buffer of labels that all samples share.
#[derive(Debug)]
pub(super) struct TextParser<'a> {
    scan: Scanner<'a>,
    is_strict: bool,
    labels: Labels<'a>,
    line_start: usize,
    series_end: usize,
}

impl<'a> TextParser<'a> {
    /// A parser at the start of `body`.
    pub(super) fn new(body: &'a [u8], mode: Mode) -> Self {
        Self {
            scan: Scanner::new(body),
            is_strict: mode == Mode::Strict,
            labels: Labels::default(),
            line_start: 0,
            series_end: 0,
        }
    }

    /// The labels of the sample that was read last, in the order of the body.
    pub(super) fn labels(&self) -> &[Label<'a>] {
        self.labels.as_slice()
    }

    /// See [`super::Parser::line`].
    pub(super) fn line(&self) -> Range<usize> {
        self.line_start..self.scan.at
    }

    /// See [`super::Parser::series`].
    pub(super) fn series(&self) -> Range<usize> {
        self.line_start..self.series_end
    }

    /// Reads on to the next entry; `None` at the end of the body. After an error the parser's
    /// position has no meaning.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry<'a>>, ParseError> {
        if self.is_strict && self.scan.at == 0 {
            self.scan.expect_utf8()?;
        }
        loop {
            let indent = self.scan.at;
            self.scan.skip_blanks();
            match self.scan.peek() {
                None => return self.end(indent),
                Some(b'\n') => self.scan.at += 1,
                Some(b'#') => {
                    if let Some(entry) = self.comment()? {
                        return Ok(Some(entry));
                    }
                }
                Some(_) if self.scan.at > indent && !self.is_strict => {
                    return Err(self.scan.fail(indent, "expected no blanks before a sample"));
                }
                Some(_) => return self.sample().map(Some),
            }
        }
    }

    /// The end of the body, behind blanks from `indent`.
    fn end(&self, indent: usize) -> Result<Option<Entry<'a>>, ParseError> {
        if self.is_strict && self.scan.at > indent {
            return self.scan.expected("a line feed behind the last line");
        }
        Ok(None)
    }

    /// A line that starts with `#`: an entry, or a comment to skip.
    fn comment(&mut self) -> Result<Option<Entry<'a>>, ParseError> {
        self.line_start = self.scan.at;
        let is_help = match self.scan.rest().first_chunk() {
            Some(b"# HELP ") => true,
            Some(b"# TYPE ") => false,
            _ => return self.unusual_comment(),
        };
        self.scan.at += b"# HELP ".len();
        self.meta(is_help)
    }

    /// A comment that does not start as encoders write metadata, but may still be such.
    fn unusual_comment(&mut self) -> Result<Option<Entry<'a>>, ParseError> {
        let scan = &mut self.scan;
        scan.at += 1;
        let before_blanks = scan.at;
        scan.skip_blanks();
        let may_be_meta = scan.at > before_blanks || self.is_strict;
        let help = scan.keyword(b"HELP", !self.is_strict);
        let keyword_end = help.or_else(|| scan.keyword(b"TYPE", !self.is_strict)).filter(|_| may_be_meta);
        match keyword_end {
            Some(end) if self.is_meta(end) => {
                self.scan.at = end;
                self.meta(help.is_some())
            }
            _ => {
                self.scan.at = self.scan.line_end();
                self.end_line()?;
                Ok(None)
            }
        }
    }

    /// Whether a keyword that ends at `end` is one. For Prometheus it is not at the end of its line.
    fn is_meta(&self, end: usize) -> bool {
        match self.scan.byte(end) {
            Some(b' ' | b'\t') => true,
            Some(b'\n') | None => self.is_strict,
            Some(_) => false,
        }
    }

    /// The rest of a `HELP` or `TYPE` line behind its keyword; `None` if it describes a name that no sample
    /// can have, which Prometheus does not mind.
    #[inline]
    fn meta(&mut self, is_help: bool) -> Result<Option<Entry<'a>>, ParseError> {
        let scan = &mut self.scan;
        scan.skip_blanks();
        while !self.is_strict && scan.peek() == Some(0) {
            scan.skip_nuls();
            scan.skip_blanks();
        }
        let grammar = if self.is_strict { &STRICT } else { &COMPAT };
        let (name, _) = scan.meta_name(Some(&grammar.names), self.is_strict)?;
        self.separator()?;
        let entry = if is_help {
            let text = self.help()?;
            name.map(|name| Entry::Help { name, text })
        } else {
            let kind = self.kind()?;
            name.map(|name| Entry::Type { name, kind })
        };
        self.end_line()?;
        Ok(entry)
    }

    /// What parts the name of a family from what is said of it.
    #[inline]
    fn separator(&mut self) -> Result<(), ParseError> {
        let scan = &mut self.scan;
        match scan.peek() {
            Some(b'\n') | None => {}
            Some(b' ' | b'\t') if self.is_strict => scan.skip_blanks(),
            Some(0) => return scan.expected("a blank behind the metric name"),
            Some(_) if self.is_strict => return scan.expected("a blank behind the metric name"),
            // Prometheus does not ask which byte this is.
            Some(_) => scan.at += 1,
        }
        Ok(())
    }

    #[inline]
    fn help(&mut self) -> Result<Cow<'a, str>, ParseError> {
        let start = self.scan.at;
        let (text, has_escapes) = self.scan.line_text()?;
        if !has_escapes {
            return Ok(Cow::Borrowed(text));
        }
        if self.is_strict
            && let Some(at) = unknown_help_escape(text)
        {
            return Err(self.scan.fail(start + at, "expected one of the escapes \\\\ and \\n"));
        }
        Ok(unescape(text, false))
    }

    #[inline]
    fn kind(&mut self) -> Result<MetricKind, ParseError> {
        let start = self.scan.at;
        let mut word = self.scan.line_bytes();
        while self.is_strict
            && let [rest @ .., b' ' | b'\t'] = word
        {
            word = rest;
        }
        MetricKind::from_word(word)
            .ok_or_else(|| self.scan.unfit("counter, gauge, histogram, summary or untyped", start, word))
    }

    fn sample(&mut self) -> Result<Entry<'a>, ParseError> {
        self.labels.clear();
        let scan = &mut self.scan;
        let start = scan.at;
        self.line_start = start;
        let mut name = match scan.peek() {
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'_' | b':') => Some(Cow::Borrowed(scan.metric_name()?)),
            Some(b'{') => None,
            _ => return scan.expected("a metric name or a comment"),
        };
        self.series_end = scan.at;
        scan.skip_blanks();
        if scan.peek() == Some(b'{') {
            let grammar = if self.is_strict { &STRICT } else { &COMPAT };
            self.labels.read(scan, grammar, &mut name)?;
            self.labels.check(scan, !self.is_strict)?;
            self.series_end = scan.at;
            scan.skip_blanks();
        }
        let Some(name) = name else {
            return Err(scan.fail(start, "expected a quoted metric name in the braces"));
        };
        let value = self.value()?;
        self.scan.skip_blanks();
        let timestamp = self.timestamp()?;
        Ok(Entry::Sample { name, value, timestamp })
    }

    #[inline]
    fn value(&mut self) -> Result<f64, ParseError> {
        let scan = &mut self.scan;
        if let Some((value, len)) = read_float(scan.rest())
            && matches!(scan.byte(scan.at + len), Some(b'\n' | b' ' | b'\t') | None)
        {
            scan.at += len;
            return Ok(value);
        }
        let start = scan.take_while(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'{'));
        let token = scan.bytes(start, scan.at);
        if token.is_empty() {
            return scan.expected("a value");
        }
        parse_float(token).ok_or_else(|| scan.unfit("a number", start, token))
    }

    /// The rest of a sample's line after its value.
    fn timestamp(&mut self) -> Result<Option<i64>, ParseError> {
        let scan = &mut self.scan;
        if scan.take(b'\n') {
            return Ok(None);
        }
        let start = scan.at;
        if self.is_strict && matches!(scan.peek(), Some(b'-' | b'+')) {
            scan.at += 1;
        }
        scan.take_while(|byte| byte.is_ascii_digit());
        let timestamp = if scan.at > start {
            let Ok(millis) = scan.slice(start, scan.at)?.parse() else {
                return Err(scan.fail(start, "expected a timestamp in milliseconds of at most 63 bits"));
            };
            scan.skip_blanks();
            Some(millis)
        } else {
            None
        };
        match scan.peek() {
            None | Some(b'\n') => self.end_line()?,
            Some(_) if timestamp.is_some() => return scan.expected("the end of the line"),
            Some(_) => return scan.expected("a timestamp in milliseconds or the end of the line"),
        }
        Ok(timestamp)
    }

    /// The line feed, which only the specification demands behind the last line.
    fn end_line(&mut self) -> Result<(), ParseError> {
        if !self.scan.take(b'\n') && self.is_strict {
            return self.scan.expected("a line feed behind the last line");
        }
        Ok(())
    }
}

/// Where a backslash stands in a help text that does not start one of the two escapes.
fn unknown_help_escape(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        if byte == b'\\' && !matches!(bytes.next(), Some((_, b'\\' | b'n'))) {
            return Some(at);
        }
    }
    None
}
