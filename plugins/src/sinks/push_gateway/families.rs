//! What each metric family is, over all that this sink pushes. A gateway shows one page, on which a name has one
//! type: a family that disagrees with what is there would be refused, or where the gateway does not check, would
//! break the page for all. So it is left out before the push, and the rest of its scrape lands.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntCounter;

use crate::exposition::{Family, MetricKind};

/// Names that are kept account of; about 20 MB. Of names beyond it nobody knows the type, and whether they agree
/// is left to the gateway.
const MOST_FAMILIES: usize = 100_000;
/// As many families as are named in the log for their conflicts.
const MOST_WARNINGS: usize = 1_000;

/// The types of all families that are in use.
#[derive(Debug)]
pub(super) struct Ledger {
    book: Mutex<Book>,
    left_out: IntCounter,
    most: usize,
}

#[derive(Debug, Default)]
struct Book {
    /// What the pages of our targets have.
    used: HashMap<Arc<str>, Use>,
    /// What the gateway shows of itself.
    own: HashMap<Arc<str>, MetricKind>,
    /// What it held when it was asked last, of us and of others.
    seen: HashMap<Arc<str>, MetricKind>,
    warned: HashSet<Arc<str>>,
}

#[derive(Debug)]
struct Use {
    kind: MetricKind,
    pages: usize,
}

/// The families of one page. Dropped, it uses them no longer.
#[derive(Debug)]
pub(super) struct InUse {
    ledger: Arc<Ledger>,
    names: Box<[Arc<str>]>,
}

impl Ledger {
    pub(super) fn new(left_out: IntCounter) -> Self {
        Self { book: Mutex::default(), left_out, most: MOST_FAMILIES }
    }

    /// Takes the families that agree with all others into use, and leaves those that do not out of `families`.
    /// `before` is the page whose place they take; what it alone has does not count.
    pub(super) fn admit(self: &Arc<Self>, families: &mut Vec<Family<'_>>, before: Option<&InUse>) -> InUse {
        let mut book = self.lock();
        let mut names = Vec::with_capacity(families.len());
        let is_before = |name: &str| before.is_some_and(|before| before.has(name));
        families.retain(|family| match book.conflict(family, &is_before) {
            None => {
                names.extend(book.take(family, self.most));
                true
            }
            Some(other) => {
                self.left_out.inc_by(family.samples.len() as u64);
                book.warn(&family.name, family.kind, &other);
                false
            }
        });
        names.sort_unstable();
        InUse { ledger: Arc::clone(self), names: names.into() }
    }

    /// Notes what the gateway shows: families of its own, and those of all groups.
    pub(super) fn note(&self, own: HashMap<Arc<str>, MetricKind>, seen: HashMap<Arc<str>, MetricKind>) {
        let mut book = self.lock();
        (book.own, book.seen) = (own, seen);
    }

    /// What groups held when the gateway was asked is old by now.
    pub(super) fn forget_seen(&self) {
        self.lock().seen = HashMap::new();
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// The name that a family does not go with, if there is one.
    fn conflict(&self, family: &Family<'_>, is_before: &impl Fn(&str) -> bool) -> Option<String> {
        let kind_of = |name: &str| {
            let is_replaced = is_before(name);
            let used = self.used.get(name).filter(|used| used.pages > usize::from(is_replaced));
            // Where a page of ours has the name, what was seen is older than it.
            let seen = || self.seen.get(name).copied().filter(|_| !is_replaced);
            self.own.get(name).copied().or(used.map(|used| used.kind)).or_else(seen)
        };
        let name = &*family.name;
        if kind_of(name).is_some_and(|kind| kind != family.kind) {
            return Some(name.to_owned());
        }
        if matches!(family.kind, MetricKind::Histogram | MetricKind::Summary) {
            let series = family.kind.suffixes().iter().map(|suffix| format!("{name}{suffix}"));
            if let Some(other) = series.into_iter().find(|series| kind_of(series).is_some()) {
                return Some(other);
            }
        }
        ["_count", "_sum", "_bucket"].into_iter().find_map(|suffix| {
            let base = name.strip_suffix(suffix)?;
            let kind = kind_of(base)?;
            let is_series = matches!(kind, MetricKind::Histogram | MetricKind::Summary)
                && kind.suffixes().contains(&suffix);
            is_series.then(|| base.to_owned())
        })
    }

    fn take(&mut self, family: &Family<'_>, most: usize) -> Option<Arc<str>> {
        let known = self.used.get_key_value(&*family.name).map(|(name, _)| Arc::clone(name));
        if known.is_none() && self.used.len() >= most {
            return None;
        }
        let name = known.unwrap_or_else(|| (&*family.name).into());
        let used = self.used.entry(Arc::clone(&name)).or_insert(Use { kind: family.kind, pages: 0 });
        used.kind = family.kind;
        used.pages += 1;
        Some(name)
    }

    fn warn(&mut self, family: &str, kind: MetricKind, other: &str) {
        if self.warned.len() < MOST_WARNINGS && self.warned.insert(family.into()) {
            let kind = kind.as_str();
            tracing::warn!(
                family,
                kind,
                other,
                "a family is left out of pushes: on the push gateway there is another of its name, or of a name \
                 that its series have"
            );
        }
    }
}

impl InUse {
    pub(super) fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    fn has(&self, name: &str) -> bool {
        self.names.binary_search_by(|own| (**own).cmp(name)).is_ok()
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut book = self.ledger.lock();
        for name in &self.names {
            if let Some(used) = book.used.get_mut(name) {
                used.pages -= 1;
                if used.pages == 0 {
                    book.used.remove(name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::{Format, Mode, parse};

    fn ledger() -> Arc<Ledger> {
        Arc::new(Ledger::new(IntCounter::new("left_out", "x").unwrap()))
    }

    /// The names that are admitted of a body.
    fn admit(ledger: &Arc<Ledger>, body: &str, before: Option<&InUse>) -> (Vec<String>, InUse) {
        let mut families = parse(Format::Text, Mode::Compat, body.as_bytes()).unwrap();
        let in_use = ledger.admit(&mut families, before);
        (families.iter().map(|family| family.name.to_string()).collect(), in_use)
    }

    const HISTOGRAM: &str = "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n";

    #[test]
    fn the_first_page_decides_until_it_is_gone() {
        let ledger = ledger();
        let (_, first) = admit(&ledger, "# TYPE x gauge\nx 1\n", None);
        assert_eq!(admit(&ledger, "# TYPE x counter\nx 1\ny 1\n", None).0, ["y"]);
        assert_eq!(ledger.left_out.get(), 1);
        drop(first);
        assert_eq!(admit(&ledger, "# TYPE x counter\nx 1\n", None).0, ["x"]);
        assert!(ledger.lock().used.is_empty());
    }

    #[test]
    fn a_target_that_alone_has_a_family_may_change_it() {
        let ledger = ledger();
        let (_, before) = admit(&ledger, "# TYPE x gauge\nx 1\n", None);
        let (names, after) = admit(&ledger, "# TYPE x counter\nx 1\n", Some(&before));
        assert_eq!(names, ["x"]);
        drop(before);
        let (names, _both) = admit(&ledger, "# TYPE x counter\nx 1\n", None);
        assert_eq!(names, ["x"]);
        assert!(admit(&ledger, "# TYPE x gauge\nx 1\n", Some(&after)).0.is_empty());
    }

    #[test]
    fn the_series_of_a_histogram_collide_both_ways() {
        for suffix in ["_bucket", "_sum", "_count"] {
            let ledger = ledger();
            let series = format!("h{suffix} 1\n");
            let (_, histogram) = admit(&ledger, HISTOGRAM, None);
            assert!(admit(&ledger, &series, None).0.is_empty(), "{suffix}");
            drop(histogram);
            let (names, _series) = admit(&ledger, &series, None);
            assert_eq!(names.len(), 1);
            assert!(admit(&ledger, HISTOGRAM, None).0.is_empty(), "{suffix}");
        }
        let ledger = ledger();
        let (_, _summary) = admit(&ledger, "# TYPE h summary\nh_sum 1\nh_count 1\n", None);
        assert_eq!(admit(&ledger, "h_bucket 1\n", None).0, ["h_bucket"], "a summary has no buckets");
        assert!(admit(&ledger, "h_sum 1\n", None).0.is_empty());
    }

    #[test]
    fn the_families_of_the_gateway_come_first() {
        let ledger = ledger();
        let kinds = |name: &str| HashMap::from([(Arc::from(name), MetricKind::Gauge)]);
        ledger.note(kinds("go_goroutines"), kinds("x"));
        let body = "# TYPE go_goroutines counter\ngo_goroutines 1\n# TYPE x counter\nx 1\n";
        let (names, _page) = admit(&ledger, body, None);
        assert!(names.is_empty(), "{names:?}");
        ledger.forget_seen();
        assert_eq!(admit(&ledger, body, None).0, ["x"]);
        assert_eq!(admit(&ledger, "# TYPE go_goroutines gauge\ngo_goroutines 1\n", None).0.len(), 1);
    }

    #[test]
    fn no_more_names_are_kept_than_there_is_room_for() {
        let ledger = Arc::new(Ledger { most: 2, ..Ledger::new(IntCounter::new("left_out", "x").unwrap()) });
        let (names, page) = admit(&ledger, "a 1\nb 1\nc 1\n", None);
        assert_eq!((names.len(), page.names().len()), (3, 2));
        assert_eq!(admit(&ledger, "# TYPE c gauge\nc 1\n# TYPE a gauge\na 1\n", None).0, ["c"]);
    }
}
