//! What can be wrong with a message.

use rustix::io::Errno;

/// Why bytes are no message of the protocol. The names are those of specs/rpc-vectors.json.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A value or a message ends too soon.
    #[error("it ends too soon")]
    Truncated,
    /// Something follows the value.
    #[error("something follows the value")]
    Trailing,
    /// The byte 0xc1, which MessagePack does not use.
    #[error("the byte 0xc1")]
    Reserved,
    /// Text that is not UTF-8.
    #[error("text that is not UTF-8")]
    Utf8,
    /// More containers and extensions in each other than may be.
    #[error("nested too deep")]
    Depth,
    /// More values than a message may have.
    #[error("too many values")]
    Values,
    /// More bytes than a message may have, or a length of LARGE that cannot be.
    #[error("a length that a message may not have")]
    Large,
    /// The same key of a map, or element of a set, twice.
    #[error("the same key or element twice")]
    Duplicate,
    /// Keys or elements that were chosen so that telling them apart takes long.
    #[error("keys or elements that crowd each other")]
    Crowded,
    /// A key that is a container or a descriptor.
    #[error("a key that is no plain value")]
    Key,
    /// An unknown extension, or data that is not of its type.
    #[error("an extension that is unknown or malformed")]
    Extension,
    /// A descriptor that did not come, or is named twice.
    #[error("a descriptor that did not come, or is named twice")]
    Descriptor,
    /// A descriptor that nothing in the message names.
    #[error("a descriptor that nothing names")]
    Unnamed,
    /// A descriptor for bytes that is no sealed memfd.
    #[error("a descriptor for bytes that is no sealed memfd")]
    Memfd,
    /// Bytes beyond the end of their memfd.
    #[error("bytes beyond the end of their memfd")]
    Beyond,
    /// Bytes in an area that was never sent.
    #[error("bytes in an area that was never sent")]
    Area,
    /// The message or its descriptors were cut short on the way.
    #[error("a message is longer than may be, or has too many descriptors")]
    CutShort,
    /// The message is no array.
    #[error("a message that is not an array that begins with its kind")]
    Array,
    /// A kind that there is not, or that this side does not send.
    #[error("a message of unknown kind")]
    Kind,
    /// An element is missing.
    #[error("a message that lacks an element")]
    Missing,
    /// The id of a call is not what it may be.
    #[error("an id that is no call's")]
    Id,
    /// The function of a CALL is no text.
    #[error("a malformed CALL: its function")]
    Function,
    /// The arguments of a CALL are no array.
    #[error("a malformed CALL: its arguments")]
    Args,
    /// The named arguments of a CALL are no map with text as keys.
    #[error("a malformed CALL: its named arguments")]
    Kwargs,
    /// The deadline of a CALL is not what it may be.
    #[error("a malformed CALL: its deadline")]
    Deadline,
    /// The traceparent of a CALL is no text.
    #[error("a malformed CALL: its traceparent")]
    Traceparent,
    /// The number of messages that were read is not what it may be.
    #[error("a malformed number of messages read")]
    Read,
    /// Credit is not what it may be.
    #[error("malformed credit")]
    Credit,
    /// A HELLO of another version.
    #[error("it speaks another version of the protocol")]
    Version,
    /// Another element of HELLO is not what it may be.
    #[error("a malformed HELLO")]
    Hello,
    /// An element of ERR is not what it may be.
    #[error("a malformed ERR")]
    Error,
    /// The reason of GOAWAY is no text.
    #[error("a malformed GOAWAY")]
    GoAway,
    /// An answer to a call that was not made.
    #[error("an answer to what was not asked")]
    Unasked,
}

/// A bound that a message to be sent would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TooLarge {
    /// More bytes than a message may have.
    #[error("more bytes than a message may have")]
    Bytes,
    /// More values than a message may have.
    #[error("more values than a message may have")]
    Values,
    /// More descriptors than go with a message. Large bytes have one each, so there may be room for the others without them.
    #[error("more than 16 descriptors")]
    Descriptors,
    /// Containers nested deeper than they may be.
    #[error("values nested more than 64 deep")]
    Depth,
}

/// Why a message is malformed, or cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// What came breaks the protocol.
    #[error("bad message: {0}")]
    Malformed(#[from] Malformed),
    /// A message to be sent would break a bound.
    #[error("too large: {0}")]
    TooLarge(#[from] TooLarge),
    /// A value that is to be sent is malformed itself, such as a decimal that is no number.
    #[error("a value that cannot cross: {0}")]
    Unsendable(&'static str),
    /// Bytes could not be put into a memfd, or read out of one.
    #[error("put bytes into a memfd: {0}")]
    Memfd(#[from] Errno),
}

impl WireError {
    /// Are there too many descriptors, the large bytes' own counted? With those bytes in the message there may not be.
    #[inline]
    pub fn crowded(&self) -> bool {
        matches!(self, WireError::TooLarge(TooLarge::Descriptors))
    }
}
