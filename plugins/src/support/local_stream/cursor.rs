//! What a consumer has answered: everything below a floor, and ranges above it.

use std::collections::BTreeMap;

/// The records that a consumer need not see again. Answers come in any order, so there are gaps; the
/// memory it takes follows the number of gaps, not that of records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    floor: u64,
    /// First answered record of a range, and the first after it that is not. Apart from each other
    /// and from the floor.
    above: BTreeMap<u64, u64>,
}

impl Cursor {
    /// A cursor that has everything below `floor` behind it.
    pub(super) fn at(floor: u64) -> Self {
        Self { floor, above: BTreeMap::new() }
    }

    /// The first record that is not answered.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// True when `sequence` is answered.
    pub(super) fn has(&self, sequence: u64) -> bool {
        let below = self.above.range(..=sequence).next_back();
        sequence < self.floor || below.is_some_and(|(_, end)| sequence < *end)
    }

    /// Notes that `sequence` is answered.
    pub(super) fn answer(&mut self, sequence: u64) {
        if self.has(sequence) {
            return;
        }
        let before = self.above.range(..sequence).next_back().filter(|(_, end)| **end == sequence);
        let start = before.map_or(sequence, |(start, _)| *start);
        let end = self.above.remove(&(sequence + 1)).unwrap_or(sequence + 1);
        self.above.insert(start, end);
        self.settle();
    }

    /// Puts everything below `floor` behind it, and returns how many of those from `from` on were not answered.
    pub(super) fn skip(&mut self, from: u64, floor: u64) -> u64 {
        let from = from.max(self.floor);
        let overlaps = self.above.iter().map(|(start, end)| (*start.max(&from), *end.min(&floor)));
        let answered: u64 = overlaps.map(|(start, end)| end.saturating_sub(start)).sum();
        self.floor = self.floor.max(floor);
        self.settle();
        floor.saturating_sub(from).saturating_sub(answered)
    }

    /// Raises the floor over ranges that it has reached.
    fn settle(&mut self) {
        while let Some(range) = self.above.first_entry().filter(|range| *range.key() <= self.floor) {
            self.floor = self.floor.max(range.remove());
        }
    }

    /// The cursor as it stands on disk: numbers of eight bytes, big end first.
    pub(super) fn encode(&self) -> Vec<u8> {
        let ranges = self.above.iter().flat_map(|(start, end)| [*start, *end]);
        std::iter::once(self.floor).chain(ranges).flat_map(u64::to_be_bytes).collect()
    }

    /// Reads what [`Cursor::encode`] wrote; nothing if it is not that.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let mut numbers = numbers.iter().copied().map(u64::from_be_bytes);
        let mut cursor = Self::at(numbers.next().filter(|_| rest.is_empty())?);
        while let Some(start) = numbers.next() {
            cursor.above.insert(start, numbers.next().filter(|end| *end > start)?);
        }
        cursor.settle();
        Some(cursor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_set(steps in prop::collection::vec((0u64..40, any::<bool>()), 0..60)) {
            let (mut cursor, mut plain, mut floor) = (Cursor::at(3), BTreeSet::from([0, 1, 2]), 3);
            for (sequence, skips) in steps {
                if skips {
                    let from = sequence / 2;
                    let missing = (from..sequence).filter(|n| !plain.contains(n)).count() as u64;
                    plain.extend(0..sequence);
                    prop_assert_eq!(cursor.skip(from, sequence), missing);
                } else {
                    plain.insert(sequence);
                    cursor.answer(sequence);
                }
                while plain.contains(&floor) { floor += 1; }
                prop_assert_eq!(cursor.floor(), floor);
                for n in 0..45 { prop_assert_eq!(cursor.has(n), plain.contains(&n)); }
                prop_assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor.clone()));
            }
        }
    }

    #[test]
    fn gaps_cost_memory_and_records_do_not() {
        let mut cursor = Cursor::at(0);
        for sequence in (1..10_000).rev() {
            cursor.answer(sequence);
        }
        assert_eq!(cursor.encode().len(), 24);
        cursor.answer(0);
        assert_eq!(cursor, Cursor::at(10_000));
    }

    #[test]
    fn what_is_not_a_cursor_is_not_read() {
        for bytes in [&[][..], &[0; 7], &[0; 16], &[0; 24]] {
            assert_eq!(Cursor::decode(bytes), None, "{bytes:?}");
        }
    }
}
