//! What others write on the stream.

use async_nats::HeaderMap;
use bytes::Bytes;
use prometheus_streams_plugins::support::envelope::{self, Envelope, Limits};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::*;
use crate::support::nats::NatsServer;
use crate::support::wait::wait_until;

async fn publish(jetstream: &jetstream::Context, payload: impl Into<Bytes>) {
    jetstream.publish("s.j.hostile", payload.into()).await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_goes_to_the_dead_letters_and_nothing_else_does() {
    let server = NatsServer::start().await;
    let jetstream = server.jetstream().await;
    let sink = sink(&server.url(), json!({}));
    deliver(&*sink, event(0, 1)).await;
    let mut large = event(1, 1);
    large.body = vec![0; 64 << 10].into();
    let bomb = envelope::encode(&large, 3).unwrap();
    assert!(bomb.len() < 1000);
    let whole = envelope::encode(&event(2, 1), 3).unwrap();
    for payload in [
        Bytes::from_static(b"{\"Scrape\": \"classic\"}"),
        Bytes::from_static(&[8, 2]),
        Bytes::new(),
        bomb,
        whole.slice(..whole.len() - 3),
    ] {
        publish(&jetstream, payload).await;
    }
    let mut headers = HeaderMap::new();
    headers.insert("X-Anything", "at all");
    jetstream.publish_with_headers("s.j.hostile", headers, whole).await.unwrap().await.unwrap();

    let mut reader = Reader::start(source(&server.url(), json!({ "max_body": "1KiB" })), 8);
    assert_eq!(identify(&reader.read().await), (0, 1));
    assert_eq!(identify(&reader.read().await), (2, 1));
    wait_until("all to be answered", secs(10), async || unacknowledged(&jetstream).await == 0).await;
    reader.stop().await;

    let letters = server.messages(&format!("{STREAM}_DLQ")).await;
    let header =
        |index: usize, name: &str| letters[index].headers.get(name).map(ToString::to_string).unwrap();
    let mut found: Vec<_> = (0..letters.len())
        .map(|index| {
            (header(index, "Prometheus-Streams-Sequence"), header(index, "Prometheus-Streams-Reason"))
        })
        .collect();
    found.sort();
    let reasons: Vec<_> = found.iter().map(|(_, reason)| reason.as_str()).collect();
    assert!(reasons[0].starts_with("not an envelope: "), "{reasons:?}");
    assert_eq!(reasons[1], "unknown envelope version 2; this program knows version 1");
    assert_eq!(reasons[2], "not an envelope: it has no version");
    assert_eq!(reasons[3], "too large: 65536 bytes of body, the limit is 1024");
    assert!(reasons[4].starts_with("not an envelope: "), "{reasons:?}");
    assert_eq!(reasons.len(), 5);
    assert_eq!(header(0, "Prometheus-Streams-Subject"), "s.j.hostile");
    assert_eq!(header(0, "Prometheus-Streams-Deliveries"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_cannot_be_stored_stays_in_the_stream() {
    let server = NatsServer::start().await;
    let jetstream = server.jetstream().await;
    let sink = sink(&server.url(), json!({}));
    deliver(&*sink, event(0, 1)).await;
    publish(&jetstream, "garbage").await;
    // The stream itself takes the subject, so no other stream can.
    let settings = json!({ "dead_letter": { "subject": "s.dead" } });
    let mut reader = Reader::start(source(&server.url(), settings), 8);
    assert_eq!(identify(&reader.read().await), (0, 1));
    let again = async || consumer_info(&jetstream).await.is_some_and(|info| info.num_redelivered > 0);
    wait_until("the garbage to come again", secs(10), again).await;
    assert_eq!(unacknowledged(&jetstream).await, 1);
    assert_eq!(server.messages(STREAM).await.len(), 2, "the stream swallowed its own dead letter");
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_event_is_a_dead_letter_with_its_reason_and_can_be_read_again() {
    let server = NatsServer::start().await;
    let sink = sink(&server.url(), json!({}));
    deliver(&*sink, event(0, 1)).await;
    let mut reader = Reader::start(source(&server.url(), json!({})), 8);
    reader.next().await.acker.finish(Outcome::rejected("line 1:\r\nwhat is this\u{1F4A3}"));
    let jetstream = server.jetstream().await;
    wait_until("it to be answered", secs(10), async || unacknowledged(&jetstream).await == 0).await;
    let letters = server.messages(&format!("{STREAM}_DLQ")).await;
    let reason = letters[0].headers.get("Prometheus-Streams-Reason").map(ToString::to_string);
    assert_eq!(reason.as_deref(), Some("line 1:??what is this?"));
    let read = envelope::decode(letters[0].payload.clone(), &Limits::default()).unwrap();
    assert_eq!(identify(&read), (0, 1));
    reader.stop().await;
}

/// Publishes with these bytes as headers, as a client without manners would.
async fn publish_raw(server: &NatsServer, headers: &[u8], payload: &[u8]) {
    let mut connection = TcpStream::connect(server.address()).await.unwrap();
    let (head, total) = (headers.len(), headers.len() + payload.len());
    let mut bytes = b"CONNECT {\"verbose\":false,\"headers\":true}\r\n".to_vec();
    bytes.extend(format!("HPUB s.j.hostile {head} {total}\r\n").bytes());
    bytes.extend([headers, payload, b"\r\nPING\r\n"].concat());
    connection.write_all(&bytes).await.unwrap();
    let mut answer = String::new();
    let mut lines = BufReader::new(connection);
    while !answer.ends_with("PONG\r\n") {
        assert!(lines.read_line(&mut answer).await.unwrap() > 0, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_break_the_connection_are_found_and_removed() {
    let server = NatsServer::start().await;
    let jetstream = server.jetstream().await;
    let sink = sink(&server.url(), json!({}));
    let mut reader = Reader::start(source(&server.url(), json!({})), 8);
    let poisons: [&[u8]; 4] = [
        b"NATS/1.0\r\nX: a\rb\r\n\r\n",
        b"NATS/1.0\r\nX: \xff\r\n\r\n",
        b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\n\r\n",
    ];
    for (number, poison) in (1..).zip(poisons) {
        deliver(&*sink, event(0, number)).await;
        publish_raw(&server, poison, b"boom").await;
        deliver(&*sink, event(1, number)).await;
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 2 {
            let (thing, read) = identify(&reader.read().await);
            assert!(read <= number);
            if read == number {
                seen.insert(thing);
            }
        }
        reader.settle(&jetstream).await;
    }
    reader.stop().await;
    let letters = server.messages(&format!("{STREAM}_DLQ")).await;
    assert_eq!(letters.len(), 4);
    assert!(letters.iter().all(|letter| *letter.payload == *b"boom"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_without_the_others_holds_nobody_up() {
    let server = NatsServer::start().await;
    let jetstream = server.jetstream().await;
    let sink = sink(&server.url(), json!({}));
    deliver(&*sink, event(0, 1)).await;
    let mut split = event(1, 1);
    split.body = (0..5000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let parts = Envelope::seal(&split, 3).unwrap().split(4000).unwrap();
    for part in &parts[1..] {
        publish(&jetstream, part.to_bytes()).await;
    }
    deliver(&*sink, event(0, 2)).await;
    let mut reader = Reader::start(source(&server.url(), json!({ "ack_wait": "1s" })), 2);
    assert_eq!(identify(&reader.read().await), (0, 1));
    assert_eq!(identify(&reader.read().await), (0, 2));
    // Longer than ack_wait: the parts are held, and not delivered again.
    let start = tokio::time::Instant::now();
    wait_until("two seconds to pass", secs(5), async || start.elapsed() > secs(2)).await;
    let info = consumer_info(&jetstream).await.unwrap();
    assert_eq!((info.num_ack_pending, info.num_redelivered), (parts.len() - 1, 0));
    publish(&jetstream, parts[0].to_bytes()).await;
    let Delivery { event, acker } = reader.next().await;
    assert_eq!(event.body, split.body);
    assert_eq!(unacknowledged(&jetstream).await, parts.len(), "acknowledged before it was delivered");
    acker.finish(Outcome::Delivered);
    wait_until("all parts to be acknowledged", secs(5), async || unacknowledged(&jetstream).await == 0).await;
    reader.stop().await;
}
