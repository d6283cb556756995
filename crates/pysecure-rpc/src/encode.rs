//! Rust's values as they stand on the wire, by serde: a struct is a map from its fields' names, a tuple a tuple, an enumeration
//! without data a member by its name.

use crate::error::Error;
use crate::kinds;
use pysecure_wire::limits::MAX_DEPTH;
use pysecure_wire::{IncomingArea, Value, WireError, Writer, error::TooLarge, kind::extension};
use serde::ser::{self, Serialize};

/// A value as a peer would read it.
pub fn to_value<T: Serialize + ?Sized>(value: &T) -> Result<Value, Error> {
    let mut writer = Writer::bare();
    writer.array(1);
    put(&mut writer, value, 1)?;
    let message = pysecure_wire::read(&writer.finish().bytes, Vec::new(), &mut IncomingArea::default())?;
    Ok(message.into_iter().next().unwrap_or(Value::Nil))
}

/// Writes a value at a depth, of which the message's elements have 1.
pub(crate) fn put<T: Serialize + ?Sized>(writer: &mut Writer<'_>, value: &T, depth: usize) -> Result<(), Error> {
    value.serialize(Encoder { writer, depth })
}

struct Encoder<'w, 'a> {
    writer: &'w mut Writer<'a>,
    depth: usize,
}

/// What has a length, in the midst of being written.
struct Items<'w, 'a> {
    writer: &'w mut Writer<'a>,
    /// Of what is in it.
    depth: usize,
    left: usize,
    /// What was written before an extension whose value this is.
    before: Option<Vec<u8>>,
}

/// What does not say how long it is: its length comes before it on the wire.
enum Sequence<'w, 'a> {
    Known(Items<'w, 'a>),
    Unknown(Encoder<'w, 'a>, Vec<Value>),
}

enum Entries<'w, 'a> {
    Known(Items<'w, 'a>),
    Unknown(Encoder<'w, 'a>, Vec<(Value, Value)>, Option<Value>),
}

impl<'w, 'a> Encoder<'w, 'a> {
    /// One deeper.
    fn deeper(self, by: usize) -> Result<Encoder<'w, 'a>, Error> {
        let depth = self.depth + by;
        if depth > MAX_DEPTH {
            return Err(WireError::from(TooLarge::Depth).into());
        }
        Ok(Encoder { depth, ..self })
    }

    fn array(self, len: usize) -> Result<Items<'w, 'a>, Error> {
        countable(len)?;
        let Encoder { writer, depth } = self.deeper(1)?;
        writer.array(len);
        Ok(Items {
            writer,
            depth,
            left: len,
            before: None,
        })
    }

    fn map(self, len: usize) -> Result<Items<'w, 'a>, Error> {
        countable(len)?;
        let Encoder { writer, depth } = self.deeper(1)?;
        writer.map(len);
        Ok(Items {
            writer,
            depth,
            left: len,
            before: None,
        })
    }

    fn tuple(self, len: usize) -> Result<Items<'w, 'a>, Error> {
        let inner = self.deeper(1)?;
        let before = inner.writer.open();
        let mut items = inner.array(len)?;
        items.before = Some(before);
        Ok(items)
    }

    /// What a variant with data lies in: a map of one entry.
    fn within(self, variant: &str) -> Result<Encoder<'w, 'a>, Error> {
        let inner = self.deeper(1)?;
        inner.writer.map(1);
        inner.writer.str(variant);
        Ok(inner)
    }
}

fn countable(len: usize) -> Result<(), Error> {
    match u32::try_from(len) {
        Ok(_) => Ok(()),
        Err(_) => Err(WireError::from(TooLarge::Values).into()),
    }
}

impl Items<'_, '_> {
    fn put<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        put(self.writer, value, self.depth)
    }

    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.left = self.left.checked_sub(1).ok_or_else(miscounted)?;
        self.put(value)
    }

    fn entry<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<(), Error> {
        self.left = self.left.checked_sub(1).ok_or_else(miscounted)?;
        self.writer.str(key);
        self.put(value)
    }

    fn done(self) -> Result<(), Error> {
        if self.left > 0 {
            return Err(miscounted());
        }
        match self.before {
            Some(before) => Ok(self.writer.close(extension::TUPLE, before)?),
            None => Ok(()),
        }
    }
}

fn miscounted() -> Error {
    Error::Type("a value that is not as long as it says".into())
}

/// Two's complement, big-endian, as short as it can be.
fn big(bytes: &[u8]) -> &[u8] {
    let redundant = |w: &[u8]| (w[0] == 0 && w[1] < 0x80) || (w[0] == 0xff && w[1] >= 0x80);
    let skip = bytes.windows(2).take_while(|w| redundant(w)).count();
    &bytes[skip..]
}

impl<'w, 'a> ser::Serializer for Encoder<'w, 'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Sequence<'w, 'a>;
    type SerializeTuple = Items<'w, 'a>;
    type SerializeTupleStruct = Items<'w, 'a>;
    type SerializeTupleVariant = Items<'w, 'a>;
    type SerializeMap = Entries<'w, 'a>;
    type SerializeStruct = Items<'w, 'a>;
    type SerializeStructVariant = Items<'w, 'a>;

    fn serialize_bool(self, v: bool) -> Result<(), Error> {
        self.writer.bool(v);
        Ok(())
    }
    fn serialize_i8(self, v: i8) -> Result<(), Error> {
        self.serialize_i64(v.into())
    }
    fn serialize_i16(self, v: i16) -> Result<(), Error> {
        self.serialize_i64(v.into())
    }
    fn serialize_i32(self, v: i32) -> Result<(), Error> {
        self.serialize_i64(v.into())
    }
    fn serialize_i64(self, v: i64) -> Result<(), Error> {
        self.writer.int(v);
        Ok(())
    }
    fn serialize_i128(self, v: i128) -> Result<(), Error> {
        match (i64::try_from(v), u64::try_from(v)) {
            (Ok(small), _) => self.writer.int(small),
            (_, Ok(wide)) => self.writer.uint(wide),
            _ => self.writer.ext(extension::INTEGER, big(&v.to_be_bytes()))?,
        }
        Ok(())
    }
    fn serialize_u8(self, v: u8) -> Result<(), Error> {
        self.serialize_u64(v.into())
    }
    fn serialize_u16(self, v: u16) -> Result<(), Error> {
        self.serialize_u64(v.into())
    }
    fn serialize_u32(self, v: u32) -> Result<(), Error> {
        self.serialize_u64(v.into())
    }
    fn serialize_u64(self, v: u64) -> Result<(), Error> {
        self.writer.uint(v);
        Ok(())
    }
    fn serialize_u128(self, v: u128) -> Result<(), Error> {
        match u64::try_from(v) {
            Ok(small) => self.writer.uint(small),
            Err(_) => {
                let mut wide = [0; 17];
                wide[1..].copy_from_slice(&v.to_be_bytes());
                self.writer.ext(extension::INTEGER, big(&wide))?;
            }
        }
        Ok(())
    }
    fn serialize_f32(self, v: f32) -> Result<(), Error> {
        self.serialize_f64(v.into())
    }
    fn serialize_f64(self, v: f64) -> Result<(), Error> {
        self.writer.float(v);
        Ok(())
    }
    fn serialize_char(self, v: char) -> Result<(), Error> {
        self.serialize_str(v.encode_utf8(&mut [0; 4]))
    }
    fn serialize_str(self, v: &str) -> Result<(), Error> {
        self.writer.str(v);
        Ok(())
    }
    fn serialize_bytes(self, v: &[u8]) -> Result<(), Error> {
        Ok(self.writer.bytes(v, self.depth)?)
    }
    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<(), Error> {
        self.writer.nil();
        Ok(())
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.serialize_unit()
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        let inner = self.deeper(1)?;
        let before = inner.writer.open();
        inner.writer.str(variant);
        Ok(inner.writer.close(extension::MEMBER, before)?)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<(), Error> {
        if name == kinds::SIDE_CHANNEL
            && let Some(value) = kinds::handed()
        {
            return Ok(self.writer.value(&value, self.depth)?);
        }
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(self.within(variant)?)
    }
    fn serialize_seq(self, len: Option<usize>) -> Result<Sequence<'w, 'a>, Error> {
        Ok(match len {
            Some(len) => Sequence::Known(self.array(len)?),
            None => Sequence::Unknown(self, Vec::new()),
        })
    }
    fn serialize_tuple(self, len: usize) -> Result<Items<'w, 'a>, Error> {
        self.tuple(len)
    }
    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Items<'w, 'a>, Error> {
        self.tuple(len)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Items<'w, 'a>, Error> {
        self.within(variant)?.tuple(len)
    }
    fn serialize_map(self, len: Option<usize>) -> Result<Entries<'w, 'a>, Error> {
        Ok(match len {
            Some(len) => Entries::Known(self.map(len)?),
            None => Entries::Unknown(self, Vec::new(), None),
        })
    }
    fn serialize_struct(self, _: &'static str, len: usize) -> Result<Items<'w, 'a>, Error> {
        self.map(len)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Items<'w, 'a>, Error> {
        self.within(variant)?.map(len)
    }
}

impl ser::SerializeSeq for Sequence<'_, '_> {
    type Ok = ();
    type Error = Error;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        match self {
            Sequence::Known(items) => items.item(value),
            Sequence::Unknown(_, items) => {
                items.push(to_value(value)?);
                Ok(())
            }
        }
    }
    fn end(self) -> Result<(), Error> {
        match self {
            Sequence::Known(items) => items.done(),
            Sequence::Unknown(encoder, items) => Ok(encoder.writer.value(&Value::Array(items), encoder.depth)?),
        }
    }
}

impl ser::SerializeMap for Entries<'_, '_> {
    type Ok = ();
    type Error = Error;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        match self {
            Entries::Known(items) => items.item(key),
            Entries::Unknown(_, _, held) => {
                *held = Some(to_value(key)?);
                Ok(())
            }
        }
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        match self {
            Entries::Known(items) => items.put(value),
            Entries::Unknown(_, entries, held) => {
                entries.push((held.take().unwrap_or(Value::Nil), to_value(value)?));
                Ok(())
            }
        }
    }
    fn end(self) -> Result<(), Error> {
        match self {
            Entries::Known(items) => items.done(),
            Entries::Unknown(encoder, entries, _) => Ok(encoder.writer.value(&Value::Map(entries), encoder.depth)?),
        }
    }
}

macro_rules! items {
    ($($of:ident $push:ident),*) => { $(
        impl ser::$of for Items<'_, '_> {
            type Ok = ();
            type Error = Error;
            fn $push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.item(value)
            }
            fn end(self) -> Result<(), Error> {
                self.done()
            }
        }
    )* };
}
items!(SerializeTuple serialize_element, SerializeTupleStruct serialize_field, SerializeTupleVariant serialize_field);

macro_rules! fields {
    ($($of:ident),*) => { $(
        impl ser::$of for Items<'_, '_> {
            type Ok = ();
            type Error = Error;
            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
                self.entry(key, value)
            }
            fn end(self) -> Result<(), Error> {
                self.done()
            }
        }
    )* };
}
fields!(SerializeStruct, SerializeStructVariant);
