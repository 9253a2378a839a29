//! Black-box tests of the whole: the program and the real servers around it, each on a port of its
//! own and in a directory of its own. One binary, one module per subject; what the modules share is in
//! [`support`]. A test that cannot find its server fails, and says what to install.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, missing_docs)]

mod bad;
mod cli;
mod discovery;
mod end_to_end;
mod exposition;
mod faults;
mod formats;
mod hostile;
mod import;
mod kills;
mod laws;
mod local_stream;
mod nats;
mod parse;
mod parts;
mod proxies;
mod push;
mod push_gateway;
mod remote_write;
mod scraping;
mod side_by_side;
mod support;
