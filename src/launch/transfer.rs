//! Files and folders as a stream, and a stream as files and folders: what `cp` does, on either side.
//!
//! The stream is a tar archive whose one root is `.`. Neither side trusts what it reads. A tree is walked by
//! descriptor and no link in it is followed; what is unpacked is made below one directory, and no name in the stream
//! leads out of it, by `..` or through a link (CVE-2018-15664). Nothing is loaded from where it reads
//! (CVE-2019-14271). Links are copied as links; sockets, pipes and devices are left out.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Deeper than any program makes them; a bound on descriptors and stack.
const DEEPEST: usize = 200;

/// tar(1) fills up to 10 KiB, other writers to other sizes.
const MOST_PADDING: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("{operation} {}: {}", plain(path), reason(cause))]
    At {
        operation: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    /// The other side has gone; it knows why.
    #[error("the other end of the copy has gone")]
    Gone,
    #[error("what came is no copy of anything: {0}")]
    Stream(String),
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

/// Writes what `path` names to `out`. `note` is told what is left out.
pub fn pack(path: &Path, out: impl Write, note: &mut dyn FnMut(&str)) -> Result<(), TransferError> {
    let (folder, name) = split(path);
    let folder = way_to(folder)?;
    let mut packer = Packer {
        archive: tar::Builder::new(out),
        note,
    };
    match name {
        Some(name) => packer.one(folder.as_fd(), name, Path::new("."), path, 0, true)?,
        None => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = rustix::fs::openat(&folder, ".", flags, Mode::empty()).map_err(at("open", path))?;
            packer.directory(&folder, Path::new("."), path, 0)?;
        }
    }
    let mut out = packer.archive.into_inner().map_err(gone)?;
    out.flush().map_err(gone)
}

/// Writing to the stream fails only if nobody reads it.
fn gone(_: io::Error) -> TransferError {
    TransferError::Gone
}

struct Packer<'a, W: Write> {
    archive: tar::Builder<W>,
    note: &'a mut dyn FnMut(&str),
}

impl<W: Write> Packer<'_, W> {
    fn one(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        inside: &Path,
        shown: &Path,
        depth: usize,
        named: bool,
    ) -> Result<(), TransferError> {
        let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(at("copy", shown))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {
                let file = rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(at("open", shown))?;
                self.file(file, inside, shown)
            }
            FileType::Directory => {
                let below = rustix::fs::openat(folder, name, flags | OFlags::DIRECTORY, Mode::empty())
                    .map_err(at("open", shown))?;
                self.directory(&below, inside, shown, depth)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(folder, name, Vec::new()).map_err(at("read the link", shown))?;
                let mut header = header(&found, tar::EntryType::Symlink, 0);
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                self.archive.append_link(&mut header, inside, target).map_err(gone)
            }
            _ if named => Err(refused("copy", shown, "it is neither a file nor a directory")),
            _ => {
                (self.note)(&format!("{} is neither a file nor a directory; left out", plain(shown)));
                Ok(())
            }
        }
    }

    fn file(&mut self, file: OwnedFd, inside: &Path, shown: &Path) -> Result<(), TransferError> {
        // What was looked at may have been replaced since.
        let found = rustix::fs::fstat(&file).map_err(at("look at", shown))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || is_proc(file.as_fd()).unwrap_or(true) {
            return Err(refused("copy", shown, "it is no file"));
        }
        let mut header = header(&found, tar::EntryType::Regular, found.st_size as u64);
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
            self.one(folder.as_fd(), &name, &below, &shown.join(&name), depth + 1, false)?;
        }
        Ok(())
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

/// Whose rules what is unpacked follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modes {
    /// As if its owner had made it anew: umask and default ACLs decide, of the mode only `x` is kept.
    Receiver,
    /// The sender's, as far as the umask allows.
    Sender,
}

/// Makes what `stream` holds at `path`, or below it under `name` if a directory is there. Without a name it is the
/// content of a directory, for the directory `path`.
pub fn unpack(stream: impl Read, path: &Path, name: Option<&OsStr>, modes: Modes) -> Result<(), TransferError> {
    let mut unpacker = None;
    let mut archive = tar::Archive::new(stream);
    let wrong = |e: io::Error| TransferError::Stream(e.to_string());
    for entry in archive.entries().map_err(wrong)? {
        let mut entry = entry.map_err(wrong)?;
        let inside = entry.path_bytes().into_owned();
        let (kind, mode) = (entry.header().entry_type(), entry.header().mode().map_err(wrong)?);
        let mtime = entry.header().mtime().unwrap_or(0);
        let unpacker = match &mut unpacker {
            None if inside != b"." => return Err(TransferError::Stream("it has no beginning".into())),
            None => unpacker.insert(Unpacker::new(path, name, modes)?),
            Some(unpacker) => unpacker,
        };
        match kind {
            tar::EntryType::Directory => unpacker.directory(&inside, mode)?,
            tar::EntryType::Regular => {
                let size = entry.size();
                unpacker.file(&inside, mode, mtime, size, &mut entry)?;
            }
            tar::EntryType::Symlink => {
                let target = entry
                    .link_name_bytes()
                    .ok_or_else(|| TransferError::Stream("a link leads nowhere".into()))?
                    .into_owned();
                unpacker.link(&inside, &target)?;
            }
            _ => {
                return Err(TransferError::Stream(
                    "it holds more than files, directories and links".into(),
                ));
            }
        }
    }
    // What fills the last block, so that whoever writes it is not cut off.
    io::copy(&mut archive.into_inner().take(MOST_PADDING), &mut io::sink()).map_err(wrong)?;
    match unpacker {
        Some(_) => Ok(()),
        // Whoever was to send it has said why there is nothing.
        None => Err(TransferError::Gone),
    }
}

struct Unpacker {
    /// Where the root is made, and under which name.
    folder: OwnedFd,
    name: PathBuf,
    shown: PathBuf,
    /// The root, once it is there and a directory.
    root: Option<OwnedFd>,
    /// Is the root to be a directory that is there?
    content: bool,
    modes: Modes,
}

impl Unpacker {
    fn new(path: &Path, name: Option<&OsStr>, modes: Modes) -> Result<Unpacker, TransferError> {
        let (folder, last) = split(path);
        let wants_directory = last.is_none() || path.as_os_str().as_bytes().ends_with(b"/");
        let folder_fd = way_to(folder)?;
        let last = last.unwrap_or(OsStr::new("."));
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let there = match rustix::fs::openat(&folder_fd, last, flags, Mode::empty()) {
            Ok(there) => {
                let found = rustix::fs::fstat(&there).map_err(at("look at", path))?;
                Some((there, FileType::from_raw_mode(found.st_mode)))
            }
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(at("open", path)(errno)),
        };
        let place = |folder, name: &OsStr, shown, content| {
            Ok(Unpacker {
                folder,
                name: name.into(),
                shown,
                root: None,
                content,
                modes,
            })
        };
        match (there, name) {
            (Some((_, FileType::Symlink)), _) => Err(at("copy to", path)(Errno::LOOP)),
            (Some((there, FileType::Directory)), Some(name)) => {
                if is_proc(there.as_fd()).map_err(at("look at", path))? {
                    return Err(refused("copy to", path, "it is in /proc"));
                }
                place(there, name, path.join(name), false)
            }
            (Some((_, kind)), _) if wants_directory && kind != FileType::Directory => {
                Err(at("copy to", path)(Errno::NOTDIR))
            }
            (None, Some(_)) if wants_directory => Err(at("copy to", path)(Errno::NOENT)),
            (_, name) => place(folder_fd, last, path.to_owned(), name.is_none()),
        }
    }

    /// The directory that a name in the stream lies in, and its last part. What leads out of the root is refused here
    /// by its text, and by the kernel if a link should stand on the way.
    fn place<'n>(&self, inside: &'n [u8]) -> Result<(OwnedFd, &'n OsStr, PathBuf), TransferError> {
        let wrong = || TransferError::Stream(format!("the name {:?}", String::from_utf8_lossy(inside)));
        let root = self.root.as_ref().ok_or_else(wrong)?;
        let inside = inside.strip_suffix(b"/").unwrap_or(inside);
        let mut parts = inside.split(|b| *b == b'/');
        if parts.any(|part| matches!(part, b"" | b"." | b"..") || part.contains(&0)) {
            return Err(wrong());
        }
        let shown = self.shown.join(OsStr::from_bytes(inside));
        let (folder, name) = match inside.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&inside[..slash], &inside[slash + 1..]),
            None => (&b"."[..], inside),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let folder = rustix::fs::openat2(root, OsStr::from_bytes(folder), flags, Mode::empty(), resolve)
            .map_err(at("open the directory of", &shown))?;
        Ok((folder, OsStr::from_bytes(name), shown))
    }

    /// As [`Unpacker::place`], for the root too.
    fn place_or_root<'n>(&'n self, inside: &'n [u8]) -> Result<(OwnedFd, &'n OsStr, PathBuf), TransferError> {
        if inside != b"." && inside != b"./" {
            return self.place(inside);
        }
        let folder = self.folder.try_clone().map_err(at("open", &self.shown))?;
        Ok((folder, self.name.as_os_str(), self.shown.clone()))
    }

    fn directory(&mut self, inside: &[u8], mode: u32) -> Result<(), TransferError> {
        let (folder, name, shown) = self.place_or_root(inside)?;
        let mode = match self.modes {
            Modes::Receiver => 0o777,
            // So that what it holds can be made in it.
            Modes::Sender => mode & 0o777 | 0o700,
        };
        let made = rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(mode));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match (made, rustix::fs::openat(&folder, name, flags, Mode::empty())) {
            (Ok(()) | Err(Errno::EXIST), Ok(opened)) => {
                if self.root.is_none() {
                    if is_proc(opened.as_fd()).map_err(at("look at", &shown))? {
                        return Err(refused("copy to", &shown, "it is in /proc"));
                    }
                    self.root = Some(opened);
                }
                Ok(())
            }
            (Err(Errno::EXIST), Err(errno)) => {
                let link = rustix::fs::readlinkat(&folder, name, Vec::new()).is_ok();
                Err(at("make the directory", &shown)(if link { Errno::LOOP } else { errno }))
            }
            (Err(errno), _) | (_, Err(errno)) => Err(at("make the directory", &shown)(errno)),
        }
    }

    /// A file gets its name, or what stands there is changed, when all of its content has come: either side may end
    /// before that.
    fn file(
        &mut self,
        inside: &[u8],
        mode: u32,
        mtime: u64,
        size: u64,
        content: &mut impl Read,
    ) -> Result<(), TransferError> {
        self.refuse_content()?;
        let (folder, name, shown) = self.place_or_root(inside)?;
        let mode = Mode::from_raw_mode(match self.modes {
            Modes::Receiver => 0o666 | mode & 0o111,
            Modes::Sender => mode & 0o777,
        });
        // A pipe that stands there would have this wait for somebody who reads it.
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |flags| {
            let file = rustix::fs::openat(&folder, name, flags, mode).map_err(at("write", &shown))?;
            let found = rustix::fs::fstat(&file).map_err(at("look at", &shown))?;
            if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || is_proc(file.as_fd()).unwrap_or(true)
            {
                return Err(refused("write", &shown, "something that is no file stands there"));
            }
            Ok(std::fs::File::from(file))
        };
        if rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            open(flags)?;
        }
        let nameless = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let staged = rustix::fs::openat(&folder, ".", nameless, mode).map(std::fs::File::from);
        let file = match staged {
            Ok(mut staged) => {
                fill(&mut staged, content, size, &shown)?;
                let own = format!("/proc/self/fd/{}", staged.as_raw_fd());
                match rustix::fs::linkat(CWD, own, &folder, name, AtFlags::SYMLINK_FOLLOW) {
                    Ok(()) => staged,
                    // It is there, and keeps its owner, its mode and its other names.
                    Err(_) => {
                        staged.rewind().map_err(at("read again", &shown))?;
                        let mut file = open(flags | OFlags::CREATE)?;
                        file.set_len(0).map_err(at("write", &shown))?;
                        fill(&mut file, &mut staged, size, &shown)?;
                        file
                    }
                }
            }
            // The directory is not to be written in, or its file system knows no such files.
            Err(_) => {
                let mut file = open(flags | OFlags::CREATE)?;
                file.set_len(0).map_err(at("write", &shown))?;
                fill(&mut file, content, size, &shown)?;
                file
            }
        };
        let time = Timespec {
            tv_sec: i64::try_from(mtime).unwrap_or(0),
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        // Who writes what is another's may not set its times; the content is what counts.
        let _ = rustix::fs::futimens(&file, &times);
        Ok(())
    }

    fn link(&mut self, inside: &[u8], target: &[u8]) -> Result<(), TransferError> {
        self.refuse_content()?;
        let (folder, name, shown) = self.place_or_root(inside)?;
        let target = OsStr::from_bytes(target);
        let wrong = || at::<Errno>("make the link", &shown);
        match rustix::fs::symlinkat(target, &folder, name) {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&folder, name, AtFlags::empty()).map_err(wrong())?;
                rustix::fs::symlinkat(target, &folder, name).map_err(wrong())
            }
            other => other.map_err(wrong()),
        }
    }

    /// The content of a directory begins with the directory.
    fn refuse_content(&self) -> Result<(), TransferError> {
        if self.content && self.root.is_none() {
            return Err(refused(
                "copy to",
                &self.shown,
                "it is a directory, and what is copied is none",
            ));
        }
        Ok(())
    }
}

fn fill(file: &mut std::fs::File, content: &mut impl Read, size: u64, shown: &Path) -> Result<(), TransferError> {
    let mut buffer = vec![0u8; 64 << 10];
    let mut left = size;
    loop {
        let read = content
            .read(&mut buffer)
            .map_err(|e| TransferError::Stream(e.to_string()))?;
        if read == 0 {
            break;
        }
        file.write_all(&buffer[..read]).map_err(at("write", shown))?;
        left = left.saturating_sub(read as u64);
    }
    match left {
        0 => Ok(()),
        _ => Err(TransferError::Stream(format!(
            "it ends in the middle of {}",
            plain(shown)
        ))),
    }
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
