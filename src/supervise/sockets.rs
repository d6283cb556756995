//! Listening sockets that the supervisor makes and services are handed: `listen` addresses, and one for each
//! pair of caller and callee.
//!
//! Who calls is known from which socket a call came in on: a caller sees only the folder of its own, and
//! there only the callees that name it.

use crate::plan::{Dirs, Plan, PlanError, make_private};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Name under which a `listen` socket is handed over; sd_listen_fds_with_names(3).
const LISTEN: &str = "listen";
const BACKLOG: i32 = 4096;

/// The sockets of one service, in the order of their descriptors.
#[derive(Default)]
pub(super) struct Sockets {
    all: Vec<(OwnedFd, String)>,
}

impl Sockets {
    pub(super) fn handed(&self) -> Vec<(BorrowedFd<'_>, &str)> {
        self.all.iter().map(|(fd, name)| (fd.as_fd(), name.as_str())).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }
}

/// Binds everything that the plan's services are to be handed; one entry a service.
pub(super) fn bind(plan: &Plan) -> Result<Vec<Sockets>, PlanError> {
    let mut out: Vec<Sockets> = Vec::with_capacity(plan.services.len());
    let ids: std::collections::HashMap<&str, &crate::plan::Identity> =
        plan.services.iter().map(|s| (s.name.as_str(), &s.identity)).collect();
    for service in &plan.services {
        let mut sockets = Sockets::default();
        for address in &service.listen {
            let fd = tcp(*address).map_err(|e| PlanError::io("listen on", address.to_string(), explain(e)))?;
            sockets.all.push((fd, LISTEN.to_owned()));
        }
        for caller in &service.callers {
            // The dynamic service has no namespace to put a socket into.
            let Some(identity) = ids.get(caller.as_str()) else {
                continue;
            };
            let fd = pair(&plan.dirs, caller, &service.name, identity)?;
            sockets.all.push((fd, caller.clone()));
        }
        if !service.callees.is_empty() {
            caller_folder(&plan.dirs, &service.name)?;
        }
        out.push(sockets);
    }
    Ok(out)
}

pub(super) fn tcp(address: std::net::SocketAddr) -> std::io::Result<OwnedFd> {
    // The standard library sets SO_REUSEADDR and CLOEXEC; its backlog is 128, so listen(2) again.
    let listener = std::net::TcpListener::bind(address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener.into())
}

pub(super) fn explain(error: std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => "EADDRINUSE: another program listens there; `ss -ltnp` shows which".to_owned(),
        Some(libc::EACCES) => "EACCES: ports below 1024 are root's; choose a higher one".to_owned(),
        Some(libc::EADDRNOTAVAIL) => "EADDRNOTAVAIL: this host does not have the address".to_owned(),
        _ => error.to_string(),
    }
}

/// The folder that `caller` will see: its own id may pass, nobody may write.
pub fn caller_folder(dirs: &Dirs, caller: &str) -> Result<(), PlanError> {
    use std::os::unix::fs::PermissionsExt;
    let folder = dirs.rpc(caller);
    make_private(&folder)?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o711))
        .map_err(|e| PlanError::io("change the mode of", folder, e))
}

fn pair(dirs: &Dirs, caller: &str, callee: &str, identity: &crate::plan::Identity) -> Result<OwnedFd, PlanError> {
    caller_folder(dirs, caller)?;
    let path = dirs.rpc(caller).join(format!("{callee}.sock"));
    let made = (|| {
        let socket = bind_unix(&path, SocketType::SEQPACKET)?;
        let ids = if identity.keeper.is_some() {
            (identity.uid, identity.gid)
        } else {
            (0, 0)
        };
        rustix::fs::chown(
            &path,
            Some(rustix::fs::Uid::from_raw(ids.0)),
            Some(rustix::fs::Gid::from_raw(ids.1)),
        )?;
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o600))?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket)
    })();
    made.map_err(|e: std::io::Error| PlanError::io("make the socket", &path, e))
}

/// Binds a Unix socket at a path of any length: sockaddr_un holds 108 bytes, so the folder is named by
/// descriptor.
pub(super) fn bind_unix(path: &Path, kind: SocketType) -> std::io::Result<OwnedFd> {
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
