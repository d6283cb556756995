//! A page for man(1), in the macros of man(7).

use super::page::{Block, Page};

/// Longer lines are hard to read in the source, and mandoc(1) complains.
const WIDTH: usize = 78;

/// `date`: as `2026-11-28`, or nothing.
pub(super) fn page(page: &Page, date: &str) -> String {
    let name = page.name.to_uppercase();
    let version = env!("CARGO_PKG_VERSION");
    let mut out = format!(
        ".TH \"{}\" {} \"{date}\" \"PySecure {version}\" \"PySecure manual\"\n",
        escaped(&name),
        page.section
    );
    // Names of commands and keys are not broken.
    out += ".nh\n.ad l\n";
    out += &format!(".SH NAME\n{} \\- {}\n", escaped(&page.name), inline(&page.about));
    for section in &page.sections {
        out += &format!(".SH \"{}\"\n", section.title);
        let mut first = true;
        for block in &section.blocks {
            block_to(block, first, &mut out);
            first = matches!(block, Block::Part(_));
        }
    }
    out
}

/// `first`: nothing stands before it below its heading.
fn block_to(block: &Block, first: bool, out: &mut String) {
    let apart = if first { "" } else { ".PP\n" };
    match block {
        Block::Text(text) => *out += &format!("{apart}{}", wrapped(text)),
        Block::Item(term, text) => *out += &format!(".TP\n{}\n{}", inline(term), wrapped(text)),
        Block::Code(text) => {
            *out += &format!("{apart}.RS 4\n.nf\n");
            for line in text.lines() {
                *out += &format!("{}\n", guarded(escaped(line)));
            }
            *out += ".fi\n.RE\n";
        }
        Block::Part(title) => *out += &format!(".SS \"{}\"\n", escaped(title)),
    }
}

/// A new sentence begins a new line, and no line is long: so the source of a page has few changes when the text has.
fn wrapped(text: &str) -> String {
    let mut out = String::new();
    let mut line = String::new();
    let mut ends_sentence = false;
    for word in inline(text).split_whitespace() {
        if !line.is_empty() && (ends_sentence || line.chars().count() + word.chars().count() >= WIDTH) {
            out += &format!("{}\n", guarded(std::mem::take(&mut line)));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
        ends_sentence = word.trim_end_matches(")\\fR").ends_with(['.', ':', '?']) && !word.ends_with("...");
    }
    if !line.is_empty() {
        out += &format!("{}\n", guarded(line));
    }
    out
}

/// Code in bold.
fn inline(text: &str) -> String {
    let mut out = String::new();
    for (number, part) in text.split('`').enumerate() {
        let part = escaped(part);
        if number % 2 == 1 {
            // A line is broken between words, and each has to be bold by itself.
            let words: Vec<String> = part.split(' ').map(|word| format!("\\fB{word}\\fR")).collect();
            out += &words.join(" ");
        } else {
            out += &part;
        }
    }
    out
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '\\' => out += "\\e",
            '-' => out += "\\-",
            '\'' => out += "\\(aq",
            '`' => out += "\\(ga",
            '^' => out += "\\(ha",
            '~' => out += "\\(ti",
            '"' => out += "\\(dq",
            ' '..='}' | '\t' => out.push(letter),
            _ => out += &format!("\\[u{:04X}]", u32::from(letter)),
        }
    }
    out
}

/// What begins with a dot is a request, and an empty line is a paragraph's end.
fn guarded(line: String) -> String {
    match line.is_empty() || line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line,
    }
}
