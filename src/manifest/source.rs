//! Where a manifest is, and its text.
//!
//! The only part of the manifest's code that touches the file system. A path given by a user may lead to
//! anything, so nothing is read before it is known to be a regular file of reasonable size.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Toml,
    Json,
}

/// A manifest as it was read.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
    pub format: Format,
}

/// No manifest that a person or a program meant is longer.
const LARGEST: u64 = 16 << 20;

/// In the order in which they are looked for.
const FILE_NAMES: [&str; 3] = ["pysecure.toml", "pysecure.json", "pysecure_config.py"];

/// What other programs' are called; none is read, and each is told of.
const OF_OTHERS: [&str; 5] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
    "Procfile",
];

#[derive(Debug, Error)]
pub enum LoadError {
    #[error(
        "cannot find a manifest: {} holds no pysecure.toml, pysecure.json or pysecure_config.py; `pysecure init` writes one, `-f` names another place{}",
        .folder.display(), .other.map_or_else(String::new, |name| format!("; what becomes of {name}, `pysecure -f {name} check` says"))
    )]
    NotFound {
        folder: PathBuf,
        /// What says the same for another program.
        other: Option<&'static str>,
    },
    #[error("cannot open the manifest {}: {cause}; {remedy}", .path.display())]
    Open {
        path: PathBuf,
        #[source]
        cause: io::Error,
        remedy: &'static str,
    },
    #[error("cannot read the manifest {}: {cause}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("cannot read the manifest {}: it is {found}, not a regular file; name the manifest itself with `-f`", .path.display())]
    NotRegular { path: PathBuf, found: &'static str },
    #[error(
        "cannot read the manifest {}: it has {size} bytes and the limit is {LARGEST} (16 MiB); is it the right file?",
        .path.display()
    )]
    TooLarge { path: PathBuf, size: u64 },
    #[error(
        "cannot read the manifest {}: it looks like a binary (a NUL byte on line {line}, at byte offset {offset}); is it the right file?",
        .path.display()
    )]
    Binary { path: PathBuf, line: usize, offset: usize },
    #[error(
        "cannot read the manifest {}: it is not UTF-8 (line {line}, at byte offset {offset}); save it as UTF-8",
        .path.display()
    )]
    NotUtf8 { path: PathBuf, line: usize, offset: usize },
}

impl LoadError {
    fn open(path: &Path, cause: io::Error) -> Self {
        let remedy = match cause.kind() {
            io::ErrorKind::NotFound => "`pysecure init` writes one, `-f` names another place",
            io::ErrorKind::PermissionDenied => "let this user read it and search the folders above it",
            io::ErrorKind::NotADirectory => "a part of the path is a file",
            _ => "name another file with `-f`",
        };
        LoadError::Open {
            path: path.to_owned(),
            cause,
            remedy,
        }
    }
}

/// The manifest's path: `given`, or what the folder `given` (the current one if `None`) holds.
pub fn locate(given: Option<&Path>) -> Result<PathBuf, LoadError> {
    let path = given.unwrap_or(Path::new("."));
    let metadata = path.metadata().map_err(|cause| LoadError::open(path, cause))?;
    if !metadata.is_dir() {
        return Ok(path.to_owned());
    }
    for name in FILE_NAMES {
        // The current folder's is named as its user would name it.
        let candidate = if given.is_some() {
            path.join(name)
        } else {
            PathBuf::from(name)
        };
        match candidate.symlink_metadata() {
            Ok(_) => return Ok(candidate),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(LoadError::open(&candidate, cause)),
        }
    }
    let folder = match given {
        Some(folder) => folder.to_owned(),
        None => std::env::current_dir().unwrap_or_else(|_| path.to_owned()),
    };
    let other = OF_OTHERS.into_iter().find(|name| path.join(name).is_file());
    Err(LoadError::NotFound { folder, other })
}

impl Source {
    pub fn read(path: impl AsRef<Path>) -> Result<Source, LoadError> {
        let path = path.as_ref();
        Source::of(path, Source::open(path, path)?)
    }

    /// The file at this path, opened for reading; `shown` is how it was named.
    pub fn open(path: &Path, shown: &Path) -> Result<File, LoadError> {
        // Without O_NONBLOCK, opening a fifo waits for a writer. The standard library adds O_CLOEXEC.
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|cause| LoadError::open(shown, cause))
    }

    /// What an opened file holds; `path` is how it was named.
    pub fn of(path: &Path, file: File) -> Result<Source, LoadError> {
        let read_error = |cause| LoadError::Read {
            path: path.to_owned(),
            cause,
        };
        let metadata = file.metadata().map_err(read_error)?;
        if !metadata.is_file() {
            return Err(LoadError::NotRegular {
                path: path.to_owned(),
                found: kind_of(&metadata.file_type()),
            });
        }
        if metadata.len() > LARGEST {
            return Err(LoadError::TooLarge {
                path: path.to_owned(),
                size: metadata.len(),
            });
        }
        // It may grow while it is read, and in /proc every file claims to be empty.
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0).saturating_add(1));
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(read_error)?;
        if bytes.len() as u64 > LARGEST {
            return Err(LoadError::TooLarge {
                path: path.to_owned(),
                size: bytes.len() as u64,
            });
        }
        let text = decode(path, bytes)?;
        Ok(Source {
            path: path.to_owned(),
            text,
            format: Format::of(path),
        })
    }
}

impl Format {
    /// By the file's extension; TOML unless that says JSON.
    pub fn of(path: &Path) -> Format {
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("json") => Format::Json,
            _ => Format::Toml,
        }
    }
}

/// Is the manifest at this path one in Python?
pub fn is_python(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "py")
}

fn decode(path: &Path, bytes: Vec<u8>) -> Result<String, LoadError> {
    let utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    let nul = bytes.iter().position(|byte| *byte == 0);
    if let Some(offset) = nul.filter(|_| !utf16) {
        return Err(LoadError::Binary {
            path: path.to_owned(),
            line: line_of(&bytes, offset),
            offset,
        });
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        LoadError::NotUtf8 {
            path: path.to_owned(),
            line: line_of(error.as_bytes(), offset),
            offset,
        }
    })
}

fn line_of(bytes: &[u8], offset: usize) -> usize {
    1 + bytes.iter().take(offset).filter(|byte| **byte == b'\n').count()
}

fn kind_of(kind: &std::fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a fifo"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "something else"
    }
}
