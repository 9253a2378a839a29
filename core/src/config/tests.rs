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
fn env_references_are_put_in_place_and_a_missing_one_says_where() {
    // PATH is the one variable that every test environment has.
    let path = std::env::var("PATH").unwrap();
    let merged = tree(&[("a.yaml", "identity: 'x${env:PATH}y$${env:PATH}'")], &[]);
    assert_eq!(merged["identity"], format!("x{path}y${{env:PATH}}"));

    let bad =
        "pipelines: { p: { sinks: [{ password: '${env:SURELY_NOT_SET}' }, { a: '${b}' }, { a: '${' }] } }";
    let error = load(&[("a.yaml", bad)], &[]).unwrap_err();
    let places: Vec<_> = error.problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(places, ["pipelines.p.sinks[0].password", "pipelines.p.sinks[1].a", "pipelines.p.sinks[2].a"]);
    assert!(error.problems[0].message.contains("SURELY_NOT_SET is not set"), "{error}");
    assert!(error.problems[0].origin.ends_with("a.yaml"), "{error}");
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
fn what_is_not_a_map_in_a_known_format_is_refused_with_its_name() {
    for (name, text, expected) in [
        ("a.yaml", "a: [", "this is not YAML"),
        ("a.yaml", "a: 1\na: 2", "this is not YAML"),
        ("a.yaml", "- a", "must be a map"),
        ("a.toml", "a = ", "this is not TOML"),
        ("a.json", "{}", "must end in .yaml"),
    ] {
        let error = load(&[(name, text)], &[]).unwrap_err();
        assert!(error.to_string().contains(expected), "{text:?}: {error}");
        assert!(error.problems[0].origin.ends_with(name), "{error}");
    }
    let error = Config::load(&["/nowhere/x.yaml".into()], []).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/x.yaml: cannot read the file"), "{error}");
}
