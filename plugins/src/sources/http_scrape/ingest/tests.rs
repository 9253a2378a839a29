//! The counts of Prometheus' scrape loop, of one scrape after the other.

use prometheus_streams_core::values::Size;

use super::*;
use crate::exposition::relabel::{RelabelSettings, Rule, compile};

const TARGET: [(&str, &str); 2] = [("instance", "i"), ("job", "j")];
const NONE: ScrapeLimits = ScrapeLimits {
    body_size: Size(1 << 20),
    samples: 0,
    labels: 0,
    label_name_length: 0,
    label_value_length: 0,
};
/// Milliseconds since 1970.
const NOW: u64 = 1_700_000_000_000;

/// A target that is scraped again and again.
struct Scraped {
    memory: Memory,
    rules: Vec<Rule>,
    limits: ScrapeLimits,
    honor_timestamps: bool,
}

impl Scraped {
    fn new(limits: ScrapeLimits, rules: &str) -> Self {
        let settings: Vec<RelabelSettings> = serde_json::from_str(rules).unwrap();
        Self { memory: Memory::default(), rules: compile(settings).unwrap(), limits, honor_timestamps: true }
    }

    fn plain() -> Self {
        Self::new(NONE, "[]")
    }

    fn ingest(&mut self, body: &str) -> (Counts, Result<String, String>) {
        let terms = Terms {
            relabeling: Relabeling { target: &TARGET, honor_labels: false, rules: &self.rules },
            limits: &self.limits,
            honor_timestamps: self.honor_timestamps,
            native_histograms: false,
            classic_histograms: false,
        };
        let body = Bytes::copy_from_slice(body.as_bytes());
        let (counts, result) = ingest(Format::Text, &body, &terms, &mut self.memory, NOW);
        let text = |body: Bytes| String::from_utf8(body.to_vec()).unwrap();
        (counts, result.map(text).map_err(|error| error.to_string()))
    }

    /// Samples scraped, samples left, series added.
    fn counts(&mut self, body: &str) -> [usize; 3] {
        let Counts { scraped, kept, added, .. } = self.ingest(body).0;
        [scraped, kept, added]
    }
}

#[test]
fn a_body_passes_as_it_came_and_is_not_even_copied() {
    let body = Bytes::from_static(b"# TYPE a gauge\na{job=\"x\"} 1 17\n");
    let terms = Terms {
        relabeling: Relabeling { target: &TARGET, honor_labels: false, rules: &[] },
        limits: &NONE,
        honor_timestamps: true,
        native_histograms: false,
        classic_histograms: false,
    };
    let (_, result) = ingest(Format::Text, &body, &terms, &mut Memory::default(), NOW);
    assert_eq!(result.unwrap().as_ptr(), body.as_ptr());
}

#[test]
fn a_series_is_new_that_was_not_in_the_last_good_scrape() {
    let mut target = Scraped::plain();
    assert_eq!(target.counts("a 1\nb 2\n"), [2, 2, 2]);
    assert_eq!(target.counts("a 3\nb 4\n"), [2, 2, 0]);
    assert_eq!(target.counts("b 3\na 4\n"), [2, 2, 0], "the order is of no matter");
    assert_eq!(target.counts("a 1\n"), [1, 1, 0]);
    assert_eq!(target.counts("a 1\nb 2\nc 3\n"), [3, 3, 2], "what vanished and comes back is new");
    assert_eq!(target.counts("z 0\na 1\nb 2\nc 3\n"), [4, 4, 1]);
    // Prometheus knows a series by how it is written.
    assert_eq!(target.counts("z 0\na 1\nb 2\nc{} 3\n"), [4, 4, 1]);
    assert_eq!(target.counts("# nothing\n"), [0, 0, 0]);
    assert_eq!(target.counts("a 1\n"), [1, 1, 1]);
}

#[test]
fn an_empty_answer_forgets_nothing() {
    let mut target = Scraped::plain();
    assert_eq!(target.counts("a 1\nb 2\n"), [2, 2, 2]);
    assert_eq!(target.ingest(""), (Counts::default(), Ok(String::new())));
    assert_eq!(target.counts("a 1\nb 2\n"), [2, 2, 0]);
}

#[test]
fn a_scrape_that_fails_is_counted_up_to_its_error_and_remembered_beside_the_last_good_one() {
    let mut target = Scraped::plain();
    assert_eq!(target.counts("a 1\nb 2\n"), [2, 2, 2]);
    let (counts, result) = target.ingest("a 1\nc 3\nd {\ne 5\n");
    assert_eq!([counts.scraped, counts.kept, counts.added], [2, 2, 1]);
    assert!(result.unwrap_err().starts_with("line 3, column "));
    assert_eq!(target.counts("a 1\nb 2\nc 3\nd 4\n"), [4, 4, 1], "c was seen in the scrape that failed");
    assert_eq!(target.counts("a 1\nb 2\nc 3\nd 4\n"), [4, 4, 0]);
}

#[test]
fn failing_scrapes_with_ever_new_series_do_not_fill_the_memory() {
    let mut target = Scraped::plain();
    for round in 0..100 {
        let series: String = (0..100).map(|n| format!("a{{n=\"{round}_{n}\"}} 1\n")).collect();
        assert_eq!(target.counts(&format!("{series}b b\n")), [100, 100, 100]);
        assert!(target.memory.len() <= 1_100, "{}", target.memory.len());
    }
}

#[test]
fn of_a_series_that_comes_twice_the_first_counts_unless_it_says_when_it_was() {
    let mut target = Scraped::plain();
    for added in [1, 0, 0] {
        let counts = target.ingest("a 1\na 2\na 3\n").0;
        assert_eq!(counts, Counts { scraped: 3, kept: 3, added, duplicates: 2 });
    }
    assert_eq!(target.ingest("a 1 17\na 2 18\n").0.duplicates, 0);
    assert_eq!(target.ingest("a 1 17\na 2\n").0.duplicates, 1);
    target.honor_timestamps = false;
    assert_eq!(target.ingest("a 1 17\na 2 18\n").0.duplicates, 1);
    // Two spellings are two series until they are stored.
    assert_eq!(target.ingest("a 1\na{} 2\n").0, Counts { scraped: 2, kept: 2, added: 1, duplicates: 0 });
}

#[test]
fn more_samples_than_may_be_fail_the_scrape_and_all_are_counted() {
    let mut target = Scraped::new(ScrapeLimits { samples: 2, ..NONE }, "[]");
    assert_eq!(target.ingest("a 1\nb 2\n").1, Ok("a 1\nb 2\n".to_owned()));
    assert!(target.ingest("a 1\na 2\nb 2\n").1.is_ok(), "duplicates do not count");
    let (counts, result) = target.ingest("a 1\nc 2\nd 3\ne 4\n");
    assert_eq!([counts.scraped, counts.kept, counts.added], [4, 4, 1]);
    assert_eq!(result, Err("sample limit exceeded".to_owned()));
    let (counts, result) = target.ingest("a 1\nc 2\nd 3\nx x\n");
    assert_eq!([counts.scraped, counts.kept, counts.added], [3, 3, 0]);
    assert!(result.unwrap_err().starts_with("line 4"), "the first error is that of the parser");
    assert_eq!(target.counts("c 1\nd 2\n"), [2, 2, 1]);
}

const DROP_B: &str = r#"[{"source_labels":["__name__"],"regex":"b.*","action":"drop"}]"#;

#[test]
fn relabelling_comes_before_the_limit_and_what_it_drops_is_never_new() {
    let mut target = Scraped::new(ScrapeLimits { samples: 1, ..NONE }, DROP_B);
    for added in [1, 0, 0] {
        let (counts, result) = target.ingest("a 1\nb 2\nbb 3\n");
        assert_eq!(counts, Counts { scraped: 3, kept: 1, added, duplicates: 0 });
        assert_eq!(result, Ok("a 1\n".to_owned()), "also when it is remembered");
    }
    assert_eq!(target.ingest("b 2\na{job=\"x\"} 1\n").1, Ok("a{exported_job=\"x\"} 1\n".to_owned()));
    assert_eq!(target.ingest("b 3\na{job=\"x\"} 2\n").1, Ok("a{exported_job=\"x\"} 2\n".to_owned()));
}

#[test]
fn relabelling_may_spoil_a_series_and_then_fails_the_scrape() {
    let mut target = Scraped::new(
        NONE,
        r#"[{"source_labels":["x"],"regex":"()","target_label":"y"},
        {"source_labels":["x"],"regex":"1","target_label":"__name__","replacement":""}]"#,
    );
    let (counts, result) = target.ingest("a 1\na{x=\"1\"} 1\n");
    assert_eq!(
        ([counts.scraped, counts.kept, counts.added], result),
        ([2, 1, 1], Err("missing metric name (__name__ label)".to_owned()))
    );
}

#[test]
fn the_limits_for_labels_are_those_of_prometheus() {
    let failed = |limits: ScrapeLimits, body: &str| Scraped::new(limits, "[]").ingest(body).1.err();
    // Name, instance and job count.
    let limits = ScrapeLimits { labels: 4, ..NONE };
    assert_eq!(failed(limits, "a{x=\"1\",y=\"\"} 1\n"), None);
    assert_eq!(
        failed(limits, "a{x=\"1\",y=\"2\"} 1\n").as_deref(),
        Some("label_limit exceeded (metric: a, number of labels: 5, limit: 4)")
    );
    let limits = ScrapeLimits { label_name_length: 8, label_value_length: 3, ..NONE };
    assert_eq!(failed(limits, "a{x=\"123\"} 1\n"), None);
    assert_eq!(
        failed(limits, "a{x=\"1234\"} 1\n").as_deref(),
        Some(
            "label_value_length_limit exceeded (metric: a, label name: x, value: \"1234\", length: 4, limit: 3)"
        )
    );
    assert_eq!(
        failed(limits, "a{long_name=\"1\"} 1\n").as_deref(),
        Some("label_name_length_limit exceeded (metric: a, label name: long_name, length: 9, limit: 8)")
    );
    assert!(failed(limits, "aaaa 1\n").unwrap().contains("label name: __name__"), "the name is a label too");
    // Prometheus takes the beginning of what it shows.
    let long = failed(limits, &format!("a{{x=\"{}\"}} 1\n", "ä".repeat(60))).unwrap();
    assert!(long.contains(&format!("value: \"{}\", length: 120", "ä".repeat(50))), "{long}");
}

#[test]
fn limits_for_labels_change_no_body_and_ask_once() {
    let limits = ScrapeLimits { labels: 5, ..NONE };
    let mut target = Scraped::new(limits, "[]");
    let body = "a{job=\"x\"} 1\n";
    for added in [1, 0] {
        let (counts, result) = target.ingest(body);
        assert_eq!((counts.added, result), (added, Ok(body.to_owned())));
    }
    // A series that was let in stays in.
    target.limits.labels = 1;
    assert_eq!(target.ingest(body).1, Ok(body.to_owned()));
    let (counts, result) = target.ingest("b 1\na{job=\"x\"} 1\n");
    assert_eq!(([counts.scraped, counts.kept, counts.added], result.is_err()), ([1, 0, 0], true));
}

#[test]
fn samples_from_the_far_future_are_left_out_and_counted() {
    let mut target = Scraped::plain();
    let edge = NOW + 600_000;
    let body = format!("a 1 {edge}\nb 2 {}\nc 3\n", edge + 1);
    for added in [2, 0, 0] {
        let (counts, result) = target.ingest(&body);
        assert_eq!([counts.scraped, counts.kept, counts.added], [3, 3, added]);
        assert_eq!(result, Ok(format!("a 1 {edge}\nc 3\n")));
    }
    assert_eq!(target.counts("a 1\nb 2\nc 3\n"), [3, 3, 1]);
    assert_eq!(target.counts(&body), [3, 3, 0], "b is known, though it is not taken");
    target.honor_timestamps = false;
    assert_eq!(target.ingest(&body).1, Ok(body.clone()));

    let mut relabelled = Scraped::new(NONE, r#"[{"target_label":"x","replacement":"y"}]"#);
    assert_eq!(relabelled.ingest(&body).1, Ok(format!("a{{x=\"y\"}} 1 {edge}\nc{{x=\"y\"}} 3\n")));
}

#[test]
fn what_only_we_know_of_a_target_is_not_for_relabelling() {
    let labels: Labels =
        [("job", "j"), ("publisher", "site1"), ("zone", ""), ("instance", "i")].into_iter().collect();
    assert_eq!(visible(&labels), TARGET);
}
