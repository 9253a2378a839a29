//! The regexes of relabelling: the first line is a regex, the second what replaces, the third a value. A regex
//! in a group that captures nothing means the same, whichever way it is matched.
#![no_main]

use prometheus_streams_fuzz::exposition::relabel::{LabelSet, RelabelSettings, Rule, apply};
use serde_json::json;

fn rule(regex: &str, replacement: &str) -> Option<Rule> {
    let settings = json!({
        "source_labels": ["a"], "regex": regex, "target_label": "b", "replacement": replacement,
    });
    serde_json::from_value::<RelabelSettings>(settings).ok()?.compile().ok()
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (regex, replacement, value) = (line(), line(), line());
    // A free-spacing comment in the regex would take the closing parenthesis with it.
    let grouped = format!("(?:{regex})");
    let (Some(plain), Some(grouped)) = (rule(regex, replacement), rule(&grouped, replacement)) else {
        return;
    };
    let outcome = |rule: Rule| {
        let mut labels = LabelSet::from_iter([("a", value)]);
        (apply(&[rule], &mut labels), labels.to_string())
    };
    assert_eq!(outcome(plain), outcome(grouped), "{regex:?} {replacement:?} {value:?}");
});
