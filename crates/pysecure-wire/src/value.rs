//! Values as they cross (docs/reference/rpc-protocol.md, "Values").

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// What can cross.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// None.
    Nil,
    /// A boolean.
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// An integer above `i64::MAX`, and no other.
    UInt(u64),
    /// A float.
    Float(f64),
    /// Text.
    Str(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A list.
    Array(Vec<Value>),
    /// A map, in the order in which its entries stand.
    Map(Vec<(Value, Value)>),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A set, in the order in which its elements stand.
    Set(Vec<Value>),
    /// A frozenset, in the order in which its elements stand.
    FrozenSet(Vec<Value>),
    /// A member of an enumeration, by its name or number.
    Member(Box<Value>),
    /// An open file.
    Fd(Descriptor),
    /// Dates, decimals and the like: the extension's type (see [`crate::kind::extension`]), and its data as it came, checked.
    Other(i8, Vec<u8>),
}

impl Value {
    /// The text, if it is text.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }
}

/// An open file. Two are equal if they are the same descriptor.
#[derive(Clone, Debug)]
pub struct Descriptor(
    /// The descriptor itself.
    pub Arc<OwnedFd>,
);

impl PartialEq for Descriptor {
    fn eq(&self, other: &Descriptor) -> bool {
        self.0.as_raw_fd() == other.0.as_raw_fd()
    }
}
