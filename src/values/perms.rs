//! What an access class may do with a resource.

/// `r`, `w`, `x` and `c`, for one access class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Perms {
    pub read: bool,
    pub write: bool,
    pub exec: bool,
    /// Connecting to sockets, where neither `r` nor `w` says so already.
    pub connect: bool,
}
