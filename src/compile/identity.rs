//! Who a unit is → the maps of its user namespace; user_namespaces(7).

use super::error::CompileError;
use crate::bundle::id_map;
use crate::plan::ledger::Ids;
use crate::plan::{Identity, Unit};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use std::collections::BTreeMap;

/// Inside → outside, for UIDs and GIDs: the service's own, its peers', its bundles', and a 0, which is the keeper's or,
/// for a service that is root inside, its own.
pub(super) fn mappings(identity: &Identity, users: &[(Ids, String)]) -> (Vec<LinuxIdMapping>, Vec<LinuxIdMapping>) {
    let Identity {
        uid,
        gid,
        ref groups,
        ref peers,
        keeper,
        outside,
        root_inside,
    } = *identity;
    let (own_uid, own_gid) = if root_inside { (0, 0) } else { (uid, gid) };
    let (mut uids, mut gids): (BTreeMap<u32, u32>, BTreeMap<u32, u32>) = match keeper {
        None => ([(own_uid, outside.uid)].into(), [(own_gid, outside.gid)].into()),
        Some(keeper) if root_inside => (
            [(0, uid), (keeper.uid, keeper.uid)].into(),
            [(0, gid), (keeper.gid, keeper.gid)].into(),
        ),
        Some(keeper) => (
            [(0, keeper.uid), (uid, uid)].into(),
            [(0, keeper.gid), (gid, gid)].into(),
        ),
    };
    uids.extend(peers.iter().map(|(uid, _)| (*uid, *uid)));
    gids.extend(groups.iter().map(|(gid, _)| (*gid, *gid)));
    uids.extend(users.iter().map(|(ids, _)| (ids.uid, ids.uid)));
    gids.extend(users.iter().map(|(ids, _)| (ids.gid, ids.gid)));
    (ranges(&mut uids), ranges(&mut gids))
}

/// More groups than the kernel maps.
pub(super) fn check(service: &Unit, gids: &[LinuxIdMapping]) -> Result<(), CompileError> {
    if gids.len() <= MOST_RANGES && id_map(gids).len() < LONGEST_ID_MAP {
        return Ok(());
    }
    Err(CompileError::Groups {
        service: service.name.clone(),
        groups: service.identity.groups.len(),
        ranges: gids.len(),
    })
}

/// Neighbours become one range: the kernel takes few of them, and they are written at once.
fn ranges(map: &mut BTreeMap<u32, u32>) -> Vec<LinuxIdMapping> {
    let mut out: Vec<[u32; 3]> = Vec::new();
    for (inside, outside) in std::mem::take(map) {
        match out.last_mut() {
            Some([i, o, size]) if i.checked_add(*size) == Some(inside) && o.checked_add(*size) == Some(outside) => {
                *size += 1;
            }
            _ => out.push([inside, outside, 1]),
        }
    }
    out.into_iter().map(|[i, o, size]| range(i, o, size)).collect()
}

/// The most lines of a map of ids; user_namespaces(7).
const MOST_RANGES: usize = 340;
/// A map is one write(2) of less than a page; user_namespaces(7).
const LONGEST_ID_MAP: usize = 4096;

pub(super) fn range(inside: u32, outside: u32, size: u32) -> LinuxIdMapping {
    // All three fields are set, so the builder cannot fail.
    LinuxIdMappingBuilder::default()
        .container_id(inside)
        .host_id(outside)
        .size(size)
        .build()
        .unwrap_or_default()
}
