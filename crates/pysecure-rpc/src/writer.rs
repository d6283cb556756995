//! Messages as they are written (docs/rpc-protocol.md). Bounds are the sender's to keep: what breaks one is an error here, and is
//! never sent.

use crate::memfd::Outgoing;
use crate::socket::LONGEST;
use crate::value::{DEEPEST, MOST_DESCRIPTORS, MOST_VALUES, Value, WireError, largest};
use WireError::TooLarge;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Bytes beyond this go into a memfd.
const INLINE_BYTES: usize = 16 << 10;

/// A message that has large bytes in it as well may have room for its descriptors without them: see [`WireError::crowded`].
const CROWDED: &str = "more than 16 descriptors";

impl WireError {
    /// Are there too many descriptors, the large bytes' own counted? With those bytes in the message there may not be.
    pub fn crowded(&self) -> bool {
        matches!(self, TooLarge(CROWDED))
    }
}

/// A message as it is sent.
#[derive(Debug, Default)]
pub struct Message {
    pub bytes: Vec<u8>,
    pub fds: Vec<Arc<OwnedFd>>,
    /// How many values there are in it, and how many bytes of it lie in memfds.
    pub values: usize,
    pub large: usize,
}

impl Message {
    /// What the receiver would refuse is not sent.
    pub fn check(&self) -> Result<(), WireError> {
        if self.values > MOST_VALUES {
            return Err(TooLarge("more values than a message may have"));
        }
        // What is too long for the socket goes by memfd, all of it.
        if self.bytes.len() > LONGEST && self.large.saturating_add(self.bytes.len()) > largest() {
            return Err(TooLarge("more bytes than a message may have"));
        }
        Ok(())
    }

    /// How many bytes of it lie in memfds when it is sent, and how many descriptors it has.
    #[cfg(feature = "service")]
    pub(crate) fn by_memfd(&self) -> (usize, usize) {
        match self.bytes.len() > LONGEST {
            true => (self.large + self.bytes.len(), self.fds.len() + 1),
            false => (self.large, self.fds.len()),
        }
    }

    /// Has it no descriptor left for the memfd of the whole?
    pub(crate) fn full(&self) -> Result<(), WireError> {
        match self.fds.len() >= MOST_DESCRIPTORS {
            true => Err(TooLarge(CROWDED)),
            false => Ok(()),
        }
    }
}

/// Writes one message.
pub struct Writer<'a> {
    message: Message,
    /// Where large bytes go; without it they stay in the message.
    area: Option<&'a mut Outgoing>,
}

impl<'a> Writer<'a> {
    /// No message, but what stands in one.
    pub fn bare() -> Writer<'a> {
        Writer {
            message: Message::default(),
            area: None,
        }
    }

    /// A message of `len` elements, which are to be put, with large bytes among them as they are.
    pub fn message(len: usize) -> Writer<'a> {
        let mut writer = Writer::bare();
        // Most fit into it.
        writer.message.bytes.reserve(256);
        writer.array(len);
        writer
    }

    /// A message whose large bytes go into memfds.
    pub fn with(area: &'a mut Outgoing, len: usize) -> Writer<'a> {
        let mut writer = Writer::message(len);
        writer.area = Some(area);
        writer
    }

    /// A message that is written into this buffer, so that it need not be allocated anew.
    pub fn over(mut buffer: Vec<u8>) -> Writer<'a> {
        buffer.clear();
        let mut writer = Writer::bare();
        writer.message.bytes = buffer;
        writer
    }

    pub fn finish(self) -> Message {
        self.message
    }

    pub fn check(&self) -> Result<(), WireError> {
        self.message.check()
    }

    /// How many bytes there are so far.
    pub fn len(&self) -> usize {
        self.message.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.message.bytes.is_empty()
    }

    /// A value that is MessagePack already, and no container.
    pub fn raw(&mut self, encoded: &[u8]) {
        self.message.values += 1;
        self.message.bytes.extend_from_slice(encoded);
    }

    /// A descriptor that goes along: its number in the message.
    pub fn descriptor(&mut self, fd: Arc<OwnedFd>) -> Result<u64, WireError> {
        if self.message.fds.len() >= MOST_DESCRIPTORS {
            return Err(TooLarge(CROWDED));
        }
        self.message.fds.push(fd);
        Ok(self.message.fds.len() as u64 - 1)
    }

    pub fn descriptors(&self) -> usize {
        self.message.fds.len()
    }

    /// Counts what goes by memfd, for there is a bound for all of a message.
    pub fn add_large(&mut self, len: usize) -> Result<(), WireError> {
        self.message.large = self.message.large.saturating_add(len);
        if self.message.large > largest() {
            return Err(TooLarge("more bytes than a message may have"));
        }
        Ok(())
    }

    /// Bytes within the message.
    pub fn bin(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        if bytes.len() > largest() {
            return Err(TooLarge("more bytes than a message may have"));
        }
        self.head(0, 0, [0xc4, 0xc5, 0xc6], bytes.len());
        self.message.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn be(&mut self, marker: u8, bytes: &[u8]) {
        self.message.bytes.push(marker);
        self.message.bytes.extend_from_slice(bytes);
    }

    /// The head of what has a length. `fix` holds lengths below `below`; no 8-bit form is 0.
    fn head(&mut self, fix: u8, below: usize, wide: [u8; 3], len: usize) {
        self.message.values += 1;
        match len {
            _ if len < below => self.message.bytes.push(fix | len as u8),
            0..=0xff if wide[0] != 0 => self.be(wide[0], &[len as u8]),
            0..=0xffff => self.be(wide[1], &(len as u16).to_be_bytes()),
            _ => self.be(wide[2], &(len as u32).to_be_bytes()),
        }
    }

    pub fn nil(&mut self) {
        self.message.values += 1;
        self.message.bytes.push(0xc0);
    }

    pub fn bool(&mut self, value: bool) {
        self.message.values += 1;
        self.message.bytes.push(0xc2 | u8::from(value));
    }

    pub fn array(&mut self, len: usize) {
        self.head(0x90, 16, [0, 0xdc, 0xdd], len);
    }

    pub fn map(&mut self, len: usize) {
        self.head(0x80, 16, [0, 0xde, 0xdf], len);
    }

    pub fn uint(&mut self, value: u64) {
        self.message.values += 1;
        match value {
            0..=0x7f => self.message.bytes.push(value as u8),
            0x80..=0xff => self.be(0xcc, &[value as u8]),
            0x100..=0xffff => self.be(0xcd, &(value as u16).to_be_bytes()),
            0x1_0000..=0xffff_ffff => self.be(0xce, &(value as u32).to_be_bytes()),
            _ => self.be(0xcf, &value.to_be_bytes()),
        }
    }

    pub fn int(&mut self, value: i64) {
        if value >= 0 {
            return self.uint(value as u64);
        }
        self.message.values += 1;
        match value {
            -32..=-1 => self.message.bytes.push(value as u8),
            -0x80..=-33 => self.be(0xd0, &[value as u8]),
            -0x8000..=-0x81 => self.be(0xd1, &(value as i16).to_be_bytes()),
            -0x8000_0000..=-0x8001 => self.be(0xd2, &(value as i32).to_be_bytes()),
            _ => self.be(0xd3, &value.to_be_bytes()),
        }
    }

    pub fn float(&mut self, value: f64) {
        self.message.values += 1;
        self.be(0xcb, &value.to_be_bytes());
    }

    pub fn str(&mut self, text: &str) {
        self.head(0xa0, 32, [0xd9, 0xda, 0xdb], text.len());
        self.message.bytes.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        // One is left for the memfd of the whole message, should it be long.
        let large = bytes.len() > INLINE_BYTES && self.message.fds.len() < MOST_DESCRIPTORS - 1;
        if large && self.area.is_some() {
            self.add_large(bytes.len())?;
        }
        if let Some(area) = self.area.as_mut().filter(|_| large) {
            let place = area.put(bytes)?;
            let mut inner = Writer::message(4);
            match place.fd {
                Some(fd) => {
                    inner.uint(self.message.fds.len() as u64);
                    self.message.fds.push(fd);
                }
                None => inner.int(-1),
            }
            inner.uint(place.offset);
            inner.uint(bytes.len() as u64);
            inner.bool(place.keep);
            self.message.values += inner.message.values;
            self.ext(20, &inner.message.bytes)
        } else {
            self.bin(bytes)
        }
    }

    pub fn ext(&mut self, kind: i8, data: &[u8]) -> Result<(), WireError> {
        u32::try_from(data.len()).map_err(|_| TooLarge("an extension beyond 4 GiB"))?;
        match data.len() {
            1 | 2 | 4 | 8 | 16 => {
                self.message.values += 1;
                self.message.bytes.push(0xd4 + data.len().trailing_zeros() as u8);
            }
            _ => self.head(0, 0, [0xc7, 0xc8, 0xc9], data.len()),
        }
        self.message.bytes.push(kind as u8);
        self.message.bytes.extend_from_slice(data);
        Ok(())
    }

    /// An extension whose data is itself a value; descriptors in it are the message's.
    pub fn nested<E: From<WireError>>(
        &mut self,
        kind: i8,
        fill: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = self.open();
        let filled = fill(self);
        let closed = self.close(kind, before);
        filled?;
        Ok(closed?)
    }

    /// Begins an extension's value; what it gives back is what [`Writer::close`] takes.
    pub(crate) fn open(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.message.bytes)
    }

    pub(crate) fn close(&mut self, kind: i8, before: Vec<u8>) -> Result<(), WireError> {
        let data = std::mem::replace(&mut self.message.bytes, before);
        self.ext(kind, &data)
    }

    fn all(&mut self, items: &[Value], depth: usize) -> Result<(), WireError> {
        u32::try_from(items.len()).map_err(|_| TooLarge("too many values"))?;
        self.array(items.len());
        items.iter().try_for_each(|item| self.at(item, depth))
    }

    /// An element of the message.
    pub fn value(&mut self, value: &Value) -> Result<(), WireError> {
        self.at(value, 1)
    }

    /// An element of an array or map in the message.
    pub fn value_in(&mut self, value: &Value) -> Result<(), WireError> {
        self.at(value, 2)
    }

    /// At a depth, of which the message's elements have 1.
    pub(crate) fn at(&mut self, value: &Value, depth: usize) -> Result<(), WireError> {
        // A container lies one deeper than what holds it, and an extension's inner array one deeper still.
        let inner = match value {
            Value::Array(_) | Value::Map(_) | Value::Other(..) | Value::Fd(_) => depth + 1,
            Value::Tuple(_) | Value::Set(_) | Value::FrozenSet(_) => depth + 2,
            Value::Member(_) => depth + 1,
            _ => depth,
        };
        if inner > DEEPEST {
            return Err(TooLarge("nested too deep"));
        }
        match value {
            Value::Nil => self.nil(),
            Value::Bool(v) => self.bool(*v),
            Value::Int(v) => self.int(*v),
            Value::UInt(v) => self.uint(*v),
            Value::Float(v) => self.float(*v),
            Value::Str(v) => self.str(v),
            Value::Bytes(v) => self.bytes(v)?,
            Value::Array(items) => self.all(items, inner)?,
            Value::Map(entries) => {
                self.map(entries.len());
                for (key, value) in entries {
                    self.at(key, inner)?;
                    self.at(value, inner)?;
                }
            }
            Value::Tuple(items) => self.nested(2, |w| w.all(items, inner))?,
            Value::Set(items) => self.nested(3, |w| w.all(items, inner))?,
            Value::FrozenSet(items) => self.nested(4, |w| w.all(items, inner))?,
            Value::Member(member) => self.nested(12, |w| w.at(member, inner))?,
            Value::Fd(fd) => {
                let at = self.descriptor(fd.0.clone())?;
                self.nested(21, |w| {
                    w.array(1);
                    w.uint(at);
                    Ok::<(), WireError>(())
                })?;
            }
            // Sent, it would end the connection.
            Value::Other(9, text) if text.is_empty() || !text.is_ascii() => {
                return Err(WireError::Bad("a decimal that is no number"));
            }
            Value::Other(kind, data) => self.ext(*kind, data)?,
        }
        Ok(())
    }
}
