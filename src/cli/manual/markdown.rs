//! Pages for the documentation, in Markdown.

use super::page::{Block, Section};

/// The parts of a section, below a heading of `level`.
pub(super) fn section(section: &Section, level: usize) -> String {
    let mut out = String::new();
    let mut in_list = false;
    for block in &section.blocks {
        let item = matches!(block, Block::Item(..));
        if in_list && !item {
            out.push('\n');
        }
        in_list = item;
        match block {
            Block::Text(text) => out += &format!("{text}\n\n"),
            Block::Item(term, text) => out += &format!("- {term}: {text}\n"),
            Block::Code(text) => out += &format!("```text\n{}\n```\n\n", text.trim_end()),
            Block::Part(title) => out += &format!("{} {title}\n\n", "#".repeat(level)),
        }
    }
    if in_list {
        out.push('\n');
    }
    out
}

/// A cell of a table.
pub(super) fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
