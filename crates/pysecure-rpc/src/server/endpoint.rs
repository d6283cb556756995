//! A service's listening sockets, one for each caller, and all that is the same for each connection to one.

use super::figures::Figures;
use super::idle::MAX_THREADS;
use super::unread::Unread;
use super::{Functions, held};
use pysecure_wire::limits::MAX_MESSAGE;
use pysecure_wire::listen::{self, Allowed};
use pysecure_wire::message;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::HashMap;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most connections of one caller.
const MAX_CONNECTIONS: usize = 1024;
/// So many connections of a caller have areas, which stay as long as the connections do.
const MAX_AREAS: usize = 16;
/// A connection takes so many descriptors: its socket, and an area for each direction.
const FDS_OF_CONNECTION: usize = 3;
/// A thread takes so many descriptors: a message's.
const FDS_OF_THREAD: usize = 16;

/// A listening socket for one caller.
pub(super) struct Endpoint {
    /// In the order of the sockets, from 0.
    pub(super) index: usize,
    /// As the socket is called; `None` outside PySecure.
    pub(super) caller: Option<String>,
    pub(super) socket: OwnedFd,
    pub(super) allowed: Allowed,
    pub(super) hello: Vec<u8>,
    pub(super) unread: Unread,
    pub(super) max_threads: usize,
    connections: Mutex<usize>,
    max_connections: usize,
    /// Connections that have an area.
    areas: AtomicUsize,
    /// How often each function was refused, with the empty name what is no function.
    refused: Mutex<HashMap<&'static str, u64>>,
}

impl Endpoint {
    /// One connection more, if there may be.
    pub(super) fn connect(&self) -> bool {
        let mut connections = held(&self.connections);
        if *connections >= self.max_connections {
            return false;
        }
        *connections += 1;
        true
    }

    /// One connection less, which had an area or not.
    pub(super) fn disconnect(&self, has_area: bool) {
        *held(&self.connections) -= 1;
        if has_area {
            self.areas.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// May one more connection have an area?
    pub(super) fn take_area(&self) -> bool {
        let one_more = |areas| (areas < MAX_AREAS).then_some(areas + 1);
        let taken = self.areas.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok()
    }

    /// Counts a refusal, and logs the first, tenth, hundredth … of a name, so that no caller fills a log.
    pub(super) fn refuse(&self, service: &str, functions: &Functions, figures: Option<&Figures>, name: &str) {
        // Names that are no function's are the caller's choice, and could be without end: they are counted as one.
        let known = functions.get_key_value(name).map_or("", |(name, _)| *name);
        if let Some(figures) = figures {
            figures.refused(known);
        }
        let count = {
            let mut refused = held(&self.refused);
            let count = refused.entry(known).or_default();
            *count += 1;
            *count
        };
        if is_logged(count) {
            let caller = self.caller.as_deref().unwrap_or("nobody by name");
            let name: String = name.chars().take(64).collect();
            // Not by eprintln!, which panics where there is no place for it.
            let _ = writeln!(
                std::io::stderr().lock(),
                "{service} refused {name:?} to {caller}, {count} so far"
            );
        }
    }
}

/// Is this a power of ten?
fn is_logged(count: u64) -> bool {
    count.checked_ilog10().is_some_and(|digits| count == 10_u64.pow(digits))
}

/// The service's endpoints.
pub(super) fn endpoints(name: &str, functions: &Functions) -> Result<Vec<Endpoint>, String> {
    let sockets = match listen::take_sockets().map_err(|e| e.to_string())? {
        Some(sockets) => {
            let with_name = sockets.into_iter().map(|s| (Some(s.caller), s.socket, s.allowed));
            with_name.collect()
        }
        None => vec![(None, own_socket(name)?, Allowed::All)],
    };
    // Each caller has its share of the descriptors, and some are the service's own.
    let limit = raise_limit();
    let share = (limit - (limit / 4).min(128)) / sockets.len().max(1);
    let mut out = Vec::new();
    for (index, (caller, socket, allowed)) in sockets.into_iter().enumerate() {
        if let (Allowed::Only(names), Some(caller)) = (&allowed, &caller)
            && let Some(lacks) = names.iter().filter(|n| !functions.contains_key(n.as_str())).min()
        {
            return Err(format!(
                "`callers` let {caller} call `{lacks}`, which this program does not have"
            ));
        }
        let theirs: Vec<_> = functions.values().filter(|f| allowed.allows(f.name)).collect();
        let theirs = theirs.iter().map(|f| (f.name, f.hash()));
        let hello = message::hello_message(name, caller.as_deref(), theirs).bytes;
        if hello.len() > MAX_MESSAGE {
            return Err("more functions than fit into a message".to_owned());
        }
        out.push(Endpoint {
            index,
            caller,
            socket,
            allowed,
            hello,
            unread: Unread::new(share),
            max_threads: (share / 2 / FDS_OF_THREAD).clamp(1, MAX_THREADS),
            connections: Mutex::default(),
            max_connections: (share / 2 / FDS_OF_CONNECTION).clamp(1, MAX_CONNECTIONS),
            areas: AtomicUsize::new(0),
            refused: Mutex::default(),
        });
    }
    Ok(out)
}

/// Outside PySecure: a socket in the folder that the environment names.
fn own_socket(name: &str) -> Result<OwnedFd, String> {
    let folder = std::env::var_os("PYSECURE_RPC_DIR")
        .ok_or("it has no sockets: start it under pysecure, or set PYSECURE_RPC_DIR to a folder for them")?;
    let path = Path::new(&folder).join(format!("{name}.sock"));
    bind(&path).map_err(|e| format!("make the socket {}: {e}", path.display()))
}

fn bind(path: &Path) -> Result<OwnedFd, std::io::Error> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o600))?;
    rustix::net::listen(&socket, 4096)?;
    Ok(socket)
}

/// Has as many descriptors as may be, for connections take them: how many those are.
fn raise_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    now.and_then(|now| usize::try_from(now).ok())
        .unwrap_or(1 << 20)
        .min(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::is_logged;

    #[test]
    fn refusals_are_logged_at_powers_of_ten() {
        let logged: Vec<u64> = (0..=1_000).filter(|count| is_logged(*count)).collect();
        assert_eq!(logged, [1, 10, 100, 1_000]);
        assert!(!is_logged(u64::MAX));
    }
}
