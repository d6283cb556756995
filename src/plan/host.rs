//! What this host has: with which ids PySecure may work, and whose they are already.

use super::{Ledger, PlanError};
use crate::host::{Privilege, idmap, subid};
use crate::model::Model;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::path::Path;

/// Whom systemd makes users of, while its units run: systemd's UIDS-GIDS.
const DYNAMIC_USERS: std::ops::RangeInclusive<u32> = 61_184..=65_519;

/// An account or a range of the host, and whose it is.
struct Claim {
    low: u32,
    high: u32,
    whose: String,
}

/// Ranges that meet accounts of the host, other users' subordinate ids, or ids that do not exist here.
pub(super) fn collisions(ledger: &Ledger, privilege: &Privilege, external: [Option<u32>; 2]) -> Vec<PlanError> {
    let mut errors = Vec::new();
    let sides = [
        (
            "uid_range",
            ledger.uid_range,
            "/proc/self/uid_map",
            "/etc/passwd",
            "/etc/subuid",
            "account",
            ("external_uid", external[0]),
        ),
        (
            "gid_range",
            ledger.gid_range,
            "/proc/self/gid_map",
            "/etc/group",
            "/etc/subgid",
            "group",
            ("external_gid", external[1]),
        ),
    ];
    for (key, range, map, accounts, subordinate, what, (external_key, external)) in sides {
        if *privilege == Privilege::OneId {
            continue;
        }
        let own_map = read(map);
        let map = match privilege {
            Privilege::SubordinateIds if !rustix::process::geteuid().is_root() => {
                let own = own_subordinate(&read(subordinate));
                errors.extend(out_of_reach(subordinate, &own, &own_map));
                let count: u64 = own.iter().map(|r| u64::from(r.count)).sum();
                // The outer namespace as it will be: 0 is the user, the subordinate ids follow.
                format!("0 0 {}\n", count + 1)
            }
            _ => own_map,
        };
        // What belongs to the external service is given to its id as well.
        let wanted = [(key, Some(range)), (external_key, external.map(|id| [id, id]))];
        for (key, range) in wanted.into_iter().filter_map(|(key, range)| Some((key, range?))) {
            let Some(last) = first_unmapped(&map, range) else {
                continue;
            };
            let remedy = match privilege {
                Privilege::SubordinateIds => {
                    "widen your subordinate ids (`pysecure doctor` shows them), or write a lower range".to_owned()
                }
                _ => "this user namespace was given fewer ids; write a lower range".to_owned(),
            };
            errors.push(PlanError::Unmapped {
                key,
                range,
                last,
                remedy,
            });
        }
        if *privilege != Privilege::Root {
            continue;
        }
        let claims = account_claims(&read(accounts), what)
            .into_iter()
            .chain(subordinate_claims(&read(subordinate)));
        if let Some(claim) = claims.into_iter().find(|c| c.low <= range[1] && c.high >= range[0]) {
            errors.push(PlanError::Taken {
                key,
                range,
                id: claim.low.max(range[0]),
                whose: claim.whose,
            });
        }
    }
    errors
}

/// The subordinate ids of whoever runs this.
fn own_subordinate(subordinate: &str) -> Vec<subid::Range> {
    let uid = rustix::process::geteuid().as_raw();
    let accounts = subid::Accounts::parse(&read("/etc/passwd"));
    subid::parse(subordinate).of(&accounts.names_of(uid), uid)
}

/// Ids that the file gives, and this user namespace does not have: newuidmap(1) fails of them. So it is in a container.
fn out_of_reach(file: &str, own: &[subid::Range], map: &str) -> Option<PlanError> {
    let lacking = |r: &&subid::Range| first_unmapped(map, [r.start, r.last()]).is_some();
    let range = own.iter().find(lacking)?;
    let cause = format!(
        "{}-{} are beyond the ids of this user namespace ({}); give lower ones there, or more to what this runs in",
        range.start,
        range.last(),
        map.split_whitespace().collect::<Vec<_>>().join(" ")
    );
    Some(PlanError::io("use the subordinate ids of", file, cause))
}

/// Where files can be shown under other ids, by an idmapped mount: tried once a file system.
#[derive(Default)]
pub(super) struct IdmapTrials {
    known: BTreeMap<u64, Result<(), Errno>>,
}

impl IdmapTrials {
    /// At `path`, or where it will be made.
    pub(super) fn works_at(&mut self, path: &Path) -> Result<(), Errno> {
        let there = path
            .ancestors()
            .find_map(|p| Some((p, std::fs::symlink_metadata(p).ok()?)));
        let (place, found) = there.ok_or(Errno::NOENT)?;
        let dev = std::os::unix::fs::MetadataExt::dev(&found);
        *self.known.entry(dev).or_insert_with(|| idmap::works_at(place))
    }
}

/// Things that hold less on this host than the manifest's author may think.
pub(super) fn notes(model: &Model, ledger: &Ledger, privilege: &Privilege) -> Vec<String> {
    let mut notes = Vec::new();
    let given = ledger.services.iter().find(|(_, ids)| DYNAMIC_USERS.contains(&ids.uid));
    if let (Privilege::Root, Some((name, ids))) = (privilege, given) {
        notes.push(format!(
            "`{name}` has the UID {}, and systemd gives {} to {} to units with DynamicUser=: one of them may get it as well; leave \
             `uid_range` out of a new app, and a range is chosen that nobody else uses",
            ids.uid,
            DYNAMIC_USERS.start(),
            DYNAMIC_USERS.end()
        ));
    }
    if *privilege == Privilege::OneId {
        notes.push(
            "no subordinate ids: all services share your UID and are kept apart by mounts, PID namespaces, seccomp and \
             Landlock alone; `pysecure doctor` says how to get ids of their own, `up --strict` refuses to go on"
                .to_owned(),
        );
    }
    if *privilege != Privilege::Root && (model.external_uid.is_some() || model.external_gid.is_some()) {
        notes.push(
            "the external service's ids are the host's, which an ordinary user cannot give files to: it will reach \
             neither its resources nor the services that it may call; only an app that root starts can give it these"
                .to_owned(),
        );
    }
    notes
}

/// How names are looked up on the host's network.
pub(super) fn resolver() -> String {
    read("/etc/resolv.conf")
}

fn read(path: &str) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// `NAME:x:ID:…`, as passwd(5) and group(5) have it.
fn account_claims(text: &str, what: &str) -> Vec<Claim> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let id = fields.nth(1)?.parse().ok()?;
            Some(Claim {
                low: id,
                high: id,
                whose: format!("the host's {what} {name}"),
            })
        })
        .collect()
}

/// The ranges of subuid(5).
fn subordinate_claims(text: &str) -> Vec<Claim> {
    let whose = |owner: &str| format!("the subordinate ids of {owner}");
    subid::parse(text)
        .ranges
        .iter()
        .map(|r| Claim {
            low: r.start,
            high: r.last(),
            whose: whose(&r.owner),
        })
        .collect()
}

/// The last id that is mapped, if `range` is not wholly within the lines of a user_namespaces(7) map.
fn first_unmapped(map: &str, range: [u32; 2]) -> Option<u32> {
    let mut spans: Vec<(u64, u64)> = map
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().map(str::parse::<u64>);
            let (inside, _, count) = (fields.next()?.ok()?, fields.next()?.ok()?, fields.next()?.ok()?);
            Some((inside, inside + count))
        })
        .collect();
    spans.sort_unstable();
    let mut next = u64::from(range[0]);
    for (start, end) in &spans {
        if *start <= next && next < *end {
            next = *end;
        }
    }
    if spans.is_empty() || next > u64::from(range[1]) {
        return None;
    }
    Some(u32::try_from(spans.last()?.1.saturating_sub(1)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps() {
        let podman = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(first_unmapped(podman, [61000, 61999]), None);
        assert_eq!(first_unmapped(podman, [65000, 66000]), Some(65536));
        assert_eq!(first_unmapped("0 0 4294967295\n", [61000, 61999]), None);
        // In a container with as many ids as there usually are.
        let own = subid::parse("ann:1000:64000\nann:100000:65536\n").ranges;
        let error = out_of_reach("/etc/subuid", &own, "0 100000 65536\n")
            .unwrap()
            .to_string();
        assert!(error.contains("100000-165535 are beyond"), "{error}");
        assert_eq!(out_of_reach("/etc/subuid", &own, "0 0 4294967295\n"), None);
    }

    #[test]
    fn bad_lines_claim_nothing() {
        assert!(account_claims("x\n::\na:x:b:\n#\n", "account").is_empty());
        assert!(subordinate_claims("a:1\n:::\na:4294967295:2\na:1:0\n").is_empty());
        let one = &subordinate_claims("alice:100000:65536\n")[0];
        assert_eq!((one.low, one.high), (100000, 165535));
    }
}
