//! A file of Prometheus: `prometheus.yml` itself, or one that its `scrape_config_files` lead to.

use std::path::{Path, PathBuf};

use prometheus_streams_core::config;
use prometheus_streams_core::error::BoxError;
use serde_json::{Map, Value};

use super::lines;

/// A file that has been read.
#[derive(Clone, Debug)]
pub(super) struct PromFile {
    name: String,
    /// Where relative paths in it begin.
    dir: PathBuf,
    text: String,
    sections: Map<String, Value>,
}

impl PromFile {
    pub(super) fn read(path: &Path) -> Result<Self, BoxError> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read the file: {error}"))?;
        let sections = match config::read_yaml(&text)? {
            Value::Null => Map::new(),
            Value::Object(sections) => sections,
            _ => return Err("this is no configuration of Prometheus".into()),
        };
        let absolute = std::path::absolute(path)?;
        let dir = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self { name: path.display().to_string(), dir, text, sections })
    }

    /// As the user called it.
    pub(super) fn name(&self) -> &String {
        &self.name
    }

    pub(super) fn sections(&self) -> &Map<String, Value> {
        &self.sections
    }

    /// The line of what stands at `path`.
    pub(super) fn line(&self, path: &str) -> usize {
        lines::line(&self.text, &lines::steps(path))
    }

    /// A path that stands in the file.
    pub(super) fn absolute(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// The files that a pattern in the file leads to, in the order of their names.
    pub(super) fn matching(&self, pattern: &str) -> Vec<PathBuf> {
        let pattern = self.absolute(pattern);
        glob::glob(&pattern.to_string_lossy()).map(|found| found.flatten().collect()).unwrap_or_default()
    }
}
