//! The parser of OpenMetrics, in both modes.
#![no_main]

use prometheus_streams_fuzz::exposition::Format;

libfuzzer_sys::fuzz_target!(|body: &[u8]| prometheus_streams_fuzz::check(Format::OpenMetrics, body));
