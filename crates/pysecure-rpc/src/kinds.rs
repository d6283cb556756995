//! Kinds of value that the wire has and serde has not: sets, dates and times, UUIDs, decimals, descriptors. They cross as parameters and
//! results of `#[rpc]`, and within what serde derives; another format than this crate's does not take them.

use crate::error::Error;
use crate::types::Typed;
use pysecure_wire::{Descriptor, Value, Writer, kind::extension};
use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde::ser::{self, Serializer};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The name by which this crate's encoder and decoder know that a value is handed over beside serde, which has no words
/// for it.
pub(crate) const SIDE_CHANNEL: &str = "$pysecure_rpc::side_channel";

thread_local! {
    static HANDED: RefCell<Option<Value>> = const { RefCell::new(None) };
}

pub(crate) fn hand(value: Value) {
    HANDED.set(Some(value));
}

pub(crate) fn handed() -> Option<Value> {
    HANDED.take()
}

fn give<S: Serializer>(value: Value, serializer: S) -> Result<S::Ok, S::Error> {
    hand(value);
    let out = serializer.serialize_newtype_struct(SIDE_CHANNEL, &());
    // Our encoder has taken it.
    match handed() {
        None => out,
        Some(_) => Err(ser::Error::custom("a value that only PySecure's RPC can carry")),
    }
}

fn take<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    struct Handed;
    impl<'de> Visitor<'de> for Handed {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a value of PySecure's RPC")
        }
        fn visit_unit<E>(self) -> Result<(), E> {
            Ok(())
        }
    }
    drop(handed());
    deserializer.deserialize_newtype_struct(SIDE_CHANNEL, Handed)?;
    handed().ok_or_else(|| de::Error::custom("a value that only PySecure's RPC can carry"))
}

/// A kind of value, by its text in signatures, and how it becomes a [`Value`] and comes of one.
macro_rules! kind {
    ($of:ty, $text:literal, $to:expr, $from:expr) => {
        impl Typed for $of {
            fn text(_: &mut Vec<&'static str>) -> String {
                $text.to_owned()
            }
        }
        impl Serialize for $of {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let to: fn(&$of) -> Value = $to;
                give(to(self), serializer)
            }
        }
        impl<'de> Deserialize<'de> for $of {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$of, D::Error> {
                let from: fn(Value) -> Option<$of> = $from;
                let wanted = || de::Error::custom(concat!("another value where ", $text, " is wanted"));
                from(take(deserializer)?).ok_or_else(wanted)
            }
        }
    };
}

/// An open file, which the receiver gets a descriptor of.
#[derive(Clone, Debug)]
pub struct Fd(Arc<OwnedFd>);

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Fd {
        Fd(Arc::new(fd))
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Fd {
    /// The descriptor itself, if nothing else has it.
    pub fn into_owned(self) -> Option<OwnedFd> {
        Arc::into_inner(self.0)
    }
}

kind!(
    Fd,
    "fd",
    |fd| Value::Fd(Descriptor(fd.0.clone())),
    |value| match value {
        Value::Fd(Descriptor(fd)) => Some(Fd(fd)),
        _ => None,
    }
);

/// A UUID's 16 bytes, as RFC 9562 has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(
    /// In network byte order.
    pub [u8; 16],
);

kind!(
    Uuid,
    "uuid",
    |uuid| Value::Other(extension::UUID, uuid.0.to_vec()),
    |value| match value {
        Value::Other(extension::UUID, bytes) => bytes.try_into().ok().map(Uuid),
        _ => None,
    }
);

/// A decimal number as text: `1.50`. Text that is no number cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decimal(
    /// The text.
    pub String,
);

kind!(
    Decimal,
    "decimal",
    |decimal| Value::Other(extension::DECIMAL, decimal.0.clone().into_bytes()),
    |value| match value {
        Value::Other(extension::DECIMAL, text) => String::from_utf8(text).ok().map(Decimal),
        _ => None,
    }
);

fn parts(kind: i8, parts: &[Option<i64>]) -> Value {
    let mut writer = Writer::bare();
    writer.array(parts.len());
    for part in parts {
        match part {
            Some(number) => writer.int(*number),
            None => writer.nil(),
        }
    }
    Value::Other(kind, writer.finish().bytes)
}

/// Of that kind, and so many numbers.
fn numbers<const N: usize>(kind: i8, value: &Value) -> Option<[Option<i64>; N]> {
    match value {
        Value::Other(found, _) if *found == kind => value.parts()?.try_into().ok(),
        _ => None,
    }
}

fn small<T: TryFrom<i64>>(part: Option<i64>) -> Option<T> {
    part.and_then(|number| T::try_from(number).ok())
}

/// A day in the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Date {
    /// 1 to 9999.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

kind!(
    Date,
    "date",
    |d| parts(
        extension::DATE,
        &[Some(d.year.into()), Some(d.month.into()), Some(d.day.into())]
    ),
    |value| {
        let [year, month, day] = numbers(extension::DATE, &value)?;
        Some(Date {
            year: small(year)?,
            month: small(month)?,
            day: small(day)?,
        })
    }
);

/// A time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Time {
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// 0 to 999,999.
    pub microsecond: u32,
    /// Microseconds east of UTC, where that is said.
    pub offset: Option<i64>,
    /// Of a time that comes twice: is it the second?
    pub fold: bool,
}

impl Time {
    fn parts(&self) -> [Option<i64>; 6] {
        [
            Some(self.hour.into()),
            Some(self.minute.into()),
            Some(self.second.into()),
            Some(self.microsecond.into()),
            self.offset,
            Some(self.fold.into()),
        ]
    }

    fn of([hour, minute, second, microsecond, offset, fold]: [Option<i64>; 6]) -> Option<Time> {
        Some(Time {
            hour: small(hour)?,
            minute: small(minute)?,
            second: small(second)?,
            microsecond: small(microsecond)?,
            offset,
            fold: fold? != 0,
        })
    }
}

kind!(Time, "time", |time| parts(extension::TIME, &time.parts()), |value| {
    Time::of(numbers(extension::TIME, &value)?)
});

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DateTime {
    /// The day.
    pub date: Date,
    /// The time of that day.
    pub time: Time,
}

kind!(
    DateTime,
    "datetime",
    |at| {
        let Date { year, month, day } = at.date;
        let date = [Some(year.into()), Some(month.into()), Some(day.into())];
        parts(extension::DATETIME, &[&date[..], &at.time.parts()].concat())
    },
    |value| {
        let [year, month, day, hour, minute, second, microsecond, offset, fold] = numbers(extension::DATETIME, &value)?;
        Some(DateTime {
            date: Date {
                year: small(year)?,
                month: small(month)?,
                day: small(day)?,
            },
            time: Time::of([hour, minute, second, microsecond, offset, fold])?,
        })
    }
);

/// A span of time, as Python has it: days of either sign, and what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimeDelta {
    /// -999,999,999 to 999,999,999.
    pub days: i32,
    /// 0 to 86,399.
    pub seconds: u32,
    /// 0 to 999,999.
    pub microseconds: u32,
}

kind!(
    TimeDelta,
    "timedelta",
    |t| parts(
        extension::TIMEDELTA,
        &[Some(t.days.into()), Some(t.seconds.into()), Some(t.microseconds.into())]
    ),
    |value| {
        let [days, seconds, microseconds] = numbers(extension::TIMEDELTA, &value)?;
        Some(TimeDelta {
            days: small(days)?,
            seconds: small(seconds)?,
            microseconds: small(microseconds)?,
        })
    }
);

/// A set: serde would have any of Rust's cross as a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Set<T: Ord>(
    /// Its elements.
    pub BTreeSet<T>,
);

impl<T: Ord + Typed> Typed for Set<T> {
    fn text(within: &mut Vec<&'static str>) -> String {
        format!("set[{}]", T::text(within))
    }
}

impl<T: Ord + Serialize> Serialize for Set<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let items: Result<Vec<Value>, Error> = self.0.iter().map(crate::to_value).collect();
        give(Value::Set(items.map_err(ser::Error::custom)?), serializer)
    }
}

impl<'de, T: Ord + DeserializeOwned> Deserialize<'de> for Set<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Set<T>, D::Error> {
        match take(deserializer)? {
            Value::Set(items) => {
                let items: Result<BTreeSet<T>, Error> = items.into_iter().map(crate::from_value).collect();
                items.map(Set).map_err(de::Error::custom)
            }
            _ => Err(de::Error::custom("another value where a set is wanted")),
        }
    }
}
