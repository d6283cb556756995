//! What went wrong on the way to a running service: operation, object, errno, remedy.

use crate::cause::Cause;
use rustix::io::Errno;
use std::error::Error;

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("{operation} {object}: {} ({errno}){}", errno_name(*errno), remedy(*errno, operation))]
    System {
        operation: &'static str,
        object: String,
        #[source]
        errno: Errno,
    },
    /// The program itself could not be run; `code` as docker run has it: 126 or 127.
    #[error("{message}")]
    Program { message: String, code: u8 },
    #[error("{operation} {object}: {cause}")]
    Other {
        operation: &'static str,
        object: String,
        #[source]
        cause: Cause,
    },
    #[error("{0}")]
    Seccomp(#[from] super::seccomp::SeccompError),
    #[error("the spec {0}")]
    Spec(String),
    /// Where nothing else would hold a process.
    #[error(
        "isolation by Landlock: {0}; use a kernel that can, or a host that allows user namespaces (`pysecure doctor`)"
    )]
    Landlock(String),
    #[error("the service's process ended before its program ran; `pysecure -v up` shows more")]
    Vanished,
}

impl LaunchError {
    pub fn system(operation: &'static str, object: impl Into<String>) -> impl FnOnce(Errno) -> LaunchError {
        let object = object.into();
        move |errno| LaunchError::System {
            operation,
            object,
            errno,
        }
    }

    /// For a cause that is more than an errno.
    pub fn system_text(
        operation: &'static str,
        object: impl std::fmt::Display,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> LaunchError {
        LaunchError::Other {
            operation,
            object: object.to_string(),
            cause: Cause::new(cause),
        }
    }

    /// The exit code that tells a script what failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            LaunchError::Program { code, .. } => *code,
            _ => 125,
        }
    }
}

/// The name that man pages use.
pub(super) fn errno_name(errno: Errno) -> String {
    nix::errno::Errno::from_raw(errno.raw_os_error())
        .to_string()
        .split(':')
        .next()
        .unwrap_or("error")
        .to_owned()
}

/// What to do about it, where that can be said.
fn remedy(errno: Errno, operation: &str) -> String {
    let text = match errno {
        Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL if operation.contains("idmap") => {
            "this file system cannot show files under other ids; write chown = true for the resource, or leave `source` out"
        }
        Errno::PERM | Errno::ACCESS | Errno::NOSYS => "run `pysecure doctor` to see what this host lacks",
        Errno::NOSPC if operation.contains("namespace") || operation.contains("process") => {
            "the limit of namespaces is reached; see /proc/sys/user, or run `pysecure doctor`"
        }
        Errno::NOSPC => "the disk is full; make room and try again",
        Errno::MFILE => "too many open files; raise the limit (`ulimit -n`), a service needs about 4",
        Errno::NFILE => "the host has too many open files",
        Errno::AGAIN | Errno::NOMEM => "out of processes or memory; see `ulimit -u` and `free`",
        Errno::LOOP => "a link stands where none may; name the path that it leads to",
        Errno::NOENT => "it is not there any more; run `pysecure check`",
        Errno::ADDRINUSE => "another program listens there; `ss -ltnp` shows which",
        _ => return String::new(),
    };
    format!("; {text}")
}
