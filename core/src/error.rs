//! The errors that somebody branches on: [`SendError`] says whether a second try helps, and
//! [`BuildError`] and [`ConfigError`] carry every mistake of a configuration with its place.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// An error that nobody branches on, only reads.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a sink could not deliver an event.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// A later try may succeed: a timeout, a refused connection, a full or restarting server.
    #[error("{source}")]
    Transient {
        /// What went wrong.
        source: BoxError,
        /// The least time that the far side asked us to wait.
        retry_after: Option<Duration>,
    },
    /// A second try cannot help: the far side, or the sink itself, judged the data to be bad.
    #[error("{0}")]
    Permanent(BoxError),
}

impl SendError {
    /// A failure that a later try may mend.
    pub fn transient(error: impl Into<BoxError>) -> Self {
        Self::Transient { source: error.into(), retry_after: None }
    }

    /// A failure that no later try can mend.
    pub fn permanent(error: impl Into<BoxError>) -> Self {
        Self::Permanent(error.into())
    }

    /// The same error, with the least time to wait before the next try. A permanent one stays as it is.
    pub fn retry_after(self, wait: Duration) -> Self {
        match self {
            Self::Transient { source, .. } => Self::Transient { source, retry_after: Some(wait) },
            permanent => permanent,
        }
    }

    /// True when a later try may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. })
    }
}

/// One mistake in a configuration, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file or environment variable that says so; empty where it is not known.
    pub origin: String,
    /// The path of the offending value, as `source.jobs.node.targets[1].url`; empty for the whole.
    pub path: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl Problem {
    /// A mistake at `path`.
    pub fn new(path: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { origin: String::new(), path: path.into(), message: message.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in [&self.origin, &self.path] {
            if !place.is_empty() {
                write!(f, "{place}: ")?;
            }
        }
        f.write_str(&without_credentials(&self.message))
    }
}

/// A message without the credentials of the addresses that it quotes. Whoever puts a password into a URL
/// and mistypes it, or puts it where it does not belong, must not find it in a log.
fn without_credentials(message: &str) -> String {
    let mut shown = String::with_capacity(message.len());
    let mut rest = message;
    while let Some((before, after)) = rest.split_once('"') {
        let mut escaped = false;
        let end = after.find(|c| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        });
        let (quoted, after) = after.split_at(end.unwrap_or(after.len()));
        shown.extend([before, "\"", &hide_login(quoted), if end.is_some() { "\"" } else { "" }]);
        rest = after.strip_prefix('"').unwrap_or(after);
    }
    shown + rest
}

/// `nats://user:password@host` as `nats://<hidden>@host`.
fn hide_login(text: &str) -> Cow<'_, str> {
    let (scheme, rest) = text.split_at(text.find("://").map_or(0, |at| at + 3));
    match rest.rsplit_once('@') {
        Some((login, host)) if !scheme.is_empty() || login.contains(':') => {
            format!("{scheme}<hidden>@{host}").into()
        }
        _ => text.into(),
    }
}

/// Everything that is wrong with the settings of one stage, with paths relative to that stage.
///
/// Collect with [`BuildError::add`] so that one `check` shows all mistakes, and end with
/// [`BuildError::or`]:
///
/// ```
/// # use prometheus_streams_core::error::BuildError;
/// fn build(interval: u64) -> Result<u64, BuildError> {
///     let mut problems = BuildError::default();
///     if interval == 0 {
///         problems.add("interval", "must be more than zero");
///     }
///     problems.or(interval)
/// }
/// assert_eq!(build(0).unwrap_err().to_string(), "interval: must be more than zero");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", join(.problems))]
pub struct BuildError {
    problems: Vec<Problem>,
}

impl BuildError {
    /// A single mistake at `path`.
    pub fn at(path: impl Into<String>, message: impl fmt::Display) -> Self {
        let mut error = Self::default();
        error.add(path, message);
        error
    }

    /// Adds a mistake at `path`.
    pub fn add(&mut self, path: impl Into<String>, message: impl fmt::Display) {
        self.problems.push(Problem::new(path, message));
    }

    /// Adds the mistakes of a part whose own path is `prefix`.
    pub fn nest(&mut self, prefix: &str, part: BuildError) {
        self.problems.extend(
            part.problems
                .into_iter()
                .map(|problem| Problem { path: join_path(prefix, &problem.path), ..problem }),
        );
    }

    /// Takes a part's value, or notes its mistakes below `prefix` and returns nothing.
    pub fn take<T>(&mut self, prefix: &str, part: Result<T, BuildError>) -> Option<T> {
        part.map_err(|error| self.nest(prefix, error)).ok()
    }

    /// `value` if no mistake was added, else the mistakes.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.problems.is_empty() { Ok(value) } else { Err(self) }
    }

    /// True when a mistake is known at `path`, above it or below it.
    pub(crate) fn touches(&self, path: &str) -> bool {
        let within = |inner: &str, outer: &str| {
            inner
                .strip_prefix(outer)
                .is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.problems
            .iter()
            .any(|known| !known.path.is_empty() && (within(&known.path, path) || within(path, &known.path)))
    }

    /// True when a mistake is known at just this path, and the path is not the whole.
    pub(crate) fn has(&self, path: &str) -> bool {
        !path.is_empty() && self.problems.iter().any(|known| known.path == path)
    }

    /// The mistakes, in the order in which they were found.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

/// Everything that is wrong with a configuration, each mistake with its file and its full path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", join(.problems))]
pub struct ConfigError {
    /// The mistakes; never empty.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// A single mistake at `path`.
    pub fn at(path: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { problems: vec![Problem::new(path, message)] }
    }
}

impl From<BuildError> for ConfigError {
    fn from(error: BuildError) -> Self {
        Self { problems: error.problems }
    }
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// `prefix.rest`, or `prefix[0]` where the rest is an index.
pub(crate) fn join_path(prefix: &str, rest: &str) -> String {
    if prefix.is_empty() || rest.is_empty() || rest.starts_with('[') {
        format!("{prefix}{rest}")
    } else {
        format!("{prefix}.{rest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_shows_the_credentials_of_an_address() {
        for (message, shown) in [
            (r#""http://u:p@h:99999/m" is no URL"#, r#""http://<hidden>@h:99999/m" is no URL"#),
            (r#"string "nats://token@h", expected a list"#, r#"string "nats://<hidden>@h", expected a list"#),
            (r#""u:p@h:1" and "http://u:p/q\"@r@h"#, r#""<hidden>@h:1" and "http://<hidden>@h"#),
            (r#""a@b" is not "http://h:1/" at 5:3"#, r#""a@b" is not "http://h:1/" at 5:3"#),
        ] {
            assert_eq!(BuildError::at("urls[0]", message).to_string(), format!("urls[0]: {shown}"));
        }
    }
}
