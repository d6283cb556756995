//! What services use: time, memory, processes, bytes read and written, as proc(5) tells it of each process in the
//! service's PID namespace.

use crate::launch::descendants::children;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ServiceUsage {
    pub service: String,
    pub state: String,
    pub restarts: u32,
    /// Since its process was started, with all that it waited for.
    pub cpu_usec: u64,
    /// In bytes: what its cgroup counts, or else what is resident, of which each process counts its part (Pss of proc(5)).
    pub memory_bytes: u64,
    pub pids: u32,
    /// From and to storage, in bytes.
    pub io_read_bytes: u64,
    pub io_write_bytes: u64,
    /// Seconds since its process was started.
    pub seconds: u64,
    /// How often it had to wait because its part of the processors was used up, if that is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<u64>,
    /// How often the kernel killed a process of it for lack of memory, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// What came of calls of its functions, since the app is up, if it counts them.
    #[serde(default)]
    pub functions: Vec<super::figures::FunctionUsage>,
}

impl ServiceUsage {
    /// A cgroup knows better, as far as it counts: nothing twice, and what has ended since is in it.
    pub(in crate::supervise) fn refine(&mut self, by: &crate::launch::cgroup::Usage) {
        let put = |to: &mut u64, from: Option<u64>| *to = from.unwrap_or(*to);
        put(&mut self.cpu_usec, by.cpu_usec);
        put(&mut self.memory_bytes, by.memory);
        put(&mut self.io_read_bytes, by.read);
        put(&mut self.io_write_bytes, by.written);
        if let Some(pids) = by.pids {
            self.pids = u32::try_from(pids).unwrap_or(u32::MAX);
        }
        self.throttled = by.throttled;
        self.oom_kills = by.oom_kills;
    }
}

/// Adds up a process and all below it. `pid` 1 of a namespace has every process of it below.
pub(in crate::supervise) fn add(usage: &mut ServiceUsage, pid: u32) {
    let mut left = vec![pid];
    while let Some(pid) = left.pop() {
        if one(usage, pid).is_some() {
            left.extend(children(pid));
        }
    }
}

fn one(usage: &mut ServiceUsage, pid: u32) -> Option<()> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let stat = read("stat").ok()?;
    // The program's name may hold anything, brackets too; the fields begin behind the last one.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    // utime, stime, and those of children that were waited for: fields 14 to 17, of which the first is 3 here.
    let ticks: u64 = (11..15).map(number).sum();
    usage.cpu_usec += ticks * (1_000_000 / ticks_per_second());
    usage.memory_bytes += proportional(pid).unwrap_or_else(|| number(21) * rustix::param::page_size() as u64);
    usage.pids += 1;
    // Of other ids' processes only root may read it.
    let io = read("io").unwrap_or_default();
    let of = |key: &str| {
        let line = io.lines().find_map(|l| l.strip_prefix(key));
        line.and_then(|l| l.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    usage.io_read_bytes += of("read_bytes:");
    usage.io_write_bytes += of("write_bytes:");
    Some(())
}

/// What is resident of a process, where what several processes share counts for each in part. `None`: this kernel does not say.
fn proportional(pid: u32) -> Option<u64> {
    let all = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = all.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}
