//! Where a redirect leads, and what does not go there.

use hyper::header::{
    AUTHORIZATION, COOKIE, HeaderName, LOCATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, WWW_AUTHENTICATE,
};
use hyper::{HeaderMap, Method, StatusCode, Uri};
use url::Url;

use super::{HttpError, web_uri};

/// What Go's client, and with it Prometheus, keeps from another host.
const PRIVATE: [HeaderName; 6] = [
    AUTHORIZATION,
    WWW_AUTHENTICATE,
    COOKIE,
    HeaderName::from_static("cookie2"),
    PROXY_AUTHORIZATION,
    PROXY_AUTHENTICATE,
];

/// True for headers that do not follow a redirect to another host.
pub(super) fn stays_at_home(name: &HeaderName) -> bool {
    PRIVATE.contains(name)
}

/// Takes away what does not follow a redirect to another host.
pub(super) fn strip(headers: &mut HeaderMap) {
    for name in PRIVATE {
        headers.remove(name);
    }
}

/// Where to go on.
#[derive(Debug)]
pub(super) struct Hop {
    pub(super) uri: Uri,
    /// Whether credentials may go along: the same host (whatever the port), and not from https to http.
    pub(super) at_home: bool,
}

/// Where a redirect leads, or `None` where the answer is not a redirect that is followed: one of a GET,
/// that says where to.
///
/// # Errors
/// It leads to what is not an HTTP address.
pub(super) fn next(
    method: &Method,
    from: &Uri,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Option<Hop>, HttpError> {
    let asks = matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let Some(location) = headers.get(LOCATION).filter(|_| asks && method == Method::GET) else {
        return Ok(None);
    };
    let location = String::from_utf8_lossy(location.as_bytes());
    let bad = || HttpError::BadRedirect(location.chars().take(200).collect());
    let from = Url::parse(&from.to_string()).map_err(|_| bad())?;
    let to = from.join(&location).map_err(|_| bad())?;
    let at_home = to.host() == from.host() && !(from.scheme() == "https" && to.scheme() == "http");
    Ok(Some(Hop { uri: web_uri(&to).map_err(|_| bad())?, at_home }))
}
