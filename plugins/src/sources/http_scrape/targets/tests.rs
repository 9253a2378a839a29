//! What becomes of an address. The expectations are those of Prometheus 3's `PopulateLabels`.

use serde_json::{Value, json};

use super::*;
use crate::sources::http_scrape::HttpScrapeConfig;
use crate::sources::http_scrape::discovery::{DiscoverySettings, TargetGroup};

/// The job of a scrape config with these keys, with one list that the test tells.
fn job(keys: Value) -> Arc<Job> {
    let mut config = json!({ "job_name": "j", "scrape_interval": "30s", "scrape_timeout": "10s" });
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let config: HttpScrapeConfig = serde_json::from_value(json!({ "scrape_configs": [config] })).unwrap();
    let mut job = config.jobs().unwrap().remove(0);
    job.discoveries = vec![DiscoverySettings::Static(Vec::new())];
    Arc::new(job)
}

fn group(targets: &[&str], labels: &[(&str, &str)]) -> TargetGroup {
    let labels = labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    TargetGroup {
        targets: targets.iter().map(|&target| target.to_owned()).collect(),
        labels: Arc::new(labels),
    }
}

/// What one address with these labels comes to in a job with these keys: labels and URL, or why not.
fn fate(keys: Value, address: &str, labels: &[(&str, &str)]) -> String {
    let labels = Arc::clone(&group(&[], labels).labels);
    match (Origin { address: address.into(), labels }).fate(&job(keys), "me") {
        Fate::Kept(target) => {
            let pace = format!("{}/{}", target.rhythm.interval(), target.timeout.as_millis());
            format!("{} {} {pace}", target.labels, target.uri)
        }
        Fate::Dropped => "dropped".to_owned(),
        Fate::Failed(error) => error,
    }
}

#[test]
fn a_target_has_the_defaults_of_its_job_and_no_port_but_its_own() {
    for (keys, address, labels, expected) in [
        (
            json!({}),
            "db1",
            &[][..],
            r#"{instance="db1", job="j", publisher="me"} http://db1/metrics 30000/10000"#,
        ),
        (
            json!({ "scheme": "https", "metrics_path": "probe me?", "params": { "b": ["x y", "2"], "a": ["&"], "c": [] } }),
            "db1:9100",
            &[("site", "dc1"), ("__meta_x", "y"), ("__tmp", "z"), ("empty", "")],
            r#"{instance="db1:9100", job="j", publisher="me", site="dc1"} https://db1:9100/probe%20me%3F?a=%26&b=x+y&b=2 30000/10000"#,
        ),
        (
            json!({ "params": { "b": ["x", "2"] } }),
            "db1:9100",
            &[
                ("job", "own"),
                ("instance", "name"),
                ("publisher", "other"),
                ("__scheme__", "https"),
                ("__metrics_path__", "/m"),
                ("__param_b", "own"),
                ("__param_z", "new"),
                ("__scrape_interval__", "1m"),
                ("__scrape_timeout__", "1m"),
            ],
            r#"{instance="name", job="own", publisher="me"} https://db1:9100/m?b=own&b=2&z=new 60000/59900"#,
        ),
        // The address of an address is that of the group's labels never.
        (
            json!({}),
            "db1",
            &[("__address__", "db2")],
            r#"{instance="db1", job="j", publisher="me"} http://db1/metrics 30000/10000"#,
        ),
        (
            json!({}),
            "[::1]:80",
            &[],
            r#"{instance="[::1]:80", job="j", publisher="me"} http://[::1]:80/metrics 30000/10000"#,
        ),
    ] {
        assert_eq!(fate(keys, address, labels), expected);
    }
}

#[test]
fn relabelling_decides_where_and_whether() {
    let rules = |rules: Value| json!({ "relabel_configs": rules, "params": { "module": ["m"] } });
    let exporter = rules(json!([
        { "source_labels": ["__address__"], "target_label": "__param_target" },
        { "source_labels": ["__param_target"], "target_label": "instance" },
        { "replacement": "exporter:9115", "target_label": "__address__" },
        { "source_labels": ["__meta_x"], "target_label": "x" },
    ]));
    assert_eq!(
        fate(exporter, "www", &[("__meta_x", "seen")]),
        r#"{instance="www", job="j", publisher="me", x="seen"} http://exporter:9115/metrics?module=m&target=www 30000/10000"#
    );
    let interval = rules(json!([{ "source_labels": ["__scrape_interval__"], "target_label": "every" }]));
    assert!(fate(interval, "a", &[]).contains(r#"every="30s""#));
    let drop = rules(json!([{ "source_labels": ["__address__"], "regex": "a.*", "action": "drop" }]));
    assert_eq!(fate(drop, "abc", &[]), "dropped");
    let nowhere = rules(json!([{ "replacement": "", "target_label": "__address__" }]));
    assert_eq!(fate(nowhere, "abc", &[]), "no address");
}

#[test]
fn what_cannot_be_scraped_says_why() {
    for (address, labels, expected) in [
        ("db1/metrics", &[][..], "\"db1/metrics\" is not a valid hostname"),
        ("me:secret@db1", &[], "\"me:secret@db1\" is not a valid hostname"),
        ("d b", &[], "\"http://d b/metrics\" is not a URL: invalid uri character"),
        ("db1", &[("__scheme__", "ftp")], "unsupported protocol scheme \"ftp\""),
        ("db1", &[("__scrape_interval__", "x")], "the scrape interval \"x\" is not a duration"),
        ("db1", &[("__scrape_interval__", "0s")], "the scrape interval cannot be 0"),
        ("db1", &[("__scrape_timeout__", "0")], "the scrape timeout cannot be 0"),
        (
            "db1",
            &[("__scrape_interval__", "5s")],
            "the scrape timeout 10s is longer than the scrape interval, 5s",
        ),
    ] {
        assert_eq!(fate(json!({}), address, labels), expected);
    }
}

#[test]
fn what_did_not_change_is_the_same_target() {
    let rules = json!([{ "source_labels": ["__address__"], "regex": "no.*", "action": "drop" }]);
    let mut pool = Pool::new(job(json!({ "relabel_configs": rules })), "me".into());
    let mut tell = |groups: Vec<TargetGroup>| {
        pool.tell(0, Arc::new(groups));
        pool.work_out()
    };
    let first = tell(vec![group(&["a", "b", "no", "x/y"], &[("l", "1")]), group(&["a", "c"], &[])]);
    let addresses = |result: &Yield| -> Vec<_> {
        result.kept.iter().map(|target| target.origin.address.to_string()).collect()
    };
    assert_eq!(addresses(&first), ["a", "b", "a", "c"]);
    assert_eq!((first.dropped.len(), &*first.dropped[0].address, first.failed), (1, "no", 1));

    // Groups in another order, one address twice, one gone, one new, one with other labels.
    let second = tell(vec![
        group(&["c", "a", "c"], &[]),
        group(&["b", "x/y", "d"], &[("l", "1")]),
        group(&["a"], &[("l", "2")]),
    ]);
    assert_eq!(addresses(&second), ["c", "a", "b", "d", "a"]);
    assert_eq!((second.dropped.len(), second.failed), (0, 0), "known to fail already");
    for (index, was) in [(0, Some(3)), (1, Some(2)), (2, Some(1)), (3, None), (4, None)] {
        let same = first.kept.iter().position(|target| Arc::ptr_eq(target, &second.kept[index]));
        assert_eq!(same, was, "{index}");
    }
}
