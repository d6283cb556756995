//! `source` and `code` paths on the host: found below the manifest's folder without following a link
//! out of it, and turned into an absolute path in which no component is a link.
//!
//! The launcher opens that path with `RESOLVE_NO_SYMLINKS`, so whatever is swapped for a link later is
//! refused there; see openat2(2).

use crate::values::ResourceKind;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How often a source is looked for while others rename files.
const TRIES: usize = 1000;

/// The folder that relative sources start from.
pub struct Base {
    folder: OwnedFd,
    shown: PathBuf,
}

/// A source that exists and is a file or a directory.
pub struct Found {
    pub path: PathBuf,
    pub kind: ResourceKind,
}

impl Base {
    pub fn open(folder: &Path) -> std::io::Result<Base> {
        let fd = rustix::fs::openat(
            CWD,
            folder,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Base {
            shown: real_path(&fd)?,
            folder: fd,
        })
    }

    /// The folder itself, free of links.
    pub fn path(&self) -> &Path {
        &self.shown
    }

    /// Finds `source`. The error completes the sentence "source … ".
    pub fn find(&self, source: &str) -> Result<Found, String> {
        if source.is_empty() {
            return Err("is empty; name a file or directory beside the manifest".into());
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let opened = if source.starts_with('/') {
            openat2(
                CWD,
                source,
                flags,
                Mode::empty(),
                ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
            )
        } else {
            // Anything that is renamed anywhere meanwhile makes the kernel unsure of a `..`; openat2(2), EAGAIN.
            (0..TRIES)
                .map(|_| {
                    openat2(
                        &self.folder,
                        source,
                        flags,
                        Mode::empty(),
                        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
                    )
                })
                .find(|opened| !matches!(opened, Err(rustix::io::Errno::AGAIN)))
                .unwrap_or(Err(rustix::io::Errno::AGAIN))
        };
        let fd = opened.map_err(|e| self.explain(source, e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| format!("cannot be looked at: {e}"))?;
        let kind = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::Directory => ResourceKind::Directory,
            rustix::fs::FileType::RegularFile => ResourceKind::File,
            other => {
                return Err(format!(
                    "is {}; only files and directories can be granted",
                    file_type_name(other)
                ));
            }
        };
        let path = real_path(&fd).map_err(|e| format!("cannot be resolved: {e}"))?;
        Ok(Found { path, kind })
    }

    fn explain(&self, source: &str, error: rustix::io::Errno) -> String {
        use rustix::io::Errno;
        match error {
            Errno::NOENT => format!(
                "does not exist (looked in {}); create it, or leave `source` out to have PySecure keep the data",
                self.shown.display()
            ),
            Errno::XDEV => format!(
                "leads out of {}, by `..` or by a link; write the absolute path if that is meant",
                self.shown.display()
            ),
            Errno::LOOP => match std::fs::canonicalize(source) {
                Ok(real) => format!("goes through a link; write \"{}\" if that is meant", real.display()),
                Err(_) => "is a link that leads nowhere; name what is meant".into(),
            },
            Errno::NOTDIR => "goes through something that is not a directory; correct the path".into(),
            Errno::ACCESS => "cannot be reached by this user; change its mode or move it".into(),
            other => format!("cannot be opened: {other}"),
        }
    }
}

/// The absolute path behind a descriptor, as proc_pid_fd(5) shows it.
fn real_path(fd: &OwnedFd) -> std::io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn file_type_name(kind: rustix::fs::FileType) -> &'static str {
    use rustix::fs::FileType::*;
    match kind {
        Fifo => "a fifo",
        Socket => "a socket",
        CharacterDevice | BlockDevice => "a device",
        Symlink => "a link",
        _ => "neither a file nor a directory",
    }
}
