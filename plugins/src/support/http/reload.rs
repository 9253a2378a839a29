//! The TLS configuration of a client, made anew when its files have changed.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_streams_core::error::BuildError;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::HttpError;
use crate::support::stamp::Stamp;
use crate::support::tls::TlsSettings;

/// TLS settings and what they mean now.
#[derive(Debug)]
pub(super) struct ReloadingTls {
    settings: TlsSettings,
    server_name: Option<ServerName<'static>>,
    http2: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stamps: [Option<Stamp>; 3],
    current: Current,
}

/// What the files mean.
#[derive(Clone, Debug)]
pub(super) struct Current {
    pub(super) config: Arc<ClientConfig>,
    /// Counts the times that the files changed.
    pub(super) generation: u64,
}

impl ReloadingTls {
    /// Checks the settings; HTTP/2 is offered to the far side if `http2` says so.
    ///
    /// # Errors
    /// Everything that is wrong with the settings, with paths relative to them.
    pub(super) fn new(settings: &TlsSettings, http2: bool) -> Result<Self, BuildError> {
        // Before the files are read: one that changes meanwhile has another stamp the next time.
        let stamps = stamps(settings);
        let current = Current { config: Arc::new(load(settings, http2)?), generation: 0 };
        let server_name = settings.server_name()?;
        Ok(Self {
            settings: settings.clone(),
            server_name,
            http2,
            state: Mutex::new(State { stamps, current }),
        })
    }

    /// The name that the far side must have instead of its host's.
    pub(super) fn server_name(&self) -> Option<&ServerName<'static>> {
        self.server_name.as_ref()
    }

    /// What the files meant when somebody last looked.
    pub(super) fn known(&self) -> Current {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).current.clone()
    }

    /// What the files mean now.
    ///
    /// # Errors
    /// They changed, and one of them cannot be read or is not what it should be.
    pub(super) fn current(&self) -> Result<Current, HttpError> {
        let now = stamps(&self.settings);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.stamps != now {
            let config =
                load(&self.settings, self.http2).map_err(|error| HttpError::Tls(error.to_string()))?;
            let generation = state.current.generation + 1;
            *state = State { stamps: now, current: Current { config: Arc::new(config), generation } };
        }
        Ok(state.current.clone())
    }
}

fn load(settings: &TlsSettings, http2: bool) -> Result<ClientConfig, BuildError> {
    let mut config = settings.client_config()?;
    if http2 {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    Ok(config)
}

fn stamps(settings: &TlsSettings) -> [Option<Stamp>; 3] {
    [&settings.ca_file, &settings.cert_file, &settings.key_file]
        .map(|file| file.as_deref().and_then(Stamp::of))
}
