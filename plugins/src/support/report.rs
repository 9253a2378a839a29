//! What a sink that lands scrapes makes of an event: the families that the target exposed, and before
//! them those that Prometheus adds to every scrape, failed ones too: `up` and its kin.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_streams_core::event::Event;

use super::scrape;
use crate::exposition::{self, Family, Format, MetricKind, Mode, ParseError, Sample};

/// The name under which a scrape says when it was taken.
pub const TIMESTAMP: &str = "scrape_timestamp_seconds";

/// Why the body of an event cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The target answered in a format that is not text.
    #[error("cannot read the scrape: {0} is not a text format")]
    Protobuf(String),
    /// The target did not say what it answered, or said that it is text; and it is not.
    #[error("cannot read the scrape as text format 0.0.4: {0}")]
    Text(ParseError),
    /// The target said that its answer is something else, and it cannot be read as text.
    #[error("cannot read the scrape as text format 0.0.4 (the target says it is {1:?}): {0}")]
    OtherText(ParseError, String),
}

/// The families of a scrape, without the labels of its target, and whether the body could be read. If
/// not, they are those of a failed scrape, as for a Prometheus that scrapes such a target: `up 0`.
///
/// The report comes first: `up`, `scrape_samples_scraped`, `scrape_timestamp_seconds` and, where known,
/// `scrape_duration_seconds`. Where the target exposes these series itself, its own are left out.
pub fn families(event: &Event) -> (Vec<Family<'_>>, Result<(), Unreadable>) {
    let (mut scraped, readable) = match read(event) {
        Ok(scraped) => (scraped, Ok(())),
        Err(error) => (Vec::new(), Err(error)),
    };
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
    let content_type = event.attributes.get(scrape::CONTENT_TYPE).unwrap_or_default();
    if content_type.starts_with("application/vnd.google.protobuf") {
        return Err(Unreadable::Protobuf(content_type.to_owned()));
    }
    exposition::parse(Format::Text, Mode::Compat, &event.body).map_err(|error| {
        if content_type.is_empty() || content_type.starts_with("text/plain") {
            Unreadable::Text(error)
        } else {
            Unreadable::OtherText(error, content_type.to_owned())
        }
    })
}

/// The time of the scrape is in it because neither a gateway nor a page tells it: without it nobody
/// could tell an old value from a new one.
fn report<'a>(event: &Event, is_readable: bool, scraped: &[Family<'_>]) -> Vec<Family<'a>> {
    let is_up = scrape::is_up(event) && is_readable;
    let samples: usize = scraped.iter().map(|family| family.samples.len()).sum();
    let mut families = vec![
        gauge("up", "1 if the last scrape of the target succeeded.", f64::from(u8::from(is_up))),
        gauge("scrape_samples_scraped", "Samples that the target exposed.", samples as f64),
        gauge(
            TIMESTAMP,
            "When the target was scraped, in seconds since 1970.",
            unix_seconds(event.timestamp),
        ),
    ];
    families.extend(scrape::duration(&event.attributes).map(|duration| {
        gauge("scrape_duration_seconds", "How long the scrape took.", duration.as_secs_f64())
    }));
    families
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
        # HELP scrape_samples_scraped Samples that the target exposed.\n# TYPE scrape_samples_scraped gauge\n\
        scrape_samples_scraped 1\n\
        # HELP scrape_timestamp_seconds When the target was scraped, in seconds since 1970.\n\
        # TYPE scrape_timestamp_seconds gauge\nscrape_timestamp_seconds 1500.25\n\
        # HELP scrape_duration_seconds How long the scrape took.\n# TYPE scrape_duration_seconds gauge\n\
        scrape_duration_seconds 0.5\n";

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
    fn a_failed_scrape_is_its_report_and_nothing_else() {
        let mut failed = event("x 7\n");
        failed.attributes.insert(scrape::ERROR, "connection refused");
        failed.attributes.remove(scrape::DURATION);
        let (page, readable) = page(&failed);
        let lines: Vec<_> = page.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, ["up 0", "scrape_samples_scraped 0", "scrape_timestamp_seconds 1500.25"]);
        assert_eq!(readable, Ok(()));
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
        html.attributes.insert(scrape::CONTENT_TYPE, "application/vnd.google.protobuf; encoding=delimited");
        let error = page(&html).1.unwrap_err();
        assert!(error.contains("protobuf"), "{error}");
    }

    #[test]
    fn our_own_series_win_over_scraped_ones() {
        let body =
            "# HELP up Theirs.\n# TYPE up histogram\nup_sum 3\nup_count 3\nup{job=\"a\"} 4\nup{b=\"\"} 5\n";
        let (page, _) = page(&event(body));
        assert!(page.contains("# TYPE up gauge\nup_sum 3\nup_count 3\nup{job=\"a\"} 4\n"), "{page}");
        assert!(page.contains("up 1\n") && !page.contains("Theirs") && !page.contains(" 5\n"), "{page}");
    }
}
