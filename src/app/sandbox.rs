//! A pool of sandboxes without a manifest: its root, and ids that nobody else has.

use super::error::AppError;
use crate::host::{Dirs, Privilege};
use crate::packages;
use crate::plan::template::Library;
use crate::plan::{Plan, PlanError};
use crate::sandbox::{Identities, Profile};
use crate::values::Isolation;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::os::fd::OwnedFd;
use std::path::Path;

/// A block of ids, as long as the claim is held.
pub struct OwnIds {
    pub block: Identities,
    /// The lock by which no other pool has these. Whoever serves keeps it.
    pub claim: OwnedFd,
}

/// Of the ids that systemd's list (UIDS-GIDS.md) has no use for: where pools without a manifest take theirs.
const FIRST: u32 = 1_879_048_192;
/// Ids of one pool; and pools of one host at once.
const BLOCK: u32 = 1024;
const MOST: u32 = 4096;

/// What a pool needs of this host. `None`: a user's pool works with the user's one id.
pub fn own_plan(
    privilege: &Privilege,
    profile: &Profile,
    state_dir: Option<&Path>,
) -> Result<(Plan, Option<OwnIds>), AppError> {
    let root = *privilege == Privilege::Root;
    let dirs = Dirs::find("sandbox", root, state_dir).map_err(PlanError::from)?;
    crate::host::make_state(&dirs.state).map_err(PlanError::from)?;
    let wrong = |e| PlanError::io("unpack the Python packages into", packages::folder(&dirs.state), e);
    packages::unpack(&dirs.state).map_err(wrong)?;
    let library = Library::new(Path::new("/usr/share/pysecure/none"), &dirs.state);
    let template = library.load(&profile.rootfs)?;
    library.make(&template, None)?;
    let in_place = profile.isolation == Isolation::Landlock;
    let ids = match root && !in_place {
        true => Some(claim(&dirs.state)?),
        false => None,
    };
    // A user's runs all have his own id: what they write is his, and nothing has to be given back.
    let kept = if ids.is_some() {
        Privilege::Root
    } else {
        Privilege::OneId
    };
    let mut plan = Plan::without_data("sandbox", &kept, [(template.name.clone(), template)].into());
    plan.dirs = dirs;
    Ok((plan, ids))
}

/// The first block that no other pool has.
fn claim(state: &Path) -> Result<OwnIds, AppError> {
    let folder = state.join("sandboxes");
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |e: std::io::Error| PlanError::from(crate::host::HostError::new("claim ids in", &path, e))
    };
    crate::host::make_private(&folder).map_err(PlanError::from)?;
    for number in 0..MOST {
        let path = folder.join(format!("{number}.lock"));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(|e| wrong(&path)(e.into()))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let warm = FIRST + number * BLOCK;
                let block = Identities {
                    warm,
                    keeper: warm + 1,
                    first: warm + 2,
                    count: BLOCK - 2,
                };
                return Ok(OwnIds { block, claim: lock });
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(e) => return Err(wrong(&path)(e.into()).into()),
        }
    }
    let full = std::io::Error::other("all are taken by other pools; end some");
    Err(wrong(&folder)(full).into())
}
