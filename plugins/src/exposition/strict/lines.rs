//! The rules of OpenMetrics that a line can break alone, beside those of the grammar.

use super::super::entry::Entry;
use super::super::error::ParseError;
use super::super::model::Exemplar;
use super::Context;

/// An exemplar may have this many characters in the names and values of its labels.
const EXEMPLAR_CHARS: usize = 128;

pub(super) fn check(entry: &Entry<'_>, context: &Context<'_, '_>) -> Result<(), ParseError> {
    match entry {
        Entry::Help { .. } => match context.body[context.line.clone()] {
            [.., b'\r', b'\n'] => {
                let at = context.line.end - 2;
                Err(context.fail_at(at, "expected the end of the line, found '\\r'"))
            }
            _ => Ok(()),
        },
        Entry::Sample { .. } => {
            if let Some(label) = context.labels.iter().find(|label| label.name.starts_with('_')) {
                let message = format!("expected no reserved label, found {:?}", label.name);
                return Err(context.fail_at(label.at, message));
            }
            context.exemplars.iter().try_for_each(|found| exemplar(context, found))
        }
        Entry::Type { .. } | Entry::Unit { .. } | Entry::Histogram { .. } => Ok(()),
    }
}

fn exemplar(context: &Context<'_, '_>, exemplar: &Exemplar<'_>) -> Result<(), ParseError> {
    let rest = &context.body[context.series.end..context.line.end];
    let start = context.series.end + memchr::memchr(b'#', rest).unwrap_or_default();
    let chars = |text: &str| text.chars().count();
    let length: usize = exemplar.labels.iter().map(|(name, value)| chars(name) + chars(value)).sum();
    if length > EXEMPLAR_CHARS {
        let expected = format!("expected at most {EXEMPLAR_CHARS} characters in the labels of an exemplar");
        return Err(context.fail_at(start, format!("{expected}, found {length}")));
    }
    let mut names: Vec<_> = exemplar.labels.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    if let Some(name) = names.iter().find(|name| name.starts_with('_')) {
        return Err(context.fail_at(start, format!("expected no reserved label, found {name:?}")));
    }
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(context.fail_at(start, format!("expected each label once, found {:?} again", pair[0])));
    }
    Ok(())
}
