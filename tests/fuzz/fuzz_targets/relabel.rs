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

/// Whether a regex may close a group that it has not opened. Prometheus puts it between brackets as text, so such
/// a one means something else there than in brackets of its own. Brackets that stand for themselves are not told apart.
fn may_break_out(regex: &str) -> bool {
    let mut depth = 0;
    let closes_too_much = regex.bytes().any(|byte| {
        depth += i32::from(byte == b'(') - i32::from(byte == b')');
        depth < 0
    });
    closes_too_much || (regex.contains(')') && regex.contains(['\\', '[']))
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (regex, replacement, value) = (line(), line(), line());
    if may_break_out(regex) {
        return;
    }
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
