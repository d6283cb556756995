//! `async` functions, on Tokio. The caller's half waits on Tokio's threads for what blocks; the service's half runs the future in the
//! thread of its connection, and drops it when the deadline passes, the caller takes the call back, or goes.

use crate::context::Context;
use crate::error::Error;
use pysecure_wire::message::{MessageHead, read_id};
use pysecure_wire::{IncomingArea, MessageKind, Reader, ReceivedFds};
use rustix::net::RecvFlags;
use std::future::Future;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};

/// Runs what blocks on another thread, with this one's deadline and trace. Within Tokio alone.
pub async fn elsewhere<T: Send + 'static>(
    body: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let context = Context::current();
    match tokio::task::spawn_blocking(move || context.within(body)).await {
        Ok(result) => result,
        Err(broken) => match broken.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::raise("RuntimeError", "the runtime ends")),
        },
    }
}

/// How a future came to its end.
pub(crate) enum Run<T> {
    Done(T),
    Late,
    Unwanted,
}

/// Runs the future of the call with this number, which came on this socket.
pub(crate) fn run<T>(socket: BorrowedFd<'_>, id: u64, future: impl Future<Output = T>) -> std::io::Result<Run<T>> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = match RUNTIME.get() {
        Some(runtime) => runtime,
        None => {
            let made = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            RUNTIME.get_or_init(|| made)
        }
    };
    let deadline = Context::current().deadline;
    runtime.block_on(async {
        // SAFETY: the descriptor is borrowed for longer than this lives, and nothing closes it meanwhile.
        #[allow(unsafe_code)]
        let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        let late = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            out = future => Ok(Run::Done(out)),
            () = late => Ok(Run::Late),
            () = unwanted(&watched, id) => Ok(Run::Unwanted),
        }
    })
}

/// Waits until the caller is gone, or its CANCEL is the next that it has sent.
async fn unwanted(socket: &AsyncFd<BorrowedFd<'_>>, id: u64) {
    loop {
        let Ok(mut ready) = socket.readable().await else {
            return std::future::pending().await;
        };
        let mut start = [0; 16];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recv(socket.get_ref(), &mut start, flags) {
            Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => return,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => ready.clear_ready(),
            // Another call waits, or credit: it is read when this one is over.
            Ok((len, _)) if !is_cancel(&start[..len], id) => return std::future::pending().await,
            Ok(_) => return,
            Err(_) => return std::future::pending().await,
        }
    }
}

fn is_cancel(message: &[u8], id: u64) -> bool {
    let (mut none, mut area) = (ReceivedFds::default(), IncomingArea::default());
    let mut reader = Reader::new(message, &mut none, &mut area);
    let head = MessageHead::read(&mut reader);
    head.is_ok_and(|head| head.kind == MessageKind::Cancel) && read_id(&mut reader, false) == Ok(id)
}
