//! What rules do, and which rules there cannot be.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::*;

/// What Prometheus made of these rules; the first line says how to make the table again.
const VERDICTS: &str = include_str!("verdicts.jsonl");

#[derive(Deserialize)]
struct Verdict {
    rules: Value,
    labels: Vec<BTreeMap<String, String>>,
    /// Why Prometheus refuses the rules.
    error: Option<String>,
    /// What became of each label set; none where it was dropped.
    #[serde(default)]
    out: Vec<Option<BTreeMap<String, String>>>,
}

fn rules(settings: Value) -> Result<Vec<Rule>, String> {
    let settings: Vec<RelabelSettings> =
        serde_json::from_value(settings).map_err(|error| error.to_string())?;
    compile(settings).map_err(|errors| errors[0].to_string())
}

/// Says what differs from the verdict of Prometheus.
fn differences(verdict: &Verdict) -> Vec<String> {
    let rules = match (rules(verdict.rules.clone()), &verdict.error) {
        (Ok(_), Some(error)) => return vec![format!("accepted, but: {error}")],
        (Err(error), None) => return vec![format!("refused: {error}")],
        (Err(_), Some(_)) => return Vec::new(),
        (Ok(rules), None) => rules,
    };
    let differs = |(labels, expected): (&BTreeMap<String, String>, &Option<BTreeMap<String, String>>)| {
        let mut set = LabelSet::from_iter(labels);
        let kept = apply(&rules, &mut set);
        let expected = expected.as_ref().map(LabelSet::from_iter);
        let equal = kept == expected.is_some() && expected.as_ref().is_none_or(|expected| *expected == set);
        (!equal).then(|| format!("{labels:?}: {kept} {set}, but {expected:?}"))
    };
    verdict.labels.iter().zip(&verdict.out).filter_map(differs).collect()
}

#[test]
fn rules_do_what_they_do_in_prometheus() {
    let mut failures = Vec::new();
    let mut count = 0;
    for line in VERDICTS.lines().skip(1) {
        let verdict: Verdict = serde_json::from_str(line).unwrap();
        count += 1;
        failures.extend(differences(&verdict).into_iter().map(|text| format!("{}\n  {text}", verdict.rules)));
    }
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
    assert!(count > 900, "{count}");
}
