//! Listening sockets that the supervisor makes: those of `listen` addresses, whose connections services get, one for each pair
//! of caller and callee, which is handed to the callee, and one for each service that may use a sandbox. They outlast the
//! services, so a restart loses no connection.
//!
//! A socket that a service was handed is nothing that the next start of it can rely on: it may have been given away, or be
//! shut down for good. So those of a callee are made anew when it has ended ([`Sockets::renew`]).
//!
//! Who calls is known from which socket a call came in on: a caller sees only the folder of its own, and
//! there only the callees that name it.

use super::queue;
use crate::cause::Reason;
use crate::host::{Dirs, Privilege, make_passable, make_private};
use crate::model::{EXTERNAL, OPERATOR};
use crate::plan::{self, Identity, PlanError};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

pub(in crate::supervise) const BACKLOG: i32 = 4096;
/// Threads and descriptors of the host's that are looked at when a service has ended; some tenths of a second.
const MOST_LOOKS: usize = 50_000;

/// What a socket is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Listen(SocketAddr),
    Pair { callee: String, caller: String },
    Sandbox { sandbox: String, user: String },
}

/// Who waits to be accepted, by caller.
#[derive(Debug, Default)]
pub(in crate::supervise) struct Waiting(BTreeMap<String, queue::Queue>);

/// All sockets of an app.
#[derive(Default)]
pub(in crate::supervise) struct Sockets {
    held: BTreeMap<Key, OwnedFd>,
    /// Whose the files of callers' sockets are.
    owners: BTreeMap<Key, Owner>,
    /// Handed to this process by its own service manager, and not asked for yet.
    inherited: Vec<(SocketAddr, OwnedFd)>,
    /// Addresses of those that were: the service manager holds them as well.
    managed: BTreeSet<SocketAddr>,
}

impl Sockets {
    pub(in crate::supervise) fn new(inherited: Vec<(SocketAddr, OwnedFd)>) -> Sockets {
        Sockets {
            held: BTreeMap::new(),
            owners: BTreeMap::new(),
            managed: inherited.iter().map(|(address, _)| *address).collect(),
            inherited,
        }
    }

    /// Binds what these services are to be handed, and lets go of all else. What is held already stays as it is.
    /// With an error, all is as it was.
    pub(in crate::supervise) fn hold<'s>(
        &mut self,
        dirs: &Dirs,
        services: impl Iterator<Item = &'s plan::Unit> + Clone,
    ) -> Result<(), PlanError> {
        let known: HashMap<&str, &Identity> = services.clone().map(|s| (s.name.as_str(), &s.identity)).collect();
        // And to whom it is to belong, if it is a file.
        let mut wanted: BTreeMap<Key, Owner> = BTreeMap::new();
        for service in services {
            wanted.extend(
                service
                    .listen
                    .iter()
                    .map(|address| (Key::Listen(*address), Owner::Nobody)),
            );
            for caller in &service.callers {
                let owner = match known.get(caller.as_str()) {
                    Some(identity) => {
                        let (uid, gid) = ids(identity);
                        Owner::Service(uid, gid)
                    }
                    None if caller == OPERATOR => Owner::Operator,
                    None => match service.external_uid.filter(|_| caller == EXTERNAL) {
                        Some(uid) => Owner::External(uid),
                        // It is a user of the host, to whom an ordinary user cannot give a socket.
                        None => continue,
                    },
                };
                wanted.insert(pair(&service.name, caller), owner);
            }
            for sandbox in &service.sandboxes {
                let (uid, gid) = ids(&service.identity);
                wanted.insert(of_sandbox(sandbox, &service.name), Owner::Service(uid, gid));
            }
            shown(dirs, service)?;
        }
        let mut fresh: Vec<(Key, OwnedFd)> = Vec::new();
        let mut handed = Vec::new();
        for (key, owner) in wanted.iter().filter(|(key, _)| !self.held.contains_key(key)) {
            let socket = match (key, owner) {
                // Taken when all others are there: if one of those cannot be had, it stays what it is.
                (Key::Listen(address), _) if self.inherited.iter().any(|(a, _)| a == address) => {
                    handed.push(*address);
                    continue;
                }
                (Key::Listen(address), _) => listener(*address),
                (Key::Pair { callee, caller }, owner) => bind_pair(dirs, caller, callee, *owner),
                (Key::Sandbox { sandbox, user }, owner) => bind_file(&dirs.sandboxes(user), sandbox, *owner),
            };
            match socket {
                Ok(socket) => fresh.push((key.clone(), socket)),
                Err(error) => {
                    fresh.iter().for_each(|(key, _)| unlink(dirs, key));
                    return Err(error);
                }
            }
        }
        self.held.extend(fresh);
        for address in handed {
            if let Some(at) = self.inherited.iter().position(|(a, _)| *a == address) {
                self.held.insert(Key::Listen(address), self.inherited.swap_remove(at).1);
            }
        }
        self.owners = wanted.clone();
        self.held.retain(|key, socket| {
            let stays = wanted.contains_key(key);
            if !stays {
                close(&self.managed, key, socket);
            }
            if let Key::Pair { .. } | Key::Sandbox { .. } = key
                && !stays
            {
                abandon(socket);
                unlink(dirs, key);
            }
            stays
        });
        Ok(())
    }

    /// Addresses that this process was handed and no service listens on.
    pub(in crate::supervise) fn unclaimed(&self) -> impl Iterator<Item = SocketAddr> {
        self.inherited.iter().map(|(address, _)| *address)
    }

    /// Does anybody wait in a socket that a service's callers connect to?
    pub(in crate::supervise) fn callers_wait(&self, service: &plan::Unit) -> bool {
        let of = |caller: &String| self.held.get(&pair(&service.name, caller));
        service.callers.iter().filter_map(of).any(|socket| {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&now)) == Ok(1)
        })
    }

    /// Those that wait in the sockets that a service's callers connect to, for [`Sockets::accepted`].
    pub(in crate::supervise) fn waiting(&self, service: &plan::Unit) -> Waiting {
        let of = |caller: &String| {
            Some((
                caller.clone(),
                queue::waiting(self.held.get(&pair(&service.name, caller))?)?,
            ))
        };
        Waiting(service.callers.iter().filter_map(of).collect())
    }

    /// Has a service accepted one of those that waited? Of more, whoever came later, nothing is known.
    pub(in crate::supervise) fn accepted(&self, service: &plan::Unit, waited: &Waiting) -> bool {
        let now = match waited.0.is_empty() {
            true => return false,
            false => self.waiting(service),
        };
        waited
            .0
            .iter()
            .any(|(caller, before)| now.0.get(caller).is_some_and(|now| queue::advanced(before, now)))
    }

    /// Lets go of the sockets of a service that was given up: whoever connects is refused, and does not wait for what does
    /// not come. The files of those of its callers stay, since they say who may call.
    pub(in crate::supervise) fn release(&mut self, service: &plan::Unit) {
        for caller in &service.callers {
            if let Some(socket) = self.held.remove(&pair(&service.name, caller)) {
                abandon(&socket);
            }
        }
        for address in service.listen.iter().filter(|a| !self.managed.contains(a)) {
            let key = Key::Listen(*address);
            if let Some(socket) = self.held.remove(&key) {
                close(&self.managed, &key, &socket);
            }
        }
    }

    /// Puts new sockets in the place of those that the callers of a service connect to, when it has ended. Whoever was given
    /// one by it answers nobody any more, and what it did to one, such as shutdown(2), is over. One that callers wait in
    /// stays, for they would be lost with it, unless somebody else may hold it.
    pub(in crate::supervise) fn renew(&mut self, dirs: &Dirs, service: &plan::Unit) {
        let mut looks = MOST_LOOKS;
        for caller in &service.callers {
            let key = pair(&service.name, caller);
            let (Some(old), Some(owner)) = (self.held.get(&key), self.owners.get(&key)) else {
                continue;
            };
            if waited_in(old) && !held_elsewhere(old, &mut looks) && rustix::net::listen(old, BACKLOG).is_ok() {
                continue;
            }
            let old = match bind_pair(dirs, caller, &service.name, *owner) {
                Ok(fresh) => self.held.insert(key, fresh),
                Err(error) => {
                    // The next start tries it again, and says why it cannot be.
                    tracing::warn!(service = service.name, caller, "make a socket anew: {error}");
                    self.held.remove(&key)
                }
            };
            old.iter().for_each(abandon);
        }
    }

    /// Binds again what was released or could not be made anew.
    pub(in crate::supervise) fn reclaim(&mut self, dirs: &Dirs, service: &plan::Unit) -> Result<(), PlanError> {
        for caller in &service.callers {
            let key = pair(&service.name, caller);
            if let (Some(owner), false) = (self.owners.get(&key), self.held.contains_key(&key)) {
                let socket = bind_pair(dirs, caller, &service.name, *owner)?;
                self.held.insert(key, socket);
            }
        }
        for address in &service.listen {
            if let Entry::Vacant(place) = self.held.entry(Key::Listen(*address)) {
                place.insert(listener(*address)?);
            }
        }
        Ok(())
    }

    /// Lets go of all.
    pub(in crate::supervise) fn clear(&mut self) {
        for (key, socket) in std::mem::take(&mut self.held) {
            close(&self.managed, &key, &socket);
        }
        self.inherited.clear();
    }

    /// Those by which services ask for runs in a sandbox.
    pub(in crate::supervise) fn of_sandbox(&self, name: &str) -> Vec<BorrowedFd<'_>> {
        let is_of = |key: &Key| matches!(key, Key::Sandbox { sandbox, .. } if sandbox == name);
        let held = self.held.iter().filter(|(key, _)| is_of(key));
        held.map(|(_, socket)| socket.as_fd()).collect()
    }

    /// Those of the host's addresses that a service listens on.
    pub(in crate::supervise) fn listening(&self, service: &plan::Unit) -> Vec<BorrowedFd<'_>> {
        let held = |address| Some(self.held.get(&Key::Listen(address))?.as_fd());
        service.listen.iter().copied().filter_map(held).collect()
    }

    /// The sockets of one service and their names, in the order of their descriptors.
    pub(in crate::supervise) fn of<'s>(&'s self, service: &'s plan::Unit) -> Vec<(BorrowedFd<'s>, &'s str)> {
        let listen = service.listen.iter().map(|address| Key::Listen(*address));
        let callers = service.callers.iter().map(|caller| pair(&service.name, caller));
        let held = |(key, name): (Key, &'s str)| Some((self.held.get(&key)?.as_fd(), name));
        listen
            .chain(callers)
            .zip(service.socket_names())
            .filter_map(held)
            .collect()
    }
}

/// Has nobody wait in a socket any more, whoever else holds it: a relay lets go of it a moment later. One that is a service
/// manager's as well is its to close.
fn close(managed: &BTreeSet<SocketAddr>, key: &Key, socket: &OwnedFd) {
    if let Key::Listen(address) = key
        && !managed.contains(address)
    {
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
    }
}

/// Does somebody wait in a listening socket that is as good as new?
fn waited_in(socket: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut asked = [PollFd::new(socket, PollFlags::IN | PollFlags::RDHUP)];
    poll(&mut asked, Some(&now)) == Ok(1)
        && (asked[0].revents() & (PollFlags::IN | PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)) == PollFlags::IN
}

/// May a process other than this one have a socket, or be about to receive it from another? Threads may have descriptors of
/// their own. Processes that this one may not look into are no service's. `looks`: so many threads and descriptors are looked
/// at, for a service may have any number of both, and all others wait meanwhile; beyond that, it may.
fn held_elsewhere(socket: &OwnedFd, looks: &mut usize) -> bool {
    let mut spent = || {
        *looks = looks.saturating_sub(1);
        *looks == 0
    };
    let Ok(found) = rustix::fs::fstat(socket) else {
        return true;
    };
    let name = format!("socket:[{}]", found.st_ino);
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return true;
    };
    let own = std::process::id().to_string();
    let numbered = |entry: &std::fs::DirEntry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let others = processes
        .flatten()
        .filter(|entry| numbered(entry) && entry.file_name() != own.as_str());
    let threads = others.flat_map(|process| {
        std::fs::read_dir(process.path().join("task"))
            .into_iter()
            .flatten()
            .flatten()
    });
    threads.into_iter().any(|thread| {
        if spent() {
            return true;
        }
        let descriptors = std::fs::read_dir(thread.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        descriptors.into_iter().any(|descriptor| {
            if spent() {
                return true;
            }
            let Ok(to) = std::fs::read_link(descriptor.path()) else {
                return false;
            };
            if to.as_os_str() == name.as_str() {
                return true;
            }
            // proc_pid_fdinfo(5): descriptors that lie in it and were not received yet.
            to.as_os_str().as_encoded_bytes().starts_with(b"socket:")
                && std::fs::read_to_string(thread.path().join("fdinfo").join(descriptor.file_name())).is_ok_and(
                    |info| {
                        info.lines()
                            .any(|l| l.strip_prefix("scm_fds:").is_some_and(|n| n.trim() != "0"))
                    },
                )
        })
    })
}

/// Ends a listening socket for all who hold it, and whoever waits in it: a caller that was not greeted connects again.
fn abandon(socket: &OwnedFd) {
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
    let _ = rustix::io::ioctl_fionbio(socket, true);
    while rustix::net::accept_with(socket, SocketFlags::CLOEXEC).is_ok() {}
}

fn pair(callee: &str, caller: &str) -> Key {
    Key::Pair {
        callee: callee.to_owned(),
        caller: caller.to_owned(),
    }
}

fn of_sandbox(sandbox: &str, user: &str) -> Key {
    Key::Sandbox {
        sandbox: sandbox.to_owned(),
        user: user.to_owned(),
    }
}

fn listener(address: SocketAddr) -> Result<OwnedFd, PlanError> {
    tcp(address).map_err(|e| PlanError::io("listen on", address.to_string(), explain(e)))
}

pub(in crate::supervise) fn tcp(address: SocketAddr) -> std::io::Result<OwnedFd> {
    // The standard library sets SO_REUSEADDR and CLOEXEC; its backlog is 128, so listen(2) again.
    let listener = std::net::TcpListener::bind(address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener.into())
}

/// What will keep an address from being listened on, whoever listens where now.
pub fn cannot_bind(address: SocketAddr, privilege: &Privilege) -> Option<Reason> {
    // Any port will do to see whether the address is one of this host's.
    let there = std::net::TcpListener::bind(SocketAddr::new(address.ip(), 0));
    if let Err(error) = there.map(drop)
        && error.raw_os_error() == Some(libc::EADDRNOTAVAIL)
    {
        return Some(explain(error));
    }
    let lowest = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let lowest: u16 = lowest.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
    (*privilege != Privilege::Root && address.port() < lowest)
        .then(|| explain(std::io::Error::from_raw_os_error(libc::EACCES)))
}

pub(in crate::supervise) fn explain(error: std::io::Error) -> Reason {
    let reason = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            Reason::new("EADDRINUSE: another program listens there").remedy("`ss -ltnp` shows which")
        }
        Some(libc::EACCES) => Reason::new("EACCES: ports below 1024 are root's").remedy("choose a higher one"),
        Some(libc::EADDRNOTAVAIL) => Reason::new("EADDRNOTAVAIL: this host does not have the address"),
        _ => Reason::new(error.to_string()),
    };
    reason.because(error)
}

/// The folders that a service's spec mounts, in which its sockets come to lie.
pub fn folders(dirs: &Dirs, service: &plan::Unit) -> Result<(), PlanError> {
    shown(dirs, service)?;
    if service.notifies() {
        make_passable(&dirs.notify(&service.name))?;
    }
    if service.logs_messages() {
        make_passable(&dirs.syslog(&service.name))?;
    }
    Ok(())
}

/// The folders of a service in which it finds sockets to connect to.
fn shown(dirs: &Dirs, service: &plan::Unit) -> Result<(), PlanError> {
    if !service.callees.is_empty() {
        make_passable(&dirs.rpc(&service.name))?;
    }
    if !service.sandboxes.is_empty() {
        make_passable(&dirs.sandboxes(&service.name))?;
    }
    Ok(())
}

/// Whose a socket's file is to be.
#[derive(Clone, Copy)]
enum Owner {
    /// It has no file.
    Nobody,
    Service(rustix::fs::Uid, rustix::fs::Gid),
    Operator,
    /// A user of the host.
    External(u32),
}

/// Where the sockets of a caller lie.
fn folder(dirs: &Dirs, caller: &str) -> PathBuf {
    match caller {
        EXTERNAL => dirs.external.clone(),
        _ => dirs.rpc(caller),
    }
}

/// Takes away the file by which a service finds a socket.
fn unlink(dirs: &Dirs, key: &Key) {
    let (folder, name) = match key {
        Key::Listen(_) => return,
        Key::Pair { callee, caller } => (folder(dirs, caller), callee),
        Key::Sandbox { sandbox, user } => (dirs.sandboxes(user), sandbox),
    };
    let _ = std::fs::remove_file(folder.join(format!("{name}.sock")));
}

fn bind_pair(dirs: &Dirs, caller: &str, callee: &str, owner: Owner) -> Result<OwnedFd, PlanError> {
    bind_file(&folder(dirs, caller), callee, owner)
}

/// A listening socket `NAME.sock` in a folder that one service sees.
fn bind_file(folder: &Path, name: &str, owner: Owner) -> Result<OwnedFd, PlanError> {
    match owner {
        Owner::Operator | Owner::Nobody => make_private(folder)?,
        Owner::Service(..) => make_passable(folder)?,
        Owner::External(_) => {
            if let Some(above) = folder.parent() {
                make_passable(above)?;
            }
            make_passable(folder)?;
        }
    }
    let path = folder.join(format!("{name}.sock"));
    // Under a name that no service can have, until somebody can connect: there is always one at its place.
    let fresh = folder.join(format!(".{name}.new"));
    let made = (|| {
        let socket = bind_unix(&fresh, SocketType::SEQPACKET)?;
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        match owner {
            Owner::Service(uid, gid) => rustix::fs::chown(&fresh, Some(uid), Some(gid))?,
            Owner::External(uid) => rustix::fs::chown(&fresh, Some(rustix::fs::Uid::from_raw(uid)), None)?,
            Owner::Operator | Owner::Nobody => {}
        }
        rustix::fs::chmod(&fresh, mode)?;
        rustix::net::listen(&socket, BACKLOG)?;
        std::fs::rename(&fresh, &path)?;
        Ok(socket)
    })();
    made.map_err(|e: std::io::Error| PlanError::io("make the socket", &path, e))
}

/// Makes a socket one service's alone.
pub(in crate::supervise) fn give(path: &Path, identity: &Identity) -> std::io::Result<()> {
    let (uid, gid) = ids(identity);
    rustix::fs::chown(path, Some(uid), Some(gid))?;
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o600))?;
    Ok(())
}

/// A service's ids where the supervisor is. Where there is but one id, all are that.
pub(in crate::supervise) fn ids(identity: &Identity) -> (rustix::fs::Uid, rustix::fs::Gid) {
    let (uid, gid) = identity.on_disk();
    (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid))
}

/// Binds a Unix socket at a path of any length: sockaddr_un holds 108 bytes, so the folder is named by
/// descriptor.
pub(in crate::supervise) fn bind_unix(path: &Path, kind: SocketType) -> std::io::Result<OwnedFd> {
    let (folder, name) = (
        path.parent().unwrap_or(Path::new("/")),
        path.file_name().unwrap_or_default(),
    );
    let folder = rustix::fs::open(
        folder,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let short = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(name);
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    match std::fs::remove_file(&short) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    rustix::net::bind(&socket, &SocketAddrUnix::new(&short)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_was_made_anew_says_nothing_of_who_was_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let dirs = Dirs {
            state: place("state"),
            app: place("app"),
            run: place("run"),
            external: place("external"),
        };
        let identity = Identity {
            uid: 61_001,
            gid: 61_001,
            groups: Vec::new(),
            peers: Vec::new(),
            keeper: None,
            outside: plan::ledger::Ids::default(),
            root_inside: false,
        };
        let mut service = plan::Unit::new(plan::Role::Service, "auth", identity, "host", vec!["auth".to_owned()]);
        service.callers = vec![OPERATOR.to_owned()];
        let mut sockets = Sockets::default();
        sockets.hold(&dirs, [&service].into_iter()).unwrap();
        let call = || {
            let client = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
            let address = SocketAddrUnix::new(dirs.rpc(OPERATOR).join("auth.sock")).unwrap();
            rustix::net::connect(&client, &address).unwrap();
            client
        };
        let _one = call();
        let waited = sockets.waiting(&service);
        assert!(!sockets.accepted(&service, &waited));
        // Nobody waits in the new one.
        sockets.release(&service);
        sockets.reclaim(&dirs, &service).unwrap();
        assert!(!sockets.accepted(&service, &waited));
        let _another = call();
        assert!(!sockets.accepted(&service, &waited));
        // In one and the same socket it is seen.
        let waited = sockets.waiting(&service);
        let socket = &sockets.held[&pair("auth", OPERATOR)];
        drop(rustix::net::accept(socket).unwrap());
        assert!(sockets.accepted(&service, &waited));
    }

    #[test]
    fn what_would_take_too_long_to_find_out_is_not_ruled_out() {
        let folder = tempfile::tempdir().unwrap();
        let socket = bind_unix(&folder.path().join("s"), SocketType::SEQPACKET).unwrap();
        // Other processes of the host may have sockets on their way at any time, but not for long.
        while held_elsewhere(&socket, &mut usize::MAX.clone()) {
            std::thread::yield_now();
        }
        // A look for each thread and each of its descriptors: six processes have more than 20 in any case.
        let mut others: Vec<std::process::Child> = std::iter::repeat_with(|| {
            let mut cat = std::process::Command::new("cat");
            cat.stdin(std::process::Stdio::piped()).spawn().unwrap()
        })
        .take(6)
        .collect();
        let mut looks = 20;
        assert!(held_elsewhere(&socket, &mut looks));
        assert_eq!(looks, 0);
        for other in &mut others {
            drop(other.stdin.take());
            other.wait().unwrap();
        }
    }
}
