//! The mutations of tests/mutations still take away what they say, and name tests that there are. Whether those notice is
//! for tests/mutations/run.

use std::collections::BTreeMap;
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

/// The tests of a crate, by their whole names: those are what a filter is held against.
struct Tests {
    found: Vec<String>,
}

impl Tests {
    /// Those of the crate whose root is this file.
    fn of(file: &Path) -> Tests {
        let mut tests = Tests { found: Vec::new() };
        tests.read(file, file.parent().unwrap(), "");
        tests
    }

    /// `folder`: where the modules lie that the file names. `module`: what stands before the names of its tests.
    fn read(&mut self, file: &Path, folder: &Path, module: &str) {
        let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        // The modules within the file that a line lies in, each with its indentation, which is rustfmt's.
        let mut within: Vec<(usize, &str)> = Vec::new();
        let (mut attributes, mut path) = (Vec::new(), None);
        for line in text.lines() {
            let words = line.trim_start();
            let indented = line.len() - words.len();
            if words == "}" && within.last().is_some_and(|(outer, _)| *outer == indented) {
                within.pop();
            }
            if words.starts_with("#[") {
                attributes.push(words);
                path = path.or_else(|| words.strip_prefix("#[path = \"")?.strip_suffix("\"]"));
                continue;
            }
            let before: String = within.iter().map(|(_, name)| format!("{name}::")).collect();
            if let Some(function) = words.strip_prefix("fn ").and_then(|rest| rest.split(['(', '<']).next()) {
                let is_test = attributes.contains(&"#[test]") && !attributes.iter().any(|a| a.starts_with("#[ignore"));
                self.found
                    .extend(is_test.then(|| format!("{module}{before}{function}")));
            }
            let item = words.find("mod ").map(|at| words.split_at(at));
            let is_module = |visible: &str| visible.is_empty() || visible.starts_with("pub");
            if let Some((_, item)) = item.filter(|(visible, _)| is_module(visible)) {
                if let Some(name) = item[4..].strip_suffix(" {") {
                    within.push((indented, name));
                } else if let Some(name) = item[4..].strip_suffix(';') {
                    let folder = within.iter().fold(folder.to_owned(), |at, (_, name)| at.join(name));
                    self.module(file, &folder, path, name, &format!("{module}{before}{name}::"));
                }
            }
            if !words.starts_with("//") {
                attributes.clear();
                path = None;
            }
        }
    }

    fn module(&mut self, file: &Path, folder: &Path, path: Option<&str>, name: &str, module: &str) {
        let own = folder.join(name);
        match path {
            Some(path) => {
                let file = file.parent().unwrap().join(path);
                self.read(&file, file.parent().unwrap(), module);
            }
            None if own.join("mod.rs").exists() => self.read(&own.join("mod.rs"), &own, module),
            None => self.read(&own.with_extension("rs"), &own, module),
        }
    }

    /// Does each word of a filter choose one? Without any word all are chosen.
    fn match_filter(&self, filter: &str) -> bool {
        let is_in = |word: &str| self.found.iter().any(|test| test.contains(word));
        !self.found.is_empty() && filter.split_whitespace().all(is_in)
    }
}

/// The root of the crate that `BINARY` of a patch's head stands for.
fn crate_root(binary: &str) -> PathBuf {
    let (package, name) = match binary.split_once(':') {
        Some(("rpc-core", name)) => (root().join("python/core"), name),
        Some((package, name)) => (root().join(format!("crates/pysecure-{package}")), name),
        None => (root().to_owned(), binary),
    };
    match name {
        "lib" => package.join("src/lib.rs"),
        name => package.join("tests").join(name).with_extension("rs"),
    }
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
    let mut known: BTreeMap<String, Tests> = BTreeMap::new();
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
            let tests = known
                .entry(binary.to_owned())
                .or_insert_with(|| Tests::of(&crate_root(binary)));
            assert!(tests.match_filter(filter), "{shown}: there is no test `{test}`");
        }
    }
}

#[test]
fn a_filter_that_no_test_matches_is_seen() {
    let lib = Tests::of(&crate_root("lib"));
    // All, a module, a file of tests, and one within a macro.
    for filter in ["", "plan", "supervise::machine::tests::model", "nothing_hidden_is_left"] {
        assert!(lib.match_filter(filter), "{filter}");
    }
    // A function that is no test, a file without any, and names that nothing has.
    for filter in ["hash_entries", "jail::hash", "no_such_test", "plan no_such_test"] {
        assert!(!lib.match_filter(filter), "{filter}");
    }
    assert!(!Tests::of(&crate_root("supervision")).match_filter("has_pending_end"));
}
