//! A service's limits under supervision: the place for its cgroup, and what is said when a limit ended it.

use crate::compile;
use crate::launch::cgroup::{Cgroups, Group, Offer};
use crate::launch::{LaunchError, Launcher};
use crate::model::{Limits, limits::size};
use crate::plan::Plan;

/// Makes the place for the app's cgroups, if any of its services needs one. Has the supervisor's guard with it, so it
/// comes before there are descriptors and secrets that a second process should not have.
pub(super) fn hold(plan: &Plan, launcher: &mut Launcher) -> Result<(), LaunchError> {
    if plan.services.iter().any(|s| compile::resources(&s.limits).is_some()) {
        launcher.hold_limits(Cgroups::open(&plan.app, &plan.dirs.run, &Offer::look())?);
    }
    Ok(())
}

/// Why a service ended with this wait status, if it was for lack of memory. `group` is its cgroup.
pub(super) fn explain(status: i32, group: Option<&Group>, limits: &Limits) -> Option<String> {
    let killed = status & 0x7f == libc::SIGKILL || status >> 8 & 0xff == 128 + libc::SIGKILL;
    let group = group.filter(|group| killed && group.oom_kills() > 0)?;
    Some(match limits.memory {
        Some(bytes) => format!("killed: out of memory (limit {})", size(bytes)),
        None => {
            tracing::debug!(?group, "killed for lack of memory without a limit of its own");
            "killed: out of memory".to_owned()
        }
    })
}
