//! Writes the bodies of the tables of verdicts into the corpora: `prometheus-streams-fuzz-seeds DIR`.

#[allow(dead_code)]
#[path = "../../../../plugins/src/exposition/verdicts/table.rs"]
mod table;

use std::path::Path;

const REGEXES: [&str; 8] = [
    "(.*)\n$1\nab",
    "a.+b|c\n${1}x\na1b",
    "(?P<n>[[:alpha:]]+)-(\\d+)\n$n:$2\nab-12",
    "(?i)ÄB\\z\n$0$$\näb",
    "[^\\x00-\\x{7F}]*?\n\né",
    "\\pL{2,5}\\Q.*\\E\n$1\nabc.*",
    "(a|ab)(c|bcd)(d*)\n$1-$2-$3\nabcd",
    "\n$0\n",
];

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "corpus".to_owned());
    let folder = Path::new(&folder);
    for target in ["text", "openmetrics", "protobuf", "canonical", "relabel"] {
        std::fs::create_dir_all(folder.join(target))?;
    }
    for (index, case) in table::cases().into_iter().enumerate() {
        let target = if case.is_openmetrics { "openmetrics" } else { "text" };
        std::fs::write(folder.join(target).join(format!("table-{index}")), case.body)?;
    }
    for (index, seed) in REGEXES.iter().enumerate() {
        std::fs::write(folder.join("relabel").join(format!("regex-{index}")), seed)?;
    }
    Ok(())
}
