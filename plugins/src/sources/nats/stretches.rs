//! The stretches of a stream that a backfill delivers. They are written into the description of its consumer, so that
//! they outlive the program.

use std::fmt;

/// How a description of ours begins.
const INTRODUCTION: &str = "prometheus-streams backfill: ";

/// With more, the two with the least between them become one; what is between is delivered once more.
const MOST: usize = 64;

/// Stretches of sequences, first and last included; in their order, and apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stretches(Vec<(u64, u64)>);

impl Stretches {
    /// The stretches in a description, or nothing if it is not one of ours.
    pub(super) fn parse(description: &str) -> Option<Self> {
        let mut stretches = Self::default();
        for stretch in description.strip_prefix(INTRODUCTION)?.split(' ') {
            let (first, last) = stretch.split_once('-')?;
            stretches.add(first.parse().ok()?, last.parse().ok()?);
        }
        Some(stretches)
    }

    /// Adds a stretch behind the others; one that overlaps the last is joined to it.
    pub(super) fn add(&mut self, first: u64, last: u64) {
        match self.0.last_mut() {
            _ if first > last => return,
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => self.0.push((first, last)),
        }
        if self.0.len() > MOST {
            let between = |at: &usize| self.0[at + 1].0 - self.0[*at].1;
            if let Some(at) = (0..self.0.len() - 1).min_by_key(between) {
                self.0[at].1 = self.0[at + 1].1;
                self.0.remove(at + 1);
            }
        }
    }

    pub(super) fn has(&self, sequence: u64) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&sequence))
    }

    /// The last sequence of all.
    pub(super) fn end(&self) -> u64 {
        self.0.last().map_or(0, |(_, last)| *last)
    }

    /// How many sequences are behind `sequence`.
    pub(super) fn behind(&self, sequence: u64) -> u64 {
        self.0.iter().map(|(first, last)| (last + 1).saturating_sub(*first.max(&(sequence + 1)))).sum()
    }
}

impl fmt::Display for Stretches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stretches: Vec<_> = self.0.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        write!(f, "{INTRODUCTION}{}", stretches.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_others_wrote_is_not() {
        let mut stretches = Stretches::default();
        stretches.add(5, 9);
        stretches.add(20, 30);
        stretches.add(31, 40);
        stretches.add(7, 6);
        let text = stretches.to_string();
        assert_eq!(text, "prometheus-streams backfill: 5-9 20-40");
        assert_eq!(Stretches::parse(&text), Some(stretches.clone()));
        for foreign in
            ["", "a consumer of mine", "prometheus-streams backfill: 5", "prometheus-streams backfill: "]
        {
            assert_eq!(Stretches::parse(foreign), None, "{foreign:?}");
        }
        assert_eq!(
            [4, 5, 9, 10, 20, 40, 41].map(|n| stretches.has(n)),
            [false, true, true, false, true, true, false]
        );
        assert_eq!([0, 4, 5, 9, 15, 39, 40, 99].map(|n| stretches.behind(n)), [26, 26, 25, 21, 21, 1, 0, 0]);
        assert_eq!(stretches.end(), 40);
    }

    #[test]
    fn many_become_fewer_and_lose_nothing() {
        let mut stretches = Stretches::default();
        // Ten apart from each other, but for one pair.
        let firsts = (0..200).map(|n| if n == 3 { 25 } else { n * 10 });
        firsts.for_each(|first| stretches.add(first, first + 1));
        assert!(stretches.0.len() <= MOST && stretches.to_string().len() < 1000);
        assert!((0..200).filter(|n| *n != 3).all(|n| stretches.has(n * 10 + 1)));
        assert_eq!(stretches.end(), 1991);
    }
}
