//! The series that a target had, so that their ends can be marked: their hashes, to see at once whether any is
//! gone, and their labels, packed, since they are needed only then.

use super::series::Scrape;

/// The level at which labels are packed: quickly. They are texts that differ little.
const LEVEL: i32 = 1;

#[derive(Debug)]
pub(super) struct Catalogue {
    hashes: Box<[u64]>,
    /// For each series its labels: how many, and then names and values, each after its length.
    packed: Box<[u8]>,
    unpacked: usize,
}

impl Catalogue {
    /// The catalogue of a scrape; nothing if it has no series whose ends are marked.
    pub(super) fn of(scrape: &Scrape) -> Option<Self> {
        let (mut hashes, mut text) = (Vec::new(), Vec::new());
        for row in scrape.tracked() {
            hashes.push(row.hash);
            let pairs = scrape.pairs(row.labels);
            push_length(pairs.len(), &mut text);
            for symbol in pairs.iter().flat_map(|(name, value)| [*name, *value]) {
                let part = scrape.symbols.get(symbol);
                push_length(part.len(), &mut text);
                text.extend_from_slice(part.as_bytes());
            }
        }
        let packed = zstd::bulk::compress(&text, LEVEL).ok()?;
        // In a box: what was packed has room for what cannot be packed.
        (!hashes.is_empty()).then_some(Self {
            hashes: hashes.into(),
            packed: packed.into(),
            unpacked: text.len(),
        })
    }

    /// Whether a scrape has just these series. Most have: targets expose the same series in the same order.
    pub(super) fn is_of(&self, scrape: &Scrape) -> bool {
        self.hashes.iter().copied().eq(scrape.tracked().map(|row| row.hash))
    }

    /// Adds to a scrape the ends of those series that it does not have itself.
    pub(super) fn end(&self, scrape: &mut Scrape, timestamp: i64) {
        let present: std::collections::HashSet<u64> = scrape.rows.iter().map(|row| row.hash).collect();
        if self.hashes.iter().all(|hash| present.contains(hash)) {
            return;
        }
        // It was packed here, so that it can be unpacked.
        let text = zstd::bulk::decompress(&self.packed, self.unpacked).unwrap_or_default();
        let mut rest = &text[..];
        for hash in &self.hashes {
            let Some(labels) = read_labels(&mut rest) else { return };
            if !present.contains(hash) {
                scrape.end(labels.into_iter(), timestamp);
            }
        }
    }

    /// How much memory it takes, about.
    #[cfg(test)]
    fn size(&self) -> usize {
        self.hashes.len() * 8 + self.packed.len()
    }
}

fn push_length(length: usize, text: &mut Vec<u8>) {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    text.extend_from_slice(&length.to_le_bytes());
}

fn read_length(rest: &mut &[u8]) -> Option<usize> {
    let (length, after) = rest.split_first_chunk()?;
    *rest = after;
    usize::try_from(u32::from_le_bytes(*length)).ok()
}

fn read_text<'t>(rest: &mut &'t [u8]) -> Option<&'t str> {
    let length = read_length(rest)?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    std::str::from_utf8(text).ok()
}

fn read_labels<'t>(rest: &mut &'t [u8]) -> Option<Vec<(&'t str, &'t str)>> {
    let count = read_length(rest)?;
    (0..count).map(|_| Some((read_text(rest)?, read_text(rest)?))).collect()
}

#[cfg(test)]
mod tests {
    use prometheus_streams_core::event::Event;

    use super::super::read::Reading;
    use super::super::read::tests::{lines, reading};
    use super::*;

    fn scrape(reading: &Reading, body: &str) -> Scrape {
        let mut event = Event::new(std::time::SystemTime::UNIX_EPOCH, body.to_owned());
        event.labels = [("job", "j")].into_iter().collect();
        reading.read(&event).0
    }

    #[test]
    fn what_is_gone_is_ended_and_nothing_else() {
        let reading = reading();
        let before = scrape(&reading, "x{a=\"1\"} 1\nx{a=\"2\"} 1\nz 5\ntimed 1 17\n");
        let catalogue = Catalogue::of(&before).unwrap();
        let mut after = scrape(&reading, "z 6\nx{a=\"2\"} 1\nnew 1\n");
        assert!(!catalogue.is_of(&after));
        let rows = after.rows.len();
        catalogue.end(&mut after, 1000);
        assert_eq!(lines(&after)[rows..], [r#"x{a="1", job="j"} stale 1000"#]);
    }

    #[test]
    fn the_same_series_are_the_same_catalogue() {
        let reading = reading();
        let before = Catalogue::of(&scrape(&reading, "x 1\ny{le=\"0.5\"} 2\n")).unwrap();
        assert!(before.is_of(&scrape(&reading, "x 3\ny{le=\"0.5\"} 4\n")));
        assert!(Catalogue::of(&scrape(&reading, "timed 1 17\n")).is_none(), "nothing to mark");
    }

    #[test]
    fn a_series_takes_little_room() {
        let body: String =
            (0..1000).map(|n| format!("http_requests_total{{path=\"/p{n}\",code=\"200\"}} 1\n")).collect();
        let size = Catalogue::of(&scrape(&reading(), &body)).unwrap().size();
        assert!(size < 20_000, "{size} bytes for 1000 series");
    }
}
