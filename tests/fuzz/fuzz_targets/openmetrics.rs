//! The parser of OpenMetrics, in both modes, and the encoder.
#![no_main]

use prometheus_streams_fuzz::exposition::{self, Format, Mode};

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    prometheus_streams_fuzz::check(Format::OpenMetrics, body);
    if let Ok(families) = exposition::parse(Format::OpenMetrics, Mode::Compat, body) {
        prometheus_streams_fuzz::openmetrics(&families);
    }
});
