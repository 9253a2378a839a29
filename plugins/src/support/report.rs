//! What a sink that lands scrapes makes of an event: the families that the target exposed, and before
//! them those that Prometheus adds to every scrape, failed ones too: `up` and its kin.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_streams_core::event::Event;
use prometheus_streams_core::values::Size;

use super::scrape;
use crate::exposition::{self, Family, Format, MetricKind, Mode, ParseError, Sample};

/// The name under which a scrape says when it was taken.
pub const TIMESTAMP: &str = "scrape_timestamp_seconds";

/// Why the body of an event cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not of the format that the target said, or is text if it did not say.
    #[error("cannot read the scrape as {0}: {1}")]
    Broken(&'static str, ParseError),
    /// The target said that its answer is something else, and it cannot be read as text.
    #[error("cannot read the scrape as {TEXT} (the target says it is {1:?}): {0}")]
    Other(ParseError, String),
    /// With the labels of the target on every series it is larger than that.
    #[error("cannot read the scrape: the labels of the target, on each of its series, are more than {0}")]
    TooLarge(Size),
}

const TEXT: &str = "text format 0.0.4";

/// The name of the series that says whether the scrape succeeded.
pub const UP: &str = "up";

/// Something that Prometheus says of every scrape, as a series of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fact {
    /// The name of the series.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Its value.
    pub value: f64,
}

/// The families of a scrape in the types of text format 0.0.4, without the labels of its target, and whether the body could be read. If
/// not, they are those of a failed scrape, as for a Prometheus that scrapes such a target: `up 0`.
///
/// The report comes first: `up`, `scrape_duration_seconds`, `scrape_samples_scraped`,
/// `scrape_samples_post_metric_relabeling`, `scrape_series_added` and `scrape_timestamp_seconds`, as far as they
/// are known. Where the target exposes these series itself, its own are left out. What a job has pushed has no report:
/// a Prometheus that scrapes a Push Gateway has none for its groups either.
pub fn families(event: &Event) -> (Vec<Family<'_>>, Result<(), Unreadable>) {
    let (mut scraped, readable) = match read(event) {
        Ok(scraped) => (scraped, Ok(())),
        Err(error) => (Vec::new(), Err(error)),
    };
    if !scrape::honors_timestamps(event) {
        forget_timestamps(&mut scraped);
    }
    let mut families = report(event, readable.is_ok(), &scraped);
    for family in &mut scraped {
        if families.iter().any(|own| own.name == family.name) {
            make_way(family);
        }
    }
    families.append(&mut scraped);
    (families, readable)
}

fn read(event: &Event) -> Result<Vec<Family<'_>>, Unreadable> {
    if !scrape::is_up(event) {
        return Ok(Vec::new());
    }
    exposition::parse(format(event), Mode::Compat, &event.body).map_err(|error| unreadable(event, error))
}

/// The format of a scrape: what the target said, or text if it did not say.
pub fn format(event: &Event) -> Format {
    content_type(event).and_then(Format::from_content_type).unwrap_or(Format::Text)
}

/// What an error in the body of an event means to whoever looks for it.
pub fn unreadable(event: &Event, error: ParseError) -> Unreadable {
    match content_type(event).map(|said| Format::from_content_type(said).ok_or(said)) {
        Some(Err(said)) if !said.is_empty() => Unreadable::Other(error, said.to_owned()),
        Some(Ok(Format::OpenMetrics)) => Unreadable::Broken("OpenMetrics", error),
        Some(Ok(Format::Protobuf)) => Unreadable::Broken("protobuf", error),
        _ => Unreadable::Broken(TEXT, error),
    }
}

fn content_type(event: &Event) -> Option<&str> {
    event.attributes.get(scrape::CONTENT_TYPE)
}

fn forget_timestamps(families: &mut [Family<'_>]) {
    for family in families {
        family.samples.iter_mut().for_each(|sample| sample.timestamp = None);
        family.histograms.iter_mut().for_each(|histogram| histogram.timestamp = None);
    }
}

/// What Prometheus says of a scrape: `up` first, then the others as far as they are known. What the scrape
/// does not say, as one of an older poller, is that it `counted` so many samples in its body. Of what was pushed it
/// says nothing.
pub fn facts(event: &Event, counted: usize) -> Vec<Fact> {
    if scrape::is_pushed(event) {
        return Vec::new();
    }
    let fact = |name| scrape::number(&event.attributes, name).map(|number| number as f64);
    let samples = fact(scrape::SAMPLES_SCRAPED).unwrap_or(counted as f64);
    let facts = [
        (
            UP,
            "1 if the last scrape of the target succeeded.",
            Some(f64::from(u8::from(scrape::is_up(event)))),
        ),
        (
            "scrape_duration_seconds",
            "How long the scrape took.",
            scrape::duration(&event.attributes).map(|duration| duration.as_secs_f64()),
        ),
        ("scrape_samples_scraped", "Samples that the target exposed.", Some(samples)),
        (
            "scrape_samples_post_metric_relabeling",
            "Samples that were left after relabelling.",
            fact(scrape::SAMPLES_POST_RELABELING).or(Some(samples)),
        ),
        ("scrape_series_added", "Series that were new in the scrape.", fact(scrape::SERIES_ADDED)),
    ];
    facts.into_iter().filter_map(|(name, help, value)| Some(Fact { name, help, value: value? })).collect()
}

/// [`facts`] for a place that does not tell when a sample was taken, and so with the time of the scrape: without it
/// nobody could tell an old value from a new one. A body that is not readable is a failed scrape.
pub fn dated_facts(event: &Event, is_readable: bool, counted: usize) -> Vec<Fact> {
    let mut facts = facts(event, counted);
    let Some(up) = facts.first_mut() else { return facts };
    if !is_readable {
        up.value = 0.0;
    }
    let help = "When the target was scraped, in seconds since 1970.";
    facts.push(Fact { name: TIMESTAMP, help, value: unix_seconds(event.timestamp) });
    facts
}

fn report<'a>(event: &Event, is_readable: bool, scraped: &[Family<'_>]) -> Vec<Family<'a>> {
    let counted = scraped.iter().map(|family| family.samples.len() + family.histograms.len()).sum();
    let facts = dated_facts(event, is_readable, counted).into_iter();
    facts.map(|Fact { name, help, value }| gauge(name, help, value)).collect()
}

fn gauge<'a>(name: &'a str, help: &'a str, value: f64) -> Family<'a> {
    let samples = vec![Sample::new(name, value)];
    Family { help: Some(help.into()), samples, ..Family::new(name, MetricKind::Gauge) }
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A scraped family of one of our names takes over its kind, and loses the series that is ours.
fn make_way(family: &mut Family<'_>) {
    family.kind = MetricKind::Gauge;
    family.help = None;
    let name = family.name.clone();
    let is_ours =
        |sample: &Sample<'_>| sample.name == name && sample.labels.iter().all(|(_, value)| value.is_empty());
    family.samples.retain(|sample| !is_ours(sample));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const REPORT: &str = "\
        # HELP up 1 if the last scrape of the target succeeded.\n# TYPE up gauge\nup 1\n\
        # HELP scrape_duration_seconds How long the scrape took.\n# TYPE scrape_duration_seconds gauge\n\
        scrape_duration_seconds 0.5\n\
        # HELP scrape_samples_scraped Samples that the target exposed.\n# TYPE scrape_samples_scraped gauge\n\
        scrape_samples_scraped 1\n\
        # HELP scrape_samples_post_metric_relabeling Samples that were left after relabelling.\n\
        # TYPE scrape_samples_post_metric_relabeling gauge\nscrape_samples_post_metric_relabeling 1\n\
        # HELP scrape_timestamp_seconds When the target was scraped, in seconds since 1970.\n\
        # TYPE scrape_timestamp_seconds gauge\nscrape_timestamp_seconds 1500.25\n";

    fn event(body: &'static str) -> Event {
        let mut event = Event::new(UNIX_EPOCH + Duration::from_millis(1_500_250), body);
        event.attributes.insert(scrape::DURATION, "0.5");
        event
    }

    fn page(event: &Event) -> (String, Result<(), String>) {
        let (families, readable) = families(event);
        let mut page = Vec::new();
        exposition::encode(&families, &mut page);
        (String::from_utf8(page).unwrap(), readable.map_err(|error| error.to_string()))
    }

    #[test]
    fn the_report_comes_with_every_scrape() {
        assert_eq!(page(&event("x 7\n")), (format!("{REPORT}# TYPE x untyped\nx 7\n"), Ok(())));
    }

    #[test]
    fn what_was_pushed_comes_as_it_is() {
        let mut pushed = event("up 7\n");
        pushed.attributes.insert(scrape::PUSHED, "true");
        assert_eq!(page(&pushed), ("# TYPE up untyped\nup 7\n".to_owned(), Ok(())));
    }

    #[test]
    fn a_failed_scrape_is_its_report_and_nothing_else() {
        let mut failed = event("x 7\n");
        failed.attributes.insert(scrape::ERROR, "connection refused");
        failed.attributes.remove(scrape::DURATION);
        let (page, readable) = page(&failed);
        assert_eq!(
            samples(&page),
            [
                "up 0",
                "scrape_samples_scraped 0",
                "scrape_samples_post_metric_relabeling 0",
                "scrape_timestamp_seconds 1500.25"
            ]
        );
        assert_eq!(readable, Ok(()));
    }

    fn samples(page: &str) -> Vec<&str> {
        page.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn what_the_poller_counted_is_believed() {
        let mut failed = event("");
        for (name, value) in [
            (scrape::ERROR, "sample limit exceeded"),
            (scrape::SAMPLES_SCRAPED, "9"),
            (scrape::SAMPLES_POST_RELABELING, "7"),
            (scrape::SERIES_ADDED, "3"),
        ] {
            failed.attributes.insert(name, value);
        }
        assert_eq!(
            samples(&page(&failed).0),
            [
                "up 0",
                "scrape_duration_seconds 0.5",
                "scrape_samples_scraped 9",
                "scrape_samples_post_metric_relabeling 7",
                "scrape_series_added 3",
                "scrape_timestamp_seconds 1500.25"
            ]
        );
    }

    #[test]
    fn timestamps_that_mean_nothing_are_left_out() {
        let mut event = event("x 7 17\n");
        assert!(page(&event).0.ends_with("x 7 17\n"));
        event.attributes.insert(scrape::HONOR_TIMESTAMPS, "false");
        assert!(page(&event).0.ends_with("x 7\n"));
    }

    #[test]
    fn what_cannot_be_read_is_down_and_says_where() {
        let (text, readable) = page(&event("x 7\nx y\n"));
        assert!(text.contains("up 0\n") && !text.contains("\nx"), "{text}");
        let error = readable.unwrap_err();
        assert!(
            error.starts_with("cannot read the scrape as text format 0.0.4: line 2, column 3"),
            "{error}"
        );

        let mut html = event("<html>\n");
        html.attributes.insert(scrape::CONTENT_TYPE, "text/html");
        let error = page(&html).1.unwrap_err();
        assert!(error.contains("(the target says it is \"text/html\"): line 1, column 1"), "{error}");
    }

    #[test]
    fn the_other_formats_land_as_text_has_them() {
        let mut openmetrics = event(
            "# TYPE c counter\nc_total 1 # {t=\"x\"} 1\nc_created 2\n# TYPE i info\ni_info{v=\"1\"} 1\n\
             # TYPE u unknown\nu 3\n# EOF\n",
        );
        let content_type = "application/openmetrics-text; version=1.0.0";
        openmetrics.attributes.insert(scrape::CONTENT_TYPE, content_type);
        let (text, readable) = page(&openmetrics);
        assert_eq!(readable, Ok(()));
        for line in [
            "# TYPE c_total counter\nc_total 1\n",
            "# TYPE c_created gauge\nc_created 2\n",
            "# TYPE i_info gauge\ni_info{v=\"1\"} 1\n",
            "# TYPE u untyped\nu 3\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(!text.contains("# {") && !text.contains("EOF"), "{text}");
        openmetrics.body = "c_total 1\n".into();
        let error = page(&openmetrics).1.unwrap_err();
        assert!(error.starts_with("cannot read the scrape as OpenMetrics: line 2"), "{error}");
    }

    #[test]
    fn our_own_series_win_over_scraped_ones() {
        let body =
            "# HELP up Theirs.\n# TYPE up histogram\nup_sum 3\nup_count 3\nup{job=\"a\"} 4\nup{b=\"\"} 5\n";
        let (page, _) = page(&event(body));
        assert!(
            page.contains("# TYPE up gauge\nup{job=\"a\"} 4\n") && page.contains("\nup_sum 3\n"),
            "{page}"
        );
        assert!(page.contains("up 1\n") && !page.contains("Theirs") && !page.contains(" 5\n"), "{page}");
    }
}
