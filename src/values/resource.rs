//! What a resource is.

/// Whether a resource is one file or a whole directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceKind {
    File,
    Directory,
}
