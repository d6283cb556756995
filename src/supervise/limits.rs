//! A service's limits under supervision: the place for its cgroup, and what is said when a limit ended it.

use crate::compile;
use crate::launch::cgroup::{Cgroups, Group, Offer};
use crate::launch::{LaunchError, Launcher};
use crate::model::{Limits, limits::size};
use crate::plan::{self, Plan};
use crate::sys::exit_status::exit_code;

/// Makes the place for the app's cgroups when the first service with limits starts, and sees to it that a service
/// gets what it requires: `up` has looked as well, but from another cgroup, if the app ran without limits before.
pub(super) fn hold(service: &plan::Unit, plan: &Plan, launcher: &mut Launcher) -> Result<(), LaunchError> {
    let Some(resources) = compile::resources(&service.limits) else {
        return Ok(());
    };
    if launcher.cgroups().is_none() {
        launcher.hold_limits(Cgroups::open(&plan.app, &plan.dirs.run, &Offer::look())?);
    }
    let lacking = launcher.cgroups().map(|c| c.lacking(&resources)).unwrap_or_default();
    for lack in lacking {
        let cause = format!("{}; {}", lack.refusal.why, lack.refusal.remedy);
        if service.limits.required {
            return Err(LaunchError::system_text("hold the required limit", lack.key, cause));
        }
        tracing::warn!(service = service.name, limit = lack.key, "cannot be held: {cause}");
    }
    Ok(())
}

/// The same for what limits are held where they can be: a place, if this host has one.
pub(super) fn offer(plan: &Plan, launcher: &mut Launcher) -> Result<(), LaunchError> {
    let offer = Offer::look();
    if launcher.cgroups().is_none() && !offer.places.is_empty() {
        launcher.hold_limits(Cgroups::open(&plan.app, &plan.dirs.run, &offer)?);
    }
    Ok(())
}

/// Why a service ended with this wait status, if it was for lack of memory. `group` is its cgroup.
pub(super) fn explain(status: i32, group: Option<&Group>, limits: &Limits) -> Option<String> {
    // Of what a shell has started it is the shell that tells.
    let killed = i32::from(exit_code(status)) == 128 + libc::SIGKILL;
    let group = group.filter(|group| killed && group.oom_kills() > 0)?;
    Some(match limits.memory {
        Some(bytes) => format!("killed: out of memory (limit {})", size(bytes)),
        None => {
            tracing::debug!(?group, "killed for lack of memory without a limit of its own");
            "killed: out of memory".to_owned()
        }
    })
}
