//! The manual and the help, as whoever types the commands sees them. What stands in each page is tried beside src/cli/manual.

mod harness;

use std::path::Path;
use std::process::{Command, Output};

fn pysecure(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pysecure"));
    command
        .args(args)
        .env_remove("SOURCE_DATE_EPOCH")
        .env_remove("PYSECURE_STATE_DIR");
    command.envs(variables.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn pages(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for section in std::fs::read_dir(folder).unwrap() {
        let files = std::fs::read_dir(section.unwrap().path()).unwrap();
        all.extend(files.map(|file| file.unwrap().path()));
    }
    all.sort();
    all
}

#[test]
fn pages_are_the_same_wherever_they_are_written_and_groff_finds_no_fault() {
    let folder = harness::fresh_folder();
    let write = |name: &str, zone: &str| {
        let to = folder.join(name);
        let variables = [("SOURCE_DATE_EPOCH", "1790000000"), ("TZ", zone), ("LANG", "C")];
        let done = pysecure(&["man", to.to_str().unwrap()], &variables);
        assert!(done.status.success(), "{done:?}");
        to
    };
    let (one, other) = (write("one", "UTC"), write("other", "Asia/Tokyo"));
    let names = |of: &Path| {
        pages(of)
            .iter()
            .map(|p| p.strip_prefix(of).unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&one), names(&other));
    for page in [
        "man1/pysecure.1",
        "man1/pysecure-jail-build.1",
        "man5/pysecure.toml.5",
        "man5/pysecure-recipe.5",
        "man7/pysecure-rpc.7",
    ] {
        assert!(one.join(page).is_file(), "{page}");
    }
    for page in names(&one) {
        let roff = std::fs::read(one.join(&page)).unwrap();
        assert_eq!(roff, std::fs::read(other.join(&page)).unwrap(), "{}", page.display());
        assert!(
            text(&roff).starts_with(".TH ") && text(&roff).contains("\"2026-09-21\""),
            "{}",
            page.display()
        );
        let groff = Command::new("groff")
            .args(["-man", "-ww", "-z", "-Tutf8"])
            .arg(one.join(&page))
            .output();
        let groff = groff.expect("groff is needed: apt-get install groff-base");
        assert!(
            groff.status.success() && groff.stderr.is_empty(),
            "{}: {}",
            page.display(),
            text(&groff.stderr)
        );
    }
    // For those who read it as it is: a page has its words, and no macro among them.
    let shown = Command::new("groff")
        .args(["-man", "-Tascii", "-P-cbou"])
        .arg(one.join("man1/pysecure-up.1"))
        .output()
        .unwrap();
    let shown = text(&shown.stdout);
    assert!(
        shown.contains("pysecure up [-d]") && shown.contains("EXIT STATUS"),
        "{shown}"
    );
    assert!(!shown.contains("\\f") && !shown.contains("\n."), "{shown}");
}

#[test]
fn without_a_command_there_is_the_help_and_nothing_that_is_hidden() {
    for (args, variables) in [
        (&[][..], &[][..]),
        (&["-v"], &[]),
        (&[], &[("PYSECURE_STATE_DIR", "/tmp/nowhere")]),
    ] {
        let shown = pysecure(args, variables);
        assert_eq!((shown.status.code(), shown.stdout.len()), (Some(2), 0), "{shown:?}");
        let help = text(&shown.stderr);
        assert!(
            help.starts_with("Run each part") && help.contains("\nStart and stop:\n  up "),
            "{help}"
        );
        assert!(!help.contains("read-python") && !help.contains("subcommands"), "{help}");
    }
    let asked = pysecure(&["help"], &[]);
    assert!(asked.status.success(), "{asked:?}");
    assert_eq!(text(&asked.stdout), text(&pysecure(&["--help"], &[]).stdout));
    assert!(text(&asked.stdout).contains("pysecure init"));
    let up = text(&pysecure(&["help", "up"], &[]).stdout);
    assert!(up.contains("Examples:") && up.contains("pysecure up -d"), "{up}");
    let short = text(&pysecure(&["up", "-h"], &[]).stdout);
    assert!(
        !short.contains("Examples:") && short.contains("Global options:"),
        "{short}"
    );
    assert_eq!(
        text(&pysecure(&["version"], &[]).stdout),
        format!("pysecure {}\n", env!("CARGO_PKG_VERSION"))
    );
    // Of a command whose own command is missing, it is that command's.
    let jail = pysecure(&["jail"], &[]);
    assert!(
        jail.status.code() == Some(2) && text(&jail.stderr).contains("diff"),
        "{jail:?}"
    );
}

#[test]
fn former_commands_are_told_by_the_new_ones_or_understood() {
    for (args, new) in [
        (&["init-resources"][..], "`pysecure setup`"),
        (&["jail", "build", "--from", "list.txt"], "`pysecure jail build --list`"),
        (
            &["jail", "build", "--fresh", "debian"],
            "`pysecure jail build --no-cache`",
        ),
        (&["call", "--list", "auth"], "`pysecure rpc list`"),
        (&["call", "-l", "auth"], "`pysecure rpc list`"),
        (&["up", "-f", "other.toml"], "`--file MANIFEST`"),
    ] {
        let refused = pysecure(args, &[]);
        let said = text(&refused.stderr);
        assert!(
            refused.status.code() == Some(2) && said.contains(new),
            "{args:?}: {said}"
        );
    }
    for args in [&["compile", "--help"][..], &["call", "--help"]] {
        let understood = pysecure(args, &[]);
        assert!(understood.status.success(), "{args:?}: {understood:?}");
    }
}
