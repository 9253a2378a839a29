//! Against a real server: Debian's dnsmasq, which answers what its options say.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::process::Stdio;

use prometheus_streams_core::testing::until;
use tokio::process::{Child, Command};

use super::super::DiscoverySettings;
use super::super::testing::Rig;
use super::*;

/// A dnsmasq that runs, with the records that its options give. It says itself that it knows nothing of other
/// names in `test`.
struct Dnsmasq {
    port: u16,
    _process: Child,
}

impl Dnsmasq {
    async fn start(records: &[&str]) -> Self {
        let port = free_port();
        Self { port, _process: Self::run(port, records).await }
    }

    async fn run(port: u16, records: &[&str]) -> Child {
        let process = Command::new("/usr/sbin/dnsmasq")
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
            ])
            .args(["--listen-address=127.0.0.1", "--local=/test/", "--user=", "--pid-file="])
            .arg(format!("--port={port}"))
            .args(records)
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("cannot start dnsmasq: apt-get install dnsmasq-base");
        until("dnsmasq listens", || async {
            tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok()
        })
        .await;
        process
    }

    fn server(&self) -> NameServerConfig {
        server(self.port)
    }
}

/// A port that is free for UDP and TCP alike.
fn free_port() -> u16 {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn server(port: u16) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
    for connection in &mut server.connections {
        connection.port = port;
    }
    server
}

fn start(names: &[&str], kind: RecordKind, servers: Vec<NameServerConfig>) -> Rig {
    let settings = DnsSdSettings {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        kind,
        port: 9100,
        refresh_interval: PromDuration(Duration::from_millis(50)),
    };
    Rig::start_with(&DiscoverySettings::Dns(settings.clone()), |teller| {
        run_with(settings, move || Ok(searching(servers.clone())), teller)
    })
}

fn searching(servers: Vec<NameServerConfig>) -> Servers {
    let search = vec![Name::from_ascii("wrong.test.").unwrap(), Name::from_ascii("right.test.").unwrap()];
    let config = ResolverConfig::from_parts(None, search, servers);
    Servers::new(&config, &ResolverOpts::default()).unwrap()
}

/// The lines of a list, sorted, without labels that are empty.
async fn next(rig: &mut Rig) -> Vec<String> {
    let mut lines = rig.next().await;
    for line in &mut lines {
        let (address, labels) = line.split_once(' ').unwrap();
        let labels: Vec<_> = labels.split(',').filter(|label| !label.ends_with('=')).collect();
        *line = format!("{address} {}", labels.join(","));
    }
    lines.sort();
    lines
}

#[tokio::test]
async fn every_kind_of_record_is_a_target() {
    let dns = Dnsmasq::start(&[
        "--srv-host=_metrics._tcp.test,db1.test,9101",
        "--srv-host=_metrics._tcp.test,db2.test,9102",
        "--host-record=db1.test,192.0.2.1,2001:db8::1",
        "--host-record=db1.test,192.0.2.2",
        "--cname=alias.test,db1.test",
        "--mx-host=test,mail.test,10",
        "--dns-rr=test,2,026e73047465737400",
    ])
    .await;
    for (kind, name, expected) in [
        (
            RecordKind::Srv,
            "_metrics._tcp.test",
            [
                "db1.test:9101 __meta_dns_name=_metrics._tcp.test,__meta_dns_srv_record_port=9101,__meta_dns_srv_record_target=db1.test.",
                "db2.test:9102 __meta_dns_name=_metrics._tcp.test,__meta_dns_srv_record_port=9102,__meta_dns_srv_record_target=db2.test.",
            ]
            .as_slice(),
        ),
        (RecordKind::A, "alias.test", &["192.0.2.1:9100 __meta_dns_name=alias.test", "192.0.2.2:9100 __meta_dns_name=alias.test"]),
        (RecordKind::Aaaa, "db1.test.", &["[2001:db8::1]:9100 __meta_dns_name=db1.test."]),
        (RecordKind::Mx, "test.", &["mail.test:9100 __meta_dns_mx_record_target=mail.test.,__meta_dns_name=test."]),
        (RecordKind::Ns, "test.", &["ns.test:9100 __meta_dns_name=test.,__meta_dns_ns_record_target=ns.test."]),
    ] {
        let mut rig = start(&[name], kind, vec![dns.server()]);
        assert_eq!(next(&mut rig).await, expected, "{kind:?}");
        assert_eq!(rig.failures(), 0.0);
    }
}

#[tokio::test]
async fn search_domains_complete_a_name_and_a_dead_server_is_passed_over() {
    let dns = Dnsmasq::start(&["--host-record=db1.right.test,192.0.2.1"]).await;
    let mut rig = start(&["db1"], RecordKind::A, vec![server(free_port()), dns.server()]);
    assert_eq!(next(&mut rig).await, ["192.0.2.1:9100 __meta_dns_name=db1"]);
    let names = searching(Vec::new());
    let completions =
        |name| -> Vec<_> { names.completions(&parse(name).unwrap()).iter().map(Name::to_ascii).collect() };
    assert_eq!(completions("a"), ["a.wrong.test.", "a.right.test.", "a."]);
    assert_eq!(completions("a.b"), ["a.b.", "a.b.wrong.test.", "a.b.right.test."]);
    assert_eq!(completions("a.b."), ["a.b."]);
}

#[tokio::test]
async fn an_answer_too_large_for_udp_comes_over_tcp() {
    let records: Vec<_> =
        (0..300).map(|n| format!("--host-record=many.test,198.18.{}.{}", n / 250, n % 250 + 1)).collect();
    let dns = Dnsmasq::start(&records.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut rig = start(&["many.test."], RecordKind::A, vec![dns.server()]);
    assert_eq!(next(&mut rig).await.len(), 300);
}

#[tokio::test]
async fn targets_stay_while_no_server_answers_and_go_when_the_name_is_gone() {
    let mut dns = Dnsmasq::start(&["--host-record=db1.test,192.0.2.1"]).await;
    let mut rig = start(&["db1.test.", "db2.test."], RecordKind::A, vec![dns.server()]);
    assert_eq!(next(&mut rig).await, ["192.0.2.1:9100 __meta_dns_name=db1.test."]);
    dns._process.kill().await.unwrap();
    until("nobody answers", || async { rig.failures() >= 2.0 }).await;
    dns._process = Dnsmasq::run(dns.port, &["--host-record=db2.test,192.0.2.2"]).await;
    // The next list is that of the server that is back: nothing was told in between.
    assert_eq!(next(&mut rig).await, ["192.0.2.2:9100 __meta_dns_name=db2.test."]);
}

#[test]
fn what_cannot_be_asked_for_is_refused() {
    let check = |settings: serde_json::Value| {
        let settings: DnsSdSettings = serde_json::from_value(settings).unwrap();
        settings.check().map_err(|error| error.to_string())
    };
    assert_eq!(check(serde_json::json!({ "names": ["_x._tcp.example.net"] })), Ok(()));
    assert_eq!(check(serde_json::json!({ "names": ["x"], "type": "a", "port": 1 })), Ok(()));
    let wrong =
        check(serde_json::json!({ "names": ["a..b"], "type": "A", "refresh_interval": "0s" })).unwrap_err();
    let lines: Vec<_> = wrong.lines().collect();
    assert!(lines[0].starts_with("names[0]: \"a..b\" is not a name of DNS"), "{wrong}");
    assert_eq!(
        lines[1..],
        ["port: is required for all types except SRV", "refresh_interval: must be more than zero"]
    );
    assert_eq!(
        check(serde_json::json!({ "names": [] })).unwrap_err(),
        "names: there must be at least one name"
    );
}
