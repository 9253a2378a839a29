//! Every format gives back what was written; formats give each other what they can hold.

use proptest::prelude::*;

use super::super::model::{
    Buckets, Exemplar, Family, HistogramSample, LabelPair, MetricKind, NativeHistogram, Sample,
};
use super::super::{Format, Mode, parse};
use super::*;

fn openmetrics(families: &[Family<'_>]) -> String {
    let mut page = Vec::new();
    encode_openmetrics(families, &mut page);
    String::from_utf8(page).unwrap()
}

fn protobuf(families: &[Family<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    encode_protobuf(families, &mut body);
    body
}

fn parsed(format: Format, body: &[u8]) -> Vec<Family<'_>> {
    parse(format, Mode::Compat, body).unwrap()
}

fn from_text(text: &str) -> Vec<Family<'_>> {
    parsed(Format::Text, text.as_bytes())
}

#[test]
fn a_strict_page_of_openmetrics_stays_as_it_is() {
    let page = "# TYPE a_s counter\n# UNIT a_s s\n# HELP a_s A \\\"b\\\" \\\\ \\n.\n\
        a_s_total{x=\"\\\"\"} 1 1.5 # {id=\"é\"} 0.5 2.5\na_s_created{x=\"\\\"\"} 5 1.5\n\
        # TYPE b gauge\nb{x=\"1\"} NaN -0.25\nb{x=\"2\"} +Inf\n\
        # TYPE h histogram\nh_bucket{le=\"0.5\"} 1 # {} 0.25\nh_bucket{le=\"+Inf\"} 2\nh_count 2\nh_sum 1.5\n\
        # TYPE g gaugehistogram\ng_bucket{le=\"-1.0\"} 1\ng_bucket{le=\"+Inf\"} 2\ng_gcount 2\ng_gsum -1.5\n\
        # TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum 1\ns_count 1\ns_created 1\n\
        # TYPE i info\ni_info{v=\"1\"} 1\n# TYPE t stateset\nt{t=\"a\"} 1\nt{t=\"b\"} 0\n\
        # TYPE u unknown\nu 1\n# TYPE e gauge\n# EOF\n";
    let families = parse(Format::OpenMetrics, Mode::Strict, page.as_bytes()).unwrap();
    assert_eq!(openmetrics(&families), page);
}

#[test]
fn what_is_no_openmetrics_becomes_unknown() {
    for (text, page) in [
        ("# TYPE c_total counter\nc_total 1\n", "# TYPE c counter\nc_total 1\n"),
        ("# TYPE c counter\nc 1\n", "# TYPE c unknown\nc 1\n"),
        ("# TYPE c_total counter\nc_total -1\n", "# TYPE c_total unknown\nc_total -1\n"),
        (
            "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n",
            "# TYPE h_bucket unknown\nh_bucket{le=\"1\"} 1\n# TYPE h_sum unknown\nh_sum 1\n\
             # TYPE h_count unknown\nh_count 1\n",
        ),
        ("# TYPE s summary\ns{quantile=\"2\"} 1\n", "# TYPE s unknown\ns{quantile=\"2\"} 1\n"),
        (
            "# TYPE s summary\ns_sum{a=\"1\"} 1\ns_sum 2\ns_count{a=\"1\"} 1\ns_count 2 1500\n",
            "# TYPE s summary\ns_sum{a=\"1\"} 1\ns_count{a=\"1\"} 1\ns_sum 2\ns_count 2 1.5\n",
        ),
    ] {
        assert_eq!(openmetrics(&from_text(text)), format!("{page}# EOF\n"));
    }
}

#[test]
fn protobuf_holds_what_text_and_openmetrics_say() {
    for (format, page, text) in [
        (
            Format::Text,
            "# HELP h H.\n# TYPE h histogram\nh_bucket{a=\"1\",le=\"0.5\"} 1\nh_sum{a=\"1\"} 2\nh_count{a=\"1\"} 3\n",
            "# HELP h H.\n# TYPE h histogram\nh_count{a=\"1\"} 3\nh_sum{a=\"1\"} 2\n\
             h_bucket{a=\"1\",le=\"0.5\"} 1\nh_bucket{a=\"1\",le=\"+Inf\"} 3\n",
        ),
        (
            Format::Text,
            "# TYPE h histogram\nh_bucket{le=\"x\"} 1\nh_sum 2\n",
            "# TYPE h_bucket untyped\nh_bucket{le=\"x\"} 1\n# TYPE h_sum untyped\nh_sum 2\n",
        ),
        (
            Format::Text,
            "# TYPE s summary\ns_sum 2\ns_count 1 5\n",
            "# TYPE s_sum untyped\ns_sum 2\n# TYPE s_count untyped\ns_count 1 5\n",
        ),
        (
            Format::OpenMetrics,
            "# TYPE c counter\nc_total 1\nc_created 2\n# TYPE i info\ni_info 1\n# TYPE e gauge\n# EOF\n",
            "# TYPE c_total counter\nc_total 1\n# TYPE c_created gauge\nc_created 2\n# TYPE i_info gauge\ni_info 1\n",
        ),
    ] {
        let body = protobuf(&parsed(format, page.as_bytes()));
        let mut back = Vec::new();
        encode(&parsed(Format::Protobuf, &body), &mut back);
        assert_eq!(String::from_utf8(back).unwrap(), text);
    }
}

#[test]
fn json_has_the_shape_of_prom2json() {
    let text = "# HELP h H.\n# TYPE h histogram\nh_bucket{a=\"1\",le=\"1.0\"} 1\nh_bucket{a=\"1\",le=\"+Inf\"} 3\n\
        h_sum{a=\"1\"} 2.5\nh_count{a=\"1\"} 3\n# TYPE s summary\ns{quantile=\"0.5\"} NaN\ns_sum 1\ns_count 2\n\
        # TYPE g gauge\ng{b=\"c\"} 1e300 17\n# TYPE k histogram\nk_sum 1\n";
    let expected = serde_json::json!([
        { "name": "h", "help": "H.", "type": "HISTOGRAM", "metrics": [
            { "labels": { "a": "1" }, "buckets": { "1": "1", "+Inf": "3" }, "count": "3", "sum": "2.5" },
        ] },
        { "name": "s", "type": "SUMMARY", "metrics": [
            { "labels": {}, "quantiles": { "0.5": "NaN" }, "count": "2", "sum": "1" },
        ] },
        { "name": "g", "type": "GAUGE", "metrics": [
            { "labels": { "b": "c" }, "timestamp_ms": "17", "value": "1e300" },
        ] },
        { "name": "k", "type": "HISTOGRAM", "metrics": [{ "labels": {}, "name": "k_sum", "value": "1" }] },
    ]);
    assert_eq!(encode_json(&from_text(text)), expected);
}

#[test]
fn json_shows_what_only_other_formats_have() {
    let mut family = Family::new("h", MetricKind::Histogram);
    family.unit = Some("s".into());
    let value = NativeHistogram {
        schema: 3,
        positive: Buckets { spans: vec![(-1, 1), (2, 1)], counts: vec![1.0, 2.5] },
        is_float: true,
        ..NativeHistogram::default()
    };
    let exemplars =
        vec![Exemplar { labels: vec![("id".into(), "1".into())], value: 2.0, timestamp: Some(5) }];
    family.histograms.push(HistogramSample { labels: Vec::new(), value, timestamp: Some(7), exemplars });
    let native = serde_json::json!({
        "schema": 3, "is_float": true, "count": "0", "sum": "0", "zero_threshold": "0", "zero_count": "0",
        "negative": {}, "positive": { "-1": "1", "2": "2.5" },
        "exemplars": [{ "labels": { "id": "1" }, "timestamp_ms": "5", "value": "2" }],
    });
    let metric = serde_json::json!({ "labels": {}, "timestamp_ms": "7", "native": native });
    let all = serde_json::json!([{ "name": "h", "type": "HISTOGRAM", "unit": "s", "metrics": [metric] }]);
    assert_eq!(encode_json(&[family]), all);
}

fn pairs() -> impl Strategy<Value = Vec<LabelPair<'static>>> {
    proptest::collection::btree_map("[a-k]{1,2}", "[a-z\"\\\\\n\u{e9}]{1,4}", 0..3)
        .prop_map(|map| map.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
}

fn exemplars() -> impl Strategy<Value = Option<Box<Exemplar<'static>>>> {
    let exemplar = (pairs(), -1e3..1e3, proptest::option::of(-9_999_999_999_i64..9_999_999_999_999));
    proptest::option::of(
        exemplar.prop_map(|(labels, value, timestamp)| Box::new(Exemplar { labels, value, timestamp })),
    )
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(f64::INFINITY), any::<u32>().prop_map(f64::from), proptest::num::f64::NORMAL]
}

fn timestamps() -> impl Strategy<Value = Option<i64>> {
    proptest::option::of(1..9_999_999_999_999_i64)
}

/// A sample of the family `x`.
fn sample(
    suffix: &str,
    labels: &[LabelPair<'static>],
    value: f64,
    timestamp: Option<i64>,
) -> Sample<'static> {
    Sample { labels: labels.to_vec(), timestamp, ..Sample::new(format!("x{suffix}"), value) }
}

fn bounded(bound: &str, labels: &[LabelPair<'static>]) -> Vec<LabelPair<'static>> {
    labels.iter().cloned().chain([("le".into(), bound.to_owned().into())]).collect()
}

fn buckets() -> impl Strategy<Value = Buckets> {
    proptest::collection::vec((1..9_i32, 1..4_u32), 0..4).prop_map(|spans| {
        let length: u32 = spans.iter().map(|(_, length)| length).sum();
        Buckets { spans, counts: (0..length).map(|index| f64::from(index % 5 + 1)).collect() }
    })
}

fn native() -> impl Strategy<Value = NativeHistogram> {
    (-4..=8, any::<bool>(), 0..9_u32, buckets(), buckets()).prop_map(
        |(schema, is_float, zero, positive, negative)| {
            let in_buckets: f64 = positive.counts.iter().chain(&negative.counts).sum();
            let (zero_count, zero_threshold) = (f64::from(zero), 0.25);
            let count = in_buckets + zero_count;
            NativeHistogram {
                schema,
                zero_threshold,
                zero_count,
                count,
                sum: 1.5,
                is_float,
                positive,
                negative,
            }
        },
    )
}

/// One family of protobuf, as [`parse`] gives it.
fn protobuf_family() -> impl Strategy<Value = Family<'static>> {
    let labels = proptest::collection::hash_set(pairs(), 1..3);
    let parts = (labels, number(), timestamps(), exemplars(), proptest::option::of(native()), 0..5_usize);
    parts.prop_map(|(labels, value, at, exemplar, native, kind)| {
        use MetricKind::{Counter, Gauge, GaugeHistogram, Histogram, Untyped};
        let mut family = Family::new("x", [Counter, Gauge, Untyped, Histogram, GaugeHistogram][kind]);
        family.help = Some("H\n\\\".".into());
        family.unit = Some("s".into());
        for labels in labels {
            if kind < 3 {
                let exemplar = exemplar.clone().filter(|_| kind == 0);
                family.samples.push(Sample { exemplar, ..sample("", &labels, value, at) });
                continue;
            }
            let count = native.as_ref().map_or(3.0, |native| native.count);
            family.samples.push(sample("_count", &labels, count, at));
            family.samples.push(sample("_sum", &labels, 1.5, at));
            let mut low = sample("_bucket", &bounded("0.5", &labels), 1.0, at);
            low.exemplar = exemplar.clone();
            family.samples.push(low);
            family.samples.push(sample("_bucket", &bounded("+Inf", &labels), count, at));
            if let Some(value) = native.clone() {
                let exemplars = exemplar.iter().map(|e| (**e).clone()).filter(|e| e.timestamp.is_some());
                let exemplars = exemplars.collect();
                family.histograms.push(HistogramSample { labels, value, timestamp: at, exemplars });
            }
        }
        family
    })
}

proptest! {
    #[test]
    fn protobuf_comes_back(family in protobuf_family()) {
        let body = protobuf(std::slice::from_ref(&family));
        prop_assert_eq!(parsed(Format::Protobuf, &body), [family]);
    }

    #[test]
    fn whatever_protobuf_says_openmetrics_and_text_can_say(family in protobuf_family()) {
        let families = [family];
        let page = openmetrics(&families);
        let first = parsed(Format::OpenMetrics, page.as_bytes());
        prop_assert_eq!(openmetrics(&first), &*page);
        let mut text = Vec::new();
        encode(&families, &mut text);
        let series = |families: &[Family<'_>]| families.iter().map(|f| f.samples.len()).sum::<usize>();
        prop_assert_eq!(series(&first), series(&families));
        prop_assert_eq!(series(&parsed(Format::Text, &text)), series(&families));
        prop_assert!(parse(Format::OpenMetrics, Mode::Strict, page.as_bytes()).is_ok(), "{}", page);
    }

    #[test]
    fn a_millisecond_of_openmetrics_comes_back(millis in -4_000_000_000_000_000_i64..4_000_000_000_000_000) {
        let mut family = Family::new("x", MetricKind::Gauge);
        family.samples.push(sample("", &[], 1.0, Some(millis)));
        let page = openmetrics(std::slice::from_ref(&family));
        prop_assert_eq!(parsed(Format::OpenMetrics, page.as_bytes()), [family]);
    }
}
