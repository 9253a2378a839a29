//! What the formats cost on a real node_exporter scrape of 507 samples: the text format parsed and
//! made canonical, the envelope of the stream written and read.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prometheus_streams_core::event::Event;
use prometheus_streams_plugins::exposition;
use prometheus_streams_plugins::support::envelope::{self, Limits};
use prometheus_streams_plugins::support::scrape;

const BODY: &[u8] = include_bytes!("../data/node_exporter.txt");

fn text(c: &mut Criterion) {
    let mut group = c.benchmark_group("text");
    group.throughput(Throughput::Bytes(BODY.len() as u64));
    group.bench_function("count samples", |b| {
        b.iter(|| exposition::count_samples(exposition::Format::Text, black_box(BODY)).unwrap())
    });
    group.bench_function("parse", |b| {
        b.iter(|| {
            exposition::parse(exposition::Format::Text, exposition::Mode::Compat, black_box(BODY)).unwrap()
        })
    });
    group.bench_function("parse and make canonical", |b| {
        b.iter(|| {
            exposition::canonical(
                exposition::parse(exposition::Format::Text, exposition::Mode::Compat, black_box(BODY))
                    .unwrap(),
            )
        })
    });
    group.finish();
}

fn wire(c: &mut Criterion) {
    let event = scrape_event();
    let message = envelope::encode(&event, envelope::DEFAULT_LEVEL).unwrap();
    let mut group = c.benchmark_group("envelope");
    group.throughput(Throughput::Bytes(BODY.len() as u64));
    group.bench_function("encode", |b| {
        b.iter(|| envelope::encode(black_box(&event), envelope::DEFAULT_LEVEL).unwrap())
    });
    group.bench_function("decode", |b| {
        b.iter(|| envelope::decode(black_box(message.clone()), &Limits::default()).unwrap())
    });
    group.finish();
}

fn scrape_event() -> Event {
    let mut event = Event::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000), BODY);
    event.labels = [(scrape::JOB, "node"), (scrape::INSTANCE, "db1:9100"), (scrape::PUBLISHER, "site1")]
        .into_iter()
        .collect();
    event.attributes =
        [(scrape::DURATION, "0.0123"), (scrape::SEQUENCE, "17"), (scrape::SLOT, "1700000000000")]
            .into_iter()
            .collect();
    event
}

criterion_group! {
    name = formats;
    config = Criterion::default().sample_size(50).measurement_time(Duration::from_secs(2));
    targets = text, wire
}
criterion_main!(formats);
