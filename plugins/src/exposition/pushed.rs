//! Text 0.0.4 as a Push Gateway reads it, with its verdicts and its words.
//!
//! A gateway is pickier than Prometheus: one `HELP` and one `TYPE` for a name, the type before the samples, a
//! line feed at the end, no blanks behind a value. And it reads histograms and summaries into whole metrics: what
//! comes without its `_sum` or `_count` gets a 0, the bucket of all is made from the count, counts lose their
//! fractions, and a sample that is no part of the whole is dropped. This reader does the same, so that what it
//! returns is what a gateway would show. The law is Push Gateway 1.5.1; [`super::parse`] is the reader for all else.

use std::borrow::Cow;
use std::collections::HashMap;

use super::float::{parse_float, write_float};
use super::model::{Family, LabelPair, MetricKind, Sample, is_name_char, is_name_start};

/// Why a gateway would not take a body of text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("text format parsing error in line {line}: {message}")]
pub struct PushedError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

/// Reads a body of text as a Push Gateway does: families in the order of appearance, each with samples, histograms
/// and summaries whole. A metric that had a timestamp has it on its first sample.
///
/// # Errors
/// Where the body is not one that a gateway takes, in its words.
pub fn parse_pushed(body: &[u8]) -> Result<Vec<Family<'_>>, PushedError> {
    let mut reader = Reader { body, at: 0, line: 0 };
    let mut shelf = Shelf::default();
    while reader.line(&mut shelf)? {}
    Ok(shelf.drafts.into_iter().filter_map(Draft::finish).collect())
}

/// Families by name, in the order of appearance.
#[derive(Default)]
struct Shelf<'a> {
    drafts: Vec<Draft<'a>>,
    by_name: HashMap<&'a str, usize>,
}

/// A family in the making.
struct Draft<'a> {
    name: &'a str,
    kind: Option<MetricKind>,
    help: Option<Cow<'a, str>>,
    samples: Vec<Sample<'a>>,
    /// Histograms and summaries, and where each set of labels is among them.
    wholes: Vec<Whole<'a>>,
    by_labels: HashMap<Vec<LabelPair<'a>>, usize>,
}

/// A histogram or summary in the making.
#[derive(Default)]
struct Whole<'a> {
    labels: Vec<LabelPair<'a>>,
    count: u64,
    sum: f64,
    /// Buckets or quantiles, as they come.
    bounds: Vec<(f64, f64)>,
    timestamp: Option<i64>,
}

/// What a series is of its family.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Own,
    Sum,
    Count,
}

impl<'a> Shelf<'a> {
    /// The family that a name belongs to, new or known, and what the name means there.
    fn find(&mut self, name: &'a str) -> (usize, Role) {
        if let Some(index) = self.by_name.get(name) {
            return (*index, Role::Own);
        }
        for (suffix, role) in [("_count", Role::Count), ("_sum", Role::Sum), ("_bucket", Role::Own)] {
            let base = name.strip_suffix(suffix).and_then(|base| self.by_name.get(base));
            let Some(index) = base else { continue };
            match self.drafts[*index].kind {
                Some(MetricKind::Histogram) => return (*index, role),
                Some(MetricKind::Summary) if suffix != "_bucket" => return (*index, role),
                _ => {}
            }
        }
        self.by_name.insert(name, self.drafts.len());
        self.drafts.push(Draft::new(name));
        (self.drafts.len() - 1, Role::Own)
    }
}

impl<'a> Draft<'a> {
    fn new(name: &'a str) -> Self {
        let (samples, wholes, by_labels) = (Vec::new(), Vec::new(), HashMap::new());
        Self { name, kind: None, help: None, samples, wholes, by_labels }
    }

    /// The label that a whole metric takes for itself.
    fn bound_label(&self) -> Option<&'static str> {
        match self.kind {
            Some(MetricKind::Summary) => Some("quantile"),
            Some(MetricKind::Histogram) => Some("le"),
            _ => None,
        }
    }

    fn add(&mut self, role: Role, line: Line<'a>) {
        let Line { labels, bound, value, timestamp } = line;
        if self.bound_label().is_none() {
            self.samples.push(Sample { name: self.name.into(), labels, value, timestamp, exemplar: None });
            return;
        }
        let mut key = labels.clone();
        key.sort_unstable();
        let index = *self.by_labels.entry(key).or_insert_with(|| {
            self.wholes.push(Whole { labels, ..Whole::default() });
            self.wholes.len() - 1
        });
        let whole = &mut self.wholes[index];
        whole.timestamp = timestamp.or(whole.timestamp);
        match role {
            Role::Count => whole.count = value as u64,
            Role::Sum => whole.sum = value,
            Role::Own if bound.is_nan() => {}
            Role::Own if self.kind == Some(MetricKind::Histogram) => {
                whole.bounds.push((bound, value as u64 as f64));
            }
            Role::Own => whole.bounds.push((bound, value)),
        }
    }

    /// The family, unless it has no samples.
    fn finish(self) -> Option<Family<'a>> {
        let kind = self.kind.unwrap_or(MetricKind::Untyped);
        let bound_label = self.bound_label();
        let mut family = Family { help: self.help, samples: self.samples, ..Family::new(self.name, kind) };
        for mut whole in self.wholes {
            if kind == MetricKind::Histogram && !whole.bounds.iter().any(|(bound, _)| *bound == f64::INFINITY)
            {
                whole.bounds.push((f64::INFINITY, whole.count as f64));
            }
            let suffix = if kind == MetricKind::Histogram { "_bucket" } else { "" };
            let sample = |suffix: &str, value: f64| Sample {
                labels: whole.labels.clone(),
                timestamp: whole.timestamp,
                ..Sample::new(format!("{}{suffix}", self.name), value)
            };
            for (bound, value) in &whole.bounds {
                let mut sample = sample(suffix, *value);
                sample.labels.extend(bound_label.map(|label| (label.into(), bound_as_pushed(*bound).into())));
                family.samples.push(sample);
            }
            family.samples.extend([sample("_sum", whole.sum), sample("_count", whole.count as f64)]);
        }
        (!family.samples.is_empty()).then_some(family)
    }
}

/// The bound of a bucket, or a quantile, as a Push Gateway writes it: `1`, where Prometheus 3 writes `1.0`.
pub fn bound_as_pushed(bound: f64) -> String {
    let mut text = Vec::new();
    write_float(&mut text, bound);
    String::from_utf8(text).unwrap_or_default()
}

/// What a line of a sample says, but for its name.
struct Line<'a> {
    /// Without the label that a whole metric takes for itself.
    labels: Vec<LabelPair<'a>>,
    /// What that label says; NaN without it.
    bound: f64,
    value: f64,
    timestamp: Option<i64>,
}

/// A position in a body.
struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    line: usize,
}

impl<'a> Reader<'a> {
    fn fail<T>(&self, message: impl Into<String>) -> Result<T, PushedError> {
        Err(PushedError { line: self.line, message: message.into() })
    }

    /// The byte that comes next, which must be there: every line ends with a line feed.
    fn peek(&self) -> Result<u8, PushedError> {
        match self.body.get(self.at) {
            Some(byte) => Ok(*byte),
            None => self.fail("unexpected end of input stream"),
        }
    }

    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t') = self.body.get(self.at) {
            self.at += 1;
        }
    }

    /// The bytes up to one that ends them, which must come.
    fn until(&mut self, ends: impl Fn(u8) -> bool) -> Result<&'a [u8], PushedError> {
        let rest = &self.body[self.at..];
        let length = rest.iter().position(|byte| ends(*byte)).unwrap_or(rest.len());
        self.at += length;
        self.peek()?;
        Ok(&rest[..length])
    }

    fn word(&mut self) -> Result<&'a [u8], PushedError> {
        self.until(|byte| matches!(byte, b' ' | b'\t' | b'\n'))
    }

    /// The name that starts here, or an empty text if none does.
    fn name(&mut self, is_label: bool) -> Result<&'a str, PushedError> {
        let fits = |byte| !is_label || byte != b':';
        let first = self.peek()?;
        if !is_name_start(first) || !fits(first) {
            return Ok("");
        }
        let name = self.until(|byte| !is_name_char(byte) || !fits(byte))?;
        Ok(std::str::from_utf8(name).unwrap_or_default())
    }

    /// Reads a line. False at the end of the body.
    fn line(&mut self, shelf: &mut Shelf<'a>) -> Result<bool, PushedError> {
        self.line += 1;
        self.skip_blanks();
        match self.body.get(self.at) {
            None => return Ok(false),
            Some(b'\n') => {}
            Some(b'#') => self.comment(shelf)?,
            Some(_) => self.sample(shelf)?,
        }
        self.at += 1;
        Ok(true)
    }

    /// Reads a line after its `#`, up to the line feed.
    fn comment(&mut self, shelf: &mut Shelf<'a>) -> Result<(), PushedError> {
        self.at += 1;
        self.skip_blanks();
        let is_help = match self.word()? {
            b"HELP" => true,
            b"TYPE" => false,
            _ => return self.until(|byte| byte == b'\n').map(|_| ()),
        };
        self.skip_blanks();
        let name = self.name(false)?;
        match self.peek()? {
            b'\n' => return Ok(()),
            b' ' | b'\t' => {}
            _ => return self.fail("invalid metric name in comment"),
        }
        let (index, _) = shelf.find(name);
        self.skip_blanks();
        if self.peek()? == b'\n' {
            return Ok(());
        }
        let draft = &mut shelf.drafts[index];
        if is_help { self.help(draft) } else { self.kind(draft) }
    }

    fn help(&mut self, draft: &mut Draft<'a>) -> Result<(), PushedError> {
        if draft.help.is_some() {
            return self.fail(format!("second HELP line for metric name {:?}", draft.name));
        }
        let raw = self.until(|byte| byte == b'\n')?;
        draft.help = Some(match self.unescape(raw, false)? {
            Cow::Borrowed(text) => String::from_utf8_lossy(text),
            Cow::Owned(text) => String::from_utf8_lossy(&text).into_owned().into(),
        });
        Ok(())
    }

    fn kind(&mut self, draft: &mut Draft<'a>) -> Result<(), PushedError> {
        if draft.kind.is_some() {
            return self.fail(format!(
                "second TYPE line for metric name {:?}, or TYPE reported after samples",
                draft.name
            ));
        }
        let word = self.until(|byte| byte == b'\n')?;
        draft.kind = MetricKind::from_word(&word.to_ascii_lowercase());
        match draft.kind {
            Some(_) => Ok(()),
            None => self.fail(format!("unknown metric type {:?}", String::from_utf8_lossy(word))),
        }
    }

    fn sample(&mut self, shelf: &mut Shelf<'a>) -> Result<(), PushedError> {
        let name = self.name(false)?;
        if name.is_empty() {
            return self.fail("invalid metric name");
        }
        let (index, role) = shelf.find(name);
        let draft = &mut shelf.drafts[index];
        draft.kind.get_or_insert(MetricKind::Untyped);
        let mut line = Line { labels: Vec::new(), bound: f64::NAN, value: 0.0, timestamp: None };
        self.skip_blanks();
        if self.peek()? == b'{' {
            self.labels(draft, &mut line)?;
            self.skip_blanks();
        }
        let value = self.word()?;
        line.value = match parse_float(value) {
            Some(value) => value,
            None => {
                let value = String::from_utf8_lossy(value);
                return self.fail(format!("expected float as value, got {value:?}"));
            }
        };
        if self.peek()? != b'\n' {
            line.timestamp = Some(self.timestamp()?);
        }
        draft.add(role, line);
        Ok(())
    }

    fn timestamp(&mut self) -> Result<i64, PushedError> {
        self.skip_blanks();
        let word = String::from_utf8_lossy(self.word()?);
        let Ok(timestamp) = word.parse() else {
            return self.fail(format!("expected integer as timestamp, got {word:?}"));
        };
        let rest = self.until(|byte| byte == b'\n')?;
        match rest.iter().position(|byte| !matches!(byte, b' ' | b'\t')) {
            None if rest.is_empty() => Ok(timestamp),
            _ => {
                let rest = String::from_utf8_lossy(rest);
                self.fail(format!("spurious string after timestamp: {rest:?}"))
            }
        }
    }

    /// Reads labels from their `{` to their `}`.
    fn labels(&mut self, draft: &Draft<'a>, line: &mut Line<'a>) -> Result<(), PushedError> {
        loop {
            self.at += 1;
            self.skip_blanks();
            if self.peek()? == b'}' {
                break;
            }
            let name = self.label_name(draft, &line.labels)?;
            let value = self.label_value()?;
            if draft.bound_label() == Some(name) {
                line.bound = match parse_float(value.as_bytes()) {
                    Some(bound) => bound,
                    None => {
                        let message = format!("expected float as value for '{name}' label, got {value:?}");
                        return self.fail(message);
                    }
                };
            } else {
                line.labels.push((name.into(), value.clone()));
            }
            self.skip_blanks();
            match self.peek()? {
                b',' => {}
                b'}' => break,
                _ => return self.fail(format!("unexpected end of label value {value:?}")),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn label_name(&mut self, draft: &Draft<'a>, known: &[LabelPair<'a>]) -> Result<&'a str, PushedError> {
        let name = self.name(true)?;
        if name.is_empty() {
            return self.fail(format!("invalid label name for metric {:?}", draft.name));
        }
        if name == "__name__" {
            return self.fail("label name \"__name__\" is reserved");
        }
        self.skip_blanks();
        let found = self.peek()?;
        if found != b'=' {
            return self.fail(format!("expected '=' after label name, found {:?}", char::from(found)));
        }
        if known.iter().any(|(own, _)| own == name) {
            return self.fail(format!("duplicate label names for metric {:?}", draft.name));
        }
        self.at += 1;
        Ok(name)
    }

    fn label_value(&mut self) -> Result<Cow<'a, str>, PushedError> {
        self.skip_blanks();
        let found = self.peek()?;
        if found != b'"' {
            let found = char::from(found);
            return self.fail(format!("expected '\"' at start of label value, found {found:?}"));
        }
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\n' => {
                    let value = String::from_utf8_lossy(&self.body[start..self.at]);
                    return self.fail(format!("label value {value:?} contains unescaped new-line"));
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        let raw = &self.body[start..self.at];
        self.at += 1;
        let text = match self.unescape(raw, true)? {
            Cow::Borrowed(text) => std::str::from_utf8(text).ok().map(Cow::Borrowed),
            Cow::Owned(text) => String::from_utf8(text).ok().map(Cow::Owned),
        };
        match text {
            Some(text) => Ok(text),
            None => self.fail(format!("invalid label value {:?}", String::from_utf8_lossy(raw))),
        }
    }

    /// Resolves `\\`, `\n` and, in quotes, `\"`; there are no others.
    fn unescape(&self, raw: &'a [u8], is_quoted: bool) -> Result<Cow<'a, [u8]>, PushedError> {
        if memchr::memchr(b'\\', raw).is_none() {
            return Ok(Cow::Borrowed(raw));
        }
        let mut text = Vec::with_capacity(raw.len());
        let mut bytes = raw.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => match bytes.next() {
                    Some(b'\\') => text.push(b'\\'),
                    Some(b'n') => text.push(b'\n'),
                    Some(b'"') if is_quoted => text.push(b'"'),
                    other => {
                        let other = other.map_or('\n', |byte| char::from(*byte));
                        return self.fail(format!("invalid escape sequence '\\{other}'"));
                    }
                },
                byte => text.push(*byte),
            }
        }
        Ok(Cow::Owned(text))
    }
}
