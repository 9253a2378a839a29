//! What a process uses, as Linux counts it.

/// Clock ticks of `/proc/PID/stat` in a second.
const TICKS: f64 = 100.0;

/// User and system time that a process has used, in seconds.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("read the state of a process");
    // The name, in brackets, may hold anything; the times are the 12th and 13th fields after it.
    let fields: Vec<_> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().expect("ticks")).sum();
    ticks / TICKS
}

/// The memory that a process has in use, in bytes.
pub fn memory(pid: u32) -> u64 {
    kilobytes(pid, "VmRSS:") * 1024
}

/// The most memory that a process has had in use, in bytes.
pub fn most_memory(pid: u32) -> u64 {
    kilobytes(pid, "VmHWM:") * 1024
}

fn kilobytes(pid: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("read the state of a process");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("kB")
}
