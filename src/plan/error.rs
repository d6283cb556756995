//! Why a manifest that is right cannot be carried out on this host.

use crate::host::HostError;
use crate::manifest::diagnostic::Diagnostic;
use crate::model::Model;
use crate::model::assert::Broken;
use std::path::PathBuf;

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(
        "{key} {}-{} of `{app}` overlaps that of `{other}` ({}), {}-{}: two apps would share ids; \
         give one of them another range, or run `pysecure down --purge` on the one that is gone",
        range[0], range[1], manifest.display(), theirs[0], theirs[1]
    )]
    Overlap {
        key: &'static str,
        app: String,
        range: [u32; 2],
        other: String,
        manifest: PathBuf,
        theirs: [u32; 2],
    },
    #[error("{key} {}-{} holds id {id} of {whose}; move the range, such as to [60706, 61183]", range[0], range[1])]
    Taken {
        key: &'static str,
        range: [u32; 2],
        id: u32,
        whose: String,
    },
    #[error(
        "{key} {}-{} is used up: {live} ids in use, {retired} kept for services that are gone, whose files may still \
         exist; widen the range, or `pysecure down --purge` to delete the app's data and start anew", range[0], range[1]
    )]
    Exhausted {
        key: &'static str,
        range: [u32; 2],
        live: usize,
        retired: usize,
    },
    #[error(
        "the ledger gave `{name}` the id {id}, which {key} {}-{} no longer holds; its files would become another's: \
         write a range that holds {id}, or `pysecure down --purge` to delete the app's data and start anew", range[0], range[1]
    )]
    Moved {
        key: &'static str,
        range: [u32; 2],
        name: String,
        id: u32,
    },
    #[error("no free range of {size} ids is left for `{app}`: write uid_range and gid_range in [app]")]
    NoFreeRange { app: String, size: u64 },
    #[error("{key} {}-{} lies outside the ids that exist here (up to {last}): {remedy}", range[0], range[1])]
    Unmapped {
        key: &'static str,
        range: [u32; 2],
        last: u32,
        remedy: String,
    },
    #[error(
        "the ledger {} cannot be used: {cause}; restore it from a backup, or `pysecure down --purge --take-over` in the app's \
         folder deletes it together with the app's data", path.display()
    )]
    Ledger { path: PathBuf, cause: String },
    #[error(
        "an app called `{app}` is here already, from {}, whose data this is; give this one another name, or, if it is to have \
         that data, `pysecure up --take-over`", manifest.display()
    )]
    Claimed { app: String, manifest: PathBuf },
    /// Another process has the data for itself.
    #[error("`{app}`: {cause}")]
    Busy { app: String, cause: String },
    #[error("rootfs \"{name}\": {cause}")]
    Template { name: String, cause: String },
    #[error("resource `{name}`: {cause}")]
    Resource { name: String, cause: String },
    #[error(transparent)]
    Shows(Box<Shows>),
    /// By what lies on disk, an assertion of the manifest does not hold.
    #[error("{}", .0.message)]
    Broken(Box<Broken>),
}

/// Two names of one thing on disk, of which one lets a service do what the other forbids.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message}; {help}")]
pub struct Shows {
    /// The resource that is shown, if it is one.
    pub inner: Option<String>,
    pub inner_label: String,
    /// The resource that shows it, or [`ROOTFS`](super::overlap::ROOTFS) and the template's name.
    pub outer: String,
    pub outer_label: String,
    pub message: String,
    pub help: String,
}

impl PlanError {
    /// Is it that what lies on disk lets a service do what the manifest forbids?
    pub fn is_of_disk(&self) -> bool {
        matches!(self, PlanError::Shows(_) | PlanError::Broken(_))
    }

    /// The same as a diagnostic at the line of the manifest that it is about, if it is about one.
    pub fn located(&self, model: &Model) -> Option<Diagnostic> {
        if let PlanError::Shows(shows) = self {
            return shows.located(model);
        }
        if let PlanError::Broken(broken) = self {
            return Some(broken.located());
        }
        let range = |key: &str| match key {
            "uid_range" => &model.places.uid_range,
            "gid_range" => &model.places.gid_range,
            "dynamic_svc_uid" => &model.places.dynamic_uid,
            _ => &model.places.dynamic_gid,
        };
        let span = match self {
            PlanError::Host(_)
            | PlanError::Ledger { .. }
            | PlanError::Busy { .. }
            | PlanError::Shows(_)
            | PlanError::Broken(_) => return None,
            PlanError::Overlap { key, .. }
            | PlanError::Taken { key, .. }
            | PlanError::Exhausted { key, .. }
            | PlanError::Moved { key, .. }
            | PlanError::Unmapped { key, .. } => range(key),
            PlanError::NoFreeRange { .. } | PlanError::Claimed { .. } => &model.places.app,
            PlanError::Template { name, .. } => match model.services.iter().find(|s| s.rootfs == *name) {
                Some(service) => &service.span,
                None => &model.initialize.as_ref()?.span,
            },
            PlanError::Resource { name, .. } => &model.resources.iter().find(|r| r.name == *name)?.span,
        };
        // What stands behind the first colon or semicolon is the remedy.
        let text = self.to_string();
        Some(
            match text
                .split_once("; ")
                .or_else(|| text.split_once(": ").filter(|(head, _)| !head.starts_with("resource ")))
            {
                Some((message, help)) => Diagnostic::error(span.clone(), message).help(help),
                None => Diagnostic::error(span.clone(), text),
            },
        )
    }

    pub fn io(operation: &'static str, path: impl Into<PathBuf>, cause: impl std::fmt::Display) -> Self {
        PlanError::Host(HostError::new(operation, path, cause))
    }
}

impl Shows {
    /// What shows, and what is shown, at the line of each.
    fn located(&self, model: &Model) -> Option<Diagnostic> {
        let resource = |name: &str| model.resources.iter().find(|r| r.name == name).map(|r| r.span.clone());
        let rootfs = |name: &str| model.services.iter().find(|s| s.rootfs == name).map(|s| s.span.clone());
        let outer_span = match self.outer.strip_prefix(super::overlap::ROOTFS) {
            Some(name) => rootfs(name),
            None => resource(&self.outer),
        };
        let made = match self.inner.as_deref().and_then(resource) {
            Some(span) => {
                let made = Diagnostic::error(span, self.message.as_str()).label(self.inner_label.as_str());
                match outer_span {
                    Some(span) => made.other(span, self.outer_label.as_str()),
                    None => made,
                }
            }
            None => Diagnostic::error(outer_span?, self.message.as_str()).label(self.outer_label.as_str()),
        };
        Some(made.help(self.help.as_str()))
    }
}
