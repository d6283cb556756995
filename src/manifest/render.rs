//! Diagnostics as a person reads them, with the manifest's own lines, and as a program does.

use super::Source;
use super::diagnostic::{Diagnostic, Severity};
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::ops::Range;

/// More than anybody reads; what is behind them is counted.
const SHOWN: usize = 100;

/// Everything there is to say about a manifest, in the order of its lines, and how much it is.
pub fn render(source: &Source, diagnostics: &[Diagnostic], color: bool) -> String {
    let mut sorted: Vec<&Diagnostic> = diagnostics.iter().collect();
    sorted.sort_by_key(|d| (d.span.start, d.severity));
    let lines = Lines::of(&source.text);
    let name = source.path.display().to_string();
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut out = String::new();
    for diagnostic in sorted.iter().take(SHOWN) {
        out.push_str(&renderer.render(&report(diagnostic, &source.text, &lines, &name)));
        out.push_str("\n\n");
    }
    if sorted.len() > SHOWN {
        out.push_str(&format!("… and {} more\n\n", sorted.len() - SHOWN));
    }
    let count = |severity: Severity, word: &str| match sorted.iter().filter(|d| d.severity == severity).count() {
        0 => None,
        1 => Some(format!("1 {word}")),
        n => Some(format!("{n} {word}s")),
    };
    let counts: Vec<String> = [count(Severity::Error, "error"), count(Severity::Warning, "warning")].into_iter().flatten().collect();
    if !counts.is_empty() {
        out.push_str(&format!("{name}: {}\n", counts.join(", ")));
    }
    out
}

fn report<'a>(of: &'a Diagnostic, text: &'a str, lines: &Lines, name: &'a str) -> Vec<annotate_snippets::Group<'a>> {
    let level = match of.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut spans = vec![(of.span.clone(), AnnotationKind::Primary, of.label.as_str())];
    if let Some((span, label)) = &of.other {
        spans.push((span.clone(), AnnotationKind::Context, label.as_str()));
    }
    let mut group = level.primary_title(visible(&of.message)).elements(Vec::<Snippet<'_, annotate_snippets::Annotation<'_>>>::new());
    // A snippet for each place that is not near the other: only the lines around it are handed over.
    let (first, last) = spans.iter().fold((usize::MAX, 0), |(low, high), (span, ..)| (low.min(lines.line(span.start)), high.max(lines.line(span.end))));
    let together = last.saturating_sub(first) < 12;
    let pieces: Vec<Vec<_>> = if together { vec![spans] } else { spans.into_iter().map(|s| vec![s]).collect() };
    for piece in pieces {
        let start = piece.iter().map(|(s, ..)| s.start).min().unwrap_or(0);
        let end = piece.iter().map(|(s, ..)| s.end).max().unwrap_or(0);
        let window = lines.around(start, end, text.len());
        let mut snippet = Snippet::source(&text[window.clone()]).line_start(lines.line(window.start) + 1).path(name);
        for (span, kind, label) in piece {
            let inside = clamp(&span, &window, text);
            let annotation = kind.span(inside);
            snippet = snippet.annotation(if label.is_empty() { annotation } else { annotation.label(visible(label)) });
        }
        group = group.element(snippet);
    }
    if let Some(help) = &of.help {
        group = group.element(Level::HELP.message(visible(help)));
    }
    vec![group]
}

/// A span within its window, on character borders, and no longer than its first line: a whole table is shown
/// by where it begins.
fn clamp(span: &Range<usize>, window: &Range<usize>, text: &str) -> Range<usize> {
    let border = |mut at: usize| {
        while at > 0 && !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = border(span.start.clamp(window.start, window.end));
    let end = border(span.end.clamp(start, window.end));
    let end = text[start..end].find('\n').map_or(end, |line| start + line);
    start - window.start..end - window.start
}

/// What a manifest's author wrote must not move the reader's cursor.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Where each line begins.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Lines {
        let after = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        Lines { starts: std::iter::once(0).chain(after).collect() }
    }

    /// Counted from 0.
    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// The whole lines that hold a span, and a few characters at most of a line without end.
    fn around(&self, start: usize, end: usize, length: usize) -> Range<usize> {
        let (first, last) = (self.line(start), self.line(end).min(self.line(start) + 12));
        self.starts[first]..self.starts.get(last + 1).copied().unwrap_or(length)
    }

    /// Line and column, from 1; columns in characters.
    fn position(&self, at: usize, text: &str) -> (usize, usize) {
        let line = self.line(at);
        let before = text.get(self.starts[line]..at).map_or(0, |t| t.chars().count());
        (line + 1, before + 1)
    }
}

/// The same as a list for programs. Lines and columns count from 1, columns in characters.
pub fn diagnostics_json(source: &Source, diagnostics: &[Diagnostic]) -> serde_json::Value {
    let lines = Lines::of(&source.text);
    let place = |span: &Range<usize>| {
        let (line, column) = lines.position(span.start, &source.text);
        let (end_line, end_column) = lines.position(span.end, &source.text);
        (line, column, end_line, end_column)
    };
    let mut sorted: Vec<&Diagnostic> = diagnostics.iter().collect();
    sorted.sort_by_key(|d| (d.span.start, d.severity));
    sorted
        .into_iter()
        .map(|d| {
            let (line, column, end_line, end_column) = place(&d.span);
            let other = d.other.as_ref().map(|(span, label)| {
                let (line, column, end_line, end_column) = place(span);
                serde_json::json!({ "line": line, "column": column, "end_line": end_line, "end_column": end_column, "label": label })
            });
            serde_json::json!({
                "severity": if d.severity == Severity::Error { "error" } else { "warning" },
                "message": d.message,
                "file": source.path,
                "line": line, "column": column, "end_line": end_line, "end_column": end_column,
                "label": d.label,
                "help": d.help,
                "other": other,
            })
        })
        .collect()
}
