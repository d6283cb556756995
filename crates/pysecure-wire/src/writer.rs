//! Writes values and messages. Bounds are the sender's to keep: what breaks one is an error here, and is never sent.

use crate::area::{self, OutgoingArea};
use crate::error::{TooLarge, WireError};
use crate::extension::is_decimal;
use crate::kind::{MessageKind, extension};
use crate::limits::{INLINE_BYTES, MAX_DEPTH, MAX_DESCRIPTORS, MAX_MESSAGE, MAX_VALUES, max_bytes};
use crate::value::Value;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A message as it is sent.
#[derive(Debug, Default)]
pub struct EncodedMessage {
    /// What stands on the socket.
    pub bytes: Vec<u8>,
    /// The descriptors that go along, in this order.
    pub fds: Vec<Arc<OwnedFd>>,
    /// How many values there are in it.
    pub values: usize,
    /// How many bytes of it lie in memfds.
    pub large: usize,
}

impl EncodedMessage {
    /// What the receiver would refuse is not sent, and what is too long for the socket becomes LARGE.
    pub fn sealed(self) -> Result<EncodedMessage, WireError> {
        if self.values > MAX_VALUES {
            return Err(TooLarge::Values.into());
        }
        if self.bytes.len() <= MAX_MESSAGE {
            return Ok(self);
        }
        let large = self.large.saturating_add(self.bytes.len());
        if large > max_bytes() {
            return Err(TooLarge::Bytes.into());
        }
        if self.fds.len() >= MAX_DESCRIPTORS {
            return Err(TooLarge::Descriptors.into());
        }
        let mut outer = Writer::message(MessageKind::Large, 2);
        outer.uint(self.bytes.len() as u64);
        let mut outer = outer.finish();
        outer.fds = self.fds;
        outer.fds.push(Arc::new(area::sealed(&self.bytes)?));
        outer.large = large;
        Ok(outer)
    }
}

/// Writes one message.
pub struct Writer<'a> {
    message: EncodedMessage,
    /// Where large bytes go; without it they stay in the message.
    area: Option<&'a mut OutgoingArea>,
}

impl<'a> Writer<'a> {
    /// Values alone, which are no message.
    #[inline]
    pub fn bare() -> Writer<'a> {
        Writer {
            message: EncodedMessage::default(),
            area: None,
        }
    }

    /// A message of `len` elements, its kind among them. Large bytes stand in it as they are.
    pub fn message(kind: MessageKind, len: usize) -> Writer<'a> {
        // Most messages fit into it.
        let mut writer = Writer::over(Vec::with_capacity(256), None);
        writer.begin(kind, len);
        writer
    }

    /// Begins a message of `len` elements, its kind among them.
    #[inline]
    pub fn begin(&mut self, kind: MessageKind, len: usize) {
        self.array(len);
        self.uint(kind.number().into());
    }

    /// Writes into this buffer, so that it need not be allocated anew. Large bytes go to the area, if there is one.
    #[inline]
    pub fn over(mut buffer: Vec<u8>, area: Option<&'a mut OutgoingArea>) -> Writer<'a> {
        buffer.clear();
        Writer {
            message: EncodedMessage {
                bytes: buffer,
                ..EncodedMessage::default()
            },
            area,
        }
    }

    /// What was written.
    #[inline]
    pub fn finish(self) -> EncodedMessage {
        self.message
    }

    /// How many bytes there are so far.
    pub fn len(&self) -> usize {
        self.message.bytes.len()
    }

    /// Is nothing written yet?
    pub fn is_empty(&self) -> bool {
        self.message.bytes.is_empty()
    }

    /// Writes a value that is encoded already, and no container.
    #[inline]
    pub fn raw(&mut self, encoded: &[u8]) {
        self.message.values += 1;
        self.message.bytes.extend_from_slice(encoded);
    }

    /// Has a descriptor go along: its index among the message's.
    pub fn descriptor(&mut self, fd: Arc<OwnedFd>) -> Result<u64, WireError> {
        if self.message.fds.len() >= MAX_DESCRIPTORS {
            return Err(TooLarge::Descriptors.into());
        }
        self.message.fds.push(fd);
        Ok(self.message.fds.len() as u64 - 1)
    }

    /// Counts what goes by memfd, for there is a bound for all of a message.
    fn add_large(&mut self, len: usize) -> Result<(), WireError> {
        self.message.large = self.message.large.saturating_add(len);
        if self.message.large > max_bytes() {
            return Err(TooLarge::Bytes.into());
        }
        Ok(())
    }

    /// Writes bytes within the message.
    pub fn bin(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        if bytes.len() > max_bytes() {
            return Err(TooLarge::Bytes.into());
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

    /// Writes nil.
    #[inline]
    pub fn nil(&mut self) {
        self.message.values += 1;
        self.message.bytes.push(0xc0);
    }

    /// Writes a boolean.
    #[inline]
    pub fn bool(&mut self, value: bool) {
        self.message.values += 1;
        self.message.bytes.push(0xc2 | u8::from(value));
    }

    /// Writes the head of an array, whose elements follow.
    #[inline]
    pub fn array(&mut self, len: usize) {
        self.head(0x90, 16, [0, 0xdc, 0xdd], len);
    }

    /// Writes the head of a map, whose keys and values follow by turns.
    #[inline]
    pub fn map(&mut self, len: usize) {
        self.head(0x80, 16, [0, 0xde, 0xdf], len);
    }

    /// Writes an integer.
    #[inline]
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

    /// Writes an integer.
    #[inline]
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

    /// Writes a float.
    #[inline]
    pub fn float(&mut self, value: f64) {
        self.message.values += 1;
        self.be(0xcb, &value.to_be_bytes());
    }

    /// Writes text.
    #[inline]
    pub fn str(&mut self, text: &str) {
        self.head(0xa0, 32, [0xd9, 0xda, 0xdb], text.len());
        self.message.bytes.extend_from_slice(text.as_bytes());
    }

    /// Writes bytes that lie in `depth` containers: in a memfd if they are large and the message has an area to write to.
    pub fn bytes(&mut self, bytes: &[u8], depth: usize) -> Result<(), WireError> {
        // One descriptor is left for the memfd of the whole message, should it be long. The reference is an extension with an array in it.
        let large = bytes.len() > INLINE_BYTES && self.message.fds.len() < MAX_DESCRIPTORS - 1 && depth + 1 < MAX_DEPTH;
        match large && self.area.is_some() {
            true => self.by_memfd(bytes),
            false => self.bin(bytes),
        }
    }

    fn by_memfd(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.add_large(bytes.len())?;
        let Some(area) = self.area.as_mut() else {
            return self.bin(bytes);
        };
        let place = area.put(bytes)?;
        let at = self.message.fds.len();
        let sent_along = place.fd.is_some();
        self.message.fds.extend(place.fd);
        self.nested(extension::MEMFD, |w| {
            w.array(4);
            match sent_along {
                true => w.uint(at as u64),
                false => w.int(-1),
            }
            w.uint(place.offset);
            w.uint(bytes.len() as u64);
            w.bool(place.keep);
            Ok(())
        })
    }

    /// Writes an extension.
    pub fn ext(&mut self, kind: i8, data: &[u8]) -> Result<(), WireError> {
        u32::try_from(data.len()).map_err(|_| TooLarge::Bytes)?;
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

    /// Writes an extension whose data is itself a value; descriptors in it are the message's.
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

    /// Begins the value of an extension. What it gives back is for [`Writer::close`].
    pub fn open(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.message.bytes)
    }

    /// Ends the value of an extension of this type.
    pub fn close(&mut self, kind: i8, before: Vec<u8>) -> Result<(), WireError> {
        let data = std::mem::replace(&mut self.message.bytes, before);
        self.ext(kind, &data)
    }

    fn all(&mut self, items: &[Value], depth: usize) -> Result<(), WireError> {
        u32::try_from(items.len()).map_err(|_| TooLarge::Values)?;
        self.array(items.len());
        items.iter().try_for_each(|item| self.value(item, depth))
    }

    /// Writes a value that lies in `depth` containers; a message's elements lie in one.
    pub fn value(&mut self, value: &Value, depth: usize) -> Result<(), WireError> {
        // A container lies one deeper than what holds it, and an extension's inner array one deeper still.
        let inner = match value {
            Value::Array(_) | Value::Map(_) | Value::Other(..) | Value::Fd(_) => depth + 1,
            Value::Tuple(_) | Value::Set(_) | Value::FrozenSet(_) => depth + 2,
            Value::Member(_) => depth + 1,
            _ => depth,
        };
        if inner > MAX_DEPTH {
            return Err(TooLarge::Depth.into());
        }
        match value {
            Value::Nil => self.nil(),
            Value::Bool(v) => self.bool(*v),
            Value::Int(v) => self.int(*v),
            Value::UInt(v) => self.uint(*v),
            Value::Float(v) => self.float(*v),
            Value::Str(v) => self.str(v),
            Value::Bytes(v) => self.bytes(v, depth)?,
            Value::Array(items) => self.all(items, inner)?,
            Value::Map(entries) => {
                self.map(entries.len());
                for (key, value) in entries {
                    self.value(key, inner)?;
                    self.value(value, inner)?;
                }
            }
            Value::Tuple(items) => self.nested(extension::TUPLE, |w| w.all(items, inner))?,
            Value::Set(items) => self.nested(extension::SET, |w| w.all(items, inner))?,
            Value::FrozenSet(items) => self.nested(extension::FROZENSET, |w| w.all(items, inner))?,
            Value::Member(member) => self.nested(extension::MEMBER, |w| w.value(member, inner))?,
            Value::Fd(fd) => {
                let at = self.descriptor(fd.0.clone())?;
                self.nested(extension::DESCRIPTOR, |w| {
                    w.array(1);
                    w.uint(at);
                    Ok::<(), WireError>(())
                })?;
            }
            // Sent, it would end the connection.
            Value::Other(extension::DECIMAL, text) if !is_decimal(text) => {
                return Err(WireError::Unsendable("a decimal that is no number"));
            }
            Value::Other(kind, data) => self.ext(*kind, data)?,
        }
        Ok(())
    }
}
