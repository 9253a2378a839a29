//! Compiled rules, and what they do to labels.

use std::borrow::Cow;
use std::num::NonZeroU64;

use md5::{Digest, Md5};

use super::case;
use super::labels::LabelSet;
use super::pattern::Pattern;
use super::template::Template;

/// One rule, checked and compiled from [`RelabelSettings`](super::RelabelSettings). Many threads can
/// use it at once.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(super) source_labels: Vec<String>,
    pub(super) separator: String,
    pub(super) action: Action,
}

/// What a rule does with the joined values of its source labels, "the value" here.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Keep(Pattern),
    Drop(Pattern),
    KeepEqual { target: String },
    DropEqual { target: String },
    Replace { pattern: Pattern, target: Template, replacement: Template },
    HashMod { modulus: NonZeroU64, target: String },
    LabelMap { pattern: Pattern, replacement: Template },
    LabelDrop(Pattern),
    LabelKeep(Pattern),
    Lowercase { target: String },
    Uppercase { target: String },
}

/// Applies rules, each to what the one before left. `false` means that a rule drops the series or
/// target; the labels are then of no use.
///
/// Rules that change nothing allocate nothing.
pub fn apply(rules: &[Rule], labels: &mut LabelSet<'_>) -> bool {
    rules.iter().all(|rule| rule.apply(labels))
}

impl Rule {
    fn apply(&self, labels: &mut LabelSet<'_>) -> bool {
        match &self.action {
            Action::LabelMap { pattern, replacement } => map_names(pattern, replacement, labels),
            Action::LabelDrop(pattern) => labels.retain(|name, _| !pattern.is_match(name)),
            Action::LabelKeep(pattern) => labels.retain(|name, _| pattern.is_match(name)),
            on_value => {
                let mut scratch = std::mem::take(&mut labels.scratch);
                let verdict = on_value.decide(self.value(labels, &mut scratch), labels);
                scratch.clear();
                labels.scratch = scratch;
                match verdict {
                    Verdict::Keep => {}
                    Verdict::Drop => return false,
                    Verdict::Set(name, value) => labels.set(&name, value),
                }
            }
        }
        true
    }

    /// The values of the source labels, joined; in `scratch` where there are several.
    fn value<'v>(&self, labels: &'v LabelSet<'_>, scratch: &'v mut String) -> &'v str {
        if let [name] = self.source_labels.as_slice() {
            return labels.get(name);
        }
        for (i, name) in self.source_labels.iter().enumerate() {
            scratch.push_str(if i == 0 { "" } else { &self.separator });
            scratch.push_str(labels.get(name));
        }
        scratch
    }
}

/// What an action makes of a value.
enum Verdict<'r> {
    Keep,
    Drop,
    Set(Cow<'r, str>, String),
}

impl Action {
    fn decide(&self, value: &str, labels: &LabelSet<'_>) -> Verdict<'_> {
        let keep = |keep| if keep { Verdict::Keep } else { Verdict::Drop };
        match self {
            Self::Keep(pattern) => keep(pattern.is_match(value)),
            Self::Drop(pattern) => keep(!pattern.is_match(value)),
            Self::KeepEqual { target } => keep(labels.get(target) == value),
            Self::DropEqual { target } => keep(labels.get(target) != value),
            Self::Replace { pattern, target, replacement } => replace(pattern, target, replacement, value),
            Self::HashMod { modulus, target } => Verdict::Set(target.into(), hash_mod(value, *modulus)),
            Self::Lowercase { target } => Verdict::Set(target.into(), case::lowercase(value)),
            Self::Uppercase { target } => Verdict::Set(target.into(), case::uppercase(value)),
            Self::LabelMap { .. } | Self::LabelDrop(_) | Self::LabelKeep(_) => Verdict::Keep,
        }
    }
}

/// A target without a name is left alone.
fn replace<'r>(pattern: &Pattern, target: &'r Template, replacement: &Template, value: &str) -> Verdict<'r> {
    let (name, text) = match (target.as_text(), replacement.as_text()) {
        (Some(name), Some(text)) if pattern.is_match(value) => (name.into(), text.to_owned()),
        (Some(_), Some(_)) => return Verdict::Keep,
        (name, _) => match pattern.captures(value) {
            Some(groups) => {
                let name = name.map_or_else(|| target.expand(&groups).into(), Cow::Borrowed);
                (name, replacement.expand(&groups))
            }
            None => return Verdict::Keep,
        },
    };
    if name.is_empty() { Verdict::Keep } else { Verdict::Set(name, text) }
}

fn hash_mod(value: &str, modulus: NonZeroU64) -> String {
    let hash: [u8; 16] = Md5::digest(value.as_bytes()).into();
    let last = hash[8..].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    (last % modulus).to_string()
}

/// Copies the labels whose names match, as they were before the first copy. Where two come to the same
/// name the later in the order of Prometheus wins.
fn map_names(pattern: &Pattern, replacement: &Template, labels: &mut LabelSet<'_>) {
    if !labels.iter().any(|(name, _)| pattern.is_match(name)) {
        return;
    }
    let copies: Vec<(String, Cow<'_, str>)> = labels
        .by_arrival()
        .into_iter()
        .filter_map(|(name, value)| {
            let name = pattern.replace_all(name, |groups| replacement.expand(groups))?;
            Some((name, value.clone()))
        })
        .collect();
    for (name, value) in copies {
        labels.set(&name, value);
    }
}
