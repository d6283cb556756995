//! Stream → files and folders.

use super::{TransferError, at, is_proc, plain, refused, split, way_to};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// tar(1) fills up to 10 KiB, other writers to other sizes.
const MOST_PADDING: u64 = 1 << 20;

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
    let mut in_hole = false;
    loop {
        let mut read = 0;
        while read < buffer.len() {
            match content.read(&mut buffer[read..]) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(TransferError::Stream(e.to_string())),
            }
        }
        if read == 0 {
            break;
        }
        for (zeros, run) in runs(&buffer[..read]) {
            match zeros {
                true => file.seek_relative(run.len() as i64).map_err(at("write", shown))?,
                false => file.write_all(run).map_err(at("write", shown))?,
            }
            in_hole = zeros;
        }
        left = left.saturating_sub(read as u64);
    }
    if in_hole {
        // A file ends with what was written last.
        let end = file.seek_relative(-1).and_then(|()| file.write_all(&[0]));
        end.map_err(at("write", shown))?;
    }
    match left {
        0 => Ok(()),
        _ => Err(TransferError::Stream(format!(
            "it ends in the middle of {}",
            plain(shown)
        ))),
    }
}

/// Whole blocks of zeros, and what is between them: where nothing is written, a file stays sparse.
fn runs(bytes: &[u8]) -> Vec<(bool, &[u8])> {
    const BLOCK: usize = 4096;
    let zeros = |at: usize| {
        let block = bytes.get(at..at + BLOCK);
        block.is_some_and(|block| block.iter().all(|b| *b == 0))
    };
    let mut out = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let kind = zeros(start);
        let mut end = start;
        while end < bytes.len() && zeros(end) == kind {
            end = (end + BLOCK).min(bytes.len());
        }
        out.push((kind, &bytes[start..end]));
        start = end;
    }
    out
}
