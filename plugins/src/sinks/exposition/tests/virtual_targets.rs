//! The virtual targets, over HTTP.

use serde_json::Value;

use super::*;

const PATH: &str = "/targets/s1/j/a/metrics";

/// Serves a bench while `client` asks.
async fn serving(bench: &Bench, client: impl AsyncFnOnce(SocketAddr)) {
    let server = Server::bind(bench.sink.listen).await.unwrap();
    let (address, shutdown) = (server.address(), CancellationToken::new());
    let asking = async {
        client(address).await;
        shutdown.cancel();
    };
    tokio::join!(bench.sink.serve(server, shutdown.clone()), asking);
}

fn scrape_of(bench: &Bench, body: &'static str) -> Event {
    let mut event = bench.event("a", body);
    event.labels.insert(scrape::PUBLISHER, "s1");
    event.attributes.insert(scrape::INTERVAL, "15000");
    event
}

async fn text_of(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let (status, _, body) = get(address, path, headers).await;
    (status.as_u16(), String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn live_targets_are_listed_with_their_labels() {
    let bench = Bench::new(config());
    serving(&bench, async |address| {
        bench.sink.send(scrape_of(&bench, "x 1\n")).await.unwrap();
        let (_, headers, body) = get(address, "/sd", &[]).await;
        assert_eq!(headers[header::CONTENT_TYPE], "application/json");
        let list: Value = serde_json::from_slice(&body).unwrap();
        let labels = serde_json::json!({
            "instance": "a", "job": "j", "publisher": "s1", "__scheme__": "http", "__metrics_path__": PATH,
            "__scrape_interval__": "15s", "__scrape_timeout__": "10s",
        });
        assert_eq!(list, serde_json::json!([{ "targets": [address.to_string()], "labels": labels }]));
        bench.advance(301);
        assert_eq!(text_of(address, "/sd", &[]).await, (200, "[]\n".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn a_target_is_served_as_it_was() {
    let bench = Bench::new(config());
    serving(&bench, async |address| {
        let body = "# HELP x  Odd,\tas it was.\nx{ a=\"b\", }  1";
        let mut event = scrape_of(&bench, body);
        event.attributes.insert(scrape::CONTENT_TYPE, "text/plain;version=0.0.4");
        bench.sink.send(event).await.unwrap();
        let (status, headers, found) = get(address, PATH, &[("accept", "*/*")]).await;
        assert_eq!((status.as_u16(), String::from_utf8(found).unwrap()), (200, body.to_owned()));
        assert_eq!(headers[header::CONTENT_TYPE], "text/plain;version=0.0.4");
        let (_, found) = text_of(address, PATH, &[("accept", "application/openmetrics-text")]).await;
        assert_eq!(found, "# TYPE x unknown\n# HELP x  Odd,\tas it was.\nx{a=\"b\"} 1\n# EOF\n");
    })
    .await;
}

#[tokio::test]
async fn a_failed_an_old_and_a_gone_target_is_unavailable() {
    let bench = Bench::new(config());
    serving(&bench, async |address| {
        let (status, reason) = text_of(address, PATH, &[]).await;
        assert!(status == 503 && reason.starts_with("nothing has been heard of {"), "{status} {reason}");
        bench.sink.send(scrape_of(&bench, "x 1\n")).await.unwrap();
        assert_eq!(text_of(address, PATH, &[]).await, (200, "x 1\n".to_owned()));

        bench.advance(1);
        let mut failed = scrape_of(&bench, "");
        failed.attributes.insert(scrape::ERROR, "connection refused");
        bench.sink.send(failed).await.unwrap();
        let (status, reason) = text_of(address, PATH, &[]).await;
        assert!(status == 503 && reason.ends_with(" failed: connection refused\n"), "{status} {reason}");
        bench.sink.send(scrape_of(&bench, "x y\n")).await.unwrap_err();
        assert!(text_of(address, PATH, &[]).await.1.contains("cannot read the scrape"));

        bench.sink.send(scrape_of(&bench, "x 2\n")).await.unwrap();
        bench.advance(301);
        assert_eq!(text_of(address, PATH, &[]).await.0, 503);
        bench.sink.send(scrape_of(&bench, "x 3\n")).await.unwrap();
        assert_eq!(text_of(address, PATH, &[]).await.0, 200);
        let mut gone = scrape_of(&bench, "");
        gone.attributes.insert(scrape::TOMBSTONE, "true");
        bench.sink.send(gone).await.unwrap();
        assert_eq!(text_of(address, PATH, &[]).await.0, 503);
        assert_eq!(text_of(address, "/sd", &[]).await.1, "[]\n");
        assert_eq!(text_of(address, "/targets/s1/j/metrics", &[]).await.0, 404);
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_honours_labels_comes_to_what_the_site_had() {
    let bench = Bench::new(config());
    serving(&bench, async |address| {
        let body = "x{job=\"own\"} 1 17\ny 2 17\n";
        bench.sink.send(scrape_of(&bench, body)).await.unwrap();
        let renamed = "x{exported_job=\"own\"} 1 17\ny 2 17\n";
        assert_eq!(text_of(address, PATH, &[]).await.1, renamed);

        bench.advance(1);
        let mut honoured = scrape_of(&bench, body);
        honoured.attributes.insert(scrape::HONOR_LABELS, "true");
        bench.sink.send(honoured).await.unwrap();
        assert_eq!(text_of(address, PATH, &[]).await.1, body);

        bench.advance(1);
        let mut untimed = scrape_of(&bench, body);
        untimed.attributes.insert(scrape::HONOR_TIMESTAMPS, "false");
        bench.sink.send(untimed).await.unwrap();
        assert_eq!(text_of(address, PATH, &[]).await.1, renamed.replace(" 17", ""));
    })
    .await;
}

#[tokio::test]
async fn targets_are_told_apart_by_all_of_their_labels() {
    let bench = Bench::new(config());
    serving(&bench, async |address| {
        for (rack, body) in [("r/1", "x 1\n"), ("r/2", "x 2\n")] {
            let mut event = scrape_of(&bench, body);
            event.labels.insert("rack", rack);
            bench.sink.send(event).await.unwrap();
        }
        let list: Value = serde_json::from_slice(&get(address, "/sd", &[]).await.2).unwrap();
        for (target, body) in list.as_array().unwrap().iter().zip(["x 1\n", "x 2\n"]) {
            let path = target["labels"]["__metrics_path__"].as_str().unwrap().replace('%', "%25");
            assert_eq!(text_of(address, &path, &[]).await.1, body, "{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_external_url_stands_before_every_path() {
    let external_url = Some("https://streams.example.net/centre/".to_owned());
    let bench = Bench::new(ExpositionConfig { external_url, ..config() });
    serving(&bench, async |address| {
        bench.sink.send(scrape_of(&bench, "x 1\n")).await.unwrap();
        let list: Value = serde_json::from_slice(&get(address, "/sd", &[]).await.2).unwrap();
        assert_eq!(list[0]["targets"][0], "streams.example.net:443");
        assert_eq!(list[0]["labels"]["__scheme__"], "https");
        assert_eq!(list[0]["labels"]["__metrics_path__"], format!("/centre{PATH}"));
    })
    .await;
}
