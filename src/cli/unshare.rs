//! `unshare`: a program, or a shell, in the outer namespace of an ordinary user, where the ids of services are as they
//! are for PySecure itself: to look after files that belong to subordinate ids.

use super::args::Unshare;
use super::load::with_privilege;
use super::{Done, Failure};
use crate::host::Privilege;
use crate::host::outer;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

pub(super) fn run(args: &Unshare) -> Done {
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    match outer::privilege() {
        Some(Privilege::Root) => {
            errln!("note: root needs no namespace to reach services' files; this runs as it is")
        }
        Some(Privilege::OneId) => errln!("note: no subordinate ids: all files of services are your own"),
        _ => {}
    }
    let shell = || std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut words = args.command.iter().map(OsString::from);
    let program = words.next().unwrap_or_else(shell);
    let error = Command::new(&program).args(words).exec();
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => 127,
        _ => 126,
    };
    Err(Failure::new(
        code,
        format!("run {}: {error}", program.to_string_lossy()),
    ))
}
