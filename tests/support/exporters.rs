//! Real exporters, and servers that expose metrics themselves, from Debian's packages: what a Prometheus
//! scrapes out there. Most of them have nothing to export from, and say so in metrics.

use std::path::Path;
use std::process::Command;

use futures_util::future::join_all;

use super::process::program;
use super::server::{Ready, Server, temp_dir};

/// One that runs, and what it needs behind it.
pub struct Exporter {
    pub name: &'static str,
    server: Server,
    _behind: Option<Server>,
}

impl Exporter {
    /// `127.0.0.1:PORT`; the metrics are at `/metrics`.
    pub fn address(&self) -> String {
        self.server.address()
    }
}

/// How to start one of them.
struct Recipe {
    name: &'static str,
    /// The Debian package; the program has its name unless `program` is set.
    package: &'static str,
    program: Option<&'static str>,
    /// Arguments in which `PORT`, `DIR` and `BEHIND` (the address of what it needs) stand for themselves.
    args: &'static [&'static str],
    /// A file that it reads, likewise.
    file: Option<(&'static str, &'static str)>,
    behind: Option<&'static Recipe>,
}

const PLAIN: Recipe = Recipe { name: "", package: "", program: None, args: &[], file: None, behind: None };

const REDIS: Recipe = Recipe {
    name: "redis",
    package: "redis-server",
    args: &["--bind", "127.0.0.1", "--port", "PORT", "--dir", "DIR", "--save", ""],
    ..PLAIN
};

const NGINX: Recipe = Recipe {
    name: "nginx",
    package: "nginx-light",
    program: Some("nginx"),
    args: &["-p", "DIR", "-c", "nginx.conf", "-e", "error.log", "-g", "daemon off;"],
    file: Some((
        "nginx.conf",
        "pid nginx.pid; events {} http { access_log off; client_body_temp_path DIR; proxy_temp_path DIR; \
         fastcgi_temp_path DIR; uwsgi_temp_path DIR; scgi_temp_path DIR; \
         server { listen 127.0.0.1:PORT; location / { stub_status; } } }",
    )),
    ..PLAIN
};

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "node",
        package: "prometheus-node-exporter",
        args: &["--web.listen-address=127.0.0.1:PORT"],
        ..PLAIN
    },
    Recipe {
        name: "pushgateway",
        package: "prometheus-pushgateway",
        args: &["--persistence.file=", "--web.listen-address=127.0.0.1:PORT"],
        ..PLAIN
    },
    Recipe {
        name: "prometheus",
        package: "prometheus",
        args: &[
            "--config.file=DIR/prometheus.yml",
            "--storage.tsdb.path=DIR/data",
            "--web.listen-address=127.0.0.1:PORT",
            "--web.console.libraries=.",
            "--web.console.templates=.",
        ],
        file: Some(("prometheus.yml", "{}")),
        ..PLAIN
    },
    Recipe {
        name: "alertmanager",
        package: "prometheus-alertmanager",
        args: &[
            "--config.file=DIR/alertmanager.yml",
            "--storage.path=DIR",
            "--web.listen-address=127.0.0.1:PORT",
            "--cluster.listen-address=",
        ],
        file: Some(("alertmanager.yml", "{ route: { receiver: none }, receivers: [ { name: none } ] }")),
        ..PLAIN
    },
    Recipe {
        name: "blackbox",
        package: "prometheus-blackbox-exporter",
        args: &["--config.file=DIR/blackbox.yml", "--web.listen-address=127.0.0.1:PORT"],
        file: Some(("blackbox.yml", "modules: { http_2xx: { prober: http } }")),
        ..PLAIN
    },
    Recipe {
        name: "process",
        package: "prometheus-process-exporter",
        args: &["-config.path", "DIR/process.yml", "-web.listen-address", "127.0.0.1:PORT"],
        file: Some(("process.yml", "process_names: [ { name: \"{{.Comm}}\", cmdline: [ \".+\" ] } ]")),
        ..PLAIN
    },
    Recipe {
        name: "bind",
        package: "prometheus-bind-exporter",
        args: &["--web.listen-address=127.0.0.1:PORT", "--bind.stats-url=http://127.0.0.1:1/"],
        ..PLAIN
    },
    Recipe {
        name: "redis",
        package: "prometheus-redis-exporter",
        args: &["-web.listen-address", "127.0.0.1:PORT", "-redis.addr", "redis://BEHIND"],
        behind: Some(&REDIS),
        ..PLAIN
    },
    Recipe {
        name: "nginx",
        package: "prometheus-nginx-exporter",
        args: &["-web.listen-address=127.0.0.1:PORT", "-nginx.scrape-uri=http://BEHIND/"],
        behind: Some(&NGINX),
        ..PLAIN
    },
    Recipe {
        name: "squid",
        package: "prometheus-squid-exporter",
        args: &["-listen", "127.0.0.1:PORT", "-squid-hostname", "127.0.0.1", "-squid-port", "1"],
        ..PLAIN
    },
    Recipe {
        name: "apache",
        package: "prometheus-apache-exporter",
        args: &["--telemetry.address=127.0.0.1:PORT", "--scrape_uri=http://127.0.0.1:1/"],
        ..PLAIN
    },
    Recipe {
        name: "haproxy",
        package: "haproxy",
        args: &["-db", "-f", "DIR/haproxy.cfg"],
        file: Some((
            "haproxy.cfg",
            "defaults\n mode http\n timeout connect 1s\n timeout client 5s\n timeout server 5s\n\
             frontend metrics\n bind 127.0.0.1:PORT\n \
             http-request use-service prometheus-exporter if { path /metrics }\n\
             backend nowhere\n server a 127.0.0.1:1\n",
        )),
        ..PLAIN
    },
    Recipe {
        name: "caddy",
        package: "caddy",
        args: &["run", "--config", "DIR/Caddyfile", "--adapter", "caddyfile"],
        file: Some(("Caddyfile", "{\n admin 127.0.0.1:PORT\n}\n")),
        ..PLAIN
    },
    Recipe {
        name: "registry",
        package: "docker-registry",
        args: &["serve", "DIR/registry.yml"],
        file: Some((
            "registry.yml",
            "version: 0.1\nstorage: { inmemory: {} }\nhttp: { addr: \"127.0.0.1:0\", \
             debug: { addr: \"127.0.0.1:PORT\", prometheus: { enabled: true, path: /metrics } } }\n",
        )),
        ..PLAIN
    },
    Recipe {
        name: "etcd",
        package: "etcd-server",
        program: Some("etcd"),
        args: &[
            "--data-dir=DIR/data",
            "--listen-client-urls=http://127.0.0.1:PORT",
            "--advertise-client-urls=http://127.0.0.1:PORT",
            "--listen-peer-urls=http://127.0.0.1:0",
        ],
        ..PLAIN
    },
];

/// Starts all of them.
pub async fn start_all() -> Vec<Exporter> {
    join_all(RECIPES.iter().map(|recipe| async {
        let behind = match recipe.behind {
            Some(behind) => Some(start(behind, String::new(), Ready::Tcp).await),
            None => None,
        };
        let address = behind.as_ref().map(Server::address).unwrap_or_default();
        let server = start(recipe, address, Ready::Http("/metrics")).await;
        Exporter { name: recipe.name, server, _behind: behind }
    }))
    .await
}

async fn start(recipe: &'static Recipe, behind: String, ready: Ready) -> Server {
    let program = program(recipe.program.unwrap_or(recipe.package), recipe.package);
    Server::start(recipe.name, ready, temp_dir(), move |port, dir| {
        let fill = |text: &str| filled(text, port, dir, &behind);
        if let Some((name, text)) = recipe.file {
            std::fs::write(dir.join(name), fill(text)).expect("write the configuration of an exporter");
        }
        let mut command = Command::new(&program);
        command.args(recipe.args.iter().map(|arg| fill(arg))).current_dir(dir);
        command.env("HOME", dir).env("XDG_DATA_HOME", dir);
        command
    })
    .await
}

fn filled(text: &str, port: u16, dir: &Path, behind: &str) -> String {
    text.replace("PORT", &port.to_string())
        .replace("DIR", &dir.display().to_string())
        .replace("BEHIND", behind)
}
