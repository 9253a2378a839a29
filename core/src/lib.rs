//! The machine of prometheus-streams: it runs pipelines of one source, any number of transforms and
//! one or more sinks, and answers for every event that flows through them. It knows no protocol and
//! no Prometheus; those live in the stages, which register themselves at compile time.
//!
//! Read the modules in this order; each imports only modules above it.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`event`] | what flows: [`Event`](event::Event), its labels and attributes |
//! | [`delivery`] | who answers for it: deliveries, receipts and outcomes |
//! | [`error`] | whether a second try helps, and what is wrong with a configuration |
//! | [`values`] | the typed values of a configuration: durations with units, sizes, secrets |
//! | [`metrics`] | every metric name of the core, and shared metrics for stages |
//! | [`health`] | what each stage says of itself, behind `/-/ready` |
//! | [`control`] | pause, resume, state, log level, shutdown: one handle |
//! | [`emitter`] | how a source hands events over; the whole of backpressure |
//! | [`stage`] | the four kinds of stage and what they are given |
//! | [`settings`] | a settings tree to a typed struct, with every mistake and its place |
//! | [`registry`] | stages found at compile time, by kind and type name |
//! | [`middleware`] | a sink's `delivery:` settings, made into tower layers and lanes |
//! | [`config`] | files and environment to one strict [`Config`](config::Config) |
//! | [`pipeline`] | build, run, drain |
//! | `testing` | memory stages, a manual clock, the delivery laws (feature `testing`) |

pub mod event;

pub mod delivery;

pub mod error;

pub mod values;

pub mod metrics;

pub mod health;

pub mod control;

pub mod emitter;

pub mod stage;

pub mod settings;

pub mod registry;

pub mod middleware;

pub mod config;

pub mod pipeline;

#[cfg(feature = "testing")]
pub mod testing;

#[doc(hidden)]
pub use inventory;
