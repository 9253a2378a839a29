//! The sink `remote_write` against a real Prometheus: what it stores is what it would have stored had it scraped
//! the targets itself, sample by sample.

mod backlog;
mod direct;
mod receiver;
