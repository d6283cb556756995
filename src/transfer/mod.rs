//! Files and folders as a stream, and a stream as files and folders: what `cp` does, on either side.
//!
//! The stream is a tar archive whose one root is `.`. Neither side trusts what it reads. A tree is walked by
//! descriptor and no link in it is followed; what is unpacked is made below one directory, and no name in the stream
//! leads out of it, by `..` or through a link (CVE-2018-15664). Nothing is loaded from where it reads
//! (CVE-2019-14271). Links are copied as links; sockets, pipes and devices are left out.

mod pack;
mod unpack;

pub use pack::pack;
pub use unpack::{Modes, unpack};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Deeper than any program makes them; a bound on descriptors and stack.
const DEEPEST: usize = 200;

#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("{operation} {}: {}", plain(path), reason(cause))]
    At {
        operation: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// The other side has gone; it knows why.
    #[error("the other end of the copy has gone")]
    Gone,
    #[error("what came is no copy of anything: {0}")]
    Stream(String),
    /// What of a directory could not be read was told as it was found.
    #[error(
        "{}: {unread} of it could not be read, as said above, and the rest is copied; copy again once it can be",
        plain(path)
    )]
    Incomplete { path: PathBuf, unread: u64 },
}

/// A path for a terminal, which a name that a service chose is not to steer.
fn plain(path: &Path) -> String {
    crate::plain::line(&path.display().to_string()).into_owned()
}

/// As people say it, without Rust's "(os error 13)".
fn reason(cause: &io::Error) -> String {
    match cause.raw_os_error() {
        Some(libc::ELOOP) => "a link stands there; name what it leads to".to_owned(),
        Some(errno) => nix::errno::Errno::from_raw(errno).to_string(),
        None => cause.to_string(),
    }
}

fn at<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> TransferError {
    let path = path.to_owned();
    move |cause| TransferError::At {
        operation,
        path,
        cause: cause.into(),
    }
}

fn refused(operation: &'static str, path: &Path, why: &str) -> TransferError {
    at(operation, path)(io::Error::other(why.to_owned()))
}

/// Opens a directory on the way to what was named. Links on this way are followed, for they are in the root of whoever
/// asks and lead to no more than that one may see; but not those of /proc, and nothing of /proc is copied: it is about
/// this process.
fn way_to(path: &Path) -> Result<OwnedFd, TransferError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let fd =
        rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).map_err(at("open", path))?;
    if is_proc(fd.as_fd()).map_err(at("look at", path))? {
        return Err(refused("open", path, "it is in /proc, of which nothing is copied"));
    }
    Ok(fd)
}

fn is_proc(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(rustix::fs::fstatfs(fd)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// A path's directory and last component. The latter is `None` where the path means a directory itself: `/`, `.`,
/// `a/..`, `a/.`.
fn split(path: &Path) -> (&Path, Option<&OsStr>) {
    let text = path.as_os_str().as_bytes();
    match path.file_name() {
        Some(name) if !text.ends_with(b"/.") => (path.parent().unwrap_or(Path::new("")), Some(name)),
        _ => (path, None),
    }
}

/// What a copy of `path` is called; `None` if it is the content of a directory that is meant.
pub fn name_of(path: &Path) -> Option<&OsStr> {
    split(path).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn packed(path: &Path) -> Vec<u8> {
        let mut out = Vec::new();
        pack(path, &mut out, &mut |_| {}).unwrap();
        out
    }

    #[test]
    fn a_tree_comes_back_as_it_was() {
        let (from, to) = (folder(), folder());
        let long = "n".repeat(200);
        std::fs::create_dir_all(from.path().join("tree/a").join(&long)).unwrap();
        std::fs::write(from.path().join("tree/a").join(&long).join("file"), "content").unwrap();
        std::fs::write(from.path().join("tree/run"), "#!").unwrap();
        std::fs::set_permissions(from.path().join("tree/run"), PermissionsExt::from_mode(0o4755)).unwrap();
        symlink("/etc/shadow", from.path().join("tree/link")).unwrap();
        let stream = packed(&from.path().join("tree"));
        // Into a directory that is there, under its name; to one that is not, as it.
        unpack(&stream[..], to.path(), Some(OsStr::new("tree")), Modes::Sender).unwrap();
        unpack(
            &stream[..],
            &to.path().join("new"),
            Some(OsStr::new("tree")),
            Modes::Sender,
        )
        .unwrap();
        for name in ["tree", "new"] {
            let tree = to.path().join(name);
            assert_eq!(
                std::fs::read_to_string(tree.join("a").join(&long).join("file")).unwrap(),
                "content"
            );
            assert_eq!(
                std::fs::metadata(tree.join("run")).unwrap().permissions().mode() & 0o7777,
                0o755
            );
            assert_eq!(std::fs::read_link(tree.join("link")).unwrap(), Path::new("/etc/shadow"));
        }
        // The content alone.
        unpack(
            &packed(&from.path().join("tree/."))[..],
            &to.path().join("new"),
            None,
            Modes::Sender,
        )
        .unwrap();
        assert!(!to.path().join("new/tree").exists());
    }

    fn hostile(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            // As bytes: the crate refuses to write such names.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            if *kind == tar::EntryType::Symlink {
                header.set_link_name(content).unwrap();
                header.set_size(0);
            } else {
                header.set_size(content.len() as u64);
            }
            header.set_cksum();
            archive.append(&header, content.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    #[test]
    fn a_copy_that_is_cut_off_leaves_no_part() {
        let (from, to) = (folder(), folder());
        std::fs::create_dir(from.path().join("tree")).unwrap();
        for name in ["a-new", "b-there"] {
            std::fs::write(from.path().join("tree").join(name), name.repeat(50_000)).unwrap();
        }
        let stream = packed(&from.path().join("tree/."));
        for length in (0..stream.len()).step_by(9_973) {
            let tree = to.path().join(length.to_string());
            std::fs::create_dir(&tree).unwrap();
            std::fs::write(tree.join("b-there"), "as it was").unwrap();
            let _ = unpack(&stream[..length], &tree, None, Modes::Sender);
            for (name, before) in [("a-new", None), ("b-there", Some("as it was"))] {
                let got = std::fs::read_to_string(tree.join(name)).ok();
                assert!(
                    got.as_deref() == before || got.as_deref() == Some(&name.repeat(50_000)),
                    "{length}: a part of {name}"
                );
            }
            assert!(std::fs::read_dir(&tree).unwrap().count() <= 2);
        }
        let tree = to.path().join("0");
        unpack(&stream[..], &tree, None, Modes::Sender).unwrap();
        assert_eq!(
            std::fs::read_to_string(tree.join("b-there")).unwrap(),
            "b-there".repeat(50_000)
        );
    }

    #[test]
    fn no_stream_leads_out() {
        use tar::EntryType::{Block, Directory, Link, Regular, Symlink};
        let outside = folder();
        let victim = outside.path().join("victim");
        std::fs::write(&victim, "whole").unwrap();
        let target = outside.path().to_str().unwrap();
        let below = "out/victim";
        for entries in [
            &[(".", Directory, ""), ("../victim", Regular, "gone")][..],
            &[(".", Directory, ""), (victim.to_str().unwrap(), Regular, "gone")],
            &[(".", Directory, ""), ("a/../../victim", Regular, "gone")],
            &[(".", Directory, ""), ("out", Symlink, target), (below, Regular, "gone")],
            &[
                (".", Directory, ""),
                ("out", Symlink, victim.to_str().unwrap()),
                ("out", Regular, "gone"),
            ],
            &[(".", Symlink, target), ("victim", Regular, "gone")],
            &[("victim", Regular, "gone")],
            &[(".", Directory, ""), ("hard", Link, "x")],
            &[(".", Directory, ""), ("device", Block, "")],
            &[],
        ] {
            let to = tempfile::tempdir_in(outside.path()).unwrap();
            let stream = hostile(entries);
            assert!(
                unpack(
                    &stream[..],
                    &to.path().join("new"),
                    Some(OsStr::new("x")),
                    Modes::Sender
                )
                .is_err()
            );
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "whole", "{entries:?}");
        }
    }

    #[test]
    fn nothing_of_proc_is_copied() {
        let from = folder();
        symlink("/proc/self", from.path().join("self")).unwrap();
        for path in ["self/environ", "self/fd/0", "self/."] {
            assert!(
                pack(&from.path().join(path), io::sink(), &mut |_| {}).is_err(),
                "{path}"
            );
        }
        let one = from.path().join("one");
        std::fs::write(&one, "1").unwrap();
        let stream = packed(&one);
        assert!(
            unpack(
                &stream[..],
                &from.path().join("self/comm"),
                Some(OsStr::new("one")),
                Modes::Sender
            )
            .is_err()
        );
    }
}
