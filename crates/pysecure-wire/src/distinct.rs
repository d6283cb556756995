//! Makes [`Value`]s of what is read, and tells keys and elements of sets apart.

use crate::area::{IncomingArea, Memfd};
use crate::build::{Build, scalars};
use crate::error::{Malformed, WireError};
use crate::extension;
use crate::kind::extension::{DATETIME, FROZENSET, SET, TIMEDELTA, TUPLE};
use crate::reader::{Reader, ReceivedFds};
use crate::value::{Descriptor, Value};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Reads a message's elements: an array, and nothing before or after it. All descriptors have to be named in it.
pub fn read(bytes: &[u8], fds: Vec<OwnedFd>, area: &mut IncomingArea) -> Result<Vec<Value>, WireError> {
    let mut received = ReceivedFds::new(fds);
    let values = &mut Values::default();
    let elements = match Reader::new(bytes, &mut received, area).whole(values)? {
        (Value::Array(elements), _) => elements,
        _ => return Err(Malformed::Array.into()),
    };
    received.finish(area)?;
    Ok(elements)
}

impl Value {
    /// The numbers that a date, time or time span is made of, in the order in which docs/reference/rpc-protocol.md has them.
    pub fn parts(&self) -> Option<Vec<Option<i64>>> {
        let Value::Other(DATETIME..=TIMEDELTA, data) = self else {
            return None;
        };
        let parts = read(data, Vec::new(), &mut IncomingArea::default()).ok()?;
        let number = |part| match part {
            Value::Int(n) => Some(n),
            _ => None,
        };
        Some(parts.into_iter().map(number).collect())
    }
}

/// Makes a `Value` of whatever is read, and tells keys and elements of sets apart in a time that grows with what came alone.
/// With each container that lies in a key or a set comes a digest of it, made of those of what it holds.
#[derive(Default)]
pub(crate) struct Values {
    /// In how many keys and sets what comes lies.
    keyed: usize,
    /// Digests of what the last array in a key or a set holds.
    last: Vec<u128>,
    hashers: Option<[RandomState; 2]>,
    /// How many values were met that equal no other, such as NaN.
    unlike: u64,
}

pub(crate) type Digested = (Value, Option<u128>);

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
        true => Err(Malformed::Duplicate.into()),
        false => Ok(()),
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
            return Err(Malformed::Key.into());
        }
        // What most maps are: a record, or nearly one.
        let names: Option<Vec<&str>> = match entries.len() <= 8 && self.keyed == 0 {
            true => entries.iter().map(|((key, _), _)| key.text()).collect(),
            false => None,
        };
        let mut digest = None;
        if let Some(names) = names {
            if (1..names.len()).any(|at| names[..at].contains(&names[at])) {
                return Err(Malformed::Duplicate.into());
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
            (TUPLE, Value::Array(items)) => {
                let digest = digest.and_then(|inner| self.container(2, &[inner]));
                (Value::Tuple(items), digest)
            }
            (SET | FROZENSET, Value::Array(items)) => {
                // Its array was the last to be made.
                distinct(&std::mem::take(&mut self.last))?;
                let digest = digest.and_then(|inner| self.container(kind as u8, &[inner]));
                match kind {
                    SET => (Value::Set(items), digest),
                    _ => (Value::FrozenSet(items), digest),
                }
            }
            (_, inner) => (extension::holding(kind, inner, data)?, None),
        })
    }

    fn keyed(&mut self, begins: bool) {
        match begins {
            true => self.keyed += 1,
            false => self.keyed -= 1,
        }
    }
}
