//! Limits before a start: a cgroup of our own is asked of systemd, and what this host cannot hold is said, or refused
//! where the manifest requires it.

use super::args::Cli;
use super::error::Failure;
use super::load;
use crate::app::limits::{self, Lacking};
use crate::plan::Unit;

/// Goes on in a scope of systemd's, if limits need one. Where that cannot be had, it says so and returns.
pub(super) fn in_scope(cli: &Cli) {
    if let Some(error) = limits::enter_scope(load::given(cli)) {
        errln!("note: systemd gives no cgroup of our own: {error}");
    }
}

/// Says what of the limits cannot be held here; an error if one of them is required, or all are by `strict`.
pub(super) fn say(services: &[Unit], strict: bool) -> Result<(), Failure> {
    let Lacking { refused, notes } = limits::lacking(services, strict);
    for note in notes {
        errln!("note: {note}");
    }
    match refused.is_empty() {
        true => Ok(()),
        false => Err(Failure::all(1, refused)),
    }
}
