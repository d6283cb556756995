//! The mutations of tests/mutations still take away what they say, and name tests that there are. Whether those notice is
//! for tests/mutations/run.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn patches() -> Vec<PathBuf> {
    let all = std::fs::read_dir(root().join("tests/mutations")).unwrap();
    let mut all: Vec<PathBuf> = all.map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|e| e == "patch"));
    all.sort();
    all
}

/// All Rust below a folder.
fn sources(folder: &Path) -> String {
    let mut out = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out += &sources(&path);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out += &std::fs::read_to_string(path).unwrap();
        }
    }
    out
}

#[test]
fn every_patch_applies() {
    let mut wrong = String::new();
    for patch in patches() {
        let done = Command::new("patch")
            .args(["--strip=1", "--dry-run", "--force", "--fuzz=0", "--quiet"])
            .arg(format!("--input={}", patch.display()))
            .current_dir(root())
            .output()
            .expect("install `patch`");
        if !done.status.success() {
            wrong += &format!("{}: {}", patch.display(), String::from_utf8_lossy(&done.stdout));
        }
    }
    assert_eq!(
        wrong, "",
        "make these anew, for what they take away has changed its form"
    );
    assert!(patches().len() >= 100, "{}", patches().len());
}

#[test]
fn every_patch_names_tests_that_there_are() {
    for patch in patches() {
        let text = std::fs::read_to_string(&patch).unwrap();
        let head: Vec<&str> = text.lines().take_while(|l| !l.starts_with("--- ")).collect();
        let all = |key: &str| head.iter().filter_map(|l| l.strip_prefix(key)).collect::<Vec<_>>();
        let shown = patch.display();
        assert!(
            matches!(all("Kind: ")[..], ["protection"] | ["rule"]) && all("What: ").len() == 1,
            "{shown}"
        );
        assert!(!all("Test: ").is_empty(), "{shown}");
        for test in all("Test: ") {
            let (binary, filter) = test.split_once(' ').unwrap_or((test, ""));
            let (package, name) = match binary.split_once(':') {
                Some(("rpc-core", name)) => (root().join("python/core"), name),
                Some((package, name)) => (root().join(format!("crates/pysecure-{package}")), name),
                None => (root().to_owned(), binary),
            };
            let source = match name {
                "lib" => sources(&package.join("src")),
                name => {
                    let file = package.join("tests").join(name);
                    std::fs::read_to_string(file.with_extension("rs"))
                        .unwrap_or_else(|e| panic!("{shown}: {}: {e}", file.display()))
                }
            };
            // Of a path, the function or the module.
            let last = filter.rsplit("::").next().unwrap();
            assert!(
                source.contains(&format!("fn {last}"))
                    || root().join("src").join(filter.replace("::", "/")).exists()
                    || root()
                        .join("src")
                        .join(filter.replace("::", "/"))
                        .with_extension("rs")
                        .exists(),
                "{shown}: there is no test `{test}`"
            );
        }
    }
}
