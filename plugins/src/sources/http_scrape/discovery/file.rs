//! Targets from files, as Prometheus' `file_sd_configs`: JSON or YAML, followed as they change.
//!
//! ```yaml
//! file_sd_configs:
//!   - files: [ /etc/prometheus-streams/targets/*.yml ]
//!     refresh_interval: 5m
//! ```
//!
//! The directories are watched, so that files which are replaced, appear or vanish are seen at once; should a
//! watch be lost, the refresh makes up for it. A file that cannot be read keeps what it had before.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::Size;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::super::config::PromDuration;
use super::{TargetGroup, Teller, list};

const FILEPATH: &str = "__meta_filepath";
const EXTENSIONS: [&str; 6] = ["json", "yml", "yaml", "JSON", "YML", "YAML"];
/// A file that is being written is read when nothing has happened to it for this long.
const QUIET: Duration = Duration::from_millis(50);
/// Where something happens all the time, the files are read this often all the same.
const MOST_QUIET_WAITS: u32 = 20;

/// Targets from files that list them, in JSON or YAML.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSdSettings {
    /// The files: paths that end in `.json`, `.yml` or `.yaml`, with `*` in the last element if wanted.
    pub files: Vec<String>,
    /// How often the files are read even if they were not seen to change. Default: 5m.
    #[serde(default = "five_minutes")]
    pub refresh_interval: PromDuration,
}

fn five_minutes() -> PromDuration {
    PromDuration(Duration::from_secs(300))
}

impl FileSdSettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// There is no path, or one that Prometheus would refuse, or no refresh.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let mut problems = BuildError::default();
        if self.files.is_empty() {
            problems.add("files", "there must be at least one path");
        }
        for (index, path) in self.files.iter().enumerate() {
            let at = format!("files[{index}]");
            let extension = Path::new(path).extension().unwrap_or_default();
            let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
            if !EXTENSIONS.iter().any(|known| extension == *known) {
                problems.add(&at, format!("{path:?} does not end in .json, .yml or .yaml"));
            } else if directory.contains(['*', '?', '[']) {
                problems.add(&at, format!("{path:?} has a wildcard before its last element"));
            } else if let Err(error) = glob::Pattern::new(path) {
                problems.add(&at, format!("{path:?} is not a pattern: {error}"));
            }
        }
        if self.refresh_interval.0.is_zero() {
            problems.add("refresh_interval", "must be more than zero");
        }
        problems.or(())
    }
}

/// Tells the targets of all files, until it is dropped.
pub(super) async fn run(settings: FileSdSettings, mut teller: Teller) {
    let settings = Arc::new(settings);
    let changed = Arc::new(Notify::new());
    let mut watches = Watches::new(&settings, &changed);
    let mut known = Contents::new();
    loop {
        // Watched before it is read, so that no change falls between the two.
        watches.renew(&mut teller);
        let (settings_of_scan, before) = (Arc::clone(&settings), known.clone());
        let scan = tokio::task::spawn_blocking(move || scan(&settings_of_scan.files, &before)).await;
        if let Ok(scan) = scan {
            known = scan.contents;
            scan.well.iter().for_each(|path| teller.is_well(path));
            for (path, error) in &scan.failed {
                teller.failed(path, error);
            }
            teller.tell(known.values().flat_map(|groups| groups.iter().cloned()).collect()).await;
        }
        if timeout(settings.refresh_interval.0, changed.notified()).await.is_ok() {
            for _ in 0..MOST_QUIET_WAITS {
                if timeout(QUIET, changed.notified()).await.is_err() {
                    break;
                }
            }
        }
    }
}

/// The watches on the directories of all paths.
struct Watches {
    watcher: Result<RecommendedWatcher, String>,
    directories: Vec<PathBuf>,
}

impl Watches {
    fn new(settings: &FileSdSettings, changed: &Arc<Notify>) -> Self {
        let changed = Arc::clone(changed);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| tells_of_change(event.kind)) {
                changed.notify_one();
            }
        });
        let mut directories: Vec<_> = settings.files.iter().map(|path| directory(path)).collect();
        directories.sort();
        directories.dedup();
        Self { watcher: watcher.map_err(|error| error.to_string()), directories }
    }

    /// Watches again, because a directory may have been replaced or only now be there.
    fn renew(&mut self, teller: &mut Teller) {
        match &mut self.watcher {
            Ok(watcher) => {
                for directory in &self.directories {
                    let subject = directory.to_string_lossy();
                    match watcher.watch(directory, RecursiveMode::NonRecursive) {
                        Ok(()) => teller.is_well(&subject),
                        Err(error) => {
                            teller.failed(&subject, format!("cannot watch it: {:?}", error.kind));
                        }
                    }
                }
            }
            Err(error) => teller.failed("", format!("cannot watch files: {error}")),
        }
    }
}

fn directory(path: &str) -> PathBuf {
    match Path::new(path).parent() {
        Some(directory) if directory != Path::new("") => directory.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Reading is an event too, and must not lead to reading.
fn tells_of_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) => false,
        _ => true,
    }
}

/// The groups of each file, by its path.
type Contents = BTreeMap<String, Arc<Vec<TargetGroup>>>;

/// What the files were found to hold.
#[derive(Default)]
struct Scan {
    contents: Contents,
    well: Vec<String>,
    failed: Vec<(String, String)>,
}

/// Reads all files that match. One that cannot be read has what it had `before`.
fn scan(patterns: &[String], before: &Contents) -> Scan {
    let mut scan = Scan::default();
    for pattern in patterns {
        match list_files(pattern) {
            Ok(paths) => {
                scan.well.push(pattern.clone());
                paths.into_iter().for_each(|path| scan.read(path, before));
            }
            Err(error) => {
                scan.failed.push((pattern.clone(), error));
                scan.keep_all(pattern, before);
            }
        }
    }
    scan
}

impl Scan {
    fn read(&mut self, path: String, before: &Contents) {
        if self.contents.contains_key(&path) {
            return;
        }
        match read(&path) {
            Ok(Some(groups)) => {
                self.well.push(path.clone());
                self.contents.insert(path, Arc::new(groups));
            }
            // It has vanished since it was listed.
            Ok(None) => {}
            Err(error) => {
                let groups = before.get(&path).cloned().unwrap_or_default();
                self.failed.push((path.clone(), error));
                self.contents.insert(path, groups);
            }
        }
    }

    /// The files of a directory that cannot be listed are still there, for all one knows.
    fn keep_all(&mut self, pattern: &str, before: &Contents) {
        let Ok(pattern) = glob::Pattern::new(pattern) else { return };
        let kept = before.iter().filter(|(path, _)| pattern.matches(path));
        self.contents.extend(kept.map(|(path, groups)| (path.clone(), Arc::clone(groups))));
    }
}

fn list_files(pattern: &str) -> Result<Vec<String>, String> {
    let paths = glob::glob(pattern).map_err(|error| error.to_string())?;
    paths
        .map(|path| path.map(|path| path.to_string_lossy().into_owned()).map_err(|error| error.to_string()))
        .collect()
}

/// The groups of a file; `None` where there is no such file.
fn read(path: &str) -> Result<Option<Vec<TargetGroup>>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut text = Vec::new();
    file.take(list::LARGEST + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > list::LARGEST {
        return Err(format!("larger than {}", Size(list::LARGEST)));
    }
    let is_json = path.to_ascii_lowercase().ends_with(".json");
    let mut groups = if is_json { list::from_json(&text) } else { list::from_yaml(&text) }?;
    for group in &mut groups {
        Arc::make_mut(&mut group.labels).insert(FILEPATH.to_owned(), path.to_owned());
    }
    Ok(Some(groups))
}

#[cfg(test)]
mod tests {
    use super::super::DiscoverySettings;
    use super::super::testing::Rig;
    use super::*;
    use prometheus_streams_core::testing::until;

    /// A directory with files, and the settings that find `*.json` and `one.yml` in it.
    struct Bench(tempfile::TempDir);

    impl Bench {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> String {
            self.0.path().join(name).to_str().unwrap().to_owned()
        }

        /// Writes a file as editors do: beside it, and then in its place.
        fn replace(&self, name: &str, text: &str) {
            std::fs::write(self.path("new.tmp"), text).unwrap();
            std::fs::rename(self.path("new.tmp"), self.path(name)).unwrap();
        }

        fn start(&self) -> Rig {
            Rig::start(DiscoverySettings::File(FileSdSettings {
                files: vec![self.path("*.json"), self.path("one.yml")],
                refresh_interval: five_minutes(),
            }))
        }

        fn target(&self, address: &str, labels: &str, file: &str) -> String {
            format!("{address} {FILEPATH}={}{labels}", self.path(file))
        }
    }

    #[tokio::test]
    async fn changes_are_followed_at_once() {
        let bench = Bench::new();
        bench.replace("a.json", r#"[{"targets": ["a:1"], "labels": {"x": "y"}}]"#);
        let mut rig = bench.start();
        let a = bench.target("a:1", ",x=y", "a.json");
        assert_eq!(rig.next().await, std::slice::from_ref(&a));

        bench.replace("one.yml", "- targets: [b:1]\n");
        assert_eq!(rig.next().await, [a.clone(), bench.target("b:1", "", "one.yml")]);
        bench.replace("one.yml", "- targets: [b:2]\n");
        assert_eq!(rig.next().await, [a.clone(), bench.target("b:2", "", "one.yml")]);
        std::fs::write(bench.path("one.yml"), "- targets: [b:3]\n").unwrap();
        assert_eq!(rig.next().await, [a, bench.target("b:3", "", "one.yml")]);
        std::fs::remove_file(bench.path("a.json")).unwrap();
        assert_eq!(rig.next().await, [bench.target("b:3", "", "one.yml")]);
        assert_eq!(rig.failures(), 0.0);
    }

    #[tokio::test]
    async fn a_bad_file_keeps_what_it_had_and_others_change() {
        let bench = Bench::new();
        bench.replace("a.json", r#"[{"targets": ["a:1"]}]"#);
        let mut rig = bench.start();
        let a = bench.target("a:1", "", "a.json");
        assert_eq!(rig.next().await, std::slice::from_ref(&a));
        bench.replace("a.json", r#"[{"targets": ["a:2""#);
        until("the mistake is noticed", || async { rig.failures() > 0.0 }).await;
        bench.replace("b.json", r#"[{"targets": ["b:1"]}]"#);
        assert_eq!(rig.next().await, [a, bench.target("b:1", "", "b.json")]);
        bench.replace("a.json", r#"[{"targets": ["a:2"]}]"#);
        let healed = [bench.target("a:2", "", "a.json"), bench.target("b:1", "", "b.json")];
        assert_eq!(rig.next().await, healed);
    }

    #[tokio::test]
    async fn a_directory_that_comes_later_is_found_by_the_refresh() {
        let bench = Bench::new();
        let late = bench.path("late");
        let mut rig = Rig::start(DiscoverySettings::File(FileSdSettings {
            files: vec![format!("{late}/*.yml")],
            refresh_interval: PromDuration(Duration::from_millis(20)),
        }));
        assert!(rig.next().await.is_empty());
        until("the watch has failed", || async { rig.failures() > 0.0 }).await;
        std::fs::create_dir(&late).unwrap();
        bench.replace("late/x.yml", "- targets: [x:1]\n");
        assert_eq!(rig.next().await, [bench.target("x:1", "", "late/x.yml")]);
    }

    #[test]
    fn only_reading_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, events) = std::sync::mpsc::channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            sender.send(event.unwrap().kind).unwrap();
        })
        .unwrap();
        let file = dir.path().join("x.json");
        std::fs::write(&file, "[]").unwrap();
        watcher.watch(dir.path(), RecursiveMode::NonRecursive).unwrap();
        assert_eq!(list_files(file.to_str().unwrap()).unwrap().len(), 1);
        assert_eq!(read(file.to_str().unwrap()), Ok(Some(Vec::new())));
        std::fs::remove_file(&file).unwrap();
        let seen: Vec<_> = std::iter::from_fn(|| events.recv_timeout(Duration::from_secs(10)).ok())
            .scan(false, |gone, kind| {
                let go_on = !*gone;
                *gone = matches!(kind, EventKind::Remove(_));
                go_on.then_some(kind)
            })
            .take_while(|kind| !matches!(kind, EventKind::Remove(_)))
            .collect();
        assert!(!seen.is_empty() && !seen.iter().any(|kind| tells_of_change(*kind)), "{seen:?}");
    }

    #[test]
    fn paths_are_checked_as_prometheus_does() {
        let check = |files: &[&str]| {
            let files = files.iter().map(|&path| path.to_owned()).collect();
            let settings = FileSdSettings { files, refresh_interval: five_minutes() };
            settings.check().map_err(|error| error.to_string())
        };
        assert_eq!(check(&["a.json", "/x/*.yml", "y-*.YAML", "x/a*b*.json"]), Ok(()));
        let wrong = check(&["a.txt", "*/x.json", ".yml"]).unwrap_err();
        let expected = [
            "files[0]: \"a.txt\" does not end in .json, .yml or .yaml",
            "files[1]: \"*/x.json\" has a wildcard before its last element",
            "files[2]: \".yml\" does not end in .json, .yml or .yaml",
        ];
        assert_eq!(wrong.lines().collect::<Vec<_>>(), expected);
        assert_eq!(check(&[]).unwrap_err(), "files: there must be at least one path");
    }
}
