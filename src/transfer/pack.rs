//! Files and folders → stream.

use super::{DEEPEST, TransferError, at, is_proc, plain, refused, split, way_to};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use std::ffi::{CString, OsStr};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Writes what `path` names to `out`. `note` is told what is left out; what of a directory cannot be read is an error when all else is written.
pub fn pack(path: &Path, out: impl Write, note: &mut dyn FnMut(&str)) -> Result<(), TransferError> {
    let (folder, name) = split(path);
    let folder = way_to(folder)?;
    let mut packer = Packer {
        archive: tar::Builder::new(out),
        note,
        unread: 0,
    };
    match name {
        Some(name) => packer.named(folder.as_fd(), name, path)?,
        None => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = rustix::fs::openat(&folder, ".", flags, Mode::empty()).map_err(at("open", path))?;
            packer.directory(&folder, Path::new("."), path, 0)?;
        }
    }
    let unread = packer.unread;
    let mut out = packer.archive.into_inner().map_err(gone)?;
    out.flush().map_err(gone)?;
    match unread {
        0 => Ok(()),
        unread => Err(TransferError::Incomplete {
            path: path.to_owned(),
            unread,
        }),
    }
}

/// Writing to the stream fails only if nobody reads it.
fn gone(_: io::Error) -> TransferError {
    TransferError::Gone
}

struct Packer<'a, W: Write> {
    archive: tar::Builder<W>,
    note: &'a mut dyn FnMut(&str),
    /// How much of a directory could not be read.
    unread: u64,
}

impl<W: Write> Packer<'_, W> {
    /// What lies in a directory: of it nothing is in the stream yet that could not be read.
    fn below(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        inside: &Path,
        shown: &Path,
        depth: usize,
    ) -> Result<(), TransferError> {
        let opened = match Opened::of(folder, name, shown) {
            Ok(opened) => opened,
            Err(error) => {
                self.unread += 1;
                (self.note)(&format!("{error}; left out"));
                return Ok(());
            }
        };
        self.opened(opened, inside, shown, depth)
    }

    /// What was named.
    fn named(&mut self, folder: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> Result<(), TransferError> {
        match Opened::of(folder, name, shown)? {
            Opened::Other => Err(refused("copy", shown, "it is neither a file nor a directory")),
            opened => self.opened(opened, Path::new("."), shown, 0),
        }
    }

    fn opened(&mut self, opened: Opened, inside: &Path, shown: &Path, depth: usize) -> Result<(), TransferError> {
        match opened {
            Opened::File(file, found) => self.file(file, &found, inside, shown),
            Opened::Directory(below) => self.directory(&below, inside, shown, depth),
            Opened::Link(target, found) => {
                let mut header = header(&found, tar::EntryType::Symlink, 0);
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                self.archive.append_link(&mut header, inside, target).map_err(gone)
            }
            Opened::Other => {
                (self.note)(&format!("{} is neither a file nor a directory; left out", plain(shown)));
                Ok(())
            }
        }
    }

    fn file(&mut self, file: OwnedFd, found: &Stat, inside: &Path, shown: &Path) -> Result<(), TransferError> {
        let mut header = header(found, tar::EntryType::Regular, found.st_size as u64);
        let mut content = Exact {
            file: file.into(),
            left: found.st_size as u64,
            trouble: None,
        };
        let done = self.archive.append_data(&mut header, inside, &mut content);
        match (content.trouble, done) {
            (Some(cause), _) => Err(at("read", shown)(cause)),
            (None, done) => done.map_err(gone),
        }
    }

    fn directory(&mut self, folder: &OwnedFd, inside: &Path, shown: &Path, depth: usize) -> Result<(), TransferError> {
        if depth > DEEPEST {
            return Err(refused("copy", shown, "it lies too deep"));
        }
        if is_proc(folder.as_fd()).map_err(at("look at", shown))? {
            (self.note)(&format!("{} is /proc; left out", plain(shown)));
            return Ok(());
        }
        let found = rustix::fs::fstat(folder).map_err(at("look at", shown))?;
        let mut header = header(&found, tar::EntryType::Directory, 0);
        self.archive
            .append_data(&mut header, inside, io::empty())
            .map_err(gone)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(folder).map_err(at("read", shown))? {
            let entry = entry.map_err(at("read", shown))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
            }
        }
        names.sort_unstable();
        for name in names {
            let below = if depth == 0 {
                PathBuf::from(&name)
            } else {
                inside.join(&name)
            };
            self.below(folder.as_fd(), &name, &below, &shown.join(&name), depth + 1)?;
        }
        Ok(())
    }
}

/// Something that can be copied, opened for that.
enum Opened {
    File(OwnedFd, Stat),
    Directory(OwnedFd),
    Link(CString, Stat),
    Other,
}

impl Opened {
    fn of(folder: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> Result<Opened, TransferError> {
        let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(at("copy", shown))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |flags| rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(at("open", shown));
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {
                let file = open(flags)?;
                // What was looked at may have been replaced since.
                let found = rustix::fs::fstat(&file).map_err(at("look at", shown))?;
                let regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
                if !regular || is_proc(file.as_fd()).unwrap_or(true) {
                    return Err(refused("copy", shown, "it is no file"));
                }
                Ok(Opened::File(file, found))
            }
            FileType::Directory => Ok(Opened::Directory(open(flags | OFlags::DIRECTORY)?)),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(folder, name, Vec::new()).map_err(at("read the link", shown))?;
                Ok(Opened::Link(target, found))
            }
            _ => Ok(Opened::Other),
        }
    }
}

/// Owner and group are the receiver's to choose, and set-id bits are nobody's to send.
fn header(found: &rustix::fs::Stat, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(found.st_mode & 0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(found.st_mtime).unwrap_or(0));
    header.set_size(size);
    header
}

/// As many bytes as were announced, or trouble.
struct Exact {
    file: std::fs::File,
    left: u64,
    trouble: Option<io::Error>,
}

impl Read for Exact {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        if most == 0 {
            return Ok(0);
        }
        let error = match self.file.read(&mut bytes[..most]) {
            Ok(0) => io::Error::other("it became shorter while it was copied"),
            Ok(read) => {
                self.left -= read as u64;
                return Ok(read);
            }
            Err(error) => error,
        };
        self.trouble = Some(error);
        Err(io::Error::other("trouble"))
    }
}
