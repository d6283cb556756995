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
