//! A compiled `regex:` of a rule: anchored at both ends, with the meaning that it has in Prometheus.

use regex::{Captures, Regex, RegexBuilder};

use super::syntax;

/// The most memory that a compiled regex may take, and what its search may take beside, in bytes.
const MAX_SIZE: usize = 10 << 20;
const MAX_CACHE: usize = 1 << 20;

/// The most alternatives that are compared one after the other; the regex engine looks at all at once.
const MAX_SHAPES: usize = 16;

/// What a text is matched against.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    matcher: Matcher,
    /// The names of the groups, from 0 on, which is the whole match.
    groups: Vec<Option<String>>,
}

#[derive(Clone, Debug)]
enum Matcher {
    /// What needs no regex engine: any of these. Group 1, if there is one, goes from this byte to the end.
    Simple {
        shapes: Vec<Shape>,
        group: Option<usize>,
    },
    Regex(Regex),
}

/// `prefix`, or `prefix.*suffix`, or `prefix.+suffix`, of plain characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shape {
    prefix: String,
    /// The fewest bytes between prefix and suffix; none where there is nothing between.
    wild: Option<usize>,
    suffix: String,
}

impl Pattern {
    /// Compiles a regex in the syntax of Go.
    ///
    /// # Errors
    /// What is wrong with it, or that it is too large.
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        let translated = syntax::translate(pattern)?;
        let matcher = match simple(pattern) {
            Some(simple) => simple,
            None => Matcher::Regex(compile(&translated.pattern)?),
        };
        Ok(Self { matcher, groups: translated.groups })
    }

    /// The names of the groups, from 0 on.
    pub(super) fn groups(&self) -> &[Option<String>] {
        &self.groups
    }

    /// Whether the text matches.
    pub(super) fn is_match(&self, text: &str) -> bool {
        match &self.matcher {
            Matcher::Simple { shapes, .. } => shapes.iter().any(|shape| shape.is_match(text)),
            Matcher::Regex(regex) => regex.is_match(text),
        }
    }

    /// What the groups match; none when the text does not match.
    pub(super) fn captures<'t>(&self, text: &'t str) -> Option<Groups<'t>> {
        // Most texts do not match, and to see that needs no memory for groups.
        if !self.is_match(text) {
            return None;
        }
        match &self.matcher {
            Matcher::Simple { group, .. } => Some(Groups::Simple { text, group: *group }),
            Matcher::Regex(regex) => regex.captures(text).map(Groups::Regex),
        }
    }

    /// The text with every match replaced; none when it does not match.
    ///
    /// There is one match, of the whole text, but for a pattern that breaks out of its anchors, as
    /// `a)|(b` does.
    pub(super) fn replace_all(&self, text: &str, with: impl Fn(&Groups<'_>) -> String) -> Option<String> {
        let groups = self.captures(text)?;
        match &self.matcher {
            Matcher::Simple { .. } => Some(with(&groups)),
            Matcher::Regex(regex) => {
                let replaced =
                    regex.replace_all(text, |captures: &Captures<'_>| with(&Groups::Borrowed(captures)));
                Some(replaced.into_owned())
            }
        }
    }
}

/// What the groups of a pattern matched in a text.
pub(super) enum Groups<'t> {
    Simple { text: &'t str, group: Option<usize> },
    Regex(Captures<'t>),
    Borrowed(&'t Captures<'t>),
}

impl Groups<'_> {
    /// What a group matched; none when it took no part, or is none.
    pub(super) fn get(&self, index: usize) -> Option<&str> {
        match self {
            Self::Simple { text, group } => match index {
                0 => Some(text),
                1 => group.and_then(|from| text.get(from..)),
                _ => None,
            },
            Self::Regex(captures) => captures.get(index).map(|group| group.as_str()),
            Self::Borrowed(captures) => captures.get(index).map(|group| group.as_str()),
        }
    }
}

impl Shape {
    fn is_match(&self, text: &str) -> bool {
        // To compare an empty text, which has no address, costs some machines hundreds of cycles.
        let Some(least) = self.wild else {
            return text.len() == self.prefix.len() && (text.is_empty() || text == self.prefix);
        };
        text.len() >= self.prefix.len() + least + self.suffix.len()
            && (self.prefix.is_empty() || text.starts_with(&self.prefix))
            && (self.suffix.is_empty() || text.ends_with(&self.suffix))
    }

    /// Reads one alternative; none when it says more than a shape can.
    fn parse(mut pattern: &str) -> Option<Self> {
        let mut shape = Self::default();
        while let Some(c) = pattern.chars().next() {
            let rest = &pattern[c.len_utf8()..];
            let mut push = |c| if shape.wild.is_some() { shape.suffix.push(c) } else { shape.prefix.push(c) };
            match (c, rest.chars().next()) {
                ('.', Some(repeat @ ('*' | '+'))) if shape.wild.is_none() => {
                    shape.wild = Some(usize::from(repeat == '+'));
                    pattern = &rest[1..];
                }
                ('\\', Some(escaped)) if escaped.is_ascii_punctuation() => {
                    push(escaped);
                    pattern = &rest[1..];
                }
                ('\\' | '.' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | '^' | '$', _) => {
                    return None;
                }
                (c, _) => {
                    push(c);
                    pattern = rest;
                }
            }
        }
        Some(shape)
    }
}

/// The matcher of a pattern that is nothing but shapes, all in one group or none, or that ends in a group.
fn simple(pattern: &str) -> Option<Matcher> {
    if let Some((prefix, wild)) = pattern.split_once('(').filter(|(prefix, _)| !prefix.is_empty()) {
        let prefix = Shape::parse(prefix).filter(|shape| shape.wild.is_none())?.prefix;
        let shape = Shape::parse(wild.strip_suffix(')')?)?;
        let group = (shape.prefix.is_empty() && shape.wild.is_some()).then_some(prefix.len())?;
        return Some(Matcher::Simple { shapes: vec![Shape { prefix, ..shape }], group: Some(group) });
    }
    let inner = pattern.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    let shapes = inner.unwrap_or(pattern).split('|').take(MAX_SHAPES + 1).map(Shape::parse);
    let shapes = shapes.collect::<Option<Vec<_>>>().filter(|shapes| shapes.len() <= MAX_SHAPES)?;
    Some(Matcher::Simple { shapes, group: inner.map(|_| 0) })
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(pattern).size_limit(MAX_SIZE).dfa_size_limit(MAX_CACHE).build();
    regex.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            format!(
                "it would take more than {} MiB of memory; repeat less, or split the rule",
                MAX_SIZE >> 20
            )
        }
        // What is left is what the translation lets through: nesting, and classes without a name here.
        other => format!("it cannot be compiled: {}", other.to_string().lines().last().unwrap_or_default()),
    })
}
