//! Services' output as records: a line each, with the time, the stream, and whether it is whole.
//! The format is that of Kubernetes' container runtimes (`TIME stdout|stderr F|P TEXT`), which log
//! collectors read. Nothing here opens or writes a file.

use memchr::{memchr, memchr_iter};

/// A longer line is written in parts, each but the last marked `P`.
pub const LONGEST_LINE: usize = 16 << 10;

/// Standard output and standard error, by the number that they have here.
pub const STREAMS: [&str; 2] = ["stdout", "stderr"];

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
        if !self.rest.is_empty()
            && let Some(end) = memchr(b'\n', left)
        {
            // Its memory goes with it: a thousand services at rest hold none.
            let mut whole = std::mem::take(&mut self.rest);
            whole.extend_from_slice(&left[..end]);
            self.finish(&whole, time, out, &mut each);
            left = &left[end + 1..];
        }
        if self.rest.is_empty() {
            let head = format!("{time} {} F ", self.name);
            let mut begin = 0;
            for end in memchr_iter(b'\n', left) {
                let line = &left[begin..end];
                if line.len() <= LONGEST_LINE {
                    out.extend_from_slice(head.as_bytes());
                    out.extend_from_slice(&left[begin..=end]);
                    each(line);
                } else {
                    self.finish(line, time, out, &mut each);
                }
                begin = end + 1;
            }
            left = &left[begin..];
        }
        self.rest.extend_from_slice(left);
        if self.rest.len() > LONGEST_LINE {
            let all = std::mem::take(&mut self.rest);
            let mut parts = all.chunks(LONGEST_LINE).peekable();
            while let Some(part) = parts.next() {
                if parts.peek().is_some() {
                    record(time, self.name, b'P', part, out);
                    each(part);
                } else {
                    self.rest = part.to_vec();
                }
            }
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
            let mark = if parts.peek().is_some() { b'P' } else { b'F' };
            record(time, self.name, mark, part, out);
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

/// A record of the supervisor's own among a service's, as collectors can read it too.
pub fn remark(time: &str, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    record(time, STREAMS[1], b'F', format!("pysecure: {text}").as_bytes(), &mut out);
    out
}

/// Now, as it stands in records.
pub fn now() -> String {
    stamp(jiff::Timestamp::now())
}

/// RFC 3339 with microseconds, in UTC: the order of such times is that of their bytes.
pub fn stamp(time: jiff::Timestamp) -> String {
    format!("{time:.6}")
}

/// One record, read back.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub time: &'a str,
    pub stream: &'static str,
    /// Does the line end here?
    pub whole: bool,
    pub text: &'a [u8],
}

/// Reads a record, without its newline.
pub fn parse(line: &[u8]) -> Option<Record<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let (time, stream, mark) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Record {
        time: std::str::from_utf8(time).ok()?,
        stream: STREAMS.into_iter().find(|s| s.as_bytes() == stream)?,
        whole: match mark {
            b"F" => true,
            b"P" => false,
            _ => return None,
        },
        text: parts.next()?,
    })
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
        let (out, _) = fed(&[b"a", b"b", b"", b"c\n", b"\n"]);
        assert_eq!(out, "T stdout F abc\nT stdout F \n");
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        let big = vec![b'x'; 3 * LONGEST_LINE + 5];
        for pieces in [vec![&big[..]], big.chunks(1000).collect()] {
            let (out, _) = fed(&pieces);
            assert_eq!(out.lines().count(), 4);
            assert_eq!(out.lines().filter(|l| l.starts_with("T stdout P ")).count(), 3);
            let text: usize = out.lines().map(|l| l.len() - "T stdout P ".len()).sum();
            assert_eq!(text, big.len());
        }
        let mut ended = big.clone();
        ended.push(b'\n');
        assert_eq!(fed(&[&ended]).0, fed(&[&big]).0);
    }

    #[test]
    fn records_are_read_back() {
        let found = parse(b"T stderr F a b  c").unwrap();
        assert_eq!(
            (found.stream, found.whole, found.text),
            ("stderr", true, &b"a b  c"[..])
        );
        assert!(!parse(b"T stdout P x").unwrap().whole);
        for wrong in [&b"rubbish"[..], b"T other F x", b"T stdout X y", b"T stdout F"] {
            assert_eq!(parse(wrong), None);
        }
    }
}
