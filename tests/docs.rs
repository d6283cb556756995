//! What the documentation shows is run: every `sh` block of README.md, CONTRIBUTING.md, SECURITY.md and docs/*.md, in order, in a fresh folder,
//! and every whole manifest is checked. A block of another kind is not for pasting.

mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;

/// A fenced block: its language, the line it begins at, its text.
struct Block {
    language: String,
    line: usize,
    text: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut out = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                open = Some(Block {
                    language: language.trim().to_owned(),
                    line: number + 1,
                    text: String::new(),
                })
            }
            (Some(_), Some(_)) => out.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    out
}

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all: Vec<PathBuf> = std::fs::read_dir(root.join("docs"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "md"))
        .collect();
    all.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|page| root.join(page)));
    all.sort();
    all
}

#[test]
fn every_command_works() {
    harness::need_root();
    let mut run = 0;
    for page in pages() {
        let folder = harness::fresh_folder();
        let path = format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            harness::binary().parent().unwrap().display()
        );
        for block in blocks(&std::fs::read_to_string(&page).unwrap())
            .iter()
            .filter(|b| b.language == "sh")
        {
            let output = Command::new("sh")
                .args(["-eu", "-c", &block.text])
                .current_dir(&folder)
                .env_clear()
                .env("PATH", &path)
                .env("HOME", &folder)
                .env("PYSECURE_STATE_DIR", folder.join("state"))
                .stdin(std::process::Stdio::null())
                .output()
                .unwrap();
            let ended = harness::Ended::from(output);
            assert_eq!(
                ended.code,
                0,
                "{}:{}\n{}\n{}\n{}",
                page.display(),
                block.line,
                block.text,
                ended.out,
                ended.err
            );
            run += 1;
        }
        let _ = Command::new(harness::binary())
            .args(["down", "--purge"])
            .current_dir(&folder)
            .env("PYSECURE_STATE_DIR", folder.join("state"))
            .output();
        std::fs::remove_dir_all(&folder).unwrap();
    }
    assert!(run >= 5, "only {run} blocks were found");
}

#[test]
fn every_whole_manifest_is_right() {
    let mut checked = 0;
    for page in pages() {
        for block in blocks(&std::fs::read_to_string(&page).unwrap())
            .iter()
            .filter(|b| b.language == "toml" && b.text.starts_with("[app]"))
        {
            let folder = harness::fresh_folder();
            std::fs::write(folder.join("pysecure.toml"), &block.text).unwrap();
            // What a manifest names beside itself.
            std::fs::create_dir(folder.join("app")).unwrap();
            let output = Command::new(harness::binary())
                .arg("check")
                .current_dir(&folder)
                .env("PYSECURE_STATE_DIR", folder.join("state"))
                .output()
                .unwrap();
            let ended = harness::Ended::from(output);
            assert_eq!(ended.code, 0, "{}:{}\n{}", page.display(), block.line, ended.err);
            std::fs::remove_dir_all(&folder).unwrap();
            checked += 1;
        }
    }
    assert!(checked >= 2, "only {checked} manifests were found");
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            if target.starts_with("http") || target.starts_with('#') {
                continue;
            }
            let path = page.parent().unwrap().join(target.split('#').next().unwrap());
            assert!(path.exists(), "{}: {target}", page.display());
        }
    }
}

/// What the sandbox is said to do beside its peers is held by tests that there are, and what peers do by their own pages.
#[test]
fn the_table_beside_others_names_its_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/sandbox.md")).unwrap();
    let section = page.split_once("\n## Beside others\n").unwrap().1;
    let mut tests = String::new();
    for folder in ["tests", "tests/sandbox", "python/tests"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "rs" || e == "py") {
                tests.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let (head, rows) = rows.split_first().unwrap();
    assert_eq!(head.len(), 9);
    assert!(rows.len() > 15, "{} rows", rows.len());
    for row in rows {
        let [what, ours, peers @ .., held] = &row[..] else {
            panic!("{row:?}")
        };
        assert_eq!(row.len(), head.len(), "{what}");
        for peer in peers.iter().filter(|peer| **peer != "–") {
            let source = peer.rsplit_once("][").and_then(|(_, name)| name.strip_suffix(']'));
            let source = source.unwrap_or_else(|| panic!("{what}: {peer} has no source"));
            let link = format!("\n[{source}]: https://");
            assert!(section.contains(&link), "{what}: {source} leads nowhere");
        }
        let names: Vec<&str> = held.split('`').skip(1).step_by(2).collect();
        assert_eq!(
            names.is_empty(),
            matches!(*ours, "no" | "not yet"),
            "{what}: {ours} is held by {names:?}"
        );
        for name in names {
            let is_there = tests.contains(&format!("fn {name}(")) || tests.contains(&format!("def {name}("));
            assert!(is_there, "{what}: there is no test {name}");
        }
    }
}
