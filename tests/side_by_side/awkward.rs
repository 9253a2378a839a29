//! Targets that are awkward on purpose: each a page that a scraper can get wrong.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::targets::{Behaviour, Targets};

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Pages whose text does not depend on the time: name, content type, body.
const PAGES: &[(&str, &str, &str)] = &[
    (
        "numbers",
        TEXT,
        "a NaN\nb +Inf\nc -Inf\nd -0\ne 1e-310\nf 9007199254740993\ng 1e21\nk .5\ni 1e-400\nj +7\n",
    ),
    (
        "types",
        TEXT,
        "# TYPE t_counter counter\nt_counter 1\n# TYPE t_gauge gauge\nt_gauge 2\n# TYPE t_untyped untyped\nt_untyped 3\nt_nothing 4\n",
    ),
    (
        "histogram",
        TEXT,
        "# HELP h A histogram.\n# TYPE h histogram\nh_bucket{le=\"0.5\"} 1\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 2.5\nh_count 3\n",
    ),
    (
        "odd_histogram",
        TEXT,
        "# TYPE oh histogram\noh_bucket{le=\"1\"} 2.5\noh_bucket{le=\"abc\"} 1\noh_sum 1\n",
    ),
    (
        "summary",
        TEXT,
        "# TYPE s summary\ns{quantile=\"0.5\"} 1\ns{quantile=\"0.99\"} NaN\ns_sum 2\ns_count 3\n",
    ),
    (
        "own_labels",
        TEXT,
        "ol{job=\"theirs\",instance=\"mine\"} 1\nol{exported_job=\"x\",job=\"y\"} 2\nol{job=\"\"} 3\n",
    ),
    ("duplicates", TEXT, "dup 1\ndup 2\ndup{a=\"\"} 3\ndup{a=\"1\"} 4\n"),
    ("empty_labels", TEXT, "el{a=\"\",b=\"1\"} 1\nel{} 2\n"),
    (
        "escapes",
        TEXT,
        "# HELP esc Back\\\\slash, and\\na line.\nesc{a=\"q\\\"uote\",b=\"back\\\\slash\",c=\"a\\nline\",d=\"\\q\"} 1\n",
    ),
    ("unicode", TEXT, "uni{city=\"Z\u{fc}rich\",emoji=\"\u{1f525}\"} 1\n"),
    (
        "loose",
        TEXT,
        "  # HELP lo Indented.\n#\tTYPE\tlo\tgauge\nlo { a = \"1\" , b = \"2\" , } 1   \nlo{a=\"3\"b=\"4\"}2\n\n\n# just a comment\nlast 3",
    ),
    (
        "interleaved",
        TEXT,
        "# TYPE x gauge\nx{a=\"1\"} 1\n# TYPE y gauge\ny 1\nx{a=\"2\"} 2\n# TYPE x counter\n",
    ),
    ("collisions", TEXT, "up{a=\"b\"} 7\nscrape_duration_seconds 99\nscrape_samples_scraped{a=\"b\"} 5\n"),
    ("empty", TEXT, ""),
    ("only_comments", TEXT, "# nothing\n# HELP nope There is no sample.\n# TYPE nope gauge\n"),
    ("broken", TEXT, "good_before 1\nbroken{a=1} 2\n"),
    ("crlf", TEXT, "crlf 1\r\n"),
    ("float_timestamp", TEXT, "ft 1 1.5\n"),
    (
        "openmetrics",
        OPENMETRICS,
        "# TYPE om_requests counter\n# UNIT om_bytes bytes\n# TYPE om_bytes gauge\n# HELP om_requests Requests.\nom_requests_total{a=\"1\"} 5 # {trace_id=\"abc\"} 0.5 1.5\nom_requests_created{a=\"1\"} 1.5\nom_bytes 3\n# TYPE om_info info\nom_info_info{version=\"1\"} 1\n# TYPE om_state stateset\nom_state{om_state=\"a\"} 1\nom_state{om_state=\"b\"} 0\n# TYPE om_unknown unknown\nom_unknown 1\n# EOF\n",
    ),
    (
        "openmetrics_histogram",
        OPENMETRICS,
        "# TYPE omh histogram\nomh_bucket{le=\"1.0\"} 1 # {} 0.7\nomh_bucket{le=\"+Inf\"} 2\nomh_sum 3\nomh_count 2\nomh_created 1.5\n# TYPE omg gaugehistogram\nomg_bucket{le=\"+Inf\"} 2\nomg_gsum 3\nomg_gcount 2\n# EOF\n",
    ),
    ("openmetrics_without_end", OPENMETRICS, "# TYPE oe gauge\noe 1\n"),
    ("openmetrics_tabs", OPENMETRICS, "# TYPE ot gauge\not\t1\n# EOF\n"),
    ("text_with_end", TEXT, "te 1\n# EOF\nte_after 2\n"),
];

/// The names of all awkward targets.
pub fn names() -> Vec<&'static str> {
    let timed = ["timestamps", "far_future", "openmetrics_timestamps"];
    PAGES.iter().map(|(name, ..)| *name).chain(timed).chain(["missing", "forbidden", "html"]).collect()
}

/// Teaches `targets` to be all of them.
pub fn set_all(targets: &Targets) {
    for (name, content_type, body) in PAGES {
        targets.set(name, Behaviour::Page(content_type, (*body).into()));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_millis();
    let timestamps = format!("ts_now 1 {now}\nts_ago 2 {}\nts_none 3\n", now - 30_000);
    targets.set("timestamps", Behaviour::Page(TEXT, timestamps.into()));
    let future = format!("ff_soon 1 {}\nff_far 2 {}\nff_none 3\n", now - 1_000, now + 3_600_000);
    targets.set("far_future", Behaviour::Page(TEXT, future.into()));
    let seconds = format!("# TYPE oms gauge\noms 1 {}.25\n# EOF\n", now / 1000 - 5);
    targets.set("openmetrics_timestamps", Behaviour::Page(OPENMETRICS, seconds.into()));
    targets.set("missing", Behaviour::Status(404));
    targets.set("forbidden", Behaviour::Status(403));
    targets.set("html", Behaviour::Html);
}
