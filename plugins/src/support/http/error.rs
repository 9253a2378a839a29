//! Why an exchange failed, in the words that the operator of the far side would use.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;

use hyper::StatusCode;
use prometheus_streams_core::error::BoxError;
use prometheus_streams_core::values::{Size, Span};

use super::proxy::Proxy;

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// It took longer than allowed.
    #[error("timed out after {}", Span(*.0))]
    TimedOut(Duration),
    /// There is no connection: refused, unreachable, no such host.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The two sides do not trust each other, or do not speak TLS to each other.
    #[error("TLS: {0}")]
    Tls(String),
    /// The far side answered, but not with success.
    #[error("status {0}")]
    Status(StatusCode),
    /// The connection broke, or what came over it was not HTTP.
    #[error("broken answer: {0}")]
    Broken(String),
    /// The body is larger than allowed; it was not read to its end.
    #[error("body larger than {0}")]
    BodyTooLarge(Size),
    /// The body says that it is gzip, and is not.
    #[error("cannot decompress the body: {0}")]
    Gzip(io::Error),
    /// The body is compressed in a way that was not asked for.
    #[error("the body has the encoding {0:?}; gzip was offered")]
    Encoding(String),
    /// The far side sends us in circles.
    #[error("stopped after {0} redirects")]
    TooManyRedirects(usize),
    /// The far side sends us somewhere that is not on the web.
    #[error("redirected to {0:?}, which is not an HTTP address")]
    BadRedirect(String),
    /// Our own credentials cannot be read or sent.
    #[error("credentials: {0}")]
    Credentials(io::Error),
    /// A header of the configuration, by its name, cannot be read or sent.
    #[error("http_headers: {0}: {1}")]
    Header(String, String),
    /// The token server, by its address, gives no token.
    #[error("cannot get a token from {0}: {1}")]
    Token(String, String),
    /// The proxy, by its address, does not let us through, or cannot be reached.
    #[error("proxy {0}: {1}")]
    Proxy(String, String),
}

impl HttpError {
    /// What went wrong while connecting.
    pub(super) fn from_connect(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(known) => *known,
            Err(error) => Self::find_tls(&*error).unwrap_or_else(|| Self::Connect(root_cause(&*error))),
        }
    }

    /// The same, on the way through a proxy.
    pub(super) fn through(self, proxy: &Proxy) -> Self {
        match self {
            Self::Proxy(..) => self,
            other => Self::Proxy(proxy.to_string(), other.to_string()),
        }
    }

    fn find_tls(error: &(dyn Error + 'static)) -> Option<Self> {
        let tls = causes(error).find_map(<dyn Error>::downcast_ref::<rustls::Error>)?;
        Some(Self::Tls(tls.to_string()))
    }
}

impl From<hyper::Error> for HttpError {
    fn from(error: hyper::Error) -> Self {
        Self::find_tls(&error).unwrap_or_else(|| Self::Broken(root_cause(&error)))
    }
}

/// The innermost cause: what a person wants to know. The layers above it only say which layer they are.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let Some(root) = causes(error).last() else { return error.to_string() };
    match root.downcast_ref::<io::Error>() {
        // `connection refused`, without the number of the operating system ...
        Some(io) if !matches!(io.kind(), ErrorKind::Other) && io.raw_os_error().is_some() => {
            match io.kind().to_string() {
                // ... and `Too many open files` from the operating system, where there is no other word.
                kind if kind == "uncategorized error" => {
                    let text = io.to_string();
                    text.rsplit_once(" (os error").map_or(text.clone(), |(words, _)| words.to_owned())
                }
                kind => kind,
            }
        }
        _ => root.to_string(),
    }
}

/// An error and its causes, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref().and_then(io::Error::get_ref) {
        // An I/O error skips what it wraps when it is asked for its source.
        Some(inner) => Some(inner as &(dyn Error + 'static)),
        None => error.source(),
    })
}
