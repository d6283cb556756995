//! A caller of services' functions, for the command line: docs/rpc-protocol.md, from the caller's side.
//!
//! Here a service is the one who may not be trusted: what it sends is held to the protocol's bounds, and shown as text.

pub mod interface;
mod json;

pub use json::{from_json, to_json};

use rmpv::Value;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags};
use rustix::net::{SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// The one version that is spoken here.
const VERSION: u64 = 1;
const LONGEST_MESSAGE: usize = 65_536;
const MOST_LARGE: usize = 64 << 20;
const MOST_DESCRIPTORS: usize = 16;
/// Nesting, the message itself being 1.
const DEEPEST: usize = 64;

mod kind {
    pub const LARGE: u64 = 0;
    pub const HELLO: u64 = 1;
    pub const CALL: u64 = 2;
    pub const OK: u64 = 3;
    pub const ERR: u64 = 4;
    pub const ITEM: u64 = 5;
    pub const END: u64 = 6;
    pub const CREDIT: u64 = 7;
    pub const GOAWAY: u64 = 9;
}

#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    #[error("connect to {path}: {cause}")]
    Connect { path: String, cause: io::Error },
    #[error("the service broke off: {0}; has it ended?")]
    Broken(io::Error),
    #[error("the service does not keep to the protocol: {0}")]
    Protocol(String),
    #[error("the arguments come to {0} bytes, more than a message holds")]
    TooLarge(usize),
    #[error("{class}: {message}")]
    Remote { class: String, message: String },
}

/// A connection to a service, as one of its callers.
pub struct Caller {
    socket: OwnedFd,
    /// Names of the functions that this caller may call.
    pub functions: Vec<String>,
    calls: u64,
    /// The service's area for large bytes, if it made one: the memfd that later messages refer to.
    area: Option<OwnedFd>,
}

/// A part of an answer.
pub enum Answer {
    /// The result, and the last that comes.
    Whole(Value),
    Item(Value),
    /// The end of a stream.
    End,
}

struct Message {
    elements: Vec<Value>,
}

impl Message {
    fn number(&self, at: usize) -> Result<u64, RpcError> {
        let found = self.elements.get(at).and_then(Value::as_u64);
        found.ok_or_else(|| RpcError::Protocol(format!("element {at} is no number")))
    }

    fn take(&mut self, at: usize) -> Value {
        self.elements
            .get_mut(at)
            .map_or(Value::Nil, |value| std::mem::replace(value, Value::Nil))
    }

    fn text(&self, at: usize) -> String {
        let found = self.elements.get(at).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    }
}

impl Caller {
    pub fn connect(path: &Path) -> Result<Caller, RpcError> {
        let wrong = |cause: io::Error| RpcError::Connect {
            path: path.display().to_string(),
            cause,
        };
        let socket = connect(path).map_err(wrong)?;
        let mut caller = Caller {
            socket,
            functions: Vec::new(),
            calls: 0,
            area: None,
        };
        let mut hello = caller.receive()?;
        if hello.number(0)? != kind::HELLO || hello.number(1)? != VERSION {
            return Err(RpcError::Protocol("it speaks another version".into()));
        }
        let Value::Map(functions) = hello.take(4) else {
            return Err(RpcError::Protocol("it names no functions".into()));
        };
        let names = functions.iter().filter_map(|(name, _)| Some(name.as_str()?.to_owned()));
        caller.functions = names.collect();
        caller.functions.sort();
        Ok(caller)
    }

    /// Asks for a function; [`Caller::answer`] has what comes of it.
    pub fn call(
        &mut self,
        function: &str,
        args: Vec<Value>,
        kwargs: Vec<(Value, Value)>,
        deadline: Option<Duration>,
    ) -> Result<(), RpcError> {
        self.calls += 1;
        let deadline = deadline.map_or(Value::Nil, |time| {
            Value::from(time.as_millis().min(u64::MAX.into()) as u64)
        });
        self.send(vec![
            Value::from(kind::CALL),
            Value::from(self.calls),
            Value::from(function),
            Value::Array(args),
            Value::Map(kwargs),
            deadline,
        ])
    }

    pub fn answer(&mut self) -> Result<Answer, RpcError> {
        loop {
            let mut message = self.receive()?;
            let about = |message: &Message| message.number(1);
            match message.number(0)? {
                kind::GOAWAY => {}
                kind::ERR => {
                    return Err(RpcError::Remote {
                        class: message.text(2),
                        message: message.text(3),
                    });
                }
                kind::OK if about(&message)? == self.calls => return Ok(Answer::Whole(message.take(2))),
                kind::END if about(&message)? == self.calls => return Ok(Answer::End),
                kind::ITEM if about(&message)? == self.calls => {
                    let item = message.take(2);
                    // One at a time: whoever reads what is printed sets the pace.
                    let more = [kind::CREDIT, self.calls, 1].map(Value::from);
                    self.send(more.to_vec())?;
                    return Ok(Answer::Item(item));
                }
                kind::OK | kind::END | kind::ITEM => {
                    return Err(RpcError::Protocol("it answers what was not asked".into()));
                }
                other => return Err(RpcError::Protocol(format!("it sends messages of kind {other}"))),
            }
        }
    }

    fn send(&mut self, elements: Vec<Value>) -> Result<(), RpcError> {
        let mut bytes = Vec::new();
        // Writing to memory does not fail.
        let _ = rmpv::encode::write_value(&mut bytes, &Value::Array(elements));
        if bytes.len() > LONGEST_MESSAGE {
            return Err(RpcError::TooLarge(bytes.len()));
        }
        loop {
            match rustix::net::send(&self.socket, &bytes, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(RpcError::Broken(errno.into())),
            }
        }
    }

    fn receive(&mut self) -> Result<Message, RpcError> {
        let mut bytes = vec![0u8; LONGEST_MESSAGE];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let into = &mut [io::IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.socket, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                other => break other.map_err(|e| RpcError::Broken(e.into()))?,
            }
        };
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                descriptors.extend(fds);
            }
        }
        if received.bytes == 0 {
            return Err(RpcError::Broken(Errno::CONNRESET.into()));
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(RpcError::Protocol("a message is too long".into()));
        }
        let mut value = decode(&bytes[..received.bytes])?;
        if let Some(length) = large(&value) {
            let memfd = descriptors
                .pop()
                .ok_or_else(|| RpcError::Protocol("a large message is missing".into()))?;
            value = decode(&copy(&memfd, 0, length)?)?;
        }
        let mut budget = MOST_LARGE;
        self.fetch(&mut value, &descriptors, &mut budget, 1)?;
        // What is kept for later messages is a copy; all others are closed here.
        match value {
            Value::Array(elements) => Ok(Message { elements }),
            _ => Err(RpcError::Protocol("a message is no array".into())),
        }
    }

    /// Puts bytes that came in a memfd in their places.
    fn fetch(
        &mut self,
        value: &mut Value,
        descriptors: &[OwnedFd],
        budget: &mut usize,
        depth: usize,
    ) -> Result<(), RpcError> {
        if depth > DEEPEST {
            return Err(RpcError::Protocol("a message is nested too deep".into()));
        }
        match value {
            Value::Array(items) => {
                for item in items {
                    self.fetch(item, descriptors, budget, depth + 1)?;
                }
            }
            Value::Map(pairs) => {
                for (key, item) in pairs {
                    self.fetch(key, descriptors, budget, depth + 1)?;
                    self.fetch(item, descriptors, budget, depth + 1)?;
                }
            }
            Value::Ext(json::LARGE_BYTES, data) => {
                let broken = || RpcError::Protocol("bytes in a memfd are not told right".into());
                let Value::Array(told) = decode(data)? else {
                    return Err(broken());
                };
                let [fd, offset, length, keep] = told.as_slice() else {
                    return Err(broken());
                };
                let (Some(fd), Some(offset), Some(length), Some(keep)) =
                    (fd.as_i64(), offset.as_u64(), length.as_u64(), keep.as_bool())
                else {
                    return Err(broken());
                };
                let length = usize::try_from(length).map_err(|_| broken())?;
                *budget = budget.checked_sub(length).ok_or_else(broken)?;
                let bytes = match usize::try_from(fd) {
                    Ok(at) => {
                        let memfd = descriptors.get(at).ok_or_else(broken)?;
                        let bytes = copy(memfd, offset, length)?;
                        if keep {
                            self.area = Some(memfd.try_clone().map_err(RpcError::Broken)?);
                        }
                        bytes
                    }
                    Err(_) => copy(self.area.as_ref().ok_or_else(broken)?, offset, length)?,
                };
                *value = Value::Binary(bytes);
            }
            // Tuples and the like may hold some.
            Value::Ext(kind, data) if json::SEQUENCES.contains(kind) => {
                let kind = *kind;
                let mut inner = decode(data)?;
                self.fetch(&mut inner, descriptors, budget, depth + 1)?;
                let mut bytes = Vec::new();
                let _ = rmpv::encode::write_value(&mut bytes, &inner);
                *value = Value::Ext(kind, bytes);
            }
            _ => {}
        }
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> Result<Value, RpcError> {
    let mut rest = bytes;
    let value = rmpv::decode::read_value_with_max_depth(&mut rest, DEEPEST)
        .map_err(|e| RpcError::Protocol(format!("a message cannot be read: {e}")))?;
    if !rest.is_empty() {
        return Err(RpcError::Protocol("a message goes on behind its end".into()));
    }
    Ok(value)
}

fn large(value: &Value) -> Option<usize> {
    let elements = value.as_array()?;
    (elements.first()?.as_u64()? == kind::LARGE).then_some(())?;
    usize::try_from(elements.get(1)?.as_u64()?).ok()
}

/// Bytes out of a memfd that cannot shrink: so no reading waits, or ends in a signal.
fn copy(memfd: &OwnedFd, offset: u64, length: usize) -> Result<Vec<u8>, RpcError> {
    let broken = |what: &str| RpcError::Protocol(format!("a memfd {what}"));
    let seals = rustix::fs::fcntl_get_seals(memfd).map_err(|_| broken("is none"))?;
    let size = rustix::fs::fstat(memfd).map_err(|_| broken("is none"))?.st_size as u64;
    if !seals.contains(rustix::fs::SealFlags::SHRINK) || length > MOST_LARGE {
        return Err(broken("may shrink, or is too large"));
    }
    if offset.checked_add(length as u64).is_none_or(|end| end > size) {
        return Err(broken("is shorter than was said"));
    }
    let mut bytes = vec![0u8; length];
    let mut filled = 0;
    while filled < length {
        match rustix::io::pread(memfd, &mut bytes[filled..], offset + filled as u64) {
            Ok(0) => return Err(broken("is shorter than was said")),
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(RpcError::Broken(errno.into())),
        }
    }
    Ok(bytes)
}

fn connect(path: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let folder = path.parent().unwrap_or(Path::new("/"));
    let folder = rustix::fs::open(
        folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    // Named by descriptor: sockaddr_un holds 108 bytes.
    let short = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(path.file_name().unwrap_or_default());
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(&short)?)?;
    Ok(socket)
}
