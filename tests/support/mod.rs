//! The harness: real parts that start, die and come back at a word, and ways to wait for what they do.

// Each part offers what any test may need, whether or not one needs it today.
#![allow(dead_code)]

pub mod agent;
pub mod certs;
pub mod configs;
pub mod dump;
pub mod exporters;
pub mod fleet;
pub mod freezer;
pub mod http;
pub mod nats;
pub mod oracle;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod server;
pub mod sinkhole;
pub mod stored;
pub mod targets;
pub mod usage;
pub mod wait;
