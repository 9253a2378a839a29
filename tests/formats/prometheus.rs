//! A real Prometheus 2.42 scrapes every body, all at once, each as a target of its own.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::table::{self, Case};
use super::{assert_none, parse};
use crate::support::prometheus::Prometheus;
use crate::support::targets::{Behaviour, Targets};
use crate::support::wait::{secs, wait_until};

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The label of a target that names its case.
const CASE: &str = "test_case";

/// A series by its labels, the name among them, without those of the target.
type Series = BTreeMap<String, String>;

/// What Prometheus made of one body.
#[derive(Default)]
struct Scraped {
    is_up: bool,
    samples: f64,
    series: Vec<(Series, f64)>,
}

#[tokio::test]
async fn a_real_prometheus_gives_the_verdict_of_the_tables() {
    let cases = table::cases();
    let targets = Targets::start().await;
    let prometheus = Prometheus::start(scrape_config(&cases, &targets)).await;
    let all = cases.len() as f64;
    wait_until("Prometheus to scrape every body", secs(60), async || {
        let scraped = prometheus.query("count(scrape_samples_scraped)").await;
        number(scraped.first()) == Some(all)
    })
    .await;

    let mut scraped: HashMap<String, Scraped> = HashMap::new();
    for result in prometheus.query(&format!("{{{CASE}!=\"\"}}")).await {
        take(&mut scraped, &result);
    }
    let differs = |(index, case): (usize, &Case)| difference(case, &scraped[&index.to_string()]);
    let differences: Vec<String> = cases.iter().enumerate().filter_map(differs).collect();
    assert_none(&differences);
}

fn scrape_config(cases: &[Case], targets: &Targets) -> Value {
    let target = |(index, case): (usize, &Case)| {
        let content_type = if case.is_openmetrics { OPENMETRICS } else { TEXT };
        targets.set(&index.to_string(), Behaviour::Page(content_type, case.body.clone().into()));
        let url = targets.url(&index.to_string());
        let (address, path) = url.trim_start_matches("http://").split_once('/').expect("a URL with a path");
        json!({ "targets": [address], "labels": { "__metrics_path__": format!("/{path}"), CASE: index.to_string() } })
    };
    let groups: Vec<Value> = cases.iter().enumerate().map(target).collect();
    json!([{
        "job_name": "judge",
        // The first scrapes are spread over one interval.
        "scrape_interval": "5s",
        "scrape_timeout": "5s",
        "honor_labels": true,
        "honor_timestamps": false,
        "static_configs": groups,
    }])
}

fn number(result: Option<&Value>) -> Option<f64> {
    result?["value"][1].as_str()?.parse().ok()
}

/// Puts one result of a query to its case.
fn take(scraped: &mut HashMap<String, Scraped>, result: &Value) {
    let value = number(Some(result)).expect("a result has a value");
    let labels = result["metric"].as_object().expect("a result has labels");
    let mut series: Series = labels
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    let case = scraped.entry(series.remove(CASE).expect("every target names its case")).or_default();
    series.remove("instance");
    series.remove("job");
    match series["__name__"].as_str() {
        "up" => case.is_up = value == 1.0,
        "scrape_samples_scraped" => case.samples = value,
        name if name.starts_with("scrape_") => {}
        _ => case.series.push((series, value)),
    }
}

/// What Prometheus says otherwise than the table and our parser, if anything.
fn difference(case: &Case, found: &Scraped) -> Option<String> {
    let column = case.column("2.42").or(case.column("compat"))?;
    let verdict = if found.is_up { found.samples.to_string() } else { "no".to_owned() };
    if !column.starts_with(&verdict) {
        return Some(format!("{}: the table says {column}, Prometheus 2.42 {verdict}", case.title));
    }
    if !found.is_up || case.column("2.42").is_some() {
        return None;
    }
    let missing = match ours(case) {
        Err(error) => return Some(format!("{}: {error}", case.title)),
        Ok(series) if series.len() != found.series.len() => format!("{series:?}"),
        Ok(series) => {
            let is_missing = |(labels, value): &(Series, f64)| !holds(&found.series, labels, *value);
            format!("{:?}", series.into_iter().find(is_missing)?)
        }
    };
    Some(format!("{}: ours {missing}, Prometheus has {:?}", case.title, found.series))
}

fn holds(series: &[(Series, f64)], labels: &Series, value: f64) -> bool {
    series.iter().any(|(own, found)| own == labels && (*found == value || found.is_nan() && value.is_nan()))
}

/// The series that our parser reads; the first of those with equal labels.
fn ours(case: &Case) -> Result<Vec<(Series, f64)>, String> {
    let families = parse(case).map_err(|error| error.to_string())?;
    let mut all: Vec<(Series, f64)> = Vec::new();
    for sample in families.iter().flat_map(|family| &family.samples) {
        let labels = sample.labels.iter().filter(|(_, value)| !value.is_empty());
        let name = ("__name__".to_owned(), sample.name.to_string());
        let series: Series =
            labels.map(|(name, value)| (name.to_string(), value.to_string())).chain([name]).collect();
        if all.iter().all(|(known, _)| *known != series) {
            all.push((series, sample.value));
        }
    }
    Ok(all)
}
