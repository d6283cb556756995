//! Types as they stand in signatures (docs/reference/rpc-protocol.md), and bytes, for which serde has no type.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// A type that stands in a signature. Structs and enumerations derive it.
pub trait Typed {
    /// Its text. `within` are the records that this one stands in, so that one may hold its own kind.
    fn text(within: &mut Vec<&'static str>) -> String;
}

macro_rules! typed {
    ($($text:literal: $($of:ty),*;)*) => { $($(
        impl Typed for $of {
            fn text(_: &mut Vec<&'static str>) -> String {
                $text.to_owned()
            }
        }
    )*)* };
}
typed! {
    "nil": ();
    "bool": bool;
    "int": i8, i16, i32, i64, i128, u8, u16, u32, u64;
    "float": f32, f64;
    "str": String, char;
    "bytes": Bytes;
}

impl<T: Typed> Typed for Vec<T> {
    fn text(within: &mut Vec<&'static str>) -> String {
        format!("list[{}]", T::text(within))
    }
}

impl<T: Typed> Typed for Box<T> {
    fn text(within: &mut Vec<&'static str>) -> String {
        T::text(within)
    }
}

impl<T: Typed> Typed for Option<T> {
    fn text(within: &mut Vec<&'static str>) -> String {
        format!("{}|nil", T::text(within))
    }
}

impl<K: Typed, V: Typed, S> Typed for HashMap<K, V, S> {
    fn text(within: &mut Vec<&'static str>) -> String {
        format!("map[{},{}]", K::text(within), V::text(within))
    }
}

impl<K: Typed, V: Typed> Typed for BTreeMap<K, V> {
    fn text(within: &mut Vec<&'static str>) -> String {
        format!("map[{},{}]", K::text(within), V::text(within))
    }
}

macro_rules! tuples {
    ($($($name:ident)+;)*) => { $(
        impl<$($name: Typed),+> Typed for ($($name,)+) {
            fn text(within: &mut Vec<&'static str>) -> String {
                format!("tuple[{}]", [$($name::text(within)),+].join(","))
            }
        }
    )* };
}
tuples! { A; A B; A B C; A B C D; A B C D E; A B C D E F; A B C D E F G; A B C D E F G H; }

/// Bytes: serde would have a `Vec<u8>` cross as a list of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bytes(
    /// The bytes themselves.
    pub Vec<u8>,
);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_byte_buf<E>(self, v: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(v))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

/// What a function may return: a result whose error can hold what a call comes to.
pub trait Outcome {
    /// What it returns.
    type Value;
    /// At the caller.
    fn from_call(result: Result<Self::Value, Error>) -> Self;
    /// In the service.
    fn into_call(self) -> Result<Self::Value, Error>;
}

impl<T, E: From<Error> + Into<Error>> Outcome for Result<T, E> {
    type Value = T;
    fn from_call(result: Result<T, Error>) -> Self {
        result.map_err(E::from)
    }
    fn into_call(self) -> Result<T, Error> {
        self.map_err(E::into)
    }
}

/// 64-bit FNV-1a of a signature.
pub fn hash(signature: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211);
    signature.bytes().fold(14_695_981_039_346_656_037, step)
}
