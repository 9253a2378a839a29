//! Replacements: text in which `$1`, `${1}` and `${name}` stand for what a group of the regex matched.

use std::sync::LazyLock;

use regex::Regex;

use super::pattern::Groups;

/// A replacement, read once against the groups of its regex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The first of these groups that took part.
    Groups(Vec<usize>),
}

impl Template {
    /// Reads `template` as Go's regexp.Expand does. A name is as long as it can be, so `$1x` is the
    /// group named `1x`; `$$` is a dollar, and so is a `$` that no name follows. A group that the
    /// regex does not have is empty text.
    pub(super) fn parse(template: &str, groups: &[Option<String>]) -> Self {
        let mut parsed = Self(Vec::new());
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('$') {
            parsed.push_text(before);
            rest = match (after.strip_prefix('$'), name(after)) {
                (Some(rest), _) => {
                    parsed.push_text("$");
                    rest
                }
                (None, None) => {
                    parsed.push_text("$");
                    after
                }
                (None, Some((name, rest))) => {
                    parsed.0.push(Part::Groups(groups_named(name, groups)));
                    rest
                }
            };
        }
        parsed.push_text(rest);
        parsed
    }

    fn push_text(&mut self, text: &str) {
        match self.0.last_mut() {
            Some(Part::Text(last)) => last.push_str(text),
            _ if text.is_empty() => {}
            _ => self.0.push(Part::Text(text.to_owned())),
        }
    }

    /// The whole text, where no group changes it.
    pub(super) fn as_text(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text, with what the groups matched; a group that took no part is empty.
    pub(super) fn expand(&self, groups: &Groups<'_>) -> String {
        let texts = self.0.iter().map(|part| match part {
            Part::Text(text) => text,
            Part::Groups(indexes) => indexes.iter().find_map(|index| groups.get(*index)).unwrap_or_default(),
        });
        texts.collect()
    }
}

/// The name after a `$`, without braces, and what follows.
fn name(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('{').unwrap_or(text);
    let end = inner.find(|c| !is_name_char(c)).unwrap_or(inner.len());
    let (name, rest) = inner.split_at(end);
    if name.is_empty() {
        return None;
    }
    let rest = if inner.len() < text.len() { rest.strip_prefix('}')? } else { rest };
    Some((name, rest))
}

/// Go counts the letters and digits of all scripts, but for numerals that are no digits.
fn is_name_char(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || c == '_';
    }
    static NAME_CHAR: LazyLock<Result<Regex, regex::Error>> = LazyLock::new(|| Regex::new(r"[\pL\p{Nd}]"));
    NAME_CHAR.as_ref().is_ok_and(|regex| regex.is_match(c.encode_utf8(&mut [0; 4])))
}

/// The groups that a name stands for: one, by a number without leading zeros, or else those of the name.
fn groups_named(name: &str, groups: &[Option<String>]) -> Vec<usize> {
    let is_number = name.bytes().all(|b| b.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    if is_number && name.len() <= 9 {
        return name.parse().into_iter().filter(|index| *index < groups.len()).collect();
    }
    (0..groups.len()).filter(|index| groups[*index].as_deref() == Some(name)).collect()
}
