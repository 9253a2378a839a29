use std::time::{Duration, SystemTime};

use super::super::series::Point;
use super::*;

pub(in super::super) fn reading() -> Reading {
    Reading {
        seed: Seed::default(),
        external_labels: Vec::new(),
        exemplars: true,
        native_histograms: true,
        relabel: Vec::new(),
    }
}

/// Every row as PromQL writes its series, with its value and its time.
pub(in super::super) fn lines(scrape: &Scrape) -> Vec<String> {
    let line = |row: &Row| {
        let value = match row.point {
            Point::Float(value) if value.to_bits() == STALE.to_bits() => "stale".to_owned(),
            Point::Float(value) => value.to_string(),
            Point::Histogram(_) => "histogram".to_owned(),
        };
        format!("{} {value} {}", scrape.describe(row), row.timestamp)
    };
    scrape.rows.iter().map(line).collect()
}

fn event(body: &str) -> Event {
    let mut event = Event::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1000), body.to_owned());
    event.labels = [("job", "j"), ("instance", "i"), ("empty", "")].into_iter().collect();
    event
}

/// The rows but for the report.
fn read(reading: &Reading, event: &Event) -> Vec<String> {
    let (scrape, readable) = reading.read(event);
    readable.unwrap();
    let lines = lines(&scrape).into_iter();
    lines.filter(|line| !line.starts_with("up{") && !line.starts_with("scrape_")).collect()
}

#[test]
fn the_report_comes_first_and_wins() {
    let mut event = event("up{job=\"j\"} 7\nup{a=\"b\"} 8\nx 1\nx 2\nx{a=\"\"} 3\n");
    event.attributes.insert(scrape::DURATION, "0.25");
    event.attributes.insert(scrape::HONOR_LABELS, "true");
    let (scrape, _) = reading().read(&event);
    assert_eq!(
        lines(&scrape),
        [
            r#"up{instance="i", job="j"} 1 1000000"#,
            r#"scrape_duration_seconds{instance="i", job="j"} 0.25 1000000"#,
            r#"scrape_samples_scraped{instance="i", job="j"} 5 1000000"#,
            r#"scrape_samples_post_metric_relabeling{instance="i", job="j"} 5 1000000"#,
            r#"up{a="b", instance="i", job="j"} 8 1000000"#,
            r#"x{instance="i", job="j"} 1 1000000"#,
        ]
    );
}

#[test]
fn labels_of_the_target_win_unless_they_are_honoured_and_external_ones_give_way() {
    let reading = Reading {
        external_labels: vec![("job".into(), "no".into()), ("site".into(), "s".into())],
        ..reading()
    };
    let mut event =
        event("x{job=\"a\",zone=\"z\",Z=\"1\"} 1\ny{site=\"own\"} 2\nz{job=\"\",instance=\"k\"} 3\n");
    assert_eq!(
        read(&reading, &event),
        [
            r#"x{Z="1", exported_job="a", instance="i", job="j", site="s", zone="z"} 1 1000000"#,
            r#"y{instance="i", job="j", site="own"} 2 1000000"#,
            r#"z{exported_instance="k", instance="i", job="j", site="s"} 3 1000000"#,
        ]
    );
    event.attributes.insert(scrape::HONOR_LABELS, "true");
    assert_eq!(
        read(&reading, &event)[..1],
        [r#"x{Z="1", instance="i", job="a", site="s", zone="z"} 1 1000000"#]
    );
}

#[test]
fn timestamps_are_kept_where_they_mean_something_and_not_too_far_ahead() {
    let mut event = event("x 1 17\nx 2 18\nx 3 17\nfar 1 1600001\nnear 1 1600000\n");
    let own = ["17", "18", "1600000"].map(|time| time.to_owned());
    let times = |lines: Vec<String>| -> Vec<String> {
        lines.iter().map(|line| line.rsplit_once(' ').unwrap().1.to_owned()).collect()
    };
    assert_eq!(times(read(&reading(), &event)), own);
    event.attributes.insert(scrape::HONOR_TIMESTAMPS, "false");
    assert_eq!(times(read(&reading(), &event)), ["1000000"; 3]);
}

#[test]
fn what_cannot_be_read_is_a_failed_scrape() {
    let (scrape, readable) = reading().read(&event("x 1\nx{ 2\n"));
    assert!(readable.unwrap_err().to_string().contains("line 2"));
    assert_eq!(lines(&scrape)[0], r#"up{instance="i", job="j"} 0 1000000"#);
    assert!(scrape.rows.iter().all(|row| row.origin == Origin::Report));
}

#[test]
fn rules_drop_rename_and_relabel_the_report_too() {
    let rules: Vec<relabel::RelabelSettings> = serde_json::from_str(
        r#"[{ "source_labels": ["__name__"], "regex": "scrape_.*|a", "action": "drop" },
            { "source_labels": ["__name__"], "regex": "b", "target_label": "__name__", "replacement": "c" },
            { "target_label": "site", "replacement": "s" },
            { "regex": "instance", "action": "labeldrop" }]"#,
    )
    .unwrap();
    let reading = Reading { relabel: relabel::compile(rules).unwrap(), ..reading() };
    let (scrape, _) = reading.read(&event("a 1\nb 2\n"));
    assert_eq!(lines(&scrape), [r#"up{job="j", site="s"} 1 1000000"#, r#"c{job="j", site="s"} 2 1000000"#]);
}

fn openmetrics(body: &str) -> Event {
    let mut event = event(body);
    event.attributes.insert(scrape::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0");
    event
}

#[test]
fn series_know_their_family_when_they_began_and_an_example() {
    let body = "# TYPE c_seconds counter\n# HELP c_seconds Help.\n# UNIT c_seconds seconds\nc_seconds_total{a=\"1\"} 5 # {trace_id=\"t\"} 0.5 999.5\n\
        c_seconds_created{a=\"1\"} 900.25\nc_seconds_total{a=\"2\"} 6\n\
        # TYPE h histogram\nh_bucket{le=\"1.0\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_count 2\nh_sum 3\nh_created 800\n\
        # TYPE g gauge\ng 1\nplain_total 3\n# EOF\n";
    let (scrape, readable) = reading().read(&openmetrics(body));
    readable.unwrap();
    let row = |name: &str| {
        let found = scrape.rows.iter().find(|row| scrape.describe(row).starts_with(name));
        found.unwrap_or_else(|| panic!("{name}: {:?}", lines(&scrape)))
    };
    let family = |name: &str| {
        let known = scrape.metadata[row(name).metadata? as usize];
        let text = |symbol| scrape.symbols.get(symbol).to_owned();
        Some((text(known.family), known.kind, text(known.help), text(known.unit)))
    };
    let c = Some(("c_seconds".into(), MetricKind::Counter, "Help.".into(), "seconds".into()));
    assert_eq!((family("c_seconds_total{a=\"1\""), family("c_seconds_created")), (c.clone(), c));
    assert_eq!(family("h_bucket").map(|known| known.1), Some(MetricKind::Histogram));
    assert_eq!(family("g{").map(|known| known.1), Some(MetricKind::Gauge));
    assert_eq!(family("plain_total"), None);
    let created = |name| row(name).created;
    assert_eq!(
        (created("c_seconds_total{a=\"1\""), created("c_seconds_total{a=\"2\""), created("g{")),
        (900_250, 0, 0)
    );
    assert_eq!([created("h_bucket"), created("h_count"), created("h_sum")], [800_000; 3]);
    let exemplars = &scrape.exemplars[row("c_seconds_total{a=\"1\"").exemplars.range()];
    assert_eq!((exemplars[0].value, exemplars[0].timestamp), (0.5, 999_500));
}

#[test]
fn a_created_is_of_its_own_family_and_the_first_counts() {
    let (scrape, readable) = reading().read(&event(
        "a_b_total 1\na_b_created 5\na_total 1\na_created 9\na_created 10\nh_bucket{le=\"1\"} 1\nh_created{le=\"1\"} 7\n",
    ));
    readable.unwrap();
    let began: Vec<_> = scrape.rows.iter().map(|row| (scrape.symbols.get(row.name), row.created)).collect();
    assert!(
        began.ends_with(&[
            ("a_b_total", 5000),
            ("a_b_created", 0),
            ("a_total", 9000),
            ("a_created", 0),
            ("h_bucket", 7000),
            ("h_created", 0)
        ]),
        "{began:?}"
    );
}

#[test]
fn labels_of_the_target_that_are_too_much_on_every_series_are_refused_before_they_take_memory() {
    let body: String = (0..20_000).map(|n| format!("x{n} 1\n")).collect();
    let mut event = event(&body);
    for n in 0..256 {
        event.labels.insert(format!("l{n}"), "v".repeat(64 << 10));
    }
    let (scrape, readable) = reading().read(&event);
    assert!(readable.unwrap_err().to_string().contains("more than 512MiB"));
    assert!(scrape.rows.iter().all(|row| row.origin == Origin::Report));
}

/// A field of protobuf that holds a message.
fn message(number: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let content = parts.concat();
    [vec![number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
}

#[test]
fn protobuf_says_when_a_counter_began_and_has_native_histograms_or_classic_ones() {
    let double = |number: u8, value: f64| [vec![number << 3 | 1], value.to_le_bytes().to_vec()].concat();
    let integer = |number: u8, value: u8| vec![number << 3, value];
    let counter = message(3, &[double(1, 5.0), message(3, &[integer(1, 100)])]);
    let c = message(0, &[message(1, &[b"c".to_vec()]), integer(3, 0), message(4, &[counter])]);
    // Two observations: one in the bucket of zero, one in a native bucket.
    let native = [integer(1, 2), double(2, 1.0), double(6, 0.1), integer(7, 1)];
    let bucket = [message(12, &[integer(1, 0), integer(2, 1)]), message(13, &[vec![2]])];
    // Field 16, whose number takes two bytes.
    let exemplar = |seconds: u8| {
        let exemplar = message(0, &[double(2, 1.0), message(3, &[integer(1, seconds)])]);
        [vec![0x82, 0x01], exemplar[1..].to_vec()].concat()
    };
    let histogram = message(7, &[native.concat(), bucket.concat(), exemplar(30), exemplar(20)]);
    let h = message(0, &[message(1, &[b"h".to_vec()]), integer(3, 4), message(4, &[histogram])]);
    // A family has its length before it, and no number.
    let delimited = |family: &[u8]| family[1..].to_vec();
    let mut event = event("");
    event.body = [delimited(&c), delimited(&h)].concat().into();
    let content_type =
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
    event.attributes.insert(scrape::CONTENT_TYPE, content_type);
    let (scrape, readable) = reading().read(&event);
    readable.unwrap();
    let named = |name: &str| scrape.rows.iter().find(|row| scrape.symbols.get(row.name) == name).unwrap();
    assert_eq!((named("c").created, named("h").created), (100_000, 0));
    assert!(matches!(named("h").point, Point::Histogram(0)), "{:?}", lines(&scrape));
    let times: Vec<_> = scrape.exemplars.iter().map(|exemplar| exemplar.timestamp).collect();
    assert_eq!(times, [20_000, 30_000], "in the order of time");
    assert_eq!((scrape.histograms[0].count, scrape.histograms[0].positive.counts.clone()), (2.0, vec![1.0]));

    let classic = Reading { native_histograms: false, ..reading() };
    let series = read(&classic, &event);
    assert!(series.iter().any(|line| line.starts_with("h_count{")), "{series:?}");
    assert!(series.iter().any(|line| line.starts_with("h_bucket{") && line.contains("+Inf")), "{series:?}");
}
