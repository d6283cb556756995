//! [`Value`]s as Rust's values, by serde. A value of another type is an error, never converted.

use crate::error::Error;
use crate::kinds;
use pysecure_wire::{Value, kind::extension};
use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor};

/// A value as a type of Rust's. One of another type is an error.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    T::deserialize(Decoder(value))
}

struct Decoder(Value);

impl IntoDeserializer<'_, Error> for Decoder {
    type Deserializer = Decoder;
    fn into_deserializer(self) -> Decoder {
        self
    }
}

fn entry((key, value): (Value, Value)) -> (Decoder, Decoder) {
    (Decoder(key), Decoder(value))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Bool(_) => "a bool",
        Value::Int(_) | Value::UInt(_) => "an int",
        Value::Float(_) => "a float",
        Value::Str(_) => "text",
        Value::Bytes(_) => "bytes",
        Value::Array(_) => "a list",
        Value::Map(_) => "a map",
        Value::Tuple(_) => "a tuple",
        Value::Set(_) | Value::FrozenSet(_) => "a set",
        Value::Member(_) => "a member of an enumeration",
        Value::Fd(_) => "a descriptor",
        Value::Other(extension::INTEGER, _) => "a big int",
        Value::Other(..) => "an extension",
    }
}

impl<'de> de::Deserializer<'de> for Decoder {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Nil => visitor.visit_unit(),
            Value::Bool(v) => visitor.visit_bool(v),
            Value::Int(v) => visitor.visit_i64(v),
            Value::UInt(v) => visitor.visit_u64(v),
            Value::Float(v) => visitor.visit_f64(v),
            Value::Str(v) => visitor.visit_string(v),
            Value::Bytes(v) => visitor.visit_byte_buf(v),
            Value::Array(v) | Value::Tuple(v) | Value::Set(v) | Value::FrozenSet(v) => {
                let mut items = de::value::SeqDeserializer::new(v.into_iter().map(Decoder));
                let out = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(out)
            }
            Value::Map(v) => {
                let mut fields = de::value::MapDeserializer::new(v.into_iter().map(entry));
                let out = visitor.visit_map(&mut fields)?;
                fields.end()?;
                Ok(out)
            }
            Value::Member(v) => Decoder(*v).deserialize_any(visitor),
            Value::Other(extension::INTEGER, v) if v.len() <= 16 => {
                let sign = if v.first().is_some_and(|b| *b >= 0x80) { 0xff } else { 0 };
                let mut wide = [sign; 16];
                wide[16 - v.len()..].copy_from_slice(&v);
                visitor.visit_i128(i128::from_be_bytes(wide))
            }
            Value::Other(extension::DECIMAL, v) => visitor.visit_string(String::from_utf8_lossy(&v).into_owned()),
            other => Err(Error::Type(format!("{} has no like in Rust", kind(&other)))),
        }
    }

    // serde's floats take integers as well; here an int is no float.
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Float(v) => visitor.visit_f64(v),
            other => Err(Error::Type(format!("{} where a float is wanted", kind(&other)))),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Nil => visitor.visit_none(),
            other => visitor.visit_some(Decoder(other)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        if name == kinds::SIDE_CHANNEL {
            kinds::hand(self.0);
            return visitor.visit_unit();
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Member(member) => match *member {
                Value::Str(name) => visitor.visit_enum(IntoDeserializer::<Error>::into_deserializer(name)),
                _ => Err(Error::Type("a combination of flags".into())),
            },
            Value::Map(fields) => visitor.visit_enum(de::value::MapAccessDeserializer::new(
                de::value::MapDeserializer::new(fields.into_iter().map(entry)),
            )),
            other => Err(Error::Type(format!("{} where an enumeration is wanted", kind(&other)))),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}
