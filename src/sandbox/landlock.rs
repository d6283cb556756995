//! The level that is for hosts without user namespaces: what runs there, and what it may use.
//!
//! A run stays in the namespaces of its pool, and has its id. Landlock names what it may open, the filter of system calls refuses what
//! Landlock does not hold, and neither lets it out of its process group, by which it is ended ([`Group`]).

use super::profile::{Limits, Profile};
use super::unit::{self, Runs};
use super::{SandboxError, userdir};
use crate::bundle::Bundle;
use crate::compile;
use crate::launch::{Allowed, May};
use crate::packages;
use crate::plan::template::Template;
use crate::plan::{Confinement, Plan, Role, Unit};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Devices that hold nothing.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// Of /etc/ssl, where keys may lie that are the user's own, no more.
const CERTIFICATES: [&str; 2] = ["/etc/ssl/certs", "/etc/ssl/openssl.cnf"];

/// A directory of a run's own, which is removed with this.
#[derive(Debug)]
pub(super) struct Scratch {
    pub path: PathBuf,
    fd: OwnedFd,
}

impl Scratch {
    /// `within`: the pool's own directory.
    pub(super) fn make(within: &Path, number: u32) -> Result<Scratch, SandboxError> {
        let path = within.join(format!("run-{number}"));
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(SandboxError::system("make a directory for a run"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, &path, flags, Mode::empty());
        let fd = fd.map_err(SandboxError::system("open the directory of a run"))?;
        Ok(Scratch { path, fd })
    }

    /// Does it hold more than it may?
    pub(super) fn exceeded(&self, limits: &Limits) -> Option<&'static str> {
        let (most_files, most_bytes) = (limits.files.unwrap_or(u64::MAX), limits.tmp.unwrap_or(u64::MAX));
        let (files, bytes) = userdir::holds(&self.fd, most_files, most_bytes);
        match (files > most_files, bytes > most_bytes) {
            (true, _) => Some("files"),
            (_, true) => Some("tmp"),
            _ => None,
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = crate::walk::remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "remove the directory of a run");
        }
    }
}

/// All that the interpreter, or a program, may use in any run.
pub(super) fn common(plan: &Plan, profile: &Profile) -> Vec<Allowed> {
    let template = plan.templates.get(&profile.rootfs);
    let of_root = template.into_iter().flat_map(Template::binds).map(|(path, _)| path);
    let shown = profile.paths.iter().chain(&profile.readable);
    let carried = packages::folder(&plan.dirs.state);
    let read = of_root
        .chain(CERTIFICATES.map(Path::new))
        .chain(shown.map(PathBuf::as_path))
        .chain([carried.as_path()]);
    let mut out: Vec<Allowed> = read.filter_map(real).map(rule(May::Read)).collect();
    out.extend(DEVICES.map(PathBuf::from).into_iter().map(rule(May::Device)));
    out.dedup();
    out
}

/// What one run may use beyond that: what it names, and directories of its own.
pub(super) fn of_run(further: &[PathBuf], own: &[&Path]) -> Vec<Allowed> {
    let read = further.iter().filter_map(|path| real(path)).map(rule(May::Read));
    let own = own.iter().map(|path| path.to_path_buf()).map(rule(May::Write));
    read.chain(own).collect()
}

/// What is not there is nothing that could be used.
fn real(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok()
}

fn rule(may: May) -> impl Fn(PathBuf) -> Allowed {
    move |path| Allowed { path, may }
}

fn unit(plan: &Plan, profile: &Profile, role: Role, command: Vec<String>) -> Unit {
    let mut environment = unit::environment();
    environment.insert(
        "PYTHONPATH".into(),
        packages::folder(&plan.dirs.state).display().to_string(),
    );
    Unit {
        confinement: Confinement::SandboxInPlace,
        environment,
        ..Unit::new(
            role,
            "sandbox",
            unit::Runner::in_place().identity(),
            &profile.rootfs,
            command,
        )
    }
}

/// The warm interpreter, whose copies confine themselves.
pub(super) fn warm(plan: &Plan, profile: &Profile) -> Result<Bundle, SandboxError> {
    let command = python(plan, profile, "_warm");
    let unit = unit(plan, profile, Role::WarmInterpreter, command);
    Ok(compile::compile(plan, &unit, Path::new("/"))?)
}

/// What a run without a copy of it is: an interpreter of its own, or a program.
pub(super) fn run(
    plan: &Plan,
    profile: &Profile,
    limits: &Limits,
    runs: &Runs<'_>,
    home: &Path,
    tmp: &Path,
) -> Result<Bundle, SandboxError> {
    let (command, memory) = match runs {
        Runs::Command { command, .. } => (command.to_vec(), limits.memory),
        Runs::Copy | Runs::Python => (python(plan, profile, "_cold"), None),
    };
    let mut unit = unit(plan, profile, Role::Sandbox, command);
    unit.directory = home.display().to_string();
    unit.environment.insert("HOME".into(), home.display().to_string());
    unit.environment.insert("TMPDIR".into(), tmp.display().to_string());
    if let Runs::Command { environment, .. } = runs {
        unit.environment.remove("PYTHONPATH");
        unit.environment
            .extend(environment.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
    let mut bundle = compile::compile(plan, &unit, Path::new("/"))?;
    unit::set_rlimits(&mut bundle, &of_each(limits), memory);
    Ok(bundle)
}

fn python(plan: &Plan, profile: &Profile, module: &str) -> Vec<String> {
    let template = plan.templates.get(&profile.rootfs);
    unit::python(profile, template, &packages::folder(&plan.dirs.state), module)
}

/// The limits that the kernel holds for each process: RLIMIT_NPROC counts all that the user has, here and elsewhere, so that what a run
/// has is counted by the pool.
pub(super) fn of_each(limits: &Limits) -> Limits {
    Limits {
        processes: None,
        ..*limits
    }
}

/// The processes of a run: its leader's process group, which none of them can leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group(pub Pid);

impl Group {
    /// All at once: none of them can have another one that is not killed with it.
    pub(super) fn kill(self) {
        let _ = rustix::process::kill_process_group(self.0, Signal::KILL);
    }

    /// Is nothing left of it, not even what has to be waited for?
    pub(super) fn is_gone(self) -> bool {
        rustix::process::test_kill_process_group(self.0) == Err(Errno::SRCH)
    }

    /// Are there more processes and threads than there may be, or have they more memory?
    pub(super) fn exceeded(self, limits: &Limits) -> Option<&'static str> {
        let members = self.members();
        let tasks: u64 = members.iter().map(|member| member.threads).sum();
        if limits.processes.is_some_and(|most| tasks > most) {
            return Some("processes");
        }
        let most = limits.memory?;
        let page = crate::sys::page_size() as u64;
        let at_most: u64 = members.iter().map(|member| member.pages * page).sum();
        // What copies of a process share counts once.
        (at_most > most && members.len() > 1 && members.iter().filter_map(Member::share).sum::<u64>() > most)
            .then_some("memory")
    }

    fn members(self) -> Vec<Member> {
        let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers
            .filter_map(Member::of)
            .filter(|member| member.group == self.0.as_raw_nonzero().get())
            .collect()
    }
}

/// A process, as proc_pid_stat(5) tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    pid: i32,
    group: i32,
    threads: u64,
    pages: u64,
}

impl Member {
    fn of(pid: i32) -> Option<Member> {
        Member::parse(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(pid: i32, stat: &str) -> Option<Member> {
        // The program's name may hold anything, brackets too; field 3 begins behind the last one.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        Some(Member {
            pid,
            group: fields.get(2)?.parse().ok()?,
            threads: fields.get(17)?.parse().ok()?,
            pages: fields.get(21)?.parse().ok()?,
        })
    }

    /// Its memory, and its part of what it shares; in bytes.
    fn share(&self) -> Option<u64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "7 (a) b (c) S 1 5 5 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 100 8192000 250 18446744073709551615 1";
        let expected = Member {
            pid: 7,
            group: 5,
            threads: 3,
            pages: 250,
        };
        assert_eq!(Member::parse(7, stat), Some(expected));
        assert_eq!(Member::parse(7, "7 (a"), None);
        let own = Member::of(std::process::id() as i32).unwrap();
        assert_eq!(own.group, rustix::process::getpgrp().as_raw_nonzero().get());
        assert!(own.pages > 0 && own.share().unwrap() > 0);
    }
}
