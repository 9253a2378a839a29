//! Layers a configuration: files in the order given, each over the one before it, then the environment.
//! Remembers which layer said what, so that a mistake can be blamed on its file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{ConfigBuilder, Map, Source, builder::DefaultState};
use serde_json::Value;

use super::written;
use crate::error::{BoxError, ConfigError, Problem};

/// Environment variables that begin so override the files: `PROMETHEUS_STREAMS__LOG__LEVEL=debug`.
pub(super) const ENV_PREFIX: &str = "PROMETHEUS_STREAMS__";
/// Between the keys of a path in the name of an environment variable.
const ENV_SEPARATOR: &str = "__";

/// The merged tree, and where it came from.
#[derive(Clone, Default)]
pub(super) struct Layers {
    pub(super) tree: Value,
    /// Each layer's name and what it says, the strongest last.
    origins: Vec<(String, Value)>,
    /// References to the environment that lead nowhere.
    pub(super) problems: Vec<Problem>,
    /// The texts that came from the environment by `${env:NAME}`, by path. No message may show them.
    expanded: BTreeMap<String, String>,
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
                Err(error) => problems.push(whole_layer(&file.display().to_string(), error)),
            }
        }
        if !problems.is_empty() {
            return Err(ConfigError { problems });
        }
        Self::merge(origins, env.into_iter().collect())
    }

    /// One layer from a text in YAML.
    pub(super) fn from_yaml(
        text: &str,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let tree = parse_yaml(text).map_err(|error| ConfigError::at("", error))?;
        Self::merge(vec![(String::new(), tree)], env.into_iter().collect())
    }

    fn merge(mut origins: Vec<(String, Value)>, env: BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut tree = merged(origins.iter().map(|(name, tree)| (name.as_str(), tree)))?;
        for (name, value) in env.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)) {
            let (layer, said) = env_layer(&tree, name, value);
            tree = merged([("", &tree), (name, &layer)])?;
            origins.push((name.clone(), said));
        }
        let mut expansion = Expansion { env: &env, expanded: BTreeMap::new(), problems: Vec::new() };
        expansion.expand_all(&mut tree, "");
        let Expansion { expanded, problems, .. } = expansion;
        Ok(Self { tree, origins, problems, expanded })
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
            if let Some(secret) = self.expanded.get(&problem.path).filter(|text| !text.is_empty()) {
                problem.message = problem.message.replace(secret, "<from the environment>");
            }
        }
        ConfigError { problems }
    }
}

/// How many of the steps lead somewhere in the tree. A key that holds dots takes several at once.
fn depth(tree: &Value, steps: &[&str]) -> usize {
    let ways = (1..=steps.len()).filter_map(|taken| {
        let key = steps[..taken].join(".");
        let next = match tree {
            Value::Array(list) => key.parse().ok().and_then(|index: usize| list.get(index)),
            other => other.get(&key),
        };
        next.map(|next| taken + depth(next, &steps[taken..]))
    });
    ways.max().unwrap_or(0)
}

/// A mistake of a layer as a whole.
fn whole_layer(origin: &str, error: impl std::fmt::Display) -> Problem {
    Problem { origin: origin.to_owned(), ..Problem::new("", error) }
}

fn read_file(file: &Path) -> Result<Value, BoxError> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read the file: {error}"))?;
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => parse_yaml(&text),
        Some("toml") => parse_toml(&text),
        _ => Err("its name must end in .yaml, .yml or .toml, so that its format is known".into()),
    }
}

fn parse_yaml(text: &str) -> Result<Value, BoxError> {
    settings_map(read_yaml(text)?)
}

/// A text in YAML, as a configuration is read: no key stands twice, `<<` is known, and a number that could be meant
/// as a text stays as it is written.
///
/// # Errors
/// It is not YAML, or has a key that is no text.
pub fn read_yaml(text: &str) -> Result<Value, BoxError> {
    let not_yaml = |error| format!("this is not YAML: {error}");
    // By way of YAML's own value, which refuses a key that stands twice and knows `<<`.
    let mut value: serde_yaml::Value = serde_yaml::from_str(text).map_err(not_yaml)?;
    written::keep_numbers(&mut value, text).map_err(not_yaml)?;
    value.apply_merge().map_err(not_yaml)?;
    Ok(serde_json::to_value(value).map_err(|error| format!("keys must be text: {error}"))?)
}

fn parse_toml(text: &str) -> Result<Value, BoxError> {
    let tree = toml::from_str(text).map_err(|error: toml::de::Error| {
        // The error's own text shows the line, and there may be a secret on it.
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        format!("this is not TOML: line {line}: {}", error.message())
    })?;
    settings_map(tree)
}

/// A tree whose sections all say something: an empty one is as good as none.
fn settings_map(tree: Value) -> Result<Value, BoxError> {
    let mut map = match tree {
        Value::Null => serde_json::Map::new(),
        Value::Object(map) => map,
        _ => return Err("the file must be a map of settings, as `pipelines: ...`".into()),
    };
    map.retain(|_, section| !section.is_null());
    // The layers are merged by a library that would take such a key for a path.
    if let Some(key) = map.keys().find(|key| key.contains(['.', '[', ']'])) {
        return Err(format!("there is no setting {key:?}; write nested settings below each other").into());
    }
    Ok(Value::Object(map))
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

fn merged<'a>(layers: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Result<Value, ConfigError> {
    let mut builder = ConfigBuilder::<DefaultState>::default();
    for (origin, tree) in layers {
        let layer = serde_json::from_value(tree.clone())
            .map_err(|error| ConfigError { problems: vec![whole_layer(origin, error)] })?;
        builder = builder.add_source(Layer(layer));
    }
    let merged = builder.build().and_then(config::Config::try_deserialize::<Value>);
    merged.map_err(|error| ConfigError::at("", error))
}

/// The layer of one variable, and what it says by itself. Its keys find those of the files whatever
/// their case; an index finds its element.
fn env_layer(tree: &Value, name: &str, value: &str) -> (Value, Value) {
    let path = name.strip_prefix(ENV_PREFIX).unwrap_or(name);
    let mut here = Some(tree);
    let mut places = Vec::new();
    for part in path.split(ENV_SEPARATOR) {
        let (key, next) = find(here, part);
        places.push((key, here));
        here = next;
    }
    let mut said = env_value(value);
    let mut layer = said.clone();
    for (key, around) in places.into_iter().rev() {
        layer = match (around, key.parse::<usize>()) {
            // A list is replaced whole when layers merge, so the layer must carry all of it.
            (Some(Value::Array(list)), Ok(index)) if index < list.len() => {
                let mut list = list.clone();
                overlay(&mut list[index], layer);
                Value::Array(list)
            }
            _ => serde_json::json!({ &key: layer }),
        };
        said = serde_json::json!({ key: said });
    }
    (layer, said)
}

/// The value of a variable: a list or a map in YAML's brackets, a number or truth value that is written
/// just so, a text in double quotes, and else the text as it is, because passwords hold anything.
fn env_value(text: &str) -> Value {
    let read = serde_yaml::from_str::<Value>(text).ok();
    match (read, text.as_bytes().first()) {
        (Some(value @ (Value::Array(_) | Value::Object(_))), Some(b'[' | b'{')) => value,
        (Some(value @ (Value::Bool(_) | Value::Number(_))), _) if value.to_string().as_str() == text => value,
        (Some(value @ Value::String(_)), Some(b'"')) => value,
        _ => Value::String(text.to_owned()),
    }
}

fn find<'a>(tree: Option<&'a Value>, part: &str) -> (String, Option<&'a Value>) {
    match tree {
        Some(Value::Array(list)) => {
            (part.to_owned(), part.parse().ok().and_then(|index: usize| list.get(index)))
        }
        Some(Value::Object(map)) => {
            let alike = || map.iter().find(|(key, _)| key.eq_ignore_ascii_case(part));
            match map.get_key_value(part).or_else(alike) {
                Some((key, value)) => (key.clone(), Some(value)),
                None => (part.to_ascii_lowercase(), None),
            }
        }
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

/// Keys whose texts give `${1}` and `${name}` a meaning of their own, as the rules of relabelling do.
const TEMPLATES: [&str; 2] = ["replacement", "target_label"];

/// Puts the values of environment variables where texts say `${env:NAME}`; `$${` stands for `${`.
struct Expansion<'a> {
    env: &'a BTreeMap<String, String>,
    expanded: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl Expansion<'_> {
    fn expand_all(&mut self, tree: &mut Value, path: &str) {
        match tree {
            Value::String(text) if text.contains("${") => match self.expand(text, is_template(path)) {
                Ok(expanded) if expanded == *text => {}
                Ok(expanded) => {
                    self.expanded.insert(path.to_owned(), expanded.clone());
                    *text = expanded;
                }
                Err(message) => self.problems.push(Problem::new(path, message)),
            },
            Value::Array(list) => {
                for (index, value) in list.iter_mut().enumerate() {
                    self.expand_all(value, &format!("{path}[{index}]"));
                }
            }
            Value::Object(map) => {
                for (key, value) in map {
                    self.expand_all(value, &crate::error::join_path(path, key));
                }
            }
            _ => {}
        }
    }

    /// In a template only `${env:` begins a reference, and whatever else has a dollar stays as it is.
    fn expand(&self, text: &str, is_template: bool) -> Result<String, String> {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let after = &rest[start + 2..];
            if is_template && !after.starts_with("env:") {
                expanded.push_str(&rest[..start + 2]);
                rest = after;
                continue;
            }
            if rest[..start].ends_with('$') {
                expanded.push_str(&rest[..start - 1]);
                expanded.push_str("${");
                rest = after;
                continue;
            }
            expanded.push_str(&rest[..start]);
            // What is not a reference may be a password, and is not shown.
            let unclear = "`${` begins a reference like `${env:NAME}`; write `$${` for the text itself";
            let (reference, after) = after.split_once('}').ok_or(unclear)?;
            let name = reference.strip_prefix("env:").ok_or(unclear)?;
            let value =
                self.env.get(name).ok_or_else(|| format!("the environment variable {name} is not set"))?;
            expanded.push_str(value);
            rest = after;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }
}

fn is_template(path: &str) -> bool {
    path.rsplit('.').next().is_some_and(|key| TEMPLATES.contains(&key))
}
