//! TLS, client certificates and basic auth from a web configuration file, for the sink and the monitor.

use super::*;
use crate::support::certs::Certs;

/// Of the passwords "secret" and "other", at the lowest cost.
const SECRET: &str = "$2b$04$wg1YPL7bX21WVTr//gfVwOn8VUnY3aqwjpCD1Nwd4nIMCIHTW/hva";
const OTHER: &str = "$2b$04$QGN8Y8XH37DB/i5ZCpc6Z.j3D3boXXJ1.LcjMDyvouoBn7HdIPSVG";

#[tokio::test]
async fn a_prometheus_reads_with_a_certificate_and_a_password() {
    let (targets, certs) = (Targets::start().await, Certs::new());
    let file = certs.ca().with_file_name("web.yml");
    let write = |config: &str| std::fs::write(&file, config).expect("write the web configuration");
    let config = |hash: &str| {
        format!(
            "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n  client_ca_file: ca.pem\n  \
             client_auth_type: RequireAndVerifyClientCert\nbasic_auth_users:\n  prometheus: {hash}\n"
        )
    };
    write(&config(SECRET));
    let monitor = format!("127.0.0.1:{}", free_port());
    let extensions = json!({ "extensions": { "monitor": { "listen": monitor, "web_config_file": file } } });
    let jobs = json!([job(&targets, &["p"])]);
    let (agent, page) = agent(&jobs, json!({ "web_config_file": file }), extensions);

    let access = json!({
        "scheme": "https",
        "basic_auth": { "username": "prometheus", "password": "secret" },
        "tls_config": {
            "ca_file": certs.ca(), "cert_file": certs.cert("client"), "key_file": certs.key("client"),
        },
    });
    let reader = |name: &str, key: &str, list: Value| {
        let mut job = access.clone();
        job["job_name"] = name.into();
        job["honor_labels"] = true.into();
        job[key] = list;
        job
    };
    let mut sd = access.clone();
    sd.as_object_mut().expect("a map").remove("scheme");
    sd["url"] = format!("https://{page}/sd").into();
    sd["refresh_interval"] = "1s".into();
    let prometheus = Prometheus::start(json!([
        reader("page", "static_configs", json!([{ "targets": [page] }])),
        reader("monitor", "static_configs", json!([{ "targets": [monitor] }])),
        reader("each", "http_sd_configs", json!([sd])),
    ]))
    .await;
    let is = async |value: &str| {
        let up = format!("count(up{{job=~'page|monitor'}} == {value}) == 2");
        prometheus.wait_for(&up, secs(30)).await;
    };
    is("1").await;
    let probe = "probe_seq{job='probes',instance='p',publisher='site1'}";
    prometheus.wait_for(probe, secs(30)).await;
    // From the virtual target, whose report is the reader's own.
    prometheus.wait_for("up{job='probes',instance='p'} == 1", secs(30)).await;

    write(&config(OTHER));
    is("0").await;
    write("tls_server_config: [");
    agent
        .wait_for_log("the broken file to be told", |line| {
            let said = line["fields"]["message"].as_str().or(line["message"].as_str())?;
            said.contains("web configuration is broken").then_some(())
        })
        .await;
    is("0").await;
    write(&config(SECRET));
    is("1").await;
}

#[tokio::test]
async fn a_broken_file_is_a_mistake_of_the_configuration() {
    let dir = crate::support::server::temp_dir();
    let (web, config) = (dir.path().join("web.yml"), dir.path().join("config.yaml"));
    std::fs::write(&web, "basic_auth_users: { ann: plain }\n").expect("write a file");
    let sink = json!({ "type": "exposition", "web_config_file": web });
    let pipelines = json!({ "p": { "source": { "type": "local_stream", "path": "s" }, "sinks": [sink] } });
    std::fs::write(&config, json!({ "pipelines": pipelines }).to_string()).expect("write a file");
    let output = crate::support::agent::run(&["check", &config.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{said}");
    let place = "pipelines.p.sinks[0].web_config_file: ";
    assert!(said.contains(place) && said.contains("basic_auth_users.ann: is not a bcrypt hash"), "{said}");
}
