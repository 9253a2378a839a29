//! What rules do, and which rules there cannot be.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use super::pattern::Pattern;
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

#[test]
fn a_mistake_is_told_with_its_key() {
    for (rule, expected) in [
        (json!({ "regex": "a(b", "target_label": "x" }), "[0].regex: a ( is never closed"),
        (json!({ "regex": "a)b", "target_label": "x" }), "[0].regex: a ) closes nothing"),
        (
            json!({ "regex": "a**" , "target_label": "x" }),
            r#"[0].regex: at "a**" a repetition follows another"#,
        ),
        (
            json!({ "regex": "a|*" , "target_label": "x" }),
            r#"[0].regex: at "a|*" there is nothing to repeat"#,
        ),
        (
            json!({ "regex": r"\pX", "action": "keep" }),
            r"[0].regex: \p{X} names no category and no script of Unicode",
        ),
        (
            json!({ "action": "hashmod", "target_label": "x" }),
            "[0].modulus: hashmod needs a number above 0 here",
        ),
        (
            json!({ "source_labels": ["a", ""], "action": "drop" }),
            "[0].source_labels[1]: a label name cannot be empty",
        ),
        (
            json!({ "separator": ",", "action": "labeldrop" }),
            "[0].separator: labeldrop takes only regex; remove this key",
        ),
    ] {
        assert_eq!(rules(json!([rule])).unwrap_err(), expected);
    }
}

#[test]
fn a_regex_cannot_take_all_memory_or_the_stack() {
    let nested = format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000));
    for (regex, reason) in [(r"(?:\pL{30}){30}", "MiB of memory"), (nested.as_str(), "nest")] {
        let error = rules(json!([{ "regex": regex, "action": "keep" }])).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn settings_are_written_as_they_were_read() {
    let settings = json!({ "source_labels": ["a"], "regex": 5, "target_label": true, "action": "UPPERCASE" });
    let settings: RelabelSettings = serde_json::from_value(settings).unwrap();
    let written =
        json!({ "source_labels": ["a"], "regex": "5", "target_label": "true", "action": "uppercase" });
    assert_eq!(serde_json::to_value(&settings).unwrap(), written);
    assert_eq!(serde_json::from_value::<RelabelSettings>(json!({})).unwrap(), RelabelSettings::default());
}

/// Rules that are often valid: pieces of regexes and of templates, and few names, so that rules meet.
fn any_rule() -> impl Strategy<Value = RelabelSettings> {
    let regex = prop_oneof![
        "[ab.()|*+?\\[\\]^$\\\\{}0-9,&:-]{0,8}",
        Just("(.*)".to_owned()),
        Just("a(.*)".to_owned()),
        Just("(a|b).*".to_owned()),
        any::<String>(),
    ];
    let template = prop_oneof!["[ab$0-3{}]{0,5}", any::<String>()];
    let action = prop::sample::select(RelabelAction::ALL.to_vec());
    (
        prop::option::of(prop::collection::vec("[ab]{1,2}", 0..3)),
        regex,
        template.clone(),
        template,
        0..5u64,
        action,
    )
        .prop_map(|(source_labels, regex, target_label, replacement, modulus, action)| {
            let plain = RelabelSettings { action, ..RelabelSettings::default() };
            match action {
                RelabelAction::KeepEqual | RelabelAction::DropEqual => {
                    RelabelSettings { source_labels, target_label, ..plain }
                }
                RelabelAction::LabelDrop | RelabelAction::LabelKeep => {
                    RelabelSettings { regex: Some(regex), ..plain }
                }
                RelabelAction::Lowercase | RelabelAction::Uppercase => {
                    RelabelSettings { source_labels, regex: Some(regex), target_label, ..plain }
                }
                _ => RelabelSettings {
                    source_labels,
                    regex: Some(regex),
                    modulus: Some(modulus),
                    target_label,
                    replacement,
                    ..plain
                },
            }
        })
}

proptest! {
    #[test]
    fn labels_stay_sorted_and_without_empty_values(
        settings in prop::collection::vec(any_rule(), 1..6),
        labels in prop::collection::btree_map("[ab]{1,2}|\\PC{1,3}", "[abAB]{0,3}|\\PC{0,5}", 0..6),
    ) {
        let rules: Vec<_> = settings.into_iter().filter_map(|settings| settings.compile().ok()).collect();
        let mut set = LabelSet::from_iter(&labels);
        if apply(&rules, &mut set) {
            prop_assert!(set.iter().is_sorted_by(|a, b| a.0 < b.0), "{set}");
            prop_assert!(set.iter().all(|(_, value)| !value.is_empty()), "{set}");
        }
    }

    #[test]
    fn shapes_match_what_the_engine_matches(pattern in "[ab]{0,2}([.][*+])?[ab]{0,2}([|][ab]?[.][*+])?", text in "[ab]{0,6}") {
        for pattern in [pattern.clone(), format!("({pattern})"), format!("a({pattern})"), "a(.*)".to_owned(), "ab(.+)".to_owned()] {
            let simple = Pattern::new(&pattern).unwrap();
            // The same to a reader, and nothing that a shape can say.
            let engine = Pattern::new(&format!("{pattern}[^a]{{0}}")).unwrap();
            let groups = |pattern: &Pattern| {
                let groups = pattern.captures(&text)?;
                Some((groups.get(0)?.to_owned(), groups.get(1).map(str::to_owned)))
            };
            if !pattern.contains('|') || pattern.starts_with('(') {
                prop_assert_eq!(groups(&simple), groups(&engine), "{}", pattern);
            }
            prop_assert_eq!(simple.is_match(&text), groups(&simple).is_some());
        }
    }
}
