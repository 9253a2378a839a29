//! A position in a body of lines, and the ways to move on from it that both line formats share.

use std::borrow::Cow;

use super::entry::unescape;
use super::error::{ParseError, found};
use super::model::is_name_char;
use super::swar::{label_name_len, name_len, plain_len};

/// Where a parser stands in a body.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    body: &'a [u8],
    /// The longest valid prefix: nearly always all, and then slices need no second look.
    valid: &'a str,
    pub(super) at: usize,
    /// The metric name that was read last.
    last_name: &'a str,
}

/// What may stand between double quotes.
#[derive(Debug)]
pub(super) struct Quoting {
    /// Whether a line feed stands for itself; if not, only `\n` does.
    pub(super) line_feeds: bool,
    pub(super) nuls: Nuls,
    pub(super) escapes: Escapes,
}

/// What a NUL byte between quotes is. Prometheus' lexers end at one, but step over it in some places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nuls {
    Refused,
    /// As if it were not there, also behind a backslash and behind the closing quote.
    SteppedOver,
    /// A character like any other.
    Plain,
}

/// Which characters may follow a backslash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escapes {
    /// All but a line feed; those without meaning stay as they are.
    Any,
    /// `\\`, `\"` and `\n`.
    Known,
}

/// The inside of a quoted string: where it starts and ends, and whether it has escapes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quoted {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) has_escapes: bool,
}

impl<'a> Scanner<'a> {
    /// A scanner at the start of `body`.
    pub(super) fn new(body: &'a [u8]) -> Self {
        let valid = std::str::from_utf8(body)
            .or_else(|error| std::str::from_utf8(&body[..error.valid_up_to()]))
            .unwrap_or_default();
        Self { body, valid, at: 0, last_name: "" }
    }

    /// Fails unless all of the body is UTF-8.
    pub(super) fn expect_utf8(&self) -> Result<(), ParseError> {
        if self.valid.len() == self.body.len() {
            return Ok(());
        }
        Err(self.fail(self.valid.len(), "expected valid UTF-8"))
    }

    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.body[self.at..]
    }

    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    /// The byte at an offset.
    #[inline]
    pub(super) fn byte(&self, at: usize) -> Option<u8> {
        self.body.get(at).copied()
    }

    /// Moves past `byte` if it stands here.
    #[inline]
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let stands_here = self.peek() == Some(byte);
        self.at += usize::from(stands_here);
        stands_here
    }

    /// Moves past the bytes that `accept` takes, and gives back where they start.
    #[inline]
    pub(super) fn take_while(&mut self, accept: impl Fn(u8) -> bool) -> usize {
        let start = self.at;
        let rest = self.rest();
        self.at += rest.iter().position(|byte| !accept(*byte)).unwrap_or(rest.len());
        start
    }

    #[inline]
    pub(super) fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    pub(super) fn skip_nuls(&mut self) {
        while self.peek() == Some(0) {
            self.at += 1;
        }
    }

    /// The bytes between two offsets.
    #[inline]
    pub(super) fn bytes(&self, start: usize, end: usize) -> &'a [u8] {
        &self.body[start..end]
    }

    /// The text between two offsets; fails where it is not UTF-8.
    #[inline]
    pub(super) fn slice(&self, start: usize, end: usize) -> Result<&'a str, ParseError> {
        match self.valid.get(start..end) {
            Some(text) => Ok(text),
            None => self.checked_slice(start, end),
        }
    }

    #[cold]
    fn checked_slice(&self, start: usize, end: usize) -> Result<&'a str, ParseError> {
        std::str::from_utf8(&self.body[start..end])
            .map_err(|error| self.fail(start + error.valid_up_to(), "expected valid UTF-8"))
    }

    /// Where the line feed of this line is, or the body ends.
    #[inline]
    pub(super) fn line_end(&self) -> usize {
        memchr::memchr(b'\n', self.rest()).map_or(self.body.len(), |lf| self.at + lf)
    }

    /// The text up to the end of the line, where the scanner then stands; and whether it has a backslash.
    #[inline]
    pub(super) fn line_text(&mut self) -> Result<(&'a str, bool), ParseError> {
        let start = self.at;
        let special = memchr::memchr2(b'\n', b'\\', self.rest()).map(|step| start + step);
        let has_escapes = special.is_some_and(|at| self.body[at] == b'\\');
        self.at = if has_escapes { self.line_end() } else { special.unwrap_or(self.body.len()) };
        Ok((self.slice(start, self.at)?, has_escapes))
    }

    /// The bytes up to the end of the line, where the scanner then stands.
    #[inline]
    pub(super) fn line_bytes(&mut self) -> &'a [u8] {
        let start = self.at;
        self.at = self.line_end();
        &self.body[start..self.at]
    }

    #[cold]
    pub(super) fn fail(&self, at: usize, message: impl Into<String>) -> ParseError {
        ParseError::new(self.body, at, message.into())
    }

    /// The error that something else stands here.
    #[cold]
    pub(super) fn expected<T>(&self, what: &str) -> Result<T, ParseError> {
        let message = format!("expected {what}, found {}", found(self.body, self.at));
        Err(self.fail(self.at, message))
    }

    /// The error that `token`, which starts at `start`, is not what was expected.
    #[cold]
    pub(super) fn unfit(&self, what: &str, start: usize, token: &[u8]) -> ParseError {
        let text = String::from_utf8_lossy(&token[..token.len().min(40)]);
        self.fail(start, format!("expected {what}, found {text:?}"))
    }

    /// The name that starts here: letters, digits, `_` and `:`. Neighbouring lines mostly share theirs, and
    /// to compare it is cheaper than to look at every byte.
    #[inline]
    pub(super) fn metric_name(&mut self) -> Result<&'a str, ParseError> {
        let start = self.at;
        if let Some(behind) = self.rest().strip_prefix(self.last_name.as_bytes())
            && !behind.first().is_some_and(|byte| is_name_char(*byte))
        {
            self.at += self.last_name.len();
        } else {
            self.at += name_len(self.rest());
            self.last_name = self.slice(start, self.at)?;
        }
        Ok(self.last_name)
    }

    /// The name that starts here: letters, digits and `_`.
    #[inline]
    pub(super) fn label_name(&mut self) -> Result<&'a str, ParseError> {
        let start = self.at;
        self.at += label_name_len(self.rest());
        self.slice(start, self.at)
    }

    /// Moves past a quoted string. `what` names it in errors.
    #[inline]
    pub(super) fn quoted(&mut self, what: &str, rules: &Quoting) -> Result<Quoted, ParseError> {
        if self.peek() != Some(b'"') {
            return self.expected(what);
        }
        let start = self.at + 1;
        let end = start + plain_len(&self.body[start..]);
        if self.body.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(Quoted { start, end, has_escapes: false });
        }
        self.quoted_with_care(start, end, what, rules)
    }

    /// The rest of a quoted string that has something special at `at`.
    fn quoted_with_care(
        &mut self,
        start: usize,
        mut at: usize,
        what: &str,
        rules: &Quoting,
    ) -> Result<Quoted, ParseError> {
        let mut has_escapes = false;
        loop {
            match self.body.get(at) {
                None => return Err(self.unclosed(what)),
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Quoted { start, end: at, has_escapes });
                }
                Some(b'\\') => {
                    has_escapes = true;
                    at = self.escape(at, rules)?;
                }
                Some(b'\n') if !rules.line_feeds => {
                    return Err(
                        self.fail(at, format!("expected '\"' after {what}, found the end of the line"))
                    );
                }
                Some(0) if rules.nuls == Nuls::Refused => {
                    return Err(self.fail(at, "expected no NUL byte here"));
                }
                Some(_) => at += 1,
            }
            at += plain_len(&self.body[at..]);
        }
    }

    fn unclosed(&self, what: &str) -> ParseError {
        self.fail(self.at, format!("expected {what}, found no closing '\"'"))
    }

    /// Where the escape ends whose backslash is at `at`.
    fn escape(&self, at: usize, rules: &Quoting) -> Result<usize, ParseError> {
        let mut next = at + 1;
        while rules.nuls == Nuls::SteppedOver && self.body.get(next) == Some(&0) {
            next += 1;
        }
        match self.body.get(next) {
            None => Ok(self.body.len()),
            Some(b'\\' | b'"' | b'n') => Ok(next + 1),
            Some(b'\n') => Err(self.fail(at, "expected an escape, found the end of the line")),
            Some(0) if rules.nuls == Nuls::Refused => Err(self.fail(next, "expected no NUL byte here")),
            Some(_) if rules.escapes == Escapes::Any => Ok(next + 1),
            Some(_) => {
                let character = found(self.body, next);
                Err(self
                    .fail(at, format!("expected one of the escapes \\\\, \\\" and \\n, found {character}")))
            }
        }
    }

    /// A name that stood in quotes; `None` if it is empty or not UTF-8.
    pub(super) fn quoted_name(&self, quoted: Quoted) -> Option<Cow<'a, str>> {
        let range = quoted.start..quoted.end;
        let name = match self.valid.get(range.clone()) {
            Some(name) => name,
            None => std::str::from_utf8(&self.body[range]).ok()?,
        };
        match name {
            "" => None,
            name if quoted.has_escapes => Some(unescape(name, true)),
            name => Some(Cow::Borrowed(name)),
        }
    }

    /// The error that a quoted name is one that nothing can have.
    #[cold]
    pub(super) fn bad_name(&self, quoted: Quoted) -> ParseError {
        match self.slice(quoted.start, quoted.end) {
            Ok(_) => self.fail(quoted.start - 1, "expected a name, found an empty one"),
            Err(error) => error,
        }
    }

    /// Moves past the name in a line of metadata, which may stand in quotes if there are rules for them;
    /// gives back what stands there, too. A quoted name may be one that no sample can have: then it is an
    /// error if `is_strict`, or else `None`.
    #[inline]
    pub(super) fn meta_name(
        &mut self,
        quotes: Option<&Quoting>,
        is_strict: bool,
    ) -> Result<(Option<Cow<'a, str>>, &'a [u8]), ParseError> {
        match (self.peek(), quotes) {
            (Some(b'a'..=b'z' | b'A'..=b'Z' | b'_' | b':'), _) => {
                let name = self.metric_name()?;
                Ok((Some(Cow::Borrowed(name)), name.as_bytes()))
            }
            (Some(b'"'), Some(rules)) => {
                let token = self.quoted("a quoted name", rules)?;
                let name = self.quoted_name(token);
                if name.is_none() && is_strict {
                    return Err(self.bad_name(token));
                }
                Ok((name, self.bytes(token.start, token.end)))
            }
            _ => self.expected("a metric name"),
        }
    }

    /// Where `word` ends if it stands here. With `steps_over_nuls` NUL bytes inside of it and behind it do
    /// not count.
    pub(super) fn keyword(&self, word: &[u8], steps_over_nuls: bool) -> Option<usize> {
        let rest = self.rest();
        if !steps_over_nuls || rest.get(word.len()) != Some(&0) && rest.starts_with(word) {
            return rest.starts_with(word).then_some(self.at + word.len());
        }
        let mut at = 0;
        for (index, letter) in word.iter().enumerate() {
            while index > 0 && rest.get(at) == Some(&0) {
                at += 1;
            }
            if rest.get(at) != Some(letter) {
                return None;
            }
            at += 1;
        }
        let nuls = rest[at..].iter().take_while(|byte| **byte == 0).count();
        Some(self.at + at + nuls)
    }
}
