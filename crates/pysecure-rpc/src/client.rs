//! Calls by name: one connection for each thread and callee, made at the first call and again when the service restarts. A call is
//! repeated only if it certainly did not run, or if its function is marked idempotent.

use crate::connection::{Answer, Connection, Fill};
use crate::error::Error;
use pysecure_wire::{Value, Writer};
use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

/// Where a service finds the sockets of those that it may call.
const FOLDER: &str = "/run/pysecure/rpc";
/// How often an idempotent call is made again because the service went away.
const REPEATS: u32 = 3;
/// How often a connection is tried that ends before its greeting.
const CONNECTS: u32 = 16;
/// How often a call is made again that a service which ends did not take.
const TURNED_AWAY: u32 = 50;

thread_local! {
    /// A program has few callees, and most often calls the last one: a list is searched sooner than a map.
    #[expect(clippy::vec_box, reason = "each call takes one out and puts it back")]
    static CONNECTIONS: RefCell<Vec<Box<Connection>>> = const { RefCell::new(Vec::new()) };
}

/// Where a callee's socket is to be found.
fn path(callee: &str) -> PathBuf {
    let folder = std::env::var_os("PYSECURE_RPC_DIR").map_or_else(|| PathBuf::from(FOLDER), PathBuf::from);
    folder.join(format!("{callee}.sock"))
}

/// How long to wait before it is tried anew.
fn moment(attempt: u32) -> Duration {
    Duration::from_millis(1 << attempt.min(6))
}

/// A greeted connection. One that ended before its greeting is made anew: the service may be restarting.
fn connect(callee: &str) -> Result<Connection, Error> {
    let mut attempt = 0;
    loop {
        match Connection::open(callee, &path(callee)) {
            Err(Error::ConnectionLost { ran: false, .. }) if attempt < CONNECTS => {
                attempt += 1;
                std::thread::sleep(moment(attempt));
            }
            other => return other,
        }
    }
}

/// What a program knows of a function that it calls.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its signature.
    pub signature: &'a str,
    /// The signature's hash.
    pub hash: u64,
    /// May it be called again when nobody knows whether it ran?
    pub idempotent: bool,
}

/// Values as [`Fill`], by position alone.
pub(crate) fn positional(writer: &mut Writer<'_>, args: &[Value]) -> Result<(), Error> {
    writer.array(args.len());
    args.iter().try_for_each(|arg| writer.value(arg, 2))?;
    writer.map(0);
    Ok(())
}

/// Calls a function by name over this thread's connection, for a program that does not have its signature. A stream comes back as a list.
pub fn call(callee: &str, function: &str, args: &[Value]) -> Result<Value, Error> {
    let arguments = |writer: &mut Writer<'_>| positional(writer, args);
    let mut items = Vec::new();
    let mut pending = match Pending::begin(callee, function, &arguments, None)? {
        (Answer::Whole(value), _) => return Ok(value),
        (Answer::End(_), _) => return Ok(Value::Array(items)),
        (Answer::Item(first), pending) => {
            items.push(first);
            pending
        }
    };
    while let Some(item) = pending.next()? {
        items.push(item);
    }
    Ok(Value::Array(items))
}

/// A stream that has begun. It has its connection for itself until it ends.
pub(crate) struct Pending {
    connection: Option<Box<Connection>>,
}

impl Pending {
    /// Makes a call, and waits for the first that comes of it.
    pub(crate) fn begin(
        callee: &str,
        function: &str,
        arguments: Fill<'_>,
        known: Option<Known<'_>>,
    ) -> Result<(Answer, Pending), Error> {
        let (mut repeats, mut turned) = (0, 0);
        loop {
            let held = CONNECTIONS.with_borrow_mut(|all| {
                let at = all.iter().rposition(|c| c.callee() == callee)?;
                Some(all.swap_remove(at))
            });
            let held = held.filter(|c| c.is_usable());
            let reused = held.is_some();
            let mut connection = match held {
                Some(connection) => connection,
                None => Box::new(connect(callee)?),
            };
            if let (Some(known), Some(there)) = (known, connection.hash_of(function))
                && there != known.hash
            {
                return Err(Error::Version {
                    function: function.to_owned(),
                    here: known.signature.to_owned(),
                });
            }
            let began = connection.begin(function, arguments);
            let error = match began.and_then(|()| connection.answer()) {
                Ok(item @ Answer::Item(_)) => {
                    let pending = Pending {
                        connection: Some(connection),
                    };
                    return Ok((item, pending));
                }
                Ok(answer) => {
                    keep(connection);
                    return Ok((answer, Pending { connection: None }));
                }
                Err(error) => error,
            };
            match &error {
                // It ended between the last call and this one.
                Error::ConnectionLost { ran: false, .. } if reused => {}
                Error::Remote { class, ran: false, .. } if class == "pysecure.GoingAway" && turned < TURNED_AWAY => {
                    turned += 1;
                    std::thread::sleep(moment(turned));
                }
                Error::ConnectionLost { .. } if known.is_some_and(|k| k.idempotent) && repeats < REPEATS => {
                    repeats += 1
                }
                // What it answered, it answered whole.
                Error::Remote { .. } => {
                    keep(connection);
                    return Err(error);
                }
                _ => return Err(error),
            }
        }
    }

    /// The next item; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Value>, Error> {
        let Some(mut connection) = self.connection.take() else {
            return Ok(None);
        };
        match connection.answer() {
            Ok(Answer::Item(item)) => {
                self.connection = Some(connection);
                Ok(Some(item))
            }
            Ok(_) => {
                keep(connection);
                Ok(None)
            }
            Err(error) => {
                if matches!(error, Error::Remote { .. }) {
                    keep(connection);
                }
                Err(error)
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Closing the connection says so as well, but only once its descriptor is nobody else's.
        if let Some(connection) = &mut self.connection {
            connection.cancel();
        }
    }
}

fn keep(connection: Box<Connection>) {
    // One that is going away is made anew for the next call.
    if connection.is_usable() {
        // During the thread's end there is nothing to keep it in.
        let _ = CONNECTIONS.try_with(|all| {
            let mut all = all.borrow_mut();
            // A stream that had its own connection gives way to the one that was made meanwhile.
            if all.iter().all(|c| c.callee() != connection.callee()) {
                all.push(connection);
            }
        });
    }
}
