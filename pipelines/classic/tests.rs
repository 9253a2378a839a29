use super::*;

const SAMPLE: &str = include_str!("../../tests/data/classic.yaml");
const EVERY_KEY: &str = include_str!("../../tests/data/classic_every_key.yaml");

fn translated(text: &str, role: Option<Role>) -> Result<Translation, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    translate(file.path(), role).map_err(|mut mistakes| {
        mistakes.problems.iter_mut().for_each(|problem| problem.origin = "classic.yaml".into());
        mistakes
    })
}

/// The mistakes that `role` finds, one a line.
fn mistakes(text: &str, role: Role) -> Vec<String> {
    let mistakes = translated(text, Some(role)).unwrap_err();
    mistakes.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_sample_becomes_a_poller_and_a_receiver() {
    let translation = translated(SAMPLE, None).unwrap();
    assert_eq!(
        translation.yaml,
        "\
log:
  level: info
  format: json
  file: /var/log/prometheus-streams.log
pipelines:
  poller:
    source:
      type: http_scrape
      interval: 1m
      timeout: 1m
      jobs:
        choria:
          targets:
          - name: choria1
            url: http://choria1.dc1.example.net:8222/choria/prometheus
          - name: choria2
            url: http://choria2.dc1.example.net:8222/choria/prometheus
          - url: http://choria3.dc1.example.net:8222/choria/prometheus
          fallback_scrape_protocol: PrometheusText0.0.4
    sinks:
    - type: nats
      urls:
      - nats://nats.dc1.example.net:4222
      stream:
        name: PROMETHEUS
      subject: prometheus.{publisher}.{job}.{instance}
  receiver:
    source:
      type: nats
      urls:
      - nats://nats.dc2.example.net:4222
      stream: PROMETHEUS
      durable: prometheus_receiver
    transforms:
    - type: age_filter
      max_age: 1m20s
    - type: labeler
      drop:
      - publisher
    sinks:
    - type: push_gateway
      url: http://prometheus.dc2.example.net:9091
"
    );
    let paths: Vec<_> = translation.notes.iter().map(|note| note.path.as_str()).collect();
    assert_eq!(paths, ["poller_stream.cluster_id", "receiver_stream.cluster_id"]);
}

#[test]
fn every_key_is_understood() {
    let translation = translated(EVERY_KEY, None).unwrap();
    let tree: Value = serde_yaml::from_str(&translation.yaml).unwrap();
    let (poller, receiver) = (&tree["pipelines"]["poller"], &tree["pipelines"]["receiver"]);
    assert_eq!(tree["identity"], "USDC1");
    assert_eq!(tree["log"]["level"], "debug");
    let monitor = serde_json::json!({ "listen": "0.0.0.0:10000", "read_only": true });
    assert_eq!(tree["extensions"]["monitor"], monitor);

    let own = &poller["source"]["jobs"]["prometheus_streams"]["targets"][0];
    assert_eq!((&own["name"], &own["url"]), (&"USDC1".into(), &"http://localhost:10000/metrics".into()));
    assert_eq!(poller["source"]["jobs"].get("empty"), None);
    let sink = &poller["sinks"][0];
    let urls = ["nats://nats1.dc1.example.net:4222", "tls://nats2.dc1.example.net:4222"];
    assert_eq!(sink["urls"], serde_json::json!(urls));
    assert_eq!(sink["stream"], serde_json::json!({ "name": "DC1_PROMETHEUS", "max_age": "15m" }));
    assert_eq!(sink["subject"], "dc1.prometheus.{publisher}.{job}.{instance}");
    let ssl_dir = "/etc/puppetlabs/puppet/ssl";
    assert_eq!(sink["tls"]["ca_file"], format!("{ssl_dir}/certs/ca.pem"));
    assert_eq!(sink["tls"]["cert_file"], format!("{ssl_dir}/certs/poller.dc1.example.net.pem"));
    assert_eq!(sink["tls"]["key_file"], format!("{ssl_dir}/private_keys/poller.dc1.example.net.pem"));

    assert_eq!(receiver["source"]["stream"], "GLOBAL_PROMETHEUS");
    assert_eq!(receiver["source"]["tls"]["cert_file"], "/etc/prometheus-streams/cert.pem");
    let types: Vec<_> = receiver["transforms"].as_array().unwrap().iter().map(|t| &t["type"]).collect();
    assert_eq!(types, ["age_filter"], "the publisher stays in the grouping key");

    let paths: Vec<_> = translation.notes.iter().map(|note| note.path.as_str()).collect();
    let expected = [
        "jobs.empty",
        "poller_stream.cluster_id",
        "poller_stream.client_id",
        "tls.cache",
        "receiver_stream.cluster_id",
        "management",
    ];
    assert_eq!(paths.iter().collect::<std::collections::BTreeSet<_>>(), expected.iter().collect());
}

#[test]
fn users_in_addresses_get_keys_of_their_own() {
    let text = "\
scrape_interval: 60s
jobs: { a: { targets: [ { url: 'http://me:p%21@db1:9100/m' }, { url: 'http://db2:9100/m' } ] } }
poller_stream: { urls: 'nats://s3cret@h1, nats://h2', topic: t }
receiver_stream: { urls: 'u:p@h1, nats://u:p@h2', topic: t }
push_gateway: { url: 'http://me:p@gw:9091' }
";
    let translation = translated(text, None).unwrap();
    let tree: Value = serde_yaml::from_str(&translation.yaml).unwrap();
    let (poller, receiver) = (&tree["pipelines"]["poller"], &tree["pipelines"]["receiver"]);
    let targets = serde_json::json!([
        { "url": "http://db1:9100/m", "basic_auth": { "username": "me", "password": "p!" } },
        { "url": "http://db2:9100/m" },
    ]);
    assert_eq!(poller["source"]["jobs"]["a"]["targets"], targets);
    let (sink, source) = (&poller["sinks"][0], &receiver["source"]);
    assert_eq!(
        (&sink["urls"], &sink["token"]),
        (&serde_json::json!(["nats://h1", "nats://h2"]), &"s3cret".into())
    );
    assert_eq!((&source["user"], &source["password"]), (&"u".into(), &"p".into()));
    assert_eq!(receiver["sinks"][0]["url"], "http://gw:9091");
    assert_eq!(receiver["sinks"][0]["basic_auth"]["username"], "me");
    let paths: Vec<_> = translation.notes.iter().map(|note| note.path.as_str()).collect();
    assert_eq!(
        paths,
        ["jobs.a.targets[0].url", "poller_stream.urls", "receiver_stream.urls", "push_gateway.url"]
    );

    let found = mistakes(&text.replace("nats://u:p@h2", "nats://u:q@h2"), Role::Receiver);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("classic.yaml: receiver_stream.urls: the servers have different users"));
}

#[test]
fn a_job_that_gives_way_to_our_own_is_named() {
    let text = SAMPLE
        .replace("jobs:", "monitor_port: 1\njobs:\n  prometheus_streams: {targets: [{url: http://a:1}]}");
    let translation = translated(&text, Some(Role::Poller)).unwrap();
    assert!(
        !translation.yaml.contains("http://a:1") && translation.yaml.contains("http://localhost:1/metrics")
    );
    assert!(translation.notes.iter().any(|note| note.path == "jobs.prometheus_streams"));
}

#[test]
fn each_role_needs_only_its_own_keys() {
    let poller = "scrape_interval: 1s\njobs: {a: {targets: [{url: http://a:1}]}}\n\
        poller_stream: {urls: a, topic: t}";
    let yaml = translated(poller, Some(Role::Poller)).unwrap().yaml;
    assert!(yaml.contains("nats://a") && !yaml.contains("receiver"), "{yaml}");
    let receiver = "receiver_stream: {urls: a, topic: t}\npush_gateway: {url: http://b}";
    let yaml = translated(receiver, Some(Role::Receiver)).unwrap().yaml;
    assert!(yaml.contains("durable: prometheus_streams_") && !yaml.contains("poller"), "{yaml}");
    assert!(!yaml.contains("age_filter"), "{yaml}");
}

#[test]
fn all_that_is_missing_is_named_at_once() {
    let found = mistakes("", Role::Poller);
    assert_eq!(
        found,
        [
            "classic.yaml: scrape_interval: is missing: how often to scrape, as 60s",
            "classic.yaml: jobs: there is nothing to poll",
            "classic.yaml: poller_stream: is missing: where the stream is",
        ]
    );
    let found = mistakes("receiver_stream: {}", Role::Receiver);
    let paths = found.iter().filter_map(|line| line.split(": ").nth(1)).collect::<Vec<_>>();
    assert_eq!(paths, ["receiver_stream.urls", "receiver_stream.topic", "push_gateway.url"]);
}

#[test]
fn every_mistake_is_found_at_its_place() {
    let text = "\
scrape_interval: soon
max_age: -1
monitor_port: 70000
colour: blue
jobs: { a: { targets: [ { url: http://a }, { name: b, uri: http://b } ] } }
poller_stream: { urls: ' , ', topic: a.*.b, stream: a b, tls: { scheme: magic } }
receiver_stream: { tls: { scheme: puppet, identity: ../x, ssl_dir: /x } }
";
    let found = mistakes(text, Role::Poller);
    for path in [
        "scrape_interval",
        "max_age",
        "monitor_port",
        "colour",
        "jobs.a.targets[1].uri",
        "poller_stream.urls",
        "poller_stream.topic",
        "poller_stream.stream",
        "poller_stream.tls.scheme",
    ] {
        let start = format!("classic.yaml: {path}: ");
        assert_eq!(found.iter().filter(|line| line.starts_with(&start)).count(), 1, "{path}: {found:#?}");
    }
    let found = mistakes(text, Role::Receiver);
    assert!(found.iter().any(|line| line.contains("receiver_stream.tls.identity")), "{found:#?}");
}

#[test]
fn what_is_no_configuration_at_all_is_refused() {
    for (text, part) in [
        ("a: [", "this is not YAML"),
        ("just text", "invalid type: string"),
        ("max_age: 1\nmax_age: 2", "duplicate"),
    ] {
        let found = mistakes(text, Role::Poller);
        assert!(found.iter().any(|line| line.contains(part)), "{text}: {found:#?}");
    }
}

#[test]
fn later_mistakes_are_told_in_the_words_of_the_file() {
    let translation = translated(EVERY_KEY, None).unwrap();
    let classic = |path: &str| {
        let mistakes = translation.blame(ConfigError::at(path, "x"));
        mistakes.problems.first().map(|problem| problem.path.clone()).unwrap_or_default()
    };
    for (new, old) in [
        ("pipelines.poller.source.jobs.node.targets[1].url", "jobs.node.targets[1].url"),
        ("pipelines.poller.sinks[0].tls.ca_file", "poller_stream.tls.ssl_dir"),
        ("pipelines.receiver.source.tls.ca_file", "tls.ca"),
        ("pipelines.receiver.sinks[0].url", "push_gateway.url"),
        ("pipelines.poller.sinks[0].urls[1]", "poller_stream.urls[1]"),
        ("log.file", "logfile"),
    ] {
        assert_eq!(classic(new), old);
    }
}

#[test]
fn texts_of_the_file_are_not_references_to_the_environment() {
    let text = SAMPLE.replace("choria1\n", "${env:HOME}\n");
    let config = translated(&text, None).unwrap().config().unwrap();
    let jobs = &config.settings.pipelines["poller"].source["jobs"];
    assert_eq!(jobs["choria"]["targets"][0]["name"], "${env:HOME}");
}
