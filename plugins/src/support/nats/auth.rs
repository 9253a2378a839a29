//! Who we are to the server. Whatever stands in a file is read again at every connect, so that rotated
//! credentials are picked up without a restart.

use std::path::{Path, PathBuf};

use async_nats::{Auth, AuthError};
use nkeys::KeyPair;
use prometheus_streams_core::values::{Secret, SecretSource};

/// How the server is told who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Method {
    #[default]
    Anonymous,
    UserPassword {
        user: String,
        password: SecretSource,
    },
    Token(SecretSource),
    /// A file with the seed of an nkey.
    Nkey(PathBuf),
    /// A file with a JWT and the seed that belongs to it.
    Credentials(PathBuf),
}

impl Method {
    /// What to send to a server that sent `nonce`.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it should be.
    pub(super) fn answer(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        match self {
            Self::Anonymous => {}
            Self::UserPassword { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(read(password)?);
            }
            Self::Token(token) => auth.token = Some(read(token)?),
            Self::Nkey(path) => {
                let key = key_pair(&load(path)?, path)?;
                auth.nkey = Some(key.public_key());
                auth.signature = Some(sign(&key, nonce)?);
            }
            Self::Credentials(path) => {
                let text = load(path)?;
                let jwt = section(&text, "NATS USER JWT")
                    .ok_or_else(|| AuthError::new(format!("{} holds no NATS USER JWT", path.display())))?;
                let seed = section(&text, "USER NKEY SEED")
                    .ok_or_else(|| AuthError::new(format!("{} holds no USER NKEY SEED", path.display())))?;
                auth.jwt = Some(jwt.to_owned());
                auth.signature = Some(sign(&key_pair(seed, path)?, nonce)?);
            }
        }
        Ok(auth)
    }
}

fn read(source: &SecretSource) -> Result<String, AuthError> {
    source.read().map(|secret| secret.expose().to_owned()).map_err(AuthError::new)
}

fn load(path: &Path) -> Result<String, AuthError> {
    read(&SecretSource::File(path.to_owned()))
}

fn key_pair(seed: &str, path: &Path) -> Result<KeyPair, AuthError> {
    let seed = Secret::new(seed.trim());
    KeyPair::from_seed(seed.expose())
        .map_err(|error| AuthError::new(format!("{} holds no nkey seed: {error}", path.display())))
}

fn sign(key: &KeyPair, nonce: &[u8]) -> Result<Vec<u8>, AuthError> {
    key.sign(nonce).map_err(AuthError::new)
}

/// The text between the BEGIN and the END line of `name`.
fn section<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let begin = format!("BEGIN {name}");
    let mut lines = text.lines().skip_while(|line| !line.contains(&begin)).skip(1);
    lines.find(|line| !line.trim().is_empty()).map(str::trim).filter(|line| !line.contains("END "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credentials_file_is_read_anew_for_every_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("user.creds");
        let write = |jwt: &str| {
            let key = KeyPair::new_user();
            let text = format!(
                "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
                 -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
                key.seed().unwrap()
            );
            std::fs::write(&path, text).unwrap();
            key
        };
        let method = Method::Credentials(path.clone());
        for jwt in ["first.jwt", "second.jwt"] {
            let key = write(jwt);
            let answer = method.answer(b"nonce").unwrap();
            assert_eq!(answer.jwt.as_deref(), Some(jwt));
            key.verify(b"nonce", &answer.signature.unwrap()).unwrap();
        }
        std::fs::write(&path, "nonsense").unwrap();
        let error = method.answer(b"nonce").err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("user.creds holds no NATS USER JWT")));
    }

    #[test]
    fn an_nkey_signs_the_nonce() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let key = KeyPair::new_user();
        std::fs::write(file.path(), format!("{}\n", key.seed().unwrap())).unwrap();
        let answer = Method::Nkey(file.path().to_owned()).answer(b"nonce").unwrap();
        assert_eq!(answer.nkey, Some(key.public_key()));
        key.verify(b"nonce", &answer.signature.unwrap()).unwrap();
    }
}
