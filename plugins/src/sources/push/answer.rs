//! What a push is answered when it does not succeed.

use hyper::StatusCode;
use hyper::header::{HeaderValue, RETRY_AFTER};

use crate::support::server::{self, Response};

/// When a client that was sent away should come again, in seconds.
const COME_AGAIN: HeaderValue = HeaderValue::from_static("5");

/// Why a request has no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) reason: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }

    pub(super) fn answer(&self) -> Response {
        let mut response = server::text(self.status, &self.reason);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, COME_AGAIN);
        }
        response
    }
}

/// A refusal of what a later try may bring to a good end.
pub(super) fn unavailable(reason: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason)
}

/// A refusal of metrics, in the words of a gateway.
pub(super) fn inconsistent(reason: impl std::fmt::Display) -> Refusal {
    let reason = format!("pushed metrics are invalid or inconsistent with existing metrics: {reason}");
    Refusal::new(StatusCode::BAD_REQUEST, reason)
}
