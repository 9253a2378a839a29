//! The classic file: the configuration of prometheus-streams 1.0, which still works unchanged.
//!
//! It is read strictly, translated into the settings of pipelines, and goes on from there like any
//! other configuration. Mistakes that show only then are told in the words of the classic file.

mod file;
mod login;
mod translate;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use prometheus_streams_core::config::Config;
use prometheus_streams_core::error::{BuildError, ConfigError};
use prometheus_streams_core::settings;
use serde_json::Value;

use self::file::ClassicFile;
use self::translate::{Parts, Translator};

/// What to say to who asks for `enroll`.
pub(crate) const NO_ENROLL: &str = "is not offered any more: let Puppet's own agent ask for the certificate \
    (`puppet ssl bootstrap`), or take one of any authority, and name its files in `tls:`";

/// What the classic program was started as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// Scrapes, and publishes into a stream.
    Poller,
    /// Reads a stream, and pushes into a gateway.
    Receiver,
}

impl Role {
    /// The name of its pipeline.
    fn name(self) -> &'static str {
        match self {
            Self::Poller => "poller",
            Self::Receiver => "receiver",
        }
    }
}

/// Something that a key asked for and that is not done as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// The key, as `poller_stream.cluster_id`.
    pub(crate) path: String,
    /// What became of it.
    pub(crate) text: String,
}

/// A classic file as the settings of pipelines.
#[derive(Debug)]
pub(crate) struct Translation {
    /// Where it was read.
    file: PathBuf,
    /// The settings, in the schema of `run`.
    yaml: String,
    /// What its user should know.
    pub(crate) notes: Vec<Note>,
    /// Paths in the translation, and those in the classic file that they come from.
    places: Vec<(String, String)>,
}

impl Translation {
    /// The translation as a configuration.
    ///
    /// # Errors
    /// An environment variable that the file names is not set.
    pub(crate) fn config(&self) -> Result<Config, ConfigError> {
        Config::from_yaml(&self.yaml)
    }

    /// The same mistakes, in the words of the classic file.
    pub(crate) fn blame(&self, mut mistakes: ConfigError) -> ConfigError {
        for problem in &mut mistakes.problems {
            let classic = self.places.iter().filter_map(|(new, classic)| {
                let rest = problem.path.strip_prefix(new.as_str())?;
                (rest.is_empty() || rest.starts_with(['.', '[']))
                    .then(|| (new.len(), format!("{classic}{rest}")))
            });
            if let Some((_, path)) = classic.max_by_key(|(length, _)| *length) {
                problem.path = path;
            }
        }
        in_file(&self.file, mistakes)
    }
}

/// Translates the file at `path`; without a role, for all the roles that the file has settings for.
///
/// # Errors
/// Every mistake in the file, with its path.
pub(crate) fn translate(path: &Path, role: Option<Role>) -> Result<Translation, ConfigError> {
    let read = std::fs::read_to_string(path)
        .map_err(|error| BuildError::at("", format!("cannot read the file: {error}")))
        .and_then(|text| parse(&text))
        .and_then(|tree| settings::build(tree, |file| translate_file(path, &file, role)));
    read.map_err(|mistakes| in_file(path, mistakes.into()))
}

fn translate_file(path: &Path, file: &ClassicFile, role: Option<Role>) -> Result<Translation, BuildError> {
    let roles = role.map_or_else(|| roles_of(file), |role| vec![role]);
    let Parts { tree, notes, places } = Translator::new(file).translate(&roles)?;
    let yaml = serde_yaml::to_string(&tree).map_err(|error| BuildError::at("", error))?;
    Ok(Translation { file: path.to_owned(), yaml, notes, places })
}

fn in_file(path: &Path, mut mistakes: ConfigError) -> ConfigError {
    for problem in &mut mistakes.problems {
        problem.origin = path.display().to_string();
    }
    mistakes
}

/// Prints a translation as a file for `run`.
///
/// # Errors
/// Every mistake in the file, with its path.
pub(crate) fn convert(path: &Path, role: Option<Role>) -> Result<String, ConfigError> {
    let translation = translate(path, role)?;
    let mut text = format!("# For `prometheus-streams run`; converted from {}.\n", path.display());
    for note in &translation.notes {
        let _ = writeln!(text, "# {}: {}.", note.path, note.text);
    }
    text.push_str(&translation.yaml);
    Ok(text)
}

fn parse(text: &str) -> Result<Value, BuildError> {
    // By way of YAML's own value, which refuses a key that comes twice, and knows `<<`.
    let mut tree: serde_yaml::Value = serde_yaml::from_str(text)
        .map_err(|error| BuildError::at("", format!("this is not YAML: {error}")))?;
    tree.apply_merge().map_err(|error| BuildError::at("", format!("this is not YAML: {error}")))?;
    match tree {
        serde_yaml::Value::Null => Ok(Value::Object(serde_json::Map::new())),
        tree => serde_json::to_value(tree).map_err(|error| BuildError::at("", error)),
    }
}

/// The roles that a file has settings for; the poller where it has none, so that what is missing shows.
fn roles_of(file: &ClassicFile) -> Vec<Role> {
    let receiver = file.receiver_stream.is_some() || file.push_gateway.is_some();
    let poller = file.poller_stream.is_some() || !receiver;
    let roles = [(poller, Role::Poller), (receiver, Role::Receiver)];
    roles.into_iter().filter_map(|(has, role)| has.then_some(role)).collect()
}

#[cfg(test)]
mod tests;
