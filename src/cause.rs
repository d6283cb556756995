//! Why something failed: errors that others can hold who are cloned and compared, and remedies that are known apart.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// What is wrong, and what to do about it: a sentence, of which the remedy is known by itself, whatever stands in the rest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", help.as_deref().map(|help| format!("; {help}")).unwrap_or_default())]
pub struct Reason {
    message: String,
    /// The error that it is because of, if it is because of one.
    source: Option<Cause>,
    help: Option<Cow<'static, str>>,
}

impl Reason {
    pub fn new(message: impl Into<String>) -> Reason {
        Reason {
            message: message.into(),
            source: None,
            help: None,
        }
    }

    /// The same because of an error, which the message tells.
    pub fn because(self, error: impl Into<Box<dyn Error + Send + Sync>>) -> Reason {
        Reason {
            source: Some(Cause::new(error)),
            ..self
        }
    }

    /// The same with what to do about it.
    pub fn remedy(self, help: impl Into<Cow<'static, str>>) -> Reason {
        Reason {
            help: Some(help.into()),
            ..self
        }
    }

    /// The same, said of a part: `what` comes first.
    pub fn within(self, what: &str) -> Reason {
        Reason {
            message: format!("{what}: {}", self.message),
            ..self
        }
    }

    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The same without the middle of a message that is longer than four times this many characters.
    pub fn shortened(mut self, end: usize) -> Reason {
        if self.message.len() > 4 * end {
            let head: String = self.message.chars().take(end).collect();
            let tail = self.message.char_indices().rev().nth(end);
            self.message = format!("{head} … {}", &self.message[tail.map_or(0, |(at, _)| at)..]);
        }
        self
    }
}

impl From<String> for Reason {
    fn from(message: String) -> Reason {
        Reason::new(message)
    }
}

impl From<&str> for Reason {
    fn from(message: &str) -> Reason {
        Reason::new(message)
    }
}

/// A sentence without the remedy that it ends with.
pub fn without_remedy<'t>(text: &'t str, help: &str) -> &'t str {
    text.strip_suffix(help)
        .unwrap_or(text)
        .trim_end_matches([' ', ';', ':'])
}

/// An error, or a sentence where there is none. Two are equal if they say the same: what fails twice for one reason is told
/// once.
///
/// It is no error itself, but leads to one, so that [`Error::source`] of its holder is that error as it was made.
#[derive(Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl Cause {
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Cause {
        Cause(Arc::from(cause.into()))
    }
}

impl Deref for Cause {
    type Target = dyn Error + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Cause) -> bool {
        self.0.to_string() == other.0.to_string()
    }
}

impl Eq for Cause {}
