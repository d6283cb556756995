//! What a probe says: the words that the report, the JSON and the exit code are made of.
//!
//! Plain data. Nothing here looks at the machine.

/// How well a feature stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    /// Services run, but something that the user may count on is weaker or absent.
    Degraded,
    /// Not there.
    Missing,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Degraded => "degraded",
            Status::Missing => "missing",
        }
    }
}

/// Which way of running services needs a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Root,
    Rootless,
    Both,
}

impl Mode {
    pub fn word(self) -> &'static str {
        match self {
            Mode::Root => "root",
            Mode::Rootless => "rootless",
            Mode::Both => "both",
        }
    }
}

/// One feature of this machine, for the user who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub feature: &'static str,
    pub status: Status,
    /// What is there, for example "ABI 7".
    pub found: String,
    /// What the user loses; `None` when the status is [`Status::Ok`].
    pub lost: Option<String>,
    /// How to get it: commands, a sysctl or the lines of a file.
    pub remedy: Option<String>,
    pub mode: Mode,
    /// No service runs in `mode` while this is [`Status::Missing`].
    pub required: bool,
    /// The feature whose absence kept this one from being tried. The summary names only that one.
    pub blocked_by: Option<&'static str>,
}

/// What a probe's function returns; its row in the table adds the rest of the [`Finding`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub status: Status,
    pub found: String,
    /// In place of the row's general sentence, where the probe knows better.
    pub lost: Option<String>,
    pub remedy: Option<String>,
    pub blocked_by: Option<&'static str>,
}

impl Answer {
    fn new(status: Status, found: impl Into<String>) -> Self {
        Answer {
            status,
            found: found.into(),
            lost: None,
            remedy: None,
            blocked_by: None,
        }
    }

    pub(crate) fn ok(found: impl Into<String>) -> Self {
        Self::new(Status::Ok, found)
    }

    pub(crate) fn degraded(found: impl Into<String>) -> Self {
        Self::new(Status::Degraded, found)
    }

    pub(crate) fn missing(found: impl Into<String>) -> Self {
        Self::new(Status::Missing, found)
    }

    /// It could not be tried because `feature`, which it stands on, is not there.
    pub(crate) fn blocked(feature: &'static str) -> Self {
        let mut answer = Self::missing(format!("could not be tried: it stands on {feature}, see there"));
        answer.blocked_by = Some(feature);
        answer
    }

    pub(crate) fn lost(mut self, lost: impl Into<String>) -> Self {
        self.lost = Some(lost.into());
        self
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// The kernel's reason in words, without Rust's "(os error 13)".
pub(crate) fn reason(error: impl Into<std::io::Error>) -> String {
    let error = error.into();
    match error.raw_os_error() {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_owned(),
        None => error.to_string(),
    }
}
