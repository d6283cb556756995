//! What a service takes from its environment: its listening sockets (sd_listen_fds_with_names(3)), and what each caller may call
//! (docs/reference/rpc-protocol.md, "Finding each other").

use rustix::net::{AddressFamily, SocketType};
use std::collections::{HashMap, HashSet};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that is handed over.
const FIRST: RawFd = 3;
/// How many descriptors may be handed over.
const MAX_FDS: RawFd = 65_536;
/// The name of sockets that are not RPC's.
const OTHER: &str = "listen";
/// What says which sockets there are.
const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// Why a service cannot take its sockets.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The variable is not what it may be.
    #[error("{variable}={value:?} is no number of descriptors")]
    Number {
        /// Its name.
        variable: &'static str,
        /// What it is set to.
        value: String,
    },
    /// They are another process's.
    #[error(
        "its sockets were handed to process {theirs}, and this is {ours}: \
         a script that starts it should end in `exec`"
    )]
    OtherProcess {
        /// The process that they were handed to.
        theirs: String,
        /// This process.
        ours: u32,
    },
    /// This process has taken them already.
    #[error("its sockets were taken before")]
    Taken,
    /// Nothing says what callers may call.
    #[error("PYSECURE_RPC_CALLERS is not set, so nothing says who may call what")]
    NoCallers,
    /// What says what callers may call is malformed.
    #[error("PYSECURE_RPC_CALLERS is malformed: {0}")]
    Callers(String),
    /// A socket cannot be closed at exec.
    #[error("close its sockets at exec: {0}")]
    CloseOnExec(rustix::io::Errno),
}

/// What one caller may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// All functions.
    All,
    /// Only these functions.
    Only(HashSet<String>),
}

impl Allowed {
    /// May the function of this name be called?
    pub fn allows(&self, name: &str) -> bool {
        match self {
            Allowed::All => true,
            Allowed::Only(names) => names.contains(name),
        }
    }
}

/// A listening socket for one caller.
#[derive(Debug)]
pub struct CallerSocket {
    /// The caller's name.
    pub caller: String,
    /// The socket.
    pub socket: OwnedFd,
    /// What the caller may call.
    pub allowed: Allowed,
}

/// Takes the sockets that were handed to this process, once; the variables that say so are cleared then, for no child is meant by them. None
/// if it is not started by a supervisor: then it has to make a socket by itself.
///
/// The variables stay if the process has several threads by then, for another thread may be reading them.
pub fn take_sockets() -> Result<Option<Vec<CallerSocket>>, ListenError> {
    let policy = std::env::var("PYSECURE_RPC_CALLERS").ok();
    let Ok(count) = std::env::var("LISTEN_FDS") else {
        return match policy {
            // A supervisor that has no sockets for it.
            Some(_) => Ok(Some(Vec::new())),
            None => Ok(None),
        };
    };
    let ours = std::process::id();
    if let Ok(theirs) = std::env::var("LISTEN_PID")
        && theirs != ours.to_string()
    {
        return match policy {
            Some(_) => Err(ListenError::OtherProcess { theirs, ours }),
            None => Ok(None),
        };
    }
    let wrong = || ListenError::Number {
        variable: "LISTEN_FDS",
        value: count.clone(),
    };
    let count: RawFd = count.parse().map_err(|_| wrong())?;
    if !(0..=MAX_FDS).contains(&count) {
        return Err(wrong());
    }
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(ListenError::Taken);
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let sockets = sockets(count, &names)?;
    clear_variables();
    match policy {
        Some(policy) => Ok(Some(granted(sockets, &policy)?)),
        None if sockets.is_empty() => Ok(Some(Vec::new())),
        None => Err(ListenError::NoCallers),
    }
}

/// The RPC sockets among so many descriptors, with their names.
fn sockets(count: RawFd, names: &str) -> Result<Vec<(String, OwnedFd)>, ListenError> {
    let names: Vec<&str> = names.split(':').collect();
    let mut out = Vec::new();
    for at in 0..count {
        // SAFETY: sd_listen_fds(3): these descriptors were handed to this process, which is the one that LISTEN_PID names, and
        // are its to keep; they are taken once.
        #[allow(unsafe_code)]
        let fd = unsafe { OwnedFd::from_raw_fd(FIRST + at) };
        let name = names.get(at as usize).copied().unwrap_or_default();
        if name.is_empty() || name == OTHER || !is_rpc(&fd) {
            // The program's own, which it takes in its own way.
            let _ = fd.into_raw_fd();
            continue;
        }
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(ListenError::CloseOnExec)?;
        out.push((name.to_owned(), fd));
    }
    Ok(out)
}

fn is_rpc(fd: &OwnedFd) -> bool {
    use rustix::net::sockopt::{socket_domain, socket_type};
    socket_domain(fd) == Ok(AddressFamily::UNIX) && socket_type(fd) == Ok(SocketType::SEQPACKET)
}

fn clear_variables() {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    if !matches!(threads, Ok(1)) {
        return;
    }
    for variable in VARIABLES {
        // SAFETY: this process has one thread, so nothing else reads the environment meanwhile.
        #[allow(unsafe_code)]
        unsafe {
            std::env::remove_var(variable);
        }
    }
}

/// Which socket is for whom, by the policy: an object of callers' names, with `"*"` or a list of functions.
fn granted(sockets: Vec<(String, OwnedFd)>, policy: &str) -> Result<Vec<CallerSocket>, ListenError> {
    let mut policy: HashMap<String, serde_json::Value> =
        serde_json::from_str(policy).map_err(|e| ListenError::Callers(e.to_string()))?;
    let mut out = Vec::new();
    for (caller, socket) in sockets {
        let allowed = match policy.remove(&caller) {
            Some(serde_json::Value::String(all)) if all == "*" => Some(Allowed::All),
            Some(serde_json::Value::Array(names)) => {
                let names: Option<HashSet<String>> = names.iter().map(|n| n.as_str().map(str::to_owned)).collect();
                names.map(Allowed::Only)
            }
            Some(_) => None,
            None => Some(Allowed::Only(HashSet::new())),
        };
        let malformed =
            || ListenError::Callers(format!("what {caller:?} may call is neither \"*\" nor a list of names"));
        let allowed = allowed.ok_or_else(malformed)?;
        out.push(CallerSocket {
            caller,
            socket,
            allowed,
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(policy: &str) -> Result<Allowed, ListenError> {
        let socket = OwnedFd::from(std::os::unix::net::UnixDatagram::unbound().unwrap());
        let mut granted = granted(vec![("web".to_owned(), socket)], policy)?;
        Ok(granted.remove(0).allowed)
    }

    #[test]
    fn a_caller_may_call_what_the_policy_says_and_no_more() {
        assert_eq!(allowed(r#"{"web": "*", "x": []}"#).unwrap(), Allowed::All);
        let only = allowed(r#"{"web": ["login"]}"#).unwrap();
        assert!(only.allows("login") && !only.allows("logout"));
        assert_eq!(allowed("{}").unwrap(), Allowed::Only(HashSet::new()));
        for malformed in ["", "[]", r#"{"web": "login"}"#, r#"{"web": [1]}"#, r#"{"web": null}"#] {
            assert!(
                matches!(allowed(malformed), Err(ListenError::Callers(_))),
                "{malformed}"
            );
        }
    }
}
