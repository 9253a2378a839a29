//! The streaming parser of text format 0.0.4: one entry at a time, borrowed from the body.
//!
//! It follows the lexer of Prometheus rather than the prose of the format, so its verdicts are
//! those of a scrape: commas between labels are optional, a name may touch its value (`x+1`),
//! indentation is fine before a comment and an error before a sample. Names in quotes, as
//! Prometheus 3 has them (`{"a.b", x="y"} 1`), are read too.
//!
//! One quirk is not followed: to Prometheus a NUL byte at the start of a line is the end of the
//! body (and in a comment, if no blank follows the `#`), and what follows disappears without a
//! word. Here it is an error in place of a sample, and nothing special in a comment.

use std::borrow::Cow;
use std::ops::Range;

use super::entry::{Entry, Label, RawValue, unescape};
use super::error::{ParseError, found};
use super::float::parse_float;
use super::model::{MetricKind, is_name_char, is_name_start};

/// Reads a body entry by entry. Allocates only for names and help texts with escapes, and for the
/// one buffer of labels that all samples share.
#[derive(Debug)]
pub(super) struct TextParser<'a> {
    body: &'a [u8],
    /// The longest valid prefix: nearly always all, and then slices need no second look.
    valid: &'a str,
    at: usize,
    labels: Vec<Label<'a>>,
    order: Vec<usize>,
    line_start: usize,
    series_end: usize,
}

impl<'a> TextParser<'a> {
    /// A parser at the start of `body`.
    pub(super) fn new(body: &'a [u8]) -> Self {
        let valid = std::str::from_utf8(body)
            .or_else(|error| std::str::from_utf8(&body[..error.valid_up_to()]))
            .unwrap_or_default();
        Self { body, valid, at: 0, labels: Vec::new(), order: Vec::new(), line_start: 0, series_end: 0 }
    }

    /// The labels of the sample that was read last, in the order of the body.
    pub(super) fn labels(&self) -> &[Label<'a>] {
        &self.labels
    }

    /// See [`super::Parser::line`].
    pub(super) fn line(&self) -> Range<usize> {
        self.line_start..self.at
    }

    /// See [`super::Parser::series`].
    pub(super) fn series(&self) -> Range<usize> {
        self.line_start..self.series_end
    }

    /// Reads on to the next entry; `None` at the end of the body. After an error the parser's
    /// position has no meaning.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry<'a>>, ParseError> {
        loop {
            let indent = self.at;
            self.skip_blanks();
            match self.peek() {
                None => return Ok(None),
                Some(b'\n') => self.at += 1,
                Some(b'#') => {
                    if let Some(entry) = self.comment()? {
                        return Ok(Some(entry));
                    }
                }
                Some(_) if self.at > indent => {
                    return Err(self.fail(indent, "expected no blanks before a sample"));
                }
                Some(_) => return self.sample().map(Some),
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        self.take_while(|byte| matches!(byte, b' ' | b'\t'));
    }

    /// Moves past the bytes that `accept` takes, and gives back where they start.
    fn take_while(&mut self, accept: impl Fn(u8) -> bool) -> usize {
        let start = self.at;
        let rest = &self.body[start..];
        self.at += rest.iter().position(|byte| !accept(*byte)).unwrap_or(rest.len());
        start
    }

    /// The text between two offsets; fails where it is not UTF-8.
    fn slice(&self, start: usize, end: usize) -> Result<&'a str, ParseError> {
        if end <= self.valid.len()
            && let Some(text) = self.valid.get(start..end)
        {
            return Ok(text);
        }
        std::str::from_utf8(&self.body[start..end])
            .map_err(|error| self.fail(start + error.valid_up_to(), "expected valid UTF-8"))
    }

    #[cold]
    fn fail(&self, at: usize, message: impl Into<String>) -> ParseError {
        ParseError::new(self.body, at, message.into())
    }

    #[cold]
    fn expected<T>(&self, what: &str) -> Result<T, ParseError> {
        let message = format!("expected {what}, found {}", found(self.body, self.at));
        Err(self.fail(self.at, message))
    }

    /// A line that starts with `#`: an entry, or a comment to skip.
    fn comment(&mut self) -> Result<Option<Entry<'a>>, ParseError> {
        self.at += 1;
        let before_blanks = self.at;
        self.skip_blanks();
        let keyword = &self.body[self.at..];
        let is_meta = self.at > before_blanks
            && (keyword.starts_with(b"HELP") || keyword.starts_with(b"TYPE"))
            && matches!(keyword.get(4), Some(b' ' | b'\t'));
        if !is_meta {
            self.at = self.line_end();
            return Ok(None);
        }
        let is_help = keyword.starts_with(b"HELP");
        self.at += 4;
        self.skip_blanks();
        let name = self.meta_name()?;
        // One byte parts name and text, and Prometheus does not ask which.
        let end = self.line_end();
        let start = end.min(self.at + 1);
        self.at = start;
        let text = self.slice(start, end)?;
        if is_help {
            self.at = end;
            let text = unescape(text, false);
            return Ok(Some(Entry::Help { name, text }));
        }
        let Some(kind) = MetricKind::from_word(text) else {
            let kinds = "counter, gauge, histogram, summary or untyped";
            return Err(self.fail(start, format!("expected {kinds}, found {text:?}")));
        };
        self.at = end;
        Ok(Some(Entry::Type { name, kind }))
    }

    fn line_end(&self) -> usize {
        memchr::memchr(b'\n', &self.body[self.at..]).map_or(self.body.len(), |lf| self.at + lf)
    }

    fn meta_name(&mut self) -> Result<Cow<'a, str>, ParseError> {
        match self.peek() {
            Some(b'"') => self.quoted_name(),
            Some(byte) if is_name_start(byte) => self.plain_name(),
            _ => self.expected("a metric name"),
        }
    }

    fn plain_name(&mut self) -> Result<Cow<'a, str>, ParseError> {
        let start = self.take_while(is_name_char);
        self.slice(start, self.at).map(Cow::Borrowed)
    }

    fn quoted_name(&mut self) -> Result<Cow<'a, str>, ParseError> {
        let start = self.at;
        let name = unescape(self.quoted("a quoted name")?, true);
        if name.is_empty() {
            return Err(self.fail(start, "expected a name, found an empty one"));
        }
        Ok(name)
    }

    /// The inside of a quoted string, still escaped. Line feeds may stand in it, as for Prometheus.
    fn quoted(&mut self, what: &str) -> Result<&'a str, ParseError> {
        if self.peek() != Some(b'"') {
            return self.expected(what);
        }
        let start = self.at + 1;
        let mut at = start;
        loop {
            match memchr::memchr2(b'"', b'\\', &self.body[at..]) {
                None => {
                    return Err(self.fail(self.at, format!("expected {what}, found no closing '\"'")));
                }
                Some(step) if self.body[at + step] == b'"' => {
                    self.at = at + step + 1;
                    return self.slice(start, at + step);
                }
                Some(step) if self.body.get(at + step + 1) == Some(&b'\n') => {
                    return Err(self.fail(at + step, "expected an escape, found the end of the line"));
                }
                Some(step) => at = self.body.len().min(at + step + 2),
            }
        }
    }

    fn sample(&mut self) -> Result<Entry<'a>, ParseError> {
        self.labels.clear();
        let start = self.at;
        self.line_start = start;
        let mut name = match self.peek() {
            Some(b'{') => None,
            Some(byte) if is_name_start(byte) => Some(self.plain_name()?),
            _ => return self.expected("a metric name or a comment"),
        };
        self.series_end = self.at;
        self.skip_blanks();
        if self.peek() == Some(b'{') {
            self.label_block(&mut name)?;
            self.series_end = self.at;
        }
        let Some(name) = name else {
            return Err(self.fail(start, "expected a quoted metric name in the braces"));
        };
        self.skip_blanks();
        let value = self.value()?;
        self.skip_blanks();
        let timestamp = self.timestamp()?;
        Ok(Entry::Sample { name, value, timestamp })
    }

    /// `{a="b", ...}`; the metric name may stand inside, in quotes.
    fn label_block(&mut self, name: &mut Option<Cow<'a, str>>) -> Result<(), ParseError> {
        self.at += 1;
        loop {
            self.skip_blanks();
            let at = self.at;
            let (label, was_quoted) = match self.peek() {
                Some(b'}') => break,
                Some(b'"') => (self.quoted_name()?, true),
                Some(byte) if is_name_start(byte) && byte != b':' => {
                    let start = self.take_while(|byte| is_name_char(byte) && byte != b':');
                    (Cow::Borrowed(self.slice(start, self.at)?), false)
                }
                _ => return self.expected("a label name or '}'"),
            };
            self.skip_blanks();
            match self.peek() {
                Some(b'=') => {
                    self.at += 1;
                    self.skip_blanks();
                    let raw = self.quoted("a label value in double quotes")?;
                    self.push_label(label, raw, at)?;
                }
                Some(b',' | b'}') if was_quoted && name.is_none() => *name = Some(label),
                Some(b',' | b'}') if was_quoted => {
                    return Err(self.fail(at, "expected '=', found a second metric name"));
                }
                _ => return self.expected("'='"),
            }
            self.skip_blanks();
            if self.peek() == Some(b',') {
                self.at += 1;
            }
        }
        self.at += 1;
        self.refuse_duplicates()
    }

    fn push_label(&mut self, name: Cow<'a, str>, raw: &'a str, at: usize) -> Result<(), ParseError> {
        if name == "__name__" {
            return Err(self.fail(at, "expected a label other than __name__"));
        }
        self.labels.push(Label { name, raw: RawValue::Escaped(raw), at });
        Ok(())
    }

    /// Two labels of one name are an error, unless one of them is empty: then all of them count as absent.
    fn refuse_duplicates(&mut self) -> Result<(), ParseError> {
        let labels = &mut self.labels;
        if labels.is_sorted_by(|a, b| a.name < b.name) {
            return Ok(());
        }
        self.order.clear();
        self.order.extend(0..labels.len());
        self.order.sort_unstable_by(|a, b| (&labels[*a].name, a).cmp(&(&labels[*b].name, b)));
        let mut rest = &self.order[..];
        while let [first, ..] = rest {
            let run = rest.iter().take_while(|index| labels[**index].name == labels[*first].name);
            let (same, later) = rest.split_at(run.count());
            rest = later;
            let [_, second, ..] = same else { continue };
            if !same.iter().any(|index| labels[*index].is_empty()) {
                let again = &labels[*second];
                let message = format!("expected each label once, found {:?} again", again.name);
                return Err(ParseError::new(self.body, again.at, message));
            }
            for index in same {
                labels[*index].raw = RawValue::Escaped("");
            }
        }
        Ok(())
    }

    fn value(&mut self) -> Result<f64, ParseError> {
        let start = self.take_while(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'{'));
        let token = &self.body[start..self.at];
        if token.is_empty() {
            return self.expected("a value");
        }
        parse_float(token).ok_or_else(|| {
            let text = String::from_utf8_lossy(&token[..token.len().min(40)]);
            self.fail(start, format!("expected a number, found {text:?}"))
        })
    }

    /// The rest of a sample's line after its value.
    fn timestamp(&mut self) -> Result<Option<i64>, ParseError> {
        let start = self.take_while(|byte| byte.is_ascii_digit());
        let timestamp = if self.at > start {
            let Ok(millis) = self.slice(start, self.at)?.parse() else {
                return Err(self.fail(start, "expected a timestamp in milliseconds of at most 63 bits"));
            };
            self.skip_blanks();
            Some(millis)
        } else {
            None
        };
        match self.peek() {
            None => Ok(timestamp),
            Some(b'\n') => {
                self.at += 1;
                Ok(timestamp)
            }
            Some(_) if timestamp.is_some() => self.expected("the end of the line"),
            Some(_) => self.expected("a timestamp in milliseconds or the end of the line"),
        }
    }
}
