//! SHA-256 of files.

use super::JailError;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub(super) fn open(path: &Path) -> Result<File, JailError> {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|e| JailError::io("read", path, e))
}

pub(super) fn hash_file(path: &Path) -> Result<String, JailError> {
    hash_all(&mut open(path)?, path)
}

pub(super) fn hash_all(file: &mut File, path: &Path) -> Result<String, JailError> {
    let wrong = |e| JailError::io("read", path, e);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        match file.read(&mut buffer).map_err(wrong)? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
