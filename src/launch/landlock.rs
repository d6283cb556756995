//! Landlock: the mounts' rights once more, as rules that hold even if a mount were undone.
//!
//! Drawn from the spec's mounts: what is mounted read-only may be read, what is mounted `noexec` may not
//! be executed. Where the kernel has scopes (ABI 6), no signal and no abstract socket crosses the service's
//! border either; with the host's network that is the only thing that keeps the latter apart.
//! Follows landlock(7) and linux/landlock.h.

use super::error::LaunchError;
use crate::sys;
use ::landlock::{ABI, AccessFs, BitFlags};
use oci_spec::runtime::Mount;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// What a service's process applies to itself.
pub(super) struct Rules {
    attributes: sys::LandlockRuleset,
    /// How much of `attributes` this kernel knows.
    size: usize,
    /// Path below the service's root, what may be done there if it is a directory, and if it is a file.
    paths: Vec<(CString, u64, u64)>,
    /// All that any rule allows, for a directory and for a file.
    any: u64,
    any_file: u64,
    /// Does no rule hold for what a link leads to?
    without_links: bool,
}

/// A path that a process without namespaces of its own may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Without a link in it.
    pub path: PathBuf,
    pub may: May,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// Read and run it.
    Read,
    /// Read and write it, as a device.
    Device,
    /// All that a program does with its own files.
    Write,
}

/// From here on signals and abstract sockets can be held, without which a process could end any other one of the same user.
pub(super) const LEAST_IN_PLACE: u32 = 6;

/// The rules of a process that has no namespaces of its own; all that is not named is refused, and any TCP.
pub(super) fn in_place(abi: u32, allowed: &[Allowed]) -> Result<Rules, LaunchError> {
    if abi < LEAST_IN_PLACE {
        return Err(LaunchError::Landlock(match abi {
            0 => "this kernel has none, or it is not among `lsm=` of the kernel's command line".into(),
            _ => format!(
                "this kernel's is of ABI {abi}, which does not hold signals; Linux 6.12 has ABI {LEAST_IN_PLACE}"
            ),
        }));
    }
    let handled: BitFlags<AccessFs> = <AccessFs as ::landlock::Access>::from_all(ABI::V6);
    let file_rights = AccessFs::from_file(ABI::V6);
    let read = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute;
    let rights = |may: May| match may {
        May::Read => read,
        May::Device => AccessFs::ReadFile | AccessFs::WriteFile,
        May::Write => handled & !(AccessFs::IoctlDev | AccessFs::MakeChar | AccessFs::MakeBlock),
    };
    let rule = |allowed: &Allowed| {
        let rights = rights(allowed.may);
        let path = super::step::c_path(&allowed.path);
        let path = path.ok_or_else(|| LaunchError::Spec(format!("shows {:?}", allowed.path)))?;
        Ok((path, rights.bits(), (rights & file_rights).bits()))
    };
    Ok(Rules {
        attributes: sys::LandlockRuleset {
            handled_access_fs: handled.bits(),
            handled_access_net: NET_BIND_TCP | NET_CONNECT_TCP,
            scoped: SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL,
        },
        size: 24,
        paths: allowed.iter().map(rule).collect::<Result<_, LaunchError>>()?,
        any: 0,
        any_file: 0,
        without_links: true,
    })
}

const NET_BIND_TCP: u64 = 1;
const NET_CONNECT_TCP: u64 = 2;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 2;

/// `abi`: the kernel's; 0 if it has no Landlock, in which case there are no rules.
pub(super) fn rules(abi: u32, mounts: &[Mount]) -> Option<Rules> {
    let level = match abi {
        0 => return None,
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        _ => ABI::V6,
    };
    let handled: BitFlags<AccessFs> = <AccessFs as ::landlock::Access>::from_all(level);
    let file_rights = AccessFs::from_file(level);
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = handled & !(read | AccessFs::Execute | AccessFs::IoctlDev | AccessFs::MakeChar | AccessFs::MakeBlock);
    let rule = |path: &std::path::Path, rights: BitFlags<AccessFs>| {
        let rights = rights & handled;
        Some((super::step::c_path(path)?, rights.bits(), (rights & file_rights).bits()))
    };
    let mut paths: Vec<_> = rule(std::path::Path::new("/"), read).into_iter().collect();
    for mount in mounts {
        let options = mount.options().as_deref().unwrap_or_default();
        let has = |names: [&str; 2]| options.iter().any(|o| names.contains(&o.as_str()));
        let mut rights = read;
        match mount.typ().as_deref() {
            Some("proc") => rights |= AccessFs::WriteFile,
            Some("devpts") => rights |= AccessFs::WriteFile | AccessFs::IoctlDev,
            Some("tmpfs") if mount.destination() == std::path::Path::new("/dev") => {
                rights |= AccessFs::WriteFile | AccessFs::IoctlDev
            }
            _ => {
                if !has(["ro", "rro"]) {
                    rights |= write;
                }
                if !has(["noexec", "rnoexec"]) {
                    rights |= AccessFs::Execute;
                }
            }
        }
        paths.extend(rule(mount.destination(), rights));
    }
    let scoped = if abi >= 6 {
        SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL
    } else {
        0
    };
    let size = match abi {
        ..4 => 8,
        4..6 => 16,
        _ => 24,
    };
    Some(Rules {
        attributes: sys::LandlockRuleset {
            handled_access_fs: handled.bits(),
            handled_access_net: 0,
            scoped,
        },
        size,
        paths,
        any: ((read | write | AccessFs::Execute) & handled).bits(),
        any_file: ((read | write | AccessFs::Execute) & handled & file_rights).bits(),
        without_links: false,
    })
}

impl Rules {
    /// Allows to read, write and run what is mounted at this path later on. The rule is of the directory around it, in which
    /// nothing else may lie: the kernel looks past a place that something is mounted on.
    pub(super) fn allow_mount_at(&mut self, place: &std::path::Path) -> Result<(), LaunchError> {
        let around = place.parent().filter(|around| around.parent().is_some());
        let around = around.and_then(super::step::c_path);
        let around = around.ok_or_else(|| LaunchError::Spec("mounts something at the top of the root".into()))?;
        self.paths.push((around, self.any, self.any_file));
        Ok(())
    }
}

/// Restricts this process for good. Called between clone3(2) and execve(2), after no_new_privs.
pub(super) fn apply(rules: &Rules) -> Result<(), Errno> {
    sys::landlock_restrict(ruleset(rules)?.as_fd())
}

/// The rules as the kernel holds them, of what lies below this process's root. Async-signal-safe.
pub(super) fn ruleset(rules: &Rules) -> Result<OwnedFd, Errno> {
    let ruleset = sys::landlock_create(&rules.attributes, rules.size)?;
    allow(ruleset.as_fd(), rules)?;
    Ok(ruleset)
}

/// Adds paths to rules that are there.
pub(super) fn allow(ruleset: BorrowedFd<'_>, rules: &Rules) -> Result<(), Errno> {
    for (path, directory, file) in &rules.paths {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match rules.without_links {
            true => rustix::fs::openat2(CWD, path.as_c_str(), flags, Mode::empty(), ResolveFlags::NO_SYMLINKS),
            false => rustix::fs::openat(CWD, path.as_c_str(), flags, Mode::empty()),
        };
        let place = match opened {
            // A mount that lies in a shared resource goes where its folder goes when another service renames that. It
            // gets no rule, and so no right; the others keep theirs.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => continue,
            other => other?,
        };
        let found = rustix::fs::fstat(&place)?;
        let access = if rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir() {
            *directory
        } else {
            *file
        };
        sys::landlock_allow(ruleset, place.as_fd(), access)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(target: &str, kind: &str, options: &[&str]) -> Mount {
        let mut mount = Mount::default();
        mount.set_destination(target.into());
        mount.set_typ(Some(kind.into()));
        mount.set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
        mount
    }

    /// Where a kernel has less, nothing is made in its place.
    #[test]
    fn without_namespaces_the_kernel_has_to_hold_signals() {
        for abi in 0..8 {
            assert_eq!(in_place(abi, &[]).is_ok(), abi >= 6, "ABI {abi}");
        }
    }

    /// By rules alone, the mounts' own flags aside.
    #[test]
    fn rules_hold_what_mounts_say() {
        let cases = [
            ("/ro", "bind", &["bind", "ro", "nosuid", "noexec"][..], "r"),
            ("/rro", "bind", &["rbind", "rro", "rnoexec"], "r"),
            ("/ro-run", "bind", &["bind", "ro"], "rx"),
            ("/rw", "bind", &["bind", "rw", "noexec"], "rw"),
            ("/rrw", "bind", &["rbind", "rw", "rnoexec"], "rw"),
            ("/rw-run", "bind", &["bind", "rw"], "rwx"),
            ("/overlay", "overlay", &["ro", "noexec"], "r"),
            ("/tmp", "tmpfs", &["nosuid", "noexec"], "rw"),
            ("/proc", "proc", &["nosuid", "noexec"], "rf"),
            ("/dev", "tmpfs", &["nosuid", "noexec"], "rf"),
            ("/dev/pts", "devpts", &["nosuid", "noexec"], "rf"),
        ];
        let mounts: Vec<Mount> = cases
            .iter()
            .map(|(target, kind, o, _)| mount(target, kind, o))
            .collect();
        assert!(rules(0, &mounts).is_none());
        let bits = |rights: BitFlags<AccessFs>| rights.bits();
        let makes = AccessFs::WriteFile
            | AccessFs::RemoveDir
            | AccessFs::RemoveFile
            | AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::MakeSym
            | AccessFs::MakeSock
            | AccessFs::MakeFifo;
        for abi in 1..=8 {
            let rules = rules(abi, &mounts).unwrap();
            let level = [ABI::V1, ABI::V1, ABI::V2, ABI::V3, ABI::V4, ABI::V5, ABI::V6];
            let all = <AccessFs as ::landlock::Access>::from_all(level[(abi as usize).min(6)]);
            assert_eq!(rules.attributes.handled_access_fs, bits(all), "ABI {abi}");
            assert_eq!(rules.attributes.scoped, if abi >= 6 { 3 } else { 0 }, "ABI {abi}");
            assert_eq!(rules.size, [0, 8, 8, 8, 16, 16, 24, 24, 24][abi as usize]);
            let of = |path: &str| {
                let found: Vec<_> = rules.paths.iter().filter(|r| r.0.to_str() == Ok(path)).collect();
                assert_eq!(found.len(), 1, "{path}");
                (found[0].1, found[0].2)
            };
            let read = bits(AccessFs::ReadFile | AccessFs::ReadDir);
            assert_eq!(of("/"), (read, bits(AccessFs::ReadFile.into())), "ABI {abi}");
            for (path, _, _, rights) in cases {
                let (directory, file) = of(path);
                assert_eq!(directory & read, read, "{path}");
                let runs = directory & bits(AccessFs::Execute.into()) != 0;
                assert_eq!(runs, rights.contains('x'), "{path} ABI {abi}");
                let written = directory & bits(makes | AccessFs::Refer | AccessFs::Truncate);
                let expected = match rights {
                    r if r.contains('w') => bits((makes | AccessFs::Refer | AccessFs::Truncate) & all),
                    r if r.contains('f') => bits(AccessFs::WriteFile.into()),
                    _ => 0,
                };
                assert_eq!(written, expected, "{path} ABI {abi}");
                assert_eq!(directory & bits(AccessFs::MakeChar | AccessFs::MakeBlock), 0, "{path}");
                assert_eq!(
                    file,
                    directory & bits(AccessFs::from_file(level[(abi as usize).min(6)])),
                    "{path}"
                );
            }
            assert_eq!(rules.paths.len(), cases.len() + 1);
        }
    }
}
