//! Jails: read-only roots put together from a recipe, with all that its programs need, and kept in a store.
//!
//! [`recipe`] reads what is named, [`collect`] finds what that needs ([`elf`] for programs and libraries), [`store`]
//! keeps it. The first three only read the host, so a plan may use them; no program of the host is ever run.

pub mod collect;
pub mod elf;
pub mod recipe;
pub mod store;

use std::path::PathBuf;

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum JailError {
    #[error("{operation} {}: {cause}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        cause: String,
    },
    #[error("is no recipe's name; write a name such as \"host\"")]
    Name,
    #[error("there is no such template; there are: {known}, and your own in {}", folder.display())]
    Unknown { known: String, folder: PathBuf },
    #[error("{0}")]
    Form(String),
    #[error("the recipes extend each other in a circle ({0}); take one `extends` out")]
    Cycle(String),
    #[error("a recipe copies files or binds them, not both; take `bind` out, or what it extends")]
    Mixed,
    #[error("{0} cannot be part of a root; write an absolute path without `..`")]
    Leaves(String),
    #[error("there is no program {0} here; install it, or take it out of `binaries`")]
    NoBinary(String),
    #[error("{} is not here; install it, take it out of `paths`, or write it in `optional`", .0.display())]
    NoPath(PathBuf),
    #[error("nothing here matches the glob {0}; install what it names, correct it, or write it in `optional`")]
    NoMatch(String),
    #[error("the links at {} lead in a circle; correct them, or name the file itself", .0.display())]
    LinkLoop(PathBuf),
    #[error("{} needs {library}, which is nowhere to be found; install it", program.display())]
    NoLibrary { program: PathBuf, library: String },
    #[error("{} is a broken program or library ({cause}); install it again", path.display())]
    BrokenElf { path: PathBuf, cause: String },
    #[error("the script {} runs with {interpreter}, which is not here; install it", script.display())]
    NoInterpreter { script: PathBuf, interpreter: String },
    #[error("the host's files changed while the jail was made; try again when that is over")]
    Changed,
    #[error("no jail of this name or hash is built: {0}; see `pysecure jail list`")]
    NotBuilt(String),
}

impl JailError {
    pub fn io(operation: &'static str, path: impl Into<PathBuf>, cause: impl std::fmt::Display) -> JailError {
        JailError::Io {
            operation,
            path: path.into(),
            cause: cause.to_string(),
        }
    }
}
