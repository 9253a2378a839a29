use std::fs;

use serde_json::json;

use super::*;

fn load(files: &[(&str, &str)], env: &[(&str, &str)]) -> Result<(Config, tempfile::TempDir), ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<_> = files.iter().map(|(name, _)| dir.path().join(name)).collect();
    for ((_, text), path) in files.iter().zip(&paths) {
        fs::write(path, text).unwrap();
    }
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(&paths, env).map(|config| (config, dir))
}

fn tree(files: &[(&str, &str)], env: &[(&str, &str)]) -> Value {
    load(files, env).unwrap().0.layers.tree
}

const POLLER: &str = "
pipelines:
  Poller:
    source: { type: http_scrape, jobs: { Node.eu: { targets: [a, b] } } }
    sinks: [{ type: nats, urls: [x] }, { type: memory }]
";

#[test]
fn later_files_win_and_maps_merge() {
    let over = "[pipelines.Poller.source]\ninterval = '5s'\n[log]\nlevel = 'debug'\n";
    let merged = tree(&[("a.yaml", POLLER), ("b.toml", over)], &[]);
    assert_eq!(
        merged,
        json!({
            "log": { "level": "debug" },
            "pipelines": { "Poller": {
                "source": { "type": "http_scrape", "interval": "5s", "jobs": { "Node.eu": { "targets": ["a", "b"] } } },
                "sinks": [{ "type": "nats", "urls": ["x"] }, { "type": "memory" }],
            } },
        })
    );
}

#[test]
fn the_environment_wins_and_finds_keys_whatever_their_case() {
    let env = [
        ("PROMETHEUS_STREAMS__PIPELINES__POLLER__SINKS__0__URLS", "[y, z]"),
        ("PROMETHEUS_STREAMS__PIPELINES__POLLER__SOURCE__JOBS__NODE.EU__TARGETS__1", "c"),
        ("PROMETHEUS_STREAMS__LOG__LEVEL", "warn"),
        ("OTHER", "ignored"),
    ];
    let merged = tree(&[("a.yaml", POLLER)], &env);
    let poller = &merged["pipelines"]["Poller"];
    assert_eq!(poller["sinks"], json!([{ "type": "nats", "urls": ["y", "z"] }, { "type": "memory" }]));
    assert_eq!(poller["source"]["jobs"]["Node.eu"]["targets"], json!(["a", "c"]));
    assert_eq!(merged["log"]["level"], "warn");
}

#[test]
fn a_text_in_the_environment_stays_as_it_is() {
    for (text, expected) in [
        ("p4ss #word", json!("p4ss #word")),
        ("007", json!("007")),
        ("1e5", json!("1e5")),
        ("'quoted'", json!("'quoted'")),
        ("~", json!("~")),
        ("\"12345\"", json!("12345")),
        ("12345", json!(12345)),
        ("true", json!(true)),
        ("{ a: 1 }", json!({ "a": 1 })),
        ("[not a list", json!("[not a list")),
    ] {
        let merged = tree(&[], &[("PROMETHEUS_STREAMS__EXTENSIONS__M__PASSWORD", text)]);
        assert_eq!(merged["extensions"]["m"]["password"], expected, "{text}");
    }
}

#[test]
fn env_references_are_put_in_place_and_a_missing_one_says_where() {
    let merged = tree(&[("a.yaml", "identity: 'x${env:SITE}y$${env:SITE}'")], &[("SITE", "dc1")]);
    assert_eq!(merged["identity"], "xdc1y${env:SITE}");

    let bad = "pipelines: { p: { sinks: [{ password: '${env:UNSET}' }, { a: 'pa${ss}' }, { a: 'pa${ss' }] } }\nlag: { level: debug }";
    let error = load(&[("a.yaml", bad)], &[]).unwrap().0.verdict().unwrap_err();
    let places: Vec<_> = error.problems.iter().map(|problem| problem.path.as_str()).collect();
    // And the other mistakes of the file are told as well.
    let references = ["pipelines.p.sinks[0].password", "pipelines.p.sinks[1].a", "pipelines.p.sinks[2].a"];
    assert_eq!((&places[..3], &places[3..]), (&references[..], &["lag"][..]));
    assert!(error.problems[0].message.contains("UNSET is not set"), "{error}");
    assert!(error.problems[0].origin.ends_with("a.yaml"), "{error}");
}

#[test]
fn the_dollars_of_relabelling_are_left_alone() {
    let rules = "pipelines: { p: { source: { rules: [
        { replacement: '$1:${2}-$$${name}$${1}${env:SITE}', target_label: 'x_${1}' }, { replacement: '$${env:SITE}' }] } } }";
    let merged = tree(&[("a.yaml", rules)], &[("SITE", "dc1")]);
    let rules = &merged["pipelines"]["p"]["source"]["rules"];
    assert_eq!(rules[0], json!({ "replacement": "$1:${2}-$$${name}$${1}dc1", "target_label": "x_${1}" }));
    assert_eq!(rules[1]["replacement"], "${env:SITE}");
}

#[test]
fn a_number_stays_as_it_is_written() {
    let text = "
pipelines:
  a: &a { labels: { version: 1.10, id: 0x1F, n: 1_0, big: 1e3, plus: +5, plain: 15, half: 0.5, at: [1.0, 2] }, capacity: 7 }
  b: *a
  c: { <<: *a, capacity: 2.50 }
";
    let merged = tree(&[("a.yaml", text)], &[]);
    let labels = json!({ "version": "1.10", "id": "0x1F", "n": "1_0", "big": "1e3", "plus": "+5", "plain": 15,
        "half": "0.5", "at": ["1.0", 2] });
    let pipelines = &merged["pipelines"];
    assert_eq!(pipelines["a"], json!({ "labels": labels, "capacity": 7 }));
    assert_eq!(pipelines["b"], pipelines["a"]);
    assert_eq!(pipelines["c"], json!({ "labels": labels, "capacity": "2.50" }));
}

#[test]
fn no_message_shows_what_may_be_a_secret() {
    let debug = load(&[("a.yaml", "pipelines: { p: { source: { password: hunter2 }, sinks: [] } }")], &[]);
    assert!(!format!("{:?}", debug.unwrap().0).contains("hunter2"));

    for (file, text) in [
        ("a.toml", "password = hunter2\n"),
        ("a.yaml", "identity: 'a${hunter2}b'\n"),
        ("a.yaml", "shutdown_grace: '${env:PASSWORD}'\n"),
        ("a.yaml", "log: { format: '${env:PASSWORD}' }\n"),
    ] {
        let error =
            load(&[(file, text)], &[("PASSWORD", "hunter2")]).and_then(|(config, _)| config.verdict());
        let error = error.expect_err(text).to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn settings_keep_the_order_of_the_file_and_empty_sections_are_absent() {
    let (config, _dir) =
        load(&[("a.yaml", "log:\nextensions: { m: { e: 1, d: 2, c: 3, b: 4, a: 5 } }")], &[]).unwrap();
    config.verdict().unwrap();
    let keys: Vec<_> = config.settings.extensions["m"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["e", "d", "c", "b", "a"]);
}

#[test]
fn a_mistake_is_blamed_on_the_layer_that_made_it() {
    let env = [("PROMETHEUS_STREAMS__LOG__FORMAT", "xml")];
    let files = [("a.yaml", POLLER), ("b.yaml", "pipelines: { Poller: { capacity: -1 } }\nlogs: {}\n")];
    let (config, _dir) = load(&files, &env).unwrap();
    let error = config.verdict().unwrap_err();
    let blamed: Vec<_> = error
        .problems
        .iter()
        .map(|problem| (problem.origin.rsplit('/').next().unwrap_or_default(), problem.path.as_str()))
        .collect();
    assert!(blamed.contains(&("b.yaml", "pipelines.Poller.capacity")), "{error}");
    assert!(blamed.contains(&("b.yaml", "logs")), "{error}");
    assert!(blamed.contains(&("PROMETHEUS_STREAMS__LOG__FORMAT", "log.format")), "{error}");
    assert_eq!(blamed.len(), 3, "{error}");
}

#[test]
fn a_variable_for_one_element_is_not_blamed_for_another_nor_a_key_for_its_longer_sibling() {
    let file = "pipelines: { Poller: { sources: 1, source: { type: x }, sinks: [{ type: nats }, text] } }\n";
    let env = [("PROMETHEUS_STREAMS__PIPELINES__POLLER__SINKS__0__NAME", "c")];
    let (config, _dir) = load(&[("a.yaml", file)], &env).unwrap();
    let error = config.verdict().unwrap_err();
    assert_eq!(error.problems.len(), 2, "{error}");
    assert!(error.problems.iter().all(|problem| problem.origin.ends_with("a.yaml")), "{error}");

    let files = [("a.yaml", "log: { level.x: 1, level: info }"), ("b.yaml", "log: { level: warn }")];
    let error = load(&files, &[]).unwrap().0.verdict().unwrap_err();
    assert!(error.problems[0].origin.ends_with("a.yaml"), "{error}");
}

#[test]
fn what_is_not_a_map_in_a_known_format_is_refused_with_its_name() {
    for (name, text, expected) in [
        ("a.yaml", "a: [", "this is not YAML"),
        ("a.yaml", "a: 1\na: 2", "this is not YAML"),
        ("a.yaml", "- a", "must be a map"),
        ("a.toml", "a = ", "this is not TOML"),
        ("a.json", "{}", "must end in .yaml"),
        ("a.yaml", "log.level: debug", "there is no setting \"log.level\""),
    ] {
        let error = load(&[(name, text)], &[]).unwrap_err();
        assert!(error.to_string().contains(expected), "{text:?}: {error}");
        assert!(error.problems[0].origin.ends_with(name), "{error}");
    }
    let error = Config::load(&["/nowhere/x.yaml".into()], []).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/x.yaml: cannot read the file"), "{error}");
}
