//! What is particular to OpenMetrics; the tables of verdicts have the rest.

use super::*;
use crate::exposition::{Format, Parser, count_samples};
use proptest::prelude::*;

fn read(body: &str) -> Result<Vec<Entry<'_>>, String> {
    let mut parser = Parser::new(Format::OpenMetrics, Mode::Compat, body.as_bytes());
    let mut entries = Vec::new();
    while let Some(entry) = parser.next_entry().map_err(|error| error.to_string())? {
        entries.push(entry);
    }
    Ok(entries)
}

fn error(body: &str) -> String {
    read(body).expect_err(body)
}

#[test]
fn all_kinds_of_lines_are_read() {
    let body = "# TYPE a_seconds counter\n# UNIT a_seconds seconds\n# HELP a_seconds \\\"x\\\"\\n\n\
                a_seconds_total 1\n# EOF\n";
    let name: Cow<'_, str> = "a_seconds".into();
    let entries = [
        Entry::Type { name: name.clone(), kind: MetricKind::Counter },
        Entry::Unit { name: name.clone(), unit: "seconds".into() },
        Entry::Help { name, text: "\"x\"\n".into() },
        Entry::Sample { name: "a_seconds_total".into(), value: 1.0, timestamp: None },
    ];
    assert_eq!(read(body).unwrap(), entries);
}

#[test]
fn timestamps_are_seconds_cut_to_milliseconds() {
    for (text, millis) in [
        ("1520879607.789", 1_520_879_607_789),
        ("-1.5", -1500),
        ("0.0019", 1),
        ("-0.0019", -1),
        ("1e3", 1_000_000),
        ("9e15", 9_000_000_000_000_000_000),
        ("9223372036854776", i64::MIN),
        ("1e300", i64::MIN),
    ] {
        let body = format!("a 1 {text}\n# EOF\n");
        let timestamp = Some(millis);
        assert_eq!(
            read(&body).unwrap(),
            [Entry::Sample { name: "a".into(), value: 1.0, timestamp }],
            "{text}"
        );
    }
}

#[test]
fn an_exemplar_stays_with_its_sample() {
    let body = b"a 1 # {id=\"x\\ny\"} 0.5 2.5\nb 1 3 # {} NaN\nc 1\n# EOF";
    let mut parser = Parser::new(Format::OpenMetrics, Mode::Compat, body);
    parser.next_entry().unwrap();
    let labels = vec![("id".into(), "x\ny".into())];
    assert_eq!(parser.exemplars(), [Exemplar { labels, value: 0.5, timestamp: Some(2500) }]);
    parser.next_entry().unwrap();
    assert!(parser.exemplars()[0].labels.is_empty() && parser.exemplars()[0].value.is_nan());
    parser.next_entry().unwrap();
    assert_eq!(parser.exemplars(), []);
    assert_eq!(parser.next_entry(), Ok(None));
    assert_eq!(parser.next_entry(), Ok(None));
}

#[test]
fn a_line_is_whole_and_a_series_is_names_and_labels() {
    let body = "# TYPE a gauge\na{b=\"c\"} 1 2 # {} 3\nd 4\n# EOF\n";
    let mut parser = Parser::new(Format::OpenMetrics, Mode::Compat, body.as_bytes());
    let mut lines = Vec::new();
    while let Some(entry) = parser.next_entry().unwrap() {
        if matches!(entry, Entry::Sample { .. }) {
            lines.push((&body[parser.line()], &body[parser.series()]));
        }
    }
    assert_eq!(lines, [("a{b=\"c\"} 1 2 # {} 3\n", "a{b=\"c\"}"), ("d 4\n", "d")]);
}

#[test]
fn a_unit_ends_its_name() {
    for (body, is_taken) in [
        ("# UNIT a_s s\n# EOF", true),
        ("# UNIT _s s\n# EOF", true),
        ("# UNIT a \n# EOF", true),
        ("# UNIT \"a.b_s\" s\n# EOF", true),
        ("# UNIT as s\n# EOF", false),
        ("# UNIT s s\n# EOF", false),
        ("# UNIT a s\n# EOF", false),
        ("# UNIT a\n# EOF", false),
    ] {
        assert_eq!(read(body).is_ok(), is_taken, "{body}");
    }
}

#[test]
fn errors_say_what_was_expected() {
    for (body, message) in [
        ("", "line 1, column 1: expected # EOF at the end, found the end of the body"),
        ("a 1\n", "line 2, column 1: expected # EOF at the end, found the end of the body"),
        ("a 1", "line 1, column 4: expected"),
        ("a  1\n# EOF", "line 1, column 3: expected a number behind one space, found ' '"),
        ("a\t1\n# EOF", "line 1, column 2: expected one space and a value, found '\\t'"),
        ("a 1 \n# EOF", "line 1, column 5: expected a timestamp in seconds behind one space"),
        ("a 1\r\n# EOF", "line 1, column 3: expected a number behind one space, found \"1\\r\""),
        ("a 1 Inf\n# EOF", "line 1, column 5: expected a timestamp, found no finite number"),
        ("a 1\n\n# EOF", "line 2, column 1: expected no blank lines, found the end of the line"),
        ("a{b=\"c\" d=\"e\"} 1\n# EOF", "line 1, column 8: expected ',' or '}', found ' '"),
        ("a{b=\"c\n\"} 1\n# EOF", "line 1, column 7: expected '\"' after a label value in double quotes"),
        ("# TYPE a untyped\n# EOF", "line 1, column 10: expected counter, gauge, histogram"),
        ("# note\n# EOF", "line 1, column 3: expected HELP, TYPE, UNIT or EOF"),
        ("#EOF", "line 1, column 2: expected one space behind '#', found 'E'"),
        ("# EOF\n\n", "line 2, column 1: expected nothing behind # EOF but one line feed"),
        ("# EOF\na 1\n", "line 2, column 1: expected nothing behind # EOF"),
        ("a 1 # {\"b\"} 1\n# EOF", "line 1, column 11: expected '=', found '}'"),
        (
            "a 1 #{} 1\n# EOF",
            "line 1, column 4: expected a timestamp behind one space, ' # {' of an exemplar",
        ),
    ] {
        let found = error(body);
        assert!(found.starts_with(message), "{body:?}: {found}");
    }
}

#[test]
fn strict_refuses_what_only_prometheus_takes() {
    for body in [
        &b"a{b=\"c\",} 1\n# EOF"[..],
        b"{\"a\"} 1\n# EOF",
        b"a{\"b\"=\"c\"} 1\n# EOF",
        b"# HELP \"a\" b\n# EOF",
        b"# UNIT a_s% s%\n# EOF",
        b"# HELP a b\n\0\0# EOF",
        b"a{b=\"c\"\0} 1\n# EOF",
        b"a{b=\"c\",b=\"\"} 1\n# EOF",
        b"a 1 # {b=\"c\",} 1\n# EOF",
    ] {
        let text = String::from_utf8_lossy(body);
        let mut strict = OpenMetricsParser::new(body, Mode::Strict);
        let refused = std::iter::from_fn(|| strict.next_entry().transpose()).any(|entry| entry.is_err());
        assert!(refused, "{text:?}");
        let is_unit = text.contains("UNIT");
        assert_eq!(count_samples(Format::OpenMetrics, body).is_ok(), !is_unit, "{text:?}");
    }
}

#[test]
fn many_labels_take_time_in_proportion() {
    let distinct: String = (0..300_000).map(|i| format!("l{},", i ^ 1)).collect();
    let distinct = distinct.replace(',', "=\"\",");
    let same = "a=\"b\",".repeat(300_000);
    let empty = "\"\"=\"\",".repeat(300_000);
    let exemplar = format!("a 1 # {{{same}}} 1\n# EOF\n");
    for (labels, is_taken) in [(&distinct, true), (&same, false), (&empty, true)] {
        let body = format!("a{{{labels}}} 1\n# EOF\n");
        assert_eq!(count_samples(Format::OpenMetrics, body.as_bytes()).is_ok(), is_taken);
    }
    assert_eq!(count_samples(Format::OpenMetrics, exemplar.as_bytes()), Ok(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nothing_panics_near_the_format(body in r#"([a{}"\\=,# \n1.e\x00]|# (HELP|TYPE|UNIT) a_s |# \{|# EOF\n?){0,30}"#) {
        let body = body.as_bytes();
        let counted = count_samples(Format::OpenMetrics, body);
        let parsed = crate::exposition::parse(Format::OpenMetrics, Mode::Compat, body);
        let parsed = parsed.map(|all| all.iter().map(|family| family.samples.len()).sum());
        prop_assert_eq!(&counted, &parsed);
        let strict = crate::exposition::parse(Format::OpenMetrics, Mode::Strict, body);
        prop_assert!(counted.is_ok() || strict.is_err(), "the specification takes nothing that Prometheus does not");
    }

    #[test]
    fn nothing_panics_far_from_it(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = count_samples(Format::OpenMetrics, &body);
    }
}
