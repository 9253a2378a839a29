//! Layers a configuration: files in the order given, each over the one before it, then the environment.
//! Remembers which layer said what, so that a mistake can be blamed on its file.

use std::path::{Path, PathBuf};

use config::{ConfigBuilder, Map, Source, builder::DefaultState};
use serde_json::Value;

use crate::error::{BoxError, ConfigError, Problem};

/// Environment variables that begin so override the files: `PROMETHEUS_STREAMS__LOG__LEVEL=debug`.
pub(super) const ENV_PREFIX: &str = "PROMETHEUS_STREAMS__";
/// Between the keys of a path in the name of an environment variable.
const ENV_SEPARATOR: &str = "__";

/// The merged tree, and where it came from.
#[derive(Clone, Debug, Default)]
pub(super) struct Layers {
    pub(super) tree: Value,
    /// Each layer's name and its own tree, the strongest last.
    origins: Vec<(String, Value)>,
}

impl Layers {
    /// Reads and merges `files`, then lets `env` override. Other variables than ours are ignored.
    pub(super) fn load(
        files: &[PathBuf],
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut origins = Vec::new();
        for file in files {
            match read_file(file) {
                Ok(tree) => origins.push((file.display().to_string(), tree)),
                Err(error) => {
                    problems.push(Problem { origin: file.display().to_string(), ..Problem::new("", error) })
                }
            }
        }
        if !problems.is_empty() {
            return Err(ConfigError { problems });
        }
        Self::merge(origins, env)
    }

    /// One layer from a text in YAML.
    pub(super) fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        let tree = parse_yaml(text).map_err(|error| ConfigError::at("", error))?;
        Self::merge(vec![(String::new(), tree)], [])
    }

    fn merge(
        mut origins: Vec<(String, Value)>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut tree = merged(&origins)?;
        let mut variables: Vec<_> =
            env.into_iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
        variables.sort();
        for (name, value) in variables {
            let layer = env_layer(&tree, &name, &value);
            origins.push((name, layer));
            tree = merged(&origins)?;
        }
        let mut layers = Self { tree, origins };
        let mut problems = Vec::new();
        interpolate(&mut layers.tree, "", &mut problems);
        if problems.is_empty() { Ok(layers) } else { Err(layers.blame(problems)) }
    }

    /// Notes for each problem which layer it is the fault of: the strongest that has the most of its path.
    pub(super) fn blame(&self, mut problems: Vec<Problem>) -> ConfigError {
        for problem in &mut problems {
            let steps: Vec<_> = problem.path.split(['.', '[', ']']).filter(|step| !step.is_empty()).collect();
            let depths = self.origins.iter().map(|(name, tree)| (depth(tree, &steps), name));
            // Of several layers that say as much, `max_by_key` gives the last, which is the strongest.
            if let Some((_, name)) = depths.max_by_key(|(depth, _)| *depth) {
                problem.origin.clone_from(name);
            }
        }
        ConfigError { problems }
    }
}

/// How many of the steps lead somewhere in the tree. A key that holds dots is followed as one step.
fn depth(tree: &Value, steps: &[&str]) -> usize {
    let mut here = tree;
    let mut taken = 0;
    while taken < steps.len() {
        let found = (taken + 1..=steps.len()).find_map(|end| {
            let key = steps[taken..end].join(".");
            let next = match here {
                Value::Array(list) => key.parse().ok().and_then(|index: usize| list.get(index)),
                other => other.get(&key),
            };
            next.map(|next| (end, next))
        });
        let Some((end, next)) = found else { break };
        (taken, here) = (end, next);
    }
    taken
}

fn read_file(file: &Path) -> Result<Value, BoxError> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read the file: {error}"))?;
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => parse_yaml(&text),
        Some("toml") => toml::from_str(&text).map_err(|error| format!("this is not TOML: {error}").into()),
        _ => Err("its name must end in .yaml, .yml or .toml, so that its format is known".into()),
    }
}

fn parse_yaml(text: &str) -> Result<Value, BoxError> {
    // By way of YAML's own value, which refuses a key that stands twice and knows `<<`.
    let mut value: serde_yaml::Value =
        serde_yaml::from_str(text).map_err(|error| format!("this is not YAML: {error}"))?;
    value.apply_merge().map_err(|error| format!("this is not YAML: {error}"))?;
    let tree = serde_json::to_value(value).map_err(|error| format!("keys must be text: {error}"))?;
    match tree {
        Value::Null => Ok(Value::Object(serde_json::Map::new())),
        Value::Object(_) => Ok(tree),
        _ => Err("the file must be a map of settings, as `pipelines: ...`".into()),
    }
}

/// One layer as the `config` crate takes it.
#[derive(Clone, Debug)]
struct Layer(Map<String, config::Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, config::Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

fn merged(origins: &[(String, Value)]) -> Result<Value, ConfigError> {
    let mut builder = ConfigBuilder::<DefaultState>::default();
    for (name, tree) in origins {
        let layer = serde_json::from_value(tree.clone()).map_err(|error| ConfigError::at(name, error))?;
        builder = builder.add_source(Layer(layer));
    }
    let merged = builder.build().and_then(config::Config::try_deserialize::<Value>);
    merged.map_err(|error| ConfigError::at("", error))
}

/// The tree of one variable. Its keys find those of the files whatever their case; an index finds its
/// element. A value is read as YAML, so that `8`, `true` and `[a, b]` are what they look like.
fn env_layer(tree: &Value, name: &str, value: &str) -> Value {
    let value = serde_yaml::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    let path = name.strip_prefix(ENV_PREFIX).unwrap_or(name);
    let mut here = Some(tree);
    let mut places = Vec::new();
    for part in path.split(ENV_SEPARATOR) {
        let (key, next) = find(here, part);
        places.push((key, here));
        here = next;
    }
    places.into_iter().rev().fold(value, |value, (key, around)| match (around, key.parse::<usize>()) {
        // A list is replaced whole when layers merge, so the layer must carry all of it.
        (Some(Value::Array(list)), Ok(index)) if index < list.len() => {
            let mut list = list.clone();
            overlay(&mut list[index], value);
            Value::Array(list)
        }
        _ => serde_json::json!({ key: value }),
    })
}

fn find<'a>(tree: Option<&'a Value>, part: &str) -> (String, Option<&'a Value>) {
    match tree {
        Some(Value::Array(list)) => {
            (part.to_owned(), part.parse().ok().and_then(|index: usize| list.get(index)))
        }
        Some(Value::Object(map)) => match map.iter().find(|(key, _)| key.eq_ignore_ascii_case(part)) {
            Some((key, value)) => (key.clone(), Some(value)),
            None => (part.to_ascii_lowercase(), None),
        },
        _ => (part.to_ascii_lowercase(), None),
    }
}

fn overlay(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                overlay(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// Puts the values of environment variables where texts say `${env:NAME}`; `$${` stands for `${`.
fn interpolate(tree: &mut Value, path: &str, problems: &mut Vec<Problem>) {
    match tree {
        Value::String(text) if text.contains("${") => match expand(text) {
            Ok(expanded) => *text = expanded,
            Err(message) => problems.push(Problem::new(path, message)),
        },
        Value::Array(list) => {
            for (index, value) in list.iter_mut().enumerate() {
                interpolate(value, &format!("{path}[{index}]"), problems);
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                interpolate(value, &crate::error::join_path(path, key), problems);
            }
        }
        _ => {}
    }
}

fn expand(text: &str) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            expanded.push_str(&rest[..start - 1]);
            expanded.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        expanded.push_str(&rest[..start]);
        let (reference, after) =
            rest[start + 2..].split_once('}').ok_or("`${` has no `}`; write `$${` for the text itself")?;
        let name = reference.strip_prefix("env:").ok_or_else(|| {
            format!("`${{{reference}}}` is not known; write `${{env:NAME}}`, or `$${{` for the text itself")
        })?;
        expanded.push_str(
            &std::env::var(name).map_err(|_| format!("the environment variable {name} is not set"))?,
        );
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}
