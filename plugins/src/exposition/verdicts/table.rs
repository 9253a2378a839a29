//! The reader of the tables of verdicts: what each judge says of several hundred bodies. The tables are the
//! text files beside this one, a file per subject; a line says what it is about, then come the cases:
//!
//! ```text
//! == a name touches its value
//! compat 2, strict no 1:2, gateway ok
//! | x+1
//! | x.5
//! ```
//!
//! `compat` and `strict` are the verdicts of our two modes, `gateway` that of a Push Gateway 1.5.1; `2.42` and
//! `3.x` stand where those releases of Prometheus differ from `compat`. A body that is taken has its number of
//! samples, or `ok`; one that is refused has `no`, and for our modes the line and column of the offence. Bytes
//! that cannot be read stand in guillemets as hexadecimal numbers, and `end` among them means that the body
//! ends there, without a line feed.

use std::path::{Path, PathBuf};

/// One body, and what is said of it.
#[derive(Debug)]
pub(crate) struct Case {
    /// The file and the title.
    pub title: String,
    /// Whether the body is OpenMetrics; else it is text 0.0.4.
    pub is_openmetrics: bool,
    pub body: Vec<u8>,
    columns: Vec<(String, String)>,
}

impl Case {
    /// What stands in a column, as `2` or `no 1:5`.
    pub(crate) fn column(&self, name: &str) -> Option<&str> {
        self.columns.iter().find(|(own, _)| own == name).map(|(_, verdict)| verdict.as_str())
    }

    /// Whether the judge of a column takes the body.
    pub(crate) fn is_taken(&self, column: &str) -> bool {
        self.column(column).is_some_and(|verdict| !verdict.starts_with("no"))
    }
}

/// All cases of all tables, in the order of the files' names.
pub(crate) fn cases() -> Vec<Case> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("read the folder of the tables")
        .map(|file| file.expect("list the tables").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    files.iter().flat_map(|file| read(file)).collect()
}

/// Where the tables are, whichever package of the workspace asks.
fn folder() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = ["src/exposition/verdicts", "plugins/src/exposition/verdicts"];
    let found = package.ancestors().flat_map(|dir| places.map(|place| dir.join(place)));
    found.into_iter().find(|path| path.is_dir()).expect("find the tables of verdicts")
}

fn read(file: &Path) -> Vec<Case> {
    let name = file.file_stem().expect("a file has a name").to_string_lossy();
    let text = std::fs::read_to_string(file).expect("read a table");
    text.split("\n== ")
        .skip(1)
        .map(|case| {
            let mut lines = case.lines();
            let title = format!("{name}: {}", lines.next().unwrap_or_default());
            let columns = lines.next().unwrap_or_default().split(", ");
            let columns = columns.filter_map(|column| column.split_once(' '));
            Case {
                title,
                is_openmetrics: name.starts_with("openmetrics"),
                columns: columns.map(|(name, verdict)| (name.to_owned(), verdict.to_owned())).collect(),
                body: body(lines),
            }
        })
        .collect()
}

fn body<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut body = Vec::new();
    for line in lines.filter_map(|line| line.strip_prefix('|')) {
        let mut rest = line.strip_prefix(' ').unwrap_or(line);
        while let Some((plain, (bytes, after))) =
            rest.split_once('«').and_then(|(plain, bytes)| Some((plain, bytes.split_once('»')?)))
        {
            body.extend_from_slice(plain.as_bytes());
            for byte in bytes.split(' ') {
                if byte == "end" {
                    return body;
                }
                body.push(u8::from_str_radix(byte, 16).expect("a byte in guillemets is hexadecimal"));
            }
            rest = after;
        }
        body.extend_from_slice(rest.as_bytes());
        body.push(b'\n');
    }
    body
}
