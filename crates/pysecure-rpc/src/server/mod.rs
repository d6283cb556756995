//! The service's side: takes the sockets that the supervisor made, one for each caller, and answers what comes in on
//! them. Who calls is the name of the socket. What that caller may call is looked up before anything else, and a function
//! outside its list is answered as one that there is not.

mod answer;
mod endpoint;
mod figures;
mod idle;
mod session;
mod unread;

use crate::error::Error;
use crate::function::Function;
use endpoint::{Endpoint, endpoints};
use figures::Figures;
use idle::{EpollToken, IdleConnections};
use nix::sys::signal::{SigSet, Signal};
use pysecure_wire::message;
use session::Session;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// How long to wait when no connection can be accepted: those that are open have to end first.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(10);

/// The functions that a service has, by name.
type Functions = BTreeMap<&'static str, &'static Function>;

static SERVES: OnceLock<String> = OnceLock::new();

thread_local! {
    static CALLER: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The service that called the function which runs in this thread. None outside a call, and for a caller without a name.
pub fn caller() -> Option<String> {
    CALLER.with_borrow(Clone::clone)
}

/// Is this process the service of that name?
pub fn runs_here(service: &str) -> bool {
    SERVES.get().is_some_and(|name| name == service)
}

struct Service {
    name: String,
    functions: Functions,
    open: Mutex<Vec<(u64, Arc<OwnedFd>)>>,
    all_closed: Condvar,
    /// Set before `open` is gone through at the end; a call that reads it late is answered, for its connection is waited for.
    ends: AtomicBool,
    figures: Option<Figures>,
    idle: Arc<IdleConnections<Session>>,
}

/// A panic in a function leaves what it held as it was; counts and lists are whole at any time.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the functions of this program whose `run_as` is `name`, until SIGTERM; what runs then is answered first.
/// To be called before the program starts threads, which would take the signal.
pub fn start_service(name: &str) -> Result<(), Error> {
    let wrong = |problem: String| Error::Serve {
        service: name.to_owned(),
        problem,
    };
    let functions: Functions = inventory::iter::<Function>
        .into_iter()
        .filter(|f| f.service == name)
        .map(|f| (f.name, f))
        .collect();
    if functions.is_empty() {
        return Err(wrong(format!("no function has #[rpc(run_as = \"{name}\")]")));
    }
    let endpoints = endpoints(name, &functions).map_err(wrong)?;
    if SERVES.set(name.to_owned()).is_err() {
        return Err(wrong("this process serves already".into()));
    }
    let stop = on_sigterm().map_err(wrong)?;
    let figures = Figures::under_pysecure(functions.keys().copied());
    let service = Arc::new(Service {
        name: name.to_owned(),
        functions,
        open: Mutex::default(),
        all_closed: Condvar::new(),
        ends: AtomicBool::new(false),
        figures,
        idle: Arc::new(IdleConnections::new().map_err(|e| wrong(format!("make an epoll: {e}")))?),
    });
    ready().map_err(|e| wrong(format!("say that it is ready: {e}")))?;
    accept_until(&stop, &service, endpoints).map_err(wrong)?;
    drain(&service);
    Ok(())
}

/// A pipe that ends when SIGTERM comes.
fn on_sigterm() -> Result<std::io::PipeReader, String> {
    let mut term = SigSet::empty();
    term.add(Signal::SIGTERM);
    term.thread_block().map_err(|e| format!("block SIGTERM: {e}"))?;
    let (ended, ends) = std::io::pipe().map_err(|e| format!("make a pipe: {e}"))?;
    let waiting = std::thread::Builder::new().spawn(move || {
        let _ = term.wait();
        drop(ends);
    });
    waiting.map_err(|e| format!("start a thread: {e}"))?;
    Ok(ended)
}

/// Accepts connections, and hands those on which something comes to threads, until `stop` ends.
fn accept_until(stop: &std::io::PipeReader, service: &Arc<Service>, endpoints: Vec<Endpoint>) -> Result<(), String> {
    let endpoints: Vec<Arc<Endpoint>> = endpoints.into_iter().map(Arc::new).collect();
    let idle = &service.idle;
    let watched = endpoints
        .iter()
        .try_for_each(|endpoint| idle.watch(&endpoint.socket, EpollToken::Endpoint(endpoint.index)))
        .and_then(|()| idle.watch(stop, EpollToken::Stop));
    watched.map_err(|errno| format!("watch for callers: {errno}"))?;
    let mut number = 0;
    loop {
        for token in idle.wait().map_err(|errno| format!("wait for callers: {errno}"))? {
            match token {
                EpollToken::Stop => return Ok(()),
                EpollToken::Connection(number) => idle.wake(number),
                EpollToken::Endpoint(index) => {
                    if let Some(endpoint) = endpoints.get(index) {
                        number += 1;
                        accept(service, endpoint, number);
                    }
                }
            }
        }
    }
}

fn accept(service: &Arc<Service>, endpoint: &Arc<Endpoint>, number: u64) {
    let Ok(socket) = rustix::net::accept_with(&endpoint.socket, rustix::net::SocketFlags::CLOEXEC) else {
        std::thread::sleep(OUT_OF_DESCRIPTORS);
        return;
    };
    if !endpoint.connect() {
        let busy = message::error_message(0, "pysecure.Busy", "too many connections of this caller", &[], false);
        let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
        let _ = rustix::net::send(&socket, &busy.bytes, flags);
        return;
    }
    let socket = Arc::new(socket);
    held(&service.open).push((number, socket.clone()));
    let session = Session::new(service.clone(), endpoint.clone(), socket, number);
    if session.greet() {
        service.idle.add(session);
    }
}

/// No new calls; those that run are answered.
fn drain(service: &Service) {
    service.ends.store(true, Ordering::SeqCst);
    let open = held(&service.open);
    let goaway = message::goaway_message("the service ends");
    for (_, socket) in open.iter() {
        let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
        let _ = rustix::net::send(socket, &goaway.bytes, flags);
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Read);
    }
    drop(open);
    service.idle.close();
    let mut open = held(&service.open);
    while !open.is_empty() {
        open = service.all_closed.wait(open).unwrap_or_else(PoisonError::into_inner);
    }
}

/// sd_notify(3), if somebody wants to know: where the socket that is named is not there, nobody does.
fn ready() -> std::io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    match std::os::unix::net::UnixDatagram::unbound()?.send_to(b"READY=1", path) {
        Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Err(e),
        _ => Ok(()),
    }
}
