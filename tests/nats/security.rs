//! Who may connect, and with what.

use nkeys::KeyPair;
use serde_json::json;

use super::*;
use crate::support::certs::Certs;
use crate::support::nats::NatsServer;
use crate::support::wait::{wait_for, wait_until};

/// Publishes and reads one event with these settings of the connection.
async fn crosses(server: &NatsServer, connection: Value) {
    let sink = sink(&server.url(), connection.clone());
    deliver(&*sink, event(0, 1)).await;
    let mut reader = Reader::start(source(&server.url(), connection), 2);
    assert_eq!(identify(&reader.read().await), (0, 1));
    reader.stop().await;
}

async fn refused(server: &NatsServer, connection: Value) {
    let sink = sink(&server.url(), connection);
    let said = async || refusal(&*sink, event(0, 1)).await.to_string().ends_with("authorization violation");
    wait_until("the refusal to be told", secs(10), said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_a_password_that_is_rotated() {
    let server = NatsServer::with("authorization { user: u, password: right }").await;
    refused(&server, json!({})).await;
    crosses(&server, json!({ "user": "u", "password": "right" })).await;
    let file = server.dir().join("password");
    std::fs::write(&file, "wrong\n").unwrap();
    let sink = sink(&server.url(), json!({ "user": "u", "password_file": file }));
    let error = refusal(&*sink, event(0, 2)).await;
    assert!(error.is_transient() && error.to_string().starts_with("not connected to"), "{error}");
    std::fs::write(&file, "right\n").unwrap();
    deliver(&*sink, event(0, 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token() {
    let server = NatsServer::with("authorization { token: right }").await;
    crosses(&server, json!({ "token": "right" })).await;
    refused(&server, json!({ "token": "wrong" })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nkey() {
    let key = KeyPair::new_user();
    let users = format!("authorization {{ users: [ {{ nkey: {} }} ] }}", key.public_key());
    let server = NatsServer::with(&users).await;
    let file = server.dir().join("seed");
    std::fs::write(&file, key.seed().unwrap()).unwrap();
    crosses(&server, json!({ "nkey_file": file })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates() {
    let certs = Certs::new();
    let server = NatsServer::with(&certs.nats_tls()).await;
    let tls =
        json!({ "ca_file": certs.ca(), "cert_file": certs.cert("client"), "key_file": certs.key("client") });
    crosses(&server, json!({ "tls": tls })).await;
    let stranger = sink(&server.url(), json!({ "tls": { "ca_file": certs.ca() } }));
    let error = refusal(&*stranger, event(0, 2)).await;
    assert!(error.is_transient() && error.to_string().starts_with("not connected to"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn least_privilege_is_enough_and_less_says_so() {
    let server = NatsServer::with(
        "authorization { users: [
            { user: admin, password: a }
            { user: poller, password: p, permissions: { publish: [\"s.>\"], subscribe: [\"_INBOX.>\"] } }
            { user: receiver, password: r, permissions: {
                publish: [
                    \"$JS.API.CONSUMER.INFO.S.receiver\", \"$JS.API.CONSUMER.MSG.NEXT.S.receiver\",
                    \"$JS.ACK.S.receiver.>\"
                ],
                subscribe: [\"_INBOX.>\"]
            } }
            { user: nobody, password: n, permissions: { publish: [\"x\"], subscribe: [\"_INBOX.>\"] } }
        ] }",
    )
    .await;
    let as_user = |user: &str| json!({ "user": user, "password": &user[..1] });
    // The administrator makes stream and consumer.
    crosses(&server, as_user("admin")).await;

    let stream = json!({ "stream": { "name": STREAM, "create": false }, "ack_timeout": "1s" });
    let poller = sink(&server.url(), with(as_user("poller"), stream.clone()));
    deliver(&*poller, event(0, 2)).await;
    let mut reader = Reader::start(source(&server.url(), as_user("receiver")), 2);
    assert_eq!(identify(&reader.read().await), (0, 2));
    reader.stop().await;

    let nobody = sink(&server.url(), with(as_user("nobody"), stream));
    let hint = async || refusal(&*nobody, event(0, 3)).await.to_string().contains("Permissions Violation");
    wait_until("the missing permission to be told", secs(10), hint).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_kept_with_the_permissions_for_it_and_without_them_nothing_is_lost() {
    let reads = |name: &str| {
        format!(
            "\"$JS.API.CONSUMER.INFO.S.{name}\", \"$JS.API.CONSUMER.MSG.NEXT.S.{name}\", \"$JS.ACK.S.{name}.>\""
        )
    };
    let makes =
        |name: &str| format!("\"$JS.API.CONSUMER.CREATE.S.{name}\", \"$JS.API.CONSUMER.DELETE.S.{name}\"");
    let all = ["receiver", "receiver-next", "receiver-backfill", "receiver-backfill-next"];
    let all: Vec<_> = all.iter().map(|name| format!("{}, {}", reads(name), makes(name))).collect();
    let user = |user: &str, publish: &str| {
        let permissions = format!("{{ publish: [ {publish} ], subscribe: [\"_INBOX.>\"] }}");
        format!("{{ user: {user}, password: {}, permissions: {permissions} }}", &user[..1])
    };
    let server = NatsServer::with(&format!(
        "authorization {{ users: [ {{ user: admin, password: a }}, {}, {} ] }}",
        user("keeper", &format!("\"$JS.API.STREAM.INFO.S\", {}", all.join(", "))),
        user("receiver", &reads("receiver")),
    ))
    .await;
    let as_user = |user: &str| json!({ "user": user, "password": &user[..1] });
    crosses(&server, as_user("admin")).await;
    let sink = sink(&server.url(), as_user("admin"));
    let mut number = 1;
    let fresh_first = Backlog::FreshFirst { after: Duration::ZERO, rate: 1000 };
    for (user, backlog) in [
        ("keeper", Backlog::Strict),
        ("keeper", fresh_first),
        ("receiver", Backlog::Strict),
        ("receiver", fresh_first),
    ] {
        let wanted: Vec<_> = (number + 1..=number + 4).collect();
        for number in &wanted {
            deliver(&*sink, event(0, *number)).await;
        }
        number += 4;
        // One that comes, and whose answer is lost.
        let next = async |reader: &mut Reader| {
            wait_for("an event", secs(60), async || reader.inlet.try_next()).await
        };
        let mut died = Reader::start_with(source(&server.url(), as_user(user)), 4, backlog);
        let held = next(&mut died).await;
        died.running.abort();
        let _ = died.running.await;
        // While somebody holds it the server is told so.
        drop(held);
        let mut reader = Reader::start_with(source(&server.url(), as_user(user)), 4, backlog);
        let mut came = Vec::new();
        while !wanted.iter().all(|number| came.contains(number)) {
            let Delivery { event, acker } = next(&mut reader).await;
            came.push(identify(&event).1);
            acker.finish(Outcome::Delivered);
        }
        if (user, backlog) == ("keeper", Backlog::Strict) {
            assert_eq!(came, wanted);
        }
        reader.stop().await;
    }
}
