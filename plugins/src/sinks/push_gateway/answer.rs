//! What the answers of a gateway, and of whatever stands in front of it, mean for the event.

use std::fmt;
use std::time::Duration;

use hyper::StatusCode;
use prometheus_streams_core::error::SendError;

/// With these words a gateway says that it understood a push, and that it does not go with what is there.
const INCONSISTENT: &str = "pushed metrics are invalid or inconsistent with existing metrics";

/// An answer to a push.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) status: StatusCode,
    /// The path of the request.
    pub(super) path: &'a str,
    /// Where a redirect wants us to go.
    pub(super) location: Option<&'a str>,
    /// What the answer says, as far as anybody wants to read.
    pub(super) words: &'a str,
    /// What it asks us to wait.
    pub(super) retry_after: Option<Duration>,
}

/// Why a push was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It was not sent at all.
    Unreachable(String),
    /// It is about the gateway, its address or our credentials; the data is not judged.
    Unavailable {
        /// The same for every event that meets the same trouble, so that it is logged once.
        why: String,
        /// What else there is to say, of this event.
        words: String,
        retry_after: Option<Duration>,
    },
    /// The data is bad, or too big.
    Bad(String),
    /// The data does not go with what the gateway holds; whose fault it is, the answer does not say.
    Inconsistent(String),
}

impl Refusal {
    /// Whether the gateway may take the push all the same, later.
    pub(super) fn may_still_land(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether the data was judged, and a second try cannot help.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Bad(_) | Self::Inconsistent(_))
    }

    /// Trouble with the gateway that says nothing of the event.
    pub(super) fn unavailable(why: impl Into<String>, words: impl Into<String>) -> Self {
        Self::Unavailable { why: why.into(), words: words.into(), retry_after: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why)
            | Self::Unavailable { why, .. }
            | Self::Bad(why)
            | Self::Inconsistent(why) => f.write_str(why),
        }
    }
}

impl From<Refusal> for SendError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unavailable { why, words, retry_after } => {
                let error = Self::transient(with_words(why, &words));
                retry_after.into_iter().fold(error, Self::retry_after)
            }
            Refusal::Unreachable(why) => Self::transient(why),
            Refusal::Bad(why) => Self::permanent(why),
            Refusal::Inconsistent(words) => {
                Self::permanent(with_words("the push gateway refused the scrape".to_owned(), &words))
            }
        }
    }
}

impl Answer<'_> {
    /// Nothing if the push was taken: 200, or 202 from a gateway that does not check.
    pub(super) fn judge(&self) -> Result<(), Refusal> {
        let answered = format!("the push gateway answered {}", self.status);
        match self.status.as_u16() {
            200 | 202 => Ok(()),
            300..=399 => Err(self.judge_redirect(&answered)),
            400 if self.words.starts_with(INCONSISTENT) => Err(Refusal::Inconsistent(self.words.to_owned())),
            400 | 413 | 414 | 415 | 422 | 431 => Err(Refusal::Bad(with_words(answered, self.words))),
            401 | 403 => Err(self.unavailable(format!("{answered}; check the credentials"))),
            404 | 405 => Err(self.unavailable(format!("{answered}; check the path of the url"))),
            _ => Err(self.unavailable(answered)),
        }
    }

    /// A gateway redirects a path that it wants to clean, and so means another group. Anything else that
    /// redirects stands in front of it, and means another address.
    fn judge_redirect(&self, answered: &str) -> Refusal {
        let words = format!("{} should go to {}", self.path, self.location.unwrap_or("nowhere"));
        if self.location.is_some_and(|location| location.ends_with(self.path)) {
            let why = format!("{answered}; redirects are not followed, correct the url");
            Refusal::unavailable(why, words)
        } else {
            Refusal::Bad(format!(
                "{answered}; redirects are not followed, they would change the group: {words}"
            ))
        }
    }

    fn unavailable(&self, why: String) -> Refusal {
        Refusal::Unavailable { why, words: self.words.to_owned(), retry_after: self.retry_after }
    }
}

fn with_words(mut why: String, words: &str) -> String {
    if !words.is_empty() {
        why.push_str(": ");
        why.push_str(words);
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(3);

    fn judge(status: u16, location: Option<&str>, words: &str) -> Result<(), Refusal> {
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, path: "/metrics/job/a", location, words, retry_after: Some(WAIT) }.judge()
    }

    fn error(status: u16, location: Option<&str>, words: &str) -> SendError {
        judge(status, location, words).unwrap_err().into()
    }

    #[test]
    fn only_200_and_202_confirm() {
        for status in 200..=599 {
            assert_eq!(judge(status, None, "").is_ok(), matches!(status, 200 | 202), "{status}");
        }
    }

    #[test]
    fn what_judges_the_data_is_told_from_what_does_not() {
        for status in [201, 204, 401, 403, 404, 405, 408, 418, 429, 500, 502, 503, 504] {
            let error = error(status, None, "words");
            let waits = matches!(error, SendError::Transient { retry_after: Some(WAIT), .. });
            assert!(waits && error.to_string().ends_with(": words"), "{status}: {error}");
        }
        for status in [400, 413, 414, 415, 422, 431] {
            let error = error(status, None, "line 3 is odd");
            assert!(!error.is_transient() && error.to_string().ends_with(": line 3 is odd"), "{error}");
        }
        assert_eq!(
            error(404, None, "").to_string(),
            "the push gateway answered 404 Not Found; check the path of the url"
        );
        let words = format!("{INCONSISTENT}: collected metric \"x\" is not a GAUGE");
        assert_eq!(judge(400, None, &words), Err(Refusal::Inconsistent(words)));
    }

    #[test]
    fn a_redirect_to_another_group_is_told_from_one_to_another_address() {
        let moved = error(308, Some("https://push.example.net/metrics/job/a"), "");
        assert!(moved.is_transient() && moved.to_string().contains("correct the url"), "{moved}");
        for elsewhere in [Some("/metrics/job/b"), None] {
            let bad = error(301, elsewhere, "");
            assert!(!bad.is_transient(), "{bad}");
            assert!(
                bad.to_string().starts_with("the push gateway answered 301 Moved Permanently; "),
                "{bad}"
            );
        }
    }
}
