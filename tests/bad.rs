//! Bad configurations: every file in `tests/bad` has a mistake or several, and beside it, as `.txt`, what
//! `check` says of it. With `BLESS=1` in the environment the `.txt` files are written anew; read what
//! changed before you commit it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::agent::PROGRAM;

/// The exit status that blames the configuration.
const BAD_CONFIGURATION: i32 = 64;

#[test]
fn check_says_everything_that_is_wrong_with_a_file() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut differences = BTreeMap::new();
    let files = bad_files();
    assert!(files.len() > 10, "the bad files are gone");
    for file in files {
        let golden = file.with_extension(format!("{}.txt", file.extension().unwrap().display()));
        let said = check(&file);
        if bless {
            std::fs::write(&golden, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if said != expected {
            differences.insert(
                file.file_name().unwrap().to_owned(),
                format!("expected:\n{expected}\nsaid:\n{said}"),
            );
        }
    }
    let report: Vec<_> =
        differences.iter().map(|(file, text)| format!("== {}\n{text}", file.display())).collect();
    assert!(report.is_empty(), "{}", report.join("\n"));
}

fn bad_files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|kind| kind != "txt")).collect();
    files.sort();
    files
}

/// What `check` says of a file, which it must refuse.
fn check(file: &Path) -> String {
    let (dir, name) = (file.parent().unwrap(), file.file_name().unwrap());
    let output = Command::new(PROGRAM).arg("check").arg(name).current_dir(dir).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(BAD_CONFIGURATION), "{} was not refused:\n{said}", name.display());
    said
}
