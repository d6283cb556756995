//! What processes have used, as the kernel tells it; proc_pid_stat(5).

use crate::sys;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long these processes and all that came of them have computed, together: those that are there, and those that were waited
/// for. One that its parent never waits for, and that is gone, is not known any more.
pub(super) fn computed(roots: impl IntoIterator<Item = i32>) -> Duration {
    let mut next: Vec<i32> = roots.into_iter().collect();
    let mut seen: BTreeSet<i32> = BTreeSet::new();
    let mut sum = Duration::ZERO;
    while let Some(pid) = next.pop() {
        if seen.insert(pid) {
            sum += sys::cpu_time(pid).unwrap_or_default() + of_the_dead(pid);
            next.extend(children(pid));
        }
    }
    sum
}

/// What those have computed that it has waited for.
fn of_the_dead(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_millis(waited_for(&stat).unwrap_or_default().saturating_mul(1000) / per_second)
}

/// `cutime` and `cstime` of a line of /proc/PID/stat, in ticks. The name may hold anything.
fn waited_for(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    // The state, which follows the name, is field 3.
    let times = fields.split_whitespace().skip(16 - 3).take(2);
    times.map(|time| time.parse::<u64>().ok()).sum()
}

fn children(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let of = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("children")).ok();
    let all: String = threads.filter_map(of).collect();
    all.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_children_computed_stands_behind_any_name() {
        let line = "7 (a) 1 2 (b)) S 1 7 7 0 -1 4194304 100 0 0 0 11 12 130 4 20 0 1 0 5 6 7";
        assert_eq!(waited_for(line), Some(134));
        assert_eq!(waited_for("7 (a) S 1"), Some(0));
        assert_eq!(waited_for(""), None);
        assert_eq!(waited_for("7 (a) S 1 7 7 0 -1 4194304 100 0 0 0 11 12 -3 4"), None);
    }

    #[test]
    fn a_process_is_counted_with_its_children() {
        let own = std::process::id() as i32;
        let mut child = std::process::Command::new("sh");
        let mut child = child.args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pid = child.id() as i32;
        while computed([pid]) < Duration::from_millis(20) {}
        assert!(children(own).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(computed([pid]).is_zero());
        assert!(of_the_dead(own) >= Duration::from_millis(10));
    }
}
