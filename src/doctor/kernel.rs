//! Probes of what the kernel itself offers: system calls, seccomp, Landlock.

use super::child::Refused;
use super::finding::Answer;
use super::host::{Host, number, read, set_sysctl};
use crate::sys;
use nix::errno::Errno;

const WANTED: (u32, u32) = (5, 12);
const NEWER: &str = "a kernel of 5.12 or later (Debian 12 and Ubuntu 22.04 have one)";
const OUTER_FILTER: &str = "this process runs under a seccomp filter, likely of an outer container:\n\
     docker run --security-opt seccomp=unconfined …\n\
     podman run --security-opt seccomp=unconfined …";

pub(crate) fn version(_: &Host) -> Answer {
    let Ok(names) = nix::sys::utsname::uname() else {
        return Answer::degraded("its version cannot be read").remedy(NEWER);
    };
    let release = names.release().to_string_lossy().into_owned();
    match parse_version(&release) {
        Some(version) if version >= WANTED => Answer::ok(format!("Linux {release}")),
        Some(_) => Answer::degraded(format!("Linux {release}, older than 5.12")).remedy(NEWER),
        None => Answer::degraded(format!("Linux {release:?}, which is no version")).remedy(NEWER),
    }
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor[..digits].parse().ok()?))
}

pub(crate) fn clone3(_: &Host) -> Answer {
    match sys::clone3_refusal() {
        rustix::io::Errno::INVAL => Answer::ok("answers"),
        errno => call_refused("clone3", Errno::from_raw(errno.raw_os_error())),
    }
}

/// PID 1 of a service lays out the stack that it keeps by pages.
pub(crate) fn memory_pages(_: &Host) -> Answer {
    pages(sys::page_size())
}

fn pages(size: usize) -> Answer {
    match sys::stack_padding(size) {
        Some(_) => Answer::ok(format!("of {} KiB", size >> 10)),
        None => {
            let known = sys::PAGE_SIZES.map(|size| (size >> 10).to_string()).join(", ");
            Answer::missing(format!("of {size} bytes, which is not provided for"))
                .remedy(format!("run a kernel with pages of one of {known} KiB"))
        }
    }
}

pub(crate) fn pidfd(_: &Host) -> Answer {
    use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, getpid, pidfd_open, waitid};
    use std::os::fd::AsFd;
    let fd = match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(e) => return call_refused("pidfd_open", Errno::from_raw(e.raw_os_error())),
    };
    // This process is not its own child: a kernel that can wait for a pidfd says so.
    match waitid(WaitId::PidFd(fd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Err(e) if e.raw_os_error() == libc::ECHILD => Answer::ok("can be opened and waited for"),
        Err(e) => call_refused("waitid for a pidfd", Errno::from_raw(e.raw_os_error())),
        Ok(_) => Answer::missing("waitid for a pidfd gives nonsense").remedy(NEWER),
    }
}

pub(crate) fn openat2(_: &Host) -> Answer {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // /proc/self is a link on every Linux: a call that resolves it does not keep its promise.
    match openat2(CWD, "/proc/self", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Err(e) if e.raw_os_error() == libc::ELOOP => Answer::ok("refuses links as asked"),
        Err(e) => call_refused("openat2", Errno::from_raw(e.raw_os_error())),
        Ok(_) => Answer::missing("openat2 follows links that it was told not to").remedy(NEWER),
    }
}

fn call_refused(call: &str, errno: Errno) -> Answer {
    let found = format!("{call}: {}", errno.desc());
    let filtered = matches!(errno, Errno::EPERM | Errno::ENOSYS) && under_seccomp();
    Answer::missing(found).remedy(if filtered { OUTER_FILTER } else { NEWER })
}

/// Whether a seccomp filter is on this process already.
pub(crate) fn under_seccomp() -> bool {
    read("/proc/self/status")
        .lines()
        .any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

pub(crate) fn seccomp(host: &Host) -> Answer {
    match host.runner.try_out("seccomp") {
        Ok(found) => Answer::ok(found),
        Err(refused) => Answer::missing(refused.reason()).remedy(if under_seccomp() {
            OUTER_FILTER
        } else {
            "a kernel built with CONFIG_SECCOMP_FILTER=y (every distribution's is)"
        }),
    }
}

/// What services may do unfenced below each ABI, first to last.
const LANDLOCK_LEVELS: &[(u32, &str, &str)] = &[
    (2, "5.19", "files cannot be moved between directories at all"),
    (3, "6.2", "cutting a file's length is not fenced"),
    (4, "6.7", "TCP ports are not fenced"),
    (5, "6.10", "ioctls on devices are not fenced"),
    (
        6,
        "6.12",
        "abstract sockets of, and signals to, processes outside are not fenced",
    ),
];

pub(crate) fn landlock(host: &Host) -> Answer {
    match host.runner.try_out("landlock") {
        Ok(abi) => match abi.parse() {
            Ok(abi) => landlock_level(abi),
            Err(_) => Answer::missing("an answer that cannot be understood"),
        },
        Err(refused) => landlock_absent(&refused, &read("/sys/kernel/security/lsm")),
    }
}

fn landlock_level(abi: u32) -> Answer {
    let lacking: Vec<_> = LANDLOCK_LEVELS.iter().filter(|(level, ..)| abi < *level).collect();
    let Some((_, kernel, _)) = lacking.last() else {
        return Answer::ok(format!("ABI {abi}"));
    };
    let lost: Vec<&str> = lacking.iter().map(|(.., lost)| *lost).collect();
    Answer::degraded(format!("ABI {abi}"))
        .lost(lost.join("; "))
        .remedy(format!("a kernel of {kernel} or later"))
}

fn landlock_absent(refused: &Refused, modules: &str) -> Answer {
    match refused.errno {
        libc::EOPNOTSUPP => {
            let modules = modules.trim();
            let others = if modules.is_empty() { "MODULES-OF-NOW" } else { modules };
            Answer::missing("in the kernel, but switched off at boot").remedy(format!(
                "add to GRUB_CMDLINE_LINUX in /etc/default/grub: lsm=landlock,{others}\n\
                 sudo update-grub && sudo reboot"
            ))
        }
        libc::ENOSYS => Answer::missing("not in this kernel")
            .remedy("a kernel of 5.13 or later, built with CONFIG_SECURITY_LANDLOCK=y"),
        _ => Answer::missing(refused.reason()).remedy(if under_seccomp() {
            OUTER_FILTER
        } else {
            "a kernel of 5.13 or later"
        }),
    }
}

pub(crate) fn tiocsti(_: &Host) -> Answer {
    match number("/proc/sys/dev/tty/legacy_tiocsti") {
        Some(0) => Answer::ok("switched off (dev.tty.legacy_tiocsti = 0)"),
        Some(_) => {
            Answer::degraded("allowed (dev.tty.legacy_tiocsti = 1)").remedy(set_sysctl("dev.tty.legacy_tiocsti", "0"))
        }
        None => Answer::degraded("allowed: this kernel cannot switch it off").remedy("a kernel of 6.2 or later"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn pages_of_every_size_that_is_provided_for() {
        for (size, status) in [
            (4, Status::Ok),
            (8, Status::Missing),
            (16, Status::Ok),
            (64, Status::Ok),
        ] {
            assert_eq!(pages(size << 10).status, status, "{size}");
        }
    }

    #[test]
    fn versions() {
        for (release, version) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.4-generic", Some((5, 4))),
            ("6.18.44-fc", Some((6, 18))),
            ("5.15+", Some((5, 15))),
            ("", None),
            ("6", None),
            ("6.x", None),
            ("99999999999.1", None),
        ] {
            assert_eq!(parse_version(release), version, "{release:?}");
        }
    }

    #[test]
    fn each_missing_landlock_level_is_named() {
        assert_eq!(landlock_level(7), Answer::ok("ABI 7"));
        let debian12 = landlock_level(2);
        assert_eq!(debian12.status, Status::Degraded);
        let lost = debian12.lost.unwrap();
        assert!(lost.contains("TCP") && lost.contains("length") && !lost.contains("moved"));
        assert_eq!(landlock_level(1).lost.unwrap().matches(';').count(), 4);
    }

    #[test]
    fn landlock_switched_off_names_the_modules_to_keep() {
        let off = landlock_absent(&Refused::new("landlock", libc::EOPNOTSUPP), "capability,yama\n");
        assert!(off.remedy.unwrap().contains("lsm=landlock,capability,yama"));
    }
}
