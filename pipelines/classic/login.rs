//! Addresses with a user in them, as the classic program took them. Now user and password have keys of
//! their own, so that no message shows them.

use percent_encoding::percent_decode_str;

/// An address, and the user that stood in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Without the user; else as it was written.
    pub(super) url: String,
    pub(super) login: Option<Login>,
}

/// Who to connect as.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    /// For NATS, a token if there is no password.
    pub(super) user: String,
    pub(super) password: Option<String>,
}

/// Without the password.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

impl Address {
    /// Takes the user out of `scheme://user:password@host/path`, with `%40` and its kind as what they mean.
    pub(super) fn parse(text: &str) -> Self {
        let split = || {
            let (scheme, rest) = text.split_once("://")?;
            let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            let (login, host) = authority.rsplit_once('@')?;
            Some((Login::parse(login), format!("{scheme}://{host}{path}")))
        };
        match split() {
            Some((login, url)) => Self { url, login: Some(login) },
            None => Self { url: text.to_owned(), login: None },
        }
    }
}

impl Login {
    fn parse(text: &str) -> Self {
        let decoded = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        match text.split_once(':') {
            Some((user, password)) => Self { user: decoded(user), password: Some(decoded(password)) },
            None => Self { user: decoded(text), password: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_taken_out_of_an_address() {
        for (text, url, login) in [
            ("http://u:p%40:w@h:1/x@y?z", "http://h:1/x@y?z", Some(("u", Some("p@:w")))),
            ("nats://token@h", "nats://h", Some(("token", None))),
            ("http://u:@h", "http://h", Some(("u", Some("")))),
            ("http://h/x@y", "http://h/x@y", None),
            ("h:4222", "h:4222", None),
        ] {
            let address = Address::parse(text);
            let found = address.login.as_ref().map(|login| (login.user.as_str(), login.password.as_deref()));
            assert_eq!((address.url.as_str(), found), (url, login));
            assert!(!format!("{address:?}").contains("p@"));
        }
    }
}
