//! What the documentation shows is run, in the order of each page, in a fresh folder:
//!
//! - a block whose first line is `# PATH` is the content of that file;
//! - every command of an `sh` block has to succeed;
//! - every `$` line of a `console` block is run, and has to print what stands below it. Numbers that differ from one run to the next (ids, PIDs,
//!   times, sizes) count as equal, a line `…` stands for any lines, and a `…` at the end of a line for the rest of it.
//!
//! A `bash` block changes the machine (packages, systemd) and is not run here; docs/how-to/apache.md's `console` blocks are run by tests/apache.rs.
//! A `text` block is nothing to type.

mod harness;

use harness::{App, Mode};
use std::io::{Read, Seek};
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
    let mut all = below(&root.join("docs"));
    all.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|page| root.join(page)));
    all.sort();
    all
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(below(&path));
        } else if path.extension().is_some_and(|e| e == "md") {
            all.push(path);
        }
    }
    all
}

/// The paths that a page's links lead to, without those to the web and within the page.
fn links(page: &Path, text: &str) -> Vec<PathBuf> {
    let targets = text
        .match_indices("](")
        .map(|(at, _)| text[at + 2..].split(')').next().unwrap());
    targets
        .filter(|target| !target.starts_with("http") && !target.starts_with('#'))
        .map(|target| page.parent().unwrap().join(target.split('#').next().unwrap()))
        .collect()
}

/// A page that is being followed: where its commands have got to.
struct Walk<'a> {
    page: &'a Path,
    app: App,
    directory: PathBuf,
}

impl Walk<'_> {
    fn new(page: &Path, mode: Mode) -> Walk<'_> {
        let app = App::new(mode, "");
        std::fs::remove_file(app.folder.join("pysecure.toml")).unwrap();
        let directory = app.folder.clone();
        Walk { page, app, directory }
    }

    /// What this prints to both streams, and its exit code. `cd` lasts.
    fn shell(&mut self, text: &str, strict: bool) -> (String, i32) {
        let script = match strict {
            true => "set -eu\neval \"$1\"\npwd >\"$HOME/.at\"",
            false => "eval \"$1\"\ncode=$?\npwd >\"$HOME/.at\"\nexit $code",
        };
        let path = format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            harness::binary().parent().unwrap().display()
        );
        // In one file, so that lines are in the order in which they were printed. What a command leaves running may keep it open.
        let mut printed = tempfile::tempfile().unwrap();
        let mut command = self.app.shell_free("sh", &["-c", script, "sh", text]);
        command.current_dir(&self.directory).env("PATH", path);
        command
            .stdout(printed.try_clone().unwrap())
            .stderr(printed.try_clone().unwrap());
        let status = command.status().unwrap();
        let mut said = String::new();
        printed.rewind().unwrap();
        printed.read_to_string(&mut said).unwrap();
        if let Ok(at) = std::fs::read_to_string(self.app.folder.join(".at")) {
            self.directory = PathBuf::from(at.trim_end());
        }
        (said, status.code().unwrap_or(-1))
    }

    /// Writes or runs it, and says what is not as the page shows it.
    fn block(&mut self, block: &Block) -> Result<(), String> {
        let place = format!("{}:{} ({:?})", self.page.display(), block.line, self.app.mode);
        if let Some(file) = block.file() {
            let inside = self.directory.join(file);
            let inside = inside.strip_prefix(&self.app.folder).unwrap().to_str().unwrap();
            self.app.write(inside, &block.text);
        }
        if block.language == "sh" {
            let (said, code) = self.shell(&block.text, true);
            if code != 0 {
                return Err(format!("{place}\n{}\n{said}", block.text));
            }
        }
        if block.language == "console" {
            for (command, shown) in block.commands() {
                let (said, code) = self.shell(&command, false);
                // What `up` says only where a start takes long, as on a machine that much else wants.
                let is_progress = |line: &&str| {
                    line.starts_with("waiting for ")
                        || line
                            .split_once(": ")
                            .is_some_and(|(count, _)| count.split(" of ").all(|number| number.parse::<u32>().is_ok()))
                };
                let lines: Vec<&str> = said.lines().filter(|line| !is_progress(line)).collect();
                let is_shown = alike(&shown.lines().collect::<Vec<_>>(), &lines);
                if !is_shown || (code != 0 && shown.is_empty()) {
                    return Err(format!(
                        "{place}\n$ {command}\nis shown to print\n{shown}\nand prints ({code})\n{said}"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Block {
    /// The file whose content this is.
    fn file(&self) -> Option<&str> {
        let first = self.text.lines().next()?;
        let name = first.strip_prefix("# ").or_else(|| first.strip_prefix("// "))?;
        let is_path = name.contains('.') && !name.contains([' ', ':']);
        (is_path && !["sh", "bash", "console", "text"].contains(&self.language.as_str())).then_some(name)
    }

    /// Of a `console` block: each command, and what it is shown to print. A command goes on in lines that begin with `> `.
    fn commands(&self) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = Vec::new();
        for line in self.text.lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                all.push((command.to_owned(), String::new()));
                continue;
            }
            let (command, shown) = all.last_mut().expect("a `console` block begins with `$ `");
            match line.strip_prefix("> ") {
                Some(more) if shown.is_empty() => *command += &format!("\n{more}"),
                _ => *shown += &format!("{line}\n"),
            }
        }
        all
    }
}

/// Does a page show what was printed?
fn alike(shown: &[&str], said: &[&str]) -> bool {
    match shown {
        [] => said.is_empty(),
        ["…", rest @ ..] => (0..=said.len()).any(|skipped| alike(rest, &said[skipped..])),
        [line, rest @ ..] => said.split_first().is_some_and(|(first, more)| {
            let (line, open) = line.strip_suffix('…').map_or((*line, false), |line| (line, true));
            let (line, mut first): (Vec<_>, Vec<_>) =
                (line.split_whitespace().collect(), first.split_whitespace().collect());
            if open {
                first.truncate(line.len());
            }
            line.len() == first.len() && line.iter().zip(&first).all(|(a, b)| same(a, b)) && alike(rest, more)
        }),
    }
}

fn same(shown: &str, said: &str) -> bool {
    let is_number = |word: &str| word.bytes().all(|b| b.is_ascii_digit());
    shown == said
        || shown.len() >= 4 && is_number(shown) && is_number(said)
        || measure(shown).is_some() && measure(shown) == measure(said)
}

/// What a word is but for its numbers, if these may be others the next time: long ones (ids, PIDs), and those with a unit.
fn measure(word: &str) -> Option<String> {
    let mut kind = String::new();
    let mut longest = 0;
    let mut run = 0;
    for letter in word.chars() {
        if letter.is_ascii_digit() {
            run += 1;
            longest = longest.max(run);
        } else if letter != '.' || run == 0 {
            run = 0;
            kind.push(letter);
            continue;
        }
        if !kind.ends_with('0') {
            kind.push('0');
        }
    }
    let unit = kind
        .strip_prefix('0')
        .is_some_and(|unit| ["s", "ms", "µs", "m", "h", "%", "B", "K", "M", "G"].contains(&unit));
    match unit {
        true if !kind.ends_with('%') && "sm".contains(kind.chars().nth(1)?) => Some("time".to_owned()),
        true => Some(kind),
        false => (longest >= 4).then_some(kind),
    }
}

#[test]
fn output_is_compared_but_for_what_differs_each_time() {
    let is = |shown: &str, said: &str| alike(&shown.lines().collect::<Vec<_>>(), &said.lines().collect::<Vec<_>>());
    assert!(is("web  running  61002  3s", "web running 100123 120ms"));
    assert!(is("a\n…\nz", "a\nb\nc\nz"));
    assert!(is("a…", "a b c"));
    for (shown, said) in [
        ("web running", "web stopped"),
        ("2 services", "3 services"),
        ("a", "a\nb"),
        ("uid=61002(web)", "uid=61002(auth)"),
        ("a\n…\nz", "a\nb"),
        ("a b…", "a c d"),
        ("", "a"),
        ("a", ""),
    ] {
        assert!(!is(shown, said), "{shown:?} is not {said:?}");
    }
}

/// Follows all pages of one mode, in the folder of each.
fn follow(mode: Mode, which: impl Fn(&Path) -> bool) -> usize {
    // Pages name ports of the host.
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (mut run, mut wrong) = (0, Vec::new());
    // One page, by a part of its path, for whoever writes it.
    let one = std::env::var("PYSECURE_PAGE").unwrap_or_default();
    let chosen = |page: &PathBuf| which(page) && page.to_str().unwrap().contains(&one);
    for page in pages().into_iter().filter(chosen) {
        let mut walk = Walk::new(&page, mode);
        for block in blocks(&std::fs::read_to_string(&page).unwrap()) {
            // tests/apache.rs runs these.
            if !(page.ends_with("how-to/apache.md") && block.language == "console") {
                run += usize::from(["sh", "console"].contains(&block.language.as_str()));
                if let Err(why) = walk.block(&block) {
                    wrong.push(why);
                    break;
                }
            }
        }
        let directory = walk.directory.clone();
        let _ = walk.app.command(&["down", "--purge"]).current_dir(directory).output();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    run
}

#[test]
fn every_command_works() {
    let run = follow(Mode::Root, |_| true);
    assert!(
        run >= 20 || std::env::var_os("PYSECURE_PAGE").is_some(),
        "only {run} blocks were found"
    );
}

/// What a newcomer follows, as most newcomers are.
#[test]
fn first_steps_work_without_root() {
    let run = follow(Mode::Rootless, |page| {
        page.ends_with("README.md") || page.parent().unwrap().ends_with("tutorial")
    });
    assert!(
        run >= 2 || std::env::var_os("PYSECURE_PAGE").is_some(),
        "only {run} blocks were found"
    );
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
        for path in links(&page, &std::fs::read_to_string(&page).unwrap()) {
            assert!(path.exists(), "{}: {}", page.display(), path.display());
        }
    }
}

/// A link to a part of a page leads to a heading that is there.
#[test]
fn every_link_to_a_heading_leads_to_one() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            let Some((file, anchor)) = target.split_once('#') else {
                continue;
            };
            if target.starts_with("http") {
                continue;
            }
            let other = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            let other = std::fs::read_to_string(other).unwrap();
            let has = other.lines().filter(|line| line.starts_with('#')).any(|line| {
                let words = line.trim_start_matches('#').trim().to_lowercase();
                let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
                kept.collect::<String>().replace(' ', "-") == anchor
            });
            assert!(has, "{}: {target}", page.display());
        }
    }
}

/// Everything that a text in a string literal of a program can say: lines that go on are joined.
fn said_by_the_program() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = ["src", "crates", "python/src"].map(|folder| root.join(folder)).to_vec();
    let mut all = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs" || e == "py") {
                all.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut joined = String::new();
    for part in all.split("\\\n") {
        joined.push_str(part.trim_start());
    }
    joined.replace("\\\"", "\"")
}

/// Messages that a reader looks up are those of the program: what is between the names (`…`) is found in its sources.
#[test]
fn the_messages_of_troubleshooting_are_the_programs() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/how-to/troubleshooting.md");
    let program = said_by_the_program();
    let mut messages = 0;
    for block in blocks(&std::fs::read_to_string(page).unwrap()) {
        for message in block.text.lines().filter(|_| block.language == "text") {
            for part in message.split('…') {
                assert!(program.contains(part.trim()), "nothing says {part:?} of {message:?}");
            }
            messages += 1;
        }
    }
    assert!(messages >= 30, "{messages} messages");
}

/// What of a page is read as text: its paragraphs, items and cells, without blocks and headings; and the heads of its tables.
fn prose(text: &str) -> (Vec<String>, Vec<&str>) {
    let (mut units, mut heads) = (vec![String::new()], Vec::new());
    let mut in_block = false;
    let lines: Vec<&str> = text.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        if line.starts_with("```") {
            in_block = !in_block;
        }
        let item = line.trim_start();
        let numbered = item.split_once(". ").is_some_and(|(n, _)| n.parse::<u8>().is_ok());
        if in_block || line.is_empty() || line.starts_with("```") || line.starts_with('#') {
            units.push(String::new());
        } else if line.starts_with('|') {
            if lines.get(number + 1).is_some_and(|next| next.starts_with("| ---")) {
                heads.push(*line);
            } else if !line.starts_with("| ---") {
                units.extend(line.replace("\\|", " ").split('|').map(|cell| cell.trim().to_owned()));
                units.push(String::new());
            }
        } else {
            if item.starts_with("- ") || numbered {
                units.push(String::new());
            }
            let unit = units.last_mut().unwrap();
            unit.push_str(item.trim_start_matches("- "));
            unit.push(' ');
        }
    }
    (units, heads)
}

/// Sentences that read as a translation: each with what is wrong with it.
fn clumsy(unit: &str) -> Vec<(&'static str, String)> {
    let mut sentences = vec![String::new()];
    for word in unit.split_whitespace() {
        let sentence = sentences.last_mut().unwrap();
        sentence.push_str(word);
        sentence.push(' ');
        if word
            .trim_end_matches(['*', ')', '`', '"'])
            .ends_with(['.', '?', '!', ':'])
        {
            sentences.push(String::new());
        }
    }
    let mut found = Vec::new();
    for sentence in sentences {
        let mut say = |what| found.push((what, sentence.trim().to_owned()));
        let first = sentence.split_whitespace().next().unwrap_or_default();
        let is_question = sentence.trim_end().trim_end_matches(['*', ')']).ends_with('?');
        if ["What", "Whoever"].contains(&first.trim_start_matches(['*', '"'])) && !is_question {
            say("a clause as its subject: begin with who or what does it");
        }
        for (words, instead) in [
            (" has not ", "does not have"),
            (" have not ", "do not have"),
            (" anew", "again"),
            (" so that without ", "so, or because"),
            (" likewise", "the same"),
            (", for it ", "because"),
            (", for they ", "because"),
            (", for a ", "because"),
            (", for the ", "because"),
        ] {
            if sentence.contains(words) {
                say(instead);
            }
        }
    }
    found
}

/// Pages are plain English: the subject comes first, and no table leaves a reader to guess what a column is.
#[test]
fn pages_are_plain_english() {
    let mut wrong = Vec::new();
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let (units, heads) = prose(&text);
        for head in heads {
            let mut cells = head.trim_matches('|').split('|').map(str::trim);
            if cells.any(str::is_empty) {
                wrong.push(format!("{}: a column without a name: {head}", page.display()));
            }
        }
        for unit in units {
            for (what, sentence) in clumsy(&unit) {
                wrong.push(format!("{}: {what}: {sentence}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn clumsy_sentences_are_seen() {
    for text in [
        "What is not there was not granted.",
        "It runs. Whoever calls is told.",
        "**What it holds** is this.",
        "The service has not a shell.",
        "It is made anew.",
        "It fails, for the folder is closed.",
    ] {
        assert_eq!(clumsy(text).len(), 1, "{text}");
    }
    for text in [
        "What does it cost?",
        "It shows what is wrong. See above.",
        "It runs again.",
    ] {
        assert_eq!(clumsy(text).len(), 0, "{text}");
    }
    let (units, heads) = prose("# What is\n\n| a | |\n| --- | --- |\n| What | b |\n\n```sh\nWhat\n```\n- What now\n");
    assert_eq!(heads, ["| a | |"]);
    let found: Vec<_> = units.iter().flat_map(|unit| clumsy(unit)).collect();
    assert_eq!(found.len(), 2, "{found:?}");
}

/// Each row of the comparison names the test that holds it, or a page.
#[test]
fn what_is_compared_is_held_by_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/compared.md")).unwrap();
    let mut tests = String::new();
    for entry in std::fs::read_dir(root.join("tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "rs") {
            tests.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---") && !line.starts_with("| You"))
        .collect();
    assert!(rows.len() > 40, "{} rows", rows.len());
    for row in rows {
        let held = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap().trim();
        let is_there = match held.strip_prefix('`').and_then(|name| name.strip_suffix('`')) {
            Some(name) => tests.contains(&format!("fn {name}()")),
            None => held.contains("]("),
        };
        assert!(is_there, "{row}\nis held by {held:?}, which is no test");
    }
}

/// Each metric and event of the program is in its page, and no other.
#[test]
fn every_metric_and_event_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/reference/metrics.md")).unwrap();
    let listed: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| line.split('|').nth(1).unwrap().split('`').skip(1).step_by(2))
        .collect();
    let source = |file: &str| std::fs::read_to_string(root.join("src/supervise/stats").join(file)).unwrap();
    let metrics = source("metrics.rs");
    let mut known: Vec<&str> = metrics
        .split(|c: char| !c.is_ascii_lowercase() && c != '_')
        .filter(|word| {
            word.starts_with("pysecure_") && !["_bucket", "_sum", "_count"].iter().any(|e| word.ends_with(e))
        })
        .collect();
    let events = source("events.rs");
    known.extend(events.lines().filter_map(|line| {
        let (_, word) = line.trim().strip_prefix("Kind::")?.split_once("=> \"")?;
        word.strip_suffix("\",")
    }));
    assert!(known.len() > 20, "{known:?}");
    for name in &known {
        assert!(listed.contains(name), "docs/reference/metrics.md lacks `{name}`");
    }
    for name in &listed {
        assert!(
            known.contains(name),
            "docs/reference/metrics.md has `{name}`, which is none"
        );
    }
}

/// A page that no other names is found by nobody.
#[test]
fn every_page_is_in_the_index() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let index = root.join("docs/index.md");
    let linked: Vec<PathBuf> = links(&index, &std::fs::read_to_string(&index).unwrap())
        .iter()
        .map(|path| path.canonicalize().unwrap())
        .collect();
    for page in below(&root.join("docs")) {
        let page = page.canonicalize().unwrap();
        assert!(
            page == index.canonicalize().unwrap() || linked.contains(&page),
            "docs/index.md has no link to {}",
            page.display()
        );
    }
}

/// What the sandbox is said to do beside its peers is held by tests that there are, and what peers do by their own pages.
#[test]
fn the_table_beside_others_names_its_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/how-to/sandbox.md")).unwrap();
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
