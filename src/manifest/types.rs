//! What a manifest may say: one struct a table, one field a key, in the words of the design.
//!
//! Nothing here is checked beyond its type. Whether names are declared, ranges suffice or grants
//! contradict each other is [`crate::model`]'s to say.

use super::decode::{Field, table};
use super::diagnostic::Diagnostic;
use super::tree::Node;
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

table! {
    #[derive(Clone, Debug, Default)]
    pub struct Manifest {
        /// The app itself.
        pub app: Required<App>,
        /// Files and directories, by name.
        pub resources: Named<Resource>,
        /// Sets of resources that services share, by name.
        pub bundles: Named<Bundle>,
        /// Commands, each run under a UID of its own, by name.
        pub services: Named<Service>,
        /// What must never become true, whatever the rest says.
        pub assert: Assert,
    }
}

table! {
    #[derive(Clone, Debug, Default)]
    pub struct Assert {
        /// `read|write|execute RESOURCE except NAME, …`, `… from NAME, …`, or `call SERVICE …`.
        pub never: Vec<At<String>>,
    }
}

table! {
    #[derive(Clone, Debug, Default)]
    pub struct App {
        /// The app's name, which is also that of its data directory: a-z, 0-9, - and _.
        pub name: At<String>,
        /// Lowest and highest UID that may be allocated. Left out: a free range is chosen once and kept in the ledger.
        pub uid_range: Option<At<[u32; 2]>>,
        /// Lowest and highest GID that may be allocated.
        pub gid_range: Option<At<[u32; 2]>>,
        /// UID of a service that PySecure does not start, such as Apache's.
        pub dynamic_svc_uid: Option<At<u32>>,
        /// Its GID, which becomes that of the bundle it uses.
        pub dynamic_svc_gid: Option<At<u32>>,
        /// Path as services see it → host path, relative to the manifest. Read-only for all services.
        pub code: Named<At<String>>,
    }
}

table! {
    #[derive(Clone, Debug, Default)]
    pub struct Resource {
        /// The path as services see it.
        pub path: At<String>,
        /// `file` or `directory`. Left out: what `source` is, else a directory if the path ends in `/` or
        /// its last component has no dot, else a file.
        pub kind: Option<At<Kind>>,
        /// Host path, relative to the manifest. Left out: kept in the app's own data directory.
        pub source: Option<At<String>>,
        /// What its owner may do: any of r, w, x.
        pub owner: Option<At<Perms>>,
        /// What members of its bundles may do.
        pub bundle: Option<At<Perms>>,
        /// What every service may do.
        pub global: Option<At<Perms>>,
        /// Is the dynamic service its owner?
        pub owned_by_dynamic_svc: Option<At<bool>>,
        /// May PySecure change owner, group and mode of `source` and all below it?
        pub adopt: Option<At<bool>>,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
}

table! {
    #[derive(Clone, Debug, Default)]
    pub struct Bundle {
        /// Names of the resources.
        pub resources: Vec<At<String>>,
        /// Is the dynamic service a member?
        pub used_by_dynamic_svc: Option<At<bool>>,
    }
}

table! {
    #[derive(Clone, Debug, Default)]
    pub struct Service {
        /// A list, or one string, split as a shell splits words. Never empty.
        pub command: At<Vec<String>>,
        /// Where the command starts; `/` if left out.
        pub directory: Option<At<String>>,
        /// Names of the resources that it owns.
        pub owner_resources: Vec<At<String>>,
        /// The bundle that it is a member of; short for `bundles` with one name.
        pub bundle: Option<At<String>>,
        /// The bundles that it is a member of.
        pub bundles: Vec<At<String>>,
        /// Is it root inside its namespace? Outside it is nobody all the same.
        pub runs_with_root: Option<At<bool>>,
        /// Name of a rootfs template; `host` if left out.
        pub rootfs: Option<At<String>>,
        /// Who may call it, and which of its functions: `{ web = "*", banksvc = ["check_token"] }`.
        pub callers: Option<Named<At<Callable>>>,
        /// `ADDRESS:PORT`, bound by the supervisor and handed over as `LISTEN_FDS`.
        pub listen: Vec<At<String>>,
        /// `none`: a network of its own with nothing but a loopback. `host`: the host's.
        pub network: Option<At<Network>>,
        /// Variables that its command is given.
        pub environment: Named<At<String>>,
    }
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

/// A table that must be there.
#[derive(Clone, Debug, Default)]
pub struct Required<T>(pub T);

impl<T: Field> Field for Required<T> {
    const REQUIRED: bool = true;

    fn fill(&mut self, key: &str, node: Node, found: &mut Vec<Diagnostic>) {
        self.0.fill(key, node, found);
    }

    fn schema() -> serde_json::Value {
        T::schema()
    }
}

impl<T> std::ops::Deref for Required<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
