//! From an event to the body of a push: what the target exposed and the report of the scrape, labelled, in the
//! form that a gateway takes, and remembered until a newer one comes; and from the pages of all members of a
//! group to one body.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use flate2::write::GzEncoder;
use prometheus_streams_core::event::Event;

use super::families::{InUse, Ledger};
use super::key::GroupingKey;
use super::memory::{Charge, Memory};
use super::metrics::PushMetrics;
use super::probe::Wire;
use crate::exposition::{self, Family, Format, Mode};
use crate::support::report::{self, Unreadable};
use crate::support::scrape;

/// Good enough for text that repeats itself, and quick.
const ZSTD_LEVEL: i32 = 1;

/// The newest scrape of one target, as it stands in its group.
#[derive(Debug)]
pub(super) struct Page {
    /// Canonical text, compressed.
    text: Box<[u8]>,
    /// Its length before.
    length: usize,
    families: InUse,
    _charge: Charge,
}

/// What pages are made with.
#[derive(Debug)]
pub(super) struct Press {
    pub(super) honor_labels: bool,
    pub(super) ledger: Arc<Ledger>,
    pub(super) memory: Arc<Memory>,
}

/// One body for a group.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) bytes: Bytes,
    pub(super) samples: usize,
}

impl Press {
    /// The page of an event for its group, where it takes the place of `before`, without the families that the
    /// gateway has refused there; and whether its body could be read.
    pub(super) fn page(
        &self,
        event: &Event,
        key: &GroupingKey<'_>,
        before: Option<&Page>,
        refused: &[Box<str>],
        metrics: &PushMetrics,
    ) -> io::Result<(Page, Result<(), Unreadable>)> {
        let (mut families, readable) = report::families(event);
        label(&mut families, key, self.honor_labels || scrape::honors_labels(event));
        let normalized = exposition::normalize(families);
        metrics.duplicates.inc_by(normalized.duplicates as u64);
        metrics.unnameable.inc_by(normalized.dropped as u64);
        let mut families = normalized.families;
        families.retain(|family| {
            let is_refused = refused.iter().any(|name| **name == *family.name);
            if is_refused {
                metrics.refused.inc_by(family.samples.len() as u64);
            }
            !is_refused
        });
        Ok((self.print(families, before)?, readable))
    }

    /// The page of families that are in the form which a gateway takes.
    pub(super) fn print(&self, mut families: Vec<Family<'_>>, before: Option<&Page>) -> io::Result<Page> {
        let in_use = self.ledger.admit(&mut families, before.map(|before| &before.families));
        let mut text = Vec::new();
        exposition::encode(&families, &mut text);
        let compressed = zstd::bulk::compress(&text, ZSTD_LEVEL)?;
        let charge = self.memory.charge(compressed.len() + size_of_val(in_use.names()));
        Ok(Page { text: compressed.into(), length: text.len(), families: in_use, _charge: charge })
    }
}

impl Page {
    fn text(&self) -> io::Result<Vec<u8>> {
        zstd::bulk::decompress(&self.text, self.length)
    }
}

/// The names of all families on these pages.
pub(super) fn family_names(pages: &[Arc<Page>]) -> io::Result<Vec<Box<str>>> {
    let mut names = Vec::new();
    let mut seen = HashSet::new();
    for page in pages {
        let text = page.text()?;
        let types = text.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"# TYPE "));
        for line in types {
            let name = line.split(|byte| *byte == b' ').next().unwrap_or_default();
            let name = String::from_utf8_lossy(name);
            if !seen.contains(&*name) {
                seen.insert(name.to_string());
                names.push(name.into());
            }
        }
    }
    Ok(names)
}

/// One body of all these pages, without the families that `is_out` names. Of equal series of two members the
/// first stays.
pub(super) fn assemble(pages: &[Arc<Page>], is_out: impl Fn(&str) -> bool, wire: Wire) -> io::Result<Body> {
    let texts = pages.iter().map(|page| page.text()).collect::<io::Result<Vec<_>>>()?;
    let mut families = Vec::new();
    for text in &texts {
        let parsed = exposition::parse(Format::Text, Mode::Compat, text);
        families.extend(parsed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?);
    }
    families.retain(|family| !is_out(&family.name));
    let families = exposition::normalize(families).families;
    let mut body = Vec::with_capacity(texts.iter().map(Vec::len).sum());
    if wire.is_protobuf {
        exposition::encode_protobuf(&families, &mut body);
    } else {
        exposition::encode(&families, &mut body);
    }
    let bytes = if wire.is_gzip { gzip(&body)? } else { body };
    let samples = families.iter().map(|family| family.samples.len()).sum();
    Ok(Body { bytes: bytes.into(), samples })
}

fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
    io::Write::write_all(&mut encoder, body)?;
    encoder.finish()
}

/// Puts the labels of the target on the samples, except those that the gateway puts there itself. It
/// does so whatever a sample says, so these cannot be honoured and are always saved as `exported_`.
fn label<'a>(families: &mut [Family<'a>], key: &GroupingKey<'a>, honor_labels: bool) {
    if honor_labels {
        exposition::apply_target_labels(families, &key.grouped, false);
        exposition::apply_target_labels(families, &key.rest, true);
    } else {
        let all = [&key.grouped[..], &key.rest].concat();
        exposition::apply_target_labels(families, &all, false);
    }
    for sample in families.iter_mut().flat_map(|family| &mut family.samples) {
        sample.labels.retain(|(name, _)| !key.groups_by(name));
    }
    for histogram in families.iter_mut().flat_map(|family| &mut family.histograms) {
        histogram.labels.retain(|(name, _)| !key.groups_by(name));
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use prometheus::{IntCounter, IntGauge};
    use prometheus_streams_core::testing::context;
    use prometheus_streams_core::values::Size;

    use super::*;

    const TEXT: Wire = Wire { is_protobuf: false, is_gzip: false };

    fn press(honor_labels: bool) -> Press {
        let ledger = Ledger::new(IntCounter::new("left_out", "x").unwrap());
        let memory = Memory::new(Size(1 << 20), IntGauge::new("memory", "x").unwrap());
        Press { honor_labels, ledger: Arc::new(ledger), memory: Arc::new(memory) }
    }

    fn page(press: &Press, instance: &str, body: &'static str, grouping: &[&str]) -> Arc<Page> {
        let mut event = Event::new(UNIX_EPOCH, body);
        event.labels = [("job", "node"), ("instance", instance), ("publisher", "site")].into_iter().collect();
        let grouping: Vec<_> = grouping.iter().map(|&name| name.to_owned()).collect();
        let key = GroupingKey::new(&event.labels, Some(&grouping)).unwrap();
        let metrics = PushMetrics::new(&context("push_gateway"));
        let (page, readable) = press.page(&event, &key, None, &[], &metrics).unwrap();
        readable.unwrap();
        Arc::new(page)
    }

    /// The lines of a body that are samples of families x to z.
    fn lines(body: &Body) -> Vec<&str> {
        let body = std::str::from_utf8(&body.bytes).unwrap();
        body.lines().filter(|line| line.starts_with(['x', 'y', 'z'])).collect()
    }

    /// The lines of the page of `body` that are samples, but for the report.
    fn samples(body: &'static str, grouping: &[&str], honor_labels: bool) -> Vec<String> {
        let page = page(&press(honor_labels), "db1", body, grouping);
        let body = assemble(&[page], |_| false, TEXT).unwrap();
        lines(&body).into_iter().map(str::to_owned).collect()
    }

    const FEDERATED: &str = "x{job=\"a\",publisher=\"p\"} 1\nx{job=\"b\"} 2\nx{job=\"node\"} 3\n";

    #[test]
    fn what_the_gateway_would_overwrite_is_saved_as_exported() {
        assert_eq!(
            samples(FEDERATED, &["instance", "publisher"], false),
            [
                "x{exported_job=\"a\",exported_publisher=\"p\"} 1",
                "x{exported_job=\"b\"} 2",
                "x{exported_job=\"node\"} 3",
            ]
        );
    }

    #[test]
    fn what_does_not_name_the_group_goes_on_the_samples() {
        assert_eq!(
            samples(FEDERATED, &["instance"], false),
            [
                "x{exported_job=\"a\",exported_publisher=\"p\",publisher=\"site\"} 1",
                "x{exported_job=\"b\",publisher=\"site\"} 2",
                "x{exported_job=\"node\",publisher=\"site\"} 3",
            ]
        );
    }

    #[test]
    fn labels_are_honoured_as_far_as_a_gateway_can() {
        assert_eq!(
            samples(FEDERATED, &["instance"], true),
            [
                "x{exported_job=\"a\",publisher=\"p\"} 1",
                "x{exported_job=\"b\",publisher=\"site\"} 2",
                "x{exported_job=\"node\",publisher=\"site\"} 3",
            ]
        );
    }

    #[test]
    fn members_share_their_families_and_no_series_comes_twice() {
        let press = press(true);
        let pages = [
            page(&press, "a", "# TYPE x gauge\nx 1\ny 1\n", &["publisher"]),
            page(&press, "b", "# TYPE x gauge\nx 2\nx{instance=\"a\"} 3\nz 1\n", &["publisher"]),
        ];
        let body = assemble(&pages, |name| name == "y", TEXT).unwrap();
        assert_eq!(lines(&body), ["x{instance=\"a\"} 1", "x{instance=\"b\"} 2", "z{instance=\"b\"} 1"]);
        let text = std::str::from_utf8(&body.bytes).unwrap();
        assert_eq!(text.matches("# TYPE up gauge").count(), 1);
        assert_eq!(text.matches("# TYPE x gauge").count(), 1);
        assert_eq!(family_names(&pages).unwrap().iter().filter(|name| &***name == "x").count(), 1);
    }

    #[test]
    fn a_body_says_the_same_in_every_encoding() {
        let body =
            "# TYPE x histogram\nx_bucket{le=\"0.5\"} 1\nx_bucket{le=\"+Inf\"} 2\nx_sum 1\nx_count 2\n";
        let pages = [page(&press(false), "a", body, &["publisher"])];
        let text = assemble(&pages, |_| false, TEXT).unwrap();
        let protobuf = assemble(&pages, |_| false, Wire { is_protobuf: true, is_gzip: false }).unwrap();
        let parse = |format, body: &Body| {
            let mut families = exposition::parse(format, Mode::Compat, &body.bytes).unwrap();
            let samples = families.iter_mut().flat_map(|family| &mut family.samples);
            samples.for_each(|sample| sample.labels.sort());
            let mut text = Vec::new();
            exposition::encode(&exposition::normalize(families).families, &mut text);
            let mut lines: Vec<_> = String::from_utf8(text).unwrap().lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(parse(Format::Text, &text), parse(Format::Protobuf, &protobuf));
        assert_eq!(text.samples, protobuf.samples);
        let zipped = assemble(&pages, |_| false, Wire { is_protobuf: false, is_gzip: true }).unwrap();
        let mut unzipped = Vec::new();
        io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&zipped.bytes[..]), &mut unzipped).unwrap();
        assert_eq!(unzipped, text.bytes);
    }

    #[test]
    fn memory_is_given_back() {
        let press = Press {
            memory: Arc::new(Memory::new(Size(1), IntGauge::new("m", "m").unwrap())),
            ..press(false)
        };
        assert!(!press.memory.is_full());
        let page = page(&press, "a", "x 1\n", &[]);
        assert!(press.memory.is_full());
        drop(page);
        assert!(!press.memory.is_full());
    }
}
