//! Every sample that a Prometheus has stored, with its time and also those that mark the end of a series, as
//! `promtool tsdb dump` writes them from the files of a server that has ended.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::process::program;

/// The samples of every series: time in milliseconds since 1970, and value.
pub type Dump = BTreeMap<String, Vec<(i64, String)>>;

/// What stands in the database at `dir`, whose server has ended.
pub fn dump(dir: &Path) -> Dump {
    let promtool = program("promtool", "prometheus");
    let output = Command::new(promtool).args(["tsdb", "dump"]).arg(dir).output().expect("run promtool");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool: {errors}");
    let mut dump = Dump::new();
    for line in text.lines() {
        let (rest, time) = line.rsplit_once(' ').unwrap_or_else(|| panic!("promtool wrote {line:?}"));
        let (series, value) = rest.rsplit_once("} ").unwrap_or_else(|| panic!("promtool wrote {line:?}"));
        let time = time.parse().unwrap_or_else(|_| panic!("promtool wrote {line:?}"));
        dump.entry(format!("{series}}}")).or_default().push((time, value.to_owned()));
    }
    dump
}
