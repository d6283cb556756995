//! Values, and how they stand on the wire (docs/rpc-protocol.md). What is decoded comes from somebody who may be hostile:
//! no length is believed before it is checked against what is there, and nothing but plain values comes of it.

use crate::memfd::{Area, Kept};
use crate::writer::Writer;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// The most containers and extensions in each other, the message itself being the first.
pub(crate) const DEEPEST: usize = 64;
/// The most values in one message.
const MOST_VALUES: usize = 1_000_000;
/// The most descriptors with one message.
pub const MOST_DESCRIPTORS: usize = 16;
/// All large values of a message together, and a message by LARGE.
pub const LARGEST: usize = 64 << 20;

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

/// Reads a message: an array, and nothing before or after it. `kept` is what the peer keeps with this end.
pub fn read(bytes: &[u8], fds: Vec<OwnedFd>, kept: &mut Kept) -> Result<Vec<Value>, WireError> {
    let mut reader = Reader {
        rest: bytes,
        values: 0,
        large: 0,
        fds: fds.into_iter().map(Some).collect(),
        area: kept,
        used: false,
    };
    let Value::Array(elements) = reader.value(0)? else {
        return Err(Bad("not an array"));
    };
    if !reader.rest.is_empty() {
        return Err(Bad("something follows the array"));
    }
    if reader.fds.iter().any(Option::is_some) {
        return Err(Bad("a descriptor that nothing names"));
    }
    reader.area.read += u64::from(reader.used);
    Ok(elements)
}

struct Reader<'a> {
    rest: &'a [u8],
    values: usize,
    large: usize,
    fds: Vec<Option<OwnedFd>>,
    area: &'a mut Kept,
    used: bool,
}

impl<'a> Reader<'a> {
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

    fn value(&mut self, depth: usize) -> Result<Value, WireError> {
        self.values += 1;
        if self.values > MOST_VALUES {
            return Err(Bad("too many values"));
        }
        let marker = self.number::<1>()?[0];
        Ok(match marker {
            0x00..=0x7f => Value::Int(i64::from(marker)),
            0x80..=0x8f => self.map(usize::from(marker & 0x0f), depth)?,
            0x90..=0x9f => Value::Array(self.items(usize::from(marker & 0x0f), depth)?),
            0xa0..=0xbf => self.str(usize::from(marker & 0x1f))?,
            0xc0 => Value::Nil,
            0xc1 => return Err(Bad("the byte 0xc1")),
            0xc2 => Value::Bool(false),
            0xc3 => Value::Bool(true),
            0xc4..=0xc6 => {
                let len = self.len(marker - 0xc4)?;
                Value::Bytes(self.take(len)?.to_vec())
            }
            0xc7..=0xc9 => {
                let len = self.len(marker - 0xc7)?;
                self.ext(len, depth)?
            }
            0xca => Value::Float(f64::from(f32::from_be_bytes(self.number()?))),
            0xcb => Value::Float(f64::from_be_bytes(self.number()?)),
            0xcc => Value::Int(i64::from(self.number::<1>()?[0])),
            0xcd => Value::Int(i64::from(u16::from_be_bytes(self.number()?))),
            0xce => Value::Int(i64::from(u32::from_be_bytes(self.number()?))),
            0xcf => {
                let wide = u64::from_be_bytes(self.number()?);
                i64::try_from(wide).map_or(Value::UInt(wide), Value::Int)
            }
            0xd0 => Value::Int(i64::from(i8::from_be_bytes(self.number()?))),
            0xd1 => Value::Int(i64::from(i16::from_be_bytes(self.number()?))),
            0xd2 => Value::Int(i64::from(i32::from_be_bytes(self.number()?))),
            0xd3 => Value::Int(i64::from_be_bytes(self.number()?)),
            0xd4..=0xd8 => self.ext(1 << (marker - 0xd4), depth)?,
            0xd9..=0xdb => {
                let len = self.len(marker - 0xd9)?;
                self.str(len)?
            }
            0xdc | 0xdd => {
                let len = self.len(marker - 0xdc + 1)?;
                Value::Array(self.items(len, depth)?)
            }
            0xde | 0xdf => {
                let len = self.len(marker - 0xde + 1)?;
                self.map(len, depth)?
            }
            0xe0..=0xff => Value::Int(i64::from(marker as i8)),
        })
    }

    fn str(&mut self, len: usize) -> Result<Value, WireError> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| Bad("text that is not UTF-8"))?;
        Ok(Value::Str(text.to_owned()))
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

    fn items(&mut self, len: usize, depth: usize) -> Result<Vec<Value>, WireError> {
        self.room(len, depth)?;
        let mut items = Vec::with_capacity(len);
        for _ in 0..len {
            items.push(self.value(depth + 1)?);
        }
        Ok(items)
    }

    fn map(&mut self, len: usize, depth: usize) -> Result<Value, WireError> {
        self.room(len.saturating_mul(2), depth)?;
        let mut entries = Vec::with_capacity(len);
        for _ in 0..len {
            let key = self.value(depth + 1)?;
            if matches!(key, Value::Array(_) | Value::Map(_) | Value::Fd(_)) {
                return Err(Bad("a key that is no plain value"));
            }
            entries.push((key, self.value(depth + 1)?));
        }
        distinct(entries.iter().map(|(key, _)| key))?;
        Ok(Value::Map(entries))
    }

    fn ext(&mut self, len: usize, depth: usize) -> Result<Value, WireError> {
        if depth >= DEEPEST {
            return Err(Bad("nested too deep"));
        }
        let kind = self.number::<1>()?[0] as i8;
        let data = self.take(len)?;
        match kind {
            2..=8 | 12 | 20 | 21 => {}
            1 if !data.is_empty() => return Ok(Value::Other(kind, data.to_vec())),
            9 if data.is_ascii() && !data.is_empty() => return Ok(Value::Other(kind, data.to_vec())),
            10 | 11 if data.len() == 16 => return Ok(Value::Other(kind, data.to_vec())),
            13 => return Ok(Value::Other(kind, data.to_vec())),
            _ => return Err(Bad("an unknown or broken extension")),
        }
        let after = std::mem::replace(&mut self.rest, data);
        let inner = self.value(depth + 1);
        let left = std::mem::replace(&mut self.rest, after);
        let inner = inner?;
        if !left.is_empty() {
            return Err(Bad("something follows an extension's value"));
        }
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
            (20, Value::Array(parts)) => self.memfd(&parts)?,
            (21, Value::Array(parts)) => match parts.as_slice() {
                [Value::Int(at)] => Value::Fd(Descriptor(Arc::new(self.fd(*at)?))),
                _ => return Err(Bad("a descriptor that is none")),
            },
            _ => return Err(Bad("an extension with a value of another kind")),
        })
    }

    fn fd(&mut self, at: i64) -> Result<OwnedFd, WireError> {
        let slot = usize::try_from(at).ok().and_then(|at| self.fds.get_mut(at));
        slot.and_then(Option::take)
            .ok_or(Bad("a descriptor that did not come, or is named twice"))
    }

    fn memfd(&mut self, parts: &[Value]) -> Result<Value, WireError> {
        let [Value::Int(at), Value::Int(offset), Value::Int(len), Value::Bool(keep)] = parts else {
            return Err(Bad("bytes in a memfd that are none"));
        };
        let (Ok(offset), Ok(len)) = (u64::try_from(*offset), usize::try_from(*len)) else {
            return Err(Bad("bytes in a memfd that are none"));
        };
        self.large = self.large.saturating_add(len);
        if self.large > LARGEST {
            return Err(Bad("more than 64 MiB of bytes"));
        }
        if *at == -1 {
            self.used = true;
            let area = self
                .area
                .area
                .as_ref()
                .ok_or(Bad("bytes in an area that was never sent"))?;
            return Ok(Value::Bytes(area.read(offset, len)?));
        }
        let area = Area::check(self.fd(*at)?)?;
        let bytes = area.read(offset, len)?;
        if *keep {
            self.used = true;
            self.area.area = Some(area);
        }
        Ok(Value::Bytes(bytes))
    }
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
