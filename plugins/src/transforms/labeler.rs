//! Renames, adds and drops labels, so that every event says which site, rack or team it comes from.
//!
//! ```yaml
//! transforms:
//!   - type: labeler
//!     rename: { host: instance }
//!     add: { region: eu, site: "{region_code}-{rack}" }
//!     drop: [ region_code ]
//! ```
//!
//! It works in that order. All renames happen at once, so two labels can change places. Then all
//! templates are filled in from the labels that the renames left, none from another template. Last,
//! labels are dropped, so that a template may use a label that does not travel on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prometheus_streams_core::error::{BoxError, BuildError};
use prometheus_streams_core::event::{Event, Labels};
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{StageContext, Transform, TransformConfig};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};

use crate::exposition::is_plain_label_name;

/// Renames, adds and drops labels, in this order. Label names are those of Prometheus:
/// `[a-zA-Z_][a-zA-Z0-9_]*`, and not `__` at the start.
///
/// Labels are the identity of an event: those that a sink needs, as `job`, must still be there at
/// the end, or the sink rejects the event.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelerConfig {
    /// New names of labels, by their old names. A label that already has the new name is replaced; an
    /// old name that an event does not have changes nothing.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,

    /// Labels to set, replacing those of the same name. `{job}` in a value stands for the label `job`, or
    /// for nothing where the event has none; `{{` and `}}` stand for braces. As in Prometheus, an
    /// empty value means no label.
    #[serde(default)]
    pub add: BTreeMap<String, LabelText>,

    /// Labels to remove.
    #[serde(default)]
    pub drop: Vec<String>,
}

register!(transform: LabelerConfig);

impl TransformConfig for LabelerConfig {
    const TYPE: &'static str = "labeler";

    fn build(self, _: &StageContext) -> Result<Box<dyn Transform>, BuildError> {
        let mut problems = BuildError::default();
        check_renames(&self.rename, &mut problems);
        let mut add = Vec::with_capacity(self.add.len());
        for (name, text) in &self.add {
            let path = format!("add.{name}");
            check_name(&path, name, &mut problems);
            match Template::parse(&text.0) {
                Ok(template) => add.push((name.clone(), template)),
                Err(error) => problems.add(path, error),
            }
        }
        for (index, name) in self.drop.iter().enumerate() {
            let path = format!("drop[{index}]");
            check_name(&path, name, &mut problems);
            if self.add.contains_key(name) {
                problems.add(path, format!("{name:?} is also added, and would be dropped at once"));
            }
        }
        let rename = self.rename.into_iter().collect();
        problems.or(Box::new(Labeler { rename, add, drop: self.drop }))
    }
}

/// Relabels events.
struct Labeler {
    rename: Vec<(String, String)>,
    add: Vec<(String, Template)>,
    drop: Vec<String>,
}

impl Transform for Labeler {
    fn apply(&self, mut event: Event) -> Result<Option<Event>, BoxError> {
        let labels = &mut event.labels;
        let renamed: Vec<_> =
            self.rename.iter().filter_map(|(old, new)| Some((new, labels.remove(old)?))).collect();
        for (name, value) in renamed {
            labels.insert(name, value);
        }
        let added: Vec<_> = self.add.iter().map(|(name, template)| (name, template.fill(labels))).collect();
        for (name, value) in added {
            if value.is_empty() {
                labels.remove(name);
            } else {
                labels.insert(name, value);
            }
        }
        for name in &self.drop {
            labels.remove(name);
        }
        Ok(Some(event))
    }
}

/// The value of a label in a configuration: a text, or what YAML takes for a whole number or a boolean.
///
/// A fraction is refused, for `1.10` would arrive here as `1.1`; it wants quotes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LabelText(String);

impl<'de> Deserialize<'de> for LabelText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyScalar;

        impl Visitor<'_> for AnyScalar {
            type Value = LabelText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a whole number or a boolean")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<LabelText, E> {
                Ok(LabelText(text.to_owned()))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<LabelText, E> {
                Ok(LabelText(value.to_string()))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<LabelText, E> {
                Ok(LabelText(value.to_string()))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<LabelText, E> {
                Ok(LabelText(value.to_string()))
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<LabelText, E> {
                Err(E::custom("put a number with a fraction in quotes, or it may lose digits"))
            }
        }

        deserializer.deserialize_any(AnyScalar)
    }
}

impl JsonSchema for LabelText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// Text with places that labels fill.
#[derive(Debug, PartialEq, Eq)]
struct Template(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Label(String),
}

impl Template {
    fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(brace) = rest.find(['{', '}']) {
            let (before, at) = rest.split_at(brace);
            plain.push_str(before);
            if let Some(after) = at.strip_prefix("{{").or_else(|| at.strip_prefix("}}")) {
                plain.push_str(&at[..1]);
                rest = after;
                continue;
            }
            let inside = at.strip_prefix('{').ok_or("a } closes nothing; write }} for a brace")?;
            let (name, after) = inside.split_once('}').ok_or("a { is never closed; write {{ for a brace")?;
            if !is_plain_label_name(name) {
                return Err(format!("{{{name}}} does not name a label; write {{{{ for a brace"));
            }
            parts.extend((!plain.is_empty()).then(|| Part::Text(std::mem::take(&mut plain))));
            parts.push(Part::Label(name.to_owned()));
            rest = after;
        }
        plain.push_str(rest);
        parts.extend((!plain.is_empty()).then_some(Part::Text(plain)));
        Ok(Self(parts))
    }

    fn fill(&self, labels: &Labels) -> String {
        let texts = self.0.iter().map(|part| match part {
            Part::Text(text) => text,
            Part::Label(name) => labels.get(name).unwrap_or_default(),
        });
        texts.collect()
    }
}

fn check_renames(rename: &BTreeMap<String, String>, problems: &mut BuildError) {
    let mut taken = BTreeSet::new();
    for (old, new) in rename {
        let path = format!("rename.{old}");
        check_name(&path, old, problems);
        check_name(&path, new, problems);
        if !taken.insert(new) {
            problems.add(path, format!("another label is renamed to {new:?} too"));
        }
    }
}

fn check_name(path: &str, name: &str, problems: &mut BuildError) {
    if name.starts_with("__") {
        problems.add(path, format!("{name:?} begins with __, which Prometheus keeps for itself"));
    } else if !is_plain_label_name(name) {
        problems.add(path, format!("{name:?} is not a label name: letters, digits and _, no digit first"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use prometheus_streams_core::testing::context;
    use serde_json::{Value, json};

    use super::*;

    fn build(settings: Value) -> Result<Box<dyn Transform>, BuildError> {
        serde_json::from_value::<LabelerConfig>(settings).unwrap().build(&context("labeler"))
    }

    fn relabel(settings: Value, labels: &[(&str, &str)]) -> String {
        let mut event = Event::new(SystemTime::UNIX_EPOCH, "");
        event.labels = labels.iter().copied().collect();
        build(settings).unwrap().apply(event).unwrap().unwrap().labels.to_string()
    }

    #[test]
    fn renames_come_first_then_additions_then_drops() {
        let settings = json!({
            "rename": { "host": "instance" },
            "add": { "site": "{region}-{instance}", "again": "{site}" },
            "drop": ["region"],
        });
        let labels = [("host", "db1"), ("region", "eu"), ("site", "old")];
        assert_eq!(relabel(settings, &labels), r#"{again="old", instance="db1", site="eu-db1"}"#);
    }

    #[test]
    fn renames_may_swap_replace_and_miss() {
        let swap = json!({ "rename": { "a": "b", "b": "a" } });
        assert_eq!(relabel(swap.clone(), &[("a", "1"), ("b", "2")]), r#"{a="2", b="1"}"#);
        assert_eq!(relabel(swap, &[("c", "3")]), r#"{c="3"}"#);
        let onto = json!({ "rename": { "a": "b" } });
        assert_eq!(relabel(onto, &[("a", "1"), ("b", "2")]), r#"{b="1"}"#);
    }

    #[test]
    fn an_empty_value_means_no_label() {
        let settings = json!({ "add": { "job": "{absent}", "x": "", "y": "<{absent}>" } });
        assert_eq!(relabel(settings, &[("job", "node")]), r#"{y="<>"}"#);
    }

    #[test]
    fn braces_are_escaped_by_doubling_and_scalars_are_text() {
        let settings = json!({ "add": { "a": "{{job}} }}{job}{{", "rack": 7, "spare": true, "n": -1 } });
        let expected = r#"{a="{job} }node{", job="node", n="-1", rack="7", spare="true"}"#;
        assert_eq!(relabel(settings, &[("job", "node")]), expected);
    }

    #[test]
    fn every_mistake_is_reported_at_its_place() {
        let settings = json!({
            "rename": { "a": "c", "b": "c", "0": "d" },
            "add": { "__x": "", "open": "{job", "shut": "job}", "none": "{}", "odd": "{{{a b}", "y": "" },
            "drop": ["ok", "é", "y"],
        });
        let error = build(settings).err().unwrap();
        let paths: Vec<_> = error.problems().iter().map(|problem| problem.path.as_str()).collect();
        let expected = ["rename.0", "rename.b", "add.__x", "add.none", "add.odd", "add.open", "add.shut"];
        assert_eq!(paths, [&expected[..], &["drop[1]", "drop[2]"]].concat());
    }

    #[test]
    fn a_fraction_wants_quotes() {
        for value in [json!(1.5), json!(null), json!(["x"])] {
            assert!(serde_json::from_value::<LabelerConfig>(json!({ "add": { "v": value } })).is_err());
        }
    }
}
