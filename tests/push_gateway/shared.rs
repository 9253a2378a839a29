//! `group_by` before a real gateway: many targets, few pushes.

use super::life::{instances, running};
use super::*;

const PUSHES: &str = r#"pushgateway_http_requests_total{code="200",handler="push",method="put"}"#;

#[tokio::test]
async fn a_hundred_targets_land_whole_with_a_few_pushes() {
    let gateway = PushGateway::start().await;
    let running = running(&gateway, json!({ "group_by": ["publisher"] }));
    let body = "# HELP x An x.\n# TYPE x gauge\nx{a=\"1\"} 1\n# TYPE h histogram\n\
        h_bucket{le=\"0.5\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n# TYPE s summary\n\
        s{quantile=\"0.5\"} 1\ns_sum 1\ns_count 1\n";
    let names: Vec<_> = (0..100).map(|n| format!("i{n}")).collect();
    let sends = names.iter().map(|name| {
        running.sink.send(event(&[("job", "j"), ("instance", name), ("publisher", "p"), ("rack", "r")], body))
    });
    for sent in futures_util::future::join_all(sends).await {
        sent.unwrap();
    }
    assert_eq!(instances(&gateway).await.len(), 100);
    let pushes = gateway.value(PUSHES).await.unwrap();
    assert!(pushes <= 5.0, "{pushes} pushes");
    let held = series(&gateway.metrics().await);
    for name in [
        r#"x{a="1", instance="i42", job="j", publisher="p", rack="r"}"#,
        r#"h_bucket{instance="i42", job="j", le="0.5", publisher="p", rack="r"}"#,
        r#"s{instance="i42", job="j", publisher="p", quantile="0.5", rack="r"}"#,
        r#"up{instance="i42", job="j", publisher="p", rack="r"}"#,
    ] {
        assert_eq!(held.get(name), Some(&1.0), "{name}");
    }
}

#[tokio::test]
async fn targets_that_claim_each_others_series_leave_the_group_whole() {
    let gateway = PushGateway::start().await;
    let sink = sink_with(&gateway, json!({ "group_by": ["publisher"], "honor_labels": true }));
    let labels = |name| [("job", "j"), ("instance", name), ("publisher", "p")];
    sink.send(event(&labels("a"), "x 1\ny 1\n")).await.unwrap();
    sink.send(event(&labels("b"), "x{instance=\"a\"} 2\ny 2\n")).await.unwrap();
    let held = series(&gateway.metrics().await);
    let value = |name: &str, instance: &str| {
        held.get(&format!(r#"{name}{{instance="{instance}", job="j", publisher="p"}}"#)).copied()
    };
    assert_eq!((value("x", "a"), value("y", "a"), value("y", "b")), (Some(1.0), Some(1.0), Some(2.0)));
}
