//! How a page is put together: which scrape has what of which family. It depends on the families that the scrapes have
//! and not on their samples, so it stays while the samples change.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::rendering::Dialect;
use super::shape::{Names, Shape};
use crate::exposition::MetricKind;

/// The families of a page, sorted by name.
#[derive(Debug)]
pub(super) struct Layout {
    /// What it was made of, one for each scrape.
    shapes: Vec<Arc<Shape>>,
    pub(super) families: Vec<PageFamily>,
    /// The families on whose type targets disagree.
    pub(super) conflicts: Vec<Arc<str>>,
}

/// One family of all targets.
#[derive(Debug)]
pub(super) struct PageFamily {
    pub(super) name: Arc<str>,
    pub(super) kind: MetricKind,
    pub(super) members: Vec<Member>,
}

/// What one scrape has of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    /// Which scrape.
    pub(super) slot: u32,
    /// Which of its families.
    pub(super) part: u32,
    /// Only the series of the family's own name belong here: those of other names are in families of theirs.
    pub(super) is_apart: bool,
}

/// What series add to the name of their family.
const SUFFIXES: [&str; 9] =
    ["", "_bucket", "_count", "_sum", "_total", "_created", "_info", "_gcount", "_gsum"];

/// A family in the making.
struct Group {
    name: Arc<str>,
    /// A bit for each kind.
    kinds: u8,
    members: Vec<Member>,
}

/// What a group of several kinds becomes.
enum Verdict {
    Agreed(MetricKind),
    Disagreed(MetricKind),
    /// Series of one kind cannot stand in a family of another: each series has a family of its own name, of which
    /// nothing is said.
    Apart,
}

impl Layout {
    /// Whether it is the layout of these shapes.
    pub(super) fn is_of<'s>(&self, shapes: impl ExactSizeIterator<Item = &'s Arc<Shape>>) -> bool {
        shapes.len() == self.shapes.len()
            && self.shapes.iter().zip(shapes).all(|(own, other)| Arc::ptr_eq(own, other))
    }

    /// The layout of scrapes with these shapes, sorted by rank.
    pub(super) fn new(shapes: Vec<Arc<Shape>>, dialect: Dialect, names: &Names) -> Self {
        let mut groups = Groups { list: Vec::new(), places: HashMap::default(), dialect };
        for (slot, shape) in shapes.iter().enumerate() {
            for (part, (name, kind)) in shape.iter().enumerate() {
                groups.add(name, *kind, Member { slot: slot as u32, part: part as u32, is_apart: false });
            }
        }
        let mut conflicts = groups.take_apart(names);
        let mut families = Vec::with_capacity(groups.list.len());
        for group in groups.list.into_iter().filter(|group| !group.members.is_empty()) {
            let kind = match verdict(group.kinds, dialect) {
                Verdict::Agreed(kind) => kind,
                Verdict::Disagreed(kind) => {
                    conflicts.push(Arc::clone(&group.name));
                    kind
                }
                // Of a name that another family's series have too.
                Verdict::Apart => MetricKind::Untyped,
            };
            let Group { name, mut members, .. } = group;
            members.sort_unstable();
            families.push(PageFamily { name, kind, members });
        }
        families.sort_by(|a, b| a.name.cmp(&b.name));
        conflicts.sort();
        conflicts.dedup();
        Self { shapes, families, conflicts }
    }
}

struct Groups {
    list: Vec<Group>,
    /// By the place of the name in memory; in protobuf, where one name may have several families, and the kind.
    places: HashMap<(usize, u8), usize, BuildHasherDefault<PlaceHasher>>,
    dialect: Dialect,
}

impl Groups {
    fn add(&mut self, name: &Arc<str>, kind: MetricKind, member: Member) {
        let place = Arc::as_ptr(name).cast::<u8>() as usize;
        let bit = bit(kind);
        let key = (place, if self.dialect == Dialect::Protobuf { bit } else { 0 });
        let list = &mut self.list;
        let at = *self.places.entry(key).or_insert_with(|| {
            list.push(Group { name: Arc::clone(name), kinds: 0, members: Vec::new() });
            list.len() - 1
        });
        list[at].kinds |= bit;
        list[at].members.push(member);
    }

    /// Takes the groups apart whose members have nothing in common, and names them.
    fn take_apart(&mut self, names: &Names) -> Vec<Arc<str>> {
        let is_apart = |group: &&mut Group| matches!(verdict(group.kinds, self.dialect), Verdict::Apart);
        let apart: Vec<_> = self.list.iter_mut().filter(is_apart).map(Group::empty).collect();
        for (name, members) in &apart {
            for suffix in SUFFIXES {
                let own = names.intern(&format!("{name}{suffix}"));
                for member in members {
                    self.add(&own, MetricKind::Untyped, Member { is_apart: true, ..*member });
                }
            }
        }
        apart.into_iter().map(|(name, _)| name).collect()
    }
}

impl Group {
    fn empty(&mut self) -> (Arc<str>, Vec<Member>) {
        self.kinds = 0;
        (Arc::clone(&self.name), std::mem::take(&mut self.members))
    }
}

fn bit(kind: MetricKind) -> u8 {
    1 << KINDS.iter().position(|own| *own == kind).unwrap_or_default()
}

const KINDS: [MetricKind; 8] = [
    MetricKind::Untyped,
    MetricKind::Counter,
    MetricKind::Gauge,
    MetricKind::Histogram,
    MetricKind::Summary,
    MetricKind::GaugeHistogram,
    MetricKind::Info,
    MetricKind::StateSet,
];

/// What a family is of which targets say these kinds. Untyped series, counters of text, and gauges have the same form,
/// and a target that does not say what they are does not contradict one that does.
fn verdict(kinds: u8, dialect: Dialect) -> Verdict {
    let of = |kinds: u8| KINDS.into_iter().filter(move |kind| bit(*kind) & kinds != 0);
    let is_simple = |kind: MetricKind| match kind {
        MetricKind::Untyped | MetricKind::Gauge => true,
        MetricKind::Counter => dialect == Dialect::Text,
        _ => false,
    };
    let mut all = of(kinds);
    match (all.next(), all.next()) {
        (Some(only), None) => Verdict::Agreed(only),
        _ if !of(kinds).all(is_simple) => Verdict::Apart,
        _ => {
            let mut said = of(kinds).filter(|kind| *kind != MetricKind::Untyped);
            match (said.next(), said.next()) {
                (Some(only), None) => Verdict::Agreed(only),
                _ => Verdict::Disagreed(MetricKind::Untyped),
            }
        }
    }
}

/// Places in memory differ enough.
#[derive(Default)]
struct PlaceHasher(u64);

impl Hasher for PlaceHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}
