//! The one way from a bundle to a process: whatever is started here, is started by [`Launcher::launch`], or, where it is to have
//! no namespaces, by [`Launcher::launch_in_place`].

use super::{Allowed, LaunchError, Launcher, Program, Request, Running};
use crate::bundle::Bundle;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// What a unit is given that no bundle can hold.
pub struct Descriptors<'a> {
    /// Standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Sockets for `LISTEN_FDS`, and their names.
    pub sockets: &'a [(BorrowedFd<'a>, &'a str)],
    /// Give it a terminal of its own in place of `stdio`; its other end comes as
    /// [`Report::Terminal`](super::Report::Terminal).
    pub terminal: bool,
    /// The network namespace that the spec names by path, if it does.
    pub network: Option<BorrowedFd<'a>>,
    /// When all is there but the program, wait: for a [`companion`](super::companion) to do its part, or for
    /// [`Running::go`].
    pub hold: bool,
    pub program: Program<'a>,
    /// A detached tree that is attached at this path. Nothing else may lie beside it.
    pub shown: Option<(BorrowedFd<'a>, &'a Path)>,
    /// Whose the new user namespace is to be, if not this process's: an id without rights, which may then join it.
    pub owner: Option<u32>,
}

impl<'a> Descriptors<'a> {
    /// These three, and nothing else.
    pub fn of(stdio: [BorrowedFd<'a>; 3]) -> Descriptors<'a> {
        Descriptors {
            stdio,
            sockets: &[],
            terminal: false,
            network: None,
            hold: false,
            program: Program::OfSpec,
            shown: None,
            owner: None,
        }
    }
}

impl Launcher {
    /// Starts what a bundle holds: its spec, on a root made of its entries. Its layers must lie on disk
    /// ([`Bundle::write_layers`]). That the program runs, [`Running::report`] says later.
    pub fn launch(&mut self, bundle: &Bundle, with: &Descriptors<'_>) -> Result<Running, LaunchError> {
        self.start(&request(bundle, with))
    }

    /// Starts what a bundle's process is in the namespaces, on the root and with the ids of this process: with its limits and its filter
    /// of system calls, and with these Landlock rules. `None`: it is trusted, and has neither rules nor filter.
    pub fn launch_in_place(
        &mut self,
        bundle: &Bundle,
        with: &Descriptors<'_>,
        rules: Option<&[Allowed]>,
    ) -> Result<Running, LaunchError> {
        self.start_in_place(&request(bundle, with), rules)
    }
}

fn request<'a>(bundle: &'a Bundle, with: &Descriptors<'a>) -> Request<'a> {
    Request {
        spec: &bundle.spec,
        root: &bundle.root,
        stdio: with.stdio,
        sockets: with.sockets,
        terminal: with.terminal,
        network: with.network,
        hold: with.hold,
        program: with.program,
        shown: with.shown,
        owner: with.owner,
    }
}
