//! The command line: what it prints, and with which code it ends; the committed reference of the
//! settings; the ready-made pipelines; the examples.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::agent::{Agent, PROGRAM, run};
use super::support::configs;
use super::support::targets::Targets;
use super::support::wait::secs;

/// The root of the repository.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn file(path: &str) -> String {
    Path::new(ROOT).join(path).display().to_string()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Runs the program, which must end well, and returns what it printed.
fn printed(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output).to_owned()
}

/// Compares with a committed file. A linker can drop a registration in silence, so this asks the binary.
fn same_as_committed(path: &str, command: &str) {
    let committed = std::fs::read_to_string(file(path)).unwrap();
    let now = printed(&[command]);
    assert!(
        committed == now,
        "{path} is not what `prometheus-streams {command}` prints; if that is right, run\n\
         cargo run -- {command} > {path}"
    );
}

#[test]
fn the_list_of_stages_is_the_committed_one() {
    same_as_committed("tests/golden/list.txt", "list");
}

#[test]
fn the_reference_of_settings_is_the_committed_one() {
    same_as_committed("plugins/README.md", "docs");
}

#[test]
fn the_ready_made_pipelines_have_no_mistakes() {
    for (name, flows) in [
        ("poller", "poller: http_scrape > nats"),
        ("receiver", "receiver: nats > age_filter > push_gateway"),
        ("relay", "relay: nats > nats"),
        ("quickstart", "receiver: local_stream > age_filter > exposition"),
    ] {
        let text = printed(&["check", &file(&format!("pipelines/{name}.yaml"))]);
        assert!(text.contains(flows), "{text}");
        assert!(text.contains("extension monitor"), "{text}");
    }
}

#[test]
fn the_classic_sample_converts_into_a_file_without_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    for (only, flows) in
        [("poller", "http_scrape > nats"), ("receiver", "nats > age_filter > labeler > push_gateway")]
    {
        let text = printed(&["convert", &file("tests/data/classic.yaml"), "--only", only]);
        assert!(text.contains(&format!("# {only}_stream.cluster_id: belongs to NATS Streaming")), "{text}");
        let converted = dir.path().join("converted.yaml");
        std::fs::write(&converted, text).unwrap();
        let text = printed(&["check", &converted.display().to_string()]);
        assert!(text.contains(&format!("{only}: {flows}")), "{text}");
    }
}

#[test]
fn mistakes_of_the_command_line_and_of_the_configuration_end_with_64() {
    let classic = file("tests/data/classic.yaml");
    let pid = "--pid=/nowhere/at/all.pid";
    let missing_files: PathBuf = "/nowhere/at/all.yaml".into();
    for (args, part) in [
        (vec!["walk"], "unrecognized subcommand"),
        (vec!["run"], "required arguments"),
        (vec!["run", &missing_files.display().to_string()], "/nowhere/at/all.yaml: cannot read the file"),
        (vec!["check", &classic], "tests/data/classic.yaml: push_gateway: unknown field"),
        (vec!["run", &file("pipelines/poller.yaml"), pid], "--pid: cannot write /nowhere/at/all.pid"),
        (
            vec!["run", &file("pipelines/poller.yaml"), "--config", "x"],
            "--config: belongs to poller and receiver",
        ),
        (vec!["poller"], "--config: is missing"),
        (vec!["receiver", "--config", "/nowhere/at/all.yaml"], "/nowhere/at/all.yaml: cannot read the file"),
        (
            vec!["poller", "--config", &file("pipelines/poller.yaml")],
            "pipelines/poller.yaml: pipelines: unknown field",
        ),
        (vec!["enroll", "db1", "--dir", "/x", "--ca", "puppet:8140"], "enroll: is not offered any more"),
    ] {
        let output = run(&args.iter().map(|arg| arg.as_ref()).collect::<Vec<&str>>());
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert!(stderr(&output).contains(part), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
    }
}

#[test]
fn a_level_of_the_log_that_is_none_is_found_by_check() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.yaml");
    std::fs::write(&bad, "log: { level: inof }\npipelines: { p: { source: { type: nothing }, sinks: [] } }")
        .unwrap();
    let output = run(&["check", &bad.display().to_string()]);
    assert_eq!(output.status.code(), Some(64));
    for part in
        ["log.level: \"inof\" is not a level", "pipelines.p.source.type: there is no source \"nothing\""]
    {
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
}

#[test]
fn the_options_of_the_classic_program_stand_before_or_after_the_command() {
    let classic = file("tests/data/classic.yaml");
    for args in [["--config", &classic, "--debug", "walk"], ["walk", "--debug", "--config", &classic]] {
        let output = run(&args);
        assert!(stderr(&output).contains("unrecognized subcommand 'walk'"), "{}", stderr(&output));
    }
    assert_eq!(printed(&["--version"]), format!("prometheus-streams {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_reader_that_goes_away_is_no_mistake() {
    let mut child = Command::new(PROGRAM).arg("docs").stdout(Stdio::piped()).spawn().unwrap();
    let mut start = [0; 10];
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut start).unwrap();
    drop(output);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// A gateway that takes a push and never answers keeps the program draining, unless it is told twice.
#[tokio::test]
async fn the_second_signal_ends_the_program_at_once() {
    let gateway = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let targets = Targets::start().await;
    let mut agent = Agent::start(json!({
        "shutdown_grace": "10m",
        "pipelines": { "p": {
            "source": {
                "type": "http_scrape",
                "interval": "100ms",
                "jobs": configs::probes([("a", targets.url("a"))]),
            },
            "sinks": [{
                "type": "push_gateway",
                "url": format!("http://{}", gateway.local_addr().unwrap()),
                "delivery": { "timeout": "10m" },
            }],
        } },
    }));
    // The sink asks what the gateway is and holds before it pushes.
    let push = loop {
        let accepted = tokio::time::timeout(secs(30), gateway.accept()).await.unwrap();
        let (mut connection, mut method) = (accepted.unwrap().0, [0; 3]);
        connection.read_exact(&mut method).await.unwrap();
        if &method == b"PUT" {
            break connection;
        }
        let mut rest = [0; 4096];
        let _ = connection.read(&mut rest).await.unwrap();
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        connection.write_all(answer).await.unwrap();
    };
    agent.signal("HUP");
    let hangup = |line: &serde_json::Value| line["message"].as_str()?.starts_with("SIGHUP").then_some(());
    agent.wait_for_log("a word on SIGHUP", hangup).await;
    agent.signal("TERM");
    agent.wait_for_log("draining", |line| line["signal"].as_str().map(str::to_owned)).await;
    agent.signal("INT");
    assert_eq!(agent.wait(secs(10)).await.code(), Some(130));
    drop(push);
}

/// Runs an example, which cargo has built for the tests, to its own end.
async fn example(name: &str) -> String {
    let examples = Path::new(PROGRAM).parent().unwrap().join("examples");
    let command = tokio::process::Command::new(examples.join(name)).kill_on_drop(true).output();
    let output = tokio::time::timeout(secs(60), command).await.expect("an example does not end").unwrap();
    assert_eq!(output.status.code(), Some(0), "{name}: {}", stderr(&output));
    stdout(&output).to_owned()
}

#[tokio::test]
async fn the_examples_run() {
    let text = example("custom_transform").await;
    assert!(text.starts_with("up{") && text.ends_with(",site=\"dc1\"} 1\n"), "{text}");
    let text = example("custom_sink").await;
    assert!(text.lines().count() >= 3 && text.lines().all(|line| line.ends_with(" bytes")), "{text}");
    let text = example("embed").await;
    assert!(text.contains("region=\"eu\"} orders_total 4\n"), "{text}");
}
