//! The traps in which one push spoils the gateway for all others.

use super::*;

async fn is_in_order(gateway: &PushGateway) -> bool {
    http::get(&format!("{}/metrics", gateway.url())).await.unwrap().status == 200
}

const HISTOGRAM: &str = "# TYPE z histogram\nz_bucket{le=\"+Inf\"} 1\nz_sum 1\nz_count 1\n";

/// Families of two groups that do not go together.
const CONFLICTS: [(&str, &str); 4] = [
    ("# TYPE x gauge\nx 1\n", "# TYPE x counter\nx 1\nclean 1\n"),
    ("# TYPE z_count gauge\nz_count 1\n", HISTOGRAM),
    (HISTOGRAM, "# TYPE z_sum gauge\nz_sum 1\n"),
    ("", "# TYPE go_goroutines counter\ngo_goroutines 1\nprocess_open_fds_sum 1\n"),
];

#[tokio::test]
async fn families_that_do_not_go_with_our_others_are_left_out_and_the_rest_lands() {
    for arguments in [&[][..], &["--push.disable-consistency-check"]] {
        for (first, second) in CONFLICTS {
            let gateway = PushGateway::start_with(arguments).await;
            let sink = sink(&gateway);
            sink.send(event(&[("job", "a")], first)).await.unwrap();
            let second = format!("{second}clean_too 7\n");
            sink.send(event(&[("job", "b")], &second)).await.unwrap();
            assert!(is_in_order(&gateway).await, "{second}");
            let landed = gateway.value(r#"clean_too{instance="",job="b"}"#).await;
            assert_eq!(landed, Some(7.0), "{second}");
            let groups = gateway.groups().await;
            let failed = groups.iter().filter(|group| group["last_push_successful"] != true).count();
            assert_eq!(failed, 0, "it was known before the push: {second}");
        }
    }
}

#[tokio::test]
async fn families_that_do_not_go_with_what_others_push_are_found_and_the_rest_lands() {
    let gateway = PushGateway::start().await;
    let sink = sink(&gateway);
    sink.send(event(&[("job", "a")], "q 1\n")).await.unwrap();
    // Of these the sink does not know.
    gateway.put("job/theirs", "# TYPE x gauge\nx 1\n# TYPE z_count gauge\nz_count 1\n").await;
    let body = format!("# TYPE x counter\nx 1\n{HISTOGRAM}y 1\n");
    for _ in 0..2 {
        sink.send(event(&[("job", "b")], &body)).await.unwrap();
        let held = series(&gateway.metrics().await);
        let ours: Vec<_> = held.keys().filter(|name| name.contains("job=\"b\"")).collect();
        assert!(ours.iter().any(|name| name.starts_with("y{")), "{ours:?}");
        assert!(!ours.iter().any(|name| name.starts_with(['x', 'z'])), "{ours:?}");
        assert!(held.contains_key(r#"up{instance="", job="b"}"#));
    }
    sink.send(event(&[("job", "c")], "# TYPE x gauge\nx 3\n")).await.unwrap();
    assert_eq!(gateway.value(r#"x{instance="",job="c"}"#).await, Some(3.0));
}

#[tokio::test]
async fn a_gateway_that_somebody_else_has_poisoned_holds_events_until_it_is_in_order_again() {
    let gateway = PushGateway::start().await;
    let sink = sink(&gateway);
    gateway.put("job/p", "q 1\n").await;
    gateway.put("job/p/instance@base64/=", "q 1\n").await;
    assert!(!is_in_order(&gateway).await);
    let innocent = event(&[("job", "j")], "x 1\n");
    let error = sink.send(innocent.clone()).await.unwrap_err();
    assert!(matches!(error, SendError::Transient { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("refuses every push") && text.contains("was collected before"), "{text}");
    assert!(text.contains(r#"job="p""#), "it is named: {text}");

    let poison = format!("{}/metrics/job/p/instance@base64/=", gateway.url());
    http::request(Method::DELETE, &poison, "").await.unwrap();
    sink.send(innocent).await.unwrap();
    assert_eq!(gateway.value(r#"x{instance="",job="j"}"#).await, Some(1.0));
}

#[tokio::test]
async fn a_group_of_ours_that_somebody_has_made_poison_is_taken_away() {
    let gateway = PushGateway::start().await;
    let sink = sink(&gateway);
    sink.send(event(&[("job", "p")], "q 1\n")).await.unwrap();
    // Its twin, which nobody but the path can tell from it.
    gateway.put("job/p/instance@base64/=", "q 1\n").await;
    assert!(!is_in_order(&gateway).await);
    let error = sink.send(event(&[("job", "p")], "q 2\n")).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains(r#"job="p""#), "{error}");
    wait_until("the gateway to be in order", secs(5), async || is_in_order(&gateway).await).await;
    sink.send(event(&[("job", "other")], "x 1\n")).await.unwrap();
    sink.send(event(&[("job", "p")], "q 3\n")).await.unwrap_err();
    assert!(is_in_order(&gateway).await, "it is not spoilt again");
}

#[tokio::test]
async fn names_that_a_gateway_cannot_hold_do_not_reach_it_in_any_encoding() {
    for encoding in ["text", "protobuf"] {
        let gateway = PushGateway::start().await;
        let body = "{\"a.b\"} 1\nx{\"c.d\"=\"1\"} 1\nx{__e=\"1\"} 1\ny 1\n";
        let sink = sink_with(&gateway, json!({ "encoding": encoding }));
        sink.send(event(&[("job", "j")], body)).await.unwrap();
        let page = gateway.metrics().await;
        assert!(page.contains("y{instance=\"\",job=\"j\"} 1\n"), "{page}");
        assert!(!page.contains("a.b") && !page.contains("c.d") && !page.contains("__e"), "{page}");
    }
}
