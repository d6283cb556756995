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
        /// Files and directories, by name. What is not declared here, no service sees.
        pub resources: Named<Resource> = plain { "resources": Map<Name, Resource> };
        /// Sets of resources that services share, by name. Each bundle becomes one GID.
        pub bundles: Named<Bundle> = plain { "bundles": Map<Name, Bundle> };
        /// What runs, by name. Each service becomes one UID and one GID.
        pub services: Named<Service> = required { "services": NonEmpty<Map<Name, Service>> };
        /// Where services have code run that they do not trust, by name. Each run has ids of its own.
        pub sandboxes: Named<Sandbox> = plain { "sandboxes": Map<Name, Sandbox> };
        /// What must never become true, and what must stay possible, whatever the rest of the manifest says.
        pub assert: Assertions = plain { "assert": Assertions };
    }
}

table! {
    /// The application as a whole.
    pub struct App("app") {
        /// Its name: lower-case letters, digits, `_` and `-`, beginning with a letter. Data and ids are kept under it.
        pub name: At<String> = required { "name": AppName };
        /// Lowest and highest UID that may be allocated. Left out: a free range is chosen once and kept in the ledger.
        pub uid_range: Option<At<[u32; 2]>> = optional { "uid_range": IdRange };
        /// Lowest and highest GID that may be allocated. Left out: as for `uid_range`.
        pub gid_range: Option<At<[u32; 2]>> = optional { "gid_range": IdRange };
        /// UID of a service that PySecure does not start, such as a web server.
        pub external_uid: Option<At<u32>> = optional { "external_uid": Id };
        /// GID of a service that PySecure does not start, such as a web server.
        pub external_gid: Option<At<u32>> = optional { "external_gid": Id };
        /// Path as services see it → host path, relative to the manifest, or a table of that and what to leave out of it.
        /// Read-only for all services.
        pub code: Named<Code> = plain { "code": Map<Path, Folder> };
        /// A script, relative to the manifest, that makes the first content of the resources which PySecure keeps. Run
        /// once, when they are made, and with `pysecure setup`; it sees the app's resources and nothing else.
        pub setup: Option<At<String>> = optional { "setup": HostPath };
        /// The jail that the script runs in; `host` if left out.
        pub setup_jail: Option<At<String>> = optional { "setup_jail": Text };
        /// The most bytes of one call's arguments or result, from `"64K"` to `"1G"`; `"64M"` if left out.
        pub rpc_max_message: Option<At<u64>> = optional { "rpc_max_message": Size };
    }
}

table! {
    /// A folder, or a file, that all services may read and run.
    pub struct Code("code folder") {
        /// Host path, relative to the manifest.
        pub source: At<String> = required { "source": HostPath };
        /// Names and paths in it that services do not see, as .gitignore has them: `.env`, `*.db`, `/data/private`.
        pub exclude: Vec<At<String>> = plain { "exclude": List<Text> };
    }
}

table! {
    /// A file or a directory, and what each access class may do with it.
    pub struct Resource("resource") {
        /// Path as services see it.
        pub path: At<String> = required { "path": Path };
        /// `file` or `directory`. Left out: what `source` is, else a directory if the path ends in `/` or
        /// its last component has no dot, else a file.
        pub kind: Option<At<ResourceKind>> = optional { "kind": ResourceKind };
        /// Host path, relative to the manifest. Left out: kept in the app's own data directory.
        pub source: Option<At<String>> = optional { "source": HostPath };
        /// Host path, relative to the manifest, of what it holds when PySecure makes it. Copied once, then left alone.
        pub initial: Option<At<String>> = optional { "initial": HostPath };
        /// The name that it had before: it goes on with the data that PySecure keeps under that.
        pub was: Option<At<String>> = optional { "was": Text };
        /// Names and paths in `source` that services do not see, as .gitignore has them. For what all may only read.
        pub exclude: Vec<At<String>> = plain { "exclude": List<Text> };
        /// What the service that owns it may do: any of `r`, `w`, `x`, `c`. Left out: nothing.
        pub owner: Option<At<Perms>> = optional { "owner": Perms };
        /// What services with a bundle that contains it may do: any of `r`, `w`, `x`, `c`. Left out: nothing.
        pub bundle: Option<At<Perms>> = optional { "bundle": Perms };
        /// What every service of the app may do: any of `r`, `w`, `x`, `c`. Left out: nothing.
        pub global: Option<At<Perms>> = optional { "global": Perms };
        /// Does the external service own it?
        pub owned_by_external: Option<At<bool>> = optional { "owned_by_external": bool };
        /// May PySecure change owner, group and mode of `source` and all below it?
        pub chown: Option<At<bool>> = optional { "chown": bool };
        /// May services write in `source` although it belongs to root, or lies where root runs what it finds?
        /// What they make there is root's.
        pub write_as_root: Option<At<bool>> = optional { "write_as_root": bool };
    }
}

table! {
    /// A set of resources shared by the services that name it.
    pub struct Bundle("bundle") {
        /// Names of the resources in it.
        pub resources: Vec<At<String>> = plain { "resources": List<Text> };
        /// May the external service use it?
        pub used_by_external: Option<At<bool>> = optional { "used_by_external": bool };
    }
}

table! {
    /// A command that runs under ids of its own and sees only what it was granted.
    pub struct Service("service") {
        /// A list, or one string, split as a shell splits words. Never empty.
        pub command: At<Vec<String>> = required { "command": Words };
        /// The name that it had before: it goes on with the ids, the logs and what is kept of its root.
        pub was: Option<At<String>> = optional { "was": Text };
        /// Where the command starts; `/` if left out.
        pub directory: Option<At<String>> = optional { "directory": Path };
        /// Names of the resources that it owns. A resource has one owner.
        pub owner_resources: Vec<At<String>> = plain { "owner_resources": List<Text> };
        /// The bundles that it uses: `bundles` is a list, `bundle` names one. Naming both keys is an error.
        pub bundles: Vec<At<String>> = plain { "bundle": One<Text>, "bundles": List<Text> };
        /// Root inside its own namespace, nobody outside.
        pub runs_with_root: Option<At<bool>> = optional { "runs_with_root": bool };
        /// Further ids of its own, by name, which it may become, and no other: for what starts as root and drops to another user. It is root
        /// inside its own namespace.
        pub users: Vec<At<String>> = plain { "users": List<Text> };
        /// Name of a jail; `host` if left out.
        pub jail: Option<At<String>> = optional { "jail": Text };
        /// May it write to its jail? `"memory"` (or `true`): what it writes is in memory, and gone when it ends; `"persistent"`:
        /// it is kept with the app's data. `false` if left out.
        pub writable: Option<At<Writable>> = optional { "writable": Writable };
        /// Caller → what it may call of this service: `"*"` or a list of functions.
        pub callers: Option<Named<At<Callable>>> = optional { "callers": Map<Text, Callable> };
        /// Do exceptions carry their tracebacks to callers? They show its code and values to them.
        pub rpc_tracebacks: Option<At<bool>> = optional { "rpc_tracebacks": bool };
        /// `ADDRESS:PORT`, bound by the supervisor, whose connections come in on a socket of `LISTEN_FDS`.
        pub listen: Vec<At<String>> = plain { "listen": List<Listen> };
        /// `none` (a loopback of its own and nothing else), `app` (one loopback for all services that say so) or
        /// `host`; `none` if left out.
        pub network: Option<At<Network>> = optional { "network": Network };
        /// `[ADDRESS:]PORT:PORT`: connections to the host's address and the first port reach the second one inside.
        /// Without an address it is 127.0.0.1. `/proxy-v1` or `/proxy-v2` behind it: they begin with the PROXY
        /// protocol's header.
        pub publish: Vec<At<String>> = plain { "publish": List<Publish> };
        /// May it connect to the outside?
        pub egress: Option<At<bool>> = optional { "egress": bool };
        /// Variables that are added to its environment.
        pub environment: Named<At<String>> = plain { "environment": Map<EnvName, Text> };
        /// `simple`: it runs until it is stopped. `oneshot`: it does its work and ends. `simple` if left out.
        pub kind: Option<At<ServiceType>> = optional { "type": ServiceType };
        /// Services that come first: a list of those that must have been started, or a table of name →
        /// `started`, `ready` or `completed`.
        pub depends_on: Named<At<Condition>> = plain { "depends_on": Dependencies };
        /// When it is started: `auto`, with the app, or `on-demand`, when something connects to a socket of its.
        pub start: Option<At<Start>> = optional { "start": Start };
        /// How it is known to be ready: `notify` (sd_notify(3)), or a probe. Left out: when its program runs.
        pub ready: Option<At<Readiness>> = optional { "ready": Readiness };
        /// How long it may take to be ready; `90s` if left out.
        pub start_timeout: Option<At<Duration>> = optional { "start_timeout": Time };
        /// A probe, again and again while it runs. When it fails, the service is unhealthy, and is restarted if
        /// `restart` says so.
        pub health: Option<Probe> = optional { "health": Probe };
        /// It must say WATCHDOG=1 (sd_notify(3)) at least so often; else it is killed with SIGABRT.
        pub watchdog: Option<At<Duration>> = optional { "watchdog": Time };
        /// What to do when it ends by itself: `no`, `on-failure` or `always`; `no` if left out.
        pub restart: Option<At<Restart>> = optional { "restart": Restart };
        /// Wait before the first restart; doubled for each that follows. `100ms` if left out.
        pub restart_delay: Option<At<Duration>> = optional { "restart_delay": Time };
        /// The longest wait between two restarts; `1m` if left out.
        pub restart_max_delay: Option<At<Duration>> = optional { "restart_max_delay": Time };
        /// How many restarts there may be within `restart_window` before it is given up; 0: never. 10 if left out.
        pub restart_limit: Option<At<u32>> = optional { "restart_limit": Count<0, 1_000_000> };
        /// After running for so long, it is as if it had never been restarted; `10m` if left out.
        pub restart_window: Option<At<Duration>> = optional { "restart_window": Time };
        /// The signal that asks it to end; `SIGTERM` if left out.
        pub stop_signal: Option<At<u8>> = optional { "stop_signal": SignalName };
        /// How long it may take to end before it is killed; `10s` if left out.
        pub stop_timeout: Option<At<Duration>> = optional { "stop_timeout": Time };
        /// The signal by which `pysecure reload` has it read its configuration again; `SIGHUP` if left out.
        pub reload_signal: Option<At<u8>> = optional { "reload_signal": SignalName };
        /// What becomes of the lines that it prints.
        pub logs: Logs = plain { "logs": Logs };
        /// How much its `/dev/shm` may hold; `"64M"` if left out.
        pub shm_size: Option<At<u64>> = optional { "shm_size": Size };
        /// How much its `/tmp` may hold; `"256M"` if left out.
        pub tmp_size: Option<At<u64>> = optional { "tmp_size": Size };
        /// May it run programs that lie in its `/tmp`, and map them? `false` if left out.
        pub tmp_exec: Option<At<bool>> = optional { "tmp_exec": bool };
        /// What it may use of the machine. What is left out is not limited.
        pub limits: Option<Limits> = optional { "limits": Limits };
    }
}

table! {
    /// What a service may use of the machine, all its processes together; `nofile`, `fsize`, `core` and `memlock` are for each, `nproc` for
    /// each of its ids.
    pub struct Limits("limits") {
        /// Memory, files in `/tmp` included: a size such as `"256M"`. Beyond it, a process of the service is killed.
        pub memory: Option<At<u64>> = optional { "memory": Size };
        /// Processor time: `2` is two processors, `0.5` half of one.
        pub cpus: Option<At<u32>> = optional { "cpus": Processors };
        /// Processes and threads, PySecure's own PID 1 of the service among them.
        pub pids: Option<At<u32>> = optional { "pids": Count<2, 4_194_304> };
        /// Share of the disk when several want it, 1 to 10000. Others have 100.
        pub io_weight: Option<At<u32>> = optional { "io_weight": Count<1, 10_000> };
        /// Open files a process; RLIMIT_NOFILE of setrlimit(2).
        pub nofile: Option<At<u32>> = optional { "nofile": Count<16, 1_073_741_816> };
        /// The largest file that a process may write; RLIMIT_FSIZE.
        pub fsize: Option<At<u64>> = optional { "fsize": Size };
        /// The largest core file that a process may leave; RLIMIT_CORE. None if left out.
        pub core: Option<At<u64>> = optional { "core": Size };
        /// Memory that a process may lock, in bytes; RLIMIT_MEMLOCK. What the kernel sets if left out.
        pub memlock: Option<At<u64>> = optional { "memlock": Size };
        /// Processes and threads of one id; RLIMIT_NPROC. 4096 if left out.
        pub nproc: Option<At<u32>> = optional { "nproc": Count<2, 4_194_304> };
        /// Is `up` to refuse where this host cannot hold one of them? Else it says so and goes on.
        pub required: Option<At<bool>> = optional { "required": bool };
    }
}

table! {
    /// A root, limits and ids, in which services have code run that they do not trust. It has none of their grants.
    pub struct Sandbox("sandbox") {
        /// Services that may have code run in it. Nobody else can ask for it.
        pub used_by: Vec<At<String>> = plain { "used_by": List<Text> };
        /// The resource below which the directory of each run lies. It is all that a run may write to and that is kept.
        /// Left out: a run has no such directory.
        pub userdirs: Option<At<String>> = optional { "userdirs": Text };
        /// Name of a jail; `host` if left out.
        pub jail: Option<At<String>> = optional { "jail": Text };
        /// Folders of Python packages, relative to the manifest, that runs may import from. Read-only.
        pub packages: Vec<At<String>> = plain { "packages": List<HostPath> };
        /// Modules that are imported before any run begins, for all runs.
        pub preload: Vec<At<String>> = plain { "preload": List<Text> };
        /// How many ids there are for runs, and so how many runs at once; others wait. 16 if left out.
        pub uids: Option<At<u32>> = optional { "uids": Count<1, MOST_UIDS> };
        /// How many sandboxes are kept ready for the next run. None if left out.
        pub ready: Option<At<u32>> = optional { "ready": Count<0, MOST_UIDS> };
        /// What keeps a run from all else: `namespaces`, or `landlock` where this host has no namespaces for it. Neither
        /// ever stands in for the other. `namespaces` if left out.
        pub isolation: Option<At<Isolation>> = optional { "isolation": Isolation };
        /// What each run may use. A service may ask for less, and never for more.
        pub limits: Option<SandboxLimits> = optional { "limits": SandboxLimits };
    }
}

/// More runs at once than any pool of ids is for.
const MOST_UIDS: u32 = 10_000;

table! {
    /// What one run in a sandbox may use, all its processes together.
    pub struct SandboxLimits("limits") {
        /// Time since it began; `30s` if left out.
        pub wall: Option<At<Duration>> = optional { "wall": Time };
        /// Time on processors; `10s` if left out.
        pub cpu: Option<At<Duration>> = optional { "cpu": Time };
        /// Of a session, which is kept for many runs: time since it began, in all; `1h` if left out.
        pub session_wall: Option<At<Duration>> = optional { "session_wall": Time };
        /// Of a session: time on processors, in all; `10m` if left out.
        pub session_cpu: Option<At<Duration>> = optional { "session_cpu": Time };
        /// Memory, files in `/tmp` included; `512M` if left out.
        pub memory: Option<At<u64>> = optional { "memory": Size };
        /// Processes and threads; 64 if left out.
        pub processes: Option<At<u32>> = optional { "processes": Count<1, 4_194_304> };
        /// Bytes that it may print; `1M` if left out.
        pub output: Option<At<u64>> = optional { "output": Size };
        /// The largest file that it may write; `64M` if left out.
        pub file_size: Option<At<u64>> = optional { "file_size": Size };
        /// Files that it may make; 10000 if left out.
        pub files: Option<At<u32>> = optional { "files": Count<1, 1_000_000_000> };
        /// Bytes that its directory may hold; not limited if left out.
        pub userdir: Option<At<u64>> = optional { "userdir": Size };
        /// Bytes that its `/tmp` may hold; `64M` if left out.
        pub tmp: Option<At<u64>> = optional { "tmp": Size };
    }
}

table! {
    /// What becomes of the lines that a service prints.
    pub struct Logs("log policy") {
        /// `file`, `journald`, `syslog` or `none`; `file` if left out, which is what `pysecure logs` reads.
        pub sink: Option<At<Sink>> = optional { "sink": Sink };
        /// A file that would become larger is put aside, and another begun; `10M` if left out.
        pub max_size: Option<At<u64>> = optional { "max_size": Size };
        /// How many files there may be, the current one included; 3 if left out.
        pub max_files: Option<At<u32>> = optional { "max_files": Count<1, MOST_LOG_FILES> };
    }
}

table! {
    /// A question that a service answers while it is well. One of `tcp`, `unix`, `http` and `command`, asked inside
    /// the service, as the service.
    pub struct Probe("probe") {
        /// `ADDRESS:PORT`, to which a connection must succeed.
        pub tcp: Option<At<String>> = optional { "tcp": Listen };
        /// Path of a Unix socket, to which a connection must succeed.
        pub unix: Option<At<String>> = optional { "unix": Path };
        /// `http://ADDRESS:PORT/PATH`, which must be answered with a status below 400.
        pub http: Option<At<String>> = optional { "http": Text };
        /// A command that must end with 0.
        pub command: Option<At<Vec<String>>> = optional { "command": Words };
        /// Time between two questions; `1s` for `ready`, which asks quicker at first, and `30s` for `health` if left out.
        pub interval: Option<At<Duration>> = optional { "interval": Time };
        /// How long an answer may take; `5s` if left out.
        pub timeout: Option<At<Duration>> = optional { "timeout": Time };
        /// How many failures in a row make it unhealthy; 3 if left out. Of no effect for `ready`, which asks on.
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
    /// What must never become true, and what must stay possible, whatever the rest of the manifest says.
    pub struct Assertions("assert") {
        /// What nobody may but those named, or what these may not: `read cred_db except authsvc`, `call authsvc from
        /// profilesvc`, `egress except mailsvc`.
        pub never: Vec<At<String>> = plain { "never": List<Rule> };
        /// What those named must be able to do: `read static by websvc`.
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
