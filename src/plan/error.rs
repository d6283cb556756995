//! Why a manifest that is right cannot be carried out on this host.

use crate::cause::{Cause, Reason};
use crate::host::HostError;
use crate::manifest::diagnostic::Diagnostic;
use crate::model::Model;
use crate::model::assert::Broken;
use std::borrow::Cow;
use std::error::Error;
use std::path::PathBuf;

const SHARED: &str = "give one of them another range, or, if the other is not needed any more, delete it and its data: `pysecure down --purge` with its manifest";
const TAKEN: &str = "move the range, such as to [60706, 61183]";
const EXHAUSTED: &str = "widen the range, or `pysecure down --purge` to delete the app's data and start anew";
const CLAIMED: &str = "give this one another name, or, if it is to have that data, `pysecure up --take-over`";

fn moved(id: u32) -> String {
    format!(
        "its files would become another's: write a range that holds {id}, or `pysecure down --purge` to delete the app's \
         data and start anew"
    )
}

fn held(holders: &[(String, PathBuf)]) -> String {
    const SHOWN: usize = 3;
    let shown = holders.iter().take(SHOWN);
    let name = |(app, at): &(String, PathBuf)| match at.as_os_str().is_empty() {
        true => format!("`{app}`"),
        false => format!("`{app}` ({})", at.display()),
    };
    let names: Vec<String> = shown.map(name).collect();
    match (names.is_empty(), holders.len().saturating_sub(SHOWN)) {
        (true, _) => String::new(),
        (false, 0) => format!(", as they are those of {}", names.join(", ")),
        (false, more) => format!(", as they are those of {} and {more} more", names.join(", ")),
    }
}

fn no_free_range(holders: &[(String, PathBuf)]) -> String {
    let own = "write uid_range and gid_range in [app]";
    match holders {
        [] => own.to_owned(),
        _ => {
            format!(
                "{own}, or shorter ranges for another app; one that is not needed any more gives its ids back by `pysecure \
                 down --purge` with its manifest and its --state-dir, which deletes its data"
            )
        }
    }
}

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(
        "{key} {}-{} of `{app}` overlaps that of `{other}` ({}), {}-{}: two apps would share ids; {SHARED}",
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
    #[error("{key} {}-{} holds id {id} of {whose}; {TAKEN}", range[0], range[1])]
    Taken {
        key: &'static str,
        range: [u32; 2],
        id: u32,
        whose: String,
    },
    #[error(
        "{key} {}-{} is used up: {live} ids in use, {retired} kept for services that are gone, whose files may still \
         exist; {EXHAUSTED}", range[0], range[1]
    )]
    Exhausted {
        key: &'static str,
        range: [u32; 2],
        live: usize,
        retired: usize,
    },
    #[error(
        "the ledger gave `{name}` the id {id}, which {key} {}-{} no longer holds; {}",
        range[0], range[1], moved(*id)
    )]
    Moved {
        key: &'static str,
        range: [u32; 2],
        name: String,
        id: u32,
    },
    #[error(
        "no free range of {size} ids is left for `{app}`{}: {}",
        held(holders),
        no_free_range(holders)
    )]
    NoFreeRange {
        app: String,
        size: u64,
        /// Apps that have them, and their manifests.
        holders: Vec<(String, PathBuf)>,
    },
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
    Ledger {
        path: PathBuf,
        #[source]
        cause: Cause,
    },
    #[error(
        "an app called `{app}` is here already, from {}, whose data this is; {CLAIMED}",
        manifest.display()
    )]
    Claimed { app: String, manifest: PathBuf },
    /// Another process has the data for itself.
    #[error("`{app}`: {cause}")]
    Busy { app: String, cause: String },
    #[error("jail \"{name}\": {reason}")]
    Template {
        name: String,
        #[source]
        reason: Reason,
    },
    #[error("resource `{name}`: {reason}")]
    Resource {
        name: String,
        #[source]
        reason: Reason,
    },
    #[error("service `{name}`: {reason}")]
    Service {
        name: String,
        #[source]
        reason: Reason,
    },
    #[error("sandbox `{name}`: {reason}")]
    Sandbox {
        name: String,
        #[source]
        reason: Reason,
    },
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
            "external_uid" => &model.places.external_uid,
            _ => &model.places.external_gid,
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
                None => match model.sandboxes.iter().find(|s| s.rootfs == *name) {
                    Some(sandbox) => &sandbox.places.rootfs,
                    None => &model.setup.as_ref()?.span,
                },
            },
            PlanError::Service { name, .. } => &model.services.iter().find(|s| s.name == *name)?.places.runs_with_root,
            PlanError::Sandbox { name, .. } => &model.sandboxes.iter().find(|s| s.name == *name)?.span,
            PlanError::Resource { name, .. } => &model.resources.iter().find(|r| r.name == *name)?.span,
        };
        Some(Diagnostic::of(span.clone(), self, self.help().as_deref()))
    }

    /// What to do about it, as its text ends.
    pub fn help(&self) -> Option<Cow<'_, str>> {
        let help = match self {
            PlanError::Overlap { .. } => SHARED,
            PlanError::Taken { .. } => TAKEN,
            PlanError::Exhausted { .. } => EXHAUSTED,
            PlanError::Moved { id, .. } => return Some(moved(*id).into()),
            PlanError::NoFreeRange { holders, .. } => return Some(no_free_range(holders).into()),
            PlanError::Unmapped { remedy, .. } => remedy,
            PlanError::Claimed { .. } => CLAIMED,
            PlanError::Template { reason, .. }
            | PlanError::Resource { reason, .. }
            | PlanError::Service { reason, .. }
            | PlanError::Sandbox { reason, .. } => {
                return reason.help().map(Cow::Borrowed);
            }
            PlanError::Shows(shows) => &shows.help,
            PlanError::Host(_) | PlanError::Ledger { .. } | PlanError::Busy { .. } | PlanError::Broken(_) => {
                return None;
            }
        };
        Some(help.into())
    }

    pub fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_semicolon_is_no_remedy() {
        let model = Model::default();
        let error = PlanError::Claimed {
            app: "zoo".into(),
            manifest: "/a; b: c/pysecure.toml".into(),
        };
        let shown = error.located(&model).map(|d| (d.message, d.help));
        let message = "an app called `zoo` is here already, from /a; b: c/pysecure.toml, whose data this is";
        assert_eq!(shown, Some((message.to_owned(), Some(CLAIMED.to_owned()))));
        let error = PlanError::Resource {
            name: "x".into(),
            reason: Reason::new("/a; b: c is a link").remedy("remove it"),
        };
        assert_eq!(error.to_string(), "resource `x`: /a; b: c is a link; remove it");
        assert_eq!(error.help().as_deref(), Some("remove it"));
        let error = PlanError::Resource {
            name: "x".into(),
            reason: "/a; b: c is full".into(),
        };
        assert_eq!(error.help(), None);
    }

    #[test]
    fn every_remedy_ends_its_text() {
        let (key, range) = ("uid_range", [1, 2]);
        let all = [
            PlanError::Overlap {
                key,
                app: "a".into(),
                range,
                other: "b".into(),
                manifest: "/m".into(),
                theirs: range,
            },
            PlanError::Taken {
                key,
                range,
                id: 1,
                whose: "x".into(),
            },
            PlanError::Exhausted {
                key,
                range,
                live: 1,
                retired: 1,
            },
            PlanError::Moved {
                key,
                range,
                name: "x".into(),
                id: 3,
            },
            PlanError::NoFreeRange {
                app: "a".into(),
                size: 9,
                holders: vec![("b".into(), "/m".into())],
            },
            PlanError::Unmapped {
                key,
                range,
                last: 1,
                remedy: "do it".into(),
            },
            PlanError::Resource {
                name: "x".into(),
                reason: Reason::new("/a; b is wrong").remedy("do it; or that"),
            },
            PlanError::Template {
                name: "x".into(),
                reason: crate::jail::JailError::NoPath("/a; b".into()).into(),
            },
        ];
        for error in all {
            let help = error.help().unwrap_or_default().into_owned();
            assert!(!help.is_empty() && error.to_string().ends_with(&help), "{error}");
        }
    }
}
