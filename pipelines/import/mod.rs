//! From a `prometheus.yml` to a configuration of ours. The scrape configs go into the source as they are, but for
//! what they inherit and for paths, which are relative to their file there; what does not map is told line by
//! line. The judge of what maps is the program itself: what it would refuse is left out, and said.

mod file;
mod jobs;
mod lines;

use std::fmt;
use std::path::Path;

use prometheus_streams_core::config::Config;
use prometheus_streams_core::error::{BoxError, ConfigError, Problem};
use prometheus_streams_plugins::sources::http_scrape::scrape_config_lacks;
use serde_json::{Map, Value, json};

use self::file::PromFile;
use self::jobs::Job;
use crate::check;

/// Where the scrape configs are in what comes out.
const JOBS: &str = "pipelines.poller.source.scrape_configs[";
const SOURCE: &str = "pipelines.poller.source.";
const LABELS: &str = "pipelines.poller.transforms[0].add.";

/// What becomes of the sections that have nothing to do with scraping.
const ELSEWHERE: [(&str, &str); 8] = [
    ("rule_files", "rules are evaluated by a Prometheus where the scrapes land, not here"),
    ("alerting", "alerts are raised by a Prometheus where the scrapes land, not here"),
    ("remote_write", "scrapes go into a stream; who wants them elsewhere reads them from there"),
    ("remote_read", "nothing is stored here that queries could join"),
    ("storage", "nothing is stored here"),
    ("tracing", "there is no tracing"),
    ("otlp", "metrics are scraped, not received"),
    ("runtime", "there is no Go runtime to tune"),
];

/// The keys of `global` that are for queries and rules.
const FOR_QUERIES: [&str; 6] = [
    "evaluation_interval",
    "rule_query_offset",
    "query_log_file",
    "query_max_series",
    "query_max_samples_read",
    "query_max_duration",
];

/// The keys of `global` that are defaults for scrape configs.
const INHERITED: [&str; 10] = [
    "scrape_protocols",
    "body_size_limit",
    "sample_limit",
    "target_limit",
    "label_limit",
    "label_name_length_limit",
    "label_value_length_limit",
    "keep_dropped_targets",
    "scrape_native_histograms",
    "always_scrape_classic_histograms",
];

/// What to say of a key that this program does not have yet.
const NOT_YET: &str = "Prometheus has this, prometheus-streams does not yet";

/// What an import comes to.
pub(crate) struct Import {
    /// The configuration.
    pub(crate) yaml: String,
    /// What did not map.
    pub(crate) notes: Vec<Note>,
    /// Whether everything about scraping did.
    pub(crate) is_whole: bool,
}

/// Something that did not map, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    file: String,
    line: usize,
    path: String,
    text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.path, self.text)
    }
}

/// Translates the file at `path`.
///
/// # Errors
/// It cannot be read, or is no `prometheus.yml` at all.
pub(crate) fn import(path: &Path) -> Result<Import, ConfigError> {
    let file = PromFile::read(path).map_err(|error| {
        let problem = Problem { origin: path.display().to_string(), ..Problem::new("", error) };
        ConfigError { problems: vec![problem] }
    })?;
    let mut importer = Importer::new(&file);
    importer.sections();
    importer.leave_out_what_is_refused();
    let yaml = importer.yaml().map_err(|error| ConfigError::at("", error))?;
    importer.notes.sort_by(|a, b| {
        (&a.file != file.name(), &a.file, a.line).cmp(&(&b.file != file.name(), &b.file, b.line))
    });
    Ok(Import { yaml, notes: importer.notes, is_whole: importer.is_whole })
}

struct Importer<'a> {
    file: &'a PromFile,
    /// Keys of the source.
    source: Map<String, Value>,
    /// What scrape configs inherit.
    inherited: Map<String, Value>,
    labels: Map<String, Value>,
    jobs: Vec<Job>,
    notes: Vec<Note>,
    is_whole: bool,
}

impl<'a> Importer<'a> {
    fn new(file: &'a PromFile) -> Self {
        Self {
            file,
            source: Map::new(),
            inherited: Map::new(),
            labels: Map::new(),
            jobs: Vec::new(),
            notes: Vec::new(),
            is_whole: true,
        }
    }

    /// Notes what did not map.
    fn note(&mut self, file: &PromFile, path: &str, text: impl Into<String>) {
        let note = Note {
            file: file.name().clone(),
            line: file.line(path),
            path: path.to_owned(),
            text: text.into(),
        };
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The same for something about scraping.
    fn lack(&mut self, file: &PromFile, path: &str, text: impl Into<String>) {
        self.is_whole = false;
        self.note(file, path, text);
    }

    fn sections(&mut self) {
        let file = self.file;
        // What is inherited must be known before the scrape configs are read.
        if let Some(Value::Object(global)) = file.sections().get("global") {
            self.global(global);
        }
        for (key, value) in file.sections() {
            let elsewhere = ELSEWHERE.iter().find(|(section, _)| section == key);
            match (key.as_str(), elsewhere) {
                _ if value.is_null() => {}
                ("global", _) if value.is_object() => {}
                ("scrape_configs", _) => self.scrape_configs(file),
                ("scrape_config_files", _) => self.scrape_config_files(value),
                (_, Some((_, text))) => self.note(file, key, *text),
                _ => self.note(file, key, "is no section of a prometheus.yml that could be mapped"),
            }
        }
    }

    fn global(&mut self, global: &Map<String, Value>) {
        let file = self.file;
        for (key, value) in global {
            let path = format!("global.{key}");
            match key.as_str() {
                _ if jobs::is_nothing(value) => {}
                "scrape_interval" => self.pace("interval", value),
                "scrape_timeout" => self.pace("timeout", value),
                "external_labels" => self.external_labels(value),
                key if INHERITED.contains(&key) => {
                    self.inherited.insert(key.to_owned(), value.clone());
                }
                key if FOR_QUERIES.contains(&key) => {
                    self.note(file, &path, "rules and queries belong to a Prometheus where the scrapes land");
                }
                key if jobs::is_not_yet(key) => {
                    if scrape_config_lacks(key, value) {
                        self.lack(file, &path, NOT_YET);
                    }
                }
                _ => self.lack(file, &path, "is no key of Prometheus"),
            }
        }
    }

    fn pace(&mut self, key: &str, value: &Value) {
        let text = value.as_str().unwrap_or_default();
        let text = jobs::duration(text).unwrap_or_else(|| text.to_owned());
        self.source.insert(key.to_owned(), json!(text));
    }

    fn external_labels(&mut self, value: &Value) {
        let file = self.file;
        for (name, value) in value.as_object().into_iter().flatten() {
            let path = format!("global.external_labels.{name}");
            if matches!(name.as_str(), "job" | "instance") {
                self.note(file, &path, "has no effect: every target has a label of this name, and that wins");
                continue;
            }
            self.note(
                file,
                &path,
                format!(
                    "becomes a label of every target, in place of one that it may have; a sample's own label of \
                     this name becomes exported_{name}"
                ),
            );
            self.labels.insert(name.clone(), json!(jobs::external_label(value)));
        }
    }

    fn scrape_config_files(&mut self, patterns: &Value) {
        let file = self.file;
        for (index, pattern) in patterns.as_array().into_iter().flatten().enumerate() {
            let path = format!("scrape_config_files[{index}]");
            let pattern = pattern.as_str().unwrap_or_default();
            let found = file.matching(pattern);
            if found.is_empty() {
                self.lack(file, &path, format!("there is no file {pattern:?} to be read here"));
            }
            for part in found {
                match PromFile::read(&part) {
                    Ok(part) => self.scrape_configs(&part),
                    Err(error) => self.lack(file, &path, format!("{}: {error}", part.display())),
                }
            }
        }
    }

    fn scrape_configs(&mut self, file: &PromFile) {
        let Some(list) = file.sections().get("scrape_configs").and_then(Value::as_array) else {
            if file.sections().get("scrape_configs").is_some_and(|list| !list.is_null()) {
                self.lack(file, "scrape_configs", "is no list of scrape configs");
            }
            return;
        };
        for (index, settings) in list.iter().enumerate() {
            let path = format!("scrape_configs[{index}]");
            match settings.as_object() {
                Some(settings) => {
                    let mut job = Job::new(file, &path, settings, &self.inherited);
                    for key in job.take_what_is_not_yet() {
                        self.lack(
                            file,
                            &format!("{path}.{key}"),
                            format!("{NOT_YET}; the job goes without it"),
                        );
                    }
                    self.jobs.push(job);
                }
                None => self.lack(file, &path, "is no scrape config"),
            }
        }
    }

    /// Asks the program what it would refuse, and takes that out, until it refuses nothing.
    fn leave_out_what_is_refused(&mut self) {
        while let Err(error) = self.verdict() {
            let mut out = Vec::new();
            let mut changed = false;
            for problem in error.problems {
                let job = problem.path.strip_prefix(JOBS).and_then(|rest| rest.split_once(']'));
                if let Some((index, rest)) = job {
                    let Ok(index) = index.parse::<usize>() else { continue };
                    self.blame_job(index, rest.trim_start_matches('.'), &problem.message, &mut out);
                } else {
                    changed |= self.blame_global(&problem);
                }
            }
            out.sort_unstable();
            out.dedup();
            changed |= !out.is_empty();
            for index in out.into_iter().rev() {
                self.jobs.remove(index);
            }
            if !changed {
                break;
            }
        }
    }

    fn verdict(&self) -> Result<(), ConfigError> {
        let yaml = self.yaml().map_err(|error| ConfigError::at("", error))?;
        check::build(Config::from_yaml(&yaml)?).map(drop)
    }

    /// A job with a mistake is left out. A file that is only on another machine is no mistake.
    fn blame_job(&mut self, index: usize, path: &str, message: &str, out: &mut Vec<usize>) {
        let Some(job) = self.jobs.get(index) else { return };
        let (file, path) = (job.file(), [job.path(), path].join(if path.is_empty() { "" } else { "." }));
        if message.starts_with("cannot read ") {
            self.note(&file, &path, format!("{message}; the program must be able to read it where it runs"));
        } else {
            self.lack(&file, &path, format!("{message}; the job is left out"));
            out.push(index);
        }
    }

    /// Takes out what `global` has put where the program does not take it; true if there was something.
    fn blame_global(&mut self, problem: &Problem) -> bool {
        let file = self.file;
        if let Some(name) = problem.path.strip_prefix(LABELS) {
            let path = format!("global.external_labels.{name}");
            if problem.message.ends_with("is not set") {
                self.note(
                    file,
                    &path,
                    format!("{} here; it must be where the program runs", problem.message),
                );
                return false;
            }
            self.note(file, &path, problem.message.as_str());
            return self.labels.remove(name).is_some();
        }
        match problem.path.strip_prefix(SOURCE) {
            Some(key @ ("interval" | "timeout")) => {
                self.lack(file, &format!("global.scrape_{key}"), problem.message.as_str());
                self.source.remove(key).is_some()
            }
            _ => {
                self.lack(file, "scrape_configs", problem.message.as_str());
                false
            }
        }
    }

    /// The configuration as it is now.
    fn yaml(&self) -> Result<String, BoxError> {
        let mut source = Map::new();
        source.insert("type".to_owned(), json!("http_scrape"));
        source.extend(self.source.clone());
        source.insert("scrape_configs".to_owned(), self.jobs.iter().map(Job::settings).collect());
        let mut poller = Map::new();
        poller.insert("source".to_owned(), Value::Object(source));
        if !self.labels.is_empty() {
            poller.insert("transforms".to_owned(), json!([{ "type": "labeler", "add": self.labels }]));
        }
        poller.insert(
            "sinks".to_owned(),
            json!([{
                "type": "nats",
                "urls": ["nats://127.0.0.1:4222"],
                "stream": { "name": "PROMETHEUS", "max_age": "10m" },
                "subject": "prometheus.{publisher}.{job}.{instance}",
            }]),
        );
        let yaml = serde_yaml::to_string(&json!({
            "extensions": { "monitor": { "listen": "127.0.0.1:10000" } },
            "pipelines": { "poller": poller },
        }))?;
        let sinks = "\n    sinks:\n";
        let comment = "\n    # Put here where your scrapes go; this is an example.";
        let yaml = yaml.replacen(sinks, &format!("{comment}{sinks}"), 1);
        Ok(format!("# For `prometheus-streams run`; imported from {}.\n{yaml}", self.file.name()))
    }
}
