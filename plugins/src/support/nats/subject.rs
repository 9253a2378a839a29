//! Subjects: the template that makes one from the labels of an event, and what a stream binds.
//! Names of jobs and instances are written by anybody, so a token never holds a character that means
//! something to NATS.

use prometheus_streams_core::event::Labels;

/// The longest token that a label becomes. A subject that is too long would cost us the connection.
const LONGEST_TOKEN: usize = 128;

/// The longest template, and the most labels in it.
const LONGEST_TEMPLATE: usize = 256;
const MOST_LABELS: usize = 8;

/// A subject with the values of labels in it, as `prometheus.{publisher}.{job}.{instance}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Label(String),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Why it is not one, for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST_TEMPLATE {
            return Err(format!("is longer than {LONGEST_TEMPLATE} characters"));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let (before, after) = rest.split_at(open);
            let (label, after) = after[1..].split_once('}').ok_or("has a { without its }")?;
            if label.is_empty() || label.contains('{') {
                return Err("names no label between { and }".to_owned());
            }
            pieces.extend([Piece::Text(before.to_owned()), Piece::Label(label.to_owned())]);
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        pieces.retain(|piece| *piece != Piece::Text(String::new()));
        let template = Self { pieces };
        if template.pieces.iter().filter(|piece| matches!(piece, Piece::Label(_))).count() > MOST_LABELS {
            return Err(format!("has more than {MOST_LABELS} labels"));
        }
        check_literal(&template.with(|_| "x".to_owned()))?;
        Ok(template)
    }

    /// The subject for an event with these labels. A label that is missing or empty becomes `_`.
    pub fn subject(&self, labels: &Labels) -> String {
        self.with(|label| token(labels.get(label).unwrap_or_default()))
    }

    /// What a stream has to bind to take every subject that this template makes: the tokens before the
    /// first label, and `>`. Nothing if a label stands in the first token.
    pub fn binding(&self) -> Option<String> {
        let Some(Piece::Text(text)) = self.pieces.first() else { return None };
        if self.pieces.len() == 1 {
            return Some(text.clone());
        }
        let (prefix, _) = text.rsplit_once('.')?;
        Some(format!("{prefix}.>"))
    }

    fn with(&self, label: impl Fn(&str) -> String) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Label(name) => label(name),
        };
        self.pieces.iter().map(piece).collect()
    }
}

/// A value as one token of a subject: what NATS or a terminal would take for something else becomes `_`.
pub fn token(value: &str) -> String {
    let safe = |c: char| if c.is_ascii_graphic() && !".*>".contains(c) { c } else { '_' };
    let token: String = value.chars().take(LONGEST_TOKEN).map(safe).collect();
    if token.is_empty() { "_".to_owned() } else { token }
}

/// Says why `subject` is not a subject without wildcards.
///
/// # Errors
/// The reason, for the user.
pub fn check_literal(subject: &str) -> Result<(), String> {
    check(subject, false)
}

/// Says why `subject` is not a subject, where the wildcards `*` and `>` may stand for tokens.
///
/// # Errors
/// The reason, for the user.
pub fn check_pattern(subject: &str) -> Result<(), String> {
    check(subject, true)
}

fn check(subject: &str, wildcards: bool) -> Result<(), String> {
    if !subject.chars().all(|c| c.is_ascii_graphic()) {
        return Err(format!("{subject:?} holds a blank or a character that is not ASCII"));
    }
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        let wild = token.contains(['*', '>']);
        if token.is_empty() {
            return Err(format!("{subject:?} has an empty token"));
        }
        if wild && !wildcards {
            return Err(format!("{subject:?} has a wildcard"));
        }
        if wild && token.len() > 1 || token == ">" && tokens.peek().is_some() {
            return Err(format!("{subject:?} has a wildcard where none can be"));
        }
    }
    Ok(())
}

/// Says why `name` cannot be the name of a stream or a consumer.
///
/// # Errors
/// The reason, for the user.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_graphic() && !".*>/\\".contains(c);
    if name.is_empty() || name.len() > 255 || !name.chars().all(fits) {
        return Err(format!(
            "{name:?} must be 1 to 255 ASCII characters without blanks and any of . * > / \\"
        ));
    }
    Ok(())
}

/// True when the pattern that a stream binds takes in `subject`.
pub fn binds(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some(want), Some(have)) if want == "*" || want == have => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().copied().collect()
    }

    #[test]
    fn labels_become_tokens_and_missing_ones_do_not_vanish() {
        let template = Template::parse("prometheus.{publisher}.x-{job}.{instance}").unwrap();
        let subject = template.subject(&labels(&[("job", "a b"), ("instance", "db1.example.net:9100")]));
        assert_eq!(subject, "prometheus._.x-a_b.db1_example_net:9100");
    }

    #[test]
    fn a_stream_binds_what_stands_before_the_first_label() {
        let binding = |text| Template::parse(text).unwrap().binding();
        assert_eq!(binding("prometheus.{job}").as_deref(), Some("prometheus.>"));
        assert_eq!(binding("a.b.x-{job}.c").as_deref(), Some("a.b.>"));
        assert_eq!(binding("a.b").as_deref(), Some("a.b"));
        assert_eq!(binding("x{job}"), None);
        assert_eq!(binding("{job}.x"), None);
    }

    #[test]
    fn what_is_not_a_template_is_refused() {
        for text in ["", "a..b", ".a", "a.", "a.{job", "a.{}", "a.{x{y}", "a.*", "a.>", "a b", "é.x"] {
            assert!(Template::parse(text).is_err(), "{text:?}");
        }
        assert!(Template::parse(&"{a}".repeat(9)).is_err());
        assert!(Template::parse(&"a".repeat(257)).is_err());
        for pattern in ["a.>", "*", ">", "a.*.b"] {
            assert_eq!(check_pattern(pattern), Ok(()));
        }
        for pattern in ["a.>.b", "a*", "a.b>"] {
            assert!(check_pattern(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn bindings_follow_the_rules_of_the_server() {
        for (pattern, subject, expected) in [
            ("prometheus.>", "prometheus.a.b", true),
            ("prometheus.>", "prometheus", false),
            ("a.*.c", "a.b.c", true),
            ("a.*", "a.b.c", false),
            ("a.b.c", "a.b", false),
        ] {
            assert_eq!(binds(pattern, subject), expected, "{pattern} {subject}");
        }
    }

    proptest! {
        #[test]
        fn any_label_makes_a_subject_that_nats_takes(job in any::<String>(), instance in any::<String>()) {
            let template = Template::parse("prometheus.{job}.{instance}").unwrap();
            let subject = template.subject(&labels(&[("job", &job), ("instance", &instance)]));
            prop_assert_eq!(check_literal(&subject), Ok(()));
            prop_assert_eq!(subject.split('.').count(), 3);
            prop_assert!(binds("prometheus.>", &subject) && subject.len() < 300);
        }
    }
}
