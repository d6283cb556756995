//! The files that an image consists of: in a folder, or in a tar file.

use super::JailError;
use super::header::{Before, Head};
use crate::cause::Reason;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// More files than any image is saved as.
const MOST_FILES: usize = 100_000;
/// Links within an archive, of one layer to another.
const MOST_LINKS: usize = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Archive {
    Folder(PathBuf),
    /// Where in the tar file each file lies, and how long it is.
    Tar {
        path: PathBuf,
        files: BTreeMap<String, Place>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    File(u64, u64),
    Link(String),
}

/// The name of this machine's architecture in images.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

impl Archive {
    pub fn open(path: &Path) -> Result<Archive, JailError> {
        let found = std::fs::metadata(path).map_err(|e| {
            JailError::image(
                path,
                Reason::new(e.to_string())
                    .remedy("put an OCI layout there, or an archive")
                    .because(e),
            )
        })?;
        if found.is_dir() {
            return Ok(Archive::Folder(path.to_owned()));
        }
        let wrong = |e: std::io::Error| {
            let reason = Reason::new(format!("it cannot be read as a tar file ({e})")).because(e);
            JailError::image(path, reason.remedy("if it is compressed, unpack it first"))
        };
        let file = open_file(path).map_err(wrong)?;
        let length = file.metadata().map_err(wrong)?.len();
        let mut files = BTreeMap::new();
        let mut start = Some(0);
        while let Some(at) = start {
            start = read_entries(&file, at, length, &mut files).map_err(wrong)?;
        }
        Ok(Archive::Tar {
            path: path.to_owned(),
            files,
        })
    }

    pub fn has(&self, name: &str) -> bool {
        match self {
            Archive::Folder(folder) => folder.join(name).is_file(),
            Archive::Tar { files, .. } => files.contains_key(name),
        }
    }

    /// A file of the archive and its length.
    pub fn file(&self, name: &str) -> Result<(Box<dyn Read>, u64), JailError> {
        match self {
            Archive::Folder(folder) => {
                let inside = plain(Path::new(name));
                let path =
                    folder.join(inside.ok_or_else(|| JailError::image(folder, format!("{name} leads out of it")))?);
                let file = open_file(&path).map_err(|e| JailError::io("read", &path, e))?;
                let size = file.metadata().map_err(|e| JailError::io("look at", &path, e))?.len();
                Ok((Box::new(file), size))
            }
            Archive::Tar { path, files } => {
                let mut name = plain(Path::new(name)).unwrap_or_default();
                for _ in 0..MOST_LINKS {
                    match files.get(&name) {
                        Some(Place::Link(target)) => name = target.clone(),
                        Some(Place::File(at, size)) => {
                            let read = |e| JailError::io("read", path, e);
                            let mut file = open_file(path).map_err(read)?;
                            file.seek(SeekFrom::Start(*at)).map_err(read)?;
                            return Ok((Box::new(file.take(*size)), *size));
                        }
                        None => break,
                    }
                }
                Err(JailError::image(path, format!("it lacks {name}")))
            }
        }
    }

    /// A small file, whole.
    pub fn document(&self, name: &str, most: u64) -> Result<Vec<u8>, JailError> {
        let (file, size) = self.file(name)?;
        if size > most {
            return Err(JailError::image(
                Path::new(name),
                format!("it has {size} bytes, more than {most}"),
            ));
        }
        let mut text = Vec::new();
        file.take(most)
            .read_to_end(&mut text)
            .map_err(|e| JailError::io("read", name, e))?;
        Ok(text)
    }
}

/// Takes in the entries from `start` on. Where to go on: a record may give an entry another size than its header does,
/// as for one of more than 8 GiB, and then the next one lies elsewhere than the reader of raw entries believes.
fn read_entries(
    file: &File,
    start: u64,
    length: u64,
    files: &mut BTreeMap<String, Place>,
) -> std::io::Result<Option<u64>> {
    let wrong = std::io::Error::other;
    let mut before = Before::default();
    let mut rest = Rest { file, start };
    rest.rewind()?;
    let mut archive = tar::Archive::new(rest);
    // Raw: names of any length would be read into memory.
    for entry in archive.entries_with_seek()?.raw(true) {
        let mut entry = entry?;
        let Some(head) = before.head(&mut entry).map_err(wrong)? else {
            continue;
        };
        let at = start + entry.raw_file_position();
        let size = head.recorded.unwrap_or(head.size);
        let end = at.checked_add(size).filter(|end| *end <= length);
        // Or its layers could claim to be as large as they like, and unpack to a hundred times that.
        let end = end.ok_or_else(|| wrong("an entry of it is longer than the file".into()))?;
        if let (Some(name), Some(place)) = (plain(Path::new(OsStr::from_bytes(&head.name))), place(&head, at, size)) {
            files.insert(name, place);
            if files.len() > MOST_FILES {
                return Err(wrong("it holds more files than any image".into()));
            }
        }
        if size != head.size {
            return Ok(Some(end.next_multiple_of(512)));
        }
    }
    Ok(None)
}

/// A file from some place on, which is its beginning to whoever reads it.
struct Rest<'f> {
    file: &'f File,
    start: u64,
}

impl Read for Rest<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Seek for Rest<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let out = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
        let to = match to {
            SeekFrom::Start(at) => SeekFrom::Start(self.start.checked_add(at).ok_or_else(out)?),
            other => other,
        };
        self.file.seek(to)?.checked_sub(self.start).ok_or_else(out)
    }
}

fn place(head: &Head, at: u64, size: u64) -> Option<Place> {
    let target = head.link.as_deref().map(|l| Path::new(OsStr::from_bytes(l)));
    let name = Path::new(OsStr::from_bytes(&head.name));
    match head.kind {
        tar::EntryType::Regular => Some(Place::File(at, size)),
        tar::EntryType::Link => plain(target?).map(Place::Link),
        tar::EntryType::Symlink => plain(&name.parent()?.join(target?)).map(Place::Link),
        _ => None,
    }
}

/// A regular file, through no link at its end, and without waiting for a pipe's other side.
fn open_file(path: &Path) -> std::io::Result<File> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::other("it is no file")),
    }
}

/// A name without `.` and `..`, the latter taken back; `None` if it leads out.
fn plain(path: &Path) -> Option<String> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => out.push(name),
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            _ => return None,
        }
    }
    out.into_os_string().into_string().ok()
}
