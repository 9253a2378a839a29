//! A child process with its output in a file: killed when dropped, its last words printed when the
//! test fails.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::wait::wait_for;

/// Lines of output that are printed when a test fails.
const LAST_LINES: usize = 60;

/// Where the program `name` is.
///
/// # Panics
/// It is not installed; the message names the Debian package that has it.
pub fn program(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian installs servers where only root's PATH leads.
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| {
            panic!(
                "this test needs the program {name}, which is not on the PATH: run ./tests/run, which \
                 installs it, or `apt-get install {package}`, or put it on the PATH by other means"
            )
        })
}

/// A running child.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, with what it writes appended to the file `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).expect("open the log of a child");
        let errors = output.try_clone().expect("share the log of a child");
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, as `TERM`, `STOP`, `CONT`, `HUP`.
    pub fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.child.id());
        let status = Command::new("/bin/sh").args(["-c", &kill]).status().expect("run kill");
        assert!(status.success(), "cannot send {signal} to {}", self.name);
    }

    /// Whether a `STOP` has reached all of its threads.
    pub fn stands_still(&self) -> bool {
        let threads =
            std::fs::read_dir(format!("/proc/{}/task", self.id())).expect("list the threads of a child");
        threads.flatten().all(|thread| {
            // A thread that is gone by now has nothing to say.
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
        })
    }

    /// Kills it as `kill -9` does, and waits for its end.
    pub fn kill9(&mut self) {
        // An error says that it is dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("ask for the state of a child")
    }

    /// Waits for its end.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for(&what, deadline, async || self.child.try_wait().expect("ask for the state of a child")).await
    }

    /// Everything that it wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            eprintln!("---- the last words of {} ----\n{}\n----", self.name, last.join("\n"));
        }
    }
}
