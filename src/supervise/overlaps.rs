//! What a service would meet on disk, looked at anew before each start: since the plan was made something may have been
//! mounted in a source, or put where a resource of another's lies.

use super::error::{SuperviseError, system};
use crate::launch::LaunchError;
use crate::plan::{self, Mounts, Subtree};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;

pub(super) struct OverlapWatch {
    /// /proc/self/mountinfo, which says when it has changed (proc_pid_mountinfo(5)).
    table: File,
    known: plan::Overlaps,
}

impl OverlapWatch {
    pub(crate) fn new(subtrees: Vec<Subtree>) -> Result<OverlapWatch, SuperviseError> {
        // Opened first: what changes from here on is told.
        let table = File::open("/proc/self/mountinfo").map_err(system("open /proc/self/mountinfo"))?;
        let known = known(subtrees)?;
        Ok(OverlapWatch { table, known })
    }

    /// The manifest says something else of who may do what.
    pub(crate) fn replace(&mut self, with: plan::Overlaps) {
        self.known = with;
    }

    /// The service as it is to be started now, if nothing shows that it has no right to.
    pub(crate) fn restrict(&mut self, planned: &plan::Unit) -> Result<plan::Unit, SuperviseError> {
        let mut changed = [PollFd::new(&self.table, PollFlags::PRI)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut changed, Some(&now)).map_err(system("poll /proc/self/mountinfo"))? > 0 {
            self.known = known(self.known.subtrees().to_vec())?;
        }
        self.known.look_again();
        let mut service = planned.clone();
        let closed = service.identity.keeper.is_some();
        let leaks = self
            .known
            .restrict(&plan::Viewer::of(planned), closed, &mut service.mounts);
        match self.known.errors(&leaks).into_iter().next() {
            None => Ok(service),
            Some(error) => Err(LaunchError::system_text("start", &planned.name, error).into()),
        }
    }
}

/// These subtrees as they are now.
pub(super) fn known(subtrees: Vec<Subtree>) -> Result<plan::Overlaps, SuperviseError> {
    Ok(plan::Overlaps::new(subtrees, &Mounts::read()?))
}
