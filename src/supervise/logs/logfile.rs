//! One service's log on disk: `NAME.log`, and what was put aside of it, `NAME.log.1` (the newest) and so on.
//!
//! No file grows beyond `max_size`, and there are never more than `max_files`: that is the bound. A record lies
//! in one file, whole. What the disk does not take is the caller's to count; nothing here waits for room.

use memchr::memrchr;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Logs that are kept open, so that a thousand idle services cost no descriptor.
const MOST_OPEN: usize = 16;

/// The logs that were written to last, the latest behind.
#[derive(Default)]
pub(in crate::supervise) struct Shelf {
    open: Vec<(PathBuf, File)>,
}

impl Shelf {
    fn get(&mut self, path: &Path) -> Option<&File> {
        let at = self.open.iter().rposition(|(known, _)| known == path)?;
        let last = self.open.len() - 1;
        if at != last {
            self.open[at..].rotate_left(1);
        }
        Some(&self.open[last].1)
    }

    fn put(&mut self, path: &Path, file: File) {
        if self.open.len() == MOST_OPEN {
            self.open.remove(0);
        }
        self.open.push((path.to_owned(), file));
    }

    fn close(&mut self, path: &Path) {
        self.open.retain(|(known, _)| known != path);
    }
}

pub(in crate::supervise) struct LogFile {
    path: PathBuf,
    max_size: u64,
    max_files: u32,
    /// Has what an earlier supervisor left been looked at?
    tidy: bool,
}

impl LogFile {
    pub(in crate::supervise) fn new(path: PathBuf, policy: &crate::model::Logs) -> LogFile {
        LogFile {
            path,
            max_size: policy.max_size,
            max_files: policy.max_files,
            tidy: false,
        }
    }

    /// Appends whole records. How many bytes of them lie there now, and why it is not all.
    pub(in crate::supervise) fn append(&mut self, shelf: &mut Shelf, records: &[u8]) -> (usize, Option<Errno>) {
        let mut done = 0;
        while done < records.len() {
            match self.append_some(shelf, &records[done..]) {
                (more, None) => done += more,
                (more, wrong) => return (done + more, wrong),
            }
        }
        (done, None)
    }

    /// As many as fit into the current file, or none and the next is another one.
    fn append_some(&mut self, shelf: &mut Shelf, records: &[u8]) -> (usize, Option<Errno>) {
        let size = match self.size(shelf) {
            Ok(size) => size,
            Err(errno) => return (0, Some(errno)),
        };
        let room = usize::try_from(self.max_size.saturating_sub(size)).unwrap_or(usize::MAX);
        let fits = if records.len() <= room {
            records.len()
        } else {
            memrchr(b'\n', &records[..room]).map_or(0, |at| at + 1)
        };
        // A record is always smaller than an empty file may become.
        if fits == 0 && size > 0 {
            return (0, self.rotate(shelf).err());
        }
        let Some(file) = shelf.get(&self.path) else {
            return (0, Some(Errno::BADF));
        };
        let mut written = 0;
        while written < fits {
            match rustix::io::write(file, &records[written..fits]) {
                Ok(more) => written += more,
                Err(Errno::INTR) => {}
                Err(errno) => {
                    // No half a record stays: a reader would take it for the head of the next.
                    let whole = memrchr(b'\n', &records[..written]).map_or(0, |at| at + 1);
                    if whole < written && rustix::fs::ftruncate(file, size + whole as u64).is_err() {
                        // It is ended when the file is opened again.
                        shelf.close(&self.path);
                    }
                    // A limit of this process's own (RLIMIT_FSIZE) is as good a bound as the policy's.
                    return match errno {
                        Errno::FBIG if whole > 0 => (whole, None),
                        Errno::FBIG if size > 0 => (0, self.rotate(shelf).err()),
                        _ => (whole, Some(errno)),
                    };
                }
            }
        }
        (fits, None)
    }

    /// Opens the current file if it is not; its size, as it is now.
    fn size(&mut self, shelf: &mut Shelf) -> Result<u64, Errno> {
        if let Some(file) = shelf.get(&self.path) {
            let found = rustix::fs::fstat(file)?;
            if found.st_nlink > 0 {
                return Ok(found.st_size as u64);
            }
            // Somebody deleted it. What comes now is to be found under its name.
            shelf.close(&self.path);
        }
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: File = rustix::fs::openat(CWD, &self.path, flags, Mode::from_raw_mode(0o600))?.into();
        let mut size = rustix::fs::fstat(&file)?.st_size as u64;
        let mut last = [b'\n'];
        if size > 0 {
            file.read_exact_at(&mut last, size - 1)
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        }
        if last != [b'\n'] {
            // A supervisor was killed in the middle of a record, or half of one could not be taken back.
            size += rustix::io::write(&file, b"\n")? as u64;
        }
        if !self.tidy {
            // There may have been more files once.
            let beyond = (self.max_files..).map(|n| aside(&self.path, n));
            beyond
                .take_while(|path| std::fs::remove_file(path).is_ok())
                .for_each(drop);
            self.tidy = true;
        }
        shelf.put(&self.path, file);
        Ok(size)
    }

    /// Puts the current file aside. Files only ever move to higher numbers, the oldest first: a reader that goes
    /// from the newest to the oldest misses none.
    fn rotate(&mut self, shelf: &mut Shelf) -> Result<(), Errno> {
        shelf.close(&self.path);
        let moved = |from: &Path, to: &Path| match rustix::fs::rename(from, to) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        };
        if self.max_files < 2 {
            return rustix::fs::unlink(&self.path);
        }
        for n in (1..self.max_files - 1).rev() {
            moved(&aside(&self.path, n), &aside(&self.path, n + 1))?;
        }
        moved(&self.path, &aside(&self.path, 1))
    }
}

/// `NAME.log.N`; the current file for 0.
pub(in crate::supervise) fn aside(path: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// The highest number that a file put aside can have; one file is the current one.
pub(in crate::supervise) const HIGHEST: u32 = crate::model::Logs::MOST_FILES - 1;

/// The highest number that a file put aside has; 0 if there is none. Other files beside it are not ours: a date at the end of
/// a name is no number of a file.
pub(in crate::supervise) fn highest(path: &Path) -> io::Result<u32> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(0);
    };
    let mut highest = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?.file_name();
        let digits = entry.to_str().and_then(|e| e.strip_prefix(name)?.strip_prefix('.'));
        let number = digits.and_then(|digits| digits.parse().ok().filter(|n: &u32| n.to_string() == digits));
        highest = highest.max(number.filter(|n| *n <= HIGHEST).unwrap_or(0));
    }
    Ok(highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_too_large_and_no_record_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        std::fs::write(aside(&path, 3), "of an earlier policy\n").unwrap();
        std::fs::write(&path, "T stdout F torn").unwrap();
        let mut log = LogFile {
            path: path.clone(),
            max_size: 1000,
            max_files: 3,
            tidy: false,
        };
        let mut shelf = Shelf::default();
        let batch: String = (0..100).map(|n| format!("T stdout F {n:05}\n")).collect();
        for _ in 0..7 {
            assert_eq!(log.append(&mut shelf, batch.as_bytes()), (batch.len(), None));
        }
        assert_eq!(highest(&path).unwrap(), 2);
        for n in 0..3 {
            let text = std::fs::read_to_string(aside(&path, n)).unwrap();
            assert!(text.len() <= 1000 && text.len() > 900 || n == 0, "{}", text.len());
            assert!(text.lines().all(|l| l.len() == "T stdout F 00000".len()));
        }
        std::fs::remove_file(&path).unwrap();
        log.append(&mut shelf, b"T stdout F again\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "T stdout F again\n");
    }

    #[test]
    fn few_are_open() {
        let folder = tempfile::tempdir().unwrap();
        let mut shelf = Shelf::default();
        for round in 0..2 {
            for n in 0..40 {
                let policy = crate::model::Logs::default();
                let mut log = LogFile::new(folder.path().join(format!("{n}.log")), &policy);
                log.append(&mut shelf, format!("{round}\n").as_bytes());
                assert!(shelf.open.len() <= MOST_OPEN);
            }
        }
        assert_eq!(std::fs::read_to_string(folder.path().join("7.log")).unwrap(), "0\n1\n");
    }
}
