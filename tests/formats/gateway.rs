//! A real Push Gateway 1.5.1 is pushed every body, as it is and in its canonical form.

use bytes::Bytes;
use hyper::Method;
use prometheus_streams_plugins::exposition::{self, Format, Mode};

use super::table::{self, Case};
use super::{assert_none, parse};
use crate::support::http;
use crate::support::prometheus::PushGateway;

/// What the gateway says against a body, if it does.
async fn refusal(gateway: &PushGateway, body: impl Into<Bytes>) -> Option<String> {
    let url = format!("{}/metrics/job/judge", gateway.url());
    let answer = http::request(Method::PUT, &url, body).await.expect("push");
    (answer.status != 200).then(|| answer.text().trim().to_owned())
}

#[tokio::test]
async fn a_real_push_gateway_gives_the_verdict_of_the_tables() {
    let gateway = PushGateway::start().await;
    let mut differences = Vec::new();
    for case in table::cases() {
        let Some(column) = case.column("gateway") else { continue };
        let refusal = refusal(&gateway, case.body.clone()).await;
        if refusal.is_none() != case.is_taken("gateway") {
            differences.push(format!("{}: the table says {column}, the gateway {refusal:?}", case.title));
        }
    }
    assert_none(&differences);
}

#[tokio::test]
async fn a_push_gateway_takes_the_canonical_form_of_all_that_prometheus_takes() {
    let gateway = PushGateway::start().await;
    let (mut differences, mut taken) = (Vec::new(), 0);
    for case in table::cases().iter().filter(|case| case.is_taken("compat")) {
        let families = parse(case).unwrap_or_else(|error| panic!("{}: {error}", case.title));
        let canonical = exposition::canonical(families);
        if let Some(refusal) = refusal(&gateway, canonical.body.clone()).await {
            differences.push(format!("{}: {refusal}", case.title));
        }
        differences.extend(changed(case, &canonical.body));
        taken += 1;
    }
    assert_none(&differences);
    assert!(taken > 350, "{taken} bodies");
}

/// What a second round changes in a canonical form, if anything.
fn changed(case: &Case, body: &[u8]) -> Option<String> {
    match exposition::parse(Format::Text, Mode::Compat, body) {
        Err(error) => Some(format!("{}: the canonical form: {error}", case.title)),
        Ok(families) => (exposition::canonical(families).body != body)
            .then(|| format!("{}: the canonical form changes", case.title)),
    }
}
