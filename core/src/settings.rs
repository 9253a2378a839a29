//! Reads a settings tree into a typed struct and finds *every* mistake, not only the first: after
//! each error the offending value is taken out and reading starts over, until it passes or nothing
//! is left to take out.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::error::BuildError;

/// As many mistakes as anybody wants to read at once.
const MOST_PROBLEMS: usize = 50;

/// Reads `tree` as a `T`.
///
/// # Errors
/// Every mistake, with its path relative to `tree`.
pub fn read<T: DeserializeOwned>(tree: Value) -> Result<T, BuildError> {
    build(tree, Ok)
}

/// Reads `tree` as a `T`: the value, if anything of it could be read, and every mistake, with its path
/// relative to `tree`. Where there are mistakes the value is good for finding more, and for nothing else.
pub(crate) fn read_leniently<T: DeserializeOwned>(mut tree: Value) -> (Option<T>, BuildError) {
    let mut problems = BuildError::default();
    let mut removed = Removed::default();
    loop {
        match serde_path_to_error::deserialize::<_, T>(tree.clone()) {
            Ok(value) => return (Some(value), problems),
            Err(error) => {
                let steps = steps(error.path());
                if !removed.covers(&steps) {
                    problems.add(removed.original_path(&steps), error.into_inner());
                }
                if problems.problems().len() >= MOST_PROBLEMS || !removed.take_out(&mut tree, steps) {
                    return (None, problems);
                }
            }
        }
    }
}

/// Reads `tree` as a `C` and builds it.
///
/// # Errors
/// Every mistake of both steps, with its path relative to `tree`.
pub fn build<C: DeserializeOwned, S>(
    tree: Value,
    build: impl FnOnce(C) -> Result<S, BuildError>,
) -> Result<S, BuildError> {
    let (config, mut problems) = read_leniently::<C>(tree);
    let Some(config) = config else { return Err(problems) };
    match build(config) {
        Ok(stage) => problems.or(stage),
        Err(more) => {
            // What was taken out may be missed now; that is no mistake of the file.
            for problem in more.problems() {
                if !problems.touches(&problem.path) {
                    problems.add(&problem.path, &problem.message);
                }
            }
            Err(problems)
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Key(String),
    Index(usize),
}

fn steps(path: &Path) -> Vec<Step> {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// What has been taken out of a tree, so that the paths of later mistakes are those of the file.
#[derive(Default)]
struct Removed {
    paths: Vec<Vec<Step>>,
    /// For each list, by its original path, the original indexes that are gone, sorted.
    indexes: BTreeMap<Vec<Step>, Vec<usize>>,
}

impl Removed {
    /// True when something below `steps` was taken out: what is missing there now, we removed.
    fn covers(&self, steps: &[Step]) -> bool {
        let original = self.original(steps);
        self.paths.iter().any(|path| path.len() > original.len() && path.starts_with(&original))
    }

    fn original(&self, steps: &[Step]) -> Vec<Step> {
        let mut original = Vec::with_capacity(steps.len());
        for step in steps {
            let step = match step {
                Step::Index(index) => Step::Index(self.indexes.get(&original).map_or(*index, |gone| {
                    gone.iter().fold(*index, |index, gone| if *gone <= index { index + 1 } else { index })
                })),
                key => key.clone(),
            };
            original.push(step);
        }
        original
    }

    fn original_path(&self, steps: &[Step]) -> String {
        let mut path = String::new();
        for step in self.original(steps) {
            match step {
                Step::Key(key) if path.is_empty() => path = key,
                Step::Key(key) => path = format!("{path}.{key}"),
                Step::Index(index) => path = format!("{path}[{index}]"),
            }
        }
        path
    }

    /// Removes the value at `steps`; false when that is the whole tree or is not there.
    fn take_out(&mut self, tree: &mut Value, steps: Vec<Step>) -> bool {
        let original = self.original(&steps);
        let Some((last, parents)) = steps.split_last() else { return false };
        let parent = parents.iter().try_fold(tree, |value, step| match step {
            Step::Key(key) => value.get_mut(key),
            Step::Index(index) => value.get_mut(index),
        });
        let gone = match (parent, last) {
            (Some(Value::Object(map)), Step::Key(key)) => map.remove(key).is_some(),
            (Some(Value::Array(list)), Step::Index(index)) if *index < list.len() => {
                list.remove(*index);
                if let (Some(Step::Index(index)), list) = (original.last(), &original[..original.len() - 1]) {
                    let indexes = self.indexes.entry(list.to_vec()).or_default();
                    indexes.push(*index);
                    indexes.sort_unstable();
                }
                true
            }
            _ => false,
        };
        self.paths.push(original);
        gone
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::values::Span;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Settings {
        interval: Span,
        #[serde(default)]
        targets: Vec<Target>,
        #[serde(default)]
        jobs: BTreeMap<String, Target>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Target {
        url: String,
        #[serde(default)]
        port: u16,
    }

    fn paths(tree: Value) -> Vec<String> {
        let (_, error) = read_leniently::<Settings>(tree);
        error.problems().iter().map(|problem| problem.path.clone()).collect()
    }

    #[test]
    fn every_mistake_is_found_at_its_place_in_the_file() {
        let tree = json!({
            "interval": 5,
            "unknown": 1,
            "targets": [
                { "url": 1 },
                { "url": "ok", "prot": 1 },
                { "port": 1 },
                { "url": "ok" },
                { "url": "ok", "port": 70000 },
            ],
            "jobs": { "a": { "url": [] } },
        });
        let mut found = paths(tree);
        found.sort();
        assert_eq!(
            found,
            [
                "interval",
                "jobs.a.url",
                "targets[0].url",
                "targets[1].prot",
                "targets[2]",
                "targets[4].port",
                "unknown"
            ]
        );
    }

    #[test]
    fn building_goes_on_after_reading_and_does_not_complain_of_what_reading_took_out() {
        let tree = json!({ "interval": "0s", "targets": [{ "url": 1 }] });
        let error = build(tree, |settings: Settings| {
            let mut problems = BuildError::default();
            problems.add("interval", "must be more than zero");
            if settings.targets.is_empty() {
                problems.add("targets", "must not be empty");
            }
            problems.or(())
        });
        let error = error.unwrap_err();
        let paths: Vec<_> = error.problems().iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["targets[0].url", "interval"]);
    }

    #[test]
    fn a_missing_field_of_the_whole_is_reported_once() {
        assert_eq!(paths(json!({})), [""]);
        assert_eq!(paths(json!({ "interval": true })), ["interval"]);
        assert_eq!(paths(json!("text")), [""]);
    }
}
