//! What this host offers: which version of cgroups, where this process may make some, and for which limits.
//!
//! Only looks. Follows cgroups(7), cgroup_namespaces(7), and systemd's rule of one writer: where systemd runs, only
//! what it has delegated is divided.

use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::path::{Path, PathBuf};

/// The parts of the kernel that hold limits, or count what is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    Memory,
    Cpu,
    /// Counts processor time; version 2 has it in [`Controller::Cpu`].
    CpuAccounting,
    Pids,
    Io,
}

impl Controller {
    pub(super) const ALL: [Controller; 5] = [
        Controller::Memory,
        Controller::Cpu,
        Controller::CpuAccounting,
        Controller::Pids,
        Controller::Io,
    ];

    /// What version 1 calls it, as an option of the mount.
    pub(super) fn first_name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::CpuAccounting => "cpuacct",
            Controller::Pids => "pids",
            Controller::Io => "blkio",
        }
    }

    /// What version 2 calls it.
    pub(super) fn second_name(self) -> &'static str {
        match self {
            Controller::Io => "io",
            other => other.first_name(),
        }
    }

    /// The key of the manifest that needs it.
    pub fn key(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu | Controller::CpuAccounting => "cpus",
            Controller::Pids => "pids",
            Controller::Io => "io_weight",
        }
    }
}

/// Why something cannot be had, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    pub why: String,
    pub remedy: String,
}

/// A directory of cgroupfs in which cgroups may be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub base: PathBuf,
    pub controllers: Vec<Controller>,
    pub unified: bool,
    /// The kernel's own root: processes may stay in it beside what it is divided into.
    pub topmost: bool,
}

/// What limits can be held here, and what cannot and why.
#[derive(Clone, Debug)]
pub struct Offer {
    pub version: &'static str,
    pub places: Vec<Place>,
    pub refused: Vec<(Controller, Refusal)>,
}

/// Below the base, the cgroup that holds all apps; [`LEAF`] is beside them.
pub(super) const TOP: &str = "pysecure";
/// Where the processes of the base go: version 2 has none in a cgroup that hands controllers on.
pub(super) const LEAF: &str = "supervisors";
/// Set for a process that was started in a scope of its own.
pub(super) const IN_SCOPE: &str = "PYSECURE_SCOPE";

const BOOT_TWO: &str = "boot with version 2 (`pysecure doctor` says how)";

struct Mount {
    kind: String,
    shows: PathBuf,
    at: PathBuf,
    options: String,
}

/// The lines of proc_pid_mountinfo(5) that are cgroups.
fn mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut fields = before.split(' ').skip(3);
            let (shows, at) = (fields.next()?, fields.next()?);
            let mut after = after.split(' ');
            let kind = after.next().filter(|kind| matches!(*kind, "cgroup" | "cgroup2"))?;
            Some(Mount {
                kind: kind.to_owned(),
                shows: shows.into(),
                at: at.into(),
                options: after.nth(1).unwrap_or_default().to_owned(),
            })
        })
        .collect()
}

/// Where this process is in the tree that a mount shows, from proc_pid_cgroup(5); `None` if it is out of sight.
fn own(cgroup: &str, controller: Option<Controller>, mount: &Mount) -> Option<PathBuf> {
    let path = cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        let ours = match controller {
            None => names.is_empty(),
            Some(controller) => names.split(',').any(|name| name == controller.first_name()),
        };
        ours.then_some(path)
    })?;
    if path.split('/').any(|part| part == "..") {
        return None;
    }
    let below = Path::new(path).strip_prefix(&mount.shows).ok()?;
    // Joining nothing would leave a slash at the end.
    Some(mount.at.components().chain(below.components()).collect())
}

pub(super) fn read(path: impl AsRef<Path>) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn writable(path: &Path) -> bool {
    accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

/// Rather than a user who is root in an outer namespace.
fn hosts_root() -> bool {
    crate::host::outer::privilege() == Some(crate::host::Privilege::Root)
}

/// May this process divide the cgroup?
fn divisible(path: &Path) -> bool {
    ["", "cgroup.procs", "cgroup.subtree_control"]
        .iter()
        .all(|file| writable(&path.join(file)))
}

/// Has systemd said that it leaves the cgroup to who runs in it? systemd.resource-control(5), `Delegate=`.
fn delegated(path: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0u8; 8];
        rustix::fs::getxattr(path, *name, &mut value).is_ok_and(|length| value.get(..length) == Some(b"1"))
    })
}

/// Was this machine started by systemd? sd_booted(3).
pub(super) fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Is this the main process of a unit of systemd's, rather than something that a user started? systemd.exec(5).
pub(super) fn is_unit() -> bool {
    let own = std::process::id().to_string();
    std::env::var_os("NOTIFY_SOCKET").is_some() || std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid == own)
}

fn refuse(why: impl Into<String>, remedy: impl Into<String>) -> Refusal {
    Refusal {
        why: why.into(),
        remedy: remedy.into(),
    }
}

impl Offer {
    /// What this host offers to this process, as it is now.
    pub fn look() -> Offer {
        let mountinfo = read("/proc/self/mountinfo");
        let cgroup = read("/proc/self/cgroup");
        let mounts = mounts(&mountinfo);
        let first = |m: &&Mount| m.kind == "cgroup" && Controller::ALL.iter().any(|c| has(m, *c));
        if mounts.iter().any(|m| first(&m)) {
            Offer::separate(&mounts, &cgroup)
        } else if let Some(mount) = mounts.iter().find(|m| m.kind == "cgroup2") {
            Offer::unified(mount, &cgroup)
        } else {
            let why = refuse(
                "no cgroup filesystem is mounted",
                "mount -t cgroup2 none /sys/fs/cgroup",
            );
            Offer::nothing("none", why)
        }
    }

    fn nothing(version: &'static str, why: Refusal) -> Offer {
        Offer {
            version,
            places: Vec::new(),
            refused: Controller::ALL.map(|c| (c, why.clone())).to_vec(),
        }
    }

    /// Version 1: a tree for each controller, in which anybody's processes may be anywhere.
    fn separate(mounts: &[Mount], cgroup: &str) -> Offer {
        let mut places: Vec<Place> = Vec::new();
        let mut refused = Vec::new();
        for controller in Controller::ALL {
            let Some(mount) = mounts.iter().find(|m| m.kind == "cgroup" && has(m, controller)) else {
                let why = format!(
                    "the controller {} is not mounted as version 1, which is in use",
                    controller.first_name()
                );
                refused.push((
                    controller,
                    refuse(why, "boot with version 2 (`pysecure doctor` says how)"),
                ));
                continue;
            };
            let Some(own) = own(cgroup, Some(controller), mount) else {
                let why = format!("this process' own cgroup is out of sight in {}", mount.at.display());
                refused.push((
                    controller,
                    refuse(why, "start the container with a cgroup namespace of its own"),
                ));
                continue;
            };
            if !writable(&own) || !writable(&own.join("cgroup.procs")) {
                let why = "cgroups of version 1 are root's alone";
                refused.push((controller, refuse(why, BOOT_TWO)));
                continue;
            }
            // cpu and cpuacct are often one tree.
            match places.iter_mut().find(|p| p.base == own) {
                Some(place) => place.controllers.push(controller),
                None => places.push(Place {
                    base: own,
                    controllers: vec![controller],
                    unified: false,
                    topmost: true,
                }),
            }
        }
        Offer {
            version: "1",
            places,
            refused,
        }
    }

    /// What could be held in a cgroup, given from the top of version 2, if it were this process' own.
    pub(super) fn below(path: &str) -> Option<Offer> {
        let mounts = mounts(&read("/proc/self/mountinfo"));
        let mount = mounts.iter().find(|m| m.kind == "cgroup2")?;
        Some(Offer::in_base(mount.at.join(path)))
    }

    fn unified(mount: &Mount, cgroup: &str) -> Offer {
        match base(mount, cgroup) {
            Ok(base) => Offer::in_base(base),
            Err(why) => Offer::nothing("2", why),
        }
    }

    fn in_base(base: PathBuf) -> Offer {
        let offered = read(base.join("cgroup.controllers"));
        let has = |c: &Controller| offered.split_whitespace().any(|o| o == c.second_name());
        let lacking = |c: &Controller| {
            let why = format!("{} does not have the controller {}", base.display(), c.second_name());
            let remedy = if hosts_root() {
                "boot with cgroup_no_v1=all cgroup_enable=memory"
            } else {
                "have systemd delegate it to users (docs/how-to/limits.md, `pysecure doctor`)"
            };
            (*c, refuse(why, remedy))
        };
        // Processor time is counted without any controller.
        let wanted = Controller::ALL.into_iter().filter(|c| *c != Controller::CpuAccounting);
        let (held, refused): (Vec<Controller>, Vec<Controller>) = wanted.partition(|c| has(c));
        Offer {
            version: "2",
            refused: refused.iter().map(lacking).collect(),
            places: vec![Place {
                // The kernel's root has no type, for it cannot have another.
                topmost: !base.join("cgroup.type").exists(),
                controllers: held,
                unified: true,
                base,
            }],
        }
    }

    pub fn refusal(&self, of: Controller) -> Option<&Refusal> {
        self.refused.iter().find(|(c, _)| *c == of).map(|(_, why)| why)
    }
}

/// Which cgroup of version 2 this process may divide.
fn base(mount: &Mount, cgroup: &str) -> Result<PathBuf, Refusal> {
    let root = hosts_root();
    let own = own(cgroup, None, mount).ok_or_else(|| {
        refuse(
            "this process' own cgroup is out of sight",
            "start the container with a cgroup namespace of its own (docker run --cgroupns=private)",
        )
    })?;
    // Another app was started from here, and moved this process' parents aside.
    let own = match own.parent().and_then(|top| top.parent()) {
        Some(base) if own.ends_with(Path::new(TOP).join(LEAF)) => base.to_owned(),
        _ => own,
    };
    let scoped = std::env::var_os(IN_SCOPE).is_some();
    if divisible(&own) && (!systemd_runs() || scoped || delegated(&own)) {
        return Ok(own);
    }
    if systemd_runs() && is_unit() {
        let why = format!("the unit's cgroup {} is not delegated to it", own.display());
        return Err(refuse(why, "write Delegate=yes into the unit's [Service]"));
    }
    if root && !mount.at.join("cgroup.type").exists() && divisible(&mount.at) {
        return Ok(mount.at.clone());
    }
    Err(if root {
        refuse(
            format!("{} is not this root's to divide", own.display()),
            "mount -o remount,rw /sys/fs/cgroup (in a container: docker run --privileged)",
        )
    } else if systemd_runs() {
        refuse(
            format!("the cgroup {} is not delegated to this user", own.display()),
            "log in anew, or have root run `loginctl enable-linger` for the user, so that systemd-run --user finds a manager",
        )
    } else {
        refuse(
            format!("the cgroup {} is not this user's", own.display()),
            "have root make a cgroup, give it to the user (docs/how-to/limits.md) and start the shell in it",
        )
    })
}

fn has(mount: &Mount, controller: Controller) -> bool {
    mount.options.split(',').any(|option| option == controller.first_name())
}

/// Does any disk here share by weight at all? With none of the two schedulers that do, a weight is only a number.
pub(super) fn weighs_disks(topmost: &Path) -> bool {
    let cost = read(topmost.join("io.cost.qos"));
    let bfq = std::fs::read_dir("/sys/block").is_ok_and(|mut disks| {
        disks.any(|disk| disk.is_ok_and(|disk| read(disk.path().join("queue/scheduler")).contains("[bfq]")))
    });
    bfq || cost.contains("enable=1")
}

/// Version 1: the file with the processors that this process may use.
pub(super) fn own_cpuset() -> Option<PathBuf> {
    let all = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = all.lines().find_map(|line| line.split_once(":cpuset:"))?.1;
    let path = Path::new("/sys/fs/cgroup/cpuset")
        .join(own.trim_start_matches('/'))
        .join("cpuset.cpus");
    path.is_file().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "31 23 0:28 / /cg rw - cgroup2 cgroup2 rw,nsdelegate";
    const ONE: &str = "32 31 0:29 / /cg/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct";

    #[test]
    fn mounts_are_told_apart() {
        let found = mounts(&format!(
            "{TWO}\n{ONE}\nnonsense\n - cgroup2\n1 2 3 / /x rw - ext4 cgroup rw,cpu"
        ));
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].kind.as_str(), found[0].at.as_path()),
            ("cgroup2", Path::new("/cg"))
        );
        assert!(has(&found[1], Controller::Cpu) && has(&found[1], Controller::CpuAccounting));
        assert!(!has(&found[1], Controller::Memory));
    }

    #[test]
    fn the_own_cgroup() {
        let two = |shows: &str| mounts(&TWO.replace(" / ", &format!(" {shows} "))).remove(0);
        let at = |cgroup: &str, shows: &str| own(cgroup, None, &two(shows));
        assert_eq!(at("1:cpu:/x\n0::/user.slice/a", "/"), Some("/cg/user.slice/a".into()));
        assert_eq!(at("0::/docker/1/in", "/docker/1"), Some("/cg/in".into()));
        assert_eq!(at("0::/", "/"), Some("/cg".into()));
        assert_eq!(at("0::/elsewhere", "/docker/1"), None);
        assert_eq!(at("0::/../other", "/"), None);
        assert_eq!(at("", "/"), None);
        let one = mounts(ONE).remove(0);
        let cgroup = "3:memory:/m\n2:cpu,cpuacct:/a/b\n0::/c";
        assert_eq!(
            own(cgroup, Some(Controller::CpuAccounting), &one),
            Some("/cg/cpu,cpuacct/a/b".into())
        );
    }
}
