//! A service's lines, read back: through the files that were put aside, the oldest first, and on into the current
//! one as it grows. Whoever reads holds no lock and is waited for by nobody, so files may move meanwhile.
//!
//! A file that is open stays readable under whatever name it has, and files only ever move to higher numbers
//! (`logfile.rs`). So: what is open is read to its end; if by then the current file is another one, whatever was
//! going to be written to this one is in it, and it is read to its end once more before the next is begun.

use super::logfile::{HIGHEST, aside, highest};
use super::record::{STREAMS, parse};
use memchr::{memchr, memrchr_iter};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

const PIECE: usize = 64 << 10;

/// A longer line is shown in pieces.
const LONGEST_LINE: usize = 1 << 20;

/// A whole line that a service printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// RFC 3339 in UTC, always as long: its order is that of its bytes.
    pub time: String,
    pub stream: &'static str,
    pub text: Vec<u8>,
}

pub struct History {
    path: PathBuf,
    follow: bool,
    current: Option<Open>,
    /// Newer than the current one, the oldest first.
    next: VecDeque<Open>,
    /// Is nothing more going to be written to the current one?
    complete: bool,
    buffer: Vec<u8>,
    /// How much of it has been used.
    used: usize,
    /// Lines of which only the beginning has been read, by stream.
    begun: [Option<Line>; 2],
    gap: bool,
}

struct Open {
    file: File,
    /// Device and inode.
    id: (u64, u64),
    /// Where the next record begins that has not been read.
    at: u64,
    /// Nothing behind this is read.
    end: u64,
}

impl Open {
    fn new(file: File) -> io::Result<Open> {
        let found = file.metadata()?;
        Ok(Open {
            file,
            id: (found.dev(), found.ino()),
            at: 0,
            end: u64::MAX,
        })
    }

    /// Are the first and the last record older than `since`, and is the last one the end of a line?
    fn is_before(&self, since: &str) -> io::Result<bool> {
        let size = self.file.metadata()?.len().min(self.end);
        let mut piece = vec![0; size.min(2 * PIECE as u64) as usize];
        self.file.read_exact_at(&mut piece, 0)?;
        let first = memchr(b'\n', &piece).and_then(|end| parse(&piece[..end]));
        if first.is_none_or(|record| record.time >= since) {
            return Ok(false);
        }
        let start = size - piece.len() as u64;
        self.file.read_exact_at(&mut piece, start)?;
        let Some(text) = piece.strip_suffix(b"\n") else {
            return Ok(false);
        };
        let start = memrchr_iter(b'\n', text).next().map_or(0, |at| at + 1);
        Ok(parse(&text[start..]).is_some_and(|record| record.whole && record.time < since))
    }
}

impl History {
    /// All that there is of the log at `path`. `follow`: and what is written later; else only what is there now.
    pub fn open(path: PathBuf, follow: bool) -> io::Result<History> {
        let mut made = History {
            path,
            follow,
            current: None,
            next: VecDeque::new(),
            complete: true,
            buffer: Vec::new(),
            used: 0,
            begun: [None, None],
            gap: false,
        };
        made.next = made.newer()?;
        if !follow && let Some(last) = made.next.back_mut() {
            last.end = last.file.metadata()?.len();
        }
        Ok(made)
    }

    /// Passes over files in which all is older than `since` (RFC 3339, as in the records). The records' own times tell:
    /// a file's time of change is of a coarser clock, and may be milliseconds before that of its last record.
    ///
    /// Times within a file are taken to rise. A clock that was set back may hide lines from `--since`, but only if a whole
    /// file was written meanwhile.
    pub fn skip_before(&mut self, since: &str) -> io::Result<()> {
        while self.next.len() > 1 && self.next[0].is_before(since)? {
            self.next.pop_front();
        }
        Ok(())
    }

    /// Goes forward to the last `lines` lines.
    pub fn skip_to_last(&mut self, lines: usize) -> io::Result<()> {
        let mut seen = 0;
        for (n, open) in self.next.iter_mut().enumerate().rev() {
            if let Some(at) = before_last(&open.file, open.end, lines, &mut seen)? {
                open.at = at;
                self.next.drain(..n);
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next line; `None` if there is none yet.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            while let Some(length) = memchr(b'\n', &self.buffer[self.used..]) {
                let record = self.used..self.used + length;
                self.used = record.end + 1;
                if let Some(open) = &mut self.current {
                    open.at += length as u64 + 1;
                }
                if let Some(line) = join(&mut self.begun, &self.buffer[record]) {
                    return Ok(Some(line));
                }
            }
            if !self.fill()? && !self.go_on()? {
                return Ok(None);
            }
        }
    }

    /// May lines have been put aside and deleted before they could be read? Says so once.
    pub fn take_gap(&mut self) -> bool {
        std::mem::take(&mut self.gap)
    }

    /// Reads on in the current file; `false` at its end.
    fn fill(&mut self) -> io::Result<bool> {
        let Some(open) = &self.current else {
            return Ok(false);
        };
        self.buffer.drain(..self.used);
        self.used = 0;
        let have = self.buffer.len();
        let from = open.at + have as u64;
        let most = open.end.saturating_sub(from).min(PIECE as u64) as usize;
        self.buffer.resize(have + most, 0);
        let read = open.file.read_at(&mut self.buffer[have..], from)?;
        self.buffer.truncate(have + read);
        if read == 0 {
            // Half a record may yet be taken back, if the disk is full.
            self.buffer.clear();
        }
        Ok(read > 0)
    }

    /// The current file is at its end: is there reason to read on?
    fn go_on(&mut self) -> io::Result<bool> {
        if !self.complete {
            self.next = self.newer()?;
            self.complete = !self.next.is_empty() || self.deleted()?;
            return Ok(self.complete);
        }
        if self.next.is_empty() {
            self.next = self.newer()?;
            if self.next.is_empty() && self.deleted()? {
                // What is held open keeps its folder from being quite gone.
                self.current = None;
            }
        }
        let Some(next) = self.next.pop_front() else {
            return Ok(false);
        };
        self.current = Some(next);
        self.complete = !self.next.is_empty() || !self.follow;
        Ok(true)
    }

    /// Is the current file gone, and every other one with it?
    fn deleted(&self) -> io::Result<bool> {
        let Some(open) = &self.current else { return Ok(false) };
        Ok(open.file.metadata()?.nlink() == 0
            && !self.path.exists()
            && highest(&self.path).map_or_else(|e| e.kind() == io::ErrorKind::NotFound, |n| n == 0))
    }

    /// Files that are newer than the current one, the oldest first.
    fn newer(&mut self) -> io::Result<VecDeque<Open>> {
        let none = VecDeque::new();
        let known = self.current.as_ref().map(|open| open.id);
        if known.is_some() {
            if !self.follow {
                return Ok(none);
            }
            match std::fs::metadata(&self.path) {
                Ok(there) if Some((there.dev(), there.ino())) == known => return Ok(none),
                // Between two steps of a rotation, or deleted; the next file says so when it is made.
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(none),
                _ => {}
            }
        }
        loop {
            // Under these names none is older than the one before it, unless two rotations came in between.
            let first = self.newest()?;
            let found = self.look(known)?;
            if self.newest()? == first {
                self.gap |= known.is_some() && !found.reached;
                return Ok(found.files);
            }
        }
    }

    /// Which files have the first two names. If they are the same as before, no rotation has come to its end meanwhile.
    fn newest(&self) -> io::Result<[Option<(u64, u64)>; 2]> {
        let mut ids = [None, None];
        for (id, n) in ids.iter_mut().zip(0..) {
            *id = match std::fs::metadata(aside(&self.path, n)) {
                Ok(found) => Some((found.dev(), found.ino())),
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => return Err(e),
            };
        }
        Ok(ids)
    }

    fn look(&self, known: Option<(u64, u64)>) -> io::Result<Found> {
        let mut found = Found {
            files: VecDeque::new(),
            reached: false,
        };
        let last = match highest(&self.path) {
            Ok(last) => last,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(e) => return Err(e),
        };
        // Names that change are not all listed; and one is missing while its file moves.
        let mut missing = 0;
        for n in 0..=HIGHEST {
            if n > last && missing > 1 {
                break;
            }
            let open = match File::open(aside(&self.path, n)) {
                Ok(file) => Open::new(file)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    missing += 1;
                    continue;
                }
                Err(e) => return Err(e),
            };
            missing = 0;
            if Some(open.id) == known {
                found.reached = true;
                break;
            }
            if found.files.iter().all(|other| other.id != open.id) {
                found.files.push_front(open);
            }
        }
        Ok(found)
    }
}

/// What [`History::look`] comes upon, the oldest first.
struct Found {
    files: VecDeque<Open>,
    /// Is the known one the next older?
    reached: bool,
}

/// A record's line, if it ends there.
fn join(begun: &mut [Option<Line>; 2], record: &[u8]) -> Option<Line> {
    let record = parse(record)?;
    let begun = &mut begun[usize::from(record.stream == STREAMS[1])];
    let line = begun.get_or_insert_with(|| Line {
        time: record.time.to_owned(),
        stream: record.stream,
        text: Vec::new(),
    });
    line.text.extend_from_slice(record.text);
    if record.whole || line.text.len() >= LONGEST_LINE {
        begun.take()
    } else {
        None
    }
}

/// Where the last `lines` lines of a file begin; `None` if it has fewer. Continues a count.
fn before_last(file: &File, end: u64, lines: usize, seen: &mut usize) -> io::Result<Option<u64>> {
    let mut from = end.min(file.metadata()?.len());
    // The bytes from `from` on up to the newline that was found last.
    let mut behind: Vec<u8> = Vec::new();
    let mut complete = false;
    while from > 0 {
        let start = from.saturating_sub(PIECE as u64);
        let mut block = vec![0; (from - start) as usize];
        file.read_exact_at(&mut block, start)?;
        block.extend_from_slice(&behind);
        let mut until = block.len();
        for at in memrchr_iter(b'\n', &block) {
            if complete && parse(&block[at + 1..until]).is_some_and(|r| r.whole) {
                if *seen == lines {
                    return Ok(Some(start + until as u64 + 1));
                }
                *seen += 1;
            }
            complete = true;
            until = at;
        }
        block.truncate(until);
        behind = block;
        from = start;
    }
    if complete && parse(&behind).is_some_and(|r| r.whole) {
        if *seen == lines {
            return Ok(Some(behind.len() as u64 + 1));
        }
        *seen += 1;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::logfile::{LogFile, Shelf};
    use super::*;

    fn texts(history: &mut History) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(line) = history.next_line().unwrap() {
            out.push(String::from_utf8(line.text).unwrap());
        }
        out
    }

    fn log(folder: &tempfile::TempDir, max_files: u32) -> (PathBuf, LogFile) {
        let path = folder.path().join("a.log");
        let policy = crate::model::Logs {
            max_size: 64 << 10,
            max_files,
            ..Default::default()
        };
        (path.clone(), LogFile::new(path, &policy))
    }

    fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|n| format!("{n:05}")).collect()
    }

    fn write(log: &mut LogFile, shelf: &mut Shelf, range: std::ops::Range<usize>) {
        for text in numbered(range) {
            let record = format!("T stdout F {text}\n");
            assert_eq!(log.append(shelf, record.as_bytes()), (record.len(), None));
        }
    }

    #[test]
    fn a_reader_loses_and_repeats_nothing_across_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut log) = log(&folder, 1000);
        let mut shelf = Shelf::default();
        let mut history = History::open(path, true).unwrap();
        assert_eq!(texts(&mut history), Vec::<String>::new());
        let mut seen = Vec::new();
        let (mut at, mut step) = (0, 1);
        // From a part of one file up to several files at once, and ends of files hit in every way.
        while at < 60_000 {
            write(&mut log, &mut shelf, at..at + step);
            seen.extend(texts(&mut history));
            at += step;
            step = step * 3 % 20_011 + 1;
        }
        assert_eq!(seen, numbered(0..at));
        assert!(!history.take_gap());
    }

    #[test]
    fn a_reader_beside_a_writer_loses_and_repeats_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        // Put aside every few lines: the faster, the more may happen while a reader looks.
        let policy = crate::model::Logs {
            max_size: 400,
            max_files: 100,
            ..Default::default()
        };
        let mut log = LogFile::new(path.clone(), &policy);
        let writer = std::thread::spawn(move || write(&mut log, &mut Shelf::default(), 0..2000));
        while !writer.is_finished() {
            let mut history = History::open(path.clone(), true).unwrap();
            let seen = texts(&mut history);
            assert!(seen == numbered(0..seen.len()), "{seen:?}");
        }
        writer.join().unwrap();
    }

    #[test]
    fn a_reader_that_is_too_slow_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut log) = log(&folder, 2);
        let mut shelf = Shelf::default();
        write(&mut log, &mut shelf, 0..10);
        let mut history = History::open(path.clone(), true).unwrap();
        texts(&mut history);
        write(&mut log, &mut shelf, 10..20_000);
        let seen = texts(&mut history);
        assert_eq!(seen.last().unwrap(), "19999");
        assert!(history.take_gap() && !history.take_gap());
        // Who does not follow reads what is there, not what comes.
        let mut history = History::open(path, false).unwrap();
        write(&mut log, &mut shelf, 20_000..20_010);
        assert_eq!(texts(&mut history).last().unwrap(), "19999");
    }

    #[test]
    fn the_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut log) = log(&folder, 1000);
        let mut shelf = Shelf::default();
        write(&mut log, &mut shelf, 0..12_000);
        for lines in [0, 1, 2, 5, 4_000, 6_000, 11_999, 12_000, 13_000] {
            let mut history = History::open(path.clone(), false).unwrap();
            history.skip_to_last(lines).unwrap();
            let from = 12_000_usize.saturating_sub(lines);
            assert_eq!(texts(&mut history), numbered(from..12_000), "{lines}");
        }
    }

    #[test]
    fn lines_of_the_time_that_is_asked_for_are_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let files = [
            "1 stdout F a\n2 stdout F b\n",
            "2 stdout F c\n3 stdout P d\n",
            "4 stdout F e\n",
        ];
        for (n, text) in files.iter().rev().enumerate() {
            let name = aside(&path, n as u32);
            std::fs::write(&name, text).unwrap();
            // As if it had last been written to long ago: what the file system says does not count.
            File::options()
                .write(true)
                .open(&name)
                .unwrap()
                .set_modified(std::time::UNIX_EPOCH)
                .unwrap();
        }
        for (since, first) in [("1", "a"), ("2", "a"), ("3", "c"), ("5", "c")] {
            let mut history = History::open(path.clone(), false).unwrap();
            history.skip_before(since).unwrap();
            assert_eq!(texts(&mut history)[0], first, "since {since}");
        }
    }

    #[test]
    fn other_files_beside_a_log_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        for stray in ["20261126", "4294967295", "007", "+8", "1000"] {
            std::fs::write(format!("{}.{stray}", path.display()), "T stdout F stray\n").unwrap();
        }
        std::fs::write(&path, "T stdout F a\n").unwrap();
        std::fs::write(aside(&path, 999), "T stdout F oldest\n").unwrap();
        assert_eq!(highest(&path).unwrap(), 999);
        assert_eq!(texts(&mut History::open(path, false).unwrap()), ["oldest", "a"]);
    }

    #[test]
    fn parts_become_lines() {
        let mut begun = [None, None];
        assert_eq!(join(&mut begun, b"1 stdout P a"), None);
        assert_eq!(join(&mut begun, b"2 stderr F e").unwrap().text, b"e");
        assert_eq!(join(&mut begun, b"rubbish"), None);
        let line = join(&mut begun, b"3 stdout F b").unwrap();
        assert_eq!((line.time.as_str(), line.text.as_slice()), ("1", &b"ab"[..]));
    }
}
