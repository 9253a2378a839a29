//! Scrape configs on their way: what they inherit, where their files are, and the texts that our configuration
//! would take for references to the environment.

use std::sync::Arc;

use prometheus_streams_plugins::sources::http_scrape::{PromDuration, scrape_config_lacks};
use serde_json::{Map, Value};

use super::file::PromFile;

/// Keys whose texts are templates of relabelling, which our configuration leaves alone.
const TEMPLATES: [&str; 2] = ["replacement", "target_label"];

/// Keys of maps whose own keys are names that the user chose.
const NAMES: [&str; 4] = ["labels", "params", "endpoint_params", "proxy_connect_header"];

/// A scrape config that has been read.
pub(super) struct Job {
    file: Arc<PromFile>,
    /// Where it stands in its file.
    path: String,
    settings: Map<String, Value>,
}

impl Job {
    pub(super) fn new(
        file: &PromFile,
        path: &str,
        settings: &Map<String, Value>,
        inherited: &Map<String, Value>,
    ) -> Self {
        let mut settings = settings.clone();
        settings.retain(|_, value| !value.is_null());
        let has_old_name = settings.contains_key("scrape_classic_histograms");
        for (key, value) in inherited {
            if has_old_name && key == "always_scrape_classic_histograms" {
                continue;
            }
            if settings.get(key).is_none_or(|own| !own.is_boolean() && is_nothing(own)) {
                settings.insert(key.clone(), value.clone());
            }
        }
        for (key, value) in &mut settings {
            rewrite(file, key, value);
        }
        Self { file: Arc::new(file.clone()), path: path.to_owned(), settings }
    }

    /// Takes out the keys that the program does not have yet, and names them.
    pub(super) fn take_what_is_not_yet(&mut self) -> Vec<String> {
        let mut taken = Vec::new();
        self.settings.retain(|key, value| {
            if scrape_config_lacks(key, value) {
                taken.push(key.clone());
            }
            !is_not_yet(key)
        });
        taken
    }

    pub(super) fn file(&self) -> Arc<PromFile> {
        Arc::clone(&self.file)
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn settings(&self) -> Value {
        Value::Object(self.settings.clone())
    }
}

/// Makes paths absolute, and keeps texts from being taken for references.
fn rewrite(file: &PromFile, key: &str, value: &mut Value) {
    match value {
        Value::String(text) if (key.ends_with("_file") || key == "files") && !text.is_empty() => {
            *text = escaped(&file.absolute(text).to_string_lossy());
        }
        Value::String(text) if TEMPLATES.contains(&key) => *text = text.replace("${env:", "$${env:"),
        Value::String(text) => *text = escaped(text),
        Value::Array(list) => list.iter_mut().for_each(|value| rewrite(file, key, value)),
        Value::Object(map) => {
            for (inner, value) in map {
                let inner = if NAMES.contains(&key) { "" } else { inner.as_str() };
                rewrite(file, inner, value);
            }
        }
        _ => {}
    }
}

fn escaped(text: &str) -> String {
    text.replace("${", "$${")
}

/// A value of `external_labels`, in which Prometheus puts the environment, as a template of the labeler.
pub(super) fn external_label(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut label = String::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find('$') {
        label.push_str(&braced(&rest[..start]));
        let after = &rest[start + 1..];
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, left) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(reference) => reference,
            None => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
        };
        match (name, after.strip_prefix('$')) {
            ("", Some(left)) => {
                label.push('$');
                rest = left;
            }
            ("", None) => {
                label.push('$');
                rest = after;
            }
            (name, _) => {
                label.push_str(&format!("${{env:{name}}}"));
                rest = left;
            }
        }
    }
    label + &braced(rest)
}

/// Braces that stand for themselves in a template.
fn braced(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

/// A duration of Prometheus as one of ours. They read the same, but for years.
pub(super) fn duration(text: &str) -> Option<String> {
    let PromDuration(duration) = PromDuration::parse(text)?;
    Some(if text.contains('y') { format!("{}ms", duration.as_millis()) } else { text.to_owned() })
}

/// Whether Prometheus has a key in a scrape config that this program has not.
pub(super) fn is_not_yet(key: &str) -> bool {
    scrape_config_lacks(key, &Value::Bool(true))
}

/// Whether Prometheus takes a value for its default.
pub(super) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || matches!(text.as_str(), "0" | "0s" | "0B"),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn external_labels_take_the_environment_as_in_prometheus() {
        for (text, label) in [
            ("eu", "eu"),
            ("${SITE}-$RACK.x", "${env:SITE}-${env:RACK}.x"),
            ("a$$b{c}", "a$b{{c}}"),
            ("$", "$"),
        ] {
            assert_eq!(external_label(&json!(text)), label);
        }
        assert_eq!(external_label(&json!(7)), "7");
    }

    #[test]
    fn durations_are_ours() {
        assert_eq!(duration("1y").as_deref(), Some("31536000000ms"));
        assert_eq!(duration("1m30s").as_deref(), Some("1m30s"));
        assert_eq!(duration("soon"), None);
    }
}
