//! Reads values: from bytes and descriptors to whatever a [`Build`] makes of them.

use crate::area::{IncomingArea, Memfd};
use crate::build::{Build, Plain};
use crate::error::{Malformed, WireError};
use crate::kind::extension::{
    COMPLEX, DECIMAL, DESCRIPTOR, FROZENSET, INTEGER, MEMBER, MEMFD, SET, SURROGATES, TIMEDELTA, TUPLE, UUID,
};
use crate::limits::{MAX_DEPTH, MAX_VALUES, max_bytes};
use crate::value::Value;
use std::os::fd::OwnedFd;

/// The descriptors that came with a message.
#[derive(Debug, Default)]
pub struct ReceivedFds {
    fds: Vec<Option<OwnedFd>>,
    large: usize,
    from_area: bool,
}

impl ReceivedFds {
    /// The descriptors, in the order in which they came.
    #[inline]
    pub fn new(fds: Vec<OwnedFd>) -> ReceivedFds {
        ReceivedFds {
            fds: fds.into_iter().map(Some).collect(),
            ..ReceivedFds::default()
        }
    }

    /// The message has been read: every descriptor must have been named, and a message that used the area is counted.
    #[inline]
    pub fn finish(&self, area: &mut IncomingArea) -> Result<(), WireError> {
        if self.fds.iter().any(Option::is_some) {
            return Err(Malformed::Unnamed.into());
        }
        area.read += u64::from(self.from_area);
        Ok(())
    }

    /// How many bytes came by memfd.
    pub fn large_bytes(&self) -> usize {
        self.large
    }

    /// The last descriptor, which LARGE leaves to the message that lies in it.
    pub(crate) fn take_last(&mut self) -> Result<OwnedFd, WireError> {
        Ok(self.fds.pop().flatten().ok_or(Malformed::Descriptor)?)
    }

    pub(crate) fn add_large(&mut self, len: usize) -> Result<(), WireError> {
        self.large = self.large.saturating_add(len);
        match self.large > max_bytes() {
            true => Err(Malformed::Large.into()),
            false => Ok(()),
        }
    }

    fn take(&mut self, at: i64) -> Result<OwnedFd, WireError> {
        let slot = usize::try_from(at).ok().and_then(|at| self.fds.get_mut(at));
        Ok(slot.and_then(Option::take).ok_or(Malformed::Descriptor)?)
    }
}

/// Reads one message, from its beginning to its end.
pub struct Reader<'a, 'b> {
    rest: &'a [u8],
    values: usize,
    received: &'b mut ReceivedFds,
    area: &'b mut IncomingArea,
}

impl<'a, 'b> Reader<'a, 'b> {
    /// Reads these bytes, with the descriptors that came along, and what the peer keeps at this end.
    #[inline]
    pub fn new(bytes: &'a [u8], received: &'b mut ReceivedFds, area: &'b mut IncomingArea) -> Reader<'a, 'b> {
        Reader {
            rest: bytes,
            values: 0,
            received,
            area,
        }
    }

    /// How many values have been read.
    pub fn values(&self) -> usize {
        self.values
    }

    /// The one value that these bytes are.
    pub fn whole<B: Build>(&mut self, build: &mut B) -> Result<B::Node, B::Error> {
        let value = self.value(build, 0)?;
        self.end()?;
        Ok(value)
    }

    /// Nothing may follow.
    #[inline]
    pub fn end(&self) -> Result<(), WireError> {
        match self.rest {
            [] => Ok(()),
            _ => Err(Malformed::Trailing.into()),
        }
    }

    /// Reads the head of an array that lies in `depth` others: how many elements follow, of which it is known that there can be so
    /// many. None, and nothing is read, if something else stands there.
    #[inline]
    pub fn array(&mut self, depth: usize) -> Result<Option<usize>, WireError> {
        let len = self.array_head()?;
        if let Some(len) = len {
            self.room(len, depth)?;
        }
        Ok(len)
    }

    /// Reads the head of an array, whether or not so many elements follow.
    #[inline]
    pub(crate) fn array_head(&mut self) -> Result<Option<usize>, WireError> {
        let len = match self.rest {
            [marker @ 0x90..=0x9f, rest @ ..] => {
                self.rest = rest;
                usize::from(marker & 0x0f)
            }
            [marker @ (0xdc | 0xdd), rest @ ..] => {
                self.rest = rest;
                self.len(marker - 0xdc + 1)?
            }
            _ => return Ok(None),
        };
        self.values += 1;
        Ok(Some(len))
    }

    /// Reads text. None, and nothing is read, if something else stands there.
    #[inline]
    pub fn text(&mut self) -> Result<Option<&'a str>, WireError> {
        match self.text_bytes()? {
            Some(len) => Ok(Some(utf8(self.take(len)?)?)),
            None => Ok(None),
        }
    }

    /// Reads the head of text: how many bytes of it follow.
    #[inline]
    pub(crate) fn text_bytes(&mut self) -> Result<Option<usize>, WireError> {
        let len = match self.rest {
            [marker @ 0xa0..=0xbf, rest @ ..] => {
                self.rest = rest;
                usize::from(marker & 0x1f)
            }
            [marker @ 0xd9..=0xdb, rest @ ..] => {
                self.rest = rest;
                self.len(marker - 0xd9)?
            }
            _ => return Ok(None),
        };
        self.values += 1;
        Ok(Some(len))
    }

    /// Reads an integer, in whatever way it is encoded. None, and nothing is read, if something else stands there; one that
    /// has more than 64 bits is read, and none either.
    #[inline]
    pub fn integer(&mut self) -> Result<Option<i128>, WireError> {
        if !is_integer(self.rest) {
            return Ok(None);
        }
        Ok(match self.value(&mut Plain, 1)? {
            Value::Int(number) => Some(number.into()),
            Value::UInt(number) => Some(number.into()),
            _ => None,
        })
    }

    /// Reads nil. False, and nothing is read, if something else stands there.
    #[inline]
    pub fn nil(&mut self) -> bool {
        match self.rest {
            [0xc0, rest @ ..] => {
                self.rest = rest;
                self.values += 1;
                true
            }
            _ => false,
        }
    }

    /// What has not been read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn number<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    #[inline]
    fn len(&mut self, width: u8) -> Result<usize, WireError> {
        Ok(match width {
            0 => usize::from(self.number::<1>()?[0]),
            1 => usize::from(u16::from_be_bytes(self.number()?)),
            _ => u32::from_be_bytes(self.number()?) as usize,
        })
    }

    /// Reads one value, which lies in as many containers as `depth` says.
    pub fn value<B: Build>(&mut self, build: &mut B, depth: usize) -> Result<B::Node, B::Error> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(WireError::from(Malformed::Values).into());
        }
        let marker = self.number::<1>()?[0];
        match marker {
            0x00..=0x7f => build.int(i64::from(marker)),
            0x80..=0x8f => self.map(build, usize::from(marker & 0x0f), depth),
            0x90..=0x9f => self.items(build, usize::from(marker & 0x0f), depth),
            0xa0..=0xbf => self.str(build, usize::from(marker & 0x1f)),
            0xc0 => Ok(build.nil()),
            0xc1 => Err(reserved().into()),
            0xc2 => Ok(build.bool(false)),
            0xc3 => Ok(build.bool(true)),
            0xc4..=0xc6 => {
                let len = self.len(marker - 0xc4)?;
                build.bytes(self.take(len)?)
            }
            0xc7..=0xc9 => {
                let len = self.len(marker - 0xc7)?;
                self.ext(build, len, depth)
            }
            0xca => build.float(f64::from(f32::from_be_bytes(self.number()?))),
            0xcb => build.float(f64::from_be_bytes(self.number()?)),
            0xcc => build.int(i64::from(self.number::<1>()?[0])),
            0xcd => build.int(i64::from(u16::from_be_bytes(self.number()?))),
            0xce => build.int(i64::from(u32::from_be_bytes(self.number()?))),
            0xcf => {
                let wide = u64::from_be_bytes(self.number()?);
                match i64::try_from(wide) {
                    Ok(narrow) => build.int(narrow),
                    Err(_) => build.uint(wide),
                }
            }
            0xd0 => build.int(i64::from(i8::from_be_bytes(self.number()?))),
            0xd1 => build.int(i64::from(i16::from_be_bytes(self.number()?))),
            0xd2 => build.int(i64::from(i32::from_be_bytes(self.number()?))),
            0xd3 => build.int(i64::from_be_bytes(self.number()?)),
            0xd4..=0xd8 => self.ext(build, 1 << (marker - 0xd4), depth),
            0xd9..=0xdb => {
                let len = self.len(marker - 0xd9)?;
                self.str(build, len)
            }
            0xdc | 0xdd => {
                let len = self.len(marker - 0xdc + 1)?;
                self.items(build, len, depth)
            }
            0xde | 0xdf => {
                let len = self.len(marker - 0xde + 1)?;
                self.map(build, len, depth)
            }
            0xe0..=0xff => build.int(i64::from(marker as i8)),
        }
    }

    fn str<B: Build>(&mut self, build: &mut B, len: usize) -> Result<B::Node, B::Error> {
        let text = utf8(self.take(len)?)?;
        build.str(text)
    }

    /// May so many values follow? Each takes at least a byte.
    #[inline]
    fn room(&self, len: usize, depth: usize) -> Result<(), WireError> {
        if depth >= MAX_DEPTH {
            return Err(Malformed::Depth.into());
        }
        if len > self.rest.len() {
            return Err(Malformed::Truncated.into());
        }
        if self.values + len > MAX_VALUES {
            return Err(Malformed::Values.into());
        }
        Ok(())
    }

    fn items<B: Build>(&mut self, build: &mut B, len: usize, depth: usize) -> Result<B::Node, B::Error> {
        let items = self.elements(build, len, depth)?;
        build.array(items)
    }

    /// Reads the elements of an array whose head has been read.
    pub fn elements<B: Build>(&mut self, build: &mut B, len: usize, depth: usize) -> Result<Vec<B::Node>, B::Error> {
        self.room(len, depth)?;
        let mut items = Vec::with_capacity(len);
        for _ in 0..len {
            items.push(self.value(build, depth + 1)?);
        }
        Ok(items)
    }

    fn map<B: Build>(&mut self, build: &mut B, len: usize, depth: usize) -> Result<B::Node, B::Error> {
        self.room(len.saturating_mul(2), depth)?;
        let mut entries = Vec::with_capacity(len);
        for _ in 0..len {
            build.keyed(true);
            let key = self.value(build, depth + 1);
            build.keyed(false);
            entries.push((key?, self.value(build, depth + 1)?));
        }
        build.map(entries)
    }

    fn ext<B: Build>(&mut self, build: &mut B, len: usize, depth: usize) -> Result<B::Node, B::Error> {
        if depth >= MAX_DEPTH {
            return Err(WireError::from(Malformed::Depth).into());
        }
        let kind = self.number::<1>()?[0] as i8;
        let data = self.take(len)?;
        match kind {
            INTEGER | DECIMAL | UUID | COMPLEX | SURROGATES => return build.raw(kind, data),
            TUPLE..=TIMEDELTA | MEMBER | MEMFD | DESCRIPTOR => {}
            _ => return Err(malformed_extension().into()),
        }
        let after = std::mem::replace(&mut self.rest, data);
        if kind >= MEMFD {
            let inner = self.value(&mut Plain, depth + 1)?;
            self.end()?;
            self.rest = after;
            let Value::Array(parts) = inner else {
                return Err(malformed_extension().into());
            };
            if kind == MEMFD {
                return self.memfd(build, &parts);
            }
            return match parts.as_slice() {
                [Value::Int(at), ..] => build.descriptor(self.received.take(*at)?),
                _ => Err(malformed_extension().into()),
            };
        }
        let set = matches!(kind, SET | FROZENSET);
        if set {
            build.keyed(true);
        }
        let inner = self.value(build, depth + 1);
        if set {
            build.keyed(false);
        }
        let inner = inner?;
        self.end()?;
        self.rest = after;
        build.holding(kind, inner, data)
    }

    fn memfd<B: Build>(&mut self, build: &mut B, parts: &[Value]) -> Result<B::Node, B::Error> {
        let [
            Value::Int(at),
            Value::Int(offset),
            Value::Int(len),
            Value::Bool(keep),
            ..,
        ] = parts
        else {
            return Err(malformed_extension().into());
        };
        let (Ok(offset), Ok(len)) = (u64::try_from(*offset), usize::try_from(*len)) else {
            return Err(malformed_extension().into());
        };
        self.received.add_large(len)?;
        if *at == -1 {
            let area = self.area.memfd.as_ref().filter(|_| !keep);
            let area = area.ok_or_else(|| WireError::from(Malformed::Area))?;
            self.received.from_area = true;
            return build.large(area, offset, len);
        }
        let memfd = Memfd::check(self.received.take(*at)?)?;
        let value = build.large(&memfd, offset, len)?;
        if *keep {
            self.area.memfd = Some(memfd);
            self.received.from_area = true;
        }
        Ok(value)
    }
}

/// Does an integer follow, in whatever way it is encoded?
#[inline]
fn is_integer(rest: &[u8]) -> bool {
    let kind = match rest.first() {
        Some(0x00..=0x7f | 0xe0..=0xff | 0xcc..=0xd3) => return true,
        Some(0xd4..=0xd8) => 1,
        Some(0xc7) => 2,
        Some(0xc8) => 3,
        Some(0xc9) => 5,
        _ => return false,
    };
    rest.get(kind) == Some(&(INTEGER as u8))
}

#[inline]
fn utf8(bytes: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(bytes).map_err(|_| Malformed::Utf8.into())
}

fn reserved() -> WireError {
    Malformed::Reserved.into()
}

fn malformed_extension() -> WireError {
    Malformed::Extension.into()
}
