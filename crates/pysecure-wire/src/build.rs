//! What is made of values as they are read.

use crate::area::Memfd;
use crate::error::{Malformed, WireError};
use crate::extension;
use crate::value::{Descriptor, Value};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What values become when they are read: `Plain` makes them a `Value`, the Python package objects of Python's.
pub trait Build {
    /// What a value becomes.
    type Node;
    /// Why a value is refused.
    type Error: From<WireError>;

    /// None.
    fn nil(&mut self) -> Self::Node;
    /// A boolean.
    fn bool(&mut self, value: bool) -> Self::Node;
    /// An integer of 64 bits.
    fn int(&mut self, value: i64) -> Result<Self::Node, Self::Error>;
    /// An integer above `i64::MAX`.
    fn uint(&mut self, value: u64) -> Result<Self::Node, Self::Error>;
    /// A float.
    fn float(&mut self, value: f64) -> Result<Self::Node, Self::Error>;
    /// Text.
    fn str(&mut self, text: &str) -> Result<Self::Node, Self::Error>;
    /// Bytes that stand in the message.
    fn bytes(&mut self, bytes: &[u8]) -> Result<Self::Node, Self::Error>;
    /// A list.
    fn array(&mut self, items: Vec<Self::Node>) -> Result<Self::Node, Self::Error>;
    /// A map. Refuses a key twice, and one that cannot be a key.
    fn map(&mut self, entries: Vec<(Self::Node, Self::Node)>) -> Result<Self::Node, Self::Error>;
    /// An extension of type 1, 9, 10, 11 or 13, with its data.
    fn raw(&mut self, kind: i8, data: &[u8]) -> Result<Self::Node, Self::Error>;
    /// An extension of type 2 to 8 or 12, with the value that it holds, and its data, which is that value encoded.
    fn holding(&mut self, kind: i8, inner: Self::Node, data: &[u8]) -> Result<Self::Node, Self::Error>;
    /// Bytes in a memfd, of which it has not been checked that they are there.
    fn large(&mut self, memfd: &Memfd, offset: u64, len: usize) -> Result<Self::Node, Self::Error>;
    /// A descriptor.
    fn descriptor(&mut self, fd: OwnedFd) -> Result<Self::Node, Self::Error>;
    /// Called with true before a key or the elements of a set are made, and with false after.
    fn keyed(&mut self, _begins: bool) {}
}

/// What all builders of [`Value`]s do alike.
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
            extension::opaque(kind, data).map($wrap)
        }

        fn large(&mut self, area: &Memfd, offset: u64, len: usize) -> Result<$node, WireError> {
            Ok($wrap(Value::Bytes(area.read(offset, len)?)))
        }

        fn descriptor(&mut self, fd: OwnedFd) -> Result<$node, WireError> {
            Ok($wrap(Value::Fd(Descriptor(Arc::new(fd)))))
        }
    };
}

pub(crate) use scalars;

/// Makes a [`Value`] of numbers, text and the like, and of arrays of them, which is what a message's own elements are. Containers
/// of another kind are refused, but for an empty map: to tell their keys and elements apart takes more than this does.
pub struct Plain;

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
            false => Err(Malformed::Key.into()),
        }
    }

    fn holding(&mut self, kind: i8, inner: Value, data: &[u8]) -> Result<Value, WireError> {
        extension::holding(kind, inner, data)
    }
}
