//! Rewrites or drops events, and the samples in them, by relabelling rules in the syntax of Prometheus.
//!
//! ```yaml
//! transforms:
//!   - type: relabel
//!     relabel_configs:
//!       - { source_labels: [job], regex: "test-.*", action: drop }
//!       - { source_labels: [instance], regex: "([^:]+):\\d+", target_label: host }
//!     metric_relabel_configs:
//!       - { source_labels: [__name__], regex: "go_.*", action: drop }
//! ```

use prometheus_streams_core::error::{BoxError, BuildError};
use prometheus_streams_core::event::{Event, Labels};
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{StageContext, Transform, TransformConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exposition::relabel::{LabelSet, RelabelSettings, Rule, apply, compile};
use crate::exposition::{Format, count_samples, rewrite};
use crate::support::scrape::{self, CONTENT_TYPE, HONOR_LABELS, PUBLISHER, SAMPLES_POST_RELABELING};

/// Rewrites or drops events, and the samples in them, by the relabelling rules of Prometheus.
///
/// `relabel_configs` see the labels that an event has here: `job`, `instance`, `publisher` and what else names
/// its target. An event that a rule drops counts as answered, and upstream does not send it again.
/// Labels that begin with `__` serve the rules; they are gone afterwards.
///
/// Labels are the identity of an event: those that a sink needs, as `job`, must still be there at the
/// end, or the sink rejects the event. One that has no label at all is rejected here.
///
/// `metric_relabel_configs` come after, and see each sample with its own labels and those of the event, but for
/// `publisher`. As in Prometheus they are all or nothing: where a rule leaves a sample no name, or the body
/// cannot be read, the event is rejected. So is a body in protobuf.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RelabelConfig {
    /// Rules for the labels of events, each applied to what the one before left.
    #[serde(default)]
    pub relabel_configs: Vec<RelabelSettings>,

    /// Rules for every sample in an event.
    #[serde(default)]
    pub metric_relabel_configs: Vec<RelabelSettings>,
}

register!(transform: RelabelConfig);

impl TransformConfig for RelabelConfig {
    const TYPE: &'static str = "relabel";

    fn build(self, _: &StageContext) -> Result<Box<dyn Transform>, BuildError> {
        let mut problems = BuildError::default();
        if self.relabel_configs.is_empty() && self.metric_relabel_configs.is_empty() {
            problems.add("relabel_configs", "there is no rule, so that nothing would change; add one");
        }
        let rules = compiled("relabel_configs", self.relabel_configs, &mut problems);
        let metric_rules = compiled("metric_relabel_configs", self.metric_relabel_configs, &mut problems);
        problems.or(Box::new(Relabel { rules, metric_rules }))
    }
}

/// Relabels events and samples.
struct Relabel {
    rules: Vec<Rule>,
    metric_rules: Vec<Rule>,
}

impl Transform for Relabel {
    fn apply(&self, mut event: Event) -> Result<Option<Event>, BoxError> {
        if !self.relabel(&mut event)? {
            return Ok(None);
        }
        // A failed scrape and the notice that a target is gone have no samples.
        if !self.metric_rules.is_empty() && !event.body.is_empty() {
            self.relabel_samples(&mut event)?;
        }
        Ok(Some(event))
    }
}

impl Relabel {
    /// False if the event is dropped.
    fn relabel(&self, event: &mut Event) -> Result<bool, BoxError> {
        let mut labels = LabelSet::from_iter(event.labels.iter());
        if !apply(&self.rules, &mut labels) {
            return Ok(false);
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
        Ok(true)
    }

    fn relabel_samples(&self, event: &mut Event) -> Result<(), BoxError> {
        let content_type = event.attributes.get(CONTENT_TYPE);
        let format = content_type.map_or(Some(Format::Text), Format::from_content_type);
        // Only the formats of lines can be rewritten in their own format.
        let format = format
            .filter(|format| *format != Format::Protobuf)
            .ok_or("only samples in the text format and in OpenMetrics can be relabelled here")?;
        let target: Vec<_> = event.labels.iter().filter(|(name, _)| *name != PUBLISHER).collect();
        let honor_labels = scrape::honors_labels(event);
        let relabeling = rewrite::Relabeling { target: &target, honor_labels, rules: &self.metric_rules };
        let body = rewrite::relabel(format, &event.body, &relabeling)
            .map_err(|error| format!("could not relabel the samples: {error}"))?;
        if !honor_labels {
            event.attributes.insert(HONOR_LABELS, "true");
        }
        if let Some(body) = body {
            event.attributes.insert(SAMPLES_POST_RELABELING, count_samples(format, &body)?.to_string());
            event.body = body.into();
        }
        Ok(())
    }
}

/// The rules of one key; none where there are mistakes, which are added to `problems`.
fn compiled(key: &str, list: Vec<RelabelSettings>, problems: &mut BuildError) -> Vec<Rule> {
    compile(list).unwrap_or_else(|errors| {
        for error in errors {
            problems.add(format!("{key}{}", error.path), error.message);
        }
        Vec::new()
    })
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

    fn relabel_samples(rules: Value, body: &str, attributes: &[(&str, &str)]) -> Result<Event, BoxError> {
        let settings = json!({ "relabel_configs": [{ "target_label": "site", "replacement": "eu" }],
            "metric_relabel_configs": rules });
        let config: RelabelConfig = serde_json::from_value(settings).unwrap();
        let mut event = Event::new(SystemTime::UNIX_EPOCH, body.to_owned());
        event.labels = [("job", "node"), ("publisher", "P")].into_iter().collect();
        event.attributes = attributes.iter().copied().collect();
        Ok(config.build(&context("relabel")).unwrap().apply(event)?.unwrap())
    }

    #[test]
    fn samples_are_relabelled_with_the_labels_of_the_event() {
        let rules = json!([
            { "source_labels": ["__name__"], "regex": "go_.*", "action": "drop" },
            { "source_labels": ["site", "publisher", "x"], "target_label": "x" },
        ]);
        let event = relabel_samples(rules, "go_x 1\nup{x=\"1\"} 2\nup{job=\"own\"} 3\n", &[]).unwrap();
        let expected = "up{x=\"eu;;1\"} 2\nup{exported_job=\"own\",x=\"eu;;\"} 3\n";
        assert_eq!(event.body, expected);
        assert_eq!(event.attributes.get(SAMPLES_POST_RELABELING), Some("2"));
        assert!(scrape::honors_labels(&event));
    }

    #[test]
    fn labels_are_honoured_from_then_on_also_where_nothing_changed() {
        let rules = json!([{ "source_labels": ["job"], "regex": "other", "action": "drop" }]);
        let event = relabel_samples(rules.clone(), "up 1\n", &[]).unwrap();
        assert!(scrape::honors_labels(&event));
        assert_eq!(
            (event.body.as_ref(), event.attributes.get(SAMPLES_POST_RELABELING)),
            (&b"up 1\n"[..], None)
        );
        let failed = relabel_samples(rules, "", &[(scrape::ERROR, "refused")]).unwrap();
        assert!(!scrape::honors_labels(&failed));
    }

    #[test]
    fn what_cannot_be_relabelled_is_rejected() {
        let nameless = json!([{ "action": "labeldrop", "regex": "__name__" }]);
        for (body, attributes, reason) in [
            ("up 1\n", &[][..], "missing metric name"),
            ("up one\n", &[][..], "line 1"),
            ("up 1\n", &[(CONTENT_TYPE, "text/html")][..], "only samples in the text format"),
            (
                "\0",
                &[(CONTENT_TYPE, "application/vnd.google.protobuf")][..],
                "only samples in the text format",
            ),
        ] {
            let error = relabel_samples(nameless.clone(), body, attributes).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
