//! Probes of where things are kept: the data directory and its filesystem.
//!
//! Asks the kernel what would be allowed; makes no file.

use super::finding::{Answer, reason};
use super::host::Host;
use rustix::fs::{Access, AtFlags, CWD, accessat, getxattr_query, statfs};

/// Filesystems over a network or a foreign one, on which a file cannot be given to a subordinate id.
const ONE_OWNER: &[(u64, &str)] = &[
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x4d44, "FAT"),
    (0x2011_bab0, "exFAT"),
    (0x0102_1997, "9p"),
];

pub(crate) fn data_directory(host: &Host) -> Answer {
    let (wanted, exists) = (host.data.display(), host.data_parent());
    if let Err(e) = accessat(CWD, exists, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        let reason = reason(e);
        let place = if exists == host.data {
            "cannot be written"
        } else {
            "cannot be made"
        };
        let answer = Answer::missing(format!("{wanted} {place}: {}: {reason}", exists.display()));
        return if host.root {
            answer.remedy("sudo mount -o remount,rw / (or the filesystem that holds /var/lib)")
        } else {
            answer.remedy("export XDG_DATA_HOME=/a/directory/of/yours")
        };
    }
    let kind = statfs(exists).map(|fs| (fs.f_type as u64) & 0xffff_ffff).unwrap_or(0);
    if let Some((_, name)) = ONE_OWNER.iter().find(|(magic, _)| *magic == kind) {
        return Answer::degraded(format!("{wanted} is on {name}"))
            .lost("files there cannot be given to the ids of services")
            .remedy(if host.root {
                "mount a local filesystem (ext4, xfs, btrfs) at /var/lib/pysecure"
            } else {
                "export XDG_DATA_HOME=/a/directory/on/a/local/disk"
            });
    }
    Answer::ok(if exists == host.data {
        format!("{wanted}")
    } else {
        format!("{wanted} can be made")
    })
}

/// What connects a service to the outside, and the device that it takes.
pub(crate) fn pasta(_: &Host) -> Answer {
    let Some(path) = crate::host::outer::program("pasta") else {
        return Answer::missing("no program called pasta").remedy("sudo apt install passt");
    };
    match rustix::fs::stat("/dev/net/tun") {
        Err(e) => Answer::missing(format!("/dev/net/tun: {}", reason(e))).remedy("sudo modprobe tun"),
        Ok(found) if found.st_mode & 0o006 != 0o006 => {
            Answer::missing("/dev/net/tun is not open to all, as udev makes it").remedy("sudo chmod 0666 /dev/net/tun")
        }
        Ok(_) => Answer::ok(path.display().to_string()),
    }
}

pub(crate) fn acl(host: &Host) -> Answer {
    let directory = host.data_parent();
    let shown = directory.display();
    match getxattr_query(directory, "system.posix_acl_default").map_err(|e| e.raw_os_error()) {
        // There is none, but there could be.
        Ok(_) | Err(libc::ENODATA) => Answer::ok(format!("on the filesystem of {shown}")),
        Err(libc::EOPNOTSUPP) => Answer::missing(format!("the filesystem of {shown} has none")).remedy(format!(
            "sudo mount -o remount,acl {shown}\n\
                 (or a filesystem that has them: ext4, xfs, btrfs; tmpfs with CONFIG_TMPFS_POSIX_ACL)"
        )),
        Err(errno) => {
            let reason = reason(std::io::Error::from_raw_os_error(errno));
            Answer::degraded(format!("cannot be asked for on {shown}: {reason}"))
        }
    }
}
