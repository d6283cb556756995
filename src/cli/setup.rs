//! `setup`: the script of the key `setup`, run once more.

use super::args::Cli;
use super::error::Done;
use super::load::{self, listener, with_privilege};
use crate::app;

pub(super) fn run(cli: &Cli) -> Done {
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let loaded = load::checked(cli)?;
    let dirs = loaded.dirs()?;
    let plan = app::setup_again(&loaded, &dirs, listener())?;
    for note in &plan.notes {
        errln!("note: {note}");
    }
    outln!("the data of `{}` is set up", loaded.model.app);
    Ok(0)
}
