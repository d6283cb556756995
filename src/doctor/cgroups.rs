//! Probe of cgroups: the version, and whether this user may make any.

use super::finding::Answer;
use super::host::{Host, read};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::path::{Path, PathBuf};

const WANTED: [&str; 3] = ["cpu", "memory", "pids"];

#[derive(Debug, PartialEq, Eq)]
enum Version {
    /// Where the unified tree is mounted, and which part of it that mount shows.
    Two {
        mount: PathBuf,
        shows: PathBuf,
    },
    Hybrid,
    One,
    None,
}

fn version(mountinfo: &str) -> Version {
    let (mut two, mut one) = (None, false);
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let mut fields = before.split(' ').skip(3);
        let (Some(shows), Some(mount)) = (fields.next(), fields.next()) else {
            continue;
        };
        match after.split(' ').next() {
            Some("cgroup2") if two.is_none() => two = Some((mount.into(), shows.into())),
            Some("cgroup") => one = true,
            _ => {}
        }
    }
    match (two, one) {
        (Some((mount, shows)), false) => Version::Two { mount, shows },
        (Some(_), true) => Version::Hybrid,
        (None, true) => Version::One,
        (None, false) => Version::None,
    }
}

/// Where this process' cgroup is, from `/proc/self/cgroup`; `None` if the mount does not show it.
fn own_directory(cgroup: &str, mount: &Path, shows: &Path) -> Option<PathBuf> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    if path.split('/').any(|part| part == "..") {
        return None;
    }
    let below = Path::new(path).strip_prefix(shows).ok()?;
    // Joining nothing would leave a slash at the end.
    Some(mount.components().chain(below.components()).collect())
}

pub fn look(host: &Host) -> Answer {
    let switch = "add to GRUB_CMDLINE_LINUX in /etc/default/grub: systemd.unified_cgroup_hierarchy=1\n\
                  sudo update-grub && sudo reboot";
    match version(&read("/proc/self/mountinfo")) {
        Version::Two { mount, shows } => match own_directory(&read("/proc/self/cgroup"), &mount, &shows) {
            Some(own) => unified(host, &own),
            None => Answer::degraded("version 2, but this process' own cgroup is out of sight").remedy(
                "start the container with a cgroup namespace of its own\n\
                             (docker run --cgroupns=private …)",
            ),
        },
        Version::Hybrid => {
            Answer::degraded("versions 1 and 2 side by side; PySecure sets limits by version 2 alone").remedy(switch)
        }
        Version::One => Answer::degraded("version 1; PySecure sets limits by version 2 alone").remedy(switch),
        Version::None => {
            Answer::missing("no cgroup filesystem is mounted").remedy("sudo mount -t cgroup2 none /sys/fs/cgroup")
        }
    }
}

fn unified(host: &Host, own: &Path) -> Answer {
    let writable = |path: &Path| accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    let delegated =
        writable(own) && writable(&own.join("cgroup.procs")) && writable(&own.join("cgroup.subtree_control"));
    let shown = own.display();
    if !delegated {
        let found = format!("version 2, but {shown} is not yours to divide");
        if host.root {
            return Answer::degraded(found)
                .remedy("sudo mount -o remount,rw /sys/fs/cgroup (in a container: docker run --privileged …)");
        }
        return Answer::degraded(found).remedy(format!(
            "systemd-run --user --scope -p Delegate=yes pysecure up\n\
                 (where that finds no session, as after su: sudo loginctl enable-linger {})",
            host.user
        ));
    }
    let offered = read(own.join("cgroup.controllers"));
    let lacking: Vec<&str> = WANTED
        .into_iter()
        .filter(|c| !offered.split_whitespace().any(|o| o == *c))
        .collect();
    if lacking.is_empty() {
        let control = read(own.join("cgroup.subtree_control"));
        let control = control.trim();
        let given = if control.is_empty() { "none yet" } else { control };
        return Answer::ok(format!("version 2, {shown} is yours, handed on in it: {given}"));
    }
    let answer = Answer::degraded(format!(
        "version 2, {shown} is yours, but without: {}",
        lacking.join(", ")
    ))
    .lost(format!("limits have no effect for: {}", lacking.join(", ")));
    // Above root's cgroup nobody withholds a controller; version 1 may hold it, or the boot line.
    if host.root {
        return answer.remedy(
            "add to GRUB_CMDLINE_LINUX in /etc/default/grub: cgroup_no_v1=all cgroup_enable=memory\n\
             sudo update-grub && sudo reboot",
        );
    }
    answer.remedy(
        "sudo mkdir -p /etc/systemd/system/user@.service.d\n\
             printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' |\n\
             \x20 sudo tee /etc/systemd/system/user@.service.d/delegate.conf\n\
             sudo systemctl daemon-reload, then log in again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
    const ONE: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:4 - cgroup cgroup rw,cpu";

    #[test]
    fn versions() {
        let two = Version::Two {
            mount: "/sys/fs/cgroup".into(),
            shows: "/".into(),
        };
        assert_eq!(version(TWO), two);
        assert_eq!(version(ONE), Version::One);
        assert_eq!(version(&format!("{ONE}\n{TWO}")), Version::Hybrid);
        assert_eq!(version("nonsense\n - cgroup2\n"), Version::None);
    }

    #[test]
    fn the_own_cgroup() {
        let own = |cgroup, shows: &str| own_directory(cgroup, "/cg".as_ref(), shows.as_ref());
        assert_eq!(own("1:cpu:/x\n0::/user.slice/a", "/"), Some("/cg/user.slice/a".into()));
        assert_eq!(own("0::/docker/1/in", "/docker/1"), Some("/cg/in".into()));
        assert_eq!(own("0::/elsewhere", "/docker/1"), None);
        assert_eq!(own("0::/../other", "/"), None);
        assert_eq!(own("", "/"), None);
    }
}
