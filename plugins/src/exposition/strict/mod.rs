//! What the specifications demand beyond the grammar, for [`super::Mode::Strict`].
//!
//! A parser in strict mode knows the grammar of its format; what it cannot see are the rules about what came
//! before: one family in several places, a histogram without its last bucket, a counter below zero. A
//! [`Checker`] is fed every entry, in order, and the end; it refuses the first entry that breaks a rule.
//! [`lines`] has the rules that a single line can break, [`text`] and [`openmetrics`] those of families;
//! [`point`] is the inside of one OpenMetrics metric at one time.

mod lines;
mod openmetrics;
mod point;
mod text;

use std::ops::Range;

use super::entry::{Entry, Label};
use super::error::ParseError;
use super::format::Format;
use super::model::Exemplar;

/// The rules of one format, with what they remember of a body.
#[derive(Debug)]
pub(super) enum Checker<'a> {
    /// Of text format 0.0.4.
    Text(text::Families<'a>),
    /// Of OpenMetrics 1.0.
    OpenMetrics(openmetrics::Families<'a>),
}

/// What stands in a body around the entry that was read last.
#[derive(Debug)]
pub(super) struct Context<'p, 'a> {
    /// The whole body.
    pub body: &'a [u8],
    /// The lines of the entry, with the line feed.
    pub line: Range<usize>,
    /// Name and labels of a sample.
    pub series: Range<usize>,
    /// The labels of a sample.
    pub labels: &'p [Label<'a>],
    /// The exemplars of a sample.
    pub exemplars: &'p [Exemplar<'a>],
}

impl Context<'_, '_> {
    /// The error of the entry as a whole.
    fn fail(&self, message: impl Into<String>) -> ParseError {
        self.fail_at(self.line.start, message)
    }

    fn fail_at(&self, at: usize, message: impl Into<String>) -> ParseError {
        ParseError::new(self.body, at, message.into())
    }

    /// The label of a name, if the sample has it.
    fn label(&self, name: &str) -> Option<&Label<'_>> {
        self.labels.iter().find(|label| label.name == name)
    }

    /// The labels but one in an order and a spelling of their own: equal for equal series.
    fn key_without(&self, left_out: &str) -> String {
        let mut pairs: Vec<_> = self
            .labels
            .iter()
            .filter(|label| label.name != left_out && !label.is_empty())
            .map(|label| (&label.name, label.value()))
            .collect();
        pairs.sort_unstable();
        pairs.iter().map(|(name, value)| format!("{name}={}:{value};", value.len())).collect()
    }
}

impl<'a> Checker<'a> {
    /// The rules for bodies of a format; `None` for protobuf, of which no document demands more than
    /// Prometheus does.
    pub(super) fn new(format: Format) -> Option<Self> {
        match format {
            Format::Text => Some(Self::Text(text::Families::default())),
            Format::OpenMetrics => Some(Self::OpenMetrics(openmetrics::Families::default())),
            Format::Protobuf => None,
        }
    }

    /// Checks the next entry.
    ///
    /// # Errors
    /// The entry breaks a rule, or shows that the family before it did.
    pub(super) fn entry(&mut self, entry: &Entry<'a>, context: &Context<'_, 'a>) -> Result<(), ParseError> {
        match self {
            Self::Text(families) => families.entry(entry, context),
            Self::OpenMetrics(families) => {
                lines::check(entry, context)?;
                families.entry(entry, context)
            }
        }
    }

    /// Checks what can only be said at the end of the body.
    ///
    /// # Errors
    /// The last family breaks a rule.
    pub(super) fn end(&mut self, body: &[u8]) -> Result<(), ParseError> {
        match self {
            Self::Text(families) => families.end(body),
            Self::OpenMetrics(families) => families.end(body),
        }
    }
}
