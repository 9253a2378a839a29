//! The HTTP client through real proxies: tinyproxy, which speaks HTTP, and microsocks.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use hyper::Request;
use prometheus_streams_core::values::Size;
use prometheus_streams_plugins::support::http::{HttpClient, HttpClientSettings, Limits};
use serde_json::json;

use super::support::certs::Certs;
use super::support::process::{Process, program};
use super::support::server::{free_port, temp_dir};
use super::support::targets::Targets;
use super::support::wait::{secs, wait_until};

#[tokio::test]
async fn tinyproxy_relays_plain_targets_and_tunnels_secure_ones() {
    let dir = temp_dir();
    let (address, _proxy) = tinyproxy(dir.path()).await;
    let certs = Certs::new();
    let (plain, secure) = (Targets::start().await, Targets::start_tls(certs.server_config()).await);
    let client = client(format!("http://me:s3cret@{address}"), &certs);
    for url in [plain.url("plain"), secure.url("secure")] {
        for _ in 0..2 {
            assert!(get(&client, &url).await.unwrap().starts_with("# HELP probe_seq"), "{url}");
        }
    }
    let log = std::fs::read_to_string(dir.path().join("tinyproxy.log")).unwrap();
    assert!(log.contains(&format!("GET {} HTTP/1.1", plain.url("plain"))), "{log}");
    let tunnel = secure.url("").replace("https://", "").replace("//metrics", "");
    assert!(log.contains(&format!("CONNECT {tunnel} HTTP/1.1")), "{log}");

    let stranger = self::client(format!("http://{address}"), &certs);
    let error = get(&stranger, &secure.url("secure")).await.unwrap_err();
    assert_eq!(error, format!("proxy {address}: status 407 Proxy Authentication Required"));
    let error = get(&stranger, &plain.url("plain")).await.unwrap_err();
    assert_eq!(error, "status 407 Proxy Authentication Required");
}

#[tokio::test]
async fn microsocks_carries_both() {
    let dir = temp_dir();
    let port = free_port();
    let mut command = Command::new(program("microsocks", "microsocks"));
    command.args(["-i", "127.0.0.1", "-p", &port.to_string(), "-u", "me", "-P", "s3cret"]);
    let _proxy = Process::start("microsocks", &mut command, &dir.path().join("microsocks.log"));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    wait_for_port(address).await;

    let certs = Certs::new();
    let (plain, secure) = (Targets::start().await, Targets::start_tls(certs.server_config()).await);
    let known = client(format!("socks5://me:s3cret@{address}"), &certs);
    // A name is for the proxy to resolve.
    let named = plain.url("named").replace("127.0.0.1", "localhost");
    for url in [plain.url("plain"), named, secure.url("secure")] {
        assert!(get(&known, &url).await.unwrap().starts_with("# HELP probe_seq"), "{url}");
    }
    let stranger = client(format!("socks5://me:wrong@{address}"), &certs);
    let error = get(&stranger, &plain.url("plain")).await.unwrap_err();
    assert!(error.starts_with(&format!("proxy {address}: cannot connect: ")), "{error}");
}

/// A client that goes through a proxy and is known to targets over TLS.
fn client(proxy_url: String, certs: &Certs) -> HttpClient {
    let tls = json!({
        "ca_file": certs.ca(), "cert_file": certs.cert("client"), "key_file": certs.key("client"),
    });
    let settings: HttpClientSettings =
        serde_json::from_value(json!({ "proxy_url": proxy_url, "tls_config": tls })).unwrap();
    settings.client().unwrap()
}

async fn get(client: &HttpClient, url: &str) -> Result<String, String> {
    let limits = Limits { timeout: secs(10), max_body: Size(1 << 20), redirects: 0 };
    let request = Request::get(url).body(Bytes::new()).unwrap();
    let answer = client.send(request, &limits).await.map_err(|error| error.to_string())?;
    match answer.status().as_u16() {
        200 => Ok(String::from_utf8_lossy(answer.body()).into_owned()),
        _ => Err(format!("status {}", answer.status())),
    }
}

/// A tinyproxy that serves `me` only.
async fn tinyproxy(dir: &Path) -> (SocketAddr, Process) {
    let port = free_port();
    let config = format!(
        "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nLogLevel Info\nBasicAuth me s3cret\n\
         DisableViaHeader Yes\n"
    );
    let file = dir.join("tinyproxy.conf");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(program("tinyproxy", "tinyproxy"));
    command.arg("-d").arg("-c").arg(&file);
    let process = Process::start("tinyproxy", &mut command, &dir.join("tinyproxy.log"));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    wait_for_port(address).await;
    (address, process)
}

async fn wait_for_port(address: SocketAddr) {
    let connects = async || tokio::net::TcpStream::connect(address).await.is_ok();
    wait_until("the proxy to listen", secs(10), connects).await;
}
