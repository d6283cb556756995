//! pysecure-rpc(7): the protocol as docs/reference/rpc-protocol.md has it, which is the one text of it.

use super::page::{Block, Page, Section};

const PROTOCOL: &str = include_str!("../../../docs/reference/rpc-protocol.md");

pub(super) fn page() -> Page {
    let page = Page {
        name: "pysecure-rpc".to_owned(),
        section: 7,
        about: "the protocol of calls between services of pysecure(1)".to_owned(),
        sections: sections(PROTOCOL),
    };
    page.with(
        "SEE ALSO",
        vec![Block::text(
            "`pysecure(1)`, `pysecure-rpc(1)`, `pysecure.toml(5)`, `unix(7)`, `sd_listen_fds(3)`",
        )],
    )
}

/// The sections of a page in Markdown, as far as that page uses it.
fn sections(text: &str) -> Vec<Section> {
    let mut out = vec![Section {
        title: "DESCRIPTION".to_owned(),
        blocks: Vec::new(),
    }];
    let mut lines = text
        .lines()
        .skip_while(|line| line.is_empty() || line.starts_with("# "))
        .peekable();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            out.push(Section {
                title: plain(title).to_uppercase(),
                blocks: Vec::new(),
            });
            continue;
        }
        let block = if let Some(title) = line.strip_prefix("### ") {
            Block::Part(plain(title))
        } else if line.starts_with("```") {
            let code: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            Block::Code(code.join("\n"))
        } else if line.starts_with('|') {
            // Below the head of a table is a line of dashes.
            if lines.peek().is_some_and(|next| next.starts_with("| -")) {
                lines.next();
                continue;
            }
            row(line)
        } else if line.is_empty() {
            continue;
        } else {
            let mut paragraph = line.trim_start_matches("- ").to_owned();
            while let Some(next) = lines.next_if(|next| !next.is_empty() && !next.starts_with(['#', '|', '`', '-'])) {
                paragraph.push(' ');
                paragraph += next.trim();
            }
            Block::Text(plain(&paragraph))
        };
        if let Some(section) = out.last_mut() {
            section.blocks.push(block);
        }
    }
    out
}

/// A row of a table: what it is about, and all that is said of it.
fn row(line: &str) -> Block {
    let bar = '\u{1}';
    let line = line.replace("\\|", &bar.to_string());
    let cells = line.trim_matches(['|', ' ']).split('|');
    let mut cells = cells.map(|cell| plain(cell.trim()).replace(bar, "|"));
    let term = cells.next().unwrap_or_default();
    let rest: Vec<String> = cells.filter(|cell| !cell.is_empty()).collect();
    Block::Item(term, rest.join(": "))
}

/// Without what is bold, and with a link's words in its place.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        match after
            .split_once("](")
            .and_then(|(words, link)| Some((words, link.split_once(')')?.1)))
        {
            Some((words, behind)) if !words.contains(['[', '`']) || !before.ends_with('`') => {
                out += before;
                out += words;
                rest = behind;
            }
            _ => {
                out += before;
                out.push('[');
                rest = after;
            }
        }
    }
    out += rest;
    out.replace("**", "").replace('*', "")
}
