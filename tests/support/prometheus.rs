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
server!(VictoriaMetrics);

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
        Self::with(scrape_configs, &[]).await
    }

    /// The same with more arguments.
    pub async fn with(scrape_configs: Value, more: &[&str]) -> Self {
        let more = more.iter().map(|flag| (*flag).to_owned()).collect();
        Self::configured(Ready::Http("/-/ready"), json!({ "scrape_configs": scrape_configs }), more).await
    }

    /// A server that takes remote writes, with this more in its configuration. `PROMETHEUS3_RECEIVER` names a
    /// program to start in its stead, as that of `tests/oracle/remote_write`.
    pub async fn receiving(config: Value) -> Self {
        if let Some(program) = std::env::var_os("PROMETHEUS3_RECEIVER") {
            let server = Server::start("receiver", Ready::Http("/-/ready"), temp_dir(), move |port, dir| {
                let mut command = Command::new(&program);
                command.arg(format!("127.0.0.1:{port}")).arg(dir.join("data"));
                command
            });
            return Self(server.await);
        }
        Self::configured(Ready::Http("/-/ready"), config, Self::receiver_flags()).await
    }

    /// The same over TLS, for the user `site` with the password `secret`.
    pub async fn receiving_tls(certs: &Certs) -> Self {
        let file = certs.cert("server").with_file_name("prometheus-web.yml");
        let hash = bcrypt::hash("secret", 4).expect("hash a password");
        let web = json!({
            "tls_server_config": { "cert_file": certs.cert("server"), "key_file": certs.key("server") },
            "basic_auth_users": { "site": hash },
        });
        std::fs::write(&file, web.to_string()).expect("write the web configuration of Prometheus");
        let mut flags = Self::receiver_flags();
        flags.push(format!("--web.config.file={}", file.display()));
        let mut server = Self::configured(Ready::Tcp, json!({}), flags).await;
        server.0.scheme = "https";
        server
    }

    fn receiver_flags() -> Vec<String> {
        let flags =
            ["--web.enable-remote-write-receiver", "--enable-feature=exemplar-storage,native-histograms"];
        flags.map(str::to_owned).to_vec()
    }

    /// A server with this configuration and these flags.
    async fn configured(ready: Ready, mut config: Value, flags: Vec<String>) -> Self {
        let program = program("prometheus", "prometheus");
        config["global"] = json!({ "scrape_interval": "1s", "scrape_timeout": "1s" });
        let config = config.to_string();
        let server = Server::start("prometheus", ready, temp_dir(), move |port, dir| {
            let file = dir.join("prometheus.yml");
            std::fs::write(&file, &config).expect("write the configuration of Prometheus");
            let mut command = Command::new(&program);
            command
                .arg(format!("--config.file={}", file.display()))
                .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .args(["--log.level=warn", "--web.console.libraries=.", "--web.console.templates=."])
                .args(&flags);
            command
        });
        Self(server.await)
    }

    /// The scrape configuration of a server that reads the virtual targets of `address`.
    pub fn discovering(address: &str) -> Value {
        let sd = json!([{ "url": format!("http://{address}/sd"), "refresh_interval": "1s" }]);
        json!([{ "job_name": "virtual", "honor_labels": true, "http_sd_configs": sd }])
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

    /// Where it takes remote writes.
    pub fn write_url(&self) -> String {
        format!("{}/api/v1/write", self.url())
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

impl VictoriaMetrics {
    pub async fn start() -> Self {
        let program = program("victoria-metrics", "victoria-metrics");
        let server =
            Server::start("victoria-metrics", Ready::Http("/health"), temp_dir(), move |port, dir| {
                let mut command = Command::new(&program);
                command
                    .arg(format!("-storageDataPath={}", dir.join("data").display()))
                    .arg(format!("-httpListenAddr=127.0.0.1:{port}"))
                    .args(["-memory.allowedBytes=64MiB", "-search.disableCache"]);
                command
            });
        Self(server.await)
    }

    /// Every sample of a series that it has: times in milliseconds and values.
    pub async fn samples(&self, selector: &str) -> Vec<(i64, f64)> {
        // What was written is found once it has been flushed.
        http::page(&format!("{}/internal/force_flush", self.url())).await;
        let page =
            http::page(&format!("{}/api/v1/export?match[]={}", self.url(), http::encode(selector))).await;
        let lines = page.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let pairs = lines.flat_map(|line| {
            let list = |name: &str| line[name].as_array().cloned().unwrap_or_default();
            list("timestamps").into_iter().zip(list("values")).collect::<Vec<_>>()
        });
        pairs.filter_map(|(time, value)| Some((time.as_i64()?, value.as_f64()?))).collect()
    }
}

/// The value of the sample on a text page that starts with `series`, as `up{job="node"}`.
pub fn sample(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.trim().parse().ok())
}
