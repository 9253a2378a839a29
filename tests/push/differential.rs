//! The same requests to a real Push Gateway 1.5.1 and to the source: the same status codes, the same beginnings of
//! the words, the same groups. What differs on purpose stands in the tables with its reason.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use prometheus_streams_plugins::exposition::{Family, MetricKind, Sample, encode_protobuf};
use serde_json::{Value, json};

use super::{Answer, Site, ask, series};
use crate::formats::table;
use crate::support::http;
use crate::support::prometheus::PushGateway;

/// A gateway and a source that get the same requests.
pub(super) struct Pair {
    gateway: PushGateway,
    site: Site,
    differences: Vec<String>,
    asked: usize,
}

/// A request.
struct Case<'a> {
    method: &'a str,
    path: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: &'a [u8],
}

impl Pair {
    pub(super) async fn start(more: Value) -> Self {
        let (site, _) = Site::delivering(more).await;
        Self { gateway: PushGateway::start().await, site, differences: Vec::new(), asked: 0 }
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        [([127, 0, 0, 1], self.gateway.port()).into(), self.site.address()]
    }

    async fn both(&self, case: &Case<'_>) -> [Answer; 2] {
        let [gateway, site] = self.addresses();
        let Case { method, path, headers, body } = *case;
        let theirs = ask(gateway, method, path, headers, body).await;
        [theirs, ask(site, method, path, headers, body).await]
    }

    /// Asks both, and notes where they differ.
    pub(super) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) {
        let body = body.as_ref();
        self.asked += 1;
        let [theirs, ours] = self.both(&Case { method, path, headers, body }).await;
        let is_same = theirs.status == ours.status
            && beginning(&theirs) == beginning(&ours)
            && theirs.header("location") == ours.header("location")
            && theirs.header("allow") == ours.header("allow");
        if !is_same {
            let body = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            self.differences.push(format!(
                "{method} {path} {headers:?} {body:?}\n  gateway {} {:?}\n  source  {} {:?}",
                theirs.status, theirs.text, ours.status, ours.text
            ));
        }
    }

    /// Compares what both hold.
    pub(super) async fn compare(&mut self, when: &str) {
        let (theirs, ours) = (self.gateway.metrics().await, self.site.metrics().await);
        let (theirs, ours) = (shown(&theirs), shown(&ours));
        for name in theirs.keys().chain(ours.keys()) {
            if theirs.get(name) != ours.get(name) {
                let (theirs, ours) = (theirs.get(name), ours.get(name));
                self.differences.push(format!("{when}: {name}: gateway {theirs:?}, source {ours:?}"));
            }
        }
        let theirs = groups(self.gateway.groups().await);
        let ours = http::get(&format!("{}/api/v1/metrics", self.site.url())).await.unwrap().json();
        let ours = groups(ours["data"].as_array().unwrap().clone());
        for key in theirs.keys().chain(ours.keys()) {
            if theirs.get(key) != ours.get(key) {
                let (theirs, ours) = (theirs.get(key), ours.get(key));
                self.differences.push(format!("{when}: {key}:\n  gateway {theirs:?}\n  source  {ours:?}"));
            }
        }
    }

    pub(super) fn finish(self, least: usize) {
        let Self { differences, asked, .. } = self;
        assert!(differences.is_empty(), "{}\n{} differences", differences.join("\n"), differences.len());
        assert!(asked >= least, "{asked} requests");
    }
}

/// The words up to where a gateway names what it found first, which changes from run to run, or quotes in the manner
/// of Go.
fn beginning(answer: &Answer) -> &str {
    let (text, inconsistent) =
        (&answer.text, "pushed metrics are invalid or inconsistent with existing metrics: ");
    if answer.status == 301 {
        return "";
    }
    let Some(detail) = text.strip_prefix(inconsistent) else {
        let end = [
            ", got ",
            ", found ",
            "input byte",
            "invalid escape",
            "invalid label value",
            "spurious string",
            "metric type",
            "label value ",
        ];
        let end = end.iter().filter_map(|mark| Some(text.find(mark)? + mark.len())).min();
        return &text[..end.unwrap_or(text.trim_end().len())];
    };
    let detail = detail.split_once("error(s) occurred:\n* ").map_or(detail, |(_, first)| first);
    if detail.starts_with("collected ") { inconsistent } else { text }
}

/// The series of a page, but for those of a gateway itself; of the times of pushes only whether there are any.
fn shown(page: &str) -> BTreeMap<String, String> {
    let mut shown = series(page.as_bytes());
    shown.retain(|name, _| {
        !["go_", "process_", "pushgateway_", "promhttp_"].iter().any(|own| name.starts_with(own))
    });
    for (name, value) in &mut shown {
        if name.starts_with("push_time_seconds") || name.starts_with("push_failure_time_seconds") {
            *value = (value != "0").to_string();
        }
    }
    shown
}

/// The groups of the API by their labels, without what is a time.
fn groups(groups: Vec<Value>) -> BTreeMap<String, Value> {
    let without_times = |mut group: Value| {
        for family in group.as_object_mut().unwrap().values_mut() {
            let Some(family) = family.as_object_mut() else { continue };
            family.remove("time_stamp");
            // Ours has the bucket of all, which a gateway makes for its page only.
            for metric in family.get_mut("metrics").and_then(Value::as_array_mut).into_iter().flatten() {
                // Go writes 1e-09 for our 1e-9, and -0 here but not on the page.
                if let Some(value) = metric.get_mut("value") {
                    *value = json!(
                        value
                            .as_str()
                            .map(|value| value.parse::<f64>().map(|value| (value + 0.0).to_string()).ok())
                    );
                }
                if let Some(buckets) = metric.get_mut("buckets").and_then(Value::as_object_mut) {
                    buckets.remove("+Inf");
                }
            }
        }
        for time in ["push_time_seconds", "push_failure_time_seconds"] {
            for metric in group[time]["metrics"].as_array_mut().into_iter().flatten() {
                metric["value"] = json!(metric["value"] != "0");
            }
        }
        group
    };
    groups.into_iter().map(|group| (group["labels"].to_string(), without_times(group))).collect()
}

const ROUTES: [&str; 49] = [
    "/metrics/job/a",
    "/metrics/job/a/",
    "/metrics/job",
    "/metrics/",
    "/metrics",
    "/metrics/job/a/l",
    "/metrics/job/a/l/v",
    "/metrics/job/a/l/v/",
    "/metrics//job/a",
    "/metrics/job//a",
    "/metrics/job/a//l",
    "/metrics/job/./l/v",
    "/metrics/job/../l/v",
    "/metrics/job/%2E%2E/l/v",
    "/metrics/job/%2e",
    "/metrics/job/a%2Fb",
    "/metrics/job/a%2Fl%2Fv",
    "/metrics/job/a/l//m/b",
    "/metrics/job/a/9l/v",
    "/metrics/job/a/__l/v",
    "/metrics/job/a/l@base64/YQ",
    "/metrics/job/a/l@base64/YQ==",
    "/metrics/job/a/l@base64/YQ===",
    "/metrics/job/a/l@base64/YR",
    "/metrics/job/a/l@base64/a",
    "/metrics/job/a/l@base64/+-",
    "/metrics/job/a/l@base64/=YQ",
    "/metrics/job/a/@base64/YQ",
    "/metrics/job/a/job/b",
    "/metrics/job/a/l/1/l/2",
    "/metrics/job@base64/YQ",
    "/metrics/job@base64/=",
    "/metrics/job@base64/",
    "/metrics/job@base64",
    "/metrics/job@base64/Yi9j/l/v",
    "/metrics/job@foo/YQ",
    "/metrics/job/a?b=c//d",
    "/metrics/job/a%20b",
    "/metrics/job/a+b",
    "/metrics/job/%C3%A4",
    "/metrics/job/ä",
    "/metrics/job/a;b,c&d=\"{e}\"",
    "/metrics/job/a/l.m/v",
    "/metrics/job/a%3Fb",
    "/metrics/jobs/a",
    "/foo",
    "/metrics/job/%zz",
    "/metrics/job/a/../b",
    "/metrics/job/a/l%40base64/YQ",
];

/// Where a gateway sends a client that wants to push elsewhere, to a place that is not there, or where a method means
/// something to its web page: the source says at once that there is nothing.
const REDIRECTS: [(&str, u16, u16); 3] =
    [("/metrics/job/", 307, 404), ("/METRICS/job/a", 307, 404), ("/", 405, 404)];

#[tokio::test]
async fn every_path_and_method_means_what_it_means_to_a_gateway() {
    let mut pair = Pair::start(json!({})).await;
    for path in ROUTES {
        for method in ["PUT", "POST", "DELETE", "OPTIONS", "PATCH"] {
            // A gateway that was asked for them answers 404 with Allow for its own reasons.
            let body = if matches!(method, "PUT" | "POST") { "x 1\n" } else { "" };
            pair.ask(method, path, &[], body).await;
        }
        pair.compare(path).await;
    }
    for (path, theirs, ours) in REDIRECTS {
        let case = Case { method: "PUT", path, headers: &[], body: b"x 1\n" };
        let answers = pair.both(&case).await;
        assert_eq!(answers.map(|answer| answer.status), [theirs, ours], "{path}");
    }
    for path in ["/-/healthy", "/-/ready"] {
        pair.ask("GET", path, &[], "").await;
        pair.ask("PUT", path, &[], "").await;
    }
    pair.finish(200);
}

/// Bodies of the tables with which the source does something else on purpose.
const OTHERWISE: [(&str, &str); 5] = [
    // To Prometheus it is one series, and it would take whichever comes first: refused.
    ("text_families: a series twice, once with an empty label", "400"),
    // The API has an object of buckets, where the last of them wins; ours shows both.
    ("text_histograms: a bucket twice", "200"),
    ("text_histograms: a bucket twice, spelled differently", "200"),
    ("text_histograms: a quantile twice", "200"),
    // At a gateway -1 wraps around to 2^64-1; here it is 0.
    ("text_histograms: a negative bucket", "200"),
];

/// Bodies with which a gateway does what nobody wants, and what the source does instead.
const BODIES: [(&str, &str, &str); 1] = [(
    "a type that only protobuf has is taken by a gateway, whose page then breaks off there",
    "# TYPE z gauge_histogram\nz 1\n",
    "text format parsing error in line 1: unknown metric type",
)];

#[tokio::test]
async fn every_body_gets_the_verdict_of_a_gateway_and_leaves_what_it_leaves_there() {
    let mut pair = Pair::start(json!({})).await;
    let mut otherwise = 0;
    for case in table::cases().iter().filter(|case| case.column("gateway").is_some()) {
        if let Some((_, status)) = OTHERWISE.iter().find(|(title, _)| *title == case.title) {
            let answer = pair.site.push("PUT", "job/judge/instance/i", &case.body).await;
            assert_eq!(answer.status.to_string(), *status, "{}", case.title);
            pair.ask("DELETE", "/metrics/job/judge/instance/i", &[], "").await;
            otherwise += 1;
            continue;
        }
        // A group that was refused is not there for the next one.
        pair.ask("PUT", "/metrics/job/judge/instance/i", &[], &case.body).await;
        pair.compare(&case.title).await;
        pair.ask("DELETE", "/metrics/job/judge/instance/i", &[], "").await;
    }
    assert_eq!(otherwise, OTHERWISE.len(), "a table has lost a case");
    for (reason, body, words) in BODIES {
        let answer = pair.site.push("PUT", "job/judge", body).await;
        assert!(answer.status == 400 && answer.text.starts_with(words), "{reason}: {answer:?}");
    }
    pair.finish(600);
}

const SEQUENCES: &[(&str, &str, &str)] = &[
    ("PUT", "job/a", "# HELP x One.\n# TYPE x gauge\nx{n=\"1\"} 1\nx{n=\"2\"} 2\ny 3\n"),
    ("POST", "job/a", "# TYPE x gauge\nx{n=\"2\"} 4\n"),
    ("POST", "job/a", ""),
    ("POST", "job/a", "# TYPE y counter\ny 5\n"),
    ("PUT", "job/a", "# TYPE x counter\nx 1\n"),
    ("PUT", "job/b", "# TYPE x gauge\nx 1\n"),
    ("PUT", "job/b", "x 1\n"),
    ("PUT", "job/b", "# HELP x Other.\n# TYPE x counter\nx 1\n"),
    ("PUT", "job/a/instance/i", "# TYPE x counter\nx 1\n"),
    ("PUT", "job/a", "# TYPE x counter\nx{instance=\"i\"} 1\n"),
    ("PUT", "job/a", ""),
    ("PUT", "job/a", "x_count 1\n"),
    ("PUT", "job/b", "# TYPE x histogram\nx_count 1\n"),
    ("PUT", "job/h", "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_count 3\n"),
    ("PUT", "job/c", "h_sum 1\n"),
    ("PUT", "job/c", "h_bucket 1\n"),
    ("PUT", "job/c", "# TYPE h summary\nh_count 1\n"),
    ("PUT", "job/s", "# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum NaN\n"),
    ("PUT", "job/c", "s_bucket 1\n"),
    ("PUT", "job/c", "s_sum 1\n"),
    ("PUT", "job/c", "z 1 17\n"),
    ("POST", "job/c", "z 1\nz 2\n"),
    ("POST", "job/c", "z{__n=\"1\"} 1\n"),
    ("POST", "job/c", "z{job=\"other\",instance=\"own\"} 1\n"),
    ("POST", "job/c", "z{job=\"one\"} 1\nz{job=\"two\"} 2\n"),
    (
        "PUT",
        "job/d",
        "push_time_seconds 1\n# TYPE push_failure_time_seconds histogram\npush_failure_time_seconds_count 3\n",
    ),
    ("PUT", "job/d/l/v", "w{l=\"own\",m=\"\"} +Inf\n"),
    ("PUT", "job/d/l/v", "this is not a scrape\n"),
    ("POST", "job/d/l/v", "w 1"),
    ("DELETE", "job/d", ""),
    ("DELETE", "job/nobody", ""),
    ("PUT", "job/b", "# TYPE x histogram\nx_count 1\n"),
    ("DELETE", "job/a/instance/i", ""),
    ("PUT", "job/b", "# TYPE x histogram\nx_count 1\n"),
    ("POST", "job/b", "x_sum 1\n"),
    ("PUT", "job@base64/w6Qvw7Y/l@base64/Cg", "v{a=\"\\n\\\\\\\"\"} 1e-9\n"),
    ("DELETE", "job/c", ""),
    ("PUT", "job/c", "z 7\n"),
    ("POST", "job/c", "# TYPE z gauge\nz 8\n# TYPE z_count gauge\nz_count 1\n"),
    ("POST", "job/c", "# TYPE z histogram\nz_count 1\n"),
    ("PUT", "job/c/quantile/1", "# TYPE q summary\nq_count 1\n"),
];

#[tokio::test]
async fn groups_change_as_those_of_a_gateway_do() {
    let mut pair = Pair::start(json!({})).await;
    for (number, (method, group, body)) in SEQUENCES.iter().enumerate() {
        pair.ask(method, &format!("/metrics/{group}"), &[], body).await;
        pair.compare(&format!("after {number}: {method} {group} {body:?}")).await;
    }
    pair.finish(40);
}

#[tokio::test]
async fn what_a_gateway_spoils_itself_with_is_refused_without_a_trace() {
    let (site, _) = Site::delivering(json!({})).await;
    site.push("PUT", "job/a", "x 1\n").await;
    let before = site.metrics().await;
    for (path, words) in [
        ("/metrics/job/%FF", "pushed metrics are invalid or inconsistent"),
        ("/metrics/job/b/l@base64/_w", "invalid base64 encoding for label l"),
        // The route of a gateway 1.5.1 hangs from here on.
        ("/metrics/job@base64/a", "invalid base64 encoding in job name \"a\": illegal base64 data"),
    ] {
        let answer = ask(site.address(), "PUT", path, &[], "x 1\n").await;
        assert!(answer.status == 400 && answer.text.starts_with(words), "{path}: {answer:?}");
    }
    // To Prometheus both name one group, and so they do here.
    assert_eq!(site.metrics().await, before);
    site.push("PUT", "job/a/instance@base64/=", "x 2\n").await;
    assert_eq!(series(site.metrics().await.as_bytes())[r#"x{instance="", job="a"}"#], "2");
    // A bucket would lose its bound to the label of the key.
    let answer = site.push("PUT", "job/b/le/1", "# TYPE h histogram\nh_count 1\n").await;
    assert!(
        answer.status == 400 && answer.text.contains("must not have an explicit \"le\" label"),
        "{answer:?}"
    );
    // A gateway 1.5.1 stops the names of protobuf nowhere.
    let mut body = Vec::new();
    let sample = Sample::new("not a name", 1.0);
    encode_protobuf(
        &[Family { samples: vec![sample], ..Family::new("not a name", MetricKind::Gauge) }],
        &mut body,
    );
    let answer =
        ask(site.address(), "PUT", "/metrics/job/b", &[("content-type", super::PROTOBUF)], body).await;
    assert!(answer.status == 400 && answer.text.contains("is not a valid metric name"), "{answer:?}");
}

#[tokio::test]
async fn without_the_check_pushes_are_accepted_and_the_page_stays_readable() {
    let (site, _) = Site::delivering(json!({ "consistency_check": false })).await;
    for (group, body) in [("job/a", "# TYPE x gauge\nx 1\n"), ("job/b", "# TYPE x counter\nx 2\n")] {
        assert_eq!(site.push("PUT", group, body).await.status, 202);
    }
    let page = series(site.metrics().await.as_bytes());
    assert_eq!(
        page.keys().filter(|name| name.starts_with("x{")).collect::<Vec<_>>(),
        [r#"x{instance="", job="a"}"#]
    );
    assert_eq!(site.push("PUT", "job/c", "x 1\nx 1\n").await.status, 400, "what no reader takes is refused");
}
