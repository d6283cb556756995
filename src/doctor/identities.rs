//! Probes of who services can be: the ids that exist here, subordinate ids, and the two programs
//! that map them.

use super::child::{Held, Refused};
use super::finding::{Answer, Status};
use super::host::{Host, read};
use crate::host::subid::{self, Accounts, Range, SubIds};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// As many as a whole 16-bit range, so that manifests' ids fit whatever they are.
const WANTED: u64 = 65536;
/// The highest id of the first range that is chosen, of those that fit into 65536 ids, when a manifest names none.
const HIGHEST: u64 = 59999;

const PROGRAMS: [Program; 2] = [
    Program {
        name: "newuidmap",
        file: "/etc/subuid",
        capability: 7,
        capability_name: "cap_setuid",
    },
    Program {
        name: "newgidmap",
        file: "/etc/subgid",
        capability: 6,
        capability_name: "cap_setgid",
    },
];

struct Program {
    name: &'static str,
    file: &'static str,
    /// The one capability that is as good as the set-user-id bit, by number and by name.
    capability: u32,
    capability_name: &'static str,
}

pub(crate) fn mapped_here(_: &Host) -> Answer {
    explain_mapped(&read("/proc/self/uid_map"), &read("/proc/self/gid_map"))
}

/// Root of a container is root over the ids that the container was given, and no others exist.
fn explain_mapped(uid_map: &str, gid_map: &str) -> Answer {
    let end = |map: &str| {
        let row = |line: &str| {
            let mut fields = line.split_whitespace().map(str::parse::<u64>);
            let (inside, _, count) = (fields.next()?.ok()?, fields.next()?, fields.next()?.ok()?);
            (inside <= HIGHEST).then(|| inside.saturating_add(count))
        };
        map.lines().filter_map(row).max().unwrap_or(0)
    };
    let end = end(uid_map).min(end(gid_map));
    if end > HIGHEST {
        return Answer::ok("every id that a manifest can name exists here");
    }
    Answer::missing(format!(
        "this is root of a user namespace in which only ids below {end} exist"
    ))
    .remedy(
        "use root of the machine, or give the container 65536 ids\n\
             (podman run --uidmap 0:100000:65536 --gidmap 0:100000:65536 …)",
    )
}

pub(crate) fn map_programs(_: &Host) -> Answer {
    let mut found = Vec::new();
    for program in &PROGRAMS {
        let Some(path) = in_path(program.name) else {
            return Answer::missing(format!("{} is not in PATH", program.name)).remedy(
                "sudo apt install uidmap          (Debian, Ubuntu)\n\
                 sudo dnf install shadow-utils    (Fedora)\n\
                 and see that PATH holds its directory, as a rule /usr/bin",
            );
        };
        let on_nosuid =
            rustix::fs::statvfs(&path).is_ok_and(|fs| fs.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID));
        if on_nosuid {
            return Answer::missing(format!(
                "{} is on a filesystem mounted nosuid, which takes its rights away",
                path.display()
            ))
            .remedy(reinstall(&path));
        }
        match power_of(&path, program) {
            Some(power) => found.push(format!("{} ({power})", path.display())),
            None => {
                let shown = path.display();
                return Answer::missing(format!(
                    "{shown} is neither set-user-id root nor has {}, as if copied without its rights",
                    program.capability_name
                ))
                // Never a set-user-id bit: what stands first in PATH may be anybody's.
                .remedy(reinstall(&path));
            }
        }
    }
    if rustix::thread::no_new_privs().unwrap_or(false) {
        return Answer::missing("this process has no_new_privs, so no program gains rights from it").remedy(
            "systemd: NoNewPrivileges=no in the unit\n\
                 docker: without --security-opt no-new-privileges",
        );
    }
    Answer::ok(found.join(", "))
}

/// The distribution's own program, with the rights that it comes with.
fn reinstall(found: &Path) -> String {
    let name = found.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "sudo apt install --reinstall uidmap          (Debian, Ubuntu)\n\
         sudo dnf reinstall shadow-utils              (Fedora)\n\
         and see that PATH holds its directory, as a rule /usr/bin, before that of another {name}"
    )
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| {
            file.metadata()
                .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        })
}

fn power_of(path: &Path, program: &Program) -> Option<&'static str> {
    if path.metadata().is_ok_and(|m| m.uid() == 0 && m.mode() & 0o4000 != 0) {
        return Some("set-user-id");
    }
    let mut value = [0u8; 64];
    let length = rustix::fs::getxattr(path, "security.capability", &mut value[..]).ok()?;
    file_grants(value.get(..length)?, program.capability).then_some(program.capability_name)
}

/// `struct vfs_cap_data`: a revision with the effective bit, then the permitted set's low half.
fn file_grants(xattr: &[u8], capability: u32) -> bool {
    let word = |at: usize| {
        let bytes = xattr.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let effective = word(0).is_some_and(|magic| magic & 1 != 0);
    effective && word(4).is_some_and(|permitted| permitted & (1 << capability) != 0)
}

pub(crate) fn subordinate(host: &Host) -> Answer {
    let files = PROGRAMS.map(|program| (program.file, subid::parse(&read(program.file))));
    explain_subordinate(&files, &host.user, &host.names(), host.uid)
}

fn explain_subordinate(files: &[(&str, SubIds)], user: &str, names: &[&str], uid: u32) -> Answer {
    let all: Vec<&SubIds> = files.iter().map(|(_, ids)| ids).collect();
    let remedy = match subid::free_range(&all, WANTED as u32) {
        Some((first, last)) => {
            format!("sudo usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {user}")
        }
        None => "free 65536 ids in a row in /etc/subuid and /etc/subgid: all are given out".into(),
    };
    let mut counts = Vec::new();
    let mut bad = String::new();
    for (file, ids) in files {
        let count: u64 = ids.of(names, uid).iter().map(|range| u64::from(range.count)).sum();
        counts.push((*file, count));
        for (line, why) in ids.bad.iter().take(3) {
            bad += &format!("; line {line} of {file} is ignored: {why}");
        }
    }
    if let Some((file, _)) = counts.iter().find(|(_, count)| *count == 0) {
        return Answer::missing(format!("{user} has none in {file}{bad}")).remedy(remedy);
    }
    let said: Vec<String> = counts
        .iter()
        .map(|(file, count)| format!("{count} in {file}"))
        .collect();
    let said = format!("{user} has {}{bad}", said.join(", "));
    if counts.iter().any(|(_, count)| *count < WANTED) {
        return Answer::degraded(said)
            .lost("a manifest whose ids do not fit into them is refused")
            .remedy(remedy);
    }
    Answer::ok(said)
}

/// Lets both programs map the user's ranges into a real namespace, for they have more reasons to
/// refuse than can be looked up.
pub(crate) fn mapping(host: &Host) -> Answer {
    if PROGRAMS.iter().any(|program| in_path(program.name).is_none()) {
        return Answer::blocked("newuidmap, newgidmap");
    }
    let own = [host.uid, host.gid];
    let ranges = PROGRAMS.map(|program| {
        let ids = subid::parse(&read(program.file));
        ids.of(&host.names(), host.uid)
    });
    let [uids, gids] = &ranges;
    if uids.is_empty() || gids.is_empty() {
        return Answer::blocked("subordinate ids");
    }
    let held = match host.runner.hold_user_namespace() {
        Ok(held) => held,
        Err(_) => return Answer::blocked("user namespaces"),
    };
    for ((program, own), ranges) in PROGRAMS.iter().zip(own).zip(&ranges) {
        if let Err(refused) = map(&held, program, own, ranges) {
            // What is known to be wrong with the programs is said once.
            if map_programs(host).status == Status::Missing {
                return Answer::blocked("newuidmap, newgidmap");
            }
            return Answer::missing(refused.reason()).remedy(
                "sudo apt install --reinstall uidmap\n\
                 (nothing else is known to be wrong with the programs or the ranges)",
            );
        }
    }
    let count = |ranges: &[Range]| ranges.iter().map(|range| u64::from(range.count)).sum::<u64>();
    Answer::ok(format!(
        "tried: {} ids were mapped into a namespace",
        count(uids).min(count(gids))
    ))
}

/// All of them at once, as a start maps them.
fn map(held: &Held, program: &Program, own: u32, ranges: &[Range]) -> Result<(), Refused> {
    let mut arguments = vec![held.pid(), 0, own, 1];
    let mut next = 1;
    for range in ranges {
        arguments.extend([next, range.start, range.count]);
        next = next.saturating_add(range.count);
    }
    let output = Command::new(program.name)
        .args(arguments.iter().map(u32::to_string))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Refused::new(program.name, e.raw_os_error().unwrap_or(0)))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("").trim();
    let said = said.strip_prefix(program.name).unwrap_or(said);
    let said = if said.is_empty() {
        ": failed without a word"
    } else {
        said
    };
    Err(Refused::new(&format!("{}{said}", program.name), 0))
}

pub(crate) fn overlaps(host: &Host) -> Answer {
    let files = PROGRAMS.map(|program| (program.file, subid::parse(&read(program.file))));
    explain_overlaps(&files, &host.accounts)
}

fn explain_overlaps(files: &[(&str, SubIds)], accounts: &Accounts) -> Answer {
    for (file, ids) in files {
        if let Some((one, other)) = ids.overlaps(accounts).first() {
            return Answer::degraded(format!(
                "{file}: the ranges of {} ({}-{}) and {} ({}-{}) overlap",
                one.owner,
                one.start,
                one.last(),
                other.owner,
                other.start,
                other.last()
            ))
            .remedy(format!(
                "give one of them another range (stop its services first):\n\
                 sudo usermod --del-subuids {0}-{1} --del-subgids {0}-{1} {2}\n\
                 sudo usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST {2}",
                other.start,
                other.last(),
                other.owner
            ));
        }
        for range in &ids.ranges {
            if let Some(account) = accounts.within(range).first() {
                return Answer::degraded(format!(
                    "{file}: the range of {} ({}-{}) holds the account {account}",
                    range.owner,
                    range.start,
                    range.last()
                ))
                .lost(format!("services of {} can act as {account}", range.owner))
                .remedy(format!("move the range in {file} to ids that no account has"));
            }
        }
    }
    Answer::ok("no subordinate range overlaps another's, or an account")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_of_the_machine_and_of_containers() {
        let all = "         0          0 4294967295\n";
        assert_eq!(explain_mapped(all, all).status, Status::Ok);
        let podman = "0 1000 1\n1 100000 65536\n";
        assert_eq!(explain_mapped(podman, podman).status, Status::Ok);
        let unshare = explain_mapped("0 1000 1\n", all);
        assert_eq!(unshare.status, Status::Missing);
        assert!(unshare.found.contains("below 1 "), "{}", unshare.found);
        for broken in ["", "x", "0 0", "0 0 99999999999999999999"] {
            assert_eq!(explain_mapped(broken, all).status, Status::Missing, "{broken:?}");
        }
    }

    #[test]
    fn file_capabilities() {
        let setuid = [1, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(file_grants(&setuid, 7));
        assert!(!file_grants(&setuid, 6));
        assert!(
            !file_grants(&[0, 0, 0, 2, 0x80, 0, 0, 0], 7),
            "permitted but not effective"
        );
        assert!(!file_grants(&setuid[..6], 7));
        assert!(!file_grants(&[], 7));
    }

    fn files(uids: &str, gids: &str) -> [(&'static str, SubIds); 2] {
        [("/etc/subuid", subid::parse(uids)), ("/etc/subgid", subid::parse(gids))]
    }

    #[test]
    fn subordinate_ids_none_few_and_enough() {
        let answer = explain_subordinate(&files("ann:1:70000", "bob:1:70000"), "ann", &["ann"], 1000);
        assert_eq!(answer.status, Status::Missing);
        assert!(answer.found.contains("/etc/subgid"));
        assert!(answer.remedy.unwrap().contains("--add-subgids 100000-165535 ann"));
        let answer = explain_subordinate(&files("ann:1:70000", "1000:1:10"), "ann", &["ann"], 1000);
        assert_eq!(answer.status, Status::Degraded);
        let text = "ann:1:60000\n1000:90000:60000\nann:oops:1";
        let answer = explain_subordinate(&files(text, text), "ann", &["ann"], 1000);
        assert_eq!(answer.status, Status::Ok);
        assert!(answer.found.contains("120000") && answer.found.contains("line 3"));
    }

    #[test]
    fn a_range_over_an_account() {
        let accounts = Accounts::parse("ann:x:1000:1000\nwww:x:100033:33\n");
        let answer = explain_overlaps(&files("ann:100000:65536", ""), &accounts);
        assert!(answer.found.contains("www"), "{}", answer.found);
        let answer = explain_overlaps(&files("ann:1:100\nbob:50:100", ""), &accounts);
        assert!(answer.found.contains("overlap"), "{}", answer.found);
        assert_eq!(explain_overlaps(&files("", ""), &accounts).status, Status::Ok);
    }
}
