//! Serves the metrics of this program, says whether it is well, and lets an operator pause and resume
//! pipelines and change the level of the log while it runs.
//!
//! ```yaml
//! extensions:
//!   monitor: { listen: 127.0.0.1:10000 }
//! ```
//!
//! | request | what it does |
//! | --- | --- |
//! | `GET /metrics` | the metrics, in Prometheus' text format |
//! | `GET /-/healthy` | 200 while the program runs |
//! | `GET /-/ready` | 200, or 503 with a line `stage: reason` for each stage that does not do its work now |
//! | `GET /api/v1/targets` | all targets that are scraped or were dropped, in Prometheus' JSON; `?state=active`, `dropped` or `any`, and `?scrapePool=JOB`, choose among them |
//! | `GET /api/v1/scrape_pools` | the names of all jobs, in Prometheus' JSON |
//! | `GET /api/v1/pipelines` | the pipelines, and whether they are paused |
//! | `POST /api/v1/pipelines/NAME/pause` | takes no new events; also `resume`, and `flip` for the other state |
//! | `PUT /api/v1/log-level` | sets the level of the log to the body: `debug`, or a filter as `info,hyper=debug` |

mod targets;

use async_trait::async_trait;
use hyper::{Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use prometheus::TextEncoder;
use prometheus_streams_core::control::{Control, ControlError, PipelineState};
use prometheus_streams_core::error::{BoxError, BuildError};
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{Extension, ExtensionConfig, StageContext};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::targets::Selection;
use crate::support::process;
use crate::support::server::web::{WebConfig, WebConfigFile};
use crate::support::server::{self, Listen, Request, Response, Server};

/// Serves the metrics and the state of this program, and pauses and resumes its pipelines.
///
/// Whoever reaches the address may pause pipelines unless it is `read_only`, so it is for this machine
/// alone unless `listen` says otherwise. Requests that change something are refused to web pages.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MonitorConfig {
    /// The address and port to listen on. Port 0 is any free port; the log says which.
    pub listen: Listen,

    /// Refuses requests that change something, for an address that others reach. Default: false.
    pub read_only: bool,

    /// A Prometheus web configuration file: `tls_server_config`, `basic_auth_users` and `http_server_config`, as for
    /// Prometheus and its exporters. It and the files that it names are read again when they change.
    pub web_config_file: Option<WebConfigFile>,
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self { listen: Listen(([127, 0, 0, 1], 10_000).into()), read_only: false, web_config_file: None }
    }
}

register!(extension: MonitorConfig);

impl ExtensionConfig for MonitorConfig {
    const TYPE: &'static str = "monitor";

    fn build(self, _: &StageContext) -> Result<Box<dyn Extension>, BuildError> {
        let mut problems = BuildError::default();
        let web = problems.take("web_config_file", self.web_config_file.map(WebConfigFile::load).transpose());
        problems.or(Box::new(Monitor { listen: self.listen, read_only: self.read_only, web: web.flatten() }))
    }
}

/// A server in front of [`Control`].
struct Monitor {
    listen: Listen,
    read_only: bool,
    web: Option<WebConfig>,
}

#[async_trait]
impl Extension for Monitor {
    async fn run(self: Box<Self>, control: Control, shutdown: CancellationToken) -> Result<(), BoxError> {
        let server = Server::bind(self.listen).await?.with_web_config(self.web);
        process::register(control.metrics().registry());
        let build =
            control.metrics().gauges("build_info", "1, with the version of this program.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let read_only = self.read_only;
        let answer = move |request| handle(control.clone(), read_only, request);
        server.serve("metrics and state", answer, shutdown).await;
        Ok(())
    }
}

/// The body of a request for a level of the log is short.
const LONGEST_LOG_LEVEL: usize = 4096;

async fn handle(control: Control, read_only: bool, request: Request) -> Response {
    if read_only && !server::reads(request.method()) {
        return server::text(StatusCode::FORBIDDEN, "nothing can be changed here: the monitor is read_only");
    }
    let path = request.uri().path().to_owned();
    match path.split('/').skip(1).collect::<Vec<_>>().as_slice() {
        [""] => get(&request, || index(&control)),
        ["metrics"] => get(&request, || metrics(&control, &request)),
        ["-", "healthy"] => get(&request, || server::text(StatusCode::OK, "healthy")),
        ["-", "ready"] => get(&request, || ready(&control)),
        ["api", "v1", "pipelines"] => get(&request, || {
            let pipelines: Vec<_> = control.pipelines().iter().map(state).collect();
            json(&json!({ "pipelines": pipelines }))
        }),
        ["api", "v1", "targets"] if server::reads(request.method()) => {
            let selection = Selection::parse(request.uri().query().unwrap_or_default());
            json_apart(move || targets::targets(&control, &selection)).await
        }
        ["api", "v1", "scrape_pools"] if server::reads(request.method()) => {
            json_apart(move || targets::scrape_pools(&control)).await
        }
        ["api", "v1", "targets" | "scrape_pools"] => server::method_not_allowed("GET, HEAD"),
        ["api", "v1", "pipelines", name, verb @ ("pause" | "resume" | "flip")] => {
            change(&request, &Method::POST)
                .unwrap_or_else(|| steer(&control, &percent_decode_str(name).decode_utf8_lossy(), verb))
        }
        ["api", "v1", "log-level"] => match change(&request, &Method::PUT) {
            Some(refusal) => refusal,
            None => set_log_level(&control, request).await,
        },
        _ => server::not_found(),
    }
}

/// The page, for a request that reads.
fn get(request: &Request, page: impl FnOnce() -> Response) -> Response {
    if server::reads(request.method()) { page() } else { server::method_not_allowed("GET, HEAD") }
}

/// The refusal of a request that changes something, if it is not `method`, or comes from a web page. A
/// browser on this machine reaches the loopback address too, and always says where a page is from.
fn change(request: &Request, method: &Method) -> Option<Response> {
    if request.method() != method {
        let allow = if method == Method::PUT { "PUT" } else { "POST" };
        return Some(server::method_not_allowed(allow));
    }
    let from_a_page = request.headers().contains_key(header::ORIGIN);
    from_a_page.then(|| server::text(StatusCode::FORBIDDEN, "web pages may not change anything here"))
}

fn metrics(control: &Control, request: &Request) -> Response {
    let families = control.metrics().registry().gather();
    match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => server::page(request.headers(), "text/plain; version=0.0.4; charset=utf-8", text),
        Err(error) => server::text(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

fn ready(control: &Control) -> Response {
    let degraded = control.degraded();
    if degraded.is_empty() {
        return server::text(StatusCode::OK, "ready");
    }
    let lines: Vec<_> =
        degraded.iter().map(|(stage, reason)| format!("{stage}: {}", reason.replace('\n', " "))).collect();
    server::text(StatusCode::SERVICE_UNAVAILABLE, lines.join("\n"))
}

fn steer(control: &Control, name: &str, verb: &str) -> Response {
    let paused = match verb {
        "pause" => control.pause(name).map(|()| true),
        "resume" => control.resume(name).map(|()| false),
        _ => control.flip(name),
    };
    match paused {
        Ok(paused) => json(&state(&PipelineState { name: name.to_owned(), paused })),
        Err(error @ ControlError::UnknownPipeline(_)) => server::text(StatusCode::NOT_FOUND, error),
        Err(error) => server::text(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

async fn set_log_level(control: &Control, request: Request) -> Response {
    let body = match server::read_body(request.into_body(), LONGEST_LOG_LEVEL).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let level = String::from_utf8_lossy(&body).trim().to_owned();
    match control.set_log_level(&level) {
        Ok(()) => server::text(StatusCode::OK, level),
        Err(error) => server::text(StatusCode::BAD_REQUEST, error),
    }
}

fn state(pipeline: &PipelineState) -> Value {
    json!({ "name": pipeline.name, "paused": pipeline.paused })
}

fn json(value: &Value) -> Response {
    server::answer(StatusCode::OK, "application/json", format!("{value}\n"))
}

/// An answer that may take a while to make, during which other work goes on.
async fn json_apart(make: impl FnOnce() -> Value + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(move || json(&make())).await {
        Ok(answer) => answer,
        Err(error) => server::text(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

fn index(control: &Control) -> Response {
    let pipelines = control.pipelines();
    let pipelines = pipelines.iter().map(|pipeline| {
        let state = if pipeline.paused { "paused" } else { "running" };
        format!("<li>pipeline {}: {state}</li>", escaped(&pipeline.name))
    });
    let degraded = control.degraded();
    let degraded = degraded
        .iter()
        .map(|(stage, reason)| format!("<li>degraded: {}: {}</li>", escaped(stage), escaped(reason)));
    let links = ["metrics", "-/healthy", "-/ready", "api/v1/targets", "api/v1/pipelines"]
        .map(|path| format!("<li><a href=\"{path}\">/{path}</a></li>"));
    let body = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>prometheus-streams</title></head>\n\
         <body><h1>prometheus-streams {}</h1>\n<ul>\n{}\n</ul>\n<ul>\n{}\n</ul></body></html>\n",
        env!("CARGO_PKG_VERSION"),
        pipelines.chain(degraded).collect::<Vec<_>>().join("\n"),
        links.join("\n"),
    );
    server::answer(StatusCode::OK, "text/html; charset=utf-8", body)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bytes::Bytes;
    use flate2::read::GzDecoder;
    use http_body_util::{BodyExt, Full};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use prometheus::Registry;
    use prometheus_streams_core::health::{Health, HealthBoard};
    use prometheus_streams_core::metrics::Metrics;

    use super::*;

    /// A monitor that listens on any port, and the place of a stage on its board.
    struct Bench {
        address: SocketAddr,
        control: Control,
        board: HealthBoard,
        stage: Health,
    }

    impl Bench {
        async fn start() -> Self {
            Self::start_with(false).await
        }

        async fn start_with(read_only: bool) -> Self {
            let (board, shutdown) = (HealthBoard::default(), CancellationToken::new());
            let control = Control::new(Metrics::new(Registry::new()), board.clone(), shutdown.clone());
            let server = Server::bind(Listen(([127, 0, 0, 1], 0).into())).await.unwrap();
            let (address, served) = (server.address(), control.clone());
            tokio::spawn(async move {
                let answer = move |request| handle(served.clone(), read_only, request);
                server.serve("a test", answer, shutdown).await;
            });
            Self { address, control, stage: board.stage("poller/nats"), board }
        }

        async fn ask(&self, method: &str, path: &str, body: &'static str) -> hyper::Response<Bytes> {
            self.ask_with(method, path, body, ("x-nothing", "")).await
        }

        async fn ask_with(
            &self,
            method: &str,
            path: &str,
            body: &'static str,
            header: (&str, &str),
        ) -> hyper::Response<Bytes> {
            let request = hyper::Request::builder()
                .method(method)
                .uri(format!("http://{}{path}", self.address))
                .header(header.0, header.1)
                .body(Full::new(Bytes::from_static(body.as_bytes())))
                .unwrap();
            let client = Client::builder(TokioExecutor::new()).build_http();
            let (head, body) = client.request(request).await.unwrap().into_parts();
            hyper::Response::from_parts(head, body.collect().await.unwrap().to_bytes())
        }
    }

    #[tokio::test]
    async fn metrics_are_compressed_when_asked() {
        let bench = Bench::start().await;
        let counter = bench.control.metrics().counters("x_total", &"Help. ".repeat(500), &["a"]);
        counter.with_label_values(&["1"]).inc();
        let plain = bench.ask("GET", "/metrics", "").await;
        assert!(plain.body().ends_with(b"prometheus_streams_x_total{a=\"1\"} 1\n"));
        assert_eq!(plain.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");

        let zipped = bench.ask_with("GET", "/metrics", "", ("accept-encoding", "gzip")).await;
        assert_eq!(zipped.headers()["content-encoding"], "gzip");
        let text = std::io::read_to_string(GzDecoder::new(&zipped.body()[..])).unwrap();
        assert_eq!(text.as_bytes(), plain.body());
    }

    #[tokio::test]
    async fn ready_names_every_stage_that_is_not() {
        let bench = Bench::start().await;
        assert_eq!(bench.ask("GET", "/-/ready", "").await.status(), 200);
        bench.stage.degraded("no broker\nanswers");
        let answer = bench.ask("GET", "/-/ready", "").await;
        assert_eq!(
            (answer.status().as_u16(), &answer.body()[..]),
            (503, &b"poller/nats: no broker answers\n"[..])
        );
        assert_eq!(bench.ask("GET", "/-/healthy", "").await.status(), 200);
        bench.stage.ready();
        assert_eq!(bench.ask("HEAD", "/-/ready", "").await.status(), 200);
    }

    #[tokio::test]
    async fn the_level_of_the_log_is_set_or_the_reason_given() {
        let bench = Bench::start().await;
        bench.control.on_set_log_level(|level| match level {
            "debug" => Ok(()),
            _ => Err("no such level".into()),
        });
        assert_eq!(bench.ask("PUT", "/api/v1/log-level", "debug\n").await.body(), "debug\n");
        let answer = bench.ask("PUT", "/api/v1/log-level", "loud").await;
        assert_eq!(answer.status(), 400);
        assert_eq!(answer.body(), "cannot set the log level to \"loud\": no such level\n");
    }

    #[tokio::test]
    async fn other_paths_methods_and_web_pages_are_turned_away() {
        let bench = Bench::start().await;
        for path in ["/nothing", "/metrics/", "//", "/api/v1/pipelines/x/stop"] {
            assert_eq!(bench.ask("GET", path, "").await.status(), 404, "{path}");
        }
        assert_eq!(bench.ask("POST", "/api/v1/pipelines/x/pause", "").await.status(), 404);
        for (method, path, allow) in [
            ("POST", "/metrics", "GET, HEAD"),
            ("GET", "/api/v1/pipelines/x/pause", "POST"),
            ("POST", "/api/v1/log-level", "PUT"),
        ] {
            let answer = bench.ask(method, path, "").await;
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["allow"]),
                (405, &allow.parse().unwrap())
            );
        }
        let page = ("origin", "http://evil.example.net");
        let answer = bench.ask_with("POST", "/api/v1/pipelines/x/flip", "", page).await;
        assert_eq!(answer.status(), 403);
    }

    #[tokio::test]
    async fn a_read_only_monitor_changes_nothing() {
        let bench = Bench::start_with(true).await;
        bench.control.on_set_log_level(|_| Ok(()));
        for (method, path) in [("PUT", "/api/v1/log-level"), ("POST", "/api/v1/pipelines/x/pause")] {
            assert_eq!(bench.ask(method, path, "debug").await.status(), 403, "{path}");
        }
        assert_eq!(bench.ask("GET", "/api/v1/pipelines", "").await.status(), 200);
    }

    #[tokio::test]
    async fn the_targets_of_all_sources_are_one_list() {
        let bench = Bench::start().await;
        let target = |pool: &str, x: u64| json!({ "scrapePool": pool, "x": x });
        let reports = [
            (
                "b",
                json!({
                    "activeTargets": [target("z", 1), target("a", 2)],
                    "droppedTargets": [target("z", 3)],
                    "droppedTargetCounts": { "z": 2, "a": 0 },
                }),
            ),
            (
                "a",
                json!({
                    "activeTargets": [target("z", 4)], "droppedTargets": [], "droppedTargetCounts": { "z": 1 },
                }),
            ),
        ];
        for (stage, report) in reports {
            bench.board.stage(stage).offer("targets", move || report.clone());
        }
        let ask = async |path: &str| -> Value {
            let answer = bench.ask("GET", path, "").await;
            assert_eq!(answer.headers()["content-type"], "application/json");
            serde_json::from_slice(answer.body()).unwrap()
        };
        let (active, dropped) = ([target("a", 2), target("z", 4), target("z", 1)], [target("z", 3)]);
        let counts = json!({ "z": 3, "a": 0 });
        let all =
            json!({ "activeTargets": active, "droppedTargets": dropped, "droppedTargetCounts": counts });
        for (query, data) in [
            ("", all.clone()),
            ("?state=Any&other=x", all),
            (
                "?state=active",
                json!({ "activeTargets": active, "droppedTargets": [], "droppedTargetCounts": null }),
            ),
            (
                "?state=dropped&scrapePool=a",
                json!({ "activeTargets": [], "droppedTargets": [], "droppedTargetCounts": counts }),
            ),
            (
                "?scrapePool=z",
                json!({ "activeTargets": active[1..], "droppedTargets": dropped, "droppedTargetCounts": counts }),
            ),
            (
                "?state=none",
                json!({ "activeTargets": [], "droppedTargets": [], "droppedTargetCounts": null }),
            ),
        ] {
            let expected = json!({ "status": "success", "data": data });
            assert_eq!(ask(&format!("/api/v1/targets{query}")).await, expected, "{query}");
        }
        let pools = json!({ "status": "success", "data": { "scrapePools": ["a", "z"] } });
        assert_eq!(ask("/api/v1/scrape_pools").await, pools);
        assert_eq!(bench.ask("POST", "/api/v1/targets", "").await.status(), 405);
    }

    #[tokio::test]
    async fn names_of_pipelines_may_need_an_encoding() {
        let bench = Bench::start().await;
        let answer = bench.ask("POST", "/api/v1/pipelines/a%20%C3%A4%2f%/pause", "").await;
        assert_eq!(
            (answer.status().as_u16(), answer.body().as_ref()),
            (404, "there is no pipeline named \"a ä/%\"\n".as_bytes())
        );
    }

    #[tokio::test]
    async fn the_index_escapes_what_it_shows() {
        let bench = Bench::start().await;
        bench.stage.degraded("<script>");
        let answer = bench.ask("GET", "/", "").await;
        let page = std::str::from_utf8(answer.body()).unwrap();
        assert!(page.contains("degraded: poller/nats: &lt;script&gt;"), "{page}");
    }
}
