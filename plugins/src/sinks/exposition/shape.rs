//! Which families a scrape has: mostly those of the scrape before, so that both share one list, and the page knows
//! without looking that nothing has moved. Targets of one kind share it too.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::exposition::MetricKind;

/// The families of a scrape in its order. Names of families are shared by all scrapes, so that two are the same if
/// they are at the same place in memory.
pub(super) type Shape = [(Arc<str>, MetricKind)];

/// The names of all families.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    names: HashSet<Arc<str>>,
    /// How many there were when those that nobody uses any more were forgotten last.
    before: usize,
    shapes: HashSet<Arc<Shape>>,
    /// The same of shapes.
    shapes_before: usize,
}

/// Names that nobody uses are forgotten once there may be twice as many, and this.
const MORE: usize = 1000;
/// Shapes that nobody uses are forgotten once there may be a quarter more, and this.
const MORE_SHAPES: usize = 100;

impl Names {
    /// The shape of these families: that of the scrape before, if it is the same.
    pub(super) fn shape<'n>(
        &self,
        families: impl ExactSizeIterator<Item = (&'n str, MetricKind)> + Clone,
        before: Option<&Arc<Shape>>,
    ) -> Arc<Shape> {
        if let Some(before) = before
            && before.len() == families.len()
            && before.iter().zip(families.clone()).all(|((own, kind), family)| (&**own, *kind) == family)
        {
            return Arc::clone(before);
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shape = families.map(|(name, kind)| (known.intern(name), kind)).collect();
        let shape = known.share(shape);
        known.forget_unused();
        shape
    }

    /// A name that is shared by all that ask for it.
    pub(super) fn intern(&self, name: &str) -> Arc<str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).intern(name)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).names.len()
    }
}

impl Known {
    fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let name = Arc::from(name);
        self.names.insert(Arc::clone(&name));
        name
    }

    fn share(&mut self, shape: Arc<Shape>) -> Arc<Shape> {
        if let Some(known) = self.shapes.get(&*shape) {
            return Arc::clone(known);
        }
        self.shapes.insert(Arc::clone(&shape));
        shape
    }

    fn forget_unused(&mut self) {
        if self.shapes.len() > self.shapes_before + self.shapes_before / 4 + MORE_SHAPES {
            self.shapes.retain(|shape| Arc::strong_count(shape) > 1);
            self.shapes_before = self.shapes.len();
        }
        if self.names.len() > 2 * self.before + MORE {
            self.names.retain(|name| Arc::strong_count(name) > 1);
            self.before = self.names.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_gone_are_forgotten() {
        let names = Names::default();
        let kept = names.shape([("kept", MetricKind::Gauge)].into_iter(), None);
        for number in 0..10 * MORE {
            names.shape([(format!("n{number}").as_str(), MetricKind::Gauge)].into_iter(), None);
            assert!(names.len() <= 2 * MORE, "{}", names.len());
        }
        assert!(Arc::ptr_eq(&names.intern("kept"), &kept[0].0));
        let again = names.shape([("kept", MetricKind::Gauge)].into_iter(), Some(&kept));
        assert!(Arc::ptr_eq(&again, &kept));
        let other = names.shape([("kept", MetricKind::Counter)].into_iter(), Some(&kept));
        assert_eq!(other[0].1, MetricKind::Counter);
        let elsewhere = names.shape([("kept", MetricKind::Gauge)].into_iter(), None);
        assert!(Arc::ptr_eq(&elsewhere, &kept));
    }
}
