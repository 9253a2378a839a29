//! The parser of delimited protobuf.
#![no_main]

use prometheus_streams_fuzz::exposition::Format;

libfuzzer_sys::fuzz_target!(|body: &[u8]| prometheus_streams_fuzz::check(Format::Protobuf, body));
