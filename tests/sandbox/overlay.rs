//! A run on an overlay: what it changes is told, and is the directory's only when that is said. The same for a copy of the warm
//! interpreter, an interpreter of its own, and a command.

use crate::harness::{BOTH, Mode};
use crate::pool::{Ended, PYTHON, Pool, Run, WAYS, Way, hear, in_memory, say};
use crate::same_owner;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Of a pool with a warm interpreter, or of one without.
fn begin(pool: &Pool, way: Way, code: &str, userdir: &Path, limits: Value) -> Run {
    let keys = json!({ "userdir": userdir, "overlay": true, "limits": limits });
    let mut run = keys;
    match way {
        Way::Command => {
            run["command"] = json!([PYTHON, "-c", code]);
            pool.ask(run, &[])
        }
        Way::Copy | Way::Cold => {
            run["task"] = json!({ "source": "bytes", "name": "overlay" });
            pool.ask(run, &[("code", &in_memory(code.as_bytes()))])
        }
    }
}

fn pool(mode: Mode, way: Way) -> Pool {
    Pool::new(mode, json!({ "warm": way == Way::Copy }))
}

/// A directory with something of each kind that is changed.
fn filled(pool: &Pool, name: &str) -> PathBuf {
    let userdir = pool.userdir(name);
    for (path, content) in [
        ("old", "1"),
        ("gone", "1"),
        ("kept", "kept"),
        ("folder/inner", "1"),
        ("replaced/was", "1"),
    ] {
        pool.file(&format!("{name}/{path}"), content.as_bytes());
    }
    userdir
}

const CHANGE: &str = "
import os, shutil
open('old', 'a').write('23')
open('new', 'w').write('n' * 1000)
os.remove('gone')
os.mkdir('made'); open('made/file', 'w').write('x')
open('folder/second', 'w').write('ab')
shutil.rmtree('replaced'); os.mkdir('replaced'); open('replaced/is', 'w').write('y')
os.symlink('old', 'link')
print(sorted(os.listdir()), open('old').read(), os.getcwd())
";

const SEEN: &str = "['folder', 'kept', 'link', 'made', 'new', 'old', 'replaced'] 123 /home/user\n";

/// All that lies in a directory, as text.
fn listed(directory: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => out.extend(listed(&entry.path()).iter().map(|path| format!("{name}/{path}"))),
            kind if kind.is_symlink() => out.push(format!(
                "{name} -> {}",
                std::fs::read_link(entry.path()).unwrap().display()
            )),
            _ => out.push(format!("{name} {}", std::fs::read(entry.path()).unwrap().len())),
        }
    }
    out.sort();
    out
}

const BEFORE: [&str; 5] = ["folder/inner 1", "gone 1", "kept 4", "old 1", "replaced/was 1"];
const AFTER: [&str; 8] = [
    "folder/inner 1",
    "folder/second 2",
    "kept 4",
    "link -> old",
    "made/file 1",
    "new 1000",
    "old 3",
    "replaced/is 1",
];

#[track_caller]
fn changes(ended: &Ended) -> Vec<(String, String, u64)> {
    let all = ended.event["changes"].as_array();
    let all = all.unwrap_or_else(|| panic!("no changes are told: {ended:#?}"));
    let text = |change: &Value, key: &str| change[key].as_str().unwrap().to_owned();
    let mut all: Vec<_> = all
        .iter()
        .map(|change| {
            (
                text(change, "path"),
                text(change, "kind"),
                change["size"].as_u64().unwrap(),
            )
        })
        .collect();
    all.sort();
    all
}

fn decide(run: &Run, order: &str) -> Value {
    say(&run.connection, json!({ order: true }).to_string().as_bytes(), &[]);
    hear(&run.connection).unwrap()
}

#[test]
fn changes_are_told_and_kept_only_when_that_is_said() {
    let of = |path: &str, kind: &str, size: u64| (path.to_owned(), kind.to_owned(), size);
    let told = [
        of("folder/second", "added", 2),
        of("gone", "deleted", 0),
        of("link", "added", 0),
        of("made", "added", 0),
        of("made/file", "added", 1),
        of("new", "added", 1000),
        of("old", "modified", 3),
        of("replaced", "modified", 0),
        of("replaced/is", "added", 1),
    ];
    for mode in BOTH {
        for way in WAYS {
            let pool = pool(mode, way);
            let userdir = filled(&pool, "user");
            for (order, answer, left) in [
                ("discard", "discarded", &BEFORE[..]),
                ("commit", "committed", &AFTER[..]),
            ] {
                let run = begin(&pool, way, CHANGE, &userdir, json!({}));
                let ended = run.end().ok();
                assert_eq!(ended.out, SEEN, "{mode:?} {way:?}: {ended:#?}");
                assert_eq!(changes(&ended), told, "{mode:?} {way:?}");
                // Nothing is in the directory yet.
                assert_eq!(listed(&userdir), BEFORE, "{mode:?} {way:?}");
                assert_eq!(decide(&run, order)["event"], answer, "{mode:?} {way:?}");
                assert_eq!(listed(&userdir), left, "{mode:?} {way:?} {order}");
            }
            for path in ["new", "made/file", "link", "replaced/is", "folder"] {
                same_owner(&userdir, &userdir.join(path));
            }
            // Who goes away without a word keeps nothing.
            let run = begin(&pool, way, "open('late', 'w').write('x')", &userdir, json!({}));
            assert_eq!(changes(&run.end().ok()), [of("late", "added", 1)]);
            drop(run);
            pool.still_serves();
            assert_eq!(listed(&userdir), AFTER, "{mode:?} {way:?}");
        }
    }
}

#[test]
fn an_overlay_holds_only_so_much() {
    let fill = "
made = 0
try:
    with open('large', 'wb', 0) as file:
        while True: made += file.write(bytes(1 << 16))
except OSError as e:
    print(e.strerror, 0 < made <= 1 << 20)
import os; os.remove('large')
made = 0
try:
    while True: open(f'small-{made}', 'w').close(); made += 1
except OSError as e:
    print(e.strerror, 40 < made <= 60)
";
    for mode in BOTH {
        for way in WAYS {
            let pool = pool(mode, way);
            let userdir = pool.userdir("user");
            let run = begin(&pool, way, fill, &userdir, json!({ "userdir": 1 << 20, "files": 50 }));
            let ended = run.end().ok();
            let full = "No space left on device True\n";
            assert_eq!(ended.out, full.repeat(2), "{mode:?} {way:?}: {ended:#?}");
            drop(run);
            pool.still_serves();
            assert_eq!(listed(&userdir), [""; 0]);
            // The control: without one, what is written is there.
            let keys = json!({ "userdir": userdir });
            pool.with("open('there', 'w').close()", keys).ok();
            assert_eq!(listed(&userdir), ["there 0"], "{mode:?} {way:?}");
        }
    }
}
