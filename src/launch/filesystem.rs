//! New file systems by descriptor, attached nowhere; fsopen(2), fsconfig(2), fsmount(2). Async-signal-safe, but for
//! [`overlay`].

use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// The option that every kind of file system has: what /proc/self/mountinfo names as the mount's source.
pub(super) const SOURCE: &CStr = c"source";

/// A mount of a new file system of this kind. An option without a value is a flag.
pub(super) fn new<K: AsRef<CStr>>(
    kind: &CStr,
    options: &[(K, Option<K>)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(fs.as_fd(), key.as_ref(), value.as_ref())?,
            None => rustix::mount::fsconfig_set_flag(fs.as_fd(), key.as_ref())?,
        }
    }
    rustix::mount::fsconfig_create(fs.as_fd())?;
    rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// What an overlay is made of, opened.
pub(super) struct Layers {
    /// What /proc/self/mountinfo names as its source.
    pub source: CString,
    /// The topmost first.
    pub lower: Vec<OwnedFd>,
    /// Where what is written goes, and the directory that the kernel works in for that.
    pub upper: Option<[OwnedFd; 2]>,
    /// Does the kernel keep what it notes in `user.` attributes? It has to where it has no right to others.
    pub user_attributes: bool,
}

/// A mount of an overlay of these layers.
pub(super) fn overlay(layers: &Layers, attributes: u64) -> Result<OwnedFd, Errno> {
    // Short names, whatever the length of the paths: fsconfig(2) takes 256 bytes.
    let short = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let text = |text: String| CString::new(text).map_err(|_| Errno::INVAL);
    let lower = layers.lower.iter().map(short).collect::<Vec<_>>().join(":");
    let mut options = vec![
        (SOURCE.to_owned(), Some(layers.source.clone())),
        (c"lowerdir".to_owned(), Some(text(lower)?)),
    ];
    if let Some([upper, work]) = &layers.upper {
        options.push((c"upperdir".to_owned(), Some(text(short(upper))?)));
        options.push((c"workdir".to_owned(), Some(text(short(work))?)));
    }
    if layers.user_attributes {
        options.push((c"userxattr".to_owned(), None));
    }
    new(
        c"overlay",
        &options,
        MountAttrFlags::from_bits_retain(attributes as u32),
    )
}
