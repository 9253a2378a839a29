//! The page of all targets, piece by piece: for each family what is said of it, then every target's lines.

use std::sync::Arc;

use bytes::Bytes;

use super::entry::Entry;
use super::layout::{Layout, Member, PageFamily};
use super::negotiate::Wanted;
use super::rendering::{Dialect, Line, Rendering};
use crate::exposition::{
    Family, OPENMETRICS_END, encode_help, encode_openmetrics_metadata, encode_openmetrics_timestamp,
    encode_protobuf_metadata, encode_type, is_plain_metric_name,
};

/// The size of a piece, roughly: small enough to stay in a processor's cache on its way, and large enough that it is
/// seldom handed from one thread to another.
const PIECE: usize = 256 * 1024;

/// As many members of a family are looked up together. The scrapes of a page lie all over the memory, and a family has
/// a little of each: the processor can wait for many of them at once, but not while it copies lines.
const AHEAD: usize = 64;
/// As many lines of a member, at most.
const LINES_AHEAD: usize = 16;

/// A page on its way to a reader.
pub(super) struct Page {
    scrapes: Vec<(Arc<Entry>, Arc<Rendering>)>,
    layout: Arc<Layout>,
    wanted: Wanted,
    /// What comes next: a family, a member of it, a line of that.
    family: usize,
    member: usize,
    line: usize,
    /// Whether it has been said what the family is: before its first line, and not at all without one.
    has_head: bool,
    has_end: bool,
}

impl Page {
    pub(super) fn new(
        scrapes: Vec<(Arc<Entry>, Arc<Rendering>)>,
        layout: Arc<Layout>,
        wanted: Wanted,
    ) -> Self {
        let has_end = wanted.dialect != Dialect::OpenMetrics;
        Self { scrapes, layout, wanted, family: 0, member: 0, line: 0, has_head: false, has_end }
    }

    /// Writes on in a family until it ends or the piece is full. Whether it ended.
    fn write_family(&mut self, family: &PageFamily, piece: &mut Vec<u8>) -> bool {
        let is_plain = is_plain_metric_name(&family.name);
        if !is_plain && !self.wanted.with_quotes {
            return true;
        }
        let (mut stamp, mut runs) = (Vec::new(), Vec::with_capacity(AHEAD));
        loop {
            let ahead = family.members.iter().skip(self.member).take(AHEAD);
            runs.clear();
            runs.extend(ahead.map_while(|member| Run::of(&self.scrapes, *member)));
            if runs.is_empty() {
                return true;
            }
            fetch(&runs);
            for Run { entry, rendering, lines, is_apart } in runs.iter().copied() {
                let body = &entry.event.body;
                write_stamp(entry, self.wanted.dialect, &mut stamp);
                for line in lines.iter().skip(self.line) {
                    if piece.len() >= PIECE {
                        return false;
                    }
                    self.line += 1;
                    if is_apart && !rendering.is_of(line, &family.name, body) {
                        continue;
                    }
                    if line.is_quoted() && !self.wanted.with_quotes {
                        continue;
                    }
                    if !std::mem::replace(&mut self.has_head, true) {
                        self.write_head(family, piece);
                    }
                    if self.wanted.dialect == Dialect::Protobuf {
                        piece.extend_from_slice(rendering.written(line));
                    } else {
                        rendering.write(line, body, &entry.block, &stamp, piece);
                    }
                }
                (self.member, self.line) = (self.member + 1, 0);
            }
        }
    }

    fn write_head(&self, family: &PageFamily, piece: &mut Vec<u8>) {
        let members = || {
            let all = family.members.iter();
            all.filter_map(|member| Some((self.scrapes.get(member.slot as usize)?, member.part as usize)))
        };
        let mut meta = Family::new(&*family.name, family.kind);
        meta.help = members().find_map(|((entry, made), part)| made.help(part, &entry.event.body));
        // Text has no units, and to learn that nobody has one takes a look at every scrape.
        if self.wanted.dialect != Dialect::Text {
            meta.unit = members().find_map(|((entry, made), part)| made.unit(part, &entry.event.body));
        }
        match self.wanted.dialect {
            Dialect::Text => {
                if let Some(help) = &meta.help {
                    encode_help(&meta.name, help, piece);
                }
                encode_type(&meta.name, meta.kind, piece);
            }
            Dialect::OpenMetrics => encode_openmetrics_metadata(&meta, piece),
            Dialect::Protobuf => {
                let takes = |line: &&Line| self.wanted.with_quotes || !line.is_quoted();
                let sizes = members().map(|((_, made), part)| {
                    made.lines(part).iter().filter(takes).map(|line| made.written(line).len()).sum::<usize>()
                });
                encode_protobuf_metadata(&meta, sizes.sum(), piece);
            }
        }
    }
}

/// What a scrape has of a family.
#[derive(Clone, Copy)]
struct Run<'a> {
    entry: &'a Entry,
    rendering: &'a Rendering,
    lines: &'a [Line],
    is_apart: bool,
}

impl<'a> Run<'a> {
    fn of(scrapes: &'a [(Arc<Entry>, Arc<Rendering>)], member: Member) -> Option<Self> {
        let (entry, rendering) = scrapes.get(member.slot as usize)?;
        let lines = rendering.lines(member.part as usize);
        Some(Self { entry, rendering, lines, is_apart: member.is_apart })
    }
}

/// Brings the lines of all runs close to the processor.
fn fetch(runs: &[Run<'_>]) {
    let mut sum = 0_u8;
    for run in runs {
        sum ^= run.entry.block.first().copied().unwrap_or_default();
        for line in run.lines.iter().take(LINES_AHEAD) {
            let text = run.rendering.source(line, &run.entry.event.body);
            sum ^= text.first().copied().unwrap_or_default();
        }
    }
    // The sum is worth nothing, but the compiler must not know.
    std::hint::black_box(sum);
}

fn write_stamp(entry: &Entry, dialect: Dialect, stamp: &mut Vec<u8>) {
    let Some(millis) = entry.stamp else { return };
    stamp.clear();
    match dialect {
        Dialect::Text => stamp.extend_from_slice(format!(" {millis}").as_bytes()),
        Dialect::OpenMetrics => encode_openmetrics_timestamp(Some(millis), stamp),
        Dialect::Protobuf => {}
    }
}

impl Iterator for Page {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut piece = Vec::with_capacity(PIECE + PIECE / 16);
        let layout = Arc::clone(&self.layout);
        while let Some(family) = layout.families.get(self.family) {
            if !self.write_family(family, &mut piece) {
                return Some(piece.into());
            }
            (self.family, self.member, self.line, self.has_head) = (self.family + 1, 0, 0, false);
        }
        if !std::mem::replace(&mut self.has_end, true) {
            piece.extend_from_slice(OPENMETRICS_END);
        }
        (!piece.is_empty()).then(|| piece.into())
    }
}
