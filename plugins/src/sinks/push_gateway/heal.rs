//! What to do when a gateway finds a push inconsistent. It checks a push together with all that it holds, and
//! does not say whose fault it is; its page does. If that can be read, the push is at fault: some family of it
//! does not go with what others have. That family is found and left out, and the rest lands. If the page cannot
//! be read either, the gateway was spoilt before, and every push to it is refused: a group of ours that it names
//! is deleted and pushed once more, and for one of somebody else we can only wait, and say which it is.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use prometheus_streams_core::event::Labels;
use regex::Regex;

use super::answer::Refusal;
use super::gateway::PageState;
use super::groups::Group;
use super::page::{Page, family_names};
use super::probe::Wire;
use super::push::{Pick, Pusher};

/// Pushes that the search for the families at fault may take.
const MOST_TRIES: usize = 100;
/// How long a group of ours is kept away from a gateway that it spoils.
const HOLD: Duration = Duration::from_secs(60);

impl Pusher {
    /// Lands what can land of a group whose push was found inconsistent.
    pub(super) async fn heal(
        &self,
        group: &Group,
        pages: &[Arc<Page>],
        wire: Wire,
        words: String,
    ) -> Result<(), Refusal> {
        match self.gateway.page_state(&words).await? {
            PageState::InOrder => self.find_culprits(group, pages, wire, words).await,
            PageState::Spoilt(page_words) => self.cure(group, pages, wire, &page_words, words).await,
        }
    }

    /// Finds the families at fault, and pushes the others. What the gateway names is suspected first; where that
    /// does not tell, halves are tried.
    async fn find_culprits(
        &self,
        group: &Group,
        pages: &[Arc<Page>],
        wire: Wire,
        mut words: String,
    ) -> Result<(), Refusal> {
        let quarantined: HashSet<_> = group.quarantined().into_iter().collect();
        let mut names = family_names(pages).map_err(|error| Refusal::Bad(error.to_string()))?;
        names.retain(|name| !quarantined.contains(name));
        let mut good = HashSet::new();
        let mut untried = Vec::new();
        self.divide(group, names, &words, &mut untried);
        for _ in 0..MOST_TRIES {
            let Some(part) = untried.pop() else { break };
            let candidate: HashSet<_> = good.iter().chain(&part).cloned().collect();
            match self.put(group, pages, Pick::Only(candidate.clone()), wire).await {
                Ok(()) => good = candidate,
                Err(Refusal::Inconsistent(again)) => {
                    self.divide(group, part, &again, &mut untried);
                    words = again;
                }
                Err(refusal) => return Err(refusal),
            }
        }
        // What was taken last is what the group holds now.
        if good.is_empty() || !untried.is_empty() { Err(Refusal::Inconsistent(words)) } else { Ok(()) }
    }

    /// Divides families that were refused together, so that those which are not suspected are tried first. One
    /// that was refused alone is left out from now on.
    fn divide(&self, group: &Group, mut part: Vec<Box<str>>, words: &str, untried: &mut Vec<Vec<Box<str>>>) {
        if part.len() <= 1 {
            part.iter().for_each(|family| self.leave_out(group, family, words));
            return;
        }
        let named: HashSet<_> = words.split(|c: char| !is_name_char(c)).collect();
        let (suspects, rest): (Vec<_>, Vec<_>) = part.drain(..).partition(|name| named.contains(&**name));
        let (later, first) = match (suspects, rest) {
            (mut all, none) | (none, mut all) if none.is_empty() => {
                let half = all.split_off(all.len() / 2);
                (half, all)
            }
            parts => parts,
        };
        untried.push(later);
        untried.push(first);
    }

    fn leave_out(&self, group: &Group, family: &str, words: &str) {
        if group.quarantine(family) {
            let labels = &group.labels;
            tracing::warn!(family, %labels, words, "the push gateway refuses a family in this group; it is left out");
        }
    }

    /// Deletes the groups of ours that spoil the gateway, and pushes once more.
    async fn cure(
        &self,
        group: &Group,
        pages: &[Arc<Page>],
        wire: Wire,
        page_words: &str,
        words: String,
    ) -> Result<(), Refusal> {
        let named = named_labels(page_words);
        let spoilt = Refusal::unavailable(whose_fault(&named), words);
        let ours = self.groups.all().into_iter().filter(|own| is_named(&own.labels, &named));
        let ours: Vec<_> = ours.collect();
        if ours.is_empty() {
            return Err(spoilt);
        }
        let mut is_first = true;
        for own in &ours {
            is_first &= own.cure();
            self.gateway.delete(&own.path).await?;
            own.lose();
        }
        tracing::warn!(labels = %group.labels, page = page_words, "deleted a group that spoilt the page of the push gateway");
        if is_first {
            let out = group.quarantined().into_iter().collect();
            match self.put(group, pages, Pick::AllBut(out), wire).await {
                // A push that was refused has left a group behind all the same, of nothing but its time.
                Err(Refusal::Inconsistent(words)) => match self.gateway.page_state(&words).await? {
                    PageState::InOrder => return Err(spoilt),
                    PageState::Spoilt(_) => self.gateway.delete(&group.path).await?,
                },
                made => return made,
            }
        }
        group.hold(HOLD, spoilt.clone());
        Err(spoilt)
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// The sets of labels that the page of a gateway names, without the empty ones, which are what it adds itself.
fn named_labels(words: &str) -> BTreeSet<Labels> {
    static METRIC: LazyLock<Option<Regex>> = LazyLock::new(|| {
        // Two generations of protobuf print a label as `label:<name:"a" value:"b" >` or `label:{name:"a"  value:"b"}`.
        Regex::new(r#"label:\s*[<{]\s*name:\s*"((?:[^"\\]|\\.)*)"\s+value:\s*"((?:[^"\\]|\\.)*)"\s*[>}]"#)
            .ok()
    });
    let Some(label) = &*METRIC else { return BTreeSet::new() };
    let metrics = words.split("collected metric ").skip(1);
    let labels = metrics.map(|metric| {
        let pairs = label.captures_iter(metric).map(|pair| (unescape(&pair[1]), unescape(&pair[2])));
        pairs.collect::<Labels>()
    });
    labels.filter(|labels| !labels.is_empty()).collect()
}

/// Undoes the escapes of protobuf's text format.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let Some((&escaped, after)) = rest.split_first().filter(|_| byte == b'\\') else {
            bytes.push(byte);
            continue;
        };
        rest = after;
        match escaped {
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            b'0'..=b'7' => {
                let digits = rest.iter().take(2).take_while(|digit| (b'0'..=b'7').contains(*digit)).count();
                let octal = rest
                    .iter()
                    .take(digits)
                    .fold(u32::from(escaped - b'0'), |value, digit| value * 8 + u32::from(digit - b'0'));
                bytes.push(octal as u8);
                rest = rest.get(digits..).unwrap_or_default();
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a group of ours is one of those that are named.
fn is_named(own: &Labels, named: &BTreeSet<Labels>) -> bool {
    named.iter().any(|labels| own.iter().all(|(name, value)| labels.get(name) == Some(value)))
}

/// The same for every push that meets the same trouble.
fn whose_fault(named: &BTreeSet<Labels>) -> String {
    const WHY: &str = "the push gateway refuses every push until the group at fault is deleted";
    named.first().map_or_else(|| WHY.to_owned(), |labels| format!("{WHY}: one that has the labels {labels}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labels_are_found_in_the_words_of_both_generations() {
        for words in [
            r#"* collected metric "q" { label:<name:"instance" value:"" > label:<name:"n" value:"\303\251\"\\\n" > untyped:<value:1 > } was collected before"#,
            r#"* collected metric "q" { label:{name:"instance"  value:""}  label:{name:"n"  value:"é\"\\\n"}  untyped:{value:1}} was collected before"#,
        ] {
            let labels: Labels = [("instance", ""), ("n", "é\"\\\n")].into_iter().collect();
            assert_eq!(named_labels(words), BTreeSet::from([labels]), "{words}");
        }
        assert!(named_labels("An error has occurred while serving metrics").is_empty());
    }

    #[test]
    fn a_group_is_named_by_all_of_its_labels() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<Labels>();
        let named = BTreeSet::from([labels(&[("instance", ""), ("job", "p"), ("code", "200")])]);
        assert!(is_named(&labels(&[("job", "p")]), &named));
        assert!(!is_named(&labels(&[("job", "p"), ("instance", "a")]), &named));
        assert!(whose_fault(&named).contains(r#"job="p""#));
    }
}
