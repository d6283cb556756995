//! A root that its service may write to: an overlay over each directory at the top of the jail.
//!
//! Below lies a copy of the jail that is the service's own, and on that what is generated for it; what it writes goes
//! to a place of its own. The top itself, which holds nothing but these directories, stays as it is.

use super::error::CompileError;
use super::mounts::{bind, fit_for_options, programs};
use super::tree::Tree;
use crate::bundle::{Layer, MEMORY};
use crate::host::Privilege;
use crate::plan::template::{Entry, Template};
use crate::plan::{Plan, Unit, Upper};
use oci_spec::runtime::Mount;
use std::path::Path;

/// What has a file system of its own in every service.
const OTHERS: [&str; 4] = ["proc", "dev", "sys", "tmp"];

/// Directories as places for overlays; links and files as they are.
pub(super) fn tops(template: &Template, upper: &Upper, root: &mut Tree, mounts: &mut Vec<Mount>) {
    for entry in &template.tops {
        match entry {
            Entry::Link { path, target } => root.link(path, target),
            Entry::Bind {
                path,
                source,
                directory: false,
            } => {
                root.mount_point(path, false);
                mounts.push(bind(path, &upper.lower.join(source), programs(false)));
            }
            Entry::Bind { path, .. } | Entry::Directory { path } => root.directory(path),
        }
    }
}

pub(super) struct Overlays {
    pub mounts: Vec<Mount>,
    /// What is to be in memory.
    pub memory: Option<String>,
}

impl Overlays {
    pub(super) fn make(
        plan: &Plan,
        service: &Unit,
        upper: &Upper,
        folder: &Path,
        root: &mut Tree,
        layers: &mut Vec<Layer>,
    ) -> Result<Overlays, CompileError> {
        let owner = service.identity.on_disk();
        let place = upper.kept.clone().unwrap_or_else(|| folder.join(MEMORY));
        fit_for_options(service, &place)?;
        fit_for_options(service, &upper.lower)?;
        fit_for_options(service, folder)?;
        let in_lower = |top: &Path| {
            let tops = plan.templates.get(&service.rootfs).map(|t| t.tops.as_slice());
            let mut binds = tops.into_iter().flatten();
            binds.any(|e| matches!(e, Entry::Bind { source, directory: true, .. } if source == top))
        };
        let mut out = Overlays {
            mounts: Vec::new(),
            memory: upper.kept.is_none().then(|| place.display().to_string()),
        };
        root.directory(Path::new("/run"));
        // A resource directly at the top has the place for itself: there is nothing for an overlay to be over.
        let resources = service.mounts.iter().filter_map(|m| m.target.strip_prefix('/'));
        let without: Vec<&str> = OTHERS
            .into_iter()
            .chain(resources.filter(|t| !t.contains('/')))
            .collect();
        for (top, entries) in root.take_below_tops(&without) {
            let mut lower = Vec::new();
            if !entries.is_empty() || !in_lower(&top) {
                let name = layers.len().to_string();
                lower.push(folder.join("layers").join(&name).display().to_string());
                layers.push(Layer {
                    name,
                    entries,
                    owner: Some(owner),
                });
            }
            if in_lower(&top) {
                lower.push(upper.lower.join(&top).display().to_string());
            }
            let (above, work) = (place.join("upper").join(&top), place.join("work").join(&top));
            let mut options = vec![
                format!("lowerdir={}", lower.join(":")),
                format!("upperdir={}", above.display()),
                format!("workdir={}", work.display()),
                "nosuid".to_owned(),
                "nodev".to_owned(),
            ];
            if plan.privilege != Privilege::Root {
                // Other attributes are the host's root's alone to set.
                options.push("userxattr".to_owned());
            }
            let mut mount = Mount::default();
            mount.set_destination(Path::new("/").join(&top));
            mount.set_typ(Some("overlay".into()));
            mount.set_source(Some("overlay".into()));
            mount.set_options(Some(options));
            out.mounts.push(mount);
        }
        Ok(out)
    }
}
