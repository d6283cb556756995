//! `pysecure doctor`: each feature of the kernel and the system that PySecure uses, whether it is
//! there, what is lost without it and how to get it.
//!
//! Read [`PROBES`] from top to bottom: one row a feature. Each is tried for real where that can be
//! done without a trace, in a short-lived child ([`child`], [`trials`]); versions are only reported.
//!
//! Nothing here changes the host: no file, mount, sysctl or cgroup. Nothing here launches a service,
//! and the launcher asks nothing of it; it meets refusals by itself.

mod cgroups;
mod child;
mod files;
mod finding;
mod host;
mod identities;
mod kernel;
mod limits;
mod namespaces;
mod report;
mod trials;

pub use child::Runner;
pub use finding::{Finding, Mode, Status};
pub use report::{exit_code, render, to_json};
pub use trials::run_probe;

use finding::Answer;
use host::Host;

/// A feature: what it is called, what it is for, and the function that looks.
struct Probe {
    feature: &'static str,
    /// What the user loses without it, unless the function says something more exact.
    lost: &'static str,
    mode: Mode,
    /// Without it, no service runs in that mode.
    required: bool,
    look: fn(&Host) -> Answer,
}

const fn needed(mode: Mode, feature: &'static str, lost: &'static str, look: fn(&Host) -> Answer) -> Probe {
    Probe {
        feature,
        lost,
        mode,
        required: true,
        look,
    }
}

const fn useful(mode: Mode, feature: &'static str, lost: &'static str, look: fn(&Host) -> Answer) -> Probe {
    Probe {
        feature,
        lost,
        mode,
        required: false,
        look,
    }
}

use Mode::{Both, Root, Rootless};

#[rustfmt::skip]
const PROBES: &[Probe] = &[
    // What the kernel offers.
    useful(Both, "kernel", "features below may be absent, and their absence is not tested by anyone", kernel::version),
    needed(Both, "clone3", "no service can be started", kernel::clone3),
    needed(Both, "memory pages", "no service can be started", kernel::memory_pages),
    needed(Both, "pidfd", "services could not be watched or stopped without hitting another process", kernel::pidfd),
    needed(Both, "openat2", "paths could not be opened safe from swapped links", kernel::openat2),
    // The namespaces a service lives in.
    needed(Both, "user namespaces", "no service can be separated by its own UID, and nothing works without root", namespaces::user),
    needed(Both, "other namespaces", "a service would see the processes, message queues, host name and cgroups of others", namespaces::others),
    needed(Both, "network namespace", "a service would share the host's network", namespaces::network),
    useful(Both, "loopback", "a service cannot use 127.0.0.1, not even to talk to itself", namespaces::loopback),
    useful(Both, "pasta", "a service with egress = true is not started", files::pasta),
    // What is mounted in them.
    needed(Both, "/proc of its own", "no service gets a /proc, and most programs need one", namespaces::proc),
    needed(Both, "mount by descriptor", "resources could not be mounted without a window for a swapped link", namespaces::mount_api),
    needed(Both, "tmpfs", "no service gets a private /tmp", namespaces::tmpfs),
    useful(Both, "overlayfs", "mount points that a read-only folder lacks must be put together entry by entry, which is slower", namespaces::overlay),
    useful(Root, "idmapped mounts", "a folder of yours that a service writes to needs chown = true, which changes its owner, and what services share is held by ACLs", namespaces::idmapped),
    useful(Both, "terminals", "pysecure exec gives no terminal, only pipes", namespaces::terminals),
    // Who a service is.
    needed(Root, "ids", "services get no UID of their own", identities::mapped_here),
    useful(Rootless, "newuidmap, newgidmap", "all services share your own UID; pysecure up --strict refuses", identities::map_programs),
    useful(Rootless, "subordinate ids", "all services share your own UID; pysecure up --strict refuses", identities::subordinate),
    useful(Rootless, "mapping of ids", "all services share your own UID; pysecure up --strict refuses", identities::mapping),
    useful(Both, "id range overlaps", "users of this machine can act as each other's services", identities::overlaps),
    // What a service may do.
    needed(Root, "capabilities", "services cannot be separated", limits::capabilities),
    useful(Root, "CAP_SYS_RESOURCE", "limits (rlimits) of a service cannot be higher than those PySecure was started with", limits::sys_resource),
    needed(Both, "seccomp", "services could make every system call, so none is started", kernel::seccomp),
    useful(Both, "Landlock", "the second fence around files is gone; namespaces and permissions alone remain", kernel::landlock),
    useful(Both, "cgroups", "limits of memory, processor and number of processes for a service have no effect", cgroups::look),
    useful(Both, "open files", "only few services fit into one application", limits::open_files),
    useful(Both, "TIOCSTI", "a program on your terminal can type for you; PySecure's seccomp filter alone stops services from it", kernel::tiocsti),
    // Where things are kept.
    needed(Both, "data directory", "there is no place for the application's data and its ledger of ids", files::data_directory),
    useful(Both, "POSIX ACLs", "files made in a shared directory follow the umask of the service that made them", files::acl),
];

/// Looks at this machine, for the mode that this user would use.
pub fn probe() -> Vec<Finding> {
    probe_by(Runner::this_program())
}

/// The same where this program is not started as `pysecure doctor --probe NAME`, as in tests.
pub fn probe_by(runner: Runner) -> Vec<Finding> {
    let host = Host::new(runner);
    let other_mode = if host.root { Rootless } else { Root };
    PROBES
        .iter()
        .filter(|probe| probe.mode != other_mode)
        .map(|probe| {
            let Answer {
                status,
                found,
                lost,
                remedy,
                blocked_by,
            } = (probe.look)(&host);
            let lost = match status {
                Status::Ok => None,
                _ => Some(lost.unwrap_or_else(|| probe.lost.to_owned())),
            };
            Finding {
                feature: probe.feature,
                status,
                found,
                lost,
                remedy,
                mode: probe.mode,
                required: probe.required,
                blocked_by,
            }
        })
        .collect()
}
