//! What a service's programs say by syslog(3): a socket a service, which it alone sees as /dev/log, and what comes on it is
//! lines of its own log. What is said is text from an untrusted side, and read as such.

use crate::host::{Dirs, make_passable};
use crate::plan::{self, PlanError, SYSLOG_SOCKET};
use rustix::fs::Mode;
use rustix::net::{RecvFlags, SocketType};
use std::os::fd::OwnedFd;

/// Makes the socket of a service. Whoever sees it may speak on it, whatever id of the service's it has: nobody else does.
pub(in crate::supervise) fn bind(dirs: &Dirs, service: &plan::Unit) -> Result<OwnedFd, PlanError> {
    let folder = dirs.syslog(&service.name);
    make_passable(&folder)?;
    let path = folder.join(SYSLOG_SOCKET);
    let made = (|| {
        let socket = crate::supervise::net::sockets::bind_unix(&path, SocketType::DGRAM)?;
        rustix::fs::chmod(&path, Mode::from_raw_mode(0o666))?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(socket)
    })();
    made.map_err(|e: std::io::Error| PlanError::io("make the socket", &path, e))
}

/// Takes the next message; `None` if there is none. A longer one than `buffer` is cut off.
pub(super) fn hear(socket: &OwnedFd, buffer: &mut [u8]) -> Option<usize> {
    let (_, length) = rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT).ok()?;
    Some(length.min(buffer.len()))
}

/// A message, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said<'a> {
    /// 0 to 7, as syslog(3) numbers them.
    pub severity: u8,
    /// `PROGRAM[PID]`, where the form of the message has it apart from its text.
    pub who: String,
    pub text: &'a [u8],
}

/// LOG_NOTICE: what RFC 3164 takes a message for that does not say.
const NOTICE: u8 = 5;

impl Said<'_> {
    /// Is it of the kind that programs write to standard error?
    pub(super) fn warns(&self) -> bool {
        self.severity <= 4
    }

    /// As it stands in the log: lines, each with an end. The time is the supervisor's to give.
    pub(super) fn lines(&self) -> Vec<u8> {
        let word = match self.severity {
            0 => "emergency: ",
            1 => "alert: ",
            2 => "critical: ",
            3 => "error: ",
            4 => "warning: ",
            7 => "debug: ",
            _ => "",
        };
        let mut out = Vec::with_capacity(self.text.len() + 32);
        out.extend_from_slice(word.as_bytes());
        out.extend_from_slice(self.who.as_bytes());
        out.extend_from_slice(self.text);
        out.push(b'\n');
        out
    }
}

/// RFC 3164 as syslog(3) writes it, RFC 5424, or text alone.
pub(super) fn parse(message: &[u8]) -> Said<'_> {
    let end = message
        .iter()
        .rposition(|b| !matches!(b, b'\0' | b'\n' | b'\r' | b' '))
        .map_or(0, |last| last + 1);
    let message = &message[..end];
    let (severity, rest) = priority(message).unwrap_or((NOTICE, message));
    if let Some((who, text)) = fields(rest) {
        return Said { severity, who, text };
    }
    let text = rest.get(STAMP..).filter(|_| stamped(rest)).unwrap_or(rest);
    Said {
        severity,
        who: String::new(),
        text,
    }
}

/// `<N>`: eight times the facility, and the severity.
fn priority(message: &[u8]) -> Option<(u8, &[u8])> {
    let inner = message.strip_prefix(b"<")?;
    let end = inner.iter().take(4).position(|b| *b == b'>')?;
    let number: u8 = std::str::from_utf8(&inner[..end]).ok()?.parse().ok()?;
    (number < 192).then(|| (number % 8, &inner[end + 1..]))
}

/// `Nov 28 09:56:01 `.
const STAMP: usize = 16;

fn stamped(text: &[u8]) -> bool {
    let shape = b"Aaa 00 00:00:00 ";
    text.len() >= STAMP
        && text.iter().zip(shape).enumerate().all(|(at, (byte, like))| match like {
            b'A' => byte.is_ascii_uppercase(),
            b'a' => byte.is_ascii_lowercase(),
            b'0' => byte.is_ascii_digit() || at == 4 && *byte == b' ',
            _ => byte == like,
        })
}

/// RFC 5424: `1 TIME HOST PROGRAM PID ID DATA TEXT`, where `-` is nothing.
fn fields(text: &[u8]) -> Option<(String, &[u8])> {
    let mut parts = text.strip_prefix(b"1 ")?.splitn(6, |b| *b == b' ');
    let (time, _host) = (parts.next()?, parts.next()?);
    if time != b"-" && !(time.len() >= 20 && time[4] == b'-' && time[10] == b'T') {
        return None;
    }
    let (program, pid, _id) = (parts.next()?, parts.next()?, parts.next()?);
    let text = after_data(parts.next()?);
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let who = match (program, pid) {
        (b"-", _) => String::new(),
        (program, b"-") => format!("{}: ", shown(program)),
        (program, pid) => format!("{}[{}]: ", shown(program), shown(pid)),
    };
    Some((who, text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)))
}

/// Past structured data: `-`, or `[ID KEY="VALUE"]` any number of times, where `\` stands before `"` and `]` in a value.
fn after_data(text: &[u8]) -> &[u8] {
    let mut at = 0;
    if text.first() == Some(&b'-') {
        at = 1;
    }
    while text.get(at) == Some(&b'[') {
        let mut quoted = false;
        let mut end = at + 1;
        loop {
            match text.get(end) {
                None => return text,
                Some(b'\\') if quoted => end += 1,
                Some(b'"') => quoted = !quoted,
                Some(b']') if !quoted => break,
                _ => {}
            }
            end += 1;
        }
        at = end + 1;
    }
    let rest = text.get(at..).unwrap_or_default();
    rest.strip_prefix(b" ").unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str) -> (bool, String) {
        let said = parse(message.as_bytes());
        (said.warns(), String::from_utf8(said.lines()).unwrap())
    }

    #[test]
    fn messages_of_each_form() {
        for (message, warns, text) in [
            (
                "<22>Nov 28 09:56:01 postfix/smtpd[7]: connect",
                false,
                "postfix/smtpd[7]: connect\n",
            ),
            ("<27>Nov  8 09:56:01 cron[7]: no\n", true, "error: cron[7]: no\n"),
            ("<12>su: so so", true, "warning: su: so so\n"),
            ("<15>x\0", false, "debug: x\n"),
            ("<0>\u{1b}[2J", true, "emergency: \u{1b}[2J\n"),
            ("no priority", false, "no priority\n"),
            ("<999>x", false, "<999>x\n"),
            ("<>x", false, "<>x\n"),
            ("", false, "\n"),
            (
                "<165>1 2003-10-11T22:14:15.003Z host app 12 ID47 [a@1 k=\"v\\\"]\"][b@1] \u{feff}text",
                false,
                "app[12]: text\n",
            ),
            ("<163>1 - - app - - - text", true, "error: app: text\n"),
            ("<14>1 message", false, "1 message\n"),
            ("<14>1 2003-10-11T22:14:15Z h a p i [open", false, "a[p]: [open\n"),
            ("<14>Nov 28 at noon it was", false, "Nov 28 at noon it was\n"),
        ] {
            assert_eq!(line(message), (warns, text.to_owned()), "{message:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn anything_is_read(bytes: Vec<u8>, pri in 0u16..300, rest in "(1 )?[-a-zA-Z0-9:. \\[\\]\"\\\\]*") {
            parse(&bytes).lines();
            let text = format!("<{pri}>{rest}");
            proptest::prop_assert!(parse(text.as_bytes()).lines().ends_with(b"\n"));
        }
    }
}
