//! The files of cgroupfs that hold limits and say what is used: what each is called, and how a number is written
//! there. cgroup-v2.rst and cgroup-v1/ of the kernel's documentation.

use super::host::{Controller, Offer, Refusal, read, weighs_disks};
use super::{Part, wrong};
use crate::launch::LaunchError;
use oci_spec::runtime::LinuxResources;
use std::path::Path;
use std::time::Duration;

/// What a service uses, or has used since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes, now.
    pub memory: Option<u64>,
    /// Processor time, in microseconds.
    pub cpu_usec: Option<u64>,
    /// How often it had to wait because its part of the processors was used up.
    pub throttled: Option<u64>,
    /// Processes and threads, now.
    pub pids: Option<u64>,
    /// Bytes.
    pub read: Option<u64>,
    pub written: Option<u64>,
    pub oom_kills: Option<u64>,
}

/// Which controllers these limits need.
pub(super) fn needed(resources: &LinuxResources) -> Vec<Controller> {
    let mut out = Vec::new();
    if resources.memory().is_some() {
        out.push(Controller::Memory);
    }
    if resources.cpu().is_some() {
        out.push(Controller::Cpu);
    }
    if resources.pids().is_some() {
        out.push(Controller::Pids);
    }
    if weight(resources).is_some() {
        out.push(Controller::Io);
    }
    out
}

const WEIGHT: &str = "io.weight";

fn weight(resources: &LinuxResources) -> Option<&String> {
    resources.unified().as_ref()?.get(WEIGHT)
}

/// Why a weight that can be set would have no effect all the same.
pub(super) fn weightless(offer: &Offer, resources: &LinuxResources) -> Option<Refusal> {
    weight(resources)?;
    let place = offer.places.iter().find(|p| p.controllers.contains(&Controller::Io))?;
    (!weighs_disks(&topmost(&place.base))).then(|| Refusal {
        why: "no disk here is shared by weight".into(),
        remedy: "echo bfq > /sys/block/DISK/queue/scheduler, or enable io.cost.qos (docs/how-to/limits.md)".into(),
    })
}

/// The root of the tree that a cgroup is in.
fn topmost(base: &Path) -> std::path::PathBuf {
    let inside = |path: &&Path| path.join("cgroup.procs").exists();
    base.ancestors().take_while(inside).last().unwrap_or(base).to_owned()
}

/// Sets the limits that one controller holds. What is in the spec and not here is refused: nothing may be passed over.
pub(super) fn apply(
    controller: Controller,
    unified: bool,
    path: &Path,
    resources: &LinuxResources,
) -> Result<(), LaunchError> {
    known(resources)?;
    let put = |file: &str, value: String| {
        let file = path.join(file);
        tracing::trace!(file = %file.display(), value, "limit");
        std::fs::write(&file, &value).map_err(wrong("write the limit to", &file))
    };
    let there = |file: &str| path.join(file).exists();
    match controller {
        Controller::Memory => {
            let Some(memory) = resources.memory() else {
                return Ok(());
            };
            let (limit, swap) = (memory.limit(), memory.swap());
            match (unified, limit) {
                (true, Some(limit)) => put("memory.max", limit.to_string())?,
                (false, Some(limit)) => put("memory.limit_in_bytes", limit.to_string())?,
                (_, None) => {}
            }
            // A kernel that does not count swap has no file for it. Then the disk is not spared, but memory is.
            match (unified, swap) {
                (true, Some(swap)) if there("memory.swap.max") => {
                    put("memory.swap.max", (swap - limit.unwrap_or(0)).max(0).to_string())?;
                }
                (false, Some(swap)) if there("memory.memsw.limit_in_bytes") => {
                    put("memory.memsw.limit_in_bytes", swap.to_string())?;
                }
                _ => {}
            }
        }
        Controller::Cpu => {
            let Some(cpu) = resources.cpu() else { return Ok(()) };
            let (Some(quota), Some(period)) = (cpu.quota(), cpu.period()) else {
                return Ok(());
            };
            if unified {
                put("cpu.max", format!("{quota} {period}"))?;
            } else {
                put("cpu.cfs_period_us", period.to_string())?;
                put("cpu.cfs_quota_us", quota.to_string())?;
            }
        }
        Controller::Pids => {
            if let Some(pids) = resources.pids() {
                put("pids.max", pids.limit().to_string())?;
            }
        }
        Controller::Io => {
            let Some(weight) = weight(resources) else { return Ok(()) };
            let wide = if unified { WEIGHT } else { "blkio.weight" };
            let bfq = if unified { "io.bfq.weight" } else { "blkio.bfq.weight" };
            if unified && there(wide) {
                put(wide, weight.clone())?;
            }
            // BFQ has the same middle, 100, and ends at 1,000.
            if there(bfq) {
                let number: u32 = weight.parse().unwrap_or(100);
                put(bfq, number.clamp(1, 1000).to_string())?;
            } else if !there(wide) {
                return Err(LaunchError::system_text(
                    "set the weight of",
                    path.display(),
                    "this kernel has neither io.weight nor BFQ; leave io_weight out",
                ));
            }
        }
        Controller::CpuAccounting => {}
    }
    Ok(())
}

fn known(resources: &LinuxResources) -> Result<(), LaunchError> {
    let mut rest = resources.clone();
    rest.set_memory(None);
    rest.set_cpu(None);
    rest.set_pids(None);
    if let Some(unified) = rest.unified_mut() {
        unified.remove(WEIGHT);
        if unified.is_empty() {
            rest.set_unified(None);
        }
    }
    if rest == LinuxResources::default() {
        return Ok(());
    }
    Err(LaunchError::Spec(
        "sets limits in `linux.resources` that this launcher does not hold".into(),
    ))
}

fn number(path: &Path) -> Option<u64> {
    read(path).trim().parse().ok()
}

/// The number behind a word, of a file with a line for each.
fn field(text: &str, word: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok())
}

fn part(parts: &[Part], controller: Controller) -> Option<&Part> {
    parts.iter().find(|part| part.controllers.contains(&controller))
}

pub(super) fn oom_kills(parts: &[Part]) -> u64 {
    let file = |part: &Part| {
        part.path.join(if part.unified {
            "memory.events"
        } else {
            "memory.oom_control"
        })
    };
    part(parts, Controller::Memory)
        .and_then(|part| field(&read(file(part)), "oom_kill"))
        .unwrap_or(0)
}

pub(super) fn computed(parts: &[Part]) -> Option<Duration> {
    if let Some(unified) = parts.iter().find(|part| part.unified) {
        let usec = field(&read(unified.path.join("cpu.stat")), "usage_usec");
        return usec.map(Duration::from_micros);
    }
    let nanoseconds = number(&part(parts, Controller::CpuAccounting)?.path.join("cpuacct.usage"));
    nanoseconds.map(Duration::from_nanos)
}

pub(super) fn usage(parts: &[Part]) -> Usage {
    let mut out = Usage::default();
    if let Some(part) = part(parts, Controller::Memory) {
        let file = if part.unified {
            "memory.current"
        } else {
            "memory.usage_in_bytes"
        };
        out.memory = number(&part.path.join(file));
        out.oom_kills = Some(oom_kills(parts));
    }
    out.cpu_usec = computed(parts).map(|time| time.as_micros() as u64);
    if let Some(unified) = parts.iter().find(|part| part.unified) {
        let stat = read(unified.path.join("cpu.stat"));
        out.throttled = field(&stat, "nr_throttled");
    } else {
        if let Some(part) = part(parts, Controller::Cpu) {
            out.throttled = field(&read(part.path.join("cpu.stat")), "nr_throttled");
        }
    }
    if let Some(part) = part(parts, Controller::Pids) {
        out.pids = number(&part.path.join("pids.current"));
    }
    if let Some(part) = part(parts, Controller::Io) {
        (out.read, out.written) = if part.unified {
            let stat = read(part.path.join("io.stat"));
            (Some(sum(&stat, "rbytes=")), Some(sum(&stat, "wbytes=")))
        } else {
            let stat = read(part.path.join("blkio.throttle.io_service_bytes"));
            (Some(of_kind(&stat, "Read")), Some(of_kind(&stat, "Write")))
        };
    }
    out
}

/// `MAJ:MIN rbytes=N wbytes=N …`, a line each disk.
fn sum(stat: &str, key: &str) -> u64 {
    stat.split_whitespace()
        .filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok())
        .sum()
}

/// `MAJ:MIN Read N`, a line each disk and kind.
fn of_kind(stat: &str, kind: &str) -> u64 {
    stat.lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            (words.next() == Some(kind)).then(|| words.next()?.parse::<u64>().ok())?
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read() {
        assert_eq!(
            field("low 0\noom 3\noom_kill 2\noom_group_kill 0\n", "oom_kill"),
            Some(2)
        );
        assert_eq!(
            field("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "oom_kill"),
            Some(1)
        );
        assert_eq!(field("oom_kill\n", "oom_kill"), None);
        let two = "254:0 rbytes=10 wbytes=1 rios=3\n254:16 rbytes=5 wbytes=2 rios=1\n";
        assert_eq!((sum(two, "rbytes="), sum(two, "wbytes=")), (15, 3));
        let one = "254:0 Read 10\n254:0 Write 1\n254:16 Read 5\nTotal 16\n";
        assert_eq!((of_kind(one, "Read"), of_kind(one, "Write")), (15, 1));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let mut resources = LinuxResources::default();
        resources.set_unified(Some([("io.weight".to_owned(), "7".to_owned())].into()));
        assert!(known(&resources).is_ok());
        resources.set_unified(Some([("memory.high".to_owned(), "7".to_owned())].into()));
        assert!(known(&resources).is_err());
    }
}
