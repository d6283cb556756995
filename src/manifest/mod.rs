//! A manifest's text → [`types::Manifest`], with every value's place in the text. All errors are collected;
//! none is decided on here. What the manifest means is [`crate::model`]'s.

mod decode;
pub mod diagnostic;
mod names;
mod render;
mod schema;
mod tree;
pub mod types;

pub use render::{diagnostics_json, render};
pub use schema::schema;

use decode::Field;
use diagnostic::Diagnostic;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::io::Read;
use std::path::{Path, PathBuf};
use types::Manifest;

/// What `pysecure init` writes.
pub const INIT: &str = include_str!("../../specs/init.toml");

/// A hundred times the largest manifest that was ever measured; in bytes.
const LARGEST: u64 = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Toml,
    Json,
}

/// A manifest's text, and where it came from.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
    pub format: Format,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("no manifest in {}: write one with `pysecure init`, or name one with -f", .0.display())]
    None(PathBuf),
    #[error("read {}: {cause}", path.display())]
    Io { path: PathBuf, cause: std::io::Error },
    #[error("{} is {what}, not a file; name a manifest with -f", path.display())]
    Kind { path: PathBuf, what: &'static str },
    #[error("{} has {size} bytes, but a manifest has at most {LARGEST}; is it the right file?", path.display())]
    Large { path: PathBuf, size: u64 },
    #[error("{} looks like a program or other binary (a NUL at byte {at}); name a manifest with -f", path.display())]
    Binary { path: PathBuf, at: usize },
    #[error("{}:{line}: not UTF-8 at byte {at}; save it as UTF-8", path.display())]
    Encoding { path: PathBuf, line: usize, at: usize },
    #[error("{} is empty; `pysecure init -f NEW` writes a manifest that works", .0.display())]
    Empty(PathBuf),
}

/// Finds the manifest: the file given, or in the folder given, or in the current one.
pub fn locate(given: Option<&Path>) -> Result<PathBuf, LoadError> {
    let start = given.unwrap_or(Path::new("."));
    if !start.is_dir() {
        return Ok(start.to_owned());
    }
    let names = ["pysecure.toml", "pysecure.json"];
    let found = names.iter().map(|name| if given.is_none() { PathBuf::from(name) } else { start.join(name) }).find(|p| p.exists());
    found.ok_or_else(|| LoadError::None(start.to_owned()))
}

impl Source {
    /// Reads a manifest. A fifo or a device is refused, not waited for.
    pub fn read(path: &Path) -> Result<Source, LoadError> {
        let io = |cause: std::io::Error| LoadError::Io { path: path.to_owned(), cause };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| io(e.into()))?;
        let found = rustix::fs::fstat(&file).map_err(|e| io(e.into()))?;
        let what = match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => None,
            FileType::Directory => Some("a directory"),
            FileType::Fifo => Some("a fifo"),
            FileType::CharacterDevice | FileType::BlockDevice => Some("a device"),
            _ => Some("a special file"),
        };
        if let Some(what) = what {
            return Err(LoadError::Kind { path: path.to_owned(), what });
        }
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(LARGEST + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > LARGEST {
            return Err(LoadError::Large { path: path.to_owned(), size: found.st_size as u64 });
        }
        Source::new(path, bytes)
    }

    /// A manifest that is in memory already.
    pub fn new(path: &Path, bytes: Vec<u8>) -> Result<Source, LoadError> {
        if let Some(at) = bytes.iter().position(|b| *b == 0) {
            return Err(LoadError::Binary { path: path.to_owned(), at });
        }
        let text = String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            let line = 1 + e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count();
            LoadError::Encoding { path: path.to_owned(), line, at }
        })?;
        if text.trim().is_empty() {
            return Err(LoadError::Empty(path.to_owned()));
        }
        let json = path.extension().is_some_and(|e| e == "json");
        Ok(Source { path: path.to_owned(), text, format: if json { Format::Json } else { Format::Toml } })
    }
}

/// Decodes a manifest, as far as it can be, and says all that is wrong with its form. A field that could not
/// be decoded keeps its default, and an empty span; what was declared stays declared.
pub fn parse(source: &Source) -> (Manifest, Vec<Diagnostic>) {
    let mut found = Vec::new();
    let tree = tree::read(&source.text, source.format, &mut found);
    let mut manifest = Manifest::default();
    // A text that is not even TOML lacks keys only because it could not be read.
    let broken = !found.is_empty();
    let mut more = Vec::new();
    manifest.fill("", tree, &mut more);
    if !broken {
        found.append(&mut more);
    }
    names::check(&mut manifest, &mut found);
    (manifest, found)
}
