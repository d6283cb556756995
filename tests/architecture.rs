//! The layers of docs/contributing/architecture.md: which folder of `src` may use which, and which files may use each other.
//!
//! Both tables of that page are read here and held against the imports and paths in the sources, so the page cannot
//! say what is not so. Tests within the sources may use what they like.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules by their path, such as `plan::ledger`; the crate's own is the empty path.
type Sources = BTreeMap<String, String>;
type Edges = BTreeMap<String, BTreeSet<String>>;

/// What a folder may use, by its name.
type Allowed = BTreeMap<String, BTreeSet<String>>;

#[test]
fn folders_use_only_what_their_row_allows() {
    let (sources, page) = (sources(), page());
    let wrong = layer_faults(&edges(&sources), &allowed(&page));
    assert!(
        wrong.is_empty(),
        "docs/contributing/architecture.md:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn files_go_in_a_circle_only_where_the_page_says_why() {
    let (sources, page) = (sources(), page());
    let wrong = circle_faults(&edges(&sources), &circles_with_reasons(&page));
    assert!(
        wrong.is_empty(),
        "docs/contributing/architecture.md:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn declared_permissions_are_read_only_where_rows_are_made_of_them() {
    let sources = sources();
    let reads = sources.iter().filter(|(_, text)| text.contains(".declared"));
    // `build` says which of them serve nobody.
    let modules: Vec<&str> = reads.map(|(module, _)| module.as_str()).collect();
    assert_eq!(modules, ["model::build", "model::classes", "model::matrix"]);
}

#[test]
fn unsafe_stands_where_the_page_says_and_no_thread_is_made() {
    let page = page();
    let paragraph = page
        .split("\n\n")
        .find(|p| p.starts_with("`unsafe` stands in "))
        .unwrap();
    let named: BTreeSet<String> = paragraph
        .split('`')
        .skip(3)
        .step_by(2)
        .map(|place| place.trim_end_matches(".rs").replace('/', "::"))
        .collect();
    let mut all = sources();
    // The program is a crate of its own.
    let main = fs::read_to_string(root().join("src/main.rs")).unwrap();
    assert_eq!(all.insert("main".to_owned(), main), None);
    let mut found = BTreeSet::new();
    for (module, text) in all {
        assert!(!makes_a_thread(&text), "{module} makes a thread");
        if allows_unsafe(&text) {
            found.insert(match folder_of(&module) {
                "sys" => "sys".to_owned(),
                _ => module,
            });
        }
    }
    assert_eq!(found, named);
}

/// The lint is denied everywhere else, so whoever names it allows it, be it with others or by `expect`.
fn allows_unsafe(text: &str) -> bool {
    words(text).iter().any(|word| word == "unsafe_code")
}

fn makes_a_thread(text: &str) -> bool {
    let makes = |word: &str| ["spawn", "scope", "Builder"].contains(&word);
    tokens(text)
        .windows(3)
        .any(|w| w[0] == "thread" && w[1] == "::" && makes(&w[2]))
}

#[test]
fn unsafe_and_threads_are_seen_in_each_form() {
    for bad in [
        "#![allow(unsafe_code)]",
        "#![allow(\n    unsafe_code,\n    reason = \"x\"\n)]",
        "#[allow(dead_code, unsafe_code)]\nfn f() {}",
        "#[expect(unsafe_code)]\nfn f() {}",
        "#[cfg(test)]\nmod tests {\n    #[allow(unsafe_code)]\n    fn f() {}\n}",
    ] {
        assert!(allows_unsafe(bad), "{bad}");
    }
    assert!(!allows_unsafe(
        "// unsafe_code\nconst A: &str = \"allow(unsafe_code)\";"
    ));
    for bad in [
        "#[cfg(test)]\nuse x::y;\nfn f() { std::thread::spawn(g); }",
        "fn f() { thread::Builder::new(); }",
    ] {
        assert!(makes_a_thread(bad), "{bad}");
    }
    assert!(!makes_a_thread(
        "#[cfg(test)]\nmod tests {\n    fn f() { thread::spawn(g); }\n}"
    ));
}

/// The rows of the page's walks, a list each: file and function. A list whose rows name neither is none.
fn walks(page: &str) -> Vec<Vec<(String, String)>> {
    let mut out: Vec<Vec<(String, String)>> = Vec::new();
    for section in page.split("\n#") {
        let rows = section.lines().filter_map(|line| {
            let (number, rest) = line.split_once(". ")?;
            Some((number.parse::<usize>().ok()?, rest))
        });
        let rows: Vec<(usize, &str)> = rows.collect();
        let read = |rest: &str| {
            let (file, rest) = rest.strip_prefix('`')?.split_once("`: `")?;
            Some((file.to_owned(), rest.split_once('`')?.0.to_owned()))
        };
        let walk: Vec<(String, String)> = rows.iter().filter_map(|(_, rest)| read(rest)).collect();
        if walk.is_empty() {
            continue;
        }
        for (at, (number, rest)) in rows.iter().enumerate() {
            assert!(
                read(rest).is_some(),
                "a row of a walk without file and function: {rest}"
            );
            assert_eq!(*number, at + 1, "{rest}");
        }
        out.push(walk);
    }
    out
}

/// What is wrong with walks: functions that are not there, and rows that go back.
fn faults_of_walks(walks: &[Vec<(String, String)>], source: impl Fn(&str) -> String) -> Vec<String> {
    const STAGES: [&str; 6] = ["manifest", "model", "plan", "compile", "supervise", "launch"];
    let stage = |file: &str| STAGES.iter().position(|s| file.split('/').next() == Some(*s));
    let mut faults = Vec::new();
    for walk in walks {
        for (file, function) in walk {
            if !source(file).contains(&format!("fn {function}(")) && !source(file).contains(&format!("fn {function}<"))
            {
                faults.push(format!("{file} has no function {function}"));
            }
        }
        for pair in walk.windows(2) {
            if stage(&pair[0].0) > stage(&pair[1].0) || pair[0] == pair[1] {
                faults.push(format!("{} {} goes back", pair[1].0, pair[1].1));
            }
        }
    }
    faults
}

#[test]
fn walks_are_of_functions_that_there_are_and_go_forward_only() {
    let read = |file: &str| {
        let path = root().join("src").join(file);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let found = walks(&page());
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(faults_of_walks(&found, read), Vec::<String>::new());
    let wrong = "# W\n1. `plan/draw.rs`: `draw` x\n2. `model/build.rs`: `no_such` y\n";
    assert_eq!(
        faults_of_walks(&walks(wrong), read),
        [
            "model/build.rs has no function no_such",
            "model/build.rs no_such goes back"
        ]
    );
}

#[test]
#[should_panic(expected = "without file and function: `draw` of `plan/draw.rs`")]
fn a_row_of_a_walk_that_cannot_be_read_is_told() {
    walks("# W\n1. `plan/draw.rs`: `draw` x\n2. `draw` of `plan/draw.rs`\n");
}

#[test]
fn a_bad_import_is_seen() {
    let page = "| `src/a` | x | `b` | y |\n| `src/b` | x | nothing | y |\n";
    let of = |a: &str, b: &str| -> Sources {
        [("", ""), ("a", a), ("b", b), ("b::inner", "pub struct Inner;")]
            .map(|(module, text)| (module.to_owned(), text.to_owned()))
            .into()
    };
    let faults = |sources: &Sources| layer_faults(&edges(sources), &allowed(page));
    assert_eq!(faults(&of("use crate::b::Thing;", "")), Vec::<String>::new());
    for bad in [
        "use crate::a::Thing;",
        "use crate::{a::{One, Two}, b};",
        "fn f() { crate::a::g(); }",
        "use super::a;",
        "pub(crate) use crate::a as other;",
    ] {
        assert_eq!(faults(&of("", bad)), ["`b` uses `a`: b"], "{bad}");
    }
    for fine in [
        "// use crate::a::Thing;",
        "const A: &str = \"crate::a\";",
        "#[cfg(test)]\nmod tests { use crate::a; }",
    ] {
        assert_eq!(faults(&of("", fine)), Vec::<String>::new(), "{fine}");
    }
    // A folder without a row, and a row without a folder.
    let mut more = of("", "");
    more.insert("c".to_owned(), String::new());
    assert_eq!(faults(&more), ["`c` has no row"]);
    more.remove("c");
    more.remove("a");
    assert_eq!(faults(&more), ["`src/a` is not there"]);
}

#[test]
fn a_circle_is_seen() {
    let sources: Sources = [
        ("", ""),
        ("a", "mod b; mod c; pub use b::B; fn f() { c::g() }"),
        ("a::b", "use super::c::C; pub struct B;"),
        ("a::c", "use super::B;"),
    ]
    .map(|(module, text)| (module.to_owned(), text.to_owned()))
    .into();
    assert_eq!(
        circle_faults(&edges(&sources), &[]),
        ["a circle that has no reason: `a::b`, `a::c`"]
    );
    let stated = [BTreeSet::from(["a::b".to_owned(), "a::c".to_owned()])];
    assert_eq!(circle_faults(&edges(&sources), &stated), Vec::<String>::new());
    let mut straight = sources;
    straight.insert("a::c".to_owned(), String::new());
    assert_eq!(
        circle_faults(&edges(&straight), &stated),
        ["there is no circle any more of `a::b`, `a::c`"]
    );
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(root().join("docs/contributing/architecture.md")).unwrap()
}

/// All modules below `src`, without what stands in comments, in strings and in tests.
fn sources() -> Sources {
    let mut out = Sources::new();
    gather(&root().join("src"), "", &mut out);
    assert!(out.len() > 100, "the sources are not where they were");
    out
}

fn gather(folder: &Path, module: &str, out: &mut Sources) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let inner = match (module, stem) {
            (_, "mod") => module.to_owned(),
            ("", "lib" | "main") => String::new(),
            ("", stem) => stem.to_owned(),
            (module, stem) => format!("{module}::{stem}"),
        };
        if path.is_dir() {
            gather(&path, &inner, out);
        } else if path.extension().is_some_and(|e| e == "rs") && path.file_name() != Some("main.rs".as_ref()) {
            out.insert(inner, fs::read_to_string(&path).unwrap());
        }
    }
}

/// The third column of the rows that begin with a folder or file of `src`.
fn allowed(page: &str) -> Allowed {
    let mut out = Allowed::new();
    for row in page.lines().filter(|l| l.starts_with("| `src/")) {
        let columns: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let names = columns[0].split('`').skip(1).step_by(2);
        let uses: BTreeSet<String> = columns[2].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        for name in names {
            let name = name.trim_start_matches("src/").trim_end_matches(".rs");
            out.insert(name.to_owned(), uses.clone());
        }
    }
    out
}

/// The first column of the table of circles: files, as paths below `src`; a folder's `mod.rs` has its folder's name.
fn circles_with_reasons(page: &str) -> Vec<BTreeSet<String>> {
    let rows = page.lines().filter(|l| l.starts_with("| circle: "));
    rows.map(|row| {
        let files = row.split(" | ").next().unwrap().split('`').skip(1).step_by(2);
        files
            .map(|file| file.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::"))
            .collect()
    })
    .collect()
}

fn folder_of(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

fn layer_faults(edges: &Edges, allowed: &Allowed) -> Vec<String> {
    let mut wrong = Vec::new();
    let folders: BTreeSet<&str> = edges.keys().map(|m| folder_of(m)).filter(|m| !m.is_empty()).collect();
    for folder in &folders {
        if !allowed.contains_key(*folder) {
            wrong.push(format!("`{folder}` has no row"));
        }
    }
    for folder in allowed.keys().filter(|f| !folders.contains(f.as_str())) {
        wrong.push(format!("`src/{folder}` is not there"));
    }
    let mut bad: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (module, targets) in edges {
        let Some(may) = allowed.get(folder_of(module)) else {
            continue;
        };
        for to in targets.iter().map(|t| folder_of(t)).collect::<BTreeSet<_>>() {
            if !to.is_empty() && to != folder_of(module) && !may.contains(to) {
                bad.entry((folder_of(module), to)).or_default().push(module);
            }
        }
    }
    wrong.extend(
        bad.iter()
            .map(|((from, to), by)| format!("`{from}` uses `{to}`: {}", by.join(", "))),
    );
    wrong
}

fn circle_faults(edges: &Edges, stated: &[BTreeSet<String>]) -> Vec<String> {
    let name = |set: &BTreeSet<String>| set.iter().map(|m| format!("`{m}`")).collect::<Vec<_>>().join(", ");
    let found = circles(edges);
    let mut wrong: Vec<String> = found
        .iter()
        .filter(|circle| !stated.iter().any(|s| circle.is_subset(s)))
        .map(|circle| format!("a circle that has no reason: {}", name(circle)))
        .collect();
    let gone = stated
        .iter()
        .filter(|s| !found.iter().any(|circle| circle.is_subset(s)));
    wrong.extend(gone.map(|circle| format!("there is no circle any more of {}", name(circle))));
    wrong
}

/// Sets of files that each lead to all others of theirs.
fn circles(edges: &Edges) -> Vec<BTreeSet<String>> {
    let reach = |from: &String| -> BTreeSet<&String> {
        let mut seen = BTreeSet::new();
        let mut left: Vec<&String> = edges.get(from).into_iter().flatten().collect();
        while let Some(next) = left.pop() {
            if seen.insert(next) {
                left.extend(edges.get(next).into_iter().flatten());
            }
        }
        seen
    };
    let all: BTreeMap<&String, BTreeSet<&String>> = edges.keys().map(|m| (m, reach(m))).collect();
    let mut out: Vec<BTreeSet<String>> = Vec::new();
    for (module, reached) in &all {
        let mates = reached
            .iter()
            .filter(|o| all.get(*o).is_some_and(|back| back.contains(module)));
        let circle: BTreeSet<String> = mates.map(|m| (*m).clone()).collect();
        if circle.len() > 1 && !out.contains(&circle) {
            out.push(circle);
        }
    }
    out
}

/// Which module uses what of which other. What a module only passes on (`pub use`) is looked for where it is.
fn edges(sources: &Sources) -> Edges {
    let files: BTreeMap<&str, File> = sources
        .iter()
        .map(|(m, text)| (m.as_str(), File::read(m, text)))
        .collect();
    let resolved = |module: &str, path: &[String]| -> Option<String> {
        let mut at = module.to_owned();
        let mut rest: Vec<String> = path.to_vec();
        // Every step leads down, or by one re-export elsewhere.
        for _ in 0..20 {
            let Some(next) = rest.first().cloned() else { break };
            let child = if at.is_empty() {
                next.clone()
            } else {
                format!("{at}::{next}")
            };
            if files.contains_key(child.as_str()) {
                at = child;
                rest.remove(0);
            } else if let Some(passed) = files.get(at.as_str()).and_then(|f| f.passed_on.get(&next)) {
                rest.splice(0..1, passed.iter().cloned());
                at = String::new();
            } else {
                break;
            }
        }
        Some(at)
    };
    files
        .iter()
        .map(|(module, file)| {
            let mut to: BTreeSet<String> = file.paths.iter().filter_map(|p| resolved("", p)).collect();
            to.remove(*module);
            ((*module).to_owned(), to)
        })
        .collect()
}

/// What one file says of others: full paths from the crate's root.
struct File {
    paths: Vec<Vec<String>>,
    passed_on: BTreeMap<String, Vec<String>>,
}

impl File {
    fn read(module: &str, text: &str) -> File {
        let tokens = tokens(text);
        let mut out = File {
            paths: Vec::new(),
            passed_on: BTreeMap::new(),
        };
        let children: BTreeSet<&str> = tokens
            .windows(3)
            .filter(|w| w[0] == "mod" && w[2] == ";")
            .map(|w| w[1].as_str())
            .collect();
        let mut at = 0;
        while at < tokens.len() {
            let before = at.checked_sub(1).map_or("", |b| tokens[b].as_str());
            match tokens[at].as_str() {
                // As a statement; `use<'a>` stands in types.
                "use" if tokens.get(at + 1).is_some_and(|t| t != "<") => {
                    // `pub use`, and `pub(crate) use`.
                    let passes = before == "pub" || before == ")";
                    let mut leaves = Vec::new();
                    at = tree(&tokens, at + 1, &[], &mut leaves);
                    for (path, name) in leaves {
                        let Some(path) = absolute(module, &path, &children) else {
                            continue;
                        };
                        // Modules inside see what this one imports, too.
                        out.passed_on.insert(name, path.clone());
                        // To pass on what stands in one's own folder is not to use it.
                        if !(passes && path.first().map(String::as_str) == Some(folder_of(module))) {
                            out.paths.push(path);
                        }
                    }
                }
                "crate" | "super" | "self" if before != "::" && tokens.get(at + 1).is_some_and(|t| t == "::") => {
                    let (path, end) = straight(&tokens, at);
                    out.paths.extend(absolute(module, &path, &children));
                    at = end;
                }
                word if before != "::" && children.contains(word) && tokens.get(at + 1).is_some_and(|t| t == "::") => {
                    let (path, end) = straight(&tokens, at);
                    out.paths.extend(absolute(module, &path, &children));
                    at = end;
                }
                _ => at += 1,
            }
        }
        out
    }
}

/// `a::b::c` from here on, and where it ends.
fn straight(tokens: &[String], mut at: usize) -> (Vec<String>, usize) {
    let mut path = vec![tokens[at].clone()];
    at += 1;
    while tokens.get(at).is_some_and(|t| t == "::") && tokens.get(at + 1).is_some_and(|t| is_word(t)) {
        path.push(tokens[at + 1].clone());
        at += 2;
    }
    (path, at)
}

/// The paths of a `use`, and the name that each has from there on; where the tree ends.
fn tree(tokens: &[String], mut at: usize, before: &[String], leaves: &mut Vec<(Vec<String>, String)>) -> usize {
    let mut path = before.to_vec();
    while at < tokens.len() {
        match tokens[at].as_str() {
            "{" => {
                at += 1;
                while at < tokens.len() && tokens[at] != "}" && tokens[at] != ";" {
                    at = tree(tokens, at, &path, leaves);
                    if tokens.get(at).is_some_and(|t| t == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "}" | "," | ";" => break,
            "::" => at += 1,
            "as" => {
                let name = tokens.get(at + 1).cloned().unwrap_or_default();
                leaves.push((path, name));
                return at + 2;
            }
            word => {
                // `self` within braces is what stands before them.
                if word != "self" || path.is_empty() {
                    path.push(word.to_owned());
                }
                at += 1;
            }
        }
    }
    let name = path.last().cloned().unwrap_or_default();
    leaves.push((path, name));
    at
}

/// From the crate's root on. `None`: it is of another crate.
fn absolute(module: &str, path: &[String], children: &BTreeSet<&str>) -> Option<Vec<String>> {
    let mut here: Vec<String> = module
        .split("::")
        .filter(|m| !m.is_empty())
        .map(str::to_owned)
        .collect();
    let first = path.first()?;
    let skipped = match first.as_str() {
        "crate" => {
            here.clear();
            1
        }
        "self" => 1,
        "super" => {
            let up = path.iter().take_while(|p| *p == "super").count();
            here.truncate(here.len().checked_sub(up)?);
            up
        }
        word if children.contains(word) => 0,
        _ => return None,
    };
    here.extend(path[skipped..].iter().cloned());
    Some(here)
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words and signs up to the file's tests.
fn tokens(text: &str) -> Vec<String> {
    words(match text.find("#[cfg(test)]\nmod ") {
        Some(end) if !text[end..].lines().nth(1).is_some_and(|l| l.ends_with(';')) => &text[..end],
        _ => text,
    })
}

/// Words and signs, without comments, without what stands in strings.
fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r#\"") {
            rest.find("\"#").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            quoted(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'{'") || rest.starts_with("'}'") {
            3
        } else if rest.starts_with("::") {
            out.push("::".to_owned());
            2
        } else if c.is_alphabetic() || c == '_' {
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            out.push(rest[..end].to_owned());
            end
        } else {
            if !c.is_whitespace() {
                out.push(c.to_string());
            }
            c.len_utf8()
        };
        rest = &rest[length..];
    }
    out
}

/// The length of the string that `text` begins with.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}
