//! Bodies are built field by field, so that they can be wrong in every way.

use proptest::prelude::*;

use super::super::error::Place;
use super::super::model::{Buckets, HistogramSample};
use super::super::{Format, Mode, ParseError, Parser, count_samples, parse};
use super::*;

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn int(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

fn sint(number: u64, value: i64) -> Vec<u8> {
    int(number, ((value << 1) ^ (value >> 63)) as u64)
}

fn double(number: u64, value: f64) -> Vec<u8> {
    [varint(number << 3 | 1), value.to_le_bytes().to_vec()].concat()
}

fn bytes(number: u64, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn message(number: u64, fields: &[Vec<u8>]) -> Vec<u8> {
    bytes(number, &fields.concat())
}

fn text(number: u64, text: &str) -> Vec<u8> {
    bytes(number, text.as_bytes())
}

fn label(name: &str, value: &str) -> Vec<u8> {
    message(1, &[text(1, name), text(2, value)])
}

fn metric(fields: &[Vec<u8>]) -> Vec<u8> {
    message(4, fields)
}

fn family(name: &str, kind: u64, rest: &[Vec<u8>]) -> Vec<u8> {
    let fields = [text(1, name), int(3, kind), rest.concat()].concat();
    [varint(fields.len() as u64), fields].concat()
}

/// One histogram `h` with these fields.
fn histogram(fields: &[Vec<u8>]) -> Vec<u8> {
    family("h", 4, &[metric(&[message(7, fields)])])
}

fn exemplar(number: u64, value: f64, seconds: Option<u64>) -> Vec<u8> {
    let timestamp = seconds.map(|seconds| message(3, &[int(1, seconds), int(2, 5_999_999)]));
    message(number, &[label("id", "1"), double(2, value), timestamp.unwrap_or_default()])
}

/// Samples as a page of text has them, exemplars behind a `#`.
fn series(body: &[u8]) -> Vec<String> {
    let mut parser = Parser::new(Format::Protobuf, Mode::Compat, body);
    let mut lines = Vec::new();
    while let Some(entry) = parser.next_entry().unwrap() {
        let labels: Vec<_> = parser.labels().iter().map(|l| format!("{}={:?}", l.name, l.value())).collect();
        let labels = labels.join(",");
        let exemplars = parser.exemplars().iter();
        let exemplars: String = exemplars.map(|e| format!(" # {} {:?}", e.value, e.timestamp)).collect();
        lines.push(match entry {
            Entry::Help { name, text } => format!("HELP {name} {text}"),
            Entry::Type { name, kind } => format!("TYPE {name} {kind:?}"),
            Entry::Unit { name, unit } => format!("UNIT {name} {unit}"),
            Entry::Sample { name, value, timestamp: None } => {
                format!("{name}{{{labels}}} {value}{exemplars}")
            }
            Entry::Sample { name, value, timestamp: Some(at) } => format!("{name}{{{labels}}} {value} {at}"),
            Entry::Histogram { name, classic, has_buckets, .. } => {
                format!("{name}{{{labels}}} native {classic} {has_buckets}{exemplars}")
            }
        });
    }
    lines
}

fn refused(body: &[u8]) -> ParseError {
    count_samples(Format::Protobuf, body).expect_err("an error")
}

fn native(fields: &[Vec<u8>]) -> NativeHistogram {
    let body = histogram(fields);
    let families = parse(Format::Protobuf, Mode::Compat, &body).unwrap();
    families[0].histograms[0].value.clone()
}

#[test]
fn every_kind_gives_the_series_of_prometheus() {
    let labels = || label("a", "\u{e9}\"\\");
    let quantile = |q, v| message(3, &[double(1, q), double(2, v)]);
    for (body, expected) in [
        (
            family(
                "c",
                0,
                &[text(2, "Help."), text(5, "s"), metric(&[labels(), message(3, &[double(1, 2.5)])])],
            ),
            vec!["HELP c Help.", "UNIT c s", "TYPE c Counter", r#"c{a="é\"\\"} 2.5"#],
        ),
        (
            family("g", 1, &[metric(&[message(2, &[double(1, -1.0)]), int(6, 1700)]), metric(&[])]),
            vec!["TYPE g Gauge", "g{} -1 1700", "g{} 0"],
        ),
        (family("u", 3, &[metric(&[message(5, &[double(1, 7.0)])])]), vec!["TYPE u Untyped", "u{} 7"]),
        (
            family("s", 2, &[metric(&[message(4, &[int(1, 3), double(2, 1.5), quantile(1.0, 9.0)])])]),
            vec!["TYPE s Summary", "s_count{} 3", "s_sum{} 1.5", r#"s{quantile="1.0"} 9"#],
        ),
        (family("s", 2, &[metric(&[])]), vec!["TYPE s Summary", "s_count{} 0", "s_sum{} 0"]),
    ] {
        assert_eq!(series(&body), expected);
    }
    assert_eq!(series(b""), Vec::<String>::new());
}

#[test]
fn a_histogram_ends_with_the_bucket_of_all() {
    let bucket = |count, bound| message(3, &[int(1, count), double(2, bound)]);
    let body = histogram(&[int(1, 5), double(2, 2.5), bucket(1, 0.1), bucket(4, 1e6)]);
    let expected = [
        "TYPE h Histogram",
        "h_count{} 5",
        "h_sum{} 2.5",
        r#"h_bucket{le="0.1"} 1"#,
        r#"h_bucket{le="1e+06"} 4"#,
        r#"h_bucket{le="+Inf"} 5"#,
    ];
    assert_eq!(series(&body), expected);
    // Its own bucket of all is the last that is shown; float counts go before integers unless they are 0.
    let float = |count| message(3, &[int(1, 1), double(4, count), double(2, f64::INFINITY)]);
    let body = family("h", 5, &[metric(&[message(7, &[double(4, 2.5), float(1.5), bucket(9, 1.0)])])]);
    let expected = ["TYPE h GaugeHistogram", "h_count{} 2.5", "h_sum{} 0", r#"h_bucket{le="+Inf"} 1.5"#];
    assert_eq!(series(&body), expected);
    assert_eq!(parse(Format::Protobuf, Mode::Compat, &body).unwrap().len(), 1);
}

#[test]
fn exemplars_belong_to_counters_and_buckets() {
    let counter = message(3, &[double(1, 2.0), exemplar(2, 0.5, Some(3))]);
    let body = family("c", 0, &[metric(&[counter]), metric(&[])]);
    assert_eq!(series(&body), ["TYPE c Counter", "c{} 2 # 0.5 Some(3005)", "c{} 0"]);
    let bucket = message(3, &[int(1, 1), double(2, 1.0), exemplar(3, 0.5, None)]);
    let body = histogram(&[int(1, 1), bucket]);
    assert_eq!(series(&body)[3], r#"h_bucket{le="1.0"} 1 # 0.5 None"#);
    assert_eq!(series(&body)[4], r#"h_bucket{le="+Inf"} 1"#);
}

#[test]
fn a_native_histogram_comes_before_its_classic_form() {
    let span = message(12, &[sint(1, -2), int(2, 2)]);
    let deltas = bytes(13, &[sint(1, 1)[1..].to_vec(), sint(1, 2)[1..].to_vec()].concat());
    let fields = [int(1, 5), double(2, 9.0), sint(5, 3), double(6, 0.5), int(7, 1), span, deltas];
    let value = native(&fields);
    assert_eq!((value.schema, value.zero_threshold, value.zero_count), (3, 0.5, 1.0));
    assert_eq!((value.count, value.sum, value.is_float), (5.0, 9.0, false));
    assert_eq!(value.positive, Buckets { spans: vec![(-2, 2)], counts: vec![1.0, 3.0] });
    let expected =
        ["TYPE h Histogram", "h{} native 3 false", "h_count{} 5", "h_sum{} 9", r#"h_bucket{le="+Inf"} 5"#];
    assert_eq!(series(&histogram(&fields)), expected);

    let bucket = message(3, &[int(1, 1), double(2, 1.0), exemplar(3, 0.25, Some(1))]);
    let with_buckets = [&fields[..], &[bucket]].concat();
    assert_eq!(series(&histogram(&with_buckets))[1], "h{} native 4 true # 0.25 Some(1005)");
    let with_own = [&with_buckets[..], &[exemplar(16, 0.5, None), exemplar(16, 0.75, Some(2))]].concat();
    assert_eq!(series(&histogram(&with_own))[1], "h{} native 4 true # 0.75 Some(2005)");
}

#[test]
fn a_native_histogram_with_a_label_le_has_no_classic_form() {
    let native = message(7, &[message(12, &[])]);
    let body = family("h", 4, &[metric(&[label("le", "x"), native.clone()]), metric(&[native])]);
    assert_eq!(series(&body)[1..3], [r#"h{le="x"} native 0 false"#, "h{} native 3 false"]);
}

#[test]
fn native_buckets_are_made_compact() {
    let spans =
        [(0, 0), (-3, 3), (1, 0), (2, 2)].map(|(gap, length)| message(9, &[sint(1, gap), int(2, length)]));
    let counts = [0.0, 1.5, 0.0, 2.0, 3.0].map(|count| double(11, count));
    let fields = [&[double(4, 6.5)][..], &spans, &counts].concat();
    let value = native(&fields);
    assert!(value.is_float);
    assert_eq!(value.negative, Buckets { spans: vec![(-2, 1), (4, 2)], counts: vec![1.5, 2.0, 3.0] });
    // A span of nothing only says that the histogram is native.
    assert_eq!(native(&[message(12, &[])]), NativeHistogram::default());
}

#[test]
fn native_histograms_that_contradict_themselves_are_refused() {
    let span = |gap, length| message(12, &[sint(1, gap), int(2, length)]);
    let delta = |delta| sint(13, delta);
    for (fields, part) in [
        (vec![span(0, 2), delta(1), int(1, 1)], "expected 2 buckets for the spans, found 1"),
        (vec![span(0, 4_000_000_000)], "expected 4000000000 buckets"),
        (vec![span(0, 2), delta(1), delta(-2)], "positive side: expected counts of at least 0"),
        (vec![span(0, 1), delta(1)], "expected 0 observations in the buckets, found 1"),
        (vec![span(0, 1), span(-1, 1), delta(1), delta(0), int(1, 2)], "a gap of -1"),
        (vec![span(i64::from(i32::MAX), 2), delta(1), delta(0), int(1, 2)], "32 bits"),
        (vec![span(0, 0), sint(5, 9)], "expected a schema from -4 to 8, found 9"),
        (vec![span(0, 0), sint(5, -5)], "found -5"),
        (vec![span(1, 1), delta(1), int(1, 1), sint(5, -53)], "custom bounds"),
        (vec![span(0, 1), double(14, -1.0)], "counts of at least 0, found -1"),
        (vec![span(0, 1), double(14, 1.0), double(8, -1.0)], "counts of at least 0"),
    ] {
        let message = refused(&histogram(&fields)).to_string();
        assert!(message.contains("family 1 \"h\": Histogram: ") && message.contains(part), "{message}");
    }
    let not_a_number = [double(2, f64::NAN), int(1, 9), span(0, 1), delta(1)];
    assert_eq!(native(&not_a_number).count, 9.0, "observations of NaN are in no bucket");
}

#[test]
fn labels_follow_the_rules_of_prometheus() {
    let gauge = |labels: &[Vec<u8>]| family("g", 1, &[metric(labels)]);
    assert_eq!(
        series(&gauge(&[label("b", "1"), label("a", "2"), message(1, &[])]))[1],
        r#"g{b="1",a="2"} 0"#
    );
    // One empty label of a name makes all of them absent.
    assert_eq!(
        series(&gauge(&[label("b", "1"), label("a", ""), label("b", "")]))[1],
        r#"g{b="",a="",b=""} 0"#
    );
    for (labels, part) in [
        (vec![label("a", "1"), label("a", "2")], "found \"a\" again"),
        (vec![label("", "1")], "found an empty one"),
        (vec![message(1, &[text(2, "1")])], "LabelPair: expected a name"),
        (vec![label("__name__", "x")], "other than __name__"),
        (vec![message(1, &[bytes(1, b"\xff")])], "LabelPair.name: expected valid UTF-8"),
        (vec![message(1, &[text(1, "a"), bytes(2, b"x\xff")])], "LabelPair.value: expected valid UTF-8"),
    ] {
        let message = refused(&gauge(&labels)).to_string();
        assert!(message.contains(part), "{message}");
    }
    let summary = |own: &str| {
        let quantile = message(4, &[message(3, &[double(1, 0.5), double(2, 7.0)])]);
        family("s", 2, &[metric(&[label("quantile", own), quantile])])
    };
    assert!(refused(&summary("1")).to_string().contains("found \"quantile\" again"));
    assert_eq!(series(&summary(""))[3], r#"s{quantile=""} 7"#);
}

#[test]
fn families_without_metrics_are_not_looked_at() {
    let odd = family("\u{0}", 99, &[bytes(2, b"\xff")]);
    assert_eq!(series(&[odd, family("g", 1, &[metric(&[])])].concat()), ["TYPE g Gauge", "g{} 0"]);
}

#[test]
fn what_is_not_known_is_skipped() {
    let group = [varint(9 << 3 | 3), int(1, 5), varint(2 << 3 | 3), varint(4), varint(4)].concat();
    let fixed32 = [varint(8 << 3 | 5), vec![0; 4]].concat();
    let unknown = [group, fixed32, double(100, 1.0), text(20, "x")].concat();
    let value = message(2, &[unknown.clone(), double(1, 1.0), double(1, 2.0)]);
    let body = family("g", 1, &[unknown.clone(), metric(&[unknown, value])]);
    assert_eq!(series(&body), ["TYPE g Gauge", "g{} 2"]);
}

#[test]
fn what_is_malformed_is_refused_where_it_is_wrong() {
    let gauge = |fields: &[u8]| family("g", 1, &[metric(&[fields.to_vec()])]);
    let start = gauge(&[]).len();
    for (body, at, part) in [
        (vec![5], 0, "family 1: MetricFamily: expected 5 bytes, found 0"),
        (vec![0x80], 0, "the length of a MetricFamily: expected a varint, found the end"),
        (vec![0x80, 0x80, 0x80, 0x80, 0x80, 0], 0, "over 5 bytes"),
        (vec![11, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], 1, "over 10 bytes"),
        (vec![1, 0], 1, "MetricFamily: expected a field, found the tag 0"),
        (vec![1, 4 << 3 | 4], 1, "expected a field, found the tag 36"),
        (vec![2, 4 << 3, 1], 1, "MetricFamily.metric: expected wire type 2, found 0"),
        (vec![2, 4 << 3 | 2, 9], 2, "MetricFamily.metric: expected 9 bytes, found 0"),
        (gauge(&[2 << 3 | 2, 2, 9, 0]), start + 3, "\"g\": Gauge.value: expected 8 bytes"),
        (gauge(&[6 << 3 | 2, 0]), start, "Metric.timestamp_ms: expected wire type 0, found 2"),
        (gauge(&[9 << 3 | 3]), start + 1, "an unknown group: expected a varint"),
        (gauge(&[9 << 3 | 7]), start, "expected a wire type, found 7"),
        (family("", 1, &[metric(&[])]), 1, "MetricFamily.name: expected a name"),
        (family("g", 6, &[metric(&[])]), 1, "expected a type from 0 to 5, found 6"),
    ] {
        let error = refused(&body);
        assert_eq!(error.place, Place::Byte(at), "{error}");
        assert!(error.message.contains(part), "{error}");
    }
}

#[test]
fn repeated_messages_merge_and_long_varints_are_cut() {
    let first = message(7, &[int(1, 1), double(2, 3.0)]);
    let second = message(7, &[int(1, 2)]);
    let body = family("h", 4, &[metric(&[first, second])]);
    assert_eq!(series(&body)[1..3], ["h_count{} 2", "h_sum{} 3"]);
    let long = [varint(6 << 3), vec![0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7e]].concat();
    assert_eq!(series(&family("g", 1, &[metric(&[long])]))[1], "g{} 0 1");
}

#[test]
fn the_text_is_borrowed() {
    let body = family("g", 1, &[text(2, "Help."), metric(&[label("a", "b")])]);
    let mut parser = ProtobufParser::new(&body, Mode::Compat);
    while let Some(entry) = parser.next_entry().unwrap() {
        if let Entry::Help { name: a, text: b } = entry {
            assert!(matches!((a, b), (Cow::Borrowed(_), Cow::Borrowed(_))));
        }
    }
    assert!(matches!(parser.labels()[0].value(), Cow::Borrowed("b")));
}

proptest! {
    #[test]
    fn nothing_panics(body: Vec<u8>) {
        let _ = parse(Format::Protobuf, Mode::Compat, &body);
    }

    #[test]
    fn nothing_panics_near_the_format(flips in proptest::collection::vec((0..200_usize, any::<u8>()), 1..4)) {
        let bucket = message(3, &[int(1, 1), double(2, 1.0), exemplar(3, 0.25, Some(1))]);
        let span = message(12, &[sint(1, -2), int(2, 1)]);
        let mut body = histogram(&[int(1, 1), bucket, span, sint(13, 1), exemplar(16, 1.0, Some(1))]);
        for (at, byte) in flips {
            let length = body.len();
            body[at % length] = byte;
        }
        if let Ok(families) = parse(Format::Protobuf, Mode::Compat, &body) {
            let native: Vec<&HistogramSample<'_>> = families.iter().flat_map(|f| &f.histograms).collect();
            prop_assert!(native.len() <= 1);
        }
    }
}
