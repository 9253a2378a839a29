//! Rewrites or drops events by relabelling rules, in the syntax of Prometheus and with its meaning.
//!
//! ```yaml
//! transforms:
//!   - type: relabel
//!     relabel_configs:
//!       - { source_labels: [job], regex: "test-.*", action: drop }
//!       - { source_labels: [instance], regex: "([^:]+):\\d+", target_label: host }
//! ```

use prometheus_streams_core::error::{BoxError, BuildError};
use prometheus_streams_core::event::{Event, Labels};
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{StageContext, Transform, TransformConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exposition::relabel::{LabelSet, RelabelSettings, Rule, apply, compile};

/// Rewrites or drops events by relabelling rules, as Prometheus does with targets.
///
/// The rules see the labels that an event has here: `job`, `instance`, `publisher` and what else names
/// its target. An event that a rule drops counts as answered, and upstream does not send it again.
/// Labels that begin with `__` serve the rules; they are gone afterwards.
///
/// Labels are the identity of an event: those that a sink needs, as `job`, must still be there at the
/// end, or the sink rejects the event. One that has no label at all is rejected here.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RelabelConfig {
    /// The rules, each applied to what the one before left.
    pub relabel_configs: Vec<RelabelSettings>,
}

register!(transform: RelabelConfig);

impl TransformConfig for RelabelConfig {
    const TYPE: &'static str = "relabel";

    fn build(self, _: &StageContext) -> Result<Box<dyn Transform>, BuildError> {
        let mut problems = BuildError::default();
        if self.relabel_configs.is_empty() {
            problems.add("relabel_configs", "there is no rule, so that nothing would change; add one");
        }
        let rules = compile(self.relabel_configs).unwrap_or_else(|errors| {
            for error in errors {
                problems.add(format!("relabel_configs{}", error.path), error.message);
            }
            Vec::new()
        });
        problems.or(Box::new(Relabel { rules }))
    }
}

/// Relabels events.
struct Relabel {
    rules: Vec<Rule>,
}

impl Transform for Relabel {
    fn apply(&self, mut event: Event) -> Result<Option<Event>, BoxError> {
        let mut labels = LabelSet::from_iter(event.labels.iter());
        if !apply(&self.rules, &mut labels) {
            return Ok(None);
        }
        labels.retain(|name, _| !name.starts_with("__"));
        if labels.is_empty() {
            return Err(
                "the relabelling rules leave no label, and an event without labels is nobody's".into()
            );
        }
        if let Some(labels) = changed(&labels, &event.labels) {
            event.labels = labels;
        }
        Ok(Some(event))
    }
}

/// The new labels, unless they are the old ones, which events share.
fn changed(new: &LabelSet<'_>, old: &Labels) -> Option<Labels> {
    (!new.iter().eq(old.iter())).then(|| new.iter().collect())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use prometheus_streams_core::testing::context;
    use serde_json::{Value, json};

    use super::*;

    fn build(rules: Value) -> Result<Box<dyn Transform>, BuildError> {
        let settings = json!({ "relabel_configs": rules });
        serde_json::from_value::<RelabelConfig>(settings).unwrap().build(&context("relabel"))
    }

    /// The labels `job="node"` and `instance="db1:9100"` behind the rules.
    fn relabel(rules: Value) -> Result<Option<String>, BoxError> {
        let mut event = Event::new(SystemTime::UNIX_EPOCH, "body");
        event.labels = [("job", "node"), ("instance", "db1:9100")].into_iter().collect();
        let event = build(rules).unwrap().apply(event)?;
        Ok(event.map(|event| event.labels.to_string()))
    }

    #[test]
    fn rules_rewrite_and_drop_events() {
        let host = json!({ "source_labels": ["instance"], "regex": "([^:]+):\\d+", "target_label": "host" });
        let expected = r#"{host="db1", instance="db1:9100", job="node"}"#;
        assert_eq!(relabel(json!([host])).unwrap().as_deref(), Some(expected));
        let drop = |job| json!([{ "source_labels": ["job"], "regex": job, "action": "drop" }, host]);
        assert_eq!(relabel(drop("node")).unwrap(), None);
        assert_eq!(relabel(drop("nod")).unwrap().as_deref(), Some(expected));
    }

    #[test]
    fn temporary_labels_serve_later_rules_and_do_not_travel() {
        let rules = json!([
            { "source_labels": ["job", "instance"], "separator": "@", "target_label": "__tmp_id" },
            { "source_labels": ["__tmp_id"], "target_label": "id" },
            { "action": "labelkeep", "regex": "__tmp_id|id" },
        ]);
        assert_eq!(relabel(rules).unwrap().as_deref(), Some(r#"{id="node@db1:9100"}"#));
    }

    #[test]
    fn an_event_without_any_label_is_rejected() {
        let error = relabel(json!([{ "action": "labeldrop", "regex": ".*" }])).unwrap_err();
        assert!(error.to_string().contains("leave no label"), "{error}");
        let job = json!([{ "action": "labeldrop", "regex": "job" }]);
        assert_eq!(relabel(job).unwrap().as_deref(), Some(r#"{instance="db1:9100"}"#));
    }

    #[test]
    fn every_mistake_is_reported_at_its_place() {
        let rules = json!([
            { "regex": "(", "target_label": "x" },
            { "action": "keep" },
            { "source_labels": ["job", ""], "action": "drop" },
            { "action": "hashmod", "target_label": "x" },
        ]);
        let error = build(rules).err().unwrap();
        let paths: Vec<_> = error.problems().iter().map(|problem| problem.path.as_str()).collect();
        let expected =
            ["relabel_configs[0].regex", "relabel_configs[2].source_labels[1]", "relabel_configs[3].modulus"];
        assert_eq!(paths, expected);
        assert_eq!(build(json!([])).err().unwrap().problems()[0].path, "relabel_configs");
    }
}
