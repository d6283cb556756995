//! What a manifest may say: one struct a table, one field a key, in the words of the design.
//!
//! Nothing here is checked beyond its type. Whether names are declared, ranges suffice or grants
//! contradict each other is [`crate::model`]'s to say.

use std::ops::Range;

/// A value and where it stands in the manifest's text, as a byte range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// A table whose keys are names that the manifest's author chose, in the order of the file.
pub type Named<T> = Vec<(At<String>, T)>;

/// `r`, `w` and `x`, for one access class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Perms {
    pub read: bool,
    pub write: bool,
    pub exec: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Manifest {
    pub app: App,
    pub resources: Named<Resource>,
    pub bundles: Named<Bundle>,
    pub services: Named<Service>,
    /// `[assert] never = [...]`, each rule as it was written.
    pub never: Vec<At<String>>,
}

#[derive(Clone, Debug, Default)]
pub struct App {
    pub name: At<String>,
    /// Lowest and highest UID that may be allocated. Left out: a free range is chosen once and kept in the ledger.
    pub uid_range: Option<At<[u32; 2]>>,
    /// Lowest and highest GID that may be allocated.
    pub gid_range: Option<At<[u32; 2]>>,
    pub dynamic_svc_uid: Option<At<u32>>,
    pub dynamic_svc_gid: Option<At<u32>>,
    /// Path as services see it → host path, relative to the manifest. Read-only for all services.
    pub code: Named<At<String>>,
}

#[derive(Clone, Debug, Default)]
pub struct Resource {
    pub path: At<String>,
    /// `file` or `directory`. Left out: what `source` is, else a directory if the path ends in `/` or
    /// its last component has no dot, else a file.
    pub kind: Option<At<Kind>>,
    /// Host path, relative to the manifest. Left out: kept in the app's own data directory.
    pub source: Option<At<String>>,
    pub owner: Option<At<Perms>>,
    pub bundle: Option<At<Perms>>,
    pub global: Option<At<Perms>>,
    pub owned_by_dynamic_svc: Option<At<bool>>,
    /// May PySecure change owner, group and mode of `source` and all below it?
    pub adopt: Option<At<bool>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
}

#[derive(Clone, Debug, Default)]
pub struct Bundle {
    pub resources: Vec<At<String>>,
    pub used_by_dynamic_svc: Option<At<bool>>,
}

#[derive(Clone, Debug, Default)]
pub struct Service {
    /// A list, or one string, split as a shell splits words. Never empty.
    pub command: At<Vec<String>>,
    /// Where the command starts; `/` if left out.
    pub directory: Option<At<String>>,
    pub owner_resources: Vec<At<String>>,
    /// `bundle = "a"` and `bundles = ["a", "b"]` both end here; naming both keys is an error.
    pub bundles: Vec<At<String>>,
    pub runs_with_root: Option<At<bool>>,
    /// Name of a rootfs template; `host` if left out.
    pub rootfs: Option<At<String>>,
    /// Caller → what it may call of this service. `None`: the key is absent.
    pub callers: Option<Named<At<Callable>>>,
    /// `ADDRESS:PORT`, bound by the supervisor and handed over as `LISTEN_FDS`.
    pub listen: Vec<At<String>>,
    pub network: Option<At<Network>>,
    pub environment: Named<At<String>>,
}

/// Which functions of a callee a caller may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Callable {
    /// `"*"`
    All,
    Functions(Vec<String>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// A network namespace of its own, with nothing in it but a loopback.
    #[default]
    None,
    /// The host's network.
    Host,
}

impl<T: Default> Default for At<T> {
    fn default() -> Self {
        At { value: T::default(), span: 0..0 }
    }
}
