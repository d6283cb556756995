//! What goes wrong with jails.

use crate::cause::{Cause, Reason, without_remedy};
use crate::former;
use std::borrow::Cow;
use std::error::Error;
use std::path::{Path, PathBuf};

const NAME: &str = "write a name such as \"host\"";
const CYCLE: &str = "take one `extends` out";
const MIXED: &str = "take `bind` out, or what it extends";
const NOT_WHOLE: &str = "take the rest out";
const CORRECT: &str = "correct it";
const LEADS: &str = "name the path that it leads to";
const NOT_TEXT: &str = "rename it, or `exclude` the directory it is in";
const FORMER_FOLDER: &str = "rename the folder `rootfs-templates` to `jails`";
const TOO_MANY: &str = "take out what brings them, or `with_dependencies`";
const NO_BINARY: &str = "install it, or take it out of `binaries`";
const NO_PATH: &str = "install it, take it out of `paths`, or write it in `optional`";
const NO_MATCH: &str = "install what it names, correct it, or write it in `optional`";
const LINK_LOOP: &str = "correct them, or name the file itself";
const INSTALL: &str = "install it";
const INSTALL_AGAIN: &str = "install it again";
const CHANGED: &str = "try again when that is over";
const GONE: &str = "`pysecure up -d` makes it anew";
const NOT_BUILT: &str = "see `pysecure jail list`";

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum JailError {
    #[error("{operation} {}: {cause}{}", path.display(), and(*help))]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        cause: Cause,
        help: Option<&'static str>,
    },
    #[error("is no recipe's name; {NAME}")]
    Name,
    #[error("there is no such jail; {}", recipes(known, folder))]
    Unknown { known: String, folder: PathBuf },
    #[error("{0}")]
    Form(#[source] Cause),
    #[error("unknown key `{old}`; {}", former::now(new))]
    FormerKey { old: &'static str, new: &'static str },
    #[error("the recipe {} is not read any more; {FORMER_FOLDER}", .0.display())]
    FormerFolder(PathBuf),
    #[error("the glob {glob}: {cause}; {CORRECT}")]
    Glob {
        glob: String,
        #[source]
        cause: Cause,
    },
    #[error("the recipes extend each other in a circle ({0}); {CYCLE}")]
    Cycle(String),
    #[error("a recipe copies files or binds them, not both; {MIXED}")]
    Mixed,
    #[error("an image or a Debian is a whole root: only `exclude` and `directories` can stand beside it; {NOT_WHOLE}")]
    NotWhole,
    #[error("the image {}: {reason}", path.display())]
    Image {
        path: PathBuf,
        #[source]
        reason: Reason,
    },
    #[error("the package {0} is not installed here; {help}", help = no_package(.0))]
    NoPackage(String),
    #[error("{what} is made by {maker}, and was not made yet; {}", build(name))]
    NotMade {
        what: &'static str,
        maker: &'static str,
        name: String,
    },
    #[error("{program} could not {deed}: {cause}; {help}")]
    Program {
        program: &'static str,
        deed: &'static str,
        #[source]
        cause: Cause,
        help: &'static str,
    },
    #[error("{path} cannot be part of a root: it {cause}")]
    Leaves {
        path: String,
        #[source]
        cause: Reason,
    },
    #[error("{} would lie below {}, which is no directory in the jail but a link or a file; {LEADS}", path.display(), by.display())]
    Below { path: PathBuf, by: PathBuf },
    #[error("the name {} is not UTF-8, or it leads to such a name; {NOT_TEXT}", .0.display())]
    NotText(PathBuf),
    #[error("{0:?} need more than {1} packages; {TOO_MANY}")]
    TooMany(Vec<String>, usize),
    #[error("there is no program {0} here; {NO_BINARY}")]
    NoBinary(String),
    #[error("{} is not here; {NO_PATH}", .0.display())]
    NoPath(PathBuf),
    #[error("nothing here matches the glob {0}; {NO_MATCH}")]
    NoMatch(String),
    #[error("the links at {} lead in a circle; {LINK_LOOP}", .0.display())]
    LinkLoop(PathBuf),
    #[error("{} needs {library}, which is nowhere to be found; {INSTALL}", program.display())]
    NoLibrary { program: PathBuf, library: String },
    #[error("{} is a broken program or library ({cause}); {INSTALL_AGAIN}", path.display())]
    BrokenElf { path: PathBuf, cause: String },
    #[error("the script {} runs with {interpreter}, which is not here; {INSTALL}", script.display())]
    NoInterpreter { script: PathBuf, interpreter: String },
    #[error("the host's files changed while the jail was made; {CHANGED}")]
    Changed,
    #[error("a signal broke off the building of the jail, of which nothing is left")]
    BrokenOff,
    #[error("the jail {} is gone, and cannot be put together again from the store ({cause}); {GONE}", path.display())]
    Gone {
        path: PathBuf,
        #[source]
        cause: Cause,
    },
    #[error("no jail of this name or hash is built: {0}; {NOT_BUILT}")]
    NotBuilt(String),
}

fn and(help: Option<&str>) -> String {
    help.map(|help| format!("; {help}")).unwrap_or_default()
}

fn recipes(known: &str, folder: &Path) -> String {
    format!("there are: {known}, and your own in {}", folder.display())
}

fn no_package(name: &str) -> String {
    format!("`apt-get install {name}`, or take it out of `packages`")
}

fn build(name: &str) -> String {
    format!("run `pysecure jail build {name}`")
}

/// Characters of either end of what an error says of an image.
const LONGEST_QUOTE: usize = 300;

impl JailError {
    /// What to do about it, as its text ends.
    pub fn help(&self) -> Option<Cow<'_, str>> {
        let help = match self {
            JailError::Io { help, .. } => return help.map(Cow::Borrowed),
            JailError::Image { reason, .. } => return reason.help().map(Cow::Borrowed),
            JailError::Unknown { known, folder } => return Some(recipes(known, folder).into()),
            JailError::NoPackage(name) => return Some(no_package(name).into()),
            JailError::NotMade { name, .. } => return Some(build(name).into()),
            JailError::Leaves { cause, .. } => return cause.help().map(Cow::Borrowed),
            JailError::Form(_) | JailError::BrokenOff => return None,
            JailError::FormerKey { new, .. } => return Some(former::now(new).into()),
            JailError::FormerFolder(_) => FORMER_FOLDER,
            JailError::Name => NAME,
            JailError::Glob { .. } => CORRECT,
            JailError::Cycle(_) => CYCLE,
            JailError::Mixed => MIXED,
            JailError::NotWhole => NOT_WHOLE,
            JailError::Program { help, .. } => help,
            JailError::Below { .. } => LEADS,
            JailError::NotText(_) => NOT_TEXT,
            JailError::TooMany(..) => TOO_MANY,
            JailError::NoBinary(_) => NO_BINARY,
            JailError::NoPath(_) => NO_PATH,
            JailError::NoMatch(_) => NO_MATCH,
            JailError::LinkLoop(_) => LINK_LOOP,
            JailError::NoLibrary { .. } | JailError::NoInterpreter { .. } => INSTALL,
            JailError::BrokenElf { .. } => INSTALL_AGAIN,
            JailError::Changed => CHANGED,
            JailError::Gone { .. } => GONE,
            JailError::NotBuilt(_) => NOT_BUILT,
        };
        Some(help.into())
    }

    pub fn glob(glob: &str, cause: glob::PatternError) -> JailError {
        JailError::Glob {
            glob: glob.to_owned(),
            cause: Cause::new(cause),
        }
    }

    /// The reason may quote an image, whose names and digests are as long as it likes: its middle is left out then.
    pub fn image(path: impl Into<PathBuf>, reason: impl Into<Reason>) -> JailError {
        JailError::Image {
            path: path.into(),
            reason: reason.into().shortened(LONGEST_QUOTE),
        }
    }

    pub fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> JailError {
        let cause = Cause::new(cause);
        let denied = operation.starts_with("read") && cause.to_string().starts_with("Permission denied");
        JailError::Io {
            operation,
            path: path.into(),
            cause,
            help: denied.then_some("make it readable for whoever builds the jail, or leave it out"),
        }
    }
}

impl From<JailError> for Reason {
    fn from(error: JailError) -> Reason {
        let text = error.to_string();
        match error.help() {
            Some(help) => Reason::new(without_remedy(&text, &help))
                .remedy(help.into_owned())
                .because(error),
            None => Reason::new(text).because(error),
        }
    }
}
