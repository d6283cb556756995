//! What is wrong with a manifest, where, why, and what to write instead.

use crate::cause::without_remedy;
use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

/// One thing to say about a manifest. Shown with the line that it is about.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    /// One sentence without a full stop: what is wrong, naming the object.
    pub message: String,
    /// Where, as a byte range of the manifest's text.
    pub span: Range<usize>,
    /// Why, shown below the marked text; may be empty.
    pub label: String,
    /// What to write instead.
    pub help: Option<String>,
    /// Other places, which the first contradicts or follows from, and what each says.
    pub others: Vec<(Range<usize>, String)>,
}

impl Diagnostic {
    pub fn error(span: Range<usize>, message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Error,
            message: message.into(),
            span,
            label: String::new(),
            help: None,
            others: Vec::new(),
        }
    }

    pub fn warning(span: Range<usize>, message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Warning,
            ..Self::error(span, message)
        }
    }

    /// Of an error whose text ends with its remedy.
    pub fn of(span: Range<usize>, error: &dyn std::fmt::Display, help: Option<&str>) -> Self {
        let text = error.to_string();
        match help {
            Some(help) => Self::error(span, without_remedy(&text, help)).help(help),
            None => Self::error(span, text),
        }
    }

    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn other(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.others.push((span, label.into()));
        self
    }
}
