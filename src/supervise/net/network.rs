//! What services have of the network beyond a loopback of their own: the app's network, published ports, and the way
//! out by pasta(1).
//!
//! What needs any of it gets a companion ([`crate::launch::companion`]) at each start. The sockets of published ports
//! are made once, before anything starts, and stay when a service is started again. pasta is run such that it opens
//! no port, neither here nor inside, and does not lead to this host's loopback.

use super::sockets;
use crate::compile;
use crate::host::Privilege;
use crate::host::outer;
use crate::launch::companion::{Companion, Published, READY, Task};
use crate::launch::forward::Header;
use crate::launch::network::Network;
use crate::launch::{LaunchError, Launcher, Running};
use crate::model::ProxyProtocol;
use crate::plan::{EGRESS_RESOLVER, PlanError, Unit};
use crate::supervise::ids::ServiceId;
use crate::values::Network as NetworkKind;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::Access;
use rustix::io::Errno;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What slirp and QEMU have too; [`EGRESS_RESOLVER`] lies in the same network.
const ADDRESS: &str = "10.0.2.15";
const GATEWAY: &str = "10.0.2.2";
const NO_PASTA: &str = "`apt install passt`, or take `egress` out";
const TUN: &str = "/dev/net/tun";

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(transparent)]
    Bind(#[from] PlanError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Compile(#[from] compile::CompileError),
    #[error("service `{service}` has egress = true, which takes the program pasta: {NO_PASTA}")]
    NoPasta { service: String },
    #[error("service `{service}` has egress = true, but {TUN} {trouble}: {help}")]
    Tun {
        service: String,
        trouble: &'static str,
        help: &'static str,
    },
    #[error("connect the app's network to the outside: {0}")]
    App(String),
}

impl NetworkError {
    /// What to do about it, as its text ends.
    pub fn help(&self) -> Option<&str> {
        match self {
            NetworkError::NoPasta { .. } => Some(NO_PASTA),
            NetworkError::Tun { help, .. } => Some(help),
            _ => None,
        }
    }
}

/// The networks of an app's services.
#[derive(Default)]
pub struct Networks {
    app: Option<Network>,
    /// By address on the host; sockets that do not block. They stay while services are started anew.
    published: BTreeMap<SocketAddr, OwnedFd>,
    /// By service.
    companions: BTreeMap<ServiceId, Companion>,
    /// The way out of the app's network, for as long as it is wanted.
    app_companion: Option<Companion>,
    pasta: Option<PathBuf>,
}

/// What [`Networks::prepare`] made, and [`Networks::take_on`] has yet to take on. Dropped, it is gone again.
pub struct Prepared {
    app: Option<Network>,
    app_companion: Option<Companion>,
    published: BTreeMap<SocketAddr, OwnedFd>,
    /// All that are wanted.
    addresses: BTreeSet<SocketAddr>,
    pasta: Option<PathBuf>,
    wants_app: bool,
    wants_way_out: bool,
}

impl Networks {
    /// Makes all that these services need and that is not there yet, and says what this host lacks for the rest.
    /// What is there stays as it is.
    pub fn prepare<'s>(
        &self,
        privilege: &Privilege,
        services: impl Iterator<Item = &'s Unit> + Clone,
        launcher: &mut Launcher,
    ) -> Result<Prepared, NetworkError> {
        let pasta = match services.clone().find(|s| s.egress) {
            Some(service) => Some(find_pasta(&service.name, privilege)?),
            None => None,
        };
        let addresses: BTreeSet<SocketAddr> = services
            .clone()
            .flat_map(|s| s.publish.iter().map(|publish| publish.address))
            .collect();
        let mut published = BTreeMap::new();
        for address in addresses.iter().filter(|a| !self.published.contains_key(a)) {
            published.insert(*address, publish(*address)?);
        }
        let mut prepared = Prepared {
            app: None,
            app_companion: None,
            published,
            addresses,
            pasta,
            wants_app: false,
            wants_way_out: false,
        };
        let mut members = services.filter(|s| s.network == NetworkKind::App);
        let Some(member) = members.next() else {
            return Ok(prepared);
        };
        let keeper = keeper(member);
        prepared.wants_app = true;
        if self.app.is_none() {
            prepared.app = Some(launcher.new_network(keeper.unwrap_or((0, 0)))?);
        }
        // The model sees to it that all members have a way out, or none.
        prepared.wants_way_out = member.egress;
        if member.egress
            && self.app_companion.is_none()
            && let Some(network) = prepared.app.as_ref().or(self.app.as_ref())
        {
            let companion = launcher.accompany(&Task {
                network,
                service: None,
                pasta: prepared
                    .pasta
                    .as_deref()
                    .map(|path| arguments(path, network))
                    .as_deref(),
                published: &[],
                keeper,
                seccomp: Some(compile::seccomp()?),
            })?;
            settled(&companion).map_err(NetworkError::App)?;
            prepared.app_companion = Some(companion);
        }
        Ok(prepared)
    }

    /// From now on this is what there is; what nobody wants any more is let go. Members of the app's network that are
    /// about to end keep it alive for as long as they need it.
    pub fn take_on(&mut self, prepared: Prepared) {
        self.pasta = prepared.pasta;
        self.published.extend(prepared.published);
        self.published.retain(|address, _| prepared.addresses.contains(address));
        if !prepared.wants_way_out {
            self.end_app_companion();
        } else if prepared.app_companion.is_some() {
            self.app_companion = prepared.app_companion;
        }
        if !prepared.wants_app {
            self.app = None;
        } else if prepared.app.is_some() {
            self.app = prepared.app;
        }
    }

    /// Readable when the way out of the app's network has something to say, or is gone.
    pub fn app_words(&self) -> Option<BorrowedFd<'_>> {
        self.app_companion.as_ref().map(|companion| companion.words.as_fd())
    }

    /// Why the app's network has no way out any more, if that is so.
    pub fn app_heard(&mut self) -> Option<String> {
        let mut bytes = [0u8; 4096];
        let lost = match rustix::io::read(&self.app_companion.as_ref()?.words, &mut bytes) {
            Ok(0) => "the process for it ended".to_owned(),
            Ok(read) => trouble(&bytes[..read])?,
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(errno) => errno.to_string(),
        };
        self.end_app_companion();
        Some(format!(
            "the app's network is no longer connected to the outside: {lost}"
        ))
    }

    /// Would this service be started without the way out that it was granted?
    pub fn lacks_way_out(&self, service: &Unit) -> bool {
        service.egress && service.network == NetworkKind::App && self.app_companion.is_none()
    }

    fn end_app_companion(&mut self) {
        if let Some(companion) = self.app_companion.take() {
            companion.end();
        }
    }

    /// Closes the published ports of a service that was given up: whoever connects is refused, also while a process that
    /// was just cloned for another service still holds them.
    pub fn release(&mut self, service: &Unit) {
        for publish in &service.publish {
            if let Some(socket) = self.published.remove(&publish.address) {
                let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
            }
        }
    }

    /// Binds them again.
    pub fn reclaim(&mut self, service: &Unit) -> Result<(), NetworkError> {
        for port in &service.publish {
            if let Entry::Vacant(place) = self.published.entry(port.address) {
                place.insert(publish(port.address)?);
            }
        }
        Ok(())
    }

    /// The network that a service is to be started in, if it is not one of its own.
    pub fn shared(&self, service: &Unit) -> Option<BorrowedFd<'_>> {
        let app = self.app.as_ref().filter(|_| service.network == NetworkKind::App)?;
        Some(app.network.as_fd())
    }

    /// Must a service not run before its companion says so?
    pub fn holds(service: &Unit) -> bool {
        service.egress && service.network == NetworkKind::None
    }

    /// Gives a service that was just started the companion that it needs, if any. What comes back is readable when
    /// [`Networks::heard`] is to be asked.
    pub fn accompany(
        &mut self,
        id: ServiceId,
        service: &Unit,
        running: &Running,
        launcher: &mut Launcher,
    ) -> Result<Option<BorrowedFd<'_>>, NetworkError> {
        let out = Networks::holds(service);
        if !out && service.publish.is_empty() {
            return Ok(None);
        }
        // That of an earlier start has ended with it, or is about to.
        self.end(id);
        let published: Vec<Published<'_>> = service
            .publish
            .iter()
            .filter_map(|publish| {
                Some(Published {
                    listener: self.published.get(&publish.address)?.as_fd(),
                    port: publish.port,
                    header: publish.proxy.map(|version| match version {
                        ProxyProtocol::V1 => Header::V1,
                        ProxyProtocol::V2 => Header::V2,
                    }),
                })
            })
            .collect();
        let own;
        let network = match &self.app {
            Some(app) if service.network == NetworkKind::App => app,
            _ => {
                own = Network::of(running.pid, root_of(service))?;
                &own
            }
        };
        let pasta = self.pasta.as_deref().filter(|_| out);
        let pasta = pasta.map(|path| arguments(path, network));
        let companion = launcher.accompany(&Task {
            network,
            service: Some(running),
            pasta: pasta.as_deref(),
            published: &published,
            keeper: keeper(service),
            seccomp: Some(compile::seccomp()?),
        })?;
        self.companions.insert(id, companion);
        Ok(self.companions.get(&id).map(|companion| companion.words.as_fd()))
    }

    /// What a service's companion could not do, if it said something, or that it has ended.
    pub fn heard(&mut self, id: ServiceId) -> Option<String> {
        let mut bytes = [0u8; 4096];
        match rustix::io::read(&self.companions.get(&id)?.words, &mut bytes) {
            Ok(0) => {
                self.end(id);
                Some("the process for its network ended".to_owned())
            }
            Ok(read) => trouble(&bytes[..read]),
            Err(Errno::AGAIN | Errno::INTR) => None,
            Err(errno) => Some(format!("the process for its network: {errno}")),
        }
    }

    pub fn end(&mut self, id: ServiceId) {
        if let Some(companion) = self.companions.remove(&id) {
            companion.end();
        }
    }

    /// Ends all of it. When this returns, no port is held any more.
    pub fn close(&mut self) {
        self.published.clear();
        for companion in std::mem::take(&mut self.companions).into_values() {
            companion.end();
        }
        self.end_app_companion();
        self.app = None;
    }

    /// Waits until a service's companion is ready; what it could not do.
    pub fn settled(&self, id: ServiceId) -> Result<(), String> {
        self.companions.get(&id).map_or(Ok(()), settled)
    }
}

/// A socket of the host's for a published port.
fn publish(address: SocketAddr) -> Result<OwnedFd, NetworkError> {
    let socket =
        sockets::tcp(address).and_then(|socket| Ok(rustix::io::ioctl_fionbio(&socket, true).map(|()| socket)?));
    Ok(socket.map_err(|e| PlanError::io("publish", address.to_string(), sockets::explain(e)))?)
}

fn settled(companion: &Companion) -> Result<(), String> {
    let mut bytes = [0u8; 4096];
    loop {
        match rustix::io::read(&companion.words, &mut bytes) {
            Ok(0) => return Err("the process for it ended without a word".to_owned()),
            Ok(read) => return trouble(&bytes[..read]).map_or(Ok(()), Err),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = rustix::event::poll(&mut [PollFd::new(&companion.words, PollFlags::IN)], None);
            }
            Err(errno) => return Err(errno.to_string()),
        }
    }
}

fn trouble(words: &[u8]) -> Option<String> {
    let text: Vec<u8> = words.iter().copied().filter(|b| *b != READY).collect();
    (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
}

fn keeper(service: &Unit) -> Option<(u32, u32)> {
    service.identity.keeper.map(|keeper| (keeper.uid, keeper.gid))
}

/// Who is 0 in a service's namespace, in the ids of this process.
fn root_of(service: &Unit) -> Option<(u32, u32)> {
    let identity = &service.identity;
    match (identity.keeper, identity.root_inside) {
        (Some(_), true) => Some((identity.uid, identity.gid)),
        (Some(keeper), false) => Some((keeper.uid, keeper.gid)),
        (None, true) => Some((0, 0)),
        (None, false) => None,
    }
}

/// pasta's path, if it can do its work here.
/// Can a service have a way out here?
pub fn way_out(service: &str, privilege: &Privilege) -> Result<(), NetworkError> {
    find_pasta(service, privilege).map(drop)
}

fn find_pasta(service: &str, privilege: &Privilege) -> Result<PathBuf, NetworkError> {
    let service = || service.to_owned();
    let path = outer::program("pasta").ok_or_else(|| NetworkError::NoPasta { service: service() })?;
    let tun = |trouble, help| NetworkError::Tun {
        service: service(),
        trouble,
        help,
    };
    let found = rustix::fs::stat(TUN).map_err(|_| tun("is not there", "`modprobe tun`"))?;
    // Whoever is root in a service's namespace is nobody outside.
    let open = match privilege {
        Privilege::OneId => rustix::fs::access(TUN, Access::READ_OK | Access::WRITE_OK).is_ok(),
        _ => found.st_mode & 0o006 == 0o006,
    };
    if !open {
        return Err(tun("is not open to all, as udev makes it", "`chmod 0666 /dev/net/tun`"));
    }
    Ok(path)
}

/// pasta's command line. It learns of the network by its standard input, and by its standard output where it is to
/// enter a user namespace first.
fn arguments(pasta: &Path, network: &Network) -> Vec<CString> {
    let resolver = EGRESS_RESOLVER.to_string();
    let mut arguments: Vec<&str> = vec![
        "--foreground",
        "--quiet",
        // Where it says its PID when all is done.
        "--pid",
        "/dev/stderr",
        "--no-netns-quit",
        "--netns",
        "/proc/self/fd/0",
    ];
    match network.root {
        Some(_) => arguments.push("--netns-only"),
        None => arguments.extend(["--userns", "/proc/self/fd/1"]),
    }
    arguments.extend(["--config-net", "--ns-ifname", "egress0"]);
    arguments.extend(["--address", ADDRESS, "--netmask", "24", "--gateway", GATEWAY]);
    arguments.extend(["--dns-forward", &resolver]);
    arguments.extend(["--no-dhcp", "--no-dhcpv6", "--no-ra"]);
    // Nothing from outside to inside, and from inside nothing to this host's loopback.
    arguments.push("--no-map-gw");
    for ports in ["--tcp-ports", "--udp-ports", "--tcp-ns", "--udp-ns"] {
        arguments.extend([ports, "none"]);
    }
    let path = pasta.as_os_str().as_encoded_bytes().to_vec();
    let all = std::iter::once(path).chain(arguments.into_iter().map(|a| a.as_bytes().to_vec()));
    // None of them holds a NUL: they stand above, or were found by the kernel.
    all.filter_map(|a| CString::new(a).ok()).collect()
}
