//! Rules as they stand in a configuration, and the checks that Prometheus makes of them.

use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

use super::pattern::Pattern;
use super::rule::{Action, Rule};
use super::template::Template;
use super::text::{some_text, text, texts};

const DEFAULT_SEPARATOR: &str = ";";
const DEFAULT_REGEX: &str = "(.*)";
const DEFAULT_REPLACEMENT: &str = "$1";

/// A relabelling rule, in the syntax of Prometheus 3 and with its meaning.
///
/// A label name may be any text, as in Prometheus 3; what older ones read is `[a-zA-Z_][a-zA-Z0-9_]*`.
/// Where a text is asked for, a whole number or a boolean is taken as the text that it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RelabelSettings {
    /// The labels whose values, joined by `separator`, are "the value" of the rule; a label that is not
    /// there has the empty value.
    #[serde(default, deserialize_with = "texts", skip_serializing_if = "Option::is_none")]
    pub source_labels: Option<Vec<String>>,

    /// What stands between the values of `source_labels`.
    #[serde(
        default = "default_separator",
        deserialize_with = "text",
        skip_serializing_if = "is_default_separator"
    )]
    #[schemars(extend("default" = ";"))]
    pub separator: String,

    /// What the value, or for the `label...` actions the name of each label, is matched against: a
    /// regular expression in the syntax of RE2, which must match from the beginning to the end.
    #[serde(default, deserialize_with = "some_text", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("default" = "(.*)"))]
    pub regex: Option<String>,

    /// For `hashmod`: the number by which the hash of the value is divided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modulus: Option<u64>,

    /// The label that `replace`, `hashmod`, `lowercase` and `uppercase` set, and to which `keepequal` and
    /// `dropequal` compare the value. For `replace`, `$1` and the like stand for what the groups of
    /// `regex` matched.
    #[serde(default, deserialize_with = "text", skip_serializing_if = "String::is_empty")]
    pub target_label: String,

    /// For `replace` the new value of `target_label`, for `labelmap` the new name of each label. `$1`,
    /// `${1}` and `${name}` stand for what the groups of `regex` matched, and `$$` for a dollar. Braces
    /// keep a name from what follows: `$1x` is the group `1x`.
    #[serde(
        default = "default_replacement",
        deserialize_with = "text",
        skip_serializing_if = "is_default_replacement"
    )]
    #[schemars(extend("default" = "$1"))]
    pub replacement: String,

    /// What the rule does.
    #[serde(default, skip_serializing_if = "RelabelAction::is_default")]
    #[schemars(extend("default" = "replace"))]
    pub action: RelabelAction,
}

/// What a relabelling rule does. In a configuration, in lower or upper case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RelabelAction {
    /// Sets `target_label` to `replacement` if `regex` matches the value; an empty result removes it.
    #[default]
    Replace,
    /// Drops whatever has a value that `regex` does not match.
    Keep,
    /// Drops whatever has a value that `regex` matches.
    Drop,
    /// Drops whatever has a `target_label` that is not equal to the value.
    KeepEqual,
    /// Drops whatever has a `target_label` that is equal to the value.
    DropEqual,
    /// Sets `target_label` to the remainder of the hash (MD5) of the value divided by `modulus`.
    HashMod,
    /// Copies every label whose name `regex` matches to the name in `replacement`.
    LabelMap,
    /// Removes every label whose name `regex` matches.
    LabelDrop,
    /// Removes every label whose name `regex` does not match.
    LabelKeep,
    /// Sets `target_label` to the value in lower case.
    Lowercase,
    /// Sets `target_label` to the value in upper case.
    Uppercase,
}

/// A rule that cannot be: which key, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct RuleError {
    /// The key, as `regex`; of a rule in a list, as `[2].regex`.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// Checks and compiles a list of rules.
///
/// # Errors
/// Every mistake in them, with paths as `[2].regex`.
pub fn compile(list: Vec<RelabelSettings>) -> Result<Vec<Rule>, Vec<RuleError>> {
    let (mut rules, mut errors) = (Vec::with_capacity(list.len()), Vec::new());
    for (index, settings) in list.into_iter().enumerate() {
        match settings.compile() {
            Ok(rule) => rules.push(rule),
            Err(RuleError { path, message }) => {
                errors.push(RuleError { path: format!("[{index}].{path}"), message });
            }
        }
    }
    if errors.is_empty() { Ok(rules) } else { Err(errors) }
}

impl Default for RelabelSettings {
    fn default() -> Self {
        Self {
            source_labels: None,
            separator: default_separator(),
            regex: None,
            modulus: None,
            target_label: String::new(),
            replacement: default_replacement(),
            action: RelabelAction::default(),
        }
    }
}

impl RelabelSettings {
    /// Checks and compiles the rule.
    ///
    /// # Errors
    /// What Prometheus refuses, and a regex that needs too much memory.
    pub fn compile(self) -> Result<Rule, RuleError> {
        self.check_extra_keys()?;
        // Also for an action that has no use for it a regex must be one.
        let regex = self.regex.as_deref().unwrap_or(DEFAULT_REGEX);
        let pattern = Pattern::new(regex).map_err(|message| error("regex", message))?;
        let action = self.action(pattern)?;
        let source_labels = self.source_labels.unwrap_or_default();
        if let Some(index) = source_labels.iter().position(String::is_empty) {
            return Err(error(&format!("source_labels[{index}]"), "a label name cannot be empty"));
        }
        Ok(Rule { source_labels, separator: self.separator, action })
    }

    fn action(&self, pattern: Pattern) -> Result<Action, RuleError> {
        let replacement = Template::parse(&self.replacement, pattern.groups());
        Ok(match self.action {
            RelabelAction::Keep => Action::Keep(pattern),
            RelabelAction::Drop => Action::Drop(pattern),
            RelabelAction::LabelDrop => Action::LabelDrop(pattern),
            RelabelAction::LabelKeep => Action::LabelKeep(pattern),
            RelabelAction::KeepEqual => Action::KeepEqual { target: self.target()? },
            RelabelAction::DropEqual => Action::DropEqual { target: self.target()? },
            RelabelAction::Lowercase => Action::Lowercase { target: self.target()? },
            RelabelAction::Uppercase => Action::Uppercase { target: self.target()? },
            RelabelAction::HashMod => Action::HashMod { modulus: self.modulus()?, target: self.target()? },
            RelabelAction::Replace => {
                let target = Template::parse(&self.target()?, pattern.groups());
                Action::Replace { pattern, target, replacement }
            }
            RelabelAction::LabelMap if self.replacement.is_empty() => {
                return Err(error("replacement", "labelmap needs the new name of the labels here"));
            }
            RelabelAction::LabelMap => Action::LabelMap { pattern, replacement },
        })
    }

    fn target(&self) -> Result<String, RuleError> {
        if self.target_label.is_empty() {
            return Err(error(
                "target_label",
                format!("{} needs the name of a label here", self.action.name()),
            ));
        }
        Ok(self.target_label.clone())
    }

    fn modulus(&self) -> Result<NonZeroU64, RuleError> {
        let modulus = NonZeroU64::new(self.modulus.unwrap_or_default());
        modulus.ok_or_else(|| error("modulus", "hashmod needs a number above 0 here"))
    }

    /// Some actions refuse keys that they have no use for; others ignore them.
    fn check_extra_keys(&self) -> Result<(), RuleError> {
        use RelabelAction::{DropEqual, KeepEqual, LabelDrop, LabelKeep, Lowercase, Uppercase};

        let has_modulus = self.modulus.unwrap_or_default() != 0;
        let has_separator = self.separator != DEFAULT_SEPARATOR;
        let has_replacement = self.replacement != DEFAULT_REPLACEMENT;
        let (extra, takes): (&[(&str, bool)], &str) = match self.action {
            LabelDrop | LabelKeep => (
                &[
                    ("source_labels", self.source_labels.is_some()),
                    ("target_label", !self.target_label.is_empty()),
                    ("modulus", has_modulus),
                    ("separator", has_separator),
                    ("replacement", has_replacement),
                ],
                "only regex",
            ),
            KeepEqual | DropEqual => (
                &[
                    ("regex", self.regex.is_some()),
                    ("modulus", has_modulus),
                    ("separator", has_separator),
                    ("replacement", has_replacement),
                ],
                "only source_labels and target_label",
            ),
            Lowercase | Uppercase => (&[("replacement", has_replacement)], "no replacement"),
            _ => return Ok(()),
        };
        match extra.iter().find(|(_, set)| *set) {
            Some((key, _)) => {
                Err(error(key, format!("{} takes {takes}; remove this key", self.action.name())))
            }
            None => Ok(()),
        }
    }
}

impl RelabelAction {
    pub(super) const ALL: [Self; 11] = [
        Self::Replace,
        Self::Keep,
        Self::Drop,
        Self::KeepEqual,
        Self::DropEqual,
        Self::HashMod,
        Self::LabelMap,
        Self::LabelDrop,
        Self::LabelKeep,
        Self::Lowercase,
        Self::Uppercase,
    ];

    /// The word for it in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Keep => "keep",
            Self::Drop => "drop",
            Self::KeepEqual => "keepequal",
            Self::DropEqual => "dropequal",
            Self::HashMod => "hashmod",
            Self::LabelMap => "labelmap",
            Self::LabelDrop => "labeldrop",
            Self::LabelKeep => "labelkeep",
            Self::Lowercase => "lowercase",
            Self::Uppercase => "uppercase",
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl<'de> Deserialize<'de> for RelabelAction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = text(deserializer)?;
        let action = Self::ALL.into_iter().find(|action| action.name() == word.to_lowercase());
        action.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            D::Error::custom(format!("{word:?} is no action; there are {names}"))
        })
    }
}

fn error(key: &str, message: impl Into<String>) -> RuleError {
    RuleError { path: key.to_owned(), message: message.into() }
}

fn default_separator() -> String {
    DEFAULT_SEPARATOR.to_owned()
}

fn is_default_separator(separator: &str) -> bool {
    separator == DEFAULT_SEPARATOR
}

fn default_replacement() -> String {
    DEFAULT_REPLACEMENT.to_owned()
}

fn is_default_replacement(replacement: &str) -> bool {
    replacement == DEFAULT_REPLACEMENT
}
