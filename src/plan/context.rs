//! What all parts of a plan are drawn from, and where they put what they find.

use super::{Ledger, PlanError};
use crate::host::{Dirs, Privilege};
use crate::model::Model;

/// What a plan is made of. The ledger has an id for every name by now.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub model: &'a Model,
    pub ledger: &'a Ledger,
    pub privilege: &'a Privilege,
    pub dirs: &'a Dirs,
}

impl Context<'_> {
    /// Is there but one id for all services?
    pub(super) fn has_one_id(&self) -> bool {
        *self.privilege == Privilege::OneId
    }

    /// Do ids keep services from what is another's, so that what cannot be hidden can be closed?
    pub(super) fn is_closed(&self) -> bool {
        !self.has_one_id()
    }
}

/// What is to be said: what stands in the way, and what the user should know.
#[derive(Default)]
pub(super) struct Findings {
    pub errors: Vec<PlanError>,
    pub notes: Vec<String>,
}
