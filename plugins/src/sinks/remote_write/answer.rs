//! What the answers of a receiver mean: for the data, for the message it was in, and for what comes next.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderMap, RETRY_AFTER};
use hyper::{Response, StatusCode};
use prometheus_streams_core::error::SendError;

use super::wire::Message;

/// A receiver of remote write 2.0 says in this header how many samples it has written.
const WRITTEN: &str = "x-prometheus-remote-write-samples-written";
const HISTOGRAMS_WRITTEN: &str = "x-prometheus-remote-write-histograms-written";

/// The longest wait that a `Retry-After` can ask of us.
const MOST_WAIT: Duration = Duration::from_secs(300);

/// Of the words of a receiver, as much as anybody wants to read in a log or a dead letter.
const MOST_WORDS: usize = 400;

/// What a receiver says to a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has everything.
    Taken,
    /// It did not understand the message, and may understand that of 1.0.
    OtherMessage(Refusal),
    /// Something in the data is bad. The rest may have been taken or not.
    Bad(Refusal),
    /// It does not want this request, whatever is in it: the address or the credentials are not right.
    Unwanted(Refusal),
    /// It may be taken later.
    Later(Trouble),
}

/// Why a receiver did not take something, in its words. Shared by all the rows that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) Arc<str>);

/// Why a request could not be delivered for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) why: String,
    pub(super) retry_after: Option<Duration>,
}

impl From<Trouble> for SendError {
    fn from(trouble: Trouble) -> Self {
        let error = Self::transient(trouble.why);
        trouble.retry_after.into_iter().fold(error, Self::retry_after)
    }
}

impl Refusal {
    /// Whether the time of a sample is what is wrong with it: it is older than what the receiver has of its
    /// series, or than what it takes at all, or there is another value for that time.
    pub(super) fn is_about_time(&self) -> bool {
        self.has_newer() || self.says(&["out of bounds", "too old"])
    }

    /// Whether the receiver has something newer of the series, or another value for the time of the sample.
    pub(super) fn has_newer(&self) -> bool {
        self.says(&["out of order", "out-of-order", "duplicate sample for timestamp", "duplicate-timestamp"])
    }

    fn says(&self, any: &[&str]) -> bool {
        let words = self.0.to_ascii_lowercase();
        any.iter().any(|about| words.contains(about))
    }

    /// Whether a status that asks for another try comes with words that say that none can help. Prometheus
    /// 2.x answers 500 to what its storage cannot take.
    fn is_final(&self) -> bool {
        self.is_about_time() || self.0.contains("native histograms are disabled")
    }
}

/// What was asked of a receiver, as far as its answer means different things.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) message: Message,
    /// Whether it is not known yet that the receiver takes this message.
    pub(super) is_probe: bool,
    pub(super) rows: usize,
}

/// Reads an answer. Whoever takes a message of 2.0 says what it has written; to whom that says nothing, it was a
/// message of 1.0 with nothing in it.
pub(super) fn judge(response: &Response<bytes::Bytes>, asked: Asked) -> Answer {
    let status = response.status();
    let refusal = Refusal(words(status, response.body()).into());
    let later = || {
        let why = refusal.0.to_string();
        Answer::Later(Trouble { why, retry_after: retry_after(response.headers()) })
    };
    let is_2 = asked.message == Message::V2;
    let written = written(response.headers()).filter(|_| is_2);
    match status.as_u16() {
        200..=299 if is_2 && written.is_none() => {
            Answer::OtherMessage(Refusal(format!("{status} without the header {WRITTEN}").into()))
        }
        200..=299 => Answer::Taken,
        415 if is_2 => Answer::OtherMessage(refusal),
        401 | 403 | 404 | 405 | 407 | 415 => Answer::Unwanted(refusal),
        429 => later(),
        400 if asked.is_probe && written.is_none() => Answer::OtherMessage(refusal),
        // What it refuses beside the samples are exemplars, which a Prometheus that scrapes just leaves out.
        400..=499 if written.is_some_and(|written| written >= asked.rows as u64) => Answer::Taken,
        400..=499 => Answer::Bad(refusal),
        500..=599 if refusal.is_final() => Answer::Bad(refusal),
        _ => later(),
    }
}

/// How many samples and histograms were written, if the answer says so.
fn written(headers: &HeaderMap) -> Option<u64> {
    let count = |name| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let [samples, histograms] = [WRITTEN, HISTOGRAMS_WRITTEN].map(count);
    Some(samples.unwrap_or(0).saturating_add(histograms.unwrap_or(0)))
        .filter(|_| samples.or(histograms).is_some())
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(std::time::SystemTime::now()).ok()?,
    };
    Some(wait.min(MOST_WAIT))
}

fn words(status: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let words: String = text.trim().chars().take(MOST_WORDS).collect();
    if words.is_empty() {
        format!("the receiver answered {status}")
    } else {
        format!("the receiver answered {status}: {words}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)], words: &str, is_probe: bool) -> Answer {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let asked = Asked { message: Message::V2, is_probe, rows: 5 };
        judge(&response.body(words.to_owned().into()).unwrap(), asked)
    }

    #[test]
    fn only_429_and_5xx_are_for_later() {
        for status in 200..=599 {
            let is_later = matches!(answer(status, &[], "", false), Answer::Later(_));
            let expected = status == 429 || status >= 500 || (300..400).contains(&status);
            assert_eq!(is_later, expected, "{status}");
        }
    }

    #[test]
    fn a_wait_that_is_asked_for_is_known_and_bounded() {
        let wait = |value: &str| match answer(503, &[("Retry-After", value)], "", false) {
            Answer::Later(trouble) => trouble.retry_after,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("100000"), Some(MOST_WAIT));
        assert_eq!(wait("soon"), None);
        let date = std::time::SystemTime::now() + Duration::from_secs(100);
        let wait = wait(&httpdate::fmt_http_date(date)).unwrap();
        assert!((90..=100).contains(&wait.as_secs()), "{wait:?}");
    }

    #[test]
    fn a_receiver_of_1_0_is_told_by_what_it_does_not_say() {
        let written = [("X-Prometheus-Remote-Write-Samples-Written", "3")];
        assert_eq!(answer(204, &written, "", true), Answer::Taken);
        assert!(matches!(answer(204, &[], "", true), Answer::OtherMessage(_)));
        assert!(matches!(answer(415, &[], "", true), Answer::OtherMessage(_)));
        assert!(matches!(answer(400, &[], "", true), Answer::OtherMessage(_)));
        assert!(matches!(answer(400, &written, "", true), Answer::Bad(_)));
    }

    #[test]
    fn what_2_0_did_not_confirm_is_never_taken_and_1_0_confirms_nothing() {
        assert!(matches!(answer(204, &[], "", false), Answer::OtherMessage(_)));
        assert!(matches!(answer(415, &[], "", false), Answer::OtherMessage(_)));
        assert!(matches!(answer(400, &[], "", false), Answer::Bad(_)));
        let of_1 = |status: u16| {
            let response = Response::builder().status(status).body(bytes::Bytes::new()).unwrap();
            judge(&response, Asked { message: Message::V1, is_probe: false, rows: 5 })
        };
        assert_eq!(of_1(204), Answer::Taken);
        assert!(matches!(of_1(415), Answer::Unwanted(_)) && matches!(of_1(400), Answer::Bad(_)));
    }

    #[test]
    fn what_is_written_is_taken_whatever_is_said_of_its_exemplars() {
        let written = |samples: &'static str| {
            let headers = [
                ("x-prometheus-remote-write-samples-written", samples),
                ("x-prometheus-remote-write-histograms-written", "2"),
            ];
            answer(400, &headers, "out of order exemplar", false)
        };
        assert_eq!(written("3"), Answer::Taken);
        assert!(matches!(written("2"), Answer::Bad(_)));
    }

    #[test]
    fn a_500_that_no_second_try_can_help_is_final() {
        assert!(matches!(answer(500, &[], "too old sample", false), Answer::Bad(_)));
        assert!(matches!(answer(500, &[], "native histograms are disabled", false), Answer::Bad(_)));
        assert!(matches!(answer(500, &[], "no space left on device", false), Answer::Later(_)));
    }
}
