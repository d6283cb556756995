//! What a start would fail on, told: for `up --dry-run`.

use super::error::{Failure, shown};
use crate::app::Loaded;
use crate::app::dry_run;
use crate::manifest::diagnostic::Severity;
use crate::plan::Plan;

/// Says all of it; a failure if `up` would fail.
pub(super) fn say(loaded: &Loaded, plan: &Plan) -> Result<(), Failure> {
    let found = dry_run::find(loaded, plan)?;
    eprint!("{}", shown(&loaded.text, &found.located));
    for note in plan.notes.iter().chain(&found.notes) {
        errln!("note: {note}");
    }
    let wrong = found.located.iter().any(|d| d.severity == Severity::Error);
    if !wrong && found.refused.is_empty() {
        return Ok(());
    }
    Err(Failure::all(if wrong { 2 } else { 1 }, found.refused))
}
