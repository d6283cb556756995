//! `pysecure doctor`: on the machine that runs the tests, whatever it offers, and its report.
//!
//! Needs no privilege. The probes start this test program in place of `pysecure`.

use pysecure::doctor::{Finding, Mode, Runner, Status, exit_code, probe_by, render, run_probe, to_json};

/// Not a test but the child of `this_machine`: the harness runs it alone, on the main thread, and
/// the trial's name is the last argument. Without one there is nothing to do.
#[test]
fn probe_child() {
    if std::env::args().nth(1).as_deref() != Some("probe_child") {
        return;
    }
    let name = std::env::args().next_back().unwrap_or_default();
    std::process::exit(run_probe(&name).into());
}

fn this_machine() -> Vec<Finding> {
    probe_by(Runner {
        program: "/proc/self/exe".into(),
        args: ["probe_child", "--exact", "--nocapture", "--test-threads=1"]
            .map(Into::into)
            .to_vec(),
    })
}

fn finding(feature: &'static str, status: Status, required: bool) -> Finding {
    let bad = status != Status::Ok;
    Finding {
        feature,
        status,
        found: "found text".into(),
        lost: bad.then(|| "a loss".into()),
        remedy: bad.then(|| "sudo do it\nand more".into()),
        mode: Mode::Root,
        required,
        blocked_by: None,
    }
}

#[test]
fn every_row_of_this_machine_is_answered() {
    let findings = this_machine();
    assert!(findings.len() >= 20);
    for finding in &findings {
        assert!(!finding.found.is_empty(), "{finding:?}");
        assert_eq!(finding.lost.is_some(), finding.status != Status::Ok, "{finding:?}");
        assert!(!finding.found.contains("without an answer"), "{finding:?}");
        assert!(!finding.found.contains("within ten seconds"), "{finding:?}");
    }
    let root = nix::unistd::geteuid().is_root();
    let foreign = if root { Mode::Rootless } else { Mode::Root };
    assert!(findings.iter().all(|finding| finding.mode != foreign));
}

#[test]
fn this_machine_is_reported_alike_in_text_json_and_exit_code() {
    let findings = this_machine();
    let (text, json) = (render(&findings, false), to_json(&findings));
    let mode = if nix::unistd::geteuid().is_root() {
        "root"
    } else {
        "rootless"
    };
    let ready = json[mode]["ready"].as_bool().expect("the own mode is judged");
    assert_eq!(ready, exit_code(&findings) == 0);
    assert_eq!(text.contains(&format!("{mode} mode: ready")), ready, "{text}");
    assert_eq!(json["findings"].as_array().map(Vec::len), Some(findings.len()));
}

#[test]
fn an_unknown_probe_is_no_probe() {
    assert_eq!(run_probe("no-such-thing"), 2);
    assert_eq!(run_probe(""), 2);
}

#[test]
fn a_program_that_gives_no_answer_is_no_success() {
    let findings = probe_by(Runner {
        program: "/bin/true".into(),
        args: vec![],
    });
    let user = findings.iter().find(|f| f.feature == "user namespaces").unwrap();
    assert_eq!(user.status, Status::Missing);
    assert_eq!(exit_code(&findings), 1);
}

#[test]
fn only_what_is_required_fails() {
    let ok = finding("a", Status::Ok, true);
    assert_eq!(exit_code(std::slice::from_ref(&ok)), 0);
    assert_eq!(exit_code(&[ok.clone(), finding("b", Status::Missing, false)]), 0);
    assert_eq!(exit_code(&[ok.clone(), finding("b", Status::Degraded, true)]), 0);
    assert_eq!(exit_code(&[ok, finding("b", Status::Missing, true)]), 1);
    assert_eq!(exit_code(&[]), 1, "nothing was looked at");
}

#[test]
fn the_report_reads_without_colours_and_names_causes_alone() {
    let mut blocked = finding("gamma", Status::Missing, true);
    blocked.blocked_by = Some("beta");
    let findings = [
        finding("alpha", Status::Ok, true),
        finding("beta", Status::Missing, true),
        blocked,
        finding("delta", Status::Degraded, false),
    ];
    let text = render(&findings, false);
    assert!(!text.contains('\x1b'));
    assert!(text.contains("ok        alpha"));
    assert!(text.contains("degraded  delta"));
    assert!(
        text.contains("            sudo do it\n            and more\n"),
        "{text}"
    );
    assert!(text.contains("root mode: not ready: without beta\n"), "{text}");
    assert!(text.contains("rootless mode: not looked at"));
    assert!(render(&findings, true).contains("\x1b[31mmissing"));
    assert!(render(&findings[..1], false).ends_with("root mode: ready\n"));
}

#[test]
fn text_of_the_machine_cannot_steer_the_terminal() {
    let mut one = finding("alpha", Status::Degraded, false);
    one.found = "x\x1b]0;owned\x07\n".repeat(40);
    one.remedy = Some("\x1b[2J".into());
    let text = render(&[one], false);
    assert!(!text.contains('\x1b') && !text.contains('\x07'));
}

#[test]
fn lines_fit_a_hundred_columns() {
    let mut one = finding("alpha", Status::Missing, false);
    one.found = "word ".repeat(100);
    one.lost = Some("loss ".repeat(100));
    let text = render(&[one], false);
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}
