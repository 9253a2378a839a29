//! The parser of text format 0.0.4, in both modes, and the encoder.
#![no_main]

use prometheus_streams_fuzz::exposition::{self, Format, Mode};

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    prometheus_streams_fuzz::check(Format::Text, body);
    if let Ok(families) = exposition::parse(Format::Text, Mode::Compat, body) {
        prometheus_streams_fuzz::round_trip(&families);
    }
});
