//! The labels of one series or target, while rules work on them.

use std::borrow::Cow;
use std::fmt;

/// Label names and values, sorted by name. A series has its name in the label `__name__`.
///
/// As in Prometheus an empty value means no label: to set one removes the label, so no value here is
/// ever empty. Names and values are borrowed where they can be, and a set that is refilled keeps its
/// memory, so that thousands of series can go through one set without an allocation each.
///
/// ```
/// use prometheus_streams_plugins::exposition::relabel::LabelSet;
///
/// let mut labels = LabelSet::from_iter([("__name__", "up"), ("job", "node")]);
/// labels.set("instance", "db1:9100");
/// labels.set("job", "");
/// assert_eq!(labels.to_string(), r#"{__name__="up", instance="db1:9100"}"#);
/// ```
#[derive(Clone, Default)]
pub struct LabelSet<'a> {
    labels: Vec<Label<'a>>,
    /// How many labels were set, one after another, since the set was filled.
    sets: u32,
    /// Where [`apply`](super::apply) joins the values of several labels; empty but for its memory.
    pub(super) scratch: String,
}

/// Among so few labels to look at each is the fastest way to find one.
const FEW: usize = 16;

#[derive(Clone)]
struct Label<'a> {
    name: Cow<'a, str>,
    value: Cow<'a, str>,
    /// 0 for a label that the set was filled with, else its place among those set since.
    arrival: u32,
}

impl<'a> LabelSet<'a> {
    /// A set without labels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all labels and takes these. They need not be sorted; those without a value are left
    /// out, and of several with one name the last stays.
    pub fn refill<N, V>(&mut self, pairs: impl IntoIterator<Item = (N, V)>)
    where
        N: Into<Cow<'a, str>>,
        V: Into<Cow<'a, str>>,
    {
        self.clear();
        let labels = pairs.into_iter().map(|(name, value)| Label::new(name.into(), value.into(), 0));
        self.labels.extend(labels);
        if !self.labels.is_sorted_by(|a, b| a.name < b.name) {
            self.labels.sort_by(|a, b| a.name.cmp(&b.name));
            self.labels.dedup_by(|later, kept| {
                let same = later.name == kept.name;
                if same {
                    std::mem::swap(later, kept);
                }
                same
            });
        }
        self.labels.retain(|label| !label.value.is_empty());
    }

    /// Forgets all labels, and keeps the memory for the next ones.
    pub fn clear(&mut self) {
        self.labels.clear();
        self.sets = 0;
    }

    /// The value of a label; empty when it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.find(name).map_or("", |at| &self.labels[at].value)
    }

    /// Whether the label is there.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<usize> {
        if self.labels.len() <= FEW {
            return self.labels.iter().position(|label| label.name == name);
        }
        self.labels.binary_search_by(|label| label.name.as_ref().cmp(name)).ok()
    }

    /// Sets a label; an empty value removes it. The name is copied only where the label is new.
    pub fn set(&mut self, name: impl AsRef<str>, value: impl Into<Cow<'a, str>>) {
        let (name, value) = (name.as_ref(), value.into());
        if value.is_empty() {
            self.remove(name);
            return;
        }
        match self.labels.binary_search_by(|label| label.name.as_ref().cmp(name)) {
            Ok(at) => {
                let label = &mut self.labels[at];
                label.value = value;
                if label.arrival == 0 {
                    self.sets += 1;
                    label.arrival = self.sets;
                }
            }
            Err(at) => {
                self.sets += 1;
                self.labels.insert(at, Label::new(name.to_owned().into(), value, self.sets));
            }
        }
    }

    /// Removes a label, and returns the value that it had.
    pub fn remove(&mut self, name: &str) -> Option<Cow<'a, str>> {
        let at = self.find(name)?;
        Some(self.labels.remove(at).value)
    }

    /// Keeps the labels for whose name and value `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &str) -> bool) {
        self.labels.retain(|label| keep(&label.name, &label.value));
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.labels.iter().map(|label| (&*label.name, &*label.value))
    }

    /// Names and values, sorted by name.
    pub fn into_pairs(self) -> impl ExactSizeIterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        self.labels.into_iter().map(|label| (label.name, label.value))
    }

    /// Names and values in the order in which Prometheus goes through them: first what the set was
    /// filled with, by name, then what has been set since, as it came.
    pub(super) fn by_arrival(&self) -> Vec<(&Cow<'a, str>, &Cow<'a, str>)> {
        let mut labels: Vec<_> = self.labels.iter().collect();
        labels.sort_by_key(|label| label.arrival);
        labels.into_iter().map(|label| (&label.name, &label.value)).collect()
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The same labels, borrowed from nothing.
    pub fn into_owned(self) -> LabelSet<'static> {
        let owned = |text: Cow<'a, str>| Cow::Owned(text.into_owned());
        let own = |label: Label<'a>| Label {
            name: owned(label.name),
            value: owned(label.value),
            arrival: label.arrival,
        };
        LabelSet {
            labels: self.labels.into_iter().map(own).collect(),
            sets: self.sets,
            scratch: self.scratch,
        }
    }
}

impl<'a> Label<'a> {
    fn new(name: Cow<'a, str>, value: Cow<'a, str>, arrival: u32) -> Self {
        Self { name, value, arrival }
    }
}

impl<'a, N: Into<Cow<'a, str>>, V: Into<Cow<'a, str>>> FromIterator<(N, V)> for LabelSet<'a> {
    /// See [`LabelSet::refill`].
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut labels = Self::new();
        labels.refill(pairs);
        labels
    }
}

impl PartialEq<LabelSet<'_>> for LabelSet<'_> {
    fn eq(&self, other: &LabelSet<'_>) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for LabelSet<'_> {}

/// As in PromQL: `{instance="db1:9100", job="node"}`.
impl fmt::Display for LabelSet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (name, value)) in self.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{name}={value:?}")?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for LabelSet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_filled_sorted_without_empty_values_and_the_last_of_a_name_wins() {
        let mut labels =
            LabelSet::from_iter([("b", "1"), ("a", "2"), ("empty", ""), ("b", "3"), ("a", ""), ("b", "4")]);
        assert_eq!(labels.to_string(), r#"{b="4"}"#);
        labels.refill([("x", "1"), ("y", "2")]);
        assert_eq!(labels.to_string(), r#"{x="1", y="2"}"#);
        assert_eq!((labels.get("x"), labels.get("b"), labels.len()), ("1", "", 2));
        assert!(labels.contains("y") && !labels.contains("a"));
    }

    #[test]
    fn to_set_an_empty_value_removes() {
        let mut labels = LabelSet::from_iter([("a", "1"), ("c", "3")]);
        labels.set("b", "2");
        labels.set("a", "");
        labels.set("never", "");
        assert_eq!(labels.to_string(), r#"{b="2", c="3"}"#);
        assert_eq!(labels.remove("c").as_deref(), Some("3"));
        assert_eq!(labels.remove("c"), None);
    }

    #[test]
    fn many_labels_are_found_as_few_are() {
        let names: Vec<_> = (0..100).rev().map(|number| format!("l{number}")).collect();
        let mut labels = LabelSet::from_iter(names.iter().map(|name| (name.as_str(), name.as_str())));
        labels.set("l5x", "new");
        assert_eq!(labels.remove("l50").as_deref(), Some("l50"));
        assert!(names.iter().all(|name| labels.contains(name) == (name != "l50")));
        assert!(names.iter().all(|name| name == "l50" || labels.get(name) == name));
        assert_eq!(
            (labels.get("l5x"), labels.get("l50"), labels.get("l"), labels.get("m")),
            ("new", "", "", "")
        );
    }

    #[test]
    fn what_was_set_comes_after_what_was_there() {
        let mut labels = LabelSet::from_iter([("a", "1"), ("b", "2"), ("c", "3")]);
        labels.set("b", "4");
        labels.set("0", "5");
        labels.set("b", "6");
        labels.set("a", "");
        labels.set("a", "7");
        let order: Vec<_> =
            labels.by_arrival().into_iter().map(|(name, value)| format!("{name}{value}")).collect();
        assert_eq!(order, ["c3", "b6", "05", "a7"]);
    }

    #[test]
    fn an_owned_set_is_equal() {
        let name = "job".to_owned();
        let mut labels = LabelSet::from_iter([(name.as_str(), "node")]);
        labels.set("x", "y");
        let owned = labels.clone().into_owned();
        assert_eq!(owned, labels);
        drop(labels);
        drop(name);
        let pairs: Vec<_> = owned.into_pairs().collect();
        assert_eq!(pairs, [("job".into(), "node".into()), ("x".into(), "y".into())]);
    }
}
