//! The files that an image consists of: in a folder, or in a tar file.

use super::JailError;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
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
        let found = std::fs::metadata(path)
            .map_err(|e| JailError::image(path, format!("{e}; put an OCI layout there, or an archive")))?;
        if found.is_dir() {
            return Ok(Archive::Folder(path.to_owned()));
        }
        let wrong = |e: std::io::Error| {
            JailError::image(
                path,
                format!("it cannot be read as a tar file ({e}); if it is compressed, unpack it first"),
            )
        };
        let file = open_file(path).map_err(wrong)?;
        let mut files = BTreeMap::new();
        let mut archive = tar::Archive::new(file);
        for entry in archive.entries_with_seek().map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            if files.len() >= MOST_FILES {
                return Err(JailError::image(path, "it holds more files than any image"));
            }
            let Some(name) = entry.path().ok().and_then(|p| plain(&p)) else {
                continue;
            };
            let place = match entry.header().entry_type() {
                tar::EntryType::Regular => Place::File(entry.raw_file_position(), entry.size()),
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let is_hard = entry.header().entry_type() == tar::EntryType::Link;
                    let Some(target) = entry.link_name().ok().flatten() else {
                        continue;
                    };
                    let beside = Path::new(&name).parent().unwrap_or(Path::new(""));
                    let target = if is_hard {
                        target.into_owned()
                    } else {
                        beside.join(target)
                    };
                    match plain(&target) {
                        Some(target) => Place::Link(target),
                        None => continue,
                    }
                }
                _ => continue,
            };
            files.insert(name, place);
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
