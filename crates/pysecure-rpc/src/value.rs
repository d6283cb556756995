//! Values, and how they stand on the wire (docs/rpc-protocol.md). What is decoded comes from somebody who may be hostile:
//! no length is believed before it is checked against what is there, and nothing but plain values comes of it.

use crate::memfd::{Area, Kept};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// The most containers and extensions in each other, the message itself being the first.
pub(crate) const DEEPEST: usize = 64;
/// The most values in one message.
pub const MOST_VALUES: usize = 1_000_000;
/// The longest name of a function that is looked for; a longer one is none, whatever follows.
const LONGEST_NAME: usize = 1 << 12;
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
    fn text(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

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
    /// What comes from here on is a key, or in a set, until the same is said with false.
    fn keyed(&mut self, _begins: bool) {}
}

/// What a CALL asks for.
#[derive(Debug, PartialEq)]
pub struct Asked<'a> {
    pub id: i64,
    /// None if it is longer than any function's.
    pub function: Option<&'a str>,
}

/// What a message asks for, if it is a CALL, before anything is made of its arguments: whoever may not call the function
/// must not have them decoded. `bytes` is the message's beginning, all of it or 8 KiB at the least; `whole` its length.
pub fn asked(bytes: &[u8], whole: usize) -> Result<Option<Asked<'_>>, WireError> {
    let (mut given, mut area) = (Given::default(), None);
    let mut reader = Reader::new(bytes, &mut given, &mut area);
    let elements = match reader.number::<1>()?[0] {
        marker @ 0x90..=0x9f => usize::from(marker & 0x0f),
        marker @ (0xdc | 0xdd) => reader.len(marker - 0xdc + 1)?,
        _ => return Ok(None),
    };
    if elements == 0 || !is_int(reader.rest) {
        return Ok(None);
    }
    if reader.value(&mut Plain, 1)? != Value::Int(2) {
        return Ok(None);
    }
    if elements < 5 {
        return Err(Bad("a CALL of less than five values"));
    }
    let id = match is_int(reader.rest) {
        true => reader.value(&mut Plain, 1)?,
        false => Value::Nil,
    };
    let Value::Int(id @ 1..=0x20_0000_0000_0000) = id else {
        return Err(Bad("a CALL without a number"));
    };
    let len = match reader.number::<1>()?[0] {
        marker @ 0xa0..=0xbf => usize::from(marker & 0x1f),
        marker @ 0xd9..=0xdb => reader.len(marker - 0xd9)?,
        _ => return Err(Bad("a CALL without a function's name")),
    };
    let begin = bytes.len() - reader.rest.len();
    if len > LONGEST_NAME && begin + len <= whole {
        return Ok(Some(Asked { id, function: None }));
    }
    let name = bytes.get(begin..begin + len).ok_or(Bad("it ends too soon"))?;
    let name = std::str::from_utf8(name).map_err(|_| Bad("text that is not UTF-8"))?;
    Ok(Some(Asked {
        id,
        function: Some(name),
    }))
}

/// How much of a long message `asked` has to have.
pub const ASKED: usize = 2 * LONGEST_NAME;

/// Does an integer follow, in whatever way it is written?
fn is_int(rest: &[u8]) -> bool {
    let kind = match rest.first() {
        Some(0x00..=0x7f | 0xe0..=0xff | 0xcc..=0xd3) => return true,
        Some(0xd4..=0xd8) => 1,
        Some(0xc7) => 2,
        Some(0xc8) => 3,
        Some(0xc9) => 5,
        _ => return false,
    };
    rest.get(kind) == Some(&1)
}

/// Reads a message: an array, and nothing before or after it. `kept` is what the peer keeps with this end.
pub fn read(bytes: &[u8], fds: Vec<OwnedFd>, kept: &mut Kept) -> Result<Vec<Value>, WireError> {
    let mut given = Given::new(fds);
    let elements = elements(bytes, &mut given, kept)?;
    given.all_named()?;
    kept.read += u64::from(given.from_area);
    Ok(elements)
}

pub(crate) fn elements(bytes: &[u8], given: &mut Given, kept: &mut Kept) -> Result<Vec<Value>, WireError> {
    let build = &mut Values::default();
    match Reader::new(bytes, given, &mut kept.area).whole(build)? {
        (Value::Array(elements), _) => Ok(elements),
        _ => Err(Bad("not an array")),
    }
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

    /// The message that LARGE stands for, which lies in the last descriptor. `look` is shown its beginning, and may do without
    /// the rest, which is not read then.
    pub fn long<T>(
        &mut self,
        len: usize,
        look: impl FnOnce(&[u8]) -> Result<Option<T>, WireError>,
    ) -> Result<Result<Vec<u8>, T>, WireError> {
        self.add_large(len)?;
        let fd = self.fds.pop().flatten().ok_or(Bad("LARGE without a descriptor"))?;
        let area = Area::check(fd)?;
        area.holds(0, len)?;
        match look(&area.read(0, len.min(ASKED))?)? {
            Some(enough) => Ok(Err(enough)),
            None => Ok(Ok(area.read(0, len)?)),
        }
    }

    /// How many bytes came by memfd.
    pub fn large(&self) -> usize {
        self.large
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

    /// How many values there have been.
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
            build.keyed(true);
            let key = self.value(build, depth + 1);
            build.keyed(false);
            entries.push((key?, self.value(build, depth + 1)?));
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
        let set = matches!(kind, 3 | 4);
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

/// Makes a `Value` of numbers, text and the like, and of arrays of them, which is what a message's own elements are. Sets,
/// tuples and keys that hold others are refused: telling them apart is `Values`'.
pub struct Plain;

/// Makes a `Value` of whatever is read, and tells keys and elements of sets apart in a time that grows with what came alone.
/// With each container that lies in a key or a set comes a digest of it, made of those of what it holds.
#[derive(Default)]
struct Values {
    /// In how many keys and sets what comes lies.
    keyed: usize,
    /// Digests of what the last array in a key or a set holds.
    last: Vec<u128>,
    hashers: Option<[RandomState; 2]>,
    /// What is equal to nothing.
    unlike: u64,
}

type Digested = (Value, Option<u128>);

impl Values {
    fn hash(&mut self, of: impl Fn(&mut DefaultHasher)) -> u128 {
        let both = self.hashers.get_or_insert_with(Default::default);
        let [one, other] = [&both[0], &both[1]].map(|keys| {
            let mut hasher = keys.build_hasher();
            of(&mut hasher);
            hasher.finish()
        });
        u128::from(one) << 64 | u128::from(other)
    }

    /// Who does not know the keys finds no two with the same one.
    fn digest(&mut self, value: &Value) -> u128 {
        match value {
            Value::Nil => self.hash(|h| h.write_u8(0)),
            Value::Bool(v) => self.hash(|h| (1_u8, v).hash(h)),
            Value::Int(v) => self.hash(|h| (2_u8, v).hash(h)),
            Value::UInt(v) => self.hash(|h| (3_u8, v).hash(h)),
            Value::Float(v) if !v.is_nan() => {
                // Both zeros are equal.
                let bits = (v + 0.0).to_bits();
                self.hash(|h| (4_u8, bits).hash(h))
            }
            Value::Str(v) => self.hash(|h| (5_u8, v).hash(h)),
            Value::Bytes(v) => self.hash(|h| (6_u8, v).hash(h)),
            Value::Other(kind, v) => self.hash(|h| (7_u8, kind, v).hash(h)),
            Value::Member(v) => {
                let inner = self.digest(v);
                self.hash(|h| (8_u8, inner).hash(h))
            }
            _ => {
                self.unlike += 1;
                let unlike = self.unlike;
                self.hash(|h| (9_u8, unlike).hash(h))
            }
        }
    }

    fn of(&mut self, (value, digest): &Digested) -> u128 {
        match digest {
            Some(digest) => *digest,
            None => self.digest(value),
        }
    }

    /// A container of that kind, which holds these.
    fn container(&mut self, kind: u8, holds: &[u128]) -> Option<u128> {
        match self.keyed {
            0 => None,
            _ => Some(self.hash(|h| (10_u8, kind, holds).hash(h))),
        }
    }
}

/// No key, or element of a set, may stand twice.
fn distinct(digests: &[u128]) -> Result<(), WireError> {
    let mut sorted = digests.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).any(|w| w[0] == w[1]) {
        true => Err(Bad("the same key or element twice")),
        false => Ok(()),
    }
}

fn raw(kind: i8, data: &[u8]) -> Result<Value, WireError> {
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

const OTHER_KIND: WireError = Bad("an extension with a value of another kind");

/// Extensions that are no containers.
fn held(kind: i8, inner: Value, data: &[u8]) -> Result<Value, WireError> {
    Ok(match (kind, inner) {
        (5..=8, Value::Array(parts)) => {
            let plain = |p: &Value| matches!(p, Value::Int(_) | Value::Nil);
            let long = [9, 3, 6, 3][(kind - 5) as usize];
            if parts.len() != long || !parts.iter().all(plain) {
                return Err(Bad("a date or time that is none"));
            }
            Value::Other(kind, data.to_vec())
        }
        (12, member @ (Value::Str(_) | Value::Int(_) | Value::UInt(_))) => Value::Member(Box::new(member)),
        _ => return Err(OTHER_KIND),
    })
}

macro_rules! scalars {
    ($node:ty, $wrap:expr) => {
        fn nil(&mut self) -> $node {
            $wrap(Value::Nil)
        }

        fn bool(&mut self, value: bool) -> $node {
            $wrap(Value::Bool(value))
        }

        fn int(&mut self, value: i64) -> Result<$node, WireError> {
            Ok($wrap(Value::Int(value)))
        }

        fn uint(&mut self, value: u64) -> Result<$node, WireError> {
            Ok($wrap(Value::UInt(value)))
        }

        fn float(&mut self, value: f64) -> Result<$node, WireError> {
            Ok($wrap(Value::Float(value)))
        }

        fn str(&mut self, text: &str) -> Result<$node, WireError> {
            Ok($wrap(Value::Str(text.to_owned())))
        }

        fn bytes(&mut self, bytes: &[u8]) -> Result<$node, WireError> {
            Ok($wrap(Value::Bytes(bytes.to_vec())))
        }

        fn raw(&mut self, kind: i8, data: &[u8]) -> Result<$node, WireError> {
            raw(kind, data).map($wrap)
        }

        fn large(&mut self, area: &Area, offset: u64, len: usize) -> Result<$node, WireError> {
            Ok($wrap(Value::Bytes(area.read(offset, len)?)))
        }

        fn descriptor(&mut self, fd: OwnedFd) -> Result<$node, WireError> {
            Ok($wrap(Value::Fd(Descriptor(Arc::new(fd)))))
        }
    };
}

impl Build for Plain {
    type Node = Value;
    type Error = WireError;

    scalars!(Value, std::convert::identity);

    fn array(&mut self, items: Vec<Value>) -> Result<Value, WireError> {
        Ok(Value::Array(items))
    }

    fn map(&mut self, entries: Vec<(Value, Value)>) -> Result<Value, WireError> {
        match entries.is_empty() {
            true => Ok(Value::Map(entries)),
            false => Err(Bad("a map where none can be")),
        }
    }

    fn holding(&mut self, kind: i8, inner: Value, data: &[u8]) -> Result<Value, WireError> {
        held(kind, inner, data)
    }
}

impl Build for Values {
    type Node = Digested;
    type Error = WireError;

    scalars!(Digested, |value| (value, None));

    fn array(&mut self, items: Vec<Digested>) -> Result<Digested, WireError> {
        let mut digest = None;
        if self.keyed > 0 {
            let digests: Vec<u128> = items.iter().map(|item| self.of(item)).collect();
            digest = self.container(0, &digests);
            self.last = digests;
        }
        let items = items.into_iter().map(|(value, _)| value).collect();
        Ok((Value::Array(items), digest))
    }

    fn map(&mut self, entries: Vec<(Digested, Digested)>) -> Result<Digested, WireError> {
        let hold = |(value, _): &Digested| matches!(value, Value::Array(_) | Value::Map(_) | Value::Fd(_));
        if entries.iter().any(|(key, _)| hold(key)) {
            return Err(Bad("a key that is no plain value"));
        }
        // What most maps are: a record, or nearly one.
        let names: Option<Vec<&str>> = match entries.len() <= 8 && self.keyed == 0 {
            true => entries.iter().map(|((key, _), _)| key.text()).collect(),
            false => None,
        };
        let mut digest = None;
        if let Some(names) = names {
            if (1..names.len()).any(|at| names[..at].contains(&names[at])) {
                return Err(Bad("the same key or element twice"));
            }
        } else {
            let keys: Vec<u128> = entries.iter().map(|(key, _)| self.of(key)).collect();
            distinct(&keys)?;
            if self.keyed > 0 {
                let values = entries.iter().map(|(_, value)| self.of(value));
                let all: Vec<u128> = values.chain(keys.iter().copied()).collect();
                digest = self.container(1, &all);
            }
        }
        let entries = entries.into_iter().map(|((key, _), (value, _))| (key, value));
        Ok((Value::Map(entries.collect()), digest))
    }

    fn holding(&mut self, kind: i8, inner: Digested, data: &[u8]) -> Result<Digested, WireError> {
        let (inner, digest) = inner;
        Ok(match (kind, inner) {
            (2, Value::Array(items)) => {
                let digest = digest.and_then(|inner| self.container(2, &[inner]));
                (Value::Tuple(items), digest)
            }
            (3 | 4, Value::Array(items)) => {
                // Its array was the last to be made.
                distinct(&std::mem::take(&mut self.last))?;
                let digest = digest.and_then(|inner| self.container(kind as u8, &[inner]));
                match kind {
                    3 => (Value::Set(items), digest),
                    _ => (Value::FrozenSet(items), digest),
                }
            }
            (_, inner) => (held(kind, inner, data)?, None),
        })
    }

    fn keyed(&mut self, begins: bool) {
        match begins {
            true => self.keyed += 1,
            false => self.keyed -= 1,
        }
    }
}
