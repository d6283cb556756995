//! What happens to services, as it is told to whoever asked for it (`pysecure events`).

use serde::{Deserialize, Serialize};

/// Events that a slow reader may leave unread, in bytes; after that it is told that some were lost.
pub(in crate::supervise) const MOST_UNREAD: usize = 1 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// RFC 3339, UTC.
    pub time: String,
    pub event: Kind,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Its program runs.
    Started,
    Ready,
    /// It ended by itself.
    Exited,
    /// It will be started again.
    Restarting,
    /// It was told to end, and has.
    Stopped,
    Failed,
    Healthy,
    Unhealthy,
    Reloading,
    /// The kernel killed something of it for want of memory.
    Oom,
    /// Somebody was turned away.
    Denied,
    /// The manifest has it no more.
    Removed,
    /// The reader was too slow for some events before this one.
    Lost,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Started => "started",
            Kind::Ready => "ready",
            Kind::Exited => "exited",
            Kind::Restarting => "restarting",
            Kind::Stopped => "stopped",
            Kind::Failed => "failed",
            Kind::Healthy => "healthy",
            Kind::Unhealthy => "unhealthy",
            Kind::Reloading => "reloading",
            Kind::Oom => "oom",
            Kind::Denied => "denied",
            Kind::Removed => "removed",
            Kind::Lost => "lost",
        }
    }
}

impl Event {
    pub(in crate::supervise) fn new(event: Kind, service: &str) -> Event {
        Event {
            time: crate::supervise::logs::record::now(),
            event,
            service: service.to_owned(),
            code: None,
            detail: None,
        }
    }

    pub(in crate::supervise) fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    pub(in crate::supervise) fn detail(mut self, detail: impl Into<String>) -> Event {
        self.detail = Some(detail.into());
        self
    }
}
