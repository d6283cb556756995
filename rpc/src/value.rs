//! Values, and how they stand on the wire (docs/rpc-protocol.md). What is decoded comes from somebody who may be hostile:
//! no length is believed before it is checked against what is there, and nothing but plain values comes of it.

use crate::memfd::{Area, Kept};
use crate::writer::Writer;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// The most containers and extensions in each other, the message itself being the first.
pub(crate) const DEEPEST: usize = 64;
/// The most values in one message.
const MOST_VALUES: usize = 1_000_000;
/// The most descriptors with one message.
pub const MOST_DESCRIPTORS: usize = 16;
/// The most bytes of a message: all large values together, and a message by LARGE. It is as the app's manifest says, in
/// `PYSECURE_RPC_LARGEST`, or 64 MiB.
pub fn largest() -> usize {
    *LARGEST.get_or_init(|| {
        let said = std::env::var("PYSECURE_RPC_LARGEST").ok();
        said.and_then(|bytes| bytes.parse().ok()).unwrap_or(64 << 20)
    })
}

/// Says what `largest` is, before the first message.
pub fn set_largest(bytes: usize) {
    let _ = LARGEST.set(bytes);
}

static LARGEST: OnceLock<usize> = OnceLock::new();

/// What can cross.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    /// Only what is above `i64::MAX`.
    UInt(u64),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Tuple(Vec<Value>),
    Set(Vec<Value>),
    FrozenSet(Vec<Value>),
    /// A member of an enumeration, by its name or number.
    Member(Box<Value>),
    Fd(Descriptor),
    /// Dates, decimals and the like: the extension's type, and its data as it came, checked.
    Other(i8, Vec<u8>),
}

impl Value {
    /// The numbers that a date, time or time span is made of, as docs/rpc-protocol.md has them.
    pub fn parts(&self) -> Option<Vec<Option<i64>>> {
        let Value::Other(5..=8, data) = self else { return None };
        let parts = read(data, Vec::new(), &mut Kept::default()).ok()?;
        let number = |part| match part {
            Value::Int(n) => Some(n),
            _ => None,
        };
        Some(parts.into_iter().map(number).collect())
    }
}

/// An open file.
#[derive(Clone, Debug)]
pub struct Descriptor(pub Arc<OwnedFd>);

impl PartialEq for Descriptor {
    fn eq(&self, other: &Descriptor) -> bool {
        self.0.as_raw_fd() == other.0.as_raw_fd()
    }
}

/// Why a message is none, or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("bad message: {0}")]
    Bad(&'static str),
    #[error("too large: {0}")]
    TooLarge(&'static str),
    #[error("put bytes into a memfd: {0}")]
    Memfd(#[from] rustix::io::Errno),
}

use WireError::Bad;

/// What values become when they are read: `Plain` makes them a `Value`, the Python package objects of Python's.
pub trait Build {
    type Node;
    type Error: From<WireError>;

    fn nil(&mut self) -> Self::Node;
    fn bool(&mut self, value: bool) -> Self::Node;
    fn int(&mut self, value: i64) -> Result<Self::Node, Self::Error>;
    /// Only what is above `i64::MAX`.
    fn uint(&mut self, value: u64) -> Result<Self::Node, Self::Error>;
    fn float(&mut self, value: f64) -> Result<Self::Node, Self::Error>;
    fn str(&mut self, text: &str) -> Result<Self::Node, Self::Error>;
    fn bytes(&mut self, bytes: &[u8]) -> Result<Self::Node, Self::Error>;
    fn array(&mut self, items: Vec<Self::Node>) -> Result<Self::Node, Self::Error>;
    /// Refuses a key twice, and one that cannot be a key.
    fn map(&mut self, entries: Vec<(Self::Node, Self::Node)>) -> Result<Self::Node, Self::Error>;
    /// Extensions 1, 9, 10, 11 and 13.
    fn raw(&mut self, kind: i8, data: &[u8]) -> Result<Self::Node, Self::Error>;
    /// Extensions 2 to 8 and 12, with the value that they hold, and the same as it stands in the message.
    fn holding(&mut self, kind: i8, inner: Self::Node, data: &[u8]) -> Result<Self::Node, Self::Error>;
    fn large(&mut self, area: &Area, offset: u64, len: usize) -> Result<Self::Node, Self::Error>;
    fn descriptor(&mut self, fd: OwnedFd) -> Result<Self::Node, Self::Error>;
}

/// Reads a message: an array, and nothing before or after it. `kept` is what the peer keeps with this end.
pub fn read(bytes: &[u8], fds: Vec<OwnedFd>, kept: &mut Kept) -> Result<Vec<Value>, WireError> {
    let mut given = Given::new(fds);
    let Value::Array(elements) = Reader::new(bytes, &mut given, &mut kept.area).whole(&mut Plain)? else {
        return Err(Bad("not an array"));
    };
    given.all_named()?;
    kept.read += u64::from(given.from_area);
    Ok(elements)
}

/// The descriptors that came with a message.
#[derive(Debug, Default)]
pub struct Given {
    fds: Vec<Option<OwnedFd>>,
    large: usize,
    /// Did anything lie in the area that is kept?
    pub from_area: bool,
}

impl Given {
    pub fn new(fds: Vec<OwnedFd>) -> Given {
        Given {
            fds: fds.into_iter().map(Some).collect(),
            ..Given::default()
        }
    }

    pub fn all_named(&self) -> Result<(), WireError> {
        match self.fds.iter().any(Option::is_some) {
            true => Err(Bad("a descriptor that nothing names")),
            false => Ok(()),
        }
    }

    /// The message that LARGE stands for, which lies in the last descriptor.
    pub fn long(&mut self, len: usize) -> Result<Vec<u8>, WireError> {
        self.add_large(len)?;
        let fd = self.fds.pop().flatten().ok_or(Bad("LARGE without a descriptor"))?;
        Area::check(fd)?.read(0, len)
    }

    fn add_large(&mut self, len: usize) -> Result<(), WireError> {
        self.large = self.large.saturating_add(len);
        if self.large > largest() {
            return Err(Bad("more bytes than a message may have"));
        }
        Ok(())
    }

    fn take(&mut self, at: i64) -> Result<OwnedFd, WireError> {
        let slot = usize::try_from(at).ok().and_then(|at| self.fds.get_mut(at));
        slot.and_then(Option::take)
            .ok_or(Bad("a descriptor that did not come, or is named twice"))
    }
}

/// Reads one message, from its beginning to its end.
pub struct Reader<'a> {
    rest: &'a [u8],
    values: usize,
    given: &'a mut Given,
    area: &'a mut Option<Area>,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], given: &'a mut Given, area: &'a mut Option<Area>) -> Reader<'a> {
        Reader {
            rest: bytes,
            values: 0,
            given,
            area,
        }
    }

    /// The one value that these bytes are.
    pub fn whole<B: Build>(&mut self, build: &mut B) -> Result<B::Node, B::Error> {
        let value = self.value(build, 0)?;
        self.end()?;
        Ok(value)
    }

    /// Nothing may follow.
    pub fn end(&self) -> Result<(), WireError> {
        match self.rest {
            [] => Ok(()),
            _ => Err(Bad("something follows the value")),
        }
    }

    /// The head of an array in as many others: how many elements follow. None, and nothing read, if it is something else.
    pub fn array(&mut self, depth: usize) -> Result<Option<usize>, WireError> {
        let len = match self.rest {
            [marker @ 0x90..=0x9f, rest @ ..] => {
                self.rest = rest;
                usize::from(marker & 0x0f)
            }
            _ => return Ok(None),
        };
        self.values += 1;
        self.room(len, depth)?;
        Ok(Some(len))
    }

    /// Text of up to 31 bytes. None, and nothing read, if it is something else.
    pub fn short_str(&mut self) -> Result<Option<&'a str>, WireError> {
        let [marker @ 0xa0..=0xbf, rest @ ..] = self.rest else {
            return Ok(None);
        };
        self.rest = rest;
        self.values += 1;
        let text = self.take(usize::from(marker & 0x1f))?;
        Ok(Some(
            std::str::from_utf8(text).map_err(|_| Bad("text that is not UTF-8"))?,
        ))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Bad("it ends too soon"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn len(&mut self, width: u8) -> Result<usize, WireError> {
        Ok(match width {
            0 => usize::from(self.number::<1>()?[0]),
            1 => usize::from(u16::from_be_bytes(self.number()?)),
            _ => u32::from_be_bytes(self.number()?) as usize,
        })
    }

    /// One value, which lies in as many containers as `depth` says.
    pub fn value<B: Build>(&mut self, build: &mut B, depth: usize) -> Result<B::Node, B::Error> {
        self.values += 1;
        if self.values > MOST_VALUES {
            return Err(Bad("too many values").into());
        }
        let marker = self.number::<1>()?[0];
        match marker {
            0x00..=0x7f => build.int(i64::from(marker)),
            0x80..=0x8f => self.map(build, usize::from(marker & 0x0f), depth),
            0x90..=0x9f => self.items(build, usize::from(marker & 0x0f), depth),
            0xa0..=0xbf => self.str(build, usize::from(marker & 0x1f)),
            0xc0 => Ok(build.nil()),
            0xc1 => Err(Bad("the byte 0xc1").into()),
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
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| Bad("text that is not UTF-8"))?;
        build.str(text)
    }

    /// What is to come takes a byte each at the least.
    fn room(&self, len: usize, depth: usize) -> Result<(), WireError> {
        if depth >= DEEPEST {
            return Err(Bad("nested too deep"));
        }
        if len > self.rest.len() {
            return Err(Bad("it ends too soon"));
        }
        if self.values + len > MOST_VALUES {
            return Err(Bad("too many values"));
        }
        Ok(())
    }

    fn items<B: Build>(&mut self, build: &mut B, len: usize, depth: usize) -> Result<B::Node, B::Error> {
        let items = self.elements(build, len, depth)?;
        build.array(items)
    }

    /// The elements of an array whose head has been read.
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
            let key = self.value(build, depth + 1)?;
            entries.push((key, self.value(build, depth + 1)?));
        }
        build.map(entries)
    }

    fn ext<B: Build>(&mut self, build: &mut B, len: usize, depth: usize) -> Result<B::Node, B::Error> {
        if depth >= DEEPEST {
            return Err(Bad("nested too deep").into());
        }
        let kind = self.number::<1>()?[0] as i8;
        let data = self.take(len)?;
        match kind {
            1 | 9 | 10 | 11 | 13 => return build.raw(kind, data),
            2..=8 | 12 | 20 | 21 => {}
            _ => return Err(Bad("an unknown extension").into()),
        }
        let after = std::mem::replace(&mut self.rest, data);
        if kind >= 20 {
            let inner = self.value(&mut Plain, depth + 1)?;
            self.end()?;
            self.rest = after;
            let Value::Array(parts) = inner else {
                return Err(Bad("an extension with a value of another kind").into());
            };
            if kind == 20 {
                return self.memfd(build, &parts);
            }
            return match parts.as_slice() {
                [Value::Int(at), ..] => build.descriptor(self.given.take(*at)?),
                _ => Err(Bad("a descriptor that is none").into()),
            };
        }
        let inner = self.value(build, depth + 1)?;
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
            return Err(Bad("bytes in a memfd that are none").into());
        };
        let (Ok(offset), Ok(len)) = (u64::try_from(*offset), usize::try_from(*len)) else {
            return Err(Bad("bytes in a memfd that are none").into());
        };
        self.given.add_large(len)?;
        if *at == -1 {
            let area = self.area.as_ref().filter(|_| !keep);
            let area = area.ok_or(Bad("bytes in an area that was never sent"))?;
            self.given.from_area = true;
            return build.large(area, offset, len);
        }
        let area = Area::check(self.given.take(*at)?)?;
        let value = build.large(&area, offset, len)?;
        if *keep {
            *self.area = Some(area);
            self.given.from_area = true;
        }
        Ok(value)
    }
}

/// Makes a `Value` of what is read.
pub struct Plain;

impl Build for Plain {
    type Node = Value;
    type Error = WireError;

    fn nil(&mut self) -> Value {
        Value::Nil
    }

    fn bool(&mut self, value: bool) -> Value {
        Value::Bool(value)
    }

    fn int(&mut self, value: i64) -> Result<Value, WireError> {
        Ok(Value::Int(value))
    }

    fn uint(&mut self, value: u64) -> Result<Value, WireError> {
        Ok(Value::UInt(value))
    }

    fn float(&mut self, value: f64) -> Result<Value, WireError> {
        Ok(Value::Float(value))
    }

    fn str(&mut self, text: &str) -> Result<Value, WireError> {
        Ok(Value::Str(text.to_owned()))
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<Value, WireError> {
        Ok(Value::Bytes(bytes.to_vec()))
    }

    fn array(&mut self, items: Vec<Value>) -> Result<Value, WireError> {
        Ok(Value::Array(items))
    }

    fn map(&mut self, entries: Vec<(Value, Value)>) -> Result<Value, WireError> {
        if entries
            .iter()
            .any(|(key, _)| matches!(key, Value::Array(_) | Value::Map(_) | Value::Fd(_)))
        {
            return Err(Bad("a key that is no plain value"));
        }
        distinct(entries.iter().map(|(key, _)| key))?;
        Ok(Value::Map(entries))
    }

    fn raw(&mut self, kind: i8, data: &[u8]) -> Result<Value, WireError> {
        match kind {
            1 if !data.is_empty() => {
                if let Some(number) = small(data) {
                    return Ok(number);
                }
            }
            9 if data.is_ascii() && !data.is_empty() => {}
            10 | 11 if data.len() == 16 => {}
            13 => {}
            _ => return Err(Bad("a broken extension")),
        }
        Ok(Value::Other(kind, data.to_vec()))
    }

    fn holding(&mut self, kind: i8, inner: Value, data: &[u8]) -> Result<Value, WireError> {
        Ok(match (kind, inner) {
            (2, Value::Array(items)) => Value::Tuple(items),
            (3, Value::Array(items)) => {
                distinct(items.iter())?;
                Value::Set(items)
            }
            (4, Value::Array(items)) => {
                distinct(items.iter())?;
                Value::FrozenSet(items)
            }
            (5..=8, Value::Array(parts)) => {
                let plain = |p: &Value| matches!(p, Value::Int(_) | Value::Nil);
                let long = [9, 3, 6, 3][(kind - 5) as usize];
                if parts.len() != long || !parts.iter().all(plain) {
                    return Err(Bad("a date or time that is none"));
                }
                Value::Other(kind, data.to_vec())
            }
            (12, member @ (Value::Str(_) | Value::Int(_) | Value::UInt(_))) => Value::Member(Box::new(member)),
            _ => return Err(Bad("an extension with a value of another kind")),
        })
    }

    fn large(&mut self, area: &Area, offset: u64, len: usize) -> Result<Value, WireError> {
        Ok(Value::Bytes(area.read(offset, len)?))
    }

    fn descriptor(&mut self, fd: OwnedFd) -> Result<Value, WireError> {
        Ok(Value::Fd(Descriptor(Arc::new(fd))))
    }
}

/// An integer that would have had no need of an extension: it is the same number.
fn small(data: &[u8]) -> Option<Value> {
    let sign = if data[0] & 0x80 == 0 { 0 } else { 0xff };
    let more = data.len().saturating_sub(9);
    if data[..more].iter().any(|b| *b != sign) {
        return None;
    }
    let number = data[more..]
        .iter()
        .fold(if sign == 0 { 0i128 } else { -1 }, |n, b| n << 8 | i128::from(*b));
    i64::try_from(number)
        .map(Value::Int)
        .or_else(|_| u64::try_from(number).map(Value::UInt))
        .ok()
}

/// No key, or element of a set, may stand twice.
fn distinct<'v>(values: impl ExactSizeIterator<Item = &'v Value> + Clone) -> Result<(), WireError> {
    let twice = Bad("the same key or element twice");
    if values.len() <= 8 {
        let mut rest = values;
        while let Some(one) = rest.next() {
            if rest.clone().any(|other| other == one) {
                return Err(twice);
            }
        }
        return Ok(());
    }
    let mut seen = std::collections::HashSet::with_capacity(values.len());
    for value in values {
        let mut writer = Writer::bare();
        writer.value(value)?;
        if !seen.insert(writer.finish().bytes) {
            return Err(twice);
        }
    }
    Ok(())
}
