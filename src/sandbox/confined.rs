//! Is a process confined? Read from what the kernel says of it, and not from what it says; proc_pid_status(5), namespaces(7).

use super::usage::told;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use std::os::fd::OwnedFd;

/// What a process that joined a sandbox has to be.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub uid: u32,
    pub gid: u32,
    /// May it be in no group? A user's one id brings groups along that cannot be given up, setgroups(2) being denied.
    pub no_groups: bool,
    /// May it never have a capability? Who has no right to see to that has no_new_privs for it.
    pub no_bounding: bool,
    /// The sandbox's PID 1, whose namespaces it has to be in. `None`: it stays where it is, at the head of a process group.
    pub init: Option<i32>,
    /// Filters that it has to have, beside those of the interpreter that it is a copy of.
    pub filters: u32,
}

/// As /proc/PID/ns has them; the user namespace first, which gives the right to enter the others.
const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

pub const MOUNTS: usize = 1;

/// The namespaces of a process, to be joined by one that may not look into it; setns(2).
/// [`MOUNTS`] is where the mount namespace is.
pub fn namespaces(pid: i32) -> Result<Vec<OwnedFd>, Errno> {
    let open = |kind| {
        let path = format!("/proc/{pid}/ns/{kind}");
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    };
    NAMESPACES.into_iter().map(open).collect()
}

/// What of it does not hold, if anything.
pub fn lacking(pid: i32, expected: &Expected) -> Option<String> {
    let Some(status) = told(pid, "status") else {
        return Some(format!("/proc/{pid}/status cannot be read"));
    };
    if let Some(wrong) = wrong_line(&status, expected) {
        return Some(wrong);
    }
    let Some(init) = expected.init else {
        return in_a_group_of_others(pid);
    };
    NAMESPACES.into_iter().find_map(|kind| {
        let of = |pid: i32| -> Result<(u64, u64), Errno> {
            let found = rustix::fs::statat(CWD, format!("/proc/{pid}/ns/{kind}"), AtFlags::empty())?;
            Ok((found.st_dev, found.st_ino))
        };
        match (of(pid), of(init)) {
            (Ok(its), Ok(wanted)) if its == wanted => None,
            (Err(errno), _) | (_, Err(errno)) => Some(format!("its {kind} namespace: {errno}")),
            _ => Some(format!("it is in another {kind} namespace")),
        }
    })
}

/// Without namespaces a run is ended by its process group: one that leads none would outlive its end, and be ended with others.
fn in_a_group_of_others(pid: i32) -> Option<String> {
    let leads = Pid::from_raw(pid).is_some_and(|pid| {
        rustix::process::getpgid(Some(pid)) == Ok(pid) && rustix::process::getsid(Some(pid)) == Ok(pid)
    });
    (!leads).then(|| "it leads no session and process group".into())
}

/// Filters of system calls that this process has, and all that it starts: a container's.
pub fn filters_of_this_process() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// The most memory that a process has had at once, in bytes.
pub fn most_memory(pid: i32) -> u64 {
    kib(pid, "VmHWM:")
}

/// The address space of a process, in bytes.
pub fn memory(pid: i32) -> u64 {
    kib(pid, "VmSize:")
}

fn kib(pid: i32, key: &str) -> u64 {
    let status = told(pid, "status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

fn wrong_line(status: &str, expected: &Expected) -> Option<String> {
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.map(|rest| rest.trim_start_matches(':').trim())
    };
    let ids = |id: u32| [id.to_string(), id.to_string(), id.to_string(), id.to_string()].join("\t");
    let zero = "0000000000000000";
    let wanted = [
        ("Uid", ids(expected.uid)),
        ("Gid", ids(expected.gid)),
        ("Groups", String::new()),
        ("CapInh", zero.into()),
        ("CapPrm", zero.into()),
        ("CapEff", zero.into()),
        ("CapBnd", zero.into()),
        ("CapAmb", zero.into()),
        ("NoNewPrivs", "1".into()),
        ("Seccomp", "2".into()),
        ("Threads", "1".into()),
    ];
    for (key, wanted) in wanted {
        match value(key) {
            Some(found) if found == wanted => {}
            Some(_) if key == "Groups" && !expected.no_groups => {}
            Some(_) if key == "CapBnd" && !expected.no_bounding => {}
            found => return Some(format!("{key} is {found:?}, not {wanted:?}")),
        }
    }
    let filters = value("Seccomp_filters").and_then(|n| n.parse::<u32>().ok());
    match filters {
        Some(filters) if filters < expected.filters => Some(format!("it has {filters} filters of system calls")),
        // Kernels before 5.10 do not say.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tpython3\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nGroups:\t \nThreads:\t1\n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n\
        CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t2\n";

    #[test]
    fn every_line_counts() {
        let expected = Expected {
            uid: 7,
            gid: 8,
            no_groups: true,
            no_bounding: true,
            init: Some(1),
            filters: 2,
        };
        assert_eq!(wrong_line(STATUS, &expected), None);
        for (from, to) in [
            ("Uid:\t7\t7\t7\t7", "Uid:\t7\t0\t7\t7"),
            ("Gid:\t8", "Gid:\t0"),
            ("Groups:\t", "Groups:\t4"),
            ("CapInh:\t0", "CapInh:\t1"),
            ("CapPrm:\t0", "CapPrm:\t1"),
            ("CapEff:\t0", "CapEff:\t1"),
            ("CapBnd:\t0", "CapBnd:\t1"),
            ("CapAmb:\t0", "CapAmb:\t1"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("Threads:\t1", "Threads:\t2"),
            ("filters:\t2", "filters:\t1"),
            ("CapEff", "Nothing"),
        ] {
            assert!(STATUS.contains(from), "{from}");
            assert!(wrong_line(&STATUS.replace(from, to), &expected).is_some(), "{to}");
        }
    }

    #[test]
    fn a_process_that_is_not_confined_is_known() {
        let own = std::process::id() as i32;
        let expected = Expected {
            uid: 0,
            gid: 0,
            no_groups: true,
            no_bounding: true,
            init: None,
            filters: 1,
        };
        assert!(lacking(own, &expected).is_some());
        assert!(lacking(-1, &expected).is_some());
    }
}
