//! The stages of prometheus-streams: scraping targets, streaming scrapes, landing them.
//!
//! One stage, one file, one `mod` line. A stage knows protocols and the core, and never another stage;
//! what several need is in [`support`], and the exposition formats are a library of their own in
//! [`exposition`]. The reference of every stage's settings is `plugins/README.md`.

pub mod exposition;

pub mod support {
    //! What several stages share. Imports no stage.

    pub mod envelope;
    pub mod http;
    pub mod local_stream;
    pub mod nats;
    pub mod not_yet;
    pub mod process;
    pub mod report;
    pub mod schedule;
    pub mod scrape;
    pub mod server;
    pub mod stamp;
    pub mod tls;
}

pub mod sources {
    //! Where events begin.

    pub mod http_scrape;
    pub mod local_stream;
    pub mod nats;
    pub mod push;
}

pub mod transforms {
    //! What happens to events on the way.

    pub mod age_filter;
    pub mod labeler;
    pub mod relabel;
}

pub mod sinks {
    //! Where events land.

    pub mod exposition;
    pub mod local_stream;
    pub mod nats;
    pub mod push_gateway;
    pub mod remote_write;
}

pub mod extensions {
    //! What runs beside the pipelines.

    pub mod monitor;
}
