//! How a function answers its call.

use crate::encode;
use crate::error::Error;
use pysecure_wire::{MessageKind, Writer};
use serde::Serialize;
use std::os::fd::BorrowedFd;

/// Where a call's answer goes: its connection.
pub(crate) trait AnswerSink {
    /// Sends a result, an item, or a stream's end.
    fn send(&mut self, kind: MessageKind, fill: &dyn Fn(&mut Writer<'_>) -> Result<(), Error>) -> Result<(), Error>;
    /// Waits until the caller wants one more item.
    fn wait_for_credit(&mut self) -> Result<(), Error>;
    /// The connection's socket and the call's id.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    fn call(&self) -> (BorrowedFd<'_>, u64);
}

/// How a call is answered by the function that it runs.
pub struct Reply<'a>(&'a mut dyn AnswerSink);

impl<'a> Reply<'a> {
    pub(crate) fn new(sink: &'a mut dyn AnswerSink) -> Reply<'a> {
        Reply(sink)
    }

    fn send<T: Serialize + ?Sized>(&mut self, kind: MessageKind, value: &T) -> Result<(), Error> {
        self.0.send(kind, &|writer| encode::put(writer, value, 1))
    }

    pub(crate) fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.send(MessageKind::Ok, value)
    }

    /// Sends an item when the caller wants another one.
    pub(crate) fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.0.wait_for_credit()?;
        self.send(MessageKind::Item, value)
    }

    pub(crate) fn end(&mut self) -> Result<(), Error> {
        self.send(MessageKind::End, &())
    }

    /// Runs an `async` function.
    #[cfg(feature = "tokio")]
    #[doc(hidden)]
    pub fn run<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Error> {
        use crate::runtime::{Run, run};
        let (socket, id) = self.0.call();
        match run(socket, id, future) {
            Ok(Run::Done(out)) => Ok(out),
            Ok(Run::Late) => Err(Error::late(true)),
            Ok(Run::Unwanted) => Err(Error::reply("pysecure.Cancelled", "the caller wants no answer", true)),
            Err(e) => Err(Error::reply("RuntimeError", format!("start the runtime: {e}"), false)),
        }
    }
}
