//! Where a body stops being the text format, and what should have stood there.

/// A body is not text format 0.0.4. The whole body is refused: half a scrape would look like a
/// target that lost some of its series.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// Line of the offence, from 1. A line feed inside a quoted string counts as a line.
    pub line: usize,
    /// Column of the offence in characters, from 1.
    pub column: usize,
    /// What was expected and what was found.
    pub message: String,
}

impl ParseError {
    /// The error at byte `at` of `body`.
    pub(super) fn new(body: &[u8], at: usize, message: String) -> Self {
        let before = &body[..at.min(body.len())];
        let line_start = memchr::memrchr(b'\n', before).map_or(0, |lf| lf + 1);
        Self {
            line: memchr::memchr_iter(b'\n', before).count() + 1,
            column: String::from_utf8_lossy(&before[line_start..]).chars().count() + 1,
            message,
        }
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
