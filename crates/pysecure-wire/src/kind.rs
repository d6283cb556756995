//! Kinds of messages, and types of extensions (docs/reference/rpc-protocol.md, "Messages" and "Values").

/// What a message is; the first of its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageKind {
    /// Stands for a message that is too long for the socket, which lies in a memfd.
    Large = 0,
    /// The service's first message.
    Hello = 1,
    /// Asks for a function.
    Call = 2,
    /// A function's result.
    Ok = 3,
    /// A function's exception, or with id 0 what is wrong with the connection.
    Err = 4,
    /// An item of a stream.
    Item = 5,
    /// The end of a stream.
    End = 6,
    /// More items are wanted.
    Credit = 7,
    /// The answer is not wanted any more.
    Cancel = 8,
    /// The service ends.
    GoAway = 9,
}

impl MessageKind {
    /// The kind with this number, if there is one.
    #[inline]
    pub fn from_number(number: i64) -> Option<MessageKind> {
        Some(match number {
            0 => MessageKind::Large,
            1 => MessageKind::Hello,
            2 => MessageKind::Call,
            3 => MessageKind::Ok,
            4 => MessageKind::Err,
            5 => MessageKind::Item,
            6 => MessageKind::End,
            7 => MessageKind::Credit,
            8 => MessageKind::Cancel,
            9 => MessageKind::GoAway,
            _ => return None,
        })
    }

    /// The number that stands for it on the wire.
    #[inline]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// How many elements a message of this kind has at the least, its kind among them.
    pub fn least_elements(self) -> usize {
        match self {
            MessageKind::Large | MessageKind::Cancel | MessageKind::GoAway => 2,
            MessageKind::Ok | MessageKind::Item | MessageKind::End | MessageKind::Credit => 3,
            MessageKind::Hello | MessageKind::Call => 5,
            MessageKind::Err => 7,
        }
    }
}

/// Types of extensions.
pub mod extension {
    /// An integer beyond 64 bits.
    pub const INTEGER: i8 = 1;
    /// A tuple.
    pub const TUPLE: i8 = 2;
    /// A set.
    pub const SET: i8 = 3;
    /// A frozenset.
    pub const FROZENSET: i8 = 4;
    /// A date and time.
    pub const DATETIME: i8 = 5;
    /// A date.
    pub const DATE: i8 = 6;
    /// A time of day.
    pub const TIME: i8 = 7;
    /// A time span.
    pub const TIMEDELTA: i8 = 8;
    /// A decimal number, as text.
    pub const DECIMAL: i8 = 9;
    /// A UUID's 16 bytes.
    pub const UUID: i8 = 10;
    /// A complex number: two floats of 64 bits.
    pub const COMPLEX: i8 = 11;
    /// A member of an enumeration.
    pub const MEMBER: i8 = 12;
    /// Text with lone surrogates.
    pub const SURROGATES: i8 = 13;
    /// Bytes in a memfd.
    pub const MEMFD: i8 = 20;
    /// A descriptor.
    pub const DESCRIPTOR: i8 = 21;
}
