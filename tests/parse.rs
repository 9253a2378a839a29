//! `parse`: what it says of a body, with which code it ends, and what it writes.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use super::support::agent::PROGRAM;

const TEXT: &str = "# TYPE c_total counter\nc_total{a=\"b\"} 1\n";
const OPENMETRICS: &str = "# TYPE c counter\nc_total{a=\"b\"} 1\n# EOF\n";

/// Runs `parse` on a body that it reads from standard input.
fn parse(args: &[&str], body: &[u8]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("parse").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(body).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_body_that_is_right_ends_with_0_and_no_word() {
    for (args, body) in [
        (&[][..], TEXT),
        (&["--format", "text"], "c_total{a=\"b\"  } +1"),
        (&["--format", "openmetrics", "--strict", "-"], OPENMETRICS),
        (&["--format", "protobuf"], ""),
    ] {
        let output = parse(args, body.as_bytes());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        assert_eq!((text(&output.stdout), text(&output.stderr)), ("", ""), "{args:?}");
    }
}

#[test]
fn a_body_that_is_wrong_ends_with_1_and_says_where() {
    for (args, body, verdict) in [
        (&[][..], "x 1\ny{a=1} 1\n", "-:2:5: expected a label value in double quotes, found '1'\n"),
        (&["--to", "json"], "x 1\ny\n", "-:2:2: expected"),
        (&["--format", "openmetrics"], "x 1\n", "(the body is right as --format text)\n"),
        (&[], "# TYPE x info\nx_info 1\n# EOF\n", "(the body is right as --format openmetrics)\n"),
        (&[], "\u{5}\n\u{1}x\u{22}\0", "(the body is right as --format protobuf)\n"),
        (&["--format", "protobuf"], "\u{5}", "-:byte 0: family 1: MetricFamily: expected 5 bytes, found 0\n"),
    ] {
        let output = parse(args, body.as_bytes());
        assert_eq!(output.status.code(), Some(1), "{args:?} {body:?}");
        assert!(text(&output.stderr).contains(verdict), "{body:?}: {}", text(&output.stderr));
        assert_eq!((text(&output.stdout), text(&output.stderr).lines().count()), ("", 1), "{body:?}");
    }
}

#[test]
fn strict_is_the_specification() {
    let twice = "# TYPE x gauge\n# TYPE x gauge\nx 1\n";
    assert_eq!(parse(&[], twice.as_bytes()).status.code(), Some(0));
    assert_eq!(parse(&["--strict"], twice.as_bytes()).status.code(), Some(1));
}

#[test]
fn a_file_is_named_and_one_that_cannot_be_read_is_no_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("page.txt");
    std::fs::write(&file, "x 1\nx y\n").unwrap();
    let file = file.to_str().unwrap();
    let output = parse(&[file], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with(&format!("{file}:2:3: ")), "{}", text(&output.stderr));
    for args in [&["/nowhere/at/all.txt"][..], &["--format", "xml"], &["a", "b"]] {
        assert_eq!(parse(args, b"").status.code(), Some(64), "{args:?}");
    }
}

#[test]
fn a_body_is_written_in_another_format() {
    let body = parse(&["--to", "protobuf"], TEXT.as_bytes()).stdout;
    for (to, written) in [("text", TEXT), ("openmetrics", OPENMETRICS), ("json", "\"type\": \"COUNTER\"")] {
        let output = parse(&["--format", "protobuf", "--to", to], &body);
        assert_eq!(output.status.code(), Some(0), "{to}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains(written), "{to}: {}", text(&output.stdout));
    }
}
