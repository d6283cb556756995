//! Services' output, on its way to a file: a line each, with the time, the stream, and whether it is whole.
//! The format is that of Kubernetes' container runtimes (`TIME stdout|stderr F|P TEXT`), which log
//! collectors read.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A longer line is written in parts, each but the last marked `P`.
pub const LONGEST_LINE: usize = 16 << 10;

/// The unfinished line of one stream.
pub struct Stream {
    name: &'static str,
    rest: Vec<u8>,
}

impl Stream {
    pub fn new(name: &'static str) -> Stream {
        Stream { name, rest: Vec::new() }
    }

    /// Takes what was read and appends finished lines to `out`, formatted; `each` sees their text.
    pub fn take(&mut self, bytes: &[u8], time: &str, out: &mut Vec<u8>, mut each: impl FnMut(&[u8])) {
        let mut left = bytes;
        while let Some(end) = left.iter().position(|b| *b == b'\n') {
            let (line, behind) = left.split_at(end);
            left = &behind[1..];
            if self.rest.is_empty() {
                self.finish(line, time, out, &mut each);
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.finish(&whole, time, out, &mut each);
                // Keep the room, not the text.
                whole.clear();
                self.rest = whole;
            }
        }
        self.rest.extend_from_slice(left);
        while self.rest.len() > LONGEST_LINE {
            let part: Vec<u8> = self.rest.drain(..LONGEST_LINE).collect();
            record(time, self.name, b'P', &part, out);
            each(&part);
        }
    }

    /// What is left when the stream ends.
    pub fn end(&mut self, time: &str, out: &mut Vec<u8>, mut each: impl FnMut(&[u8])) {
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            self.finish(&rest, time, out, &mut each);
        }
    }

    fn finish(&self, line: &[u8], time: &str, out: &mut Vec<u8>, each: &mut impl FnMut(&[u8])) {
        let mut parts = line.chunks(LONGEST_LINE).peekable();
        if parts.peek().is_none() {
            record(time, self.name, b'F', b"", out);
            each(b"");
        }
        while let Some(part) = parts.next() {
            record(
                time,
                self.name,
                if parts.peek().is_some() { b'P' } else { b'F' },
                part,
                out,
            );
            each(part);
        }
    }
}

fn record(time: &str, stream: &str, mark: u8, text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(time.as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.as_bytes());
    out.extend_from_slice(&[b' ', mark, b' ']);
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// Now, as RFC 3339 with microseconds.
pub fn now() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

/// A record's stream and text.
pub fn parse(line: &[u8]) -> Option<(&str, &[u8])> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let (_time, stream, _mark) = (parts.next()?, parts.next()?, parts.next()?);
    Some((std::str::from_utf8(stream).ok()?, parts.next()?))
}

/// Opens a service's log for appending.
pub fn open(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// Appends whole records. What a full disk does not take is lost, and counted by the caller.
pub fn append(file: &mut File, records: &[u8]) -> io::Result<()> {
    file.write_all(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(pieces: &[&[u8]]) -> (String, Vec<String>) {
        let mut stream = Stream::new("stdout");
        let (mut out, mut lines) = (Vec::new(), Vec::new());
        for piece in pieces {
            stream.take(piece, "T", &mut out, |line| {
                lines.push(String::from_utf8_lossy(line).into_owned())
            });
        }
        stream.end("T", &mut out, |line| {
            lines.push(String::from_utf8_lossy(line).into_owned())
        });
        (String::from_utf8_lossy(&out).into_owned(), lines)
    }

    #[test]
    fn lines_are_put_together() {
        let (out, lines) = fed(&[b"one\ntw", b"o\n\nlast"]);
        assert_eq!(out, "T stdout F one\nT stdout F two\nT stdout F \nT stdout F last\n");
        assert_eq!(lines, ["one", "two", "", "last"]);
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        let big = vec![b'x'; 3 * LONGEST_LINE + 5];
        let (out, _) = fed(&[&big]);
        assert_eq!(out.lines().count(), 4);
        assert_eq!(out.lines().filter(|l| l.starts_with("T stdout P ")).count(), 3);
        assert_eq!(
            out.lines().map(|l| l.len() - "T stdout P ".len()).sum::<usize>(),
            big.len()
        );
    }

    #[test]
    fn records_are_read_back() {
        assert_eq!(parse(b"T stderr F a b  c"), Some(("stderr", &b"a b  c"[..])));
        assert_eq!(parse(b"rubbish"), None);
    }
}
