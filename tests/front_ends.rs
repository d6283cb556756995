//! Sandboxes for programs that are not in Python: MCP on standard input and output, and Piston's API on a unix socket.

mod harness;

use harness::python::put;
use harness::{App, BOTH, Ended, Mode, binary, need_root};
use std::path::Path;

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

/// As root in the environment that has the package `mcp`, and as a user to whom it need not be open with a copy of that.
#[test]
fn mcp_s_own_client_runs_code() {
    need_root();
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pypi");
    let remedy = "make the environment that tests/run makes, in target/pypi";
    for mode in BOTH {
        let app = App::new(mode, "");
        app.write("test_mcp.py", std::fs::read(tests().join("test_mcp.py")).unwrap());
        let environment = match mode {
            Mode::Root => whole.clone(),
            Mode::Rootless => {
                let make = ["-m", "venv", "--without-pip", "environment"];
                Ended::from(app.shell_free("/usr/bin/python3", &make).output().unwrap()).ok();
                let version = std::fs::read_dir(whole.join("lib"))
                    .ok()
                    .and_then(|found| found.flatten().next());
                let packages = Path::new("lib")
                    .join(version.expect(remedy).file_name())
                    .join("site-packages");
                let place = Path::new("environment").join(&packages);
                put(&app, &whole.join(packages), place.to_str().unwrap());
                app.folder.join("environment")
            }
        };
        let interpreter = environment.join("bin/python");
        let mut command = app.shell_free(interpreter.to_str().unwrap(), &["-B", "-m", "unittest", "test_mcp"]);
        let output = command.env("PYSECURE_BINARY", binary()).output();
        let ended = Ended::from(output.expect(remedy));
        assert_eq!(
            ended.code, 0,
            "{mode:?} (is mcp==2.3.0 in target/pypi? tests/run puts it there)\n{}\n{}",
            ended.out, ended.err
        );
    }
}
