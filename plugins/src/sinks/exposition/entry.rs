//! One target's newest scrape, ready to be copied onto the page: its labels applied, its lines written.

use std::ops::Range;
use std::time::SystemTime;

use crate::exposition::{Family, MetricKind, encode_help, encode_sample};

/// The newest scrape of one target.
#[derive(Debug)]
pub(super) struct Entry {
    /// The rank of the target by its first appearance; the lower one decides in a conflict.
    pub(super) rank: u64,
    /// When the target was scraped.
    pub(super) timestamp: SystemTime,
    pub(super) families: Vec<Lines>,
    text: Box<[u8]>,
}

/// Where the lines of one family are in the text of its entry.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) name: Box<str>,
    pub(super) kind: MetricKind,
    help: Range<usize>,
    plain: Range<usize>,
    quoted: Range<usize>,
}

impl Entry {
    /// The lines of `families`, to which the labels of the target have been applied. Families without
    /// samples say nothing and are left out.
    pub(super) fn new(timestamp: SystemTime, families: &[Family<'_>]) -> Self {
        let mut text = Vec::new();
        let with_samples = families.iter().filter(|family| !family.samples.is_empty());
        let families = with_samples.map(|family| Lines::write(family, &mut text)).collect();
        Self { rank: 0, timestamp, families, text: text.into() }
    }

    /// The `HELP` line of a family; empty when it has none.
    pub(super) fn help(&self, lines: &Lines) -> &[u8] {
        &self.text[lines.help.clone()]
    }

    /// The samples of a family that every Prometheus reads.
    pub(super) fn plain(&self, lines: &Lines) -> &[u8] {
        &self.text[lines.plain.clone()]
    }

    /// The samples of a family with quoted names, which only Prometheus 3 reads.
    pub(super) fn quoted(&self, lines: &Lines) -> &[u8] {
        &self.text[lines.quoted.clone()]
    }
}

impl Lines {
    fn write(family: &Family<'_>, text: &mut Vec<u8>) -> Self {
        let help = append(text, |text| {
            if let Some(help) = &family.help {
                encode_help(&family.name, help, text);
            }
        });
        let mut samples = |plain| {
            let samples = family.samples.iter().filter(move |sample| sample.is_plain() == plain);
            append(text, |text| samples.for_each(|sample| encode_sample(sample, text)))
        };
        Self {
            name: (*family.name).into(),
            kind: family.kind,
            help,
            plain: samples(true),
            quoted: samples(false),
        }
    }
}

/// The range that `write` adds to `text`.
fn append(text: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    let start = text.len();
    write(text);
    start..text.len()
}
