//! Pushes that are cut off at every byte: a gateway must not be left with half a group.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::support::proxy::{Fault, Proxy};

const LABELS: [(&str, &str); 2] = [("job", "j"), ("instance", "i")];

/// What the gateway holds of the group, but for what it notes itself.
async fn held(gateway: &PushGateway) -> BTreeMap<String, f64> {
    let mut held = series(&gateway.metrics().await);
    held.retain(|name, _| name.contains("job=\"j\"") && !name.starts_with("push_"));
    held
}

fn scrape(number: u64) -> Event {
    let body = format!(
        "# HELP a A.\n# TYPE a counter\na{{b=\"c\"}} {number}\na{{b=\"d\"}} {number}\n\
         # TYPE h histogram\nh_bucket{{le=\"+Inf\"}} {number}\nh_sum {number}\nh_count {number}\nz {number}\n"
    );
    Event { timestamp: UNIX_EPOCH + Duration::from_secs(number), ..event(&LABELS, &body) }
}

/// Lands a scrape, and then cuts a later push at every byte. Returns after how many cuts the gateway held
/// something else than one of the two scrapes, and how many there were.
async fn cut_everywhere(settings: Value) -> (usize, usize) {
    let gateway = PushGateway::start().await;
    let proxy = Proxy::start(gateway.url()).await;
    let mut config = json!({ "url": proxy.url() });
    config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let config: PushGatewayConfig = serde_json::from_value(config).unwrap();
    let sink = config.build(&context("push_gateway")).unwrap();
    sink.send(scrape(1)).await.unwrap();
    let whole = held(&gateway).await;
    assert!(whole.len() > 8, "{whole:?}");
    let pushes = proxy.pushes();
    let push = pushes.iter().find(|push| push.method == Method::PUT).unwrap();
    let length = push.headers["content-length"].to_str().unwrap().parse::<usize>().unwrap();
    let mut halves = 0;
    for length in 0..length {
        proxy.heal();
        proxy.set("/metrics/job", Fault::Cut(length));
        let error = sink.send(scrape(2)).await.unwrap_err();
        assert!(error.is_transient(), "cut at {length}: {error}");
        if held(&gateway).await != whole {
            halves += 1;
            // Without the time of a scrape nothing holds the first one back.
            gateway.put("job/j/instance/i", "").await;
            let fresh = config_of(&gateway).build(&context("push_gateway")).unwrap();
            fresh.send(scrape(1)).await.unwrap();
        }
    }
    proxy.heal();
    sink.send(scrape(3)).await.unwrap();
    assert_eq!(held(&gateway).await[r#"z{instance="i", job="j"}"#], 3.0);
    (halves, length)
}

fn config_of(gateway: &PushGateway) -> PushGatewayConfig {
    serde_json::from_value(json!({ "url": gateway.url() })).unwrap()
}

#[tokio::test]
async fn a_push_cut_at_any_byte_leaves_no_half_group() {
    for settings in [json!({}), json!({ "compression": "none" })] {
        let (halves, length) = cut_everywhere(settings.clone()).await;
        assert_eq!(halves, 0, "{settings}");
        assert!(length > 200, "{length} cuts");
    }
}

#[tokio::test]
async fn a_text_cut_at_the_end_of_a_line_does() {
    let (halves, length) = cut_everywhere(json!({ "encoding": "text", "compression": "none" })).await;
    assert!(halves > 10 && halves < length, "{halves} of {length}: the test above could not fail");
}
