//! The Python package `pysecure_sandbox`, with a pool of its own: its tests (python/tests/test_sandbox.py), as root with the
//! compiled core of the calls, and as an ordinary user without.

mod harness;

use harness::python::{package, put};
use harness::{App, Ended, Mode, binary};
use std::path::Path;

fn python(mode: Mode, core: bool, which: &str) {
    let app = App::new(mode, "");
    package(&app, core, "python/src");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    put(&app, &repository.join("python/tests"), "python/tests");
    put(&app, &repository.join("docs"), "docs");
    let mut command = app.shell_free("/usr/bin/python3", &["-B", "-m", "unittest", which]);
    command
        .current_dir(app.folder.join("python/tests"))
        .env("PYSECURE_BINARY", binary());
    if !core {
        command.env("PYSECURE_RPC_PURE", "1");
    }
    let ended = Ended::from(command.output().expect("install `python3`"));
    assert_eq!(ended.code, 0, "{mode:?}, {which}:\n{}\n{}", ended.out, ended.err);
}

#[test]
fn code_that_nobody_trusts_is_run_for_root() {
    python(Mode::Root, true, "test_sandbox");
}

#[test]
fn code_that_nobody_trusts_is_run_for_an_ordinary_user() {
    python(Mode::Rootless, false, "test_sandbox");
}
