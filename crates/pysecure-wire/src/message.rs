//! Messages, encoded and decoded: each kind in one place (docs/reference/rpc-protocol.md, "Messages").
//!
//! A service reads with [`open_call`] and [`FromCaller::read`], a caller with [`open`] and [`FromService::read`]. Whoever makes something
//! else of arguments and results than a [`Value`] reads with [`MessageHead`], [`CallHead`] and [`CallOptions`], and makes
//! it in between.

use crate::area::{IncomingArea, Memfd, OutgoingArea};
use crate::distinct::Values;
use crate::error::{Malformed, WireError};
use crate::kind::{MessageKind, extension};
use crate::limits::{MAX_CALL_ID, MAX_CREDIT, MAX_NAME, max_bytes};
use crate::reader::{Reader, ReceivedFds};
use crate::value::Value;
use crate::writer::{EncodedMessage, Writer};
use std::borrow::Cow;
use std::os::fd::OwnedFd;

/// The version of the protocol.
pub const VERSION: u64 = 1;
/// How much of a long message is looked at before the rest of it is read, in bytes: enough for a CALL's function.
const PEEKED: usize = 2 * MAX_NAME;

/// The beginning of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHead {
    /// What it is.
    pub kind: MessageKind,
    /// How many elements follow.
    pub elements: usize,
}

impl MessageHead {
    /// Reads a message's head. It has as many elements as its kind must have at the least.
    #[inline]
    pub fn read(reader: &mut Reader<'_, '_>) -> Result<MessageHead, WireError> {
        let elements = match reader.array_head()? {
            Some(0) => return Err(Malformed::Missing.into()),
            Some(elements) => elements,
            None => return Err(not_an_array(reader)),
        };
        let number = reader.integer()?.and_then(|number| i64::try_from(number).ok());
        let kind = number.and_then(MessageKind::from_number).ok_or(Malformed::Kind)?;
        if elements < kind.least_elements() {
            return Err(Malformed::Missing.into());
        }
        Ok(MessageHead {
            kind,
            elements: elements - 1,
        })
    }
}

/// Something else, or nothing at all.
#[cold]
fn not_an_array(reader: &mut Reader<'_, '_>) -> WireError {
    match reader.value(&mut Values::default(), 0) {
        Ok(_) => Malformed::Array.into(),
        Err(error) => error,
    }
}

/// Reads the id of a call. 0, which stands for the connection, only where `zero` says so.
#[inline]
pub fn read_id(reader: &mut Reader<'_, '_>, zero: bool) -> Result<u64, WireError> {
    let id = reader.integer()?.and_then(|id| u64::try_from(id).ok());
    match id {
        Some(id) if id <= MAX_CALL_ID && (id > 0 || zero) => Ok(id),
        _ => Err(Malformed::Id.into()),
    }
}

/// Reads an element that may be left out: a whole number of at most `max`, or nil. `left` is how many elements follow.
#[inline]
fn optional(
    reader: &mut Reader<'_, '_>,
    left: &mut usize,
    max: u64,
    wrong: Malformed,
) -> Result<Option<u64>, WireError> {
    if !more(left) || reader.nil() {
        return Ok(None);
    }
    let number = reader.integer()?.and_then(|number| u64::try_from(number).ok());
    match number {
        Some(number) if number <= max => Ok(Some(number)),
        _ => Err(wrong.into()),
    }
}

/// Is there one more element?
#[inline]
fn more(left: &mut usize) -> bool {
    let more = *left > 0;
    *left -= usize::from(more);
    more
}

/// Reads elements that this version does not know, and the end of the message.
fn end(reader: &mut Reader<'_, '_>, left: usize) -> Result<(), WireError> {
    for _ in 0..left {
        reader.value(&mut Values::default(), 1)?;
    }
    reader.end()
}

fn value(reader: &mut Reader<'_, '_>) -> Result<Value, WireError> {
    Ok(reader.value(&mut Values::default(), 1)?.0)
}

fn text(reader: &mut Reader<'_, '_>, wrong: Malformed) -> Result<String, WireError> {
    Ok(reader.text()?.ok_or(wrong)?.to_owned())
}

fn optional_text(reader: &mut Reader<'_, '_>, wrong: Malformed) -> Result<Option<String>, WireError> {
    match reader.nil() {
        true => Ok(None),
        false => text(reader, wrong).map(Some),
    }
}

/// What a CALL says before its arguments. May its caller not call the function, then nothing is made of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallHead<'a> {
    /// The call's id.
    pub id: u64,
    /// The function's name. None if it is longer than any function's.
    pub function: Option<&'a str>,
    /// How many elements follow the arguments.
    pub options: usize,
}

impl<'a> CallHead<'a> {
    /// Reads what follows a CALL's kind, up to its arguments.
    #[inline]
    pub fn read(reader: &mut Reader<'a, '_>, head: MessageHead) -> Result<CallHead<'a>, WireError> {
        let whole = reader.rest().len();
        CallHead::read_some(reader, head, whole)
    }

    /// The same where there may be less than all of the message: `whole` is how long the rest of it is.
    #[inline]
    fn read_some(reader: &mut Reader<'a, '_>, head: MessageHead, whole: usize) -> Result<CallHead<'a>, WireError> {
        let before = reader.rest().len();
        let id = read_id(reader, false)?;
        let len = reader.text_bytes()?.ok_or(Malformed::Function)?;
        let read = before - reader.rest().len();
        let function = match len > MAX_NAME && read + len <= whole {
            // Skipped only where its caller goes on.
            true => {
                reader.take(len.min(reader.rest().len()))?;
                None
            }
            false => Some(std::str::from_utf8(reader.take(len)?).map_err(|_| Malformed::Utf8)?),
        };
        Ok(CallHead {
            id,
            function,
            options: head.elements - 4,
        })
    }
}

/// What follows a CALL's arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallOptions<'a> {
    /// How long the call may take from when it was sent, in milliseconds; see [`crate::limits::NO_DEADLINE`].
    pub deadline: Option<u64>,
    /// A W3C trace context.
    pub traceparent: Option<&'a str>,
    /// How many messages the caller has read that used the service's area.
    pub read: Option<u64>,
    /// How many items of a stream may be sent at first; none is 1.
    pub credit: Option<u64>,
}

impl<'a> CallOptions<'a> {
    /// Reads what follows the arguments of a CALL, of which there are `left` elements, and its end.
    #[inline]
    pub fn read(reader: &mut Reader<'a, '_>, mut left: usize) -> Result<CallOptions<'a>, WireError> {
        let left = &mut left;
        let deadline = optional(reader, left, u64::MAX, Malformed::Deadline)?;
        let traceparent = match more(left) && !reader.nil() {
            true => Some(reader.text()?.ok_or(Malformed::Traceparent)?),
            false => None,
        };
        let read = optional(reader, left, u64::MAX, Malformed::Read)?;
        let credit = optional(reader, left, MAX_CREDIT, Malformed::Credit)?;
        match *left {
            0 => reader.end()?,
            more => end(reader, more)?,
        }
        Ok(CallOptions {
            deadline,
            traceparent,
            read,
            credit,
        })
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>) {
        write_optional(writer, self.deadline);
        match self.traceparent {
            Some(text) => writer.str(text),
            None => writer.nil(),
        }
        write_optional(writer, self.read);
        write_optional(writer, self.credit);
    }
}

#[inline]
fn write_optional(writer: &mut Writer<'_>, number: Option<u64>) {
    match number {
        Some(number) => writer.uint(number),
        None => writer.nil(),
    }
}

/// A CALL that its caller may make.
#[derive(Debug)]
pub struct Call<'a> {
    /// The call's id.
    pub id: u64,
    /// The positional arguments.
    pub args: Vec<Value>,
    /// The named arguments; their keys are text, or text with surrogates.
    pub kwargs: Vec<(Value, Value)>,
    /// What else it says.
    pub options: CallOptions<'a>,
}

/// A message from a caller. `F` is what the service knows of a function.
#[derive(Debug)]
pub enum FromCaller<'a, F> {
    /// A call of a function that its caller may call.
    Call(Call<'a>, F),
    /// A call of another function, of which nothing else was looked at.
    Refused(Refused),
    /// More items of a stream are wanted.
    Credit {
        /// The call's id.
        id: u64,
        /// So many more.
        count: u64,
        /// How many messages the caller has read that used the service's area.
        read: Option<u64>,
    },
    /// The answer of the call with this id is not wanted.
    Cancel {
        /// The call's id.
        id: u64,
    },
}

/// A call of a function that its caller may not call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The call's id.
    pub id: u64,
    /// The name of what it asked for, or words in brackets where that is longer than any function's.
    pub function: String,
}

impl Refused {
    fn of(call: CallHead<'_>) -> Refused {
        let name = call.function.unwrap_or("(a name longer than any)");
        Refused {
            id: call.id,
            function: name.to_owned(),
        }
    }
}

impl<'a, F> FromCaller<'a, F> {
    /// Reads a message of a caller's. `find` has the function of a name, if this caller may call it.
    pub fn read(
        reader: &mut Reader<'a, '_>,
        find: impl FnOnce(&str) -> Option<F>,
    ) -> Result<FromCaller<'a, F>, WireError> {
        let head = MessageHead::read(reader)?;
        let mut left = head.elements - 1;
        match head.kind {
            MessageKind::Call => {
                let call = CallHead::read(reader, head)?;
                let Some(function) = call.function.and_then(find) else {
                    return Ok(FromCaller::Refused(Refused::of(call)));
                };
                let Value::Array(args) = value(reader)? else {
                    return Err(Malformed::Args.into());
                };
                let Value::Map(kwargs) = value(reader)? else {
                    return Err(Malformed::Kwargs.into());
                };
                // Text with lone surrogates is no parameter's name, and is told so.
                let named =
                    |(key, _): &(Value, Value)| matches!(key, Value::Str(_) | Value::Other(extension::SURROGATES, _));
                if !kwargs.iter().all(named) {
                    return Err(Malformed::Kwargs.into());
                }
                let options = CallOptions::read(reader, call.options)?;
                let call = Call {
                    id: call.id,
                    args,
                    kwargs,
                    options,
                };
                Ok(FromCaller::Call(call, function))
            }
            MessageKind::Credit => {
                let id = read_id(reader, false)?;
                let count = optional(reader, &mut left, MAX_CREDIT, Malformed::Credit)?;
                let count = count.filter(|count| *count > 0).ok_or(Malformed::Credit)?;
                let read = optional(reader, &mut left, u64::MAX, Malformed::Read)?;
                end(reader, left)?;
                Ok(FromCaller::Credit { id, count, read })
            }
            MessageKind::Cancel => {
                let id = read_id(reader, false)?;
                end(reader, left)?;
                Ok(FromCaller::Cancel { id })
            }
            _ => Err(Malformed::Kind.into()),
        }
    }
}

/// A service's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The service's name.
    pub service: String,
    /// The caller's name, as the service knows it.
    pub caller: Option<String>,
    /// The functions that this caller may call, with the hashes of their signatures.
    pub functions: Vec<(String, u64)>,
}

/// An exception, or what is wrong with the connection.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorReply {
    /// Its name on the wire.
    pub class: String,
    /// Its text.
    pub message: String,
    /// Its arguments, as far as they can cross.
    pub args: Vec<Value>,
    /// Where it was raised.
    pub traceback: Option<String>,
    /// False if the function was certainly not entered.
    pub ran: bool,
}

/// A message from a service.
#[derive(Debug)]
pub enum FromService {
    /// The first message.
    Hello(Hello),
    /// A call's result.
    Ok(u64, Value),
    /// A call's exception; the id 0 is the connection's.
    Err(u64, ErrorReply),
    /// An item of a stream.
    Item(u64, Value),
    /// The end of a stream, with what the generator returned.
    End(u64, Value),
    /// The service ends, for this reason.
    GoAway(String),
}

impl FromService {
    /// Reads a message of a service's.
    pub fn read(reader: &mut Reader<'_, '_>) -> Result<FromService, WireError> {
        let head = MessageHead::read(reader)?;
        let left = head.elements;
        let (message, known) = match head.kind {
            MessageKind::Hello => (FromService::Hello(hello(reader)?), 4),
            MessageKind::Ok => (FromService::Ok(read_id(reader, false)?, value(reader)?), 2),
            MessageKind::Item => (FromService::Item(read_id(reader, false)?, value(reader)?), 2),
            MessageKind::End => (FromService::End(read_id(reader, false)?, value(reader)?), 2),
            MessageKind::Err => (FromService::Err(read_id(reader, true)?, error_reply(reader)?), 6),
            MessageKind::GoAway => (FromService::GoAway(text(reader, Malformed::GoAway)?), 1),
            _ => return Err(Malformed::Kind.into()),
        };
        end(reader, left - known)?;
        Ok(message)
    }
}

fn hello(reader: &mut Reader<'_, '_>) -> Result<Hello, WireError> {
    if reader.integer()? != Some(VERSION.into()) {
        return Err(Malformed::Version.into());
    }
    let service = text(reader, Malformed::Hello)?;
    let caller = optional_text(reader, Malformed::Hello)?;
    let Value::Map(functions) = value(reader)? else {
        return Err(Malformed::Hello.into());
    };
    let function = |entry| match entry {
        (Value::Str(name), Value::Int(hash)) => u64::try_from(hash).ok().map(|hash| (name, hash)),
        (Value::Str(name), Value::UInt(hash)) => Some((name, hash)),
        _ => None,
    };
    let functions: Option<Vec<(String, u64)>> = functions.into_iter().map(function).collect();
    Ok(Hello {
        service,
        caller,
        functions: functions.ok_or(Malformed::Hello)?,
    })
}

fn error_reply(reader: &mut Reader<'_, '_>) -> Result<ErrorReply, WireError> {
    let class = text(reader, Malformed::Error)?;
    let message = text(reader, Malformed::Error)?;
    let Value::Array(args) = value(reader)? else {
        return Err(Malformed::Error.into());
    };
    let traceback = optional_text(reader, Malformed::Error)?;
    let Value::Bool(ran) = value(reader)? else {
        return Err(Malformed::Error.into());
    };
    Ok(ErrorReply {
        class,
        message,
        args,
        traceback,
        ran,
    })
}

/// A message proper: what came, or what lies in the memfd of LARGE.
#[derive(Debug)]
pub struct Opened<'a> {
    /// Its bytes.
    pub bytes: Cow<'a, [u8]>,
    /// The descriptors that came along, without the memfd of LARGE.
    pub fds: ReceivedFds,
}

/// Opens what came from a service: LARGE becomes the message that it stands for.
pub fn open<'a>(bytes: &'a [u8], fds: Vec<OwnedFd>, area: &mut IncomingArea) -> Result<Opened<'a>, WireError> {
    match open_with(bytes, fds, area, None::<fn(&str) -> bool>)? {
        Ok(opened) => Ok(opened),
        Err(_) => Err(Malformed::Kind.into()),
    }
}

/// Opens what came from a caller. A call by LARGE of a function that `may` does not know is refused before the rest of it is read.
pub fn open_call<'a>(
    bytes: &'a [u8],
    fds: Vec<OwnedFd>,
    area: &mut IncomingArea,
    may: impl FnOnce(&str) -> bool,
) -> Result<Result<Opened<'a>, Refused>, WireError> {
    open_with(bytes, fds, area, Some(may))
}

#[inline]
fn open_with<'a>(
    bytes: &'a [u8],
    fds: Vec<OwnedFd>,
    area: &mut IncomingArea,
    may: Option<impl FnOnce(&str) -> bool>,
) -> Result<Result<Opened<'a>, Refused>, WireError> {
    let fds = ReceivedFds::new(fds);
    match is_large(bytes, area) {
        false => {
            let bytes = Cow::Borrowed(bytes);
            Ok(Ok(Opened { bytes, fds }))
        }
        true => open_large(bytes, fds, area, may),
    }
}

/// Does LARGE stand there? A malformed message does not count; reading it finds what is wrong.
#[inline]
fn is_large(bytes: &[u8], area: &mut IncomingArea) -> bool {
    match bytes {
        [0x90..=0x9f, kind @ 0x00..=0x7f, ..] => *kind == MessageKind::Large.number(),
        _ => {
            let mut none = ReceivedFds::default();
            let head = MessageHead::read(&mut Reader::new(bytes, &mut none, area));
            head.is_ok_and(|head| head.kind == MessageKind::Large)
        }
    }
}

fn open_large<'a>(
    bytes: &[u8],
    mut fds: ReceivedFds,
    area: &mut IncomingArea,
    may: Option<impl FnOnce(&str) -> bool>,
) -> Result<Result<Opened<'a>, Refused>, WireError> {
    let mut reader = Reader::new(bytes, &mut fds, area);
    let head = MessageHead::read(&mut reader)?;
    let length = reader.integer()?.and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| (1..=max_bytes()).contains(length));
    let length = length.ok_or(Malformed::Large)?;
    end(&mut reader, head.elements - 1)?;
    fds.add_large(length)?;
    let memfd = Memfd::check(fds.take_last()?)?;
    memfd.holds(0, length)?;
    if let Some(may) = may {
        let beginning = memfd.read(0, length.min(PEEKED))?;
        let mut none = ReceivedFds::default();
        let mut reader = Reader::new(&beginning, &mut none, area);
        let head = MessageHead::read(&mut reader)?;
        // What else a caller sends is short.
        if head.kind != MessageKind::Call {
            return Err(Malformed::Kind.into());
        }
        let whole = length - (beginning.len() - reader.rest().len());
        let call = CallHead::read_some(&mut reader, head, whole)?;
        if !call.function.is_some_and(may) {
            return Ok(Err(Refused::of(call)));
        }
    }
    let bytes = memfd.read(0, length)?;
    if is_large(&bytes, area) {
        return Err(Malformed::Kind.into());
    }
    let bytes = Cow::Owned(bytes);
    Ok(Ok(Opened { bytes, fds }))
}

/// Of a whole message from a caller: is it a CALL that its caller may not make? Nothing is made of its arguments.
pub fn refused(bytes: &[u8], may: impl FnOnce(&str) -> bool) -> Result<Option<Refused>, WireError> {
    let (mut none, mut area) = (ReceivedFds::default(), IncomingArea::default());
    let mut reader = Reader::new(bytes, &mut none, &mut area);
    let head = MessageHead::read(&mut reader)?;
    if head.kind != MessageKind::Call {
        return Ok(None);
    }
    let call = CallHead::read(&mut reader, head)?;
    match call.function.is_some_and(may) {
        true => Ok(None),
        false => Ok(Some(Refused::of(call))),
    }
}

/// Writes a CALL: `function` writes the name, and `arguments` the array of the positional and the map of the named ones.
#[inline]
pub fn write_call<'w, E: From<WireError>>(
    writer: &mut Writer<'w>,
    id: u64,
    function: impl FnOnce(&mut Writer<'w>),
    arguments: impl FnOnce(&mut Writer<'w>) -> Result<(), E>,
    options: &CallOptions<'_>,
) -> Result<(), E> {
    writer.begin(MessageKind::Call, 9);
    writer.uint(id);
    function(writer);
    arguments(writer)?;
    options.write(writer);
    Ok(())
}

/// Writes OK, ITEM or END: `value` writes its value.
#[inline]
pub fn write_answer<'w, E: From<WireError>>(
    writer: &mut Writer<'w>,
    kind: MessageKind,
    id: u64,
    value: impl FnOnce(&mut Writer<'w>) -> Result<(), E>,
) -> Result<(), E> {
    writer.begin(kind, 3);
    writer.uint(id);
    value(writer)
}

/// ERR. Arguments that cannot cross are left out.
pub fn error_message(id: u64, class: &str, message: &str, args: &[Value], ran: bool) -> EncodedMessage {
    let mut inside = Writer::bare();
    let crosses = args.iter().all(|arg| inside.value(arg, 2).is_ok()) && inside.finish().fds.is_empty();
    let args = if crosses { args } else { &[] };
    let mut writer = Writer::message(MessageKind::Err, 7);
    writer.uint(id);
    writer.str(class);
    writer.str(message);
    writer.array(args.len());
    for arg in args {
        // It was written just now.
        let _ = writer.value(arg, 2);
    }
    writer.nil();
    writer.bool(ran);
    writer.finish()
}

/// CREDIT.
pub fn credit_message(id: u64, count: u64, read: u64) -> EncodedMessage {
    let mut writer = Writer::message(MessageKind::Credit, 4);
    writer.uint(id);
    writer.uint(count);
    writer.uint(read);
    writer.finish()
}

/// CANCEL.
pub fn cancel_message(id: u64) -> EncodedMessage {
    let mut writer = Writer::message(MessageKind::Cancel, 2);
    writer.uint(id);
    writer.finish()
}

/// GOAWAY.
pub fn goaway_message(reason: &str) -> EncodedMessage {
    let mut writer = Writer::message(MessageKind::GoAway, 2);
    writer.str(reason);
    writer.finish()
}

/// HELLO: `functions` are the names and hashes of what this caller may call.
pub fn hello_message<'f>(
    service: &str,
    caller: Option<&str>,
    functions: impl ExactSizeIterator<Item = (&'f str, u64)>,
) -> EncodedMessage {
    let mut writer = Writer::message(MessageKind::Hello, 5);
    writer.uint(VERSION);
    writer.str(service);
    match caller {
        Some(caller) => writer.str(caller),
        None => writer.nil(),
    }
    writer.map(functions.len());
    for (name, hash) in functions {
        writer.str(name);
        writer.uint(hash);
    }
    writer.finish()
}

/// Encodes a message with large bytes in memfds, and by LARGE if it is too long. Where those bytes take all descriptors, they stand in the message.
///
/// `buffer` is written into, so that none need be allocated. `free` says that the peer has read all that was sent in the
/// area. `fill` may be called twice. True if the message uses the area.
#[inline]
pub fn encode<E: EncodeError>(
    buffer: Vec<u8>,
    area: &mut OutgoingArea,
    free: bool,
    fill: impl Fn(&mut Writer<'_>) -> Result<(), E>,
) -> Result<(EncodedMessage, bool), E> {
    area.begin(free);
    let mut writer = Writer::over(buffer, Some(area));
    let filled = fill(&mut writer).and_then(|()| Ok(writer.finish().sealed()?));
    match filled {
        Ok(message) => Ok((message, area.sent())),
        Err(error) if error.crowded() => {
            let mut writer = Writer::bare();
            fill(&mut writer)?;
            Ok((writer.finish().sealed()?, false))
        }
        Err(error) => Err(error),
    }
}

/// Why a message could not be encoded.
pub trait EncodeError: From<WireError> {
    /// See [`WireError::crowded`].
    fn crowded(&self) -> bool;
}

impl EncodeError for WireError {
    fn crowded(&self) -> bool {
        WireError::crowded(self)
    }
}
