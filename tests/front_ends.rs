//! Sandboxes for programs that are not in Python: MCP on standard input and output, and Piston's API on a unix socket.

mod harness;

use harness::{App, BOTH, Ended, binary, need_root};
use std::path::Path;
use std::process::Command;

fn tests() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python/tests")
}

/// An ordinary user's command has no package but what it carries.
#[test]
fn piston_s_api_is_served_on_a_unix_socket() {
    for mode in BOTH {
        let app = App::new(mode, "");
        app.write("test_http.py", std::fs::read(tests().join("test_http.py")).unwrap());
        let mut command = app.shell_free("/usr/bin/python3", &["-B", "-m", "unittest", "test_http"]);
        let ended = Ended::from(command.env("PYSECURE_BINARY", binary()).output().unwrap());
        assert_eq!(ended.code, 0, "{mode:?}: {}\n{}", ended.out, ended.err);
    }
}

#[test]
fn mcp_s_own_client_runs_code() {
    need_root();
    let interpreter = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pypi/bin/python");
    let state = harness::fresh_folder();
    let output = Command::new(&interpreter)
        .args(["-B", "-m", "unittest", "test_mcp"])
        .current_dir(tests())
        .env("PYSECURE_BINARY", binary())
        .env("PYSECURE_STATE_DIR", &state)
        .output()
        .expect("make the environment that tests/run makes, in target/pypi");
    let ended = Ended::from(output);
    assert_eq!(
        ended.code, 0,
        "(is mcp==2.3.0 in target/pypi? tests/run puts it there)\n{}\n{}",
        ended.out, ended.err
    );
    std::fs::remove_dir_all(&state).unwrap();
}
