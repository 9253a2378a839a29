//! The canonical form of families that are made to collide: every line of the input picks names, kinds and
//! labels from small sets.
#![no_main]

use prometheus_streams_fuzz::exposition::{self, Format, Mode};

const NAMES: [&str; 8] = ["x", "x_sum", "x_count", "x_bucket", "x_total", "x_created", "x_info", "y"];
const KINDS: [&str; 5] = ["counter", "gauge", "histogram", "summary", "untyped"];
const LABELS: [&str; 8] = [
    "",
    "{le=\"1\"}",
    "{le=\"1.0\"}",
    "{le=\"+Inf\"}",
    "{quantile=\"0.5\"}",
    "{a=\"\",le=\"abc\"}",
    "{a=\"1\"}",
    "{__b=\"1\"}",
];
const VALUES: [&str; 8] = ["0", "1", "2.5", "-1", "NaN", "+Inf", "1e300", "1 17"];

libfuzzer_sys::fuzz_target!(|picks: &[u8]| {
    let mut body = String::new();
    for pick in picks.chunks_exact(4) {
        let pick = |index: usize, list: &[&'static str]| list[usize::from(pick[index]) % list.len()];
        let name = pick(1, &NAMES);
        match pick(0, &["TYPE", "HELP", "", ""]) {
            "TYPE" => body += &format!("# TYPE {name} {}\n", pick(2, &KINDS)),
            "HELP" => body += &format!("# HELP {name} {}\n", pick(2, &VALUES)),
            _ => body += &format!("{name}{} {}\n", pick(2, &LABELS), pick(3, &VALUES)),
        }
    }
    let families = exposition::parse(Format::Text, Mode::Compat, body.as_bytes());
    let families = families.expect("the lines are text");
    prometheus_streams_fuzz::round_trip(&families);
    prometheus_streams_fuzz::canonical(families);
});
