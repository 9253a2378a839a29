//! Reads a settings tree into a typed struct and finds *every* mistake, not only the first: after
//! each error the offending value is taken out and reading starts over, until it passes or nothing
//! is left to take out.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::error::{BuildError, join_path};

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
pub(crate) fn read_leniently<T: DeserializeOwned>(mut tree: Value) -> Read<T> {
    let mut problems = BuildError::default();
    let mut removed = Removed::default();
    loop {
        match serde_path_to_error::deserialize::<_, T>(tree.clone()) {
            Ok(value) => return Read { value: Some(value), problems, removed },
            Err(error) => {
                let steps = steps(error.path());
                if !removed.covers(&steps) {
                    problems.add(removed.original_path(&steps), without_text(error.into_inner().to_string()));
                }
                if problems.problems().len() >= MOST_PROBLEMS || !removed.take_out(&mut tree, steps) {
                    return Read { value: None, problems, removed };
                }
            }
        }
    }
}

/// A text where none belongs may be a secret; where it stands is said, and what it is need not be.
fn without_text(message: String) -> String {
    let text = message.strip_prefix("invalid type: string \"");
    match text.and_then(|text| text.rsplit_once("\", expected ")) {
        Some((_, expected)) => format!("invalid type: string, expected {expected}"),
        None => message,
    }
}

/// What could be read of a tree, and all that is wrong with it.
pub(crate) struct Read<T> {
    pub(crate) value: Option<T>,
    pub(crate) problems: BuildError,
    pub(crate) removed: Removed,
}

/// Reads `tree` as a `C` and builds it.
///
/// # Errors
/// Every mistake of both steps, with its path relative to `tree`.
pub fn build<C: DeserializeOwned, S>(
    tree: Value,
    build: impl FnOnce(C) -> Result<S, BuildError>,
) -> Result<S, BuildError> {
    let Read { value, mut problems, removed } = read_leniently::<C>(tree);
    let Some(config) = value else { return Err(problems) };
    match build(config) {
        Ok(stage) => problems.or(stage),
        Err(more) => {
            for problem in more.problems() {
                let path = removed.in_file(&problem.path);
                // What was taken out may be missed now; that is no mistake of the file.
                if !problems.touches(&path) {
                    problems.add(path, &problem.message);
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
#[derive(Clone, Debug, Default)]
pub(crate) struct Removed {
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
                Step::Index(index) => {
                    let gone = self.indexes.get(&original);
                    Step::Index(gone.map_or(*index, |gone| index_in_file(*index, gone)))
                }
                key => key.clone(),
            };
            original.push(step);
        }
        original
    }

    fn original_path(&self, steps: &[Step]) -> String {
        written(&self.original(steps))
    }

    /// The path in the file of a path in what is left of it.
    pub(crate) fn in_file(&self, path: &str) -> String {
        let mut path = path.to_owned();
        // Sorted by path: an outer list is put right before the lists in it are looked for.
        for (list, gone) in &self.indexes {
            let list = written(list);
            let element = path.strip_prefix(&list).and_then(|rest| rest.strip_prefix('[')?.split_once(']'));
            let Some((index, rest)) = element else { continue };
            let Ok(index) = index.parse() else { continue };
            path = format!("{list}[{}]{rest}", index_in_file(index, gone));
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
            (Some(Value::Object(map)), Step::Key(key)) => map.shift_remove(key).is_some(),
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

/// The index in the file of the element at `index` of a list from which those at `gone` were taken out.
fn index_in_file(index: usize, gone: &[usize]) -> usize {
    gone.iter().fold(index, |index, gone| if *gone <= index { index + 1 } else { index })
}

fn written(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Key(key) => path = join_path(&path, key),
            Step::Index(index) => path = format!("{path}[{index}]"),
        }
    }
    path
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
        read_leniently::<Settings>(tree)
            .problems
            .problems()
            .iter()
            .map(|problem| problem.path.clone())
            .collect()
    }

    #[test]
    fn a_text_in_the_wrong_place_is_not_repeated() {
        let tree = json!({ "interval": "1s", "targets": "the \", expected password" });
        let problems = read_leniently::<Settings>(tree).problems;
        assert_eq!(problems.problems()[0].message, "invalid type: string, expected a sequence");
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
    fn what_building_finds_behind_a_removed_element_has_the_index_of_the_file() {
        let tree = json!({ "interval": "1s", "targets": [{ "url": 1 }, { "url": "" }, { "url": "ok" }, { "url": "" }] });
        let error = build(tree, |settings: Settings| {
            let mut problems = BuildError::default();
            for (index, target) in
                settings.targets.iter().enumerate().filter(|(_, target)| target.url.is_empty())
            {
                problems.add(format!("targets[{index}].url"), format!("{:?} is empty", target.url));
            }
            problems.or(())
        });
        let error = error.unwrap_err();
        let paths: Vec<_> = error.problems().iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["targets[0].url", "targets[1].url", "targets[3].url"]);
    }

    #[test]
    fn a_missing_field_of_the_whole_is_reported_once() {
        assert_eq!(paths(json!({})), [""]);
        assert_eq!(paths(json!({ "interval": true })), ["interval"]);
        assert_eq!(paths(json!("text")), [""]);
    }
}
