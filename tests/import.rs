//! `import`: every `tests/import/*.yml` is a configuration of Prometheus; beside it stand, as `.txt`, what is said of
//! it, and, as `.yaml`, what it becomes. With `BLESS=1` in the environment both are written anew.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::agent::PROGRAM;

/// All of the scraping maps.
const WHOLE: i32 = 0;
/// Something of it does not.
const NOT_THE_WHOLE: i32 = 2;
const BAD_CONFIGURATION: i32 = 64;

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import")
}

/// Runs a command where the files are.
fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).current_dir(dir()).output().unwrap()
}

/// What was printed, with the directory of the files as `DIR`.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(dir().to_str().unwrap(), "DIR")
}

/// Compares with a committed file.
fn same_as_committed(name: &str, said: &str) {
    let golden = dir().join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&golden, said).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(said == expected, "{name}: expected:\n{expected}\nsaid:\n{said}");
}

/// Imports a file, compares what comes out, and asks `check` for its opinion of that.
fn import(name: &str, code: i32) -> Output {
    let output = run(&["import", &format!("{name}.yml")]);
    let notes = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{name}: {notes}");
    same_as_committed(&format!("{name}.txt"), &notes);
    same_as_committed(&format!("{name}.yaml"), &text(&output.stdout));
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("imported.yaml");
    std::fs::write(&file, &output.stdout).unwrap();
    run(&["check", file.to_str().unwrap()])
}

#[test]
fn every_key_that_means_something_here_is_mapped() {
    for name in ["every_key", "small"] {
        let checked = import(name, WHOLE);
        assert!(checked.status.success(), "{name}: {}", text(&checked.stderr));
    }
}

#[test]
fn what_does_not_map_is_told_with_its_line_and_the_rest_is_mapped() {
    let checked = import("not_all", NOT_THE_WHOLE);
    // What is only missing here is all that is wrong.
    let mistakes = text(&checked.stderr);
    let here = |line: &str| line.contains("cannot read DIR/") || line.contains("IMPORT_TEST_SITE is not set");
    assert!(mistakes.lines().all(here) && mistakes.lines().count() == 3, "{mistakes}");
}

#[test]
fn what_is_no_configuration_of_prometheus_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    for (content, said) in [
        ("- a\n", "no configuration of Prometheus"),
        ("a: [", "this is not YAML"),
        ("a: 1\na: 2\n", "this is not YAML"),
    ] {
        let file = scratch.path().join("prometheus.yml");
        std::fs::write(&file, content).unwrap();
        let output = run(&["import", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(BAD_CONFIGURATION));
        assert!(text(&output.stderr).contains(said) && output.stdout.is_empty(), "{output:?}");
    }
    assert_eq!(run(&["import", "nowhere.yml"]).status.code(), Some(BAD_CONFIGURATION));
}
