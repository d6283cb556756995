//! A unit: whatever is run, and all that it is granted.
//!
//! Services are units, and so are the setup script of an app's data, the sandbox of a configuration, and what is
//! run once in a service's place ([`super::oneoff`]). All go the same way: compiled to a bundle, launched from that.

use super::ledger::Ids;
use crate::model::{Exclude, Grant, Life, Limits, Logs, MemoryFiles, Publish};
use crate::values::Network;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What a unit is run for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It is of the manifest, and supervised.
    #[default]
    Service,
    /// It makes the first content of the app's resources.
    SetupScript,
    /// It is a configuration in Python, which comes to a manifest.
    Configuration,
    /// It is run once, with a service's grants.
    OneOff,
    /// It is a sandbox for code that nobody trusts.
    Sandbox,
    /// It is an interpreter whose copies go into sandboxes.
    WarmInterpreter,
}

/// Where a sandbox shows a user's directory, which is its account's home. Nothing else lies beside it.
pub const SANDBOX_HOME: &str = "/home/user";

/// A profile of what a unit may not do, by name; compile knows what stands behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confinement {
    /// What holds for every service.
    #[default]
    Service,
    /// The same, and nowhere to write, no other process, little memory and little time.
    Configuration,
    /// The same as a service, and none of the system calls that an interpreter can do without.
    Sandbox,
    /// The same, in the namespaces and with the id of whoever asked: nothing that reaches what is not a file's content.
    SandboxInPlace,
    /// In the user and PID namespace of its pool, whose sandboxes its copies join.
    WarmInterpreter,
}

/// Whatever PySecure runs: all that compile needs to know of it, and what its supervisor does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub name: String,
    /// What it is run for.
    #[serde(default)]
    pub role: Role,
    /// What it is kept from, beyond what all units are.
    #[serde(default)]
    pub confinement: Confinement,
    pub identity: Identity,
    /// Further users that it may become, sorted by id; their own groups are called as they are.
    #[serde(default)]
    pub users: Vec<(Ids, String)>,
    pub command: Vec<String>,
    pub directory: String,
    /// Sorted by key. `LISTEN_*` are the launcher's to add.
    pub environment: BTreeMap<String, String>,
    /// umask(2).
    #[serde(default = "private")]
    pub umask: u32,
    pub rootfs: String,
    /// How it can write to its root, if it may.
    #[serde(default)]
    pub writable: Option<Upper>,
    /// Outer mounts before those that lie in them.
    pub mounts: Vec<Mount>,
    pub network: Network,
    pub publish: Vec<Publish>,
    /// May it bind ports below 1024, if its network is its own?
    #[serde(default)]
    pub low_ports: bool,
    pub egress: bool,
    /// Its resolv.conf(5): the host's where it shares the host's network, a forwarder's where it may connect to the
    /// outside, else empty.
    pub resolver: String,
    pub listen: Vec<SocketAddr>,
    /// Who may call this one: a listening socket each.
    pub callers: Vec<String>,
    /// The host's id of the external service, if that may call this one, and files can be given to it.
    // By the name that supervisors know which run already.
    #[serde(default, rename = "dynamic_uid")]
    pub external_uid: Option<u32>,
    /// Services that this one may call.
    pub callees: Vec<String>,
    /// Sandboxes that it may have code run in.
    #[serde(default)]
    pub sandboxes: Vec<String>,
    /// What the spec does not hold: it is the supervisor's to carry out.
    pub life: Life,
    pub limits: Limits,
    #[serde(default)]
    pub memory_files: MemoryFiles,
    /// What the supervisor does with its output; likewise.
    pub logs: Logs,
}

impl Unit {
    /// One that is granted nothing, and does nothing but run this command: what it has besides is set field by field.
    pub fn new(role: Role, name: &str, identity: Identity, rootfs: &str, command: Vec<String>) -> Unit {
        Unit {
            name: name.to_owned(),
            role,
            confinement: Confinement::Service,
            identity,
            users: Vec::new(),
            command,
            directory: "/".to_owned(),
            environment: BTreeMap::new(),
            umask: private(),
            rootfs: rootfs.to_owned(),
            writable: None,
            mounts: Vec::new(),
            network: Network::None,
            publish: Vec::new(),
            low_ports: false,
            egress: false,
            resolver: String::new(),
            listen: Vec::new(),
            callers: Vec::new(),
            external_uid: None,
            callees: Vec::new(),
            sandboxes: Vec::new(),
            life: Life::default(),
            limits: Limits::default(),
            memory_files: MemoryFiles::default(),
            logs: Logs::default(),
        }
    }

    /// Has it a socket to speak sd_notify(3) on? Services that are called hand over their figures there.
    pub fn notifies(&self) -> bool {
        self.life.notifies() || !self.callers.is_empty()
    }

    /// Has it a socket to speak syslog(3) on? There has to be somebody who writes its log.
    pub fn logs_messages(&self) -> bool {
        self.role == Role::Service
    }

    /// The names of the sockets that it is handed as descriptors 3, 4, …: one for each address that it listens on, and one for
    /// each caller; sd_listen_fds_with_names(3).
    pub fn socket_names(&self) -> impl Iterator<Item = &str> {
        let listen = self.listen.iter().map(|_| "listen");
        listen.chain(self.callers.iter().map(String::as_str))
    }
}

/// An overlay over a jail. A service has no right to what belongs to others, so below lies a copy of the jail that is
/// its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upper {
    /// The copy, in the store of jails.
    pub lower: PathBuf,
    /// Where what it writes is kept. `None`: in memory.
    pub kept: Option<PathBuf>,
}

/// Who a service is, in the ids of the namespace that PySecure itself runs in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// The GIDs of its bundles and their names, sorted by id.
    pub groups: Vec<(u32, String)>,
    /// The UIDs and names of services that may connect to sockets which this one makes, sorted by id: in its namespace
    /// they have their own ids, by which SO_PEERCRED tells them apart.
    #[serde(default)]
    pub peers: Vec<(u32, String)>,
    /// Id 0 of the service's namespace. `None` where it has but its own.
    pub keeper: Option<Ids>,
    /// What its own ids are outside, if there is no keeper: 0 of the outer namespace, which is the user's one id, unless
    /// it is a configuration's.
    #[serde(default)]
    pub outside: Ids,
    /// Is the service root inside its namespace?
    pub root_inside: bool,
}

impl Identity {
    /// Owner and group of what is the service's, as files have them.
    pub fn on_disk(&self) -> (u32, u32) {
        match self.keeper {
            Some(_) => (self.uid, self.gid),
            None => (self.outside.uid, self.outside.gid),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Path as the service sees it.
    pub target: String,
    /// Host path, free of links.
    pub source: PathBuf,
    pub directory: bool,
    /// Is it of our own keeping, and its owner or group one that the service's namespace does not map?
    pub foreign: bool,
    pub writable: bool,
    pub executable: bool,
    /// Owner on disk ↔ owner as the service sees it. Each is shown as the other, and every other id as itself.
    pub idmap: Option<IdMap>,
    /// Mount points, relative to `target`, that `source` lacks and that a layer of ours supplies.
    pub missing: Vec<MountPoint>,
    /// What `source` holds and the service is not to see, relative to `target`.
    #[serde(default)]
    pub hidden: Vec<String>,
    /// What of that is looked for anew at each start.
    #[serde(default)]
    pub exclude: Exclude,
    /// The same for what nobody can take away and put something else in the place of.
    #[serde(default)]
    pub masked: Vec<String>,
    /// The row of the access matrix that it carries out. `None`: what is mounted is no resource.
    #[serde(default)]
    pub grant: Option<Grant>,
}

impl Mount {
    /// A path of the host's shown as it is, to be read and run.
    pub fn read_only(target: String, source: PathBuf, directory: bool) -> Mount {
        Mount {
            target,
            source,
            directory,
            foreign: false,
            writable: false,
            executable: true,
            idmap: None,
            missing: Vec::new(),
            hidden: Vec::new(),
            exclude: Exclude::default(),
            masked: Vec::new(),
            grant: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    pub disk: Ids,
    pub seen: Ids,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    pub path: String,
    pub directory: bool,
}

/// The umask of a service that shares nothing by mode.
pub(super) const fn private() -> u32 {
    0o077
}
