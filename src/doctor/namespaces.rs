//! Probes of the namespaces a service lives in and of what is mounted in them.
//!
//! The trials run in children; here a refusal becomes what the user can do about it.

use super::child::Refused;
use super::finding::{Answer, reason};
use super::host::{Host, number, read, set_sysctl};
use super::kernel::under_seccomp;
use super::trials;
use crate::sys;
use std::os::fd::AsFd;
use std::path::Path;

const USER_NAMESPACES: &str = "user namespaces";

/// The settings by which machines refuse user namespaces.
#[derive(Default)]
struct Settings {
    /// `user.max_user_namespaces`.
    most: Option<u64>,
    /// Debian's `kernel.unprivileged_userns_clone`.
    debian: Option<u64>,
    /// Ubuntu's `kernel.apparmor_restrict_unprivileged_userns`.
    apparmor: Option<u64>,
    /// A filter from outside is on this process.
    seccomp: bool,
    root: bool,
}

impl Settings {
    fn read(root: bool) -> Self {
        Settings {
            most: number("/proc/sys/user/max_user_namespaces"),
            debian: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            seccomp: under_seccomp(),
            root,
        }
    }
}

pub(crate) fn user(host: &Host) -> Answer {
    match host.runner.try_out("user") {
        Ok(found) => Answer::ok(found),
        Err(refused) => {
            let program = std::env::current_exe().unwrap_or_else(|_| "/usr/bin/pysecure".into());
            explain_user(&refused, &Settings::read(host.root), &program)
        }
    }
}

fn explain_user(refused: &Refused, settings: &Settings, program: &Path) -> Answer {
    let denied = matches!(refused.errno, libc::EPERM | libc::EACCES);
    if refused.errno == libc::ENOSPC {
        return explain_limit(refused, settings);
    }
    if denied && !settings.root && settings.debian == Some(0) {
        return Answer::missing("refused to ordinary users (kernel.unprivileged_userns_clone = 0)")
            .remedy(set_sysctl("kernel.unprivileged_userns_clone", "1"));
    }
    if denied && !settings.root && settings.apparmor.is_some_and(|on| on != 0) {
        let found = if refused.step == trials::MAKE_USERNS {
            "refused by AppArmor"
        } else {
            "one can be made, but AppArmor takes all capabilities away in it"
        };
        return Answer::missing(format!(
            "{found} (kernel.apparmor_restrict_unprivileged_userns = 1, as on Ubuntu since 23.10)"
        ))
        .remedy(apparmor_profile(program));
    }
    if refused.errno == libc::EINVAL || refused.errno == libc::ENOSYS {
        return Answer::missing("not in this kernel").remedy("a kernel built with CONFIG_USER_NS=y");
    }
    if denied && settings.seccomp {
        return Answer::missing(format!(
            "{}, by the seccomp filter of an outer container",
            refused.reason()
        ))
        .remedy(
            "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined …\n\
                 podman run --security-opt seccomp=unconfined …",
        );
    }
    let answer = Answer::missing(refused.reason());
    if denied {
        answer.remedy(
            "no sysctl refuses it: leave a chroot, if this is one (the kernel makes no user\n\
             namespaces in it), or ask `sudo journalctl -k` which security module denied it",
        )
    } else {
        answer
    }
}

/// Every kind of namespace has a limit of its own, in this and all outer user namespaces.
fn explain_limit(refused: &Refused, settings: &Settings) -> Answer {
    let kind = match refused.step.as_str() {
        trials::MAKE_USERNS => "user",
        trials::MAKE_MOUNTNS => "mnt",
        trials::MAKE_NETNS => "net",
        trials::MAKE_PIDNS => "pid",
        step if step.contains("IPC") => "ipc",
        step if step.contains("UTS") => "uts",
        step if step.contains("cgroup") => "cgroup",
        _ => return Answer::missing(refused.reason()),
    };
    let name = format!("user.max_{kind}_namespaces");
    let limit = if kind == "user" {
        settings.most
    } else {
        number(&format!("/proc/sys/user/max_{kind}_namespaces"))
    };
    let found = match limit {
        Some(0) => format!("switched off ({name} = 0)"),
        Some(n) => format!("the limit of this or an outer namespace is used up ({name} = {n})"),
        None => format!("the limit {name} is used up"),
    };
    Answer::missing(found).remedy(set_sysctl(&name, "15000"))
}

/// Grants the one program what Ubuntu takes from all, instead of opening it to all.
fn apparmor_profile(program: &Path) -> String {
    let program = program.display();
    format!(
        "sudo tee /etc/apparmor.d/pysecure <<'EOF'\n\
         abi <abi/4.0>,\n\
         include <tunables/global>\n\
         profile pysecure \"{program}\" flags=(unconfined) {{\n\
         \x20 userns,\n\
         \x20 include if exists <local/pysecure>\n\
         }}\n\
         EOF\n\
         sudo apparmor_parser -r /etc/apparmor.d/pysecure"
    )
}

/// Runs a trial that begins in a user namespace, so that only what is its own is explained.
fn inside(host: &Host, name: &str, explain: impl FnOnce(&Refused) -> Answer) -> Answer {
    match host.runner.try_out(name) {
        Ok(found) => Answer::ok(found),
        Err(refused) if stands_on_user(&refused) => Answer::blocked(USER_NAMESPACES),
        Err(refused) => explain(&refused),
    }
}

fn stands_on_user(refused: &Refused) -> bool {
    [
        trials::MAKE_USERNS,
        trials::MAP_IDS,
        trials::MAKE_MOUNTNS,
        trials::USE_POWER,
    ]
    .contains(&refused.step.as_str())
}

fn explain_namespace(refused: &Refused) -> Answer {
    match refused.errno {
        libc::ENOSPC => explain_limit(refused, &Settings::default()),
        libc::EINVAL => Answer::missing(format!("{}: not in this kernel", refused.step))
            .remedy("a distribution's kernel: this one was built without that namespace"),
        _ => Answer::missing(refused.reason()),
    }
}

pub(crate) fn others(host: &Host) -> Answer {
    inside(host, "others", explain_namespace)
}

pub(crate) fn network(host: &Host) -> Answer {
    inside(host, "network", explain_namespace)
}

pub(crate) fn loopback(host: &Host) -> Answer {
    inside(host, "loopback", |refused| {
        if refused.step == trials::MAKE_NETNS {
            Answer::blocked("network namespace")
        } else {
            Answer::missing(refused.reason())
        }
    })
}

pub(crate) fn proc(host: &Host) -> Answer {
    inside(host, "proc", |refused| {
        if refused.step == trials::MAKE_PIDNS {
            return Answer::blocked("other namespaces");
        }
        explain_proc(refused, &read("/proc/self/mountinfo"))
    })
}

/// The kernel mounts no proc in a user namespace that would show more than the one that is there.
fn explain_proc(refused: &Refused, mountinfo: &str) -> Answer {
    let covered: Vec<&str> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|target| target.starts_with("/proc/"))
        .collect();
    if !matches!(refused.errno, libc::EPERM | libc::EACCES) || covered.is_empty() {
        return Answer::missing(refused.reason());
    }
    let shown = covered[..covered.len().min(3)].join(", ");
    let more = if covered.len() > 3 { ", …" } else { "" };
    Answer::missing(format!(
        "{}: this machine's own /proc is covered in parts ({shown}{more}), as inside a container, \
         and the kernel then gives no uncovered one",
        refused.reason()
    ))
    .remedy(
        "docker run --security-opt systempaths=unconfined …\n\
         podman run --security-opt unmask=ALL …\n\
         Kubernetes: securityContext: { procMount: Unmasked }, with hostUsers: false",
    )
}

pub(crate) fn mount_api(host: &Host) -> Answer {
    inside(host, "mount-api", |refused| {
        if refused.step == "mount tmpfs" {
            return Answer::blocked("tmpfs");
        }
        Answer::missing(refused.reason()).remedy(if under_seccomp() {
            "docker run --security-opt seccomp=unconfined …"
        } else {
            "a kernel of 5.12 or later"
        })
    })
}

pub(crate) fn tmpfs(host: &Host) -> Answer {
    inside(host, "tmpfs", |refused| Answer::missing(refused.reason()))
}

pub(crate) fn overlay(host: &Host) -> Answer {
    inside(host, "overlay", |refused| {
        match (refused.step.as_str(), refused.errno) {
            ("mount tmpfs", _) => Answer::blocked("tmpfs"),
            ("mount overlay", libc::ENODEV) => Answer::missing("the kernel's module is not loaded").remedy(
                "sudo modprobe overlay\n\
                 echo overlay | sudo tee /etc/modules-load.d/pysecure.conf",
            ),
            ("mount overlay", libc::EPERM) => {
                Answer::missing("refused in a user namespace").remedy("a kernel of 5.11 or later")
            }
            _ => Answer::missing(refused.reason()),
        }
    })
}

pub(crate) fn terminals(host: &Host) -> Answer {
    use rustix::pty::{OpenptFlags, openpt};
    // The user's side of `exec` takes no terminal from the host, but one that is broken here is
    // broken for its shell as well: said first, for it is the simpler thing to mend.
    if let Err(e) = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC) {
        return Answer::degraded(format!("the host's /dev/ptmx cannot be opened: {}", reason(e)))
            .remedy("sudo mount -o remount,ptmxmode=666 /dev/pts");
    }
    inside(host, "devpts", |refused| {
        if refused.step == "mount tmpfs" {
            Answer::blocked("tmpfs")
        } else {
            Answer::missing(refused.reason())
        }
    })
}

/// On a detached copy of the data directory's mount, which nobody can see and which ends with its
/// descriptor.
pub(crate) fn idmapped(host: &Host) -> Answer {
    use rustix::mount::{OpenTreeFlags, open_tree};
    let held = match host.runner.hold_user_namespace() {
        Ok(held) => held,
        Err(refused) if stands_on_user(&refused) => return Answer::blocked(USER_NAMESPACES),
        Err(refused) => return Answer::missing(refused.reason()),
    };
    let process = format!("/proc/{}", held.pid());
    let mapped = ["uid_map", "gid_map"]
        .iter()
        .try_for_each(|map| std::fs::write(format!("{process}/{map}"), "0 0 1"));
    if let Err(e) = mapped {
        return Answer::missing(format!("map ids of a probe: {}", reason(e)));
    }
    let directory = host.data_parent();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = match open_tree(rustix::fs::CWD, directory, flags) {
        Ok(tree) => tree,
        Err(e) => return Answer::missing(format!("open_tree: {}", reason(e))),
    };
    let namespace = match std::fs::File::open(format!("{process}/ns/user")) {
        Ok(file) => file,
        Err(e) => return Answer::missing(format!("open a user namespace: {}", reason(e))),
    };
    let shown = directory.display();
    let attributes = sys::MountAttributes {
        set: 0,
        idmap: Some(namespace.as_fd()),
    };
    match sys::mount_setattr(tree.as_fd(), attributes) {
        Ok(()) => Answer::ok(format!("work on the filesystem of {shown}")),
        Err(rustix::io::Errno::INVAL) => Answer::missing(format!("the filesystem of {shown} cannot be mounted so"))
            .remedy("ext4 and xfs can since Linux 5.12, btrfs since 5.15, overlayfs and tmpfs since 5.19 and 6.3"),
        Err(errno) => Answer::missing(format!("mount_setattr on {shown}: {}", reason(errno))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(step: &str, errno: i32, settings: Settings) -> (String, String) {
        let program = Path::new("/opt/my tools/pysecure");
        let answer = explain_user(&Refused::new(step, errno), &settings, program);
        (answer.found, answer.remedy.unwrap_or_default())
    }

    #[test]
    fn switched_off_by_the_limit() {
        let zero = Settings {
            most: Some(0),
            ..Settings::default()
        };
        let (found, remedy) = explain(trials::MAKE_USERNS, libc::ENOSPC, zero);
        assert!(found.contains("user.max_user_namespaces = 0"), "{found}");
        assert!(remedy.contains("user.max_user_namespaces = 15000"), "{remedy}");
        let some = Settings {
            most: Some(9),
            ..Settings::default()
        };
        assert!(explain(trials::MAKE_USERNS, libc::ENOSPC, some).0.contains("used up"));
    }

    #[test]
    fn debian_s_switch() {
        let off = Settings {
            debian: Some(0),
            ..Settings::default()
        };
        let (_, remedy) = explain(trials::MAKE_USERNS, libc::EPERM, off);
        assert!(remedy.contains("kernel.unprivileged_userns_clone = 1"), "{remedy}");
    }

    #[test]
    fn ubuntu_s_apparmor_with_and_without_a_namespace() {
        let on = || Settings {
            apparmor: Some(1),
            most: Some(9),
            ..Settings::default()
        };
        for (step, errno) in [
            (trials::MAP_IDS, libc::EPERM),
            (trials::USE_POWER, libc::EACCES),
            (trials::MAKE_MOUNTNS, libc::EPERM),
        ] {
            let (found, remedy) = explain(step, errno, on());
            assert!(found.contains("takes all capabilities away"), "{found}");
            assert!(
                remedy.contains("profile pysecure \"/opt/my tools/pysecure\""),
                "{remedy}"
            );
            assert!(remedy.contains("apparmor_parser -r"));
            // For this one program, and not for all of the machine.
            assert!(!remedy.contains("kernel.apparmor_restrict_unprivileged_userns"));
        }
        assert!(
            explain(trials::MAKE_USERNS, libc::EACCES, on())
                .0
                .contains("refused by AppArmor")
        );
        // Root is not restricted by it: the reason is another one.
        let root = Settings { root: true, ..on() };
        assert!(!explain(trials::USE_POWER, libc::EPERM, root).0.contains("AppArmor"));
    }

    #[test]
    fn an_outer_filter_and_no_reason_at_all() {
        let filter = Settings {
            seccomp: true,
            ..Settings::default()
        };
        assert!(explain(trials::MAKE_USERNS, libc::EPERM, filter).1.contains("docker"));
        let (_, remedy) = explain(trials::MAKE_USERNS, libc::EPERM, Settings::default());
        assert!(remedy.contains("chroot"));
        assert!(
            explain(trials::MAKE_USERNS, libc::EINVAL, Settings::default())
                .1
                .contains("CONFIG_USER_NS")
        );
    }

    #[test]
    fn a_covered_proc_is_said_to_be_covered() {
        let refused = Refused::new("mount proc", libc::EPERM);
        let docker = "1 2 0:5 / /proc rw - proc proc rw\n3 1 0:6 / /proc/kcore rw - tmpfs tmpfs rw\n\
                      4 1 0:6 /sys /proc/sys ro - proc proc rw\nbad";
        let answer = explain_proc(&refused, docker);
        assert!(answer.found.contains("/proc/kcore, /proc/sys"), "{}", answer.found);
        assert!(answer.remedy.unwrap().contains("systempaths=unconfined"));
        assert_eq!(explain_proc(&refused, "").remedy, None);
    }
}
