//! Idmapped mounts: user namespaces that exist only as the map of a mount; mount_setattr(2), MOUNT_ATTR_IDMAP.

use crate::sys;
use oci_spec::runtime::LinuxIdMapping;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use rustix::process::{Pid, WaitOptions};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The maps of one start, each made once. Dropped when the start is on its way: the processes that the namespaces were
/// made with have ended by then, and to wait for them costs nothing any more.
#[derive(Default)]
pub struct IdMaps {
    made: BTreeMap<[String; 2], Namespace>,
    /// The ids that this process' own namespace has, for UIDs and GIDs.
    own: Option<[Vec<Range>; 2]>,
}

struct Namespace {
    fd: OwnedFd,
    process: Pid,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = rustix::process::waitpid(Some(self.process), WaitOptions::empty());
    }
}

/// First id and number of ids.
type Range = (u64, u64);

impl IdMaps {
    pub fn namespace(&mut self, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<BorrowedFd<'_>, Errno> {
        let own = self.own.get_or_insert_with(|| ["uid_map", "gid_map"].map(own_ids));
        let key = [text(uids, &own[0]), text(gids, &own[1])];
        let made = match self.made.entry(key) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                let made = make(free.key())?;
                free.insert(made)
            }
        };
        Ok(made.fd.as_fd())
    }
}

/// Can the file system at `path` be mounted with other ids here? Tried on a detached copy of the mount, which nobody
/// can see and which ends with its descriptor.
pub fn works_at(path: &Path) -> Result<(), Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, path, flags)?;
    let map = "0 0 1\n".to_owned();
    let namespace = make(&[map.clone(), map])?;
    let idmap = Some(namespace.fd.as_fd());
    sys::mount_setattr(tree.as_fd(), sys::MountAttributes { set: 0, idmap })
}

/// The ids of this process' namespace; user_namespaces(7).
fn own_ids(file: &str) -> Vec<Range> {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let first = fields.next()?.parse().ok()?;
            Some((first, fields.nth(1)?.parse().ok()?))
        })
        .collect()
}

/// As the kernel reads a map, of what there is of it here: a map may name no id that its maker does not have.
fn text(lines: &[LinuxIdMapping], own: &[Range]) -> String {
    let mut out = String::new();
    for line in lines {
        let (first, end) = (
            u64::from(line.host_id()),
            u64::from(line.host_id()) + u64::from(line.size()),
        );
        for (low, count) in own {
            let (from, to) = (first.max(*low), end.min(low + count));
            if from < to {
                let inside = u64::from(line.container_id()) + (from - first);
                out += &format!("{inside} {from} {}\n", to - from);
            }
        }
    }
    out
}

fn make(maps: &[String; 2]) -> Result<Namespace, Errno> {
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: the child does nothing but wait for its end.
    #[allow(unsafe_code)]
    let pid = match unsafe { sys::clone3(libc::CLONE_NEWUSER as u64) }? {
        0 => {
            // Both ends are open here, so close the launcher's: its closing is what ends this process.
            let _ = sys::duplicate_to(theirs.as_raw_fd(), 0);
            let _ = sys::close_from(1);
            // SAFETY: descriptor 0 is the socket.
            #[allow(unsafe_code)]
            let end = unsafe { BorrowedFd::borrow_raw(0) };
            let _ = rustix::io::read(end, &mut [0u8; 1]);
            sys::exit(0)
        }
        pid => Pid::from_raw(pid).ok_or(Errno::SRCH)?,
    };
    drop(theirs);
    let fd = (|| {
        for (file, map) in ["uid_map", "gid_map"].iter().zip(maps) {
            std::fs::write(format!("/proc/{}/{file}", pid.as_raw_nonzero()), map)
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        }
        let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    })();
    drop(ours);
    match fd {
        Ok(fd) => Ok(Namespace { fd, process: pid }),
        Err(errno) => {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            Err(errno)
        }
    }
}
