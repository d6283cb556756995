//! Maps of ids: of the user namespaces that processes live in, and of those that exist only as the map of a mount;
//! user_namespaces(7), and mount_setattr(2), MOUNT_ATTR_IDMAP.

use crate::sys::helper::{self, Keeps};
use crate::sys::{self, SingleThreaded};
use oci_spec::runtime::LinuxIdMapping;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use rustix::process::{Pid, WaitOptions};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// In a process's folder of /proc.
const MAP_FILES: [&str; 2] = ["uid_map", "gid_map"];

/// The id maps of a new user namespace, for UIDs and GIDs, as the kernel reads them. One that is empty is not written.
pub struct Maps(pub [String; 2]);

/// A map that could not be written: which file, with which lines, and why.
#[derive(Debug)]
pub struct Unwritten {
    pub object: String,
    pub errno: Errno,
}

impl Maps {
    /// Of one user, who is 0 in there, and one group.
    pub fn of_root((uid, gid): (u32, u32)) -> Maps {
        Maps([uid, gid].map(|id| format!("0 {id} 1\n")))
    }

    /// Writes them for the user namespace of a process, of which nothing is mapped yet. `proc` is /proc.
    pub fn write(&self, proc: impl AsFd, process: Pid) -> Result<(), Unwritten> {
        for (file, map) in MAP_FILES.iter().zip(&self.0).filter(|(_, map)| !map.is_empty()) {
            let path = format!("{}/{file}", process.as_raw_nonzero());
            write_map(proc.as_fd(), &path, map).map_err(|errno| Unwritten {
                object: format!("/proc/{path} ({})", map.trim_end().replace('\n', ", ")),
                errno,
            })?;
        }
        Ok(())
    }
}

/// In one go, as user_namespaces(7) asks for.
fn write_map(folder: BorrowedFd<'_>, path: &str, map: &str) -> Result<(), Errno> {
    let file = rustix::fs::openat(folder, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, map.as_bytes()).map(drop)
}

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
        let own = self.own.get_or_insert_with(|| MAP_FILES.map(own_ids));
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
    let alone = SingleThreaded::count().map_err(|_| Errno::AGAIN)?;
    let life = || {
        // Ends when the launcher's end is closed.
        let _ = rustix::io::read(rustix::stdio::stdin(), &mut [0u8; 1]);
        0
    };
    let user = libc::CLONE_NEWUSER as u64;
    let pid = helper::start(&alone, user, &Keeps::Input(theirs.as_fd()), |_| (), life)?;
    drop(theirs);
    let fd = (|| {
        for (file, map) in MAP_FILES.iter().zip(maps) {
            write_map(CWD, &format!("/proc/{}/{file}", pid.as_raw_nonzero()), map)?;
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
