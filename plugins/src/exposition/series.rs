//! The labels between the braces of a sample or an exemplar, as both line formats write them.

use std::borrow::Cow;

use super::entry::{Label, RawValue};
use super::error::ParseError;
use super::scan::{Escapes, Nuls, Quoted, Quoting, Scanner};

/// How a format writes labels.
#[derive(Debug)]
pub(super) struct Grammar {
    /// Whether blanks may stand between tokens.
    pub(super) blanks: bool,
    pub(super) commas: Commas,
    /// Whether braces may hold nothing.
    pub(super) empty: bool,
    /// Whether names may stand in quotes.
    pub(super) quoted_names: bool,
    /// Whether a metric name may stand in the braces.
    pub(super) metric_names: bool,
    pub(super) bad_names: BadNames,
    pub(super) names: Quoting,
    pub(super) values: Quoting,
}

/// Where commas stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commas {
    /// Between labels or not, and behind the last one or not.
    Optional,
    /// Between labels, and behind the last one or not.
    Trailing,
    /// Between labels only.
    Between,
}

/// What becomes of labels whose quoted name is empty or not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadNames {
    /// An error.
    Refused,
    /// An error, unless the label counts as absent, as those of empty values do.
    OfEmptyValues,
    /// They are left out.
    Dropped,
}

/// What the specification of the text format allows between quotes.
pub(super) const STRICT_STRING: Quoting =
    Quoting { line_feeds: false, nuls: Nuls::Plain, escapes: Escapes::Known };

/// The labels of one sample, in a buffer that all samples share.
#[derive(Debug, Default)]
pub(super) struct Labels<'a> {
    list: Vec<Label<'a>>,
    /// Which of them have a name that only a label without a value may have.
    bad_names: Vec<usize>,
    order: Vec<usize>,
}

/// So few labels are compared with each other, which is cheaper than to sort them.
const FEW: usize = 8;

impl<'a> Labels<'a> {
    pub(super) fn as_slice(&self) -> &[Label<'a>] {
        &self.list
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.bad_names.clear();
    }

    /// Reads `{a="b",...}`; the scanner stands on the brace. A metric name in it goes to `metric`.
    pub(super) fn read(
        &mut self,
        scan: &mut Scanner<'a>,
        grammar: &Grammar,
        metric: &mut Option<Cow<'a, str>>,
    ) -> Result<(), ParseError> {
        scan.at += 1;
        let mut is_first = true;
        loop {
            if grammar.blanks {
                scan.skip_blanks();
            }
            let at = scan.at;
            match scan.peek() {
                Some(b'a'..=b'z' | b'A'..=b'Z' | b'_') => {
                    let name = scan.label_name()?;
                    let raw = self.value(scan, grammar)?;
                    self.push(Cow::Borrowed(name), raw, at);
                }
                Some(b'}') if is_first && grammar.empty => break,
                Some(b'}') if !is_first && grammar.commas != Commas::Between => break,
                Some(b'"') if grammar.quoted_names => self.quoted(scan, grammar, metric)?,
                Some(b'"') => return Err(scan.fail(at, "expected a label name, found a quoted one")),
                _ if !is_first && grammar.commas == Commas::Between => return scan.expected("a label name"),
                _ => return scan.expected("a label name or '}'"),
            }
            is_first = false;
            if !separator(scan, grammar)? {
                break;
            }
        }
        scan.at += 1;
        Ok(())
    }

    /// A label with a quoted name, or the metric name.
    fn quoted(
        &mut self,
        scan: &mut Scanner<'a>,
        grammar: &Grammar,
        metric: &mut Option<Cow<'a, str>>,
    ) -> Result<(), ParseError> {
        let at = scan.at;
        let name = scan.quoted("a quoted name", &grammar.names)?;
        if grammar.blanks {
            scan.skip_blanks();
        }
        if grammar.metric_names && matches!(scan.peek(), Some(b',' | b'}')) {
            if metric.is_some() {
                return Err(scan.fail(at, "expected '=', found a second metric name"));
            }
            *metric = Some(scan.quoted_name(name).ok_or_else(|| scan.bad_name(name))?);
            return Ok(());
        }
        let raw = self.value(scan, grammar)?;
        match (scan.quoted_name(name), grammar.bad_names) {
            (Some(name), _) => self.push(name, raw, at),
            (None, BadNames::Refused) => return Err(scan.bad_name(name)),
            (None, BadNames::Dropped) => {}
            (None, BadNames::OfEmptyValues) => {
                self.bad_names.push(self.list.len());
                self.push(String::from_utf8_lossy(scan.bytes(name.start, name.end)), raw, at);
            }
        }
        Ok(())
    }

    /// `="..."`; gives back what is between the quotes.
    #[inline]
    fn value(&mut self, scan: &mut Scanner<'a>, grammar: &Grammar) -> Result<&'a str, ParseError> {
        if grammar.blanks {
            scan.skip_blanks();
        }
        if !scan.take(b'=') {
            return scan.expected("'='");
        }
        let steps_over_nuls = grammar.values.nuls == Nuls::SteppedOver;
        if grammar.blanks {
            let start = scan.at;
            scan.skip_blanks();
            while steps_over_nuls && scan.at > start && scan.peek() == Some(0) {
                scan.skip_nuls();
                scan.skip_blanks();
            }
        }
        let Quoted { start, mut end, .. } = scan.quoted("a label value in double quotes", &grammar.values)?;
        if steps_over_nuls && scan.peek() == Some(0) {
            // Prometheus takes the last byte for the closing quote.
            scan.skip_nuls();
            end = scan.at - 1;
        }
        scan.slice(start, end)
    }

    #[inline]
    fn push(&mut self, name: Cow<'a, str>, raw: &'a str, at: usize) {
        self.list.push(Label { name, raw: RawValue::Escaped(raw), at });
    }

    /// Fails if a label is called `__name__`, or if two have one name; unless, with `lenient_empties`, one
    /// of them is empty: then all of them count as absent, as for Prometheus.
    #[inline]
    pub(super) fn check(&mut self, scan: &Scanner<'a>, lenient_empties: bool) -> Result<(), ParseError> {
        if let Some(label) = self.list.iter().find(|label| label.name == "__name__") {
            return Err(scan.fail(label.at, "expected a label other than __name__"));
        }
        let names = &self.list;
        let distinct = if names.len() <= FEW {
            (1..names.len()).all(|i| names[..i].iter().all(|label| label.name != names[i].name))
        } else {
            names.is_sorted_by(|a, b| a.name < b.name)
        };
        if !distinct {
            self.sort_out_duplicates(scan, lenient_empties)?;
        }
        if self.bad_names.is_empty() { Ok(()) } else { self.drop_bad_names(scan) }
    }

    /// Leaves out the labels whose names are bad; fails if one of them has a value.
    #[cold]
    fn drop_bad_names(&mut self, scan: &Scanner<'a>) -> Result<(), ParseError> {
        let mut bad = self.bad_names.iter().map(|index| &self.list[*index]);
        if let Some(label) = bad.find(|label| !label.is_empty()) {
            return Err(scan.fail(label.at, "expected a name that is UTF-8 and not empty"));
        }
        let mut index = 0;
        self.list.retain(|_| {
            index += 1;
            self.bad_names.binary_search(&(index - 1)).is_err()
        });
        Ok(())
    }

    #[cold]
    fn sort_out_duplicates(&mut self, scan: &Scanner<'a>, lenient_empties: bool) -> Result<(), ParseError> {
        let labels = &mut self.list;
        self.order.clear();
        self.order.extend(0..labels.len());
        self.order.sort_unstable_by(|a, b| (&labels[*a].name, a).cmp(&(&labels[*b].name, b)));
        let mut rest = &self.order[..];
        while let [first, ..] = rest {
            let run = rest.iter().take_while(|index| labels[**index].name == labels[*first].name);
            let (same, later) = rest.split_at(run.count());
            rest = later;
            let [_, second, ..] = same else { continue };
            if !lenient_empties || !same.iter().any(|index| labels[*index].is_empty()) {
                let again = &labels[*second];
                let message = format!("expected each label once, found {:?} again", again.name);
                return Err(scan.fail(again.at, message));
            }
            for index in same {
                labels[*index].raw = RawValue::Escaped("");
            }
        }
        Ok(())
    }
}

/// What stands behind a label: whether there may be another. The scanner then stands on it, or on the
/// closing brace.
#[inline]
fn separator(scan: &mut Scanner<'_>, grammar: &Grammar) -> Result<bool, ParseError> {
    if grammar.blanks {
        scan.skip_blanks();
    }
    match scan.peek() {
        Some(b'}') => Ok(false),
        Some(b',') => {
            scan.at += 1;
            Ok(true)
        }
        _ if grammar.commas == Commas::Optional => Ok(true),
        _ => scan.expected("',' or '}'"),
    }
}
