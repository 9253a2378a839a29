//! The usual metrics of a process, `process_cpu_seconds_total` and its siblings, read from `/proc` at
//! every scrape. Dashboards and alerts of every Prometheus user know these names.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Registry};

/// Ticks of `/proc` in a second: the same on every Linux, whatever the kernel counts in.
const TICKS: f64 = 100.0;
/// A line of `/proc/self/limits`.
const MAX_OPEN_FILES: &str = "Max open files";

/// Adds the metrics to `registry`. Does nothing where there is no `/proc`, or where another part of
/// the program exports them already.
pub fn register(registry: &Registry) {
    if Path::new("/proc/self/stat").exists() {
        let added = ProcessMetrics::new().and_then(|metrics| registry.register(Box::new(metrics)));
        if let Err(error) = added {
            tracing::debug!(%error, "process metrics are not added");
        }
    }
}

/// The most files that the process may have open, sockets included; `None` where there is no limit, or no
/// way to know it.
pub fn max_open_files() -> Option<u64> {
    read("/proc/self/limits").and_then(|text| after(&text, MAX_OPEN_FILES)).map(|files| files as u64)
}

struct ProcessMetrics {
    /// Guards the step from the old to the new total.
    cpu: Mutex<Counter>,
    start: Gauge,
    resident: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    descs: Vec<Desc>,
}

impl ProcessMetrics {
    fn new() -> prometheus::Result<Self> {
        let cpu = Counter::new("process_cpu_seconds_total", "User and system CPU time spent, in seconds.")?;
        let start = Gauge::new("process_start_time_seconds", "Start of the process, in seconds since 1970.")?;
        let resident = Gauge::new("process_resident_memory_bytes", "Resident memory in bytes.")?;
        let virtual_memory = Gauge::new("process_virtual_memory_bytes", "Virtual memory in bytes.")?;
        let open_fds = Gauge::new("process_open_fds", "Open file descriptors.")?;
        let max_fds = Gauge::new("process_max_fds", "The most file descriptors that may be open.")?;
        let threads = Gauge::new("process_threads", "Threads of the operating system.")?;
        let gauges = [&start, &resident, &virtual_memory, &open_fds, &max_fds, &threads];
        let descs = gauges.iter().flat_map(|gauge| gauge.desc()).chain(cpu.desc()).cloned().collect();
        let cpu = Mutex::new(cpu);
        Ok(Self { cpu, start, resident, virtual_memory, open_fds, max_fds, threads, descs })
    }

    /// Reads what can be read; what cannot keeps its last value.
    fn refresh(&self, cpu: &Counter) {
        if let Some(stat) = read("/proc/self/stat").as_deref().and_then(Stat::parse) {
            cpu.inc_by((stat.cpu_ticks / TICKS - cpu.get()).max(0.0));
            self.virtual_memory.set(stat.virtual_bytes);
            self.threads.set(stat.threads);
            let boot = read("/proc/stat").and_then(|text| after(&text, "btime "));
            set(&self.start, boot.map(|boot| boot + stat.start_ticks / TICKS));
        }
        let resident = read("/proc/self/status").and_then(|text| after(&text, "VmRSS:"));
        set(&self.resident, resident.map(|kilobytes| kilobytes * 1024.0));
        set(&self.max_fds, read("/proc/self/limits").and_then(|text| after(&text, MAX_OPEN_FILES)));
        // Counting opens one more.
        set(
            &self.open_fds,
            fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count().saturating_sub(1) as f64),
        );
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let cpu = self.cpu.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&cpu);
        let gauges =
            [&self.start, &self.resident, &self.virtual_memory, &self.open_fds, &self.max_fds, &self.threads];
        gauges.iter().flat_map(|gauge| gauge.collect()).chain(cpu.collect()).collect()
    }
}

/// The part of `/proc/self/stat` that is of use here.
struct Stat {
    cpu_ticks: f64,
    threads: f64,
    start_ticks: f64,
    virtual_bytes: f64,
}

impl Stat {
    /// The second field is the name of the program in brackets, and may hold blanks and brackets.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // Field 3 of proc(5) comes first here.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
        })
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The number that follows `key` at the start of a line.
fn after(text: &str, key: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

fn set(gauge: &Gauge, value: Option<f64>) {
    if let Some(value) = value {
        gauge.set(value);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    fn value(registry: &Registry, name: &str) -> f64 {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metric = &family.get_metric()[0];
        if name.ends_with("_total") {
            metric.get_counter().get_value()
        } else {
            metric.get_gauge().get_value()
        }
    }

    #[test]
    fn the_figures_are_those_of_this_process() {
        let registry = Registry::new();
        register(&registry);
        register(&registry);

        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - value(&registry, "process_start_time_seconds");
        assert!((-2.0..3600.0).contains(&age), "started {age} s ago");
        let resident = value(&registry, "process_resident_memory_bytes");
        assert!((1e6..value(&registry, "process_virtual_memory_bytes")).contains(&resident), "{resident}");
        assert!(value(&registry, "process_threads") >= 1.0);
        assert!(value(&registry, "process_max_fds") >= value(&registry, "process_open_fds"));
        assert!(
            value(&registry, "process_cpu_seconds_total") <= value(&registry, "process_cpu_seconds_total")
        );
    }

    #[test]
    fn a_program_may_have_any_name() {
        let text = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 4 18 900 4096 21 22";
        let stat = Stat::parse(text).unwrap();
        let figures = (stat.cpu_ticks, stat.threads, stat.start_ticks, stat.virtual_bytes);
        assert_eq!(figures, (200.0, 4.0, 900.0, 4096.0));
        assert!(Stat::parse("7 (a) S 1").is_none() && Stat::parse("").is_none());
    }
}
