//! What goes wrong with jails.

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
    #[error(
        "an image or a Debian is a whole root: only `exclude` and `directories` can stand beside it; take the rest out"
    )]
    NotWhole,
    #[error("the image {}: {cause}", path.display())]
    Image { path: PathBuf, cause: String },
    #[error("the package {0} is not installed here; `apt-get install {0}`, or take it out of `packages`")]
    NoPackage(String),
    #[error("{what} is made by {maker}, and was not made yet; run `pysecure jail build {name}`")]
    NotMade {
        what: &'static str,
        maker: &'static str,
        name: String,
    },
    #[error("{program} could not {deed}: {cause}")]
    Program {
        program: &'static str,
        deed: &'static str,
        cause: String,
    },
    #[error("{path} cannot be part of a root: it {cause}")]
    Leaves { path: String, cause: String },
    #[error("{} would lie below {}, which is no directory in the jail but a link or a file; name the path that it leads to", path.display(), by.display())]
    Below { path: PathBuf, by: PathBuf },
    #[error("the name {} is not UTF-8, or it leads to such a name; rename it, or `exclude` the directory it is in", .0.display())]
    NotText(PathBuf),
    #[error("{0:?} need more than {1} packages; take out what brings them, or `depends`")]
    TooMany(Vec<String>, usize),
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
    #[error(
        "the jail {} is gone, and cannot be put together again from the store ({cause}); `pysecure up -d` makes it anew",
        path.display()
    )]
    Gone { path: PathBuf, cause: String },
    #[error("no jail of this name or hash is built: {0}; see `pysecure jail list`")]
    NotBuilt(String),
}

/// Characters of either end of what an error says of an image.
const LONGEST_QUOTE: usize = 300;

impl JailError {
    /// The cause may quote an image, whose names and digests are as long as it likes: its middle is left out then.
    pub fn image(path: impl Into<PathBuf>, cause: impl std::fmt::Display) -> JailError {
        let mut cause = cause.to_string();
        if cause.len() > 4 * LONGEST_QUOTE {
            let head: String = cause.chars().take(LONGEST_QUOTE).collect();
            let tail = cause.char_indices().rev().nth(LONGEST_QUOTE);
            cause = format!("{head} … {}", &cause[tail.map_or(0, |(at, _)| at)..]);
        }
        JailError::Image {
            path: path.into(),
            cause,
        }
    }

    pub fn io(operation: &'static str, path: impl Into<PathBuf>, cause: impl std::fmt::Display) -> JailError {
        let mut cause = cause.to_string();
        if operation.starts_with("read") && cause.starts_with("Permission denied") {
            cause += "; make it readable for whoever builds the jail, or leave it out";
        }
        JailError::Io {
            operation,
            path: path.into(),
            cause,
        }
    }
}
