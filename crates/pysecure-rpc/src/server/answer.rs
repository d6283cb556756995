//! The answer of one call, message by message.

use super::session::{NotSent, Session, Stop};
use crate::error::Error;
use crate::incoming::SocketError;
use crate::reply::AnswerSink;
use pysecure_wire::socket::readable;
use pysecure_wire::{MessageKind, Writer};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How often it is looked whether a caller has read more, which no event tells.
const MOMENT: Duration = Duration::from_millis(10);

/// A call that runs, as the one who answers it.
pub(super) struct Answering<'a> {
    session: &'a mut Session,
    id: u64,
    deadline: Option<Instant>,
    /// Why the connection is served no longer.
    stop: Option<Stop>,
    /// Was the last message of this call sent?
    answered: bool,
}

impl<'a> Answering<'a> {
    pub(super) fn new(session: &'a mut Session, id: u64, deadline: Option<Instant>) -> Answering<'a> {
        Answering {
            session,
            id,
            deadline,
            stop: None,
            answered: false,
        }
    }

    /// Why the connection is served no longer, and whether the call was answered.
    pub(super) fn outcome(self) -> (Option<Stop>, bool) {
        (self.stop, self.answered)
    }

    fn passed(&self) -> bool {
        self.deadline.is_some_and(|at| at <= Instant::now())
    }

    /// The error that ends the function is nobody's to read.
    fn stopped(&mut self, stop: Stop) -> Error {
        self.stop = Some(stop);
        Error::reply("pysecure.Cancelled", "the caller is gone", true)
    }
}

impl AnswerSink for Answering<'_> {
    fn send(&mut self, kind: MessageKind, fill: &dyn Fn(&mut Writer<'_>) -> Result<(), Error>) -> Result<(), Error> {
        if self.passed() {
            return Err(Error::late(true));
        }
        match self.session.send(kind, self.id, fill) {
            Ok(()) => {
                self.answered |= kind != MessageKind::Item;
                Ok(())
            }
            Err(NotSent::Error(error)) => Err(error),
            Err(NotSent::Stop(stop)) => Err(self.stopped(stop)),
        }
    }

    fn wait_for_credit(&mut self) -> Result<(), Error> {
        loop {
            // The streams that began after this one have ended.
            let Some(credit) = self.session.running.last_mut() else {
                return Err(Error::reply("pysecure.Cancelled", "the stream has ended", true));
            };
            if !credit.wanted {
                return Err(Error::reply("pysecure.Cancelled", "the caller wants no more", true));
            }
            let mut until = self.deadline;
            if credit.left > 0 {
                if !self.session.endpoint.unread.refuses() {
                    credit.left -= 1;
                    return Ok(());
                }
                let soon = Instant::now() + MOMENT;
                until = Some(until.map_or(soon, |at| at.min(soon)));
            }
            match readable(self.session.socket.as_fd(), until) {
                Ok(true) => {}
                Ok(false) if self.passed() => return Err(Error::late(true)),
                Ok(false) => continue,
                Err(errno) => return Err(self.stopped(SocketError::Io(errno).into())),
            }
            if let Err(stop) = self.session.next() {
                return Err(self.stopped(stop));
            }
        }
    }

    fn call(&self) -> (BorrowedFd<'_>, u64) {
        (self.session.socket.as_fd(), self.id)
    }
}
