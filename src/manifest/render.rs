//! Diagnostics as a person reads them, beside the manifest's own lines, and as a program does.
//!
//! Whatever the diagnostics, the cost is linear in the text: lines and columns are looked up in an index
//! made once, and the printer gets only the lines it prints.

use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde_json::{Value, json};

use super::{Diagnostic, Severity, Source};

/// How many are shown; nobody reads more, and the closing line counts them all.
const MOST_SHOWN: usize = 100;

/// Two places at most this many lines apart are shown in one piece.
const NEAR: usize = 20;

/// A line longer than this is shown around the place only.
const LONGEST_LINE: usize = 400;
const AROUND: usize = 120;

/// As rustc shows its own, in the order of the text, with a closing line that counts them.
pub fn render(source: &Source, diagnostics: &[Diagnostic], color: bool) -> String {
    if diagnostics.is_empty() {
        return String::new();
    }
    let index = Index::new(&source.text);
    let path = source.path.to_string_lossy();
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.decor_style(DecorStyle::Ascii);
    let mut out = String::new();
    for diagnostic in sorted(diagnostics).into_iter().take(MOST_SHOWN) {
        out.push_str(&renderer.render(&[report(&index, &path, diagnostic)]));
        out.push_str("\n\n");
    }
    if let Some(more) = diagnostics.len().checked_sub(MOST_SHOWN).filter(|more| *more > 0) {
        out.push_str(&format!("and {more} more\n"));
    }
    let count = |severity| {
        diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity == severity)
            .count()
    };
    let counts: Vec<String> = [(count(Severity::Error), "error"), (count(Severity::Warning), "warning")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, noun)| format!("{count} {noun}{}", if count == 1 { "" } else { "s" }))
        .collect();
    out.push_str(&format!("{path}: {}\n", counts.join(", ")));
    out
}

/// The same as an array of objects. Lines and columns count from 1, columns in characters.
pub fn diagnostics_json(source: &Source, diagnostics: &[Diagnostic]) -> Value {
    let index = Index::new(&source.text);
    let path = source.path.to_string_lossy();
    let place = |span: &Range<usize>| {
        let span = index.clamp(span);
        let (line, column) = index.position(span.start);
        let (end_line, end_column) = index.position(span.end);
        [
            ("line", line),
            ("column", column),
            ("end_line", end_line),
            ("end_column", end_column),
        ]
    };
    let to_json = |diagnostic: &Diagnostic| {
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let mut object = json!({ "severity": severity, "message": diagnostic.message, "file": path });
        for (key, value) in place(&diagnostic.span) {
            object[key] = json!(value);
        }
        object["label"] = json!(diagnostic.label);
        object["help"] = json!(diagnostic.help);
        let others = diagnostic.others.iter().map(|(span, label)| {
            let mut other = json!({});
            for (key, value) in place(span) {
                other[key] = json!(value);
            }
            other["label"] = json!(label);
            other
        });
        let others: Vec<Value> = others.collect();
        object["other"] = others.first().cloned().unwrap_or(Value::Null);
        object["others"] = Value::Array(others);
        object
    };
    Value::Array(sorted(diagnostics).into_iter().map(to_json).collect())
}

fn sorted(diagnostics: &[Diagnostic]) -> Vec<&Diagnostic> {
    let mut sorted: Vec<&Diagnostic> = diagnostics.iter().collect();
    sorted.sort_by_key(|diagnostic| diagnostic.span.start);
    sorted
}

fn report<'a>(index: &Index<'a>, path: &'a str, diagnostic: &'a Diagnostic) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let main = Mark {
        span: index.first_line_of(&diagnostic.span),
        kind: AnnotationKind::Primary,
        label: &diagnostic.label,
    };
    let mut group = Group::with_title(level.primary_title(diagnostic.message.as_str()));
    // What is near the first is shown with it, the rest in pieces of their own, in the order in which it was said.
    let mut piece = vec![main];
    for (span, label) in &diagnostic.others {
        let mark = Mark {
            span: index.first_line_of(span),
            kind: AnnotationKind::Context,
            label,
        };
        if !piece.iter().all(|known| index.are_near(&known.span, &mark.span)) {
            group = index.show(group, path, std::mem::take(&mut piece));
        }
        piece.push(mark);
    }
    let group = index.show(group, path, piece);
    match &diagnostic.help {
        Some(help) => group.element(Level::HELP.message(help.as_str())),
        None => group,
    }
}

/// A marked place, within one line.
struct Mark<'a> {
    span: Range<usize>,
    kind: AnnotationKind,
    label: &'a str,
}

/// Distance between the places at which characters were counted.
const STEP: usize = 1024;

/// Where lines begin, and how many characters came before.
pub(super) struct Index<'a> {
    text: &'a str,
    line_starts: Vec<usize>,
    /// Characters before byte `STEP * i`.
    characters: Vec<usize>,
}

impl<'a> Index<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let mut line_starts = vec![0];
        let mut characters = Vec::with_capacity(text.len() / STEP + 1);
        let mut count = 0;
        for (at, byte) in text.bytes().enumerate() {
            if at.is_multiple_of(STEP) {
                characters.push(count);
            }
            count += usize::from(starts_character(byte));
            if byte == b'\n' {
                line_starts.push(at + 1);
            }
        }
        if text.len().is_multiple_of(STEP) {
            characters.push(count);
        }
        Index {
            text,
            line_starts,
            characters,
        }
    }

    /// The span within the text and on whole characters.
    fn clamp(&self, span: &Range<usize>) -> Range<usize> {
        let start = boundary_before(self.text, span.start);
        let end = boundary_after(self.text, span.end).max(start);
        start..end
    }

    /// Line of a byte, from 0.
    pub(super) fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    fn line_start(&self, line: usize) -> usize {
        self.line_starts.get(line).copied().unwrap_or(self.text.len())
    }

    /// Without its line ending.
    fn line_end(&self, line: usize) -> usize {
        let start = self.line_start(line);
        let end = self.line_start(line + 1);
        let text = self.text.get(start..end).unwrap_or_default();
        start + text.trim_end_matches(['\n', '\r']).len()
    }

    fn characters_before(&self, at: usize) -> usize {
        let step = at / STEP;
        let counted = self.characters.get(step).copied().unwrap_or(0);
        let rest = self.text.as_bytes().get(step * STEP..at).unwrap_or_default();
        counted + rest.iter().filter(|byte| starts_character(**byte)).count()
    }

    /// Line and column from 1.
    fn position(&self, at: usize) -> (usize, usize) {
        let line = self.line(at);
        let column = self.characters_before(at) - self.characters_before(self.line_start(line));
        (line + 1, column + 1)
    }

    /// A span of several lines is shown by its first.
    fn first_line_of(&self, span: &Range<usize>) -> Range<usize> {
        let span = self.clamp(span);
        let end = self.line_end(self.line(span.start)).max(span.start);
        span.start..span.end.min(end)
    }

    fn are_near(&self, one: &Range<usize>, other: &Range<usize>) -> bool {
        let (first, last) = (
            self.line(one.start.min(other.start)),
            self.line(one.start.max(other.start)),
        );
        let short = |line| self.line_end(line) - self.line_start(line) <= LONGEST_LINE;
        last - first <= NEAR && (first..=last).all(short)
    }

    /// Adds the lines with these marks. All are near each other, the first is what the title is about.
    fn show<'s>(&self, group: Group<'s>, path: &'s str, marks: Vec<Mark<'s>>) -> Group<'s>
    where
        'a: 's,
    {
        let Some(first) = marks.iter().map(|mark| mark.span.start).min() else {
            return group;
        };
        let Some(last) = marks.iter().map(|mark| mark.span.end).max() else {
            return group;
        };
        let line = self.line(first);
        let (mut start, mut end) = (self.line_start(line), self.line_end(self.line(last)).max(last));
        let cut = end - start > LONGEST_LINE * (NEAR + 1) || (marks.len() == 1 && end - start > LONGEST_LINE);
        let mut group = group;
        if cut {
            // The printer would count columns from the cut, so it gets the true place from us.
            let (line, column) = self.position(first);
            group = group.element(Origin::path(path).line(line).char_column(column));
            start = boundary_after(self.text, first.saturating_sub(AROUND)).max(start);
            end = boundary_before(self.text, last.min(first + AROUND) + AROUND).min(end);
        }
        let mut snippet = Snippet::source(self.text.get(start..end).unwrap_or_default()).line_start(line + 1);
        if !cut {
            snippet = snippet.path(path);
        }
        for mark in marks {
            let span = mark.span.start - start..mark.span.end.min(end) - start;
            let annotation = mark.kind.span(span);
            snippet = snippet.annotation(match mark.label {
                "" => annotation,
                label => annotation.label(label),
            });
        }
        group.element(snippet)
    }
}

fn starts_character(byte: u8) -> bool {
    byte & 0xc0 != 0x80
}

fn boundary_before(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

fn boundary_after(text: &str, at: usize) -> usize {
    (at..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len())
}
