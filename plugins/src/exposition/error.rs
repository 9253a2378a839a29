//! Where a body stops being of its format, and what should have stood there.

use std::fmt;

/// A body is not of its format. The whole body is refused: half a scrape would look like a target
/// that lost some of its series.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ParseError {
    /// Where the offence stands.
    pub place: Place,
    /// What was expected and what was found.
    pub message: String,
}

/// A place in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a format of lines.
    Line {
        /// The line, from 1. A line feed inside a quoted string counts as a line.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
    },
    /// In a binary format: how many bytes come before.
    Byte(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { line, column } => write!(f, "line {line}, column {column}"),
            Self::Byte(offset) => write!(f, "byte {offset}"),
        }
    }
}

impl ParseError {
    /// The error at byte `at` of a `body` of lines.
    pub(super) fn new(body: &[u8], at: usize, message: String) -> Self {
        let before = &body[..at.min(body.len())];
        let line_start = memchr::memrchr(b'\n', before).map_or(0, |lf| lf + 1);
        let place = Place::Line {
            line: memchr::memchr_iter(b'\n', before).count() + 1,
            column: String::from_utf8_lossy(&before[line_start..]).chars().count() + 1,
        };
        Self { place, message }
    }
}

/// Names what stands at `at`, for the second half of an error message.
pub(super) fn found(body: &[u8], at: usize) -> String {
    match body.get(at) {
        None => "the end of the body".to_owned(),
        Some(b'\n') => "the end of the line".to_owned(),
        Some(byte) if byte.is_ascii() => format!("{:?}", char::from(*byte)),
        Some(_) => {
            let rest = String::from_utf8_lossy(&body[at..body.len().min(at + 4)]);
            format!("{:?}", rest.chars().next().unwrap_or('\u{fffd}'))
        }
    }
}
