//! With which ids PySecure works here.

/// With what ids services are kept apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// The host's root: ids are the host's own.
    Root,
    /// A user's outer namespace: ids are mapped onto the user's subordinate ids.
    SubordinateIds,
    /// A user without subordinate ids: one id for all services.
    OneId,
}
