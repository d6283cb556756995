//! It fails closed: a process that did not confine itself in every way that the kernel tells of gets no task. That it has applied
//! Landlock rules is nothing that the kernel tells: `held` sees what they refuse.

use crate::harness::{App, BOTH};
use crate::pool::Pool;
use serde_json::{Value, json};
use std::path::Path;

/// A step of a file of the package, what is done in its stead, and what the pool finds. Rights are not among them: the warm interpreter
/// has none here that its copies could keep.
struct Skipped {
    file: &'static str,
    step: &'static str,
    instead: &'static str,
    found: &'static str,
}

const ALL: [Skipped; 4] = [
    Skipped {
        file: "_confine.py",
        step: "_syscall(_SECCOMP, _SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(code.program))",
        instead: "0",
        found: "Seccomp is",
    },
    Skipped {
        file: "_confine.py",
        step: "    os.umask(0o077)\n",
        instead: "    import threading\n    threading.Thread(target=threading.Event().wait, daemon=True).start()\n",
        found: "Threads is",
    },
    Skipped {
        file: "_warm.py",
        step: "        os.setsid()\n",
        instead: "",
        found: "leads no session and process group",
    },
    Skipped {
        file: "_warm.py",
        step: "        os.setsid()\n",
        instead: "        os.setpgid(0, 0)\n",
        found: "leads no session and process group",
    },
];

fn profile() -> Value {
    json!({ "isolation": "landlock" })
}

#[track_caller]
fn again(app: App, within: &[&str]) -> Pool {
    Pool::start_within(app, &profile(), within).unwrap_or_else(|(_, error)| panic!("{error}"))
}

#[test]
fn a_copy_that_leaves_out_a_step_gets_no_task() {
    let code = "print('it ran')";
    for mode in BOTH {
        let mut pool = Pool::new(mode, profile());
        pool.still_serves();
        let package = pool.package();
        for Skipped {
            file,
            step,
            instead,
            found,
        } in ALL
        {
            let file = package.join(file);
            let whole = std::fs::read_to_string(&file).unwrap();
            assert!(whole.contains(step), "{step}");
            std::fs::write(&file, whole.replacen(step, instead, 1)).unwrap();
            pool = again(pool.end(), &[]);
            let ended = pool.python(code);
            let refused = ended.refused().unwrap_or_else(|| panic!("{mode:?} {step}: {ended:#?}"));
            assert!(refused.contains(found), "{mode:?} {step}: {refused}");
            assert!(ended.out.is_empty(), "{mode:?} {step}: {ended:#?}");
            std::fs::write(&file, &whole).unwrap();
        }
        again(pool.end(), &[]).still_serves();
    }
}

/// Where the pool is under a filter itself, as in a container, a copy has to be under one more.
#[test]
fn the_filter_of_a_container_is_not_taken_for_that_of_a_run() {
    let wrapper = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sandbox_landlock/refusing.py");
    for mode in BOTH {
        let pool = Pool::new(mode, profile());
        let file = pool.package().join("_confine.py");
        let app = pool.end();
        app.write("refusing.py", std::fs::read(&wrapper).unwrap());
        let within = ["/usr/bin/python3", "-B", "refusing.py", "unshare=EPERM", "--"];
        let pool = again(app, &within);
        pool.still_serves();
        let whole = std::fs::read_to_string(&file).unwrap();
        let (step, instead) = (ALL[0].step, ALL[0].instead);
        assert!(whole.contains(step), "{step}");
        std::fs::write(&file, whole.replacen(step, instead, 1)).unwrap();
        let pool = again(pool.end(), &within);
        let ended = pool.python("print('it ran')");
        let refused = ended.refused().unwrap_or_else(|| panic!("{mode:?}: {ended:#?}"));
        assert!(
            refused.contains("it has 1 filters of system calls"),
            "{mode:?}: {refused}"
        );
    }
}
