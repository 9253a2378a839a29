//! What a receiver refuses: what is asked again, what is given up, and what is remembered.

use super::*;

#[tokio::test]
async fn what_was_written_before_a_start_and_comes_again_is_no_dead_letter() {
    let far = Far::start().await;
    far.answers(|got| {
        let is_old = |series: &Series| series.samples.iter().any(|(_, at)| *at < 1_002_000);
        if got.written.series.iter().any(is_old) {
            (400, "out of order sample".into())
        } else {
            (204, String::new())
        }
    });
    let sink = far.sink(json!({}));
    for seconds in [1000, 1001, 1002] {
        sink.send(event("i", seconds, "x 1\n")).await.unwrap();
    }
    // What is older than what was written since is not that.
    let error = sink.send(event("i", 1001, "x 1\n")).await.unwrap_err();
    assert!(error.to_string().contains("refused 4 of 4 series"), "{error}");
}

#[tokio::test]
async fn what_is_too_old_for_the_receiver_is_a_dead_letter_after_a_start_too() {
    for (order, words) in
        [("strict", "out of bounds"), ("strict", "too old sample"), ("fresh_first", "out of order sample")]
    {
        let far = Far::start().await;
        far.answers(move |_| (400, words.to_owned()));
        let error = far.sink(json!({ "order": order })).send(event("i", 1000, "x 1\n")).await.unwrap_err();
        assert!(error.to_string().contains("refused 4 of 4 series"), "{order}, {words}: {error}");
    }
}

#[tokio::test]
async fn series_end_once_at_the_first_of_several_scrapes_that_cannot_be_read() {
    let far = Far::start().await;
    let sink = far.sink(json!({}));
    sink.send(event("i", 10, "x 1\n")).await.unwrap();
    for seconds in [20, 30] {
        let error = sink.send(event("i", seconds, "<html>")).await.unwrap_err();
        assert!(!error.is_transient() && error.to_string().contains("line 1"), "{error}");
    }
    assert_eq!(points(&far, "x{instance=i,job=j}"), [(Some(1.0), 10_000), (None, 20_000)]);
    let up = points(&far, "up{instance=i,job=j}");
    assert_eq!(up, [(Some(1.0), 10_000), (Some(0.0), 20_000), (Some(0.0), 30_000)]);
}

#[tokio::test]
async fn what_was_refused_as_a_whole_is_not_what_the_receiver_has_last() {
    let far = Far::start().await;
    far.answers(|got| {
        let is_ahead = |series: &Series| series.samples.iter().any(|(_, at)| *at > 1_000_000);
        let is_bad = got.written.series.iter().any(is_ahead);
        if is_bad { (400, "out of bounds".into()) } else { (204, String::new()) }
    });
    let sink = far.sink(json!({}));
    sink.send(event("i", 10, "x 1\n")).await.unwrap();
    // The clock of the poller was wrong once.
    sink.send(event("i", 5000, "y 1\n")).await.unwrap_err();
    sink.send(tombstone("i", 20)).await.unwrap();
    assert_eq!(points(&far, "x{instance=i,job=j}"), [(Some(1.0), 10_000), (None, 20_000)]);
}

#[tokio::test]
async fn a_receiver_that_refuses_everything_is_not_asked_for_every_series() {
    let far = Far::start().await;
    far.answers(|_| (400, "no more series for you".into()));
    let body: String = (0..5000).map(|n| format!("x{{n=\"{n}\"}} 1\n")).collect();
    let error = far.sink(json!({})).send(event("i", 1000, &body)).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("refused 5003 of 5003 series"), "{error}");
    assert!(far.got().len() < 60, "{} requests", far.got().len());
}

#[tokio::test]
async fn after_a_thousand_bad_series_no_more_are_looked_for() {
    let far = Far::start().await;
    far.answers(|got| if got.has("bad", "1") { (400, "label bad".into()) } else { (204, String::new()) });
    let bad = (0..3000).map(|n| format!("x{{n=\"{n}\",bad=\"1\"}} 1\n"));
    let good = (0..3000).map(|n| format!("y{{n=\"{n}\"}} 1\n"));
    let body: String = bad.chain(good).collect();
    let error = far.sink(json!({})).send(event("i", 1000, &body)).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("of 6003 series"), "{error}");
    assert!(far.got().len() < 2500, "{} requests", far.got().len());
    assert!(far.taken().contains_key("y{instance=i,job=j,n=2999}"), "what is good lands");
}

#[tokio::test]
async fn a_dead_letter_is_short_however_long_the_labels_are() {
    let far = Far::start().await;
    far.answers(|got| if got.has("__name__", "x") { (400, "too long".into()) } else { (204, String::new()) });
    let body = format!("x{{a=\"{}\"}} 1\n", "ä".repeat(100_000));
    let error = far.sink(json!({})).send(event("i", 1000, &body)).await.unwrap_err().to_string();
    assert!(error.contains("refused 1 of 4 series: x{a=") && error.len() < 2000, "{} bytes", error.len());
}
