//! It fails closed: a copy of the warm interpreter that did not confine itself in every way gets no task, whatever it says.

use crate::harness::{BOTH, Mode};
use crate::pool::Pool;
use serde_json::json;

/// A step, what the copy does in its place, and what the pool finds as root and as an ordinary user.
struct Skipped {
    steps: Vec<(&'static str, &'static str)>,
    root: Option<&'static str>,
    rootless: Option<&'static str>,
}

fn skipped(step: &'static str, instead: &'static str, found: &'static str) -> Skipped {
    Skipped {
        steps: vec![(step, instead)],
        root: Some(found),
        rootless: Some(found),
    }
}

const JOIN: &str = "    for namespace in namespaces:\n";
const SETRESUID: &str = "    os.setresuid(uid, uid, uid)\n";
const SETRESGID: &str = "    os.setresgid(gid, gid, gid)\n";
const CHECK: &str = "    if result < 0:\n";

fn all() -> Vec<Skipped> {
    // A user has one id: what is not changed is it already.
    let of_root = |step, found| Skipped {
        steps: vec![(step, "")],
        root: Some(found),
        rootless: None,
    };
    let without = |at: &'static str, found| skipped(JOIN, at, found);
    vec![
        of_root(SETRESUID, "Uid is"),
        of_root(SETRESGID, "Gid is"),
        skipped(
            "_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0",
            "True",
            "CapBnd is",
        ),
        skipped(
            "_syscall(_CAPSET, ctypes.byref(_header), ctypes.byref(_none))",
            "0",
            "Cap",
        ),
        skipped(
            "_syscall(_SECCOMP, _SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(code.program))",
            "0",
            "1 filters of system calls",
        ),
        without(
            "    for namespace in [n for i, n in enumerate(namespaces) if i != 1]:\n",
            "another mnt namespace",
        ),
        without(
            "    for namespace in [n for i, n in enumerate(namespaces) if i != 2]:\n",
            "another pid namespace",
        ),
        without(
            "    for namespace in [n for i, n in enumerate(namespaces) if i != 3]:\n",
            "another net namespace",
        ),
        without(
            "    for namespace in [n for i, n in enumerate(namespaces) if i != 4]:\n",
            "another ipc namespace",
        ),
        without(
            "    for namespace in [n for i, n in enumerate(namespaces) if i != 5]:\n",
            "another uts namespace",
        ),
        without(
            "    for namespace in [n for i, n in enumerate(namespaces) if i != 6]:\n",
            "another cgroup namespace",
        ),
        // It stays where it is, and goes on in spite of all errors.
        Skipped {
            steps: vec![
                (JOIN, "    for namespace in []:\n"),
                (CHECK, "    if False:\n"),
                (SETRESUID, ""),
                (SETRESGID, ""),
                ("    if groups:\n", "    if False:\n"),
            ],
            root: Some("Uid is"),
            rootless: Some("another user namespace"),
        },
        // And where that is an error, it is not there to be given a task.
        skipped(JOIN, "    for namespace in []:\n", "ended before it had its task"),
    ]
}

#[test]
fn a_copy_that_leaves_out_a_step_gets_no_task() {
    let code = "print('it ran')";
    for mode in BOTH {
        let mut pool = Pool::new(mode, json!({}));
        assert_eq!(pool.python(code).ok().out, "it ran\n");
        let confine = pool.package().join("_confine.py");
        let whole = std::fs::read_to_string(&confine).unwrap();
        for Skipped { steps, root, rootless } in all() {
            let mut text = whole.clone();
            for (step, instead) in &steps {
                assert!(text.contains(step), "{step}");
                text = text.replacen(step, instead, 1);
            }
            std::fs::write(&confine, text).unwrap();
            let app = pool.end();
            pool = Pool::start(app, &json!({})).unwrap_or_else(|(_, error)| panic!("{error}"));
            let ended = pool.python(code);
            match if mode == Mode::Root { root } else { rootless } {
                Some(found) => {
                    let refused = ended
                        .refused()
                        .unwrap_or_else(|| panic!("{mode:?} {steps:?}: {ended:#?}"));
                    assert!(refused.contains(found), "{mode:?} {steps:?}: {refused}");
                    assert!(ended.out.is_empty(), "{mode:?} {steps:?}: {ended:#?}");
                }
                None => assert_eq!(ended.ok().out, "it ran\n", "{mode:?} {steps:?}"),
            }
        }
        // The control.
        std::fs::write(&confine, &whole).unwrap();
        let app = pool.end();
        pool = Pool::start(app, &json!({})).unwrap_or_else(|(_, error)| panic!("{error}"));
        pool.still_serves();
    }
}

/// A sandbox that is ended while its copy is on the way is nothing to tell anybody of; what fails by itself is.
#[test]
fn a_copy_whose_sandbox_is_gone_says_nothing() {
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        pool.still_serves();
        let package = pool.package();
        let confine = package.join("_confine.py");
        let whole = std::fs::read_to_string(&confine).unwrap();
        let said = pool.file("said", b"");
        let start = |app| {
            let script = format!("exec \"$@\" 2>>{}", said.display());
            let pool = Pool::start_within(app, &json!({}), &["sh", "-c", &script, "sh"]);
            pool.unwrap_or_else(|(_, error)| panic!("{error}"))
        };
        // It waits before it joins.
        let wait = "    import time\n    while not __import__('os').path.exists(__file__ + '.go'): time.sleep(0.01)\n";
        std::fs::write(&confine, whole.replacen(JOIN, &format!("{wait}{JOIN}"), 1)).unwrap();
        let pool = start(pool.end());
        let run = pool.begin("print('it ran')", json!({}));
        let warm = pool.warm();
        let has_copy = || std::fs::read_to_string(format!("/proc/{warm}/task/{warm}/children")).unwrap_or_default();
        crate::harness::wait_until(|| (!has_copy().trim().is_empty()).then_some(()));
        crate::pool::say(&run.connection, br#"{"kill": "stopped"}"#, &[]);
        let ended = run.ended();
        assert_eq!((ended.limit(), ended.out.as_str()), (Some("stopped"), ""), "{mode:?}");
        std::fs::write(package.join("_confine.py.go"), "").unwrap();
        crate::harness::wait_until(|| has_copy().trim().is_empty().then_some(()));
        pool.still_serves();
        // The control: an error of its own is told to whoever wanted the run.
        std::fs::write(
            &confine,
            whole.replacen(JOIN, &format!("    raise OSError('no way in')\n{JOIN}"), 1),
        )
        .unwrap();
        let pool = start(pool.end());
        let ended = pool.python("print('it ran')");
        let refused = ended.refused().unwrap_or_default();
        assert!(
            refused.contains("confine an interpreter: no way in"),
            "{mode:?}: {ended:#?}"
        );
        drop(pool.end());
        let said = std::fs::read_to_string(&said).unwrap_or_default();
        assert!(!said.contains("confine an interpreter"), "{mode:?}: {said}");
    }
}

/// Nor is one heard that ends in the middle of it, and a pool that keeps some ready does not make them for ever.
#[test]
fn a_copy_that_ends_on_its_way_is_told_of() {
    for mode in BOTH {
        for ready in [0, 1] {
            let profile = json!({ "ready": ready });
            let pool = Pool::new(mode, profile.clone());
            pool.still_serves();
            let confine = pool.package().join("_confine.py");
            let text = std::fs::read_to_string(&confine).unwrap();
            std::fs::write(&confine, text.replacen("    os.umask(0o077)\n", "    os._exit(3)\n", 1)).unwrap();
            let pool = Pool::start(pool.end(), &profile).unwrap_or_else(|(_, error)| panic!("{error}"));
            for _ in 0..3 {
                let ended = pool.python("print('it ran')");
                let refused = ended.refused().unwrap_or_else(|| panic!("{mode:?}: {ended:#?}"));
                assert!(
                    refused.contains("ended before it had its task"),
                    "{mode:?} {ready}: {refused}"
                );
            }
            // What needs no copy runs.
            assert_eq!(pool.run(json!({ "command": ["echo", "well"] })).ok().out, "well\n");
        }
    }
}
