//! Real servers of the Prometheus family: node_exporter, Push Gateway, Prometheus itself.

use std::ops::{Deref, DerefMut};
use std::process::Command;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::certs::Certs;
use super::http;
use super::process::program;
use super::server::{Ready, Server, temp_dir};
use super::wait::{secs, wait_for};

/// Declares a server by its name, with [`Server`]'s methods on it.
macro_rules! server {
    ($name:ident) => {
        pub struct $name(Server);

        impl Deref for $name {
            type Target = Server;

            fn deref(&self) -> &Server {
                &self.0
            }
        }

        impl DerefMut for $name {
            fn deref_mut(&mut self) -> &mut Server {
                &mut self.0
            }
        }
    };
}

server!(NodeExporter);
server!(PushGateway);
server!(Prometheus);

impl NodeExporter {
    pub async fn start() -> Self {
        let program = program("prometheus-node-exporter", "prometheus-node-exporter");
        let server = Server::start("node_exporter", Ready::Http("/"), temp_dir(), move |port, _| {
            let mut command = Command::new(&program);
            command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
            command
        });
        Self(server.await)
    }

    /// `http://127.0.0.1:PORT/metrics`
    pub fn metrics_url(&self) -> String {
        format!("{}/metrics", self.url())
    }
}

impl PushGateway {
    pub async fn start() -> Self {
        Self::with(Ready::Http("/-/ready"), &[]).await
    }

    /// A gateway with more on its command line.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self::with(Ready::Http("/-/ready"), &arguments).await
    }

    /// A gateway that asks for client certificates.
    pub async fn start_tls(certs: &Certs) -> Self {
        let file = certs.cert("server").with_file_name("pushgateway.yml");
        let config = json!({ "tls_server_config": {
            "cert_file": certs.cert("server"),
            "key_file": certs.key("server"),
            "client_auth_type": "RequireAndVerifyClientCert",
            "client_ca_file": certs.ca(),
        } });
        std::fs::write(&file, config.to_string()).expect("write the configuration of the Push Gateway");
        let mut gateway = Self::with(Ready::Tcp, &[format!("--web.config.file={}", file.display())]).await;
        gateway.0.scheme = "https";
        gateway
    }

    async fn with(ready: Ready, more: &[String]) -> Self {
        let program = program("prometheus-pushgateway", "prometheus-pushgateway");
        let more = more.to_vec();
        let server = Server::start("pushgateway", ready, temp_dir(), move |port, _| {
            let mut command = Command::new(&program);
            command.args(&more);
            // Without the empty file Debian's build remembers groups between runs.
            command.args(["--persistence.file=", &format!("--web.listen-address=127.0.0.1:{port}")]);
            command
        });
        Self(server.await)
    }

    /// What Prometheus would read.
    pub async fn metrics(&self) -> String {
        http::page(&format!("{}/metrics", self.url())).await
    }

    /// The groups that it holds, as its API has them: `labels`, `last_push_successful`, and families.
    pub async fn groups(&self) -> Vec<Value> {
        let answer =
            http::get(&format!("{}/api/v1/metrics", self.url())).await.expect("ask the Push Gateway");
        answer.json()["data"].as_array().cloned().unwrap_or_default()
    }

    /// The value of the sample that starts with `series`, labels included; those of the gateway's page
    /// are sorted by name.
    pub async fn value(&self, series: &str) -> Option<f64> {
        sample(&self.metrics().await, series)
    }

    /// PUTs a body into a group, given as the path after `/metrics/`.
    pub async fn put(&self, group: &str, body: &str) -> http::Answer {
        let url = format!("{}/metrics/{group}", self.url());
        http::request(Method::PUT, &url, body.to_owned()).await.expect("push")
    }
}

impl Prometheus {
    /// A server that reads `scrape_configs`, as that key of its configuration has them, every second.
    pub async fn start(scrape_configs: Value) -> Self {
        let program = program("prometheus", "prometheus");
        let global = json!({ "scrape_interval": "1s", "scrape_timeout": "1s" });
        let config = json!({ "global": global, "scrape_configs": scrape_configs }).to_string();
        let server = Server::start("prometheus", Ready::Http("/-/ready"), temp_dir(), move |port, dir| {
            let file = dir.join("prometheus.yml");
            std::fs::write(&file, &config).expect("write the configuration of Prometheus");
            let mut command = Command::new(&program);
            command
                .arg(format!("--config.file={}", file.display()))
                .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .args(["--log.level=warn", "--web.console.libraries=.", "--web.console.templates=."]);
            command
        });
        Self(server.await)
    }

    /// A server that reads one page with `honor_labels`, as of a Push Gateway.
    pub async fn reading(address: &str) -> Self {
        let targets = json!([{ "targets": [address] }]);
        Self::start(json!([{ "job_name": "streams", "honor_labels": true, "static_configs": targets }])).await
    }

    /// The same over TLS with a client certificate.
    pub async fn reading_tls(address: &str, certs: &Certs) -> Self {
        let tls = json!({
            "ca_file": certs.ca(), "cert_file": certs.cert("client"), "key_file": certs.key("client"),
        });
        Self::start(json!([{
            "job_name": "streams",
            "honor_labels": true,
            "scheme": "https",
            "tls_config": tls,
            "static_configs": [{ "targets": [address] }],
        }]))
        .await
    }

    /// The result of an instant query: a list of `{ metric, value: [time, text] }`.
    pub async fn query(&self, promql: &str) -> Vec<Value> {
        let url = format!("{}/api/v1/query?query={}", self.url(), http::encode(promql));
        let answer = http::get(&url).await.expect("ask Prometheus").json();
        assert_eq!(answer["status"], "success", "{promql}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until a query finds something.
    pub async fn wait_for(&self, promql: &str, deadline: Duration) -> Vec<Value> {
        wait_for(&format!("Prometheus to find {promql}"), deadline, async || {
            let found = self.query(promql).await;
            (!found.is_empty()).then_some(found)
        })
        .await
    }

    /// The first value of a query that must find something within a quarter of a minute.
    pub async fn value(&self, promql: &str) -> f64 {
        let found = self.wait_for(promql, secs(15)).await;
        let text = found[0]["value"][1].as_str().expect("a value").to_owned();
        text.parse().expect("a number")
    }
}

/// The value of the sample on a text page that starts with `series`, as `up{job="node"}`.
pub fn sample(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.trim().parse().ok())
}
