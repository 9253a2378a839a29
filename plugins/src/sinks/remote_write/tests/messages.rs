//! Which message a receiver is sent, and what it must say to be believed.

use super::*;

#[tokio::test]
async fn a_receiver_of_1_0_is_found_out_and_remembered() {
    let old = Far::with_headers(&[]).await;
    let sink = old.sink(json!({}));
    sink.send(event("i", 1000, "x 1\n")).await.unwrap();
    sink.send(event("i", 1001, "x 2\n")).await.unwrap();
    let types: Vec<_> = old.got().into_iter().map(|(got, _)| got.content_type).collect();
    assert_eq!(types, [MESSAGE_2, "application/x-protobuf", "application/x-protobuf"]);

    // Who is not let in has learned nothing.
    let closed = Far::with_headers(&[]).await;
    let sink = closed.sink(json!({}));
    closed.answers(|_| (401, String::new()));
    assert!(sink.send(event("i", 1000, "x 1\n")).await.is_err());
    closed.answers(|_| (204, String::new()));
    sink.send(event("i", 1001, "x 2\n")).await.unwrap();
    assert_eq!(closed.got().last().unwrap().0.content_type, "application/x-protobuf");

    let refusing = Far::with_headers(&[]).await;
    refusing
        .answers(|got| if got.content_type == MESSAGE_2 { (415, "no".into()) } else { (204, String::new()) });
    refusing.sink(json!({})).send(event("i", 1000, "x 1\n")).await.unwrap();
    assert_eq!(refusing.got().len(), 2);

    let new = Far::start().await;
    let sink = new.sink(json!({}));
    for seconds in [1000, 1001] {
        sink.send(event("i", seconds, "x 1\n")).await.unwrap();
    }
    assert!(new.got().iter().all(|(got, _)| got.content_type == MESSAGE_2) && new.got().len() == 2);
}

#[tokio::test]
async fn requests_that_ask_at_the_same_time_all_find_out() {
    let old = Far::with_headers(&[]).await;
    let sink: Arc<dyn Sink> = old.sink(json!({ "queue_config": { "max_shards": 16 } })).into();
    let sends = (0..64).map(|target| {
        let sink = Arc::clone(&sink);
        tokio::spawn(async move { sink.send(event(&target.to_string(), 1000, "x 1\n")).await })
    });
    for send in sends.collect::<Vec<_>>() {
        send.await.unwrap().unwrap();
    }
    let understood = old.got().into_iter().filter(|(got, _)| got.content_type != MESSAGE_2);
    let taken: std::collections::BTreeSet<_> =
        understood.flat_map(|(got, _)| got.written.series.iter().map(name_of).collect::<Vec<_>>()).collect();
    assert_eq!(taken.iter().filter(|series| series.starts_with("x{")).count(), 64);
}

#[tokio::test]
async fn what_is_to_be_2_0_and_is_not_confirmed_is_not_delivered() {
    let far = Far::with_headers(&[]).await;
    let sink = far.sink(json!({ "protobuf_message": "io.prometheus.write.v2.Request" }));
    let error = sink.send(event("i", 1000, "x 1\n")).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("does it take remote write 2.0?"), "{error}");
    assert_eq!(far.got().len(), 1);
}

#[tokio::test]
async fn an_external_label_without_value_is_none() {
    let far = Far::start().await;
    far.sink(json!({ "external_labels": { "a": "", "b": "c" } }))
        .send(event("i", 1000, "x 1\n"))
        .await
        .unwrap();
    assert!(far.taken().contains_key("x{b=c,instance=i,job=j}"), "{:?}", far.taken());
}
