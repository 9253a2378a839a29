//! Brokers that die or are not there, consumers and streams that vanish, pipelines that hold.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::json;

use super::*;
use crate::support::nats::NatsServer;
use crate::support::wait::wait_until;

/// Reads until every one of `expected` has come, in any order and as often as it likes.
async fn read_all(reader: &mut Reader, expected: impl IntoIterator<Item = (usize, u64)>) {
    let mut missing: BTreeSet<_> = expected.into_iter().collect();
    while !missing.is_empty() {
        missing.remove(&identify(&reader.read().await));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_again_and_again_loses_and_doubles_nothing() {
    let mut server = NatsServer::start().await;
    let sink = sink(&server.url(), json!({}));
    let mut reader = Reader::start(source(&server.url(), json!({})), 64);
    let publishing = async {
        for number in 1..=40 {
            join_all((0..10).map(|thing| deliver(&*sink, event(thing, number)))).await;
        }
    };
    let killing = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.kill9();
            server.restart().await;
        }
    };
    let everything = (1..=40).flat_map(|number| (0..10).map(move |thing| (thing, number)));
    tokio::join!(publishing, killing, read_all(&mut reader, everything));
    assert_eq!(server.messages(STREAM).await.len(), 400, "a retry was stored twice, or not at all");
    let jetstream = server.jetstream().await;
    reader.settle(&jetstream).await;
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_late_is_waited_for() {
    let mut server = NatsServer::start().await;
    server.kill9();
    let sink = sink(&server.url(), json!({}));
    let mut reader = Reader::start(source(&server.url(), json!({})), 8);
    let error = refusal(&*sink, event(0, 1)).await;
    assert!(error.is_transient() && error.to_string().starts_with("not connected to nats://"), "{error}");
    server.restart().await;
    deliver(&*sink, event(0, 1)).await;
    assert_eq!(identify(&reader.read().await), (0, 1));
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_deleted_comes_back_where_it_was() {
    let server = NatsServer::start().await;
    let jetstream = server.jetstream().await;
    let sink = sink(&server.url(), json!({}));
    let mut reader = Reader::start(source(&server.url(), json!({})), 8);
    for number in 1..=6 {
        deliver(&*sink, event(0, number)).await;
        assert_eq!(identify(&reader.read().await), (0, number), "nothing is skipped and nothing comes twice");
        wait_until("the ack to arrive", secs(5), async || unacknowledged(&jetstream).await == 0).await;
        // Half of them while the source waits for messages, half while it is paused and asks for none.
        if number % 2 == 0 {
            reader.inlet.pause();
        }
        jetstream.delete_consumer_from_stream(DURABLE, STREAM).await.unwrap();
        reader.inlet.resume();
        let back = async || consumer_info(&jetstream).await.is_some();
        wait_until("the consumer to come back", secs(10), back).await;
    }
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_deleted_does_not_pass_over_what_another_reader_held() {
    let server = NatsServer::start().await;
    let jetstream = server.jetstream().await;
    let sink = sink(&server.url(), json!({}));
    deliver(&*sink, event(0, 1)).await;
    let mut died = Reader::start(source(&server.url(), json!({ "ack_wait": "30s" })), 1);
    // Never answered, and not given back either.
    let held = died.next().await;
    assert_eq!(identify(&held.event), (0, 1));
    died.running.abort();

    let mut reader = Reader::start(source(&server.url(), json!({ "ack_wait": "30s" })), 8);
    deliver(&*sink, event(1, 2)).await;
    assert_eq!(identify(&reader.read().await), (1, 2));
    wait_until("the ack to arrive", secs(15), async || unacknowledged(&jetstream).await == 1).await;
    // Server 2.9 may complain that it has just written its state, and delete it all the same.
    let _ = jetstream.delete_consumer_from_stream(DURABLE, STREAM).await;
    let again = tokio::time::timeout(secs(15), read_all(&mut reader, [(0, 1)])).await;
    again.expect("the message that was held is lost");
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_deleted_is_made_again_and_read_from_its_start() {
    let server = NatsServer::start().await;
    let jetstream = server.jetstream().await;
    let sink = sink(&server.url(), json!({}));
    let mut reader = Reader::start(source(&server.url(), json!({})), 8);
    for number in 1..=3 {
        deliver(&*sink, event(0, number)).await;
        deliver(&*sink, event(1, number)).await;
        read_all(&mut reader, [(0, number), (1, number)]).await;
        jetstream.delete_stream(STREAM).await.unwrap();
    }
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_lost_its_end_is_read_on() {
    let mut server = NatsServer::start().await;
    let sink = sink(&server.url(), json!({}));
    for number in 1..=3 {
        deliver(&*sink, event(0, number)).await;
    }
    // A copy of the stream alone, from before the consumer went on.
    server.stop().await;
    let stream = server.dir().join("store/jetstream/$G/streams").join(STREAM).join("msgs");
    let copy = server.dir().join("copy");
    copy_files(&stream, &copy);
    server.restart().await;
    let mut reader = Reader::start(source(&server.url(), json!({})), 8);
    for number in 4..=9 {
        deliver(&*sink, event(0, number)).await;
    }
    read_all(&mut reader, (1..=9).map(|number| (0, number))).await;
    reader.stop().await;
    server.stop().await;
    std::fs::remove_dir_all(&stream).unwrap();
    copy_files(&copy, &stream);
    server.restart().await;
    let messages = server.messages(STREAM).await.len();
    assert_eq!(messages, 3, "the stream did not lose its end");

    let mut reader = Reader::start(source(&server.url(), json!({})), 8);
    deliver(&*sink, event(0, 20)).await;
    read_all(&mut reader, [(0, 20)]).await;
    reader.stop().await;
}

fn copy_files(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_pipeline_takes_its_request_back() {
    let server = NatsServer::start().await;
    let jetstream = server.jetstream().await;
    let sink = sink(&server.url(), json!({}));
    deliver(&*sink, event(0, 1)).await;
    let mut reader = Reader::start(source(&server.url(), json!({})), 8);
    assert_eq!(identify(&reader.read().await), (0, 1));

    // The source is waiting for messages now.
    let waits = async |count| consumer_info(&jetstream).await.is_some_and(|info| info.num_waiting == count);
    wait_until("the source to ask", secs(5), async || waits(1).await).await;
    reader.inlet.pause();
    deliver(&*sink, event(0, 2)).await;
    wait_until("the request to be taken back", secs(5), async || waits(0).await).await;
    let given_back =
        async || consumer_info(&jetstream).await.is_some_and(|info| info.ack_floor.stream_sequence == 1);
    wait_until("nothing to be acknowledged", secs(5), given_back).await;
    assert!(reader.inlet.try_next().is_none(), "a paused pipeline took an event");
    reader.inlet.resume();
    assert_eq!(identify(&reader.read().await), (0, 2));
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_pipeline_shows_that_it_is_alive_and_asks_for_no_more_than_it_can_hold() {
    let server = NatsServer::start().await;
    let jetstream = server.jetstream().await;
    let sink = sink(&server.url(), json!({}));
    for number in 1..=5 {
        deliver(&*sink, event(0, number)).await;
    }
    let mut reader = Reader::start(source(&server.url(), json!({ "ack_wait": "1s" })), 2);
    let (first, second) = (reader.next().await, reader.next().await);
    let start = tokio::time::Instant::now();
    let patient = async || {
        let info = consumer_info(&jetstream).await.unwrap();
        assert_eq!((info.num_ack_pending, info.num_redelivered), (2, 0));
        start.elapsed() > secs(3)
    };
    wait_until("three times ack_wait to pass", secs(5), patient).await;
    assert!(reader.inlet.try_next().is_none());
    first.acker.finish(Outcome::Delivered);
    second.acker.finish(Outcome::Delivered);
    for number in 3..=5 {
        assert_eq!(identify(&reader.read().await), (0, number));
    }
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_makes_the_connection_anew() {
    let server = NatsServer::start().await;
    // Somebody hears the messages and does not answer, as a broker whose disk is full.
    let listener = async_nats::connect(server.url()).await.unwrap();
    let mut heard = listener.subscribe("s.>").await.unwrap();
    listener.flush().await.unwrap();
    let settings = json!({ "stream": { "name": STREAM, "create": false }, "ack_timeout": "200ms" });
    let sink = sink(&server.url(), settings);
    for number in 1..=4 {
        let error = refusal(&*sink, event(0, number)).await.to_string();
        assert!(error.starts_with("no acknowledgement from stream S within 200ms"), "{error}");
        assert!(heard.next().await.is_some());
    }
    heard.unsubscribe().await.unwrap();
    let config =
        jetstream::stream::Config { name: STREAM.into(), subjects: vec!["s.>".into()], ..Default::default() };
    server.jetstream().await.create_stream(config).await.unwrap();
    deliver(&*sink, event(0, 5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_refuses_and_takes_up_again() {
    let server = NatsServer::start().await;
    let stream = json!({ "stream": { "name": STREAM, "max_bytes": "4KiB" } });
    let sink = sink(&server.url(), stream);
    let mut number = 0;
    let error = loop {
        number += 1;
        if let Err(error) = sink.send(event(0, number)).await {
            break error;
        }
        assert!(number < 100, "the stream never fills up");
    };
    assert!(error.is_transient() && error.to_string().contains("maximum bytes exceeded"), "{error}");
    let stream = server.jetstream().await.get_stream(STREAM).await.unwrap();
    stream.purge().await.unwrap();
    deliver(&*sink, event(0, number)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_is_noticed_and_forgotten_when_it_wakes() {
    let server = NatsServer::start().await;
    let sink = sink(&server.url(), json!({ "ack_timeout": "1s" }));
    deliver(&*sink, event(0, 1)).await;
    server.pause();
    let error = refusal(&*sink, event(0, 2)).await;
    assert!(error.to_string().starts_with("no acknowledgement from stream S within 1s"), "{error}");
    let noticed = async || refusal(&*sink, event(0, 2)).await.to_string().starts_with("not connected");
    wait_until("the sink to see that the broker hangs", secs(15), noticed).await;
    server.resume();
    deliver(&*sink, event(0, 2)).await;
    assert_eq!(server.messages(STREAM).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pollers_of_one_target_are_stored_once() {
    let server = NatsServer::start().await;
    let (one, two) = (sink(&server.url(), json!({})), sink(&server.url(), json!({})));
    deliver(&*one, event(0, 1)).await;
    deliver(&*two, Event { timestamp: now(), ..event(0, 1) }).await;
    deliver(&*two, event(0, 2)).await;
    assert_eq!(server.messages(STREAM).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_exists_is_used_as_it_is_or_not_at_all() {
    let server = NatsServer::start().await;
    let jetstream = server.jetstream().await;
    let subjects = vec!["other.>".to_owned()];
    let config = jetstream::stream::Config { name: STREAM.into(), subjects, ..Default::default() };
    let before = jetstream.create_stream(config.clone()).await.unwrap().cached_info().config.clone();
    let sink = sink(&server.url(), json!({}));
    let error = refusal(&*sink, event(0, 1)).await;
    let expected = "stream S exists and takes other.>, but not s.j.t0; add the subject to the stream, or change `subject`";
    assert!(error.is_transient() && error.to_string() == expected, "{error}");
    let after = jetstream.get_stream(STREAM).await.unwrap().cached_info().config.clone();
    assert_eq!(before, after);
    let subjects = vec!["other.>".to_owned(), "s.>".to_owned()];
    jetstream.update_stream(jetstream::stream::Config { subjects, ..config }).await.unwrap();
    deliver(&*sink, event(0, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_reads_only_what_it_is_told_to_and_from_where() {
    let server = NatsServer::start().await;
    let sink = sink(&server.url(), json!({}));
    for thing in 0..3 {
        deliver(&*sink, event(thing, 1)).await;
    }
    let filter = json!({ "filter_subjects": ["s.*.t1"] });
    let mut reader = Reader::start(source(&server.url(), filter), 8);
    assert_eq!(identify(&reader.read().await), (1, 1));
    deliver(&*sink, event(2, 2)).await;
    deliver(&*sink, event(1, 2)).await;
    assert_eq!(identify(&reader.read().await), (1, 2));
    reader.stop().await;

    let mut reader = Reader::start(source(&server.url(), json!({ "durable": "new", "start": "new" })), 8);
    let jetstream = server.jetstream().await;
    let there = async || {
        let found: Result<jetstream::consumer::PullConsumer, _> =
            jetstream.get_consumer_from_stream("new", STREAM).await;
        found.is_ok()
    };
    wait_until("the consumer to be there", secs(5), there).await;
    deliver(&*sink, event(0, 3)).await;
    assert_eq!(identify(&reader.read().await), (0, 3));
    reader.stop().await;
}
