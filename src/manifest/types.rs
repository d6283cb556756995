//! What a manifest may say: one struct a table, one field a key, in the words of the design.
//!
//! Each key stands here once, with its type and its text. From this the decoder and the JSON Schema are
//! both made (see `table!` in `decode`), so neither can say what the other does not.
//! Nothing here is checked beyond its type. Whether names are declared, ranges suffice or grants
//! contradict each other is [`crate::model`]'s to say.

use std::ops::Range;
use std::time::Duration;

use super::decode::table;
use super::quantity::{Count, Processors, Size, Time};
use super::scalar::{AppName, EnvName, HostPath, Id, IdRange, Listen, Name, Path, Promise, Publish, Rule, Text, Words};
use super::shape::{Folder, List, Map, NonEmpty, One};
use super::supervision::{Dependencies, SignalName};
use crate::values::{
    Callable, Condition, Isolation, MOST_LOG_FILES, Network, Perms, ResourceKind, Restart, ServiceType, Sink, Start,
    Writable,
};

/// A value and where it stands in the manifest's text, as a byte range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// A table whose keys are names that the manifest's author chose, in the order of the file.
pub type Named<T> = Vec<(At<String>, T)>;

table! {
    /// One application: its services, what each may touch, and who may call whom.
    pub struct Manifest("manifest") {
        /// The application as a whole.
        pub app: App = required { "app": App };
        /// Files and directories, by name. No service sees what is not declared here.
        pub resources: Named<Resource> = plain { "resources": Map<Name, Resource> };
        /// Sets of resources that services share, by name. Each bundle becomes one GID.
        pub bundles: Named<Bundle> = plain { "bundles": Map<Name, Bundle> };
        /// What runs, by name. Each service becomes one UID and one GID.
        pub services: Named<Service> = required { "services": NonEmpty<Map<Name, Service>> };
        /// Where services run code that they do not trust, by name. Each run has its own ids.
        pub sandboxes: Named<Sandbox> = plain { "sandboxes": Map<Name, Sandbox> };
        /// Accesses that must never become possible, and accesses that must stay possible, whatever the rest of the manifest says.
        pub assert: Assertions = plain { "assert": Assertions };
    }
}

table! {
    /// The application as a whole.
    pub struct App("app") {
        /// Its name: lower-case letters, digits, `_` and `-`, beginning with a letter. Data and ids are kept under it.
        pub name: At<String> = required { "name": AppName };
        /// Lowest and highest UID that may be allocated. Default: a free range, chosen once and kept in the ledger.
        pub uid_range: Option<At<[u32; 2]>> = optional { "uid_range": IdRange };
        /// Lowest and highest GID that may be allocated. Default: as for `uid_range`.
        pub gid_range: Option<At<[u32; 2]>> = optional { "gid_range": IdRange };
        /// UID of the external service: one that PySecure does not start, for example Apache's www-data.
        pub external_uid: Option<At<u32>> = optional { "external_uid": Id };
        /// GID of the external service, which becomes that of the bundle that it uses.
        pub external_gid: Option<At<u32>> = optional { "external_gid": Id };
        /// Folders that all services may read and run: path as services see it → host path, relative to the manifest, or a table of
        /// that and what to leave out of it.
        pub code: Named<Code> = plain { "code": Map<Path, Folder> };
        /// A script, relative to the manifest, that fills the resources which PySecure keeps. It runs once, when their data is
        /// created, and with `pysecure setup`. It sees the app's resources and nothing else.
        pub setup: Option<At<String>> = optional { "setup": HostPath };
        /// The jail that the setup script runs in. Default: `host`.
        pub setup_jail: Option<At<String>> = optional { "setup_jail": Text };
        /// Maximum size of one call's arguments or result, from `"64K"` to `"1G"`. Services have it as `PYSECURE_RPC_MAX_MESSAGE`.
        /// Default: `"64M"`.
        pub rpc_max_message: Option<At<u64>> = optional { "rpc_max_message": Size };
    }
}

table! {
    /// A folder, or a file, that all services may read and run.
    pub struct Code("code folder") {
        /// Host path, relative to the manifest.
        pub source: At<String> = required { "source": HostPath };
        /// Names and paths in it that services do not see, in the form of .gitignore: `.env`, `*.db`, `/data/private`.
        pub exclude: Vec<At<String>> = plain { "exclude": List<Text> };
    }
}

table! {
    /// A file or a directory, and what each access class may do with it.
    pub struct Resource("resource") {
        /// Path as services see it.
        pub path: At<String> = required { "path": Path };
        /// File or directory. Default: what `source` is; else a directory if the path ends in `/` or its last component has no
        /// dot; else a file.
        pub kind: Option<At<ResourceKind>> = optional { "kind": ResourceKind };
        /// Host path of the file or directory, relative to the manifest. Default: PySecure keeps it in the app's data directory.
        pub source: Option<At<String>> = optional { "source": HostPath };
        /// Host path, relative to the manifest, of its first content. It is copied once, when PySecure creates the resource.
        pub initial: Option<At<String>> = optional { "initial": HostPath };
        /// The resource's former name. It continues with the data that PySecure keeps under that name.
        pub was: Option<At<String>> = optional { "was": Text };
        /// Names and paths in `source` that services do not see, in the form of .gitignore. Only for resources that no service may write.
        pub exclude: Vec<At<String>> = plain { "exclude": List<Text> };
        /// Permissions of the owning service: any of `r` (read), `w` (write), `x` (execute) and `c` (connect to sockets). Default: nothing.
        pub owner: Option<At<Perms>> = optional { "owner": Perms };
        /// Permissions of services with a bundle that contains it: any of `r`, `w`, `x` and `c`. Default: nothing.
        pub bundle: Option<At<Perms>> = optional { "bundle": Perms };
        /// Permissions of every other service of the app: any of `r`, `w`, `x` and `c`. Default: nothing.
        pub global: Option<At<Perms>> = optional { "global": Perms };
        /// The external service owns it.
        pub owned_by_external: Option<At<bool>> = optional { "owned_by_external": bool };
        /// PySecure may change owner, group and mode of `source` and all below it, to give it to services.
        pub chown: Option<At<bool>> = optional { "chown": bool };
        /// Services may write in `source` although it belongs to root, or is where root runs programs. Files that they create there
        /// are root's.
        pub write_as_root: Option<At<bool>> = optional { "write_as_root": bool };
    }
}

table! {
    /// A set of resources shared by the services that name it.
    pub struct Bundle("bundle") {
        /// Names of the resources in it.
        pub resources: Vec<At<String>> = plain { "resources": List<Text> };
        /// The external service uses it, too.
        pub used_by_external: Option<At<bool>> = optional { "used_by_external": bool };
    }
}

table! {
    /// A command that runs under ids of its own and sees only what it was granted.
    pub struct Service("service") {
        /// The program and its arguments: a list, or one string, which is split as a shell splits words.
        pub command: At<Vec<String>> = required { "command": Words };
        /// The service's former name. It continues with that one's ids, logs and persistent root.
        pub was: Option<At<String>> = optional { "was": Text };
        /// The directory in which the command starts. Default: `/`.
        pub directory: Option<At<String>> = optional { "directory": Path };
        /// Names of the resources that it owns. A resource has at most one owner.
        pub owner_resources: Vec<At<String>> = plain { "owner_resources": List<Text> };
        /// Names of the bundles that it uses. `bundle` names a single one; setting both keys is an error.
        pub bundles: Vec<At<String>> = plain { "bundle": One<Text>, "bundles": List<Text> };
        /// It runs as UID 0 of its own user namespace, which is an unprivileged UID on the host.
        pub runs_with_root: Option<At<bool>> = optional { "runs_with_root": bool };
        /// Further ids of the service, by name, for programs that start as root and drop to another user. The service may become these
        /// and no other, and is UID 0 of its own user namespace.
        pub users: Vec<At<String>> = plain { "users": List<Text> };
        /// The root that it sees: `host` for the host's programs, read-only, or the name of a jail. Default: `host`.
        pub jail: Option<At<String>> = optional { "jail": Text };
        /// It may write to its jail. `"memory"` (or `true`) keeps what it writes in memory, until it ends; `"persistent"` keeps it
        /// with the app's data. Default: `false`.
        pub writable: Option<At<Writable>> = optional { "writable": Writable };
        /// Who may call which of its functions: caller → `"*"` or a list of functions. Callers are services, `operator` (whoever runs
        /// the app) and `external`.
        pub callers: Option<Named<At<Callable>>> = optional { "callers": Map<Text, Callable> };
        /// Send tracebacks of exceptions to callers. Tracebacks reveal the service's code and variables.
        pub rpc_tracebacks: Option<At<bool>> = optional { "rpc_tracebacks": bool };
        /// Addresses, as `ADDRESS:PORT`, that the supervisor binds. The service takes the sockets by `LISTEN_FDS`, see
        /// sd_listen_fds(3).
        pub listen: Vec<At<String>> = plain { "listen": List<Listen> };
        /// `none`: its own loopback and nothing else. `app`: one loopback for all services that say so. `host`: the host's network.
        /// Default: `none`.
        pub network: Option<At<Network>> = optional { "network": Network };
        /// Published ports, as `[ADDRESS:]PORT:PORT`: connections to the host's address and first port reach the second port
        /// inside. The address is 127.0.0.1 if it is left out. With `/proxy-v1` or `/proxy-v2` at the end, connections begin with
        /// the header of the PROXY protocol.
        pub publish: Vec<At<String>> = plain { "publish": List<Publish> };
        /// It may connect to other hosts.
        pub egress: Option<At<bool>> = optional { "egress": bool };
        /// Variables to add to its environment.
        pub environment: Named<At<String>> = plain { "environment": Map<EnvName, Text> };
        /// `simple`: it runs until it is stopped. `oneshot`: it does its work and ends. Default: `simple`.
        pub kind: Option<At<ServiceType>> = optional { "type": ServiceType };
        /// Services that must be started first: a list of names, or a table of name → `started`, `ready` or `completed`.
        pub depends_on: Named<At<Condition>> = plain { "depends_on": Dependencies };
        /// `auto`: it starts with the app. `on-demand`: it starts when something connects to one of its sockets. Default: `auto`.
        pub start: Option<At<Start>> = optional { "start": Start };
        /// When it counts as ready: at its message `READY=1` (`notify`, see sd_notify(3)), or when a probe succeeds. Default: as soon
        /// as its program runs.
        pub ready: Option<At<Readiness>> = optional { "ready": Readiness };
        /// Maximum time until it is ready. Default: `90s`.
        pub start_timeout: Option<At<Duration>> = optional { "start_timeout": Time };
        /// A probe that is repeated while it runs. If it fails, the service is unhealthy, and is restarted if `restart` says so.
        pub health: Option<Probe> = optional { "health": Probe };
        /// Maximum time between two messages `WATCHDOG=1`, see sd_notify(3). A service that is late is killed with SIGABRT.
        pub watchdog: Option<At<Duration>> = optional { "watchdog": Time };
        /// Whether it is restarted when it ends by itself. Default: `no`.
        pub restart: Option<At<Restart>> = optional { "restart": Restart };
        /// Time before the first restart; doubled for each that follows. Default: `100ms`.
        pub restart_delay: Option<At<Duration>> = optional { "restart_delay": Time };
        /// Maximum time before a restart. Default: `1m`.
        pub restart_max_delay: Option<At<Duration>> = optional { "restart_max_delay": Time };
        /// Maximum number of restarts in a row, after which it is given up; 0 for unlimited. Default: `10`.
        pub restart_limit: Option<At<u32>> = optional { "restart_limit": Count<0, 1_000_000> };
        /// The count of restarts is reset when the service has run for this long. Default: `10m`.
        pub restart_window: Option<At<Duration>> = optional { "restart_window": Time };
        /// The signal that asks it to end. Default: `SIGTERM`.
        pub stop_signal: Option<At<u8>> = optional { "stop_signal": SignalName };
        /// Maximum time to end, after which it is killed. Default: `10s`.
        pub stop_timeout: Option<At<Duration>> = optional { "stop_timeout": Time };
        /// The signal that `pysecure reload` sends. Default: `SIGHUP`.
        pub reload_signal: Option<At<u8>> = optional { "reload_signal": SignalName };
        /// Where the lines that it prints go.
        pub logs: Logs = plain { "logs": Logs };
        /// Size of its `/dev/shm`. Default: `"64M"`.
        pub shm_size: Option<At<u64>> = optional { "shm_size": Size };
        /// Size of its `/tmp`. Default: `"256M"`.
        pub tmp_size: Option<At<u64>> = optional { "tmp_size": Size };
        /// It may run programs that are in its `/tmp`, and map them into memory.
        pub tmp_exec: Option<At<bool>> = optional { "tmp_exec": bool };
        /// How much of the machine it may use. There is no limit for a key that is left out.
        pub limits: Option<Limits> = optional { "limits": Limits };
    }
}

table! {
    /// How much of the machine a service may use, all its processes together; `nofile`, `fsize`,
    /// `core` and `memlock` are for each process, `nproc` for each of its ids.
    pub struct Limits("limits") {
        /// Maximum memory, files in `/tmp` included. A process of the service is killed when more is needed.
        pub memory: Option<At<u64>> = optional { "memory": Size };
        /// Processor time: `2` is two processors, `0.5` is half of one.
        pub cpus: Option<At<u32>> = optional { "cpus": Processors };
        /// Maximum number of processes and threads, with PySecure's own PID 1 of the service.
        pub pids: Option<At<u32>> = optional { "pids": Count<2, 4_194_304> };
        /// Share of the disk when several services use it; services without this key have 100.
        pub io_weight: Option<At<u32>> = optional { "io_weight": Count<1, 10_000> };
        /// Maximum number of open files per process, RLIMIT_NOFILE of setrlimit(2).
        pub nofile: Option<At<u32>> = optional { "nofile": Count<16, 1_073_741_816> };
        /// Maximum size of a file that a process writes, RLIMIT_FSIZE.
        pub fsize: Option<At<u64>> = optional { "fsize": Size };
        /// Maximum size of a core file, RLIMIT_CORE. Default: none is written.
        pub core: Option<At<u64>> = optional { "core": Size };
        /// Maximum size of memory that a process locks, RLIMIT_MEMLOCK. Default: the kernel's.
        pub memlock: Option<At<u64>> = optional { "memlock": Size };
        /// Maximum number of processes and threads of one id, RLIMIT_NPROC. Default: `4096`.
        pub nproc: Option<At<u32>> = optional { "nproc": Count<2, 4_194_304> };
        /// `up` refuses to start if this host cannot enforce one of these limits. Default: `false`, which is a warning.
        pub required: Option<At<bool>> = optional { "required": bool };
    }
}

table! {
    /// A place in which services run code that they do not trust: a root, limits and ids. The code has none of their grants.
    pub struct Sandbox("sandbox") {
        /// Names of the services that may run code in it. Nobody else can.
        pub used_by: Vec<At<String>> = plain { "used_by": List<Text> };
        /// Name of the resource that has a directory for each run, the only place where a run's files are kept. Default: runs have no
        /// such directory.
        pub userdirs: Option<At<String>> = optional { "userdirs": Text };
        /// The root that runs see: `host`, or the name of a jail. Default: `host`.
        pub jail: Option<At<String>> = optional { "jail": Text };
        /// Folders of Python packages, relative to the manifest, that runs may import from, and may not write to.
        pub packages: Vec<At<String>> = plain { "packages": List<HostPath> };
        /// Modules that are imported once, before any run begins.
        pub preload: Vec<At<String>> = plain { "preload": List<Text> };
        /// Number of ids for runs, which is how many runs there may be at the same time; further ones wait. Default: `16`.
        pub uids: Option<At<u32>> = optional { "uids": Count<1, MOST_UIDS> };
        /// Number of sandboxes that are kept ready for the next run. Default: `0`.
        pub ready: Option<At<u32>> = optional { "ready": Count<0, MOST_UIDS> };
        /// How runs are isolated: by `namespaces`, or by `landlock` alone where the host refuses user namespaces, which protects less.
        /// PySecure never takes one for the other. Default: `namespaces`.
        pub isolation: Option<At<Isolation>> = optional { "isolation": Isolation };
        /// How much a run may use. A service may ask for less, and not for more.
        pub limits: Option<SandboxLimits> = optional { "limits": SandboxLimits };
    }
}

/// More runs at once than any pool of ids is for.
const MOST_UIDS: u32 = 10_000;

table! {
    /// How much one run in a sandbox may use, all its processes together.
    pub struct SandboxLimits("limits") {
        /// Maximum time, by the clock. Default: `30s`.
        pub wall: Option<At<Duration>> = optional { "wall": Time };
        /// Maximum time on processors. Default: `10s`.
        pub cpu: Option<At<Duration>> = optional { "cpu": Time };
        /// Maximum time of a session, which serves several runs, by the clock. Default: `1h`.
        pub session_wall: Option<At<Duration>> = optional { "session_wall": Time };
        /// Maximum time of a session on processors. Default: `10m`.
        pub session_cpu: Option<At<Duration>> = optional { "session_cpu": Time };
        /// Maximum memory, files in `/tmp` included. Default: `512M`.
        pub memory: Option<At<u64>> = optional { "memory": Size };
        /// Maximum number of processes and threads. Default: `64`.
        pub processes: Option<At<u32>> = optional { "processes": Count<1, 4_194_304> };
        /// Maximum size of its output. Default: `1M`.
        pub output: Option<At<u64>> = optional { "output": Size };
        /// Maximum size of a file that it writes. Default: `64M`.
        pub file_size: Option<At<u64>> = optional { "file_size": Size };
        /// Maximum number of files that it creates. Default: `10000`.
        pub files: Option<At<u32>> = optional { "files": Count<1, 1_000_000_000> };
        /// Maximum size of its directory. Default: no limit.
        pub userdir: Option<At<u64>> = optional { "userdir": Size };
        /// Size of its `/tmp`. Default: `64M`.
        pub tmp: Option<At<u64>> = optional { "tmp": Size };
    }
}

table! {
    /// Where the lines that a service prints go.
    pub struct Logs("log policy") {
        /// Where lines go. `pysecure logs` reads those of `file`. Default: `file`.
        pub sink: Option<At<Sink>> = optional { "sink": Sink };
        /// Maximum size of a log file; then a new one is begun. Default: `10M`.
        pub max_size: Option<At<u64>> = optional { "max_size": Size };
        /// Maximum number of log files, with the current one. Default: `3`.
        pub max_files: Option<At<u32>> = optional { "max_files": Count<1, MOST_LOG_FILES> };
    }
}

table! {
    /// A test of whether a service works: one of `tcp`, `unix`, `http` and `command`. It runs inside the service, with the service's
    /// rights.
    pub struct Probe("probe") {
        /// The address, as `ADDRESS:PORT`, to which a connection must succeed.
        pub tcp: Option<At<String>> = optional { "tcp": Listen };
        /// The path of a Unix socket to which a connection must succeed.
        pub unix: Option<At<String>> = optional { "unix": Path };
        /// The URL, as `http://ADDRESS:PORT/PATH`, that must be answered with a status below 400.
        pub http: Option<At<String>> = optional { "http": Text };
        /// The command that must end with 0.
        pub command: Option<At<Vec<String>>> = optional { "command": Words };
        /// Time between two probes; the first ones of `ready` follow each other faster. Default: `1s` for `ready`, `30s` for `health`.
        pub interval: Option<At<Duration>> = optional { "interval": Time };
        /// Maximum time for an answer. Default: `5s`.
        pub timeout: Option<At<Duration>> = optional { "timeout": Time };
        /// Number of failures in a row that make the service unhealthy. It has no effect on `ready`. Default: `3`.
        pub retries: Option<At<u32>> = optional { "retries": Count<1, MOST_LOG_FILES> };
    }
}

/// How a service is known to be ready.
#[derive(Clone, Debug)]
pub enum Readiness {
    /// It says READY=1; sd_notify(3).
    Notify,
    Probe(Box<Probe>),
}

table! {
    /// Accesses that must never become possible, and accesses that must stay possible, whatever the rest of the manifest says.
    pub struct Assertions("assert") {
        /// Rules: what nobody may do but those named (`read cred_db except authsvc`, `egress except mailsvc`), or what those named may
        /// not do (`call authsvc from profilesvc`).
        pub never: Vec<At<String>> = plain { "never": List<Rule> };
        /// Promises: what those named must be able to do (`read static by websvc`).
        pub always: Vec<At<String>> = plain { "always": List<Promise> };
    }
}

impl<T: Default> Default for At<T> {
    fn default() -> Self {
        At {
            value: T::default(),
            span: 0..0,
        }
    }
}
