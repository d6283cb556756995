//! What a manifest means: every name resolved, every rule of the design checked, the access matrix ([`matrix`]).
//!
//! The model knows nothing of ids, of the state kept on disk, or of mounts: those are
//! [`crate::plan`]'s. Of the host it looks at one thing only, the `source` paths ([`source`]).
//! All that is wrong is collected; nothing here stops at the first error.

pub mod assert;
mod build;
mod classes;
mod exclude;
mod id;
pub mod life;
pub mod limits;
mod logs;
pub mod matrix;
mod nesting;
pub mod network;
mod ranges;
mod renames;
mod resources;
mod sandboxes;
mod services;
mod shadow;
pub mod source;

pub use crate::values::path;
pub use build::build;
pub use classes::ByClass;
pub use exclude::Exclude;
pub(crate) use id::indexed_by;
pub use id::{BundleId, ResourceId, SandboxId, ServiceId};
pub use life::Life;
pub use limits::{Limits, MemoryFiles};
pub use logs::Logs;
pub use matrix::{Class, Column, Grant, Matrix, Object, Right, Row, Subject};
pub use network::{ProxyProtocol, Publish};
pub use ranges::{ids_of, needed_ids};
pub use resources::kind_name;
pub use sandboxes::{Sandbox, SandboxLimits, SandboxPlaces};

use crate::values::{Callable, Network, Perms, ResourceKind, Writable};
use std::ops::Range;
use std::path::PathBuf;

/// The word that stands for the external service in `callers` and `[assert]`.
pub const EXTERNAL: &str = "external";
/// The word that stands in `callers` for whoever runs the app, with `pysecure rpc call`.
pub const OPERATOR: &str = "operator";
/// The name under which the setup script runs, and has ids.
pub const SETUP_SCRIPT: &str = "setup-script";
/// The name under which the app has ids for what no service owns; a dot begins no service's name.
pub const UNOWNED: &str = ".unowned";

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub app: String,
    pub uid_range: Option<[u32; 2]>,
    pub gid_range: Option<[u32; 2]>,
    pub external_uid: Option<u32>,
    pub external_gid: Option<u32>,
    pub resources: Vec<Resource>,
    pub bundles: Vec<Bundle>,
    pub services: Vec<Service>,
    pub sandboxes: Vec<Sandbox>,
    /// What makes the first content of the resources.
    pub setup: Option<Setup>,
    /// The most bytes of one message of RPC, where the manifest says it.
    pub rpc_max_message: Option<u64>,
    pub places: Places,
    /// `[assert]`: what must never become true, and what must stay possible.
    pub assertions: Vec<assert::Assertion>,
    index: matrix::Index,
}

/// Where the manifest says what belongs to no resource or service; the app's name where it does not.
#[derive(Clone, Debug, Default)]
pub struct Places {
    pub app: Range<usize>,
    pub uid_range: Range<usize>,
    pub gid_range: Range<usize>,
    pub external_uid: Range<usize>,
    pub external_gid: Range<usize>,
}

/// What grants something is the model's own: to all others it is a row of the [`Matrix`].
#[derive(Clone, Debug)]
pub struct Resource {
    pub name: String,
    /// Absolute and normal: no `.`, no `..`, no doubled or trailing slash.
    pub path: String,
    pub kind: ResourceKind,
    /// The host path, absolute and free of links; `None` where PySecure keeps the data itself.
    pub source: Option<PathBuf>,
    /// What it holds when PySecure makes it: a host path, absolute and free of links.
    pub initial: Option<PathBuf>,
    /// The name that its data was kept under before, and where the manifest says so.
    pub was: Option<String>,
    pub was_at: Range<usize>,
    owner: Option<Subject>,
    /// Sorted.
    bundles: Vec<BundleId>,
    /// For each class. Who is in which, the [`Matrix`] says.
    declared: ClassPerms,
    pub chown: bool,
    /// What of `source` is left out.
    pub exclude: Exclude,
    /// Services may write in `source` even if that gives them root's rights on the host.
    write_as_root: bool,
    /// The innermost other resource that this one lies in.
    pub parent: Option<ResourceId>,
    /// A file that is kept in, and mounted with, a directory of its own, so that journals and
    /// write-then-rename work; see [`nesting`].
    pub with_directory: bool,
    /// Where the manifest declares it.
    pub span: Range<usize>,
    /// Where it names the source; else as `span`.
    pub source_at: Range<usize>,
    pub places: ResourcePlaces,
}

/// Where a resource's keys stand that grant something; its name where one is left out.
#[derive(Clone, Debug, Default)]
pub struct ResourcePlaces {
    pub owner: Range<usize>,
    pub bundle: Range<usize>,
    pub global: Range<usize>,
    pub owned_by_external: Range<usize>,
    pub write_as_root: Range<usize>,
}

/// What each access class may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassPerms {
    pub owner: Perms,
    pub bundle: Perms,
    pub global: Perms,
}

/// A script of the user's, and the root that it runs in.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The host path, absolute and free of links.
    pub script: PathBuf,
    pub rootfs: String,
    pub span: Range<usize>,
}

#[derive(Clone, Debug)]
pub struct Bundle {
    pub name: String,
    resources: Vec<ResourceId>,
    members: Vec<ServiceId>,
    used_by_external: bool,
    /// Where the manifest declares it.
    pub span: Range<usize>,
    pub places: BundlePlaces,
}

/// Where a bundle's keys stand that grant something; its name where one is left out.
#[derive(Clone, Debug, Default)]
pub struct BundlePlaces {
    /// As [`Bundle::resources`].
    pub resources: Vec<Range<usize>>,
    pub used_by_external: Range<usize>,
}

/// Who may call a service, and which of its functions.
#[derive(Clone, Debug)]
pub struct Caller {
    pub subject: Subject,
    pub may: Callable,
    pub span: Range<usize>,
}

/// What grants something is the model's own, as of a [`Resource`].
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    /// The name that it had before.
    pub was: Option<String>,
    pub command: Vec<String>,
    pub directory: String,
    owns: Vec<ResourceId>,
    /// Sorted.
    bundles: Vec<BundleId>,
    runs_with_root: bool,
    /// Further users that it may become; then it is root inside.
    pub users: Vec<String>,
    pub rootfs: String,
    writable: Writable,
    /// Who may call this service; sorted by subject.
    callers: Vec<Caller>,
    /// Do its exceptions carry tracebacks to its callers?
    pub rpc_tracebacks: bool,
    listen: Vec<std::net::SocketAddr>,
    network: Network,
    publish: Vec<Publish>,
    /// May it connect to the outside?
    egress: bool,
    pub environment: Vec<(String, String)>,
    pub life: Life,
    pub limits: Limits,
    pub memory_files: MemoryFiles,
    pub logs: Logs,
    pub span: Range<usize>,
    pub places: ServicePlaces,
}

/// Where a service's keys stand; its name where one is left out.
#[derive(Clone, Debug, Default)]
pub struct ServicePlaces {
    pub command: Range<usize>,
    pub directory: Range<usize>,
    pub rootfs: Range<usize>,
    pub writable: Range<usize>,
    pub runs_with_root: Range<usize>,
    pub network: Range<usize>,
    pub egress: Range<usize>,
    /// As [`Service::listen`].
    pub listen: Vec<Range<usize>>,
    /// As [`Service::publish`].
    pub publish: Vec<Range<usize>>,
    /// As [`Service::owns`].
    pub owns: Vec<Range<usize>>,
    /// As [`Service::bundles`].
    pub bundles: Vec<Range<usize>>,
}

impl ClassPerms {
    pub fn all(&self) -> [Perms; 3] {
        [self.owner, self.bundle, self.global]
    }
}

impl Resource {
    /// The path that is mounted: the resource's own, or its directory's.
    pub fn mount_path(&self) -> &str {
        if self.with_directory {
            path::parent(&self.path)
        } else {
            &self.path
        }
    }
}

impl Model {
    pub fn service(&self, name: &str) -> Option<ServiceId> {
        self.services.iter().position(|s| s.name == name).map(ServiceId::new)
    }

    pub fn resource(&self, name: &str) -> Option<ResourceId> {
        self.resources.iter().position(|r| r.name == name).map(ResourceId::new)
    }

    pub fn subject_name(&self, subject: Subject) -> &str {
        match subject {
            Subject::Service(id) => &self.services[id].name,
            Subject::External => EXTERNAL,
            Subject::Operator => OPERATOR,
            Subject::SetupScript => SETUP_SCRIPT,
            Subject::Sandbox(id) => &self.sandboxes[id].name,
        }
    }
}
