//! The page in each format: what a reader finds on it is what the families of the scrapes say, however the page came
//! about.

use std::collections::BTreeMap;

use super::*;
use crate::exposition::{
    self, Family, Format, Mode, apply_target_labels, as_openmetrics, as_protobuf, as_text,
};
use crate::support::report;

const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8";
const OPENMETRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT_1: &str = "text/plain;version=1.0.0;escaping=allow-utf-8";
const PROTOBUF: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;escaping=allow-utf-8";

/// Bodies that are written in every way that Prometheus takes.
const TEXTS: &[&str] = &[
    include_str!("../../../../../tests/data/node_exporter.txt"),
    "",
    "# nothing\n",
    "a NaN\nb +Inf\nc -Inf\nd -0\ne 1e-310\nf 9007199254740993\nk .5\ni 1e-400\nj +7\nl 5.\n",
    "# HELP h A \"histogram\".\n# TYPE h histogram\nh_bucket{le=\"0.5\"} 1\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 2.5\nh_count 3\n",
    "# TYPE oh histogram\noh_bucket{le=\"1\"} 2.5\noh_bucket{le=\"abc\"} 1\noh_sum 1\n",
    "# TYPE h histogram\nh_bucket{job=\"x\",le=\"+Inf\"} 3\nh_sum{job=\"x\"} 2.5\nh_count{job=\"x\"} 3\n",
    "# TYPE s summary\ns{quantile=\"0.5\"} 1\ns{quantile=\"0.99\"} NaN\ns_sum 2 17\ns_count 3\n",
    "ol{job=\"theirs\",instance=\"mine\"} 1\nol{exported_job=\"x\",job=\"y\"} 2\nol{job=\"\"} 3\nol{instance=\"\"} 4\n",
    "# TYPE r_total counter\nr_total 1\n# TYPE n_total counter\nn_total -1\n# TYPE c counter\nc 2\n# TYPE _total counter\n_total 1\n",
    "# HELP esc Back\\\\slash, and\\na line.\nesc{a=\"q\\\"uote\",b=\"back\\\\slash\",c=\"a\\nline\",d=\"\\q\"} 1\n",
    "  # HELP lo Indented.\n#\tTYPE\tlo\tgauge\nlo { a = \"1\" , b = \"2\" , } 1   \nlo{a=\"3\"b=\"4\"}2\n\nlo{a=\"5\" b=\"6\"} 3\nlo{} 4\nlast 3",
    "lo{a =\"1\"b=\"2\"} 1\nlo{a=\"2\",} 2\nlo\t3\nlo{c=\"x y\"}  4\n",
    "# TYPE x gauge\nx{a=\"1\"} 1\n# TYPE y gauge\ny 1\nx{a=\"2\"} 2\n# TYPE x counter\n",
    "up{a=\"b\"} 7\nscrape_duration_seconds 99\nscrape_samples_scraped{a=\"b\"} 5\nup 3\n",
    "el{a=\"\",b=\"1\"} 1\nts 1 1700000000123\nts{a=\"1\"} 2 17 \n",
    "{\"a.b\"} 1\nx{\"c.d\"=\"1\"} 2\n{\"e\",f=\"1\"} 3\nx{f=\"a\nb\"} 4\n",
];

const OPENMETRICS_TEXTS: &[&str] = &[
    "# TYPE om_requests counter\n# TYPE om_bytes gauge\n# UNIT om_bytes bytes\n# HELP om_requests \\\"Requests\\\".\nom_requests_total{a=\"1\"} 5 # {trace_id=\"abc\"} 0.5 1.5\nom_requests_created{a=\"1\"} 1.5\nom_bytes 3\n# TYPE om_info info\nom_info_info{version=\"1\"} 1\n# TYPE om_state stateset\nom_state{om_state=\"a\"} 1\nom_state{om_state=\"b\"} 0\n# TYPE om_unknown unknown\nom_unknown 1\n# EOF\n",
    "# TYPE omh histogram\nomh_bucket{le=\"1.0\"} 1 # {} 0.7\nomh_bucket{le=\"+Inf\"} 2\nomh_sum 3\nomh_count 2\nomh_created 1.5\n# TYPE omg gaugehistogram\nomg_bucket{le=\"+Inf\"} 2\nomg_gsum 3\nomg_gcount 2\n# EOF\n",
    "# TYPE c counter\nc_total{job=\"own\",a=\"\\\\\"} 5 1.5 # {trace_id=\"abc\"} 0.5 1.5\nc_total{a=\"2\"} 6 1.25\n# EOF\n",
];

/// The series of families: their values, their timestamps and exemplars, and their type.
fn series(families: &[Family<'_>]) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for family in families {
        for sample in &family.samples {
            let mut labels: Vec<_> = sample.labels.iter().filter(|(_, value)| !value.is_empty()).collect();
            labels.sort();
            let exemplar = sample
                .exemplar
                .as_ref()
                .map(|exemplar| (&exemplar.labels, exemplar.value, exemplar.timestamp));
            let value = if sample.value.is_nan() { "NaN".to_owned() } else { sample.value.to_string() };
            let said = format!("{value} {:?} {exemplar:?} {:?}", sample.timestamp, family.kind);
            all.entry(format!("{}{labels:?}", sample.name)).or_default().push(said);
        }
        for histogram in &family.histograms {
            let mut labels: Vec<_> = histogram.labels.iter().filter(|(_, value)| !value.is_empty()).collect();
            labels.sort();
            all.entry(format!("{}{labels:?}", family.name))
                .or_default()
                .push(format!("{:?}", histogram.value));
        }
    }
    all
}

/// What the page must say, by way of the families.
fn expected(event: &Event, dialect: Dialect) -> BTreeMap<String, Vec<String>> {
    let (families, readable) = report::families(event);
    readable.unwrap();
    let mut families = match dialect {
        Dialect::Text => as_text(families),
        // The types of text stay what they are.
        Dialect::OpenMetrics if report::format(event) == Format::Text => as_text(families),
        Dialect::OpenMetrics => as_openmetrics(families),
        Dialect::Protobuf => as_protobuf(families),
    };
    let labels: Vec<_> = event.labels.iter().filter(|(_, value)| !value.is_empty()).collect();
    apply_target_labels(&mut families, &labels, scrape::honors_labels(event));
    let honors_timestamps = scrape::honors_timestamps(event);
    for sample in families.iter_mut().flat_map(|family| &mut family.samples) {
        sample.timestamp = sample.timestamp.filter(|_| honors_timestamps);
    }
    // Text has no exemplars, and protobuf its own spelling of bounds.
    let mut body = Vec::new();
    let format = match dialect {
        Dialect::OpenMetrics => return series(&families),
        Dialect::Text => {
            exposition::encode(&families, &mut body);
            Format::Text
        }
        Dialect::Protobuf => {
            exposition::encode_protobuf(&families, &mut body);
            Format::Protobuf
        }
    };
    series(&exposition::parse(format, Mode::Compat, &body).unwrap())
}

/// All ways to send a body.
fn events(bench: &Bench, body: &'static str, content_type: &str) -> Vec<Event> {
    let mut events = Vec::new();
    for (honors_labels, honors_timestamps) in [(false, true), (true, true), (false, false)] {
        for labels in [&[("job", "j"), ("instance", "i"), ("publisher", "p\"")][..], &[("thing", "t")][..]] {
            let mut event = bench.event("i", body);
            event.labels = labels.iter().copied().collect();
            event.attributes.insert(scrape::CONTENT_TYPE, content_type);
            if honors_labels {
                event.attributes.insert(scrape::HONOR_LABELS, "true");
            }
            if !honors_timestamps {
                event.attributes.insert(scrape::HONOR_TIMESTAMPS, "false");
            }
            events.push(event);
        }
    }
    events
}

#[tokio::test]
async fn a_reader_finds_what_the_families_say() {
    let texts = TEXTS.iter().map(|text| (*text, TEXT));
    let all = texts.chain(OPENMETRICS_TEXTS.iter().map(|text| (*text, OPENMETRICS_TYPE)));
    for (body, content_type) in all {
        for (accept, format, dialect) in [
            (TEXT_1, Format::Text, Dialect::Text),
            (OPENMETRICS, Format::OpenMetrics, Dialect::OpenMetrics),
            (PROTOBUF, Format::Protobuf, Dialect::Protobuf),
        ] {
            let bench = Bench::new(config());
            for mut event in events(&bench, body, content_type) {
                event.timestamp = bench.clock.now();
                bench.sink.send(event.clone()).await.unwrap();
                let page = bench.bytes_for(accept);
                let shown = || String::from_utf8_lossy(&page[..page.len().min(4000)]).into_owned();
                let found = exposition::parse(format, Mode::Compat, &page)
                    .unwrap_or_else(|error| panic!("{error}\n{}", shown()));
                let mut expected = expected(&event, dialect);
                let mut found = series(&found);
                // Of a series that comes twice the first counts; which of its families it is in does not matter.
                [&mut found, &mut expected]
                    .into_iter()
                    .for_each(|all| all.values_mut().for_each(|said| said.sort()));
                assert_eq!(
                    found,
                    expected,
                    "{:?} {}\n{}",
                    event.labels,
                    event.attributes.get(scrape::HONOR_LABELS).is_some(),
                    shown()
                );
                bench.sink.store.remove(event.labels, bench.clock.now());
                bench.advance(1);
            }
        }
    }
}

#[tokio::test]
async fn what_was_text_is_openmetrics_to_the_letter() {
    // Counters without `_total`, names that are reserved, timestamps on some series of a metric, families that clash with ours, and series that are the same once they
    // have the labels of the target, are the targets' own fault.
    let odd = [" 17\n", "up{", "mine", "\n_total", "oh_bucket", "go_memstats", "TYPE x counter"];
    let is_sound = |body: &&&str| !odd.iter().any(|odd| body.contains(odd));
    for body in TEXTS.iter().filter(is_sound) {
        let bench = Bench::new(config());
        for target in ["a", "b"] {
            bench.send(target, body).await.unwrap();
        }
        let page = bench.page_for("application/openmetrics-text;version=1.0.0");
        exposition::parse(Format::OpenMetrics, Mode::Strict, page.as_bytes())
            .unwrap_or_else(|error| panic!("{error}\n{page}"));
    }
}

#[tokio::test]
async fn a_family_is_described_once() {
    let bench = Bench::new(config());
    let body = "# HELP c_total C.\n# TYPE c_total counter\nc_total{a=\"1\"} 1\n";
    bench.send("a", body).await.unwrap();
    bench.send("b", "c_total 2\n").await.unwrap();
    bench.send("c", body).await.unwrap();
    let family = "# HELP c_total C.\n# TYPE c_total counter\nc_total{a=\"1\",instance=\"a\",job=\"j\"} 1\n\
                  c_total{instance=\"b\",job=\"j\"} 2\nc_total{a=\"1\",instance=\"c\",job=\"j\"} 1\n# HELP scrape_";
    assert!(bench.page().starts_with(family), "{}", bench.page());
}

#[tokio::test]
async fn series_that_cannot_stand_in_one_family_stand_alone() {
    let histogram = "# TYPE x histogram\nx_bucket{le=\"+Inf\"} 3\nx_sum 2.5\nx_count 3\n";
    let gauge = "# TYPE x gauge\nx 1\n";
    let taken = "# TYPE x_sum gauge\nx_sum 7\n";
    for accept in [TEXT_1, OPENMETRICS, PROTOBUF] {
        let bench = Bench::new(config());
        for (target, body) in [("a", gauge), ("b", histogram), ("c", taken)] {
            bench.send(target, body).await.unwrap();
        }
        let page = bench.bytes_for(accept);
        let format = match accept {
            PROTOBUF => Format::Protobuf,
            OPENMETRICS => Format::OpenMetrics,
            _ => Format::Text,
        };
        let families = exposition::parse(format, Mode::Strict, &page).unwrap();
        let names = ["x", "x_bucket", "x_sum", "x_count"];
        let all = families.iter().flat_map(|family| &family.samples);
        let found = all.filter(|sample| names.contains(&&*sample.name)).count();
        assert_eq!(found, 5, "{accept}: {}", String::from_utf8_lossy(&page));
    }
}

#[tokio::test]
async fn samples_carry_the_time_of_their_scrape_when_told_so() {
    let bench = Bench::new(ExpositionConfig { timestamps: true, ..config() });
    bench.send("a", "x 1\nx{a=\"1\"} 2 17\nx{job=\"own\"} 3\n").await.unwrap();
    let page = bench.page();
    for line in [
        "x{instance=\"a\",job=\"j\"} 1 1000000000\n",
        "x{a=\"1\",instance=\"a\",job=\"j\"} 2 17\n",
        "x{job=\"j\",instance=\"a\",exported_job=\"own\"} 3 1000000000\n",
        "up{instance=\"a\",job=\"j\"} 1 1000000000\n",
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
    let page = bench.page_for(OPENMETRICS);
    assert!(page.contains("x{instance=\"a\",job=\"j\"} 1 1000000\n"), "{page}");
    let families = exposition::parse(Format::OpenMetrics, Mode::Strict, page.as_bytes()).unwrap();
    let stamps = families.iter().flat_map(|family| &family.samples).map(|sample| sample.timestamp);
    assert!(stamps.clone().all(|stamp| stamp == Some(1_000_000_000) || stamp == Some(17)), "{page}");
}

#[tokio::test]
async fn names_in_quotes_are_for_readers_that_know_them() {
    let bench = Bench::new(config());
    bench.send("a", "{\"a.b\"} 1\nx{\"c.d\"=\"1\"} 2\nx 3\n").await.unwrap();
    for accept in ["", "application/openmetrics-text;version=1.0.0"] {
        let page = bench.page_for(accept);
        assert!(!page.contains("{\"") && page.contains("\nx{instance=\"a\",job=\"j\"} 3\n"), "{page}");
    }
    for accept in [TEXT_1, OPENMETRICS] {
        let page = bench.page_for(accept);
        assert!(page.contains("\n{\"a.b\",") && page.contains("\nx{\"c.d\"=\"1\","), "{page}");
    }
}
