//! A service's grants, as mounts: absent without a right, read-only without `w`, `noexec` without `x`.

use super::ledger::Ids;
use super::storage::has_mount_point;
use super::template::Template;
use super::{Keeping, Mount, MountPoint, PlanError, Storage};
use crate::cause::Reason;
use crate::host::Privilege;
use crate::model::{Grant, Matrix, ResourceId, Subject, path};
use crate::values::ResourceKind;

/// A subject's mounts, outer before inner: one for each row of the matrix in which a resource is granted to it.
/// `own`: its ids.
pub(super) fn plan(
    matrix: Matrix<'_>,
    subject: Subject,
    own: Ids,
    privilege: &Privilege,
    storage: &[Storage],
    template: Option<&Template>,
    errors: &mut Vec<PlanError>,
) -> Vec<Mount> {
    let model = matrix.model;
    let mut wanted: Vec<(ResourceId, Grant)> = matrix
        .resources(subject)
        .iter()
        .filter_map(|row| matrix.grant(row))
        .collect();
    let mut kept: Vec<ResourceId> = Vec::new();
    let mut out: Vec<Mount> = Vec::new();
    wanted.sort_by(|a, b| path::nesting_order(model.resources[a.0].mount_path(), model.resources[b.0].mount_path()));
    for (id, grant) in wanted {
        let resource = &model.resources[id];
        let place = &storage[id];
        let perms = grant.perms;
        let idmap = place.idmap(perms, own);
        let mount = Mount {
            target: resource.mount_path().to_owned(),
            source: place.path.clone(),
            directory: resource.kind == ResourceKind::Directory || resource.with_directory,
            foreign: place.keeping == Keeping::Ours && idmap.is_none() && place.disk != own,
            writable: perms.write,
            executable: perms.exec,
            idmap,
            missing: Vec::new(),
            hidden: Vec::new(),
            exclude: resource.exclude.clone(),
            masked: Vec::new(),
            grant: Some(grant),
        };
        let refuse = |reason: Reason| PlanError::Resource {
            name: resource.name.clone(),
            reason,
        };
        if let Some(reason) = template.and_then(|t| covered(t, &mount)) {
            errors.push(refuse(reason));
        }
        if let Some(outer) = out.iter().rposition(|o| path::is_below(&mount.target, &o.target))
            && let Err(reason) = place_in(&mut out[outer], storage[kept[outer]].keeping, &mount)
        {
            errors.push(refuse(reason));
        }
        kept.push(id);
        out.push(mount);
    }
    for (at, id) in kept.iter().enumerate() {
        if let Err(reason) = super::hide::apply(&mut out, at, *privilege != Privilege::OneId) {
            errors.push(PlanError::Resource {
                name: model.resources[*id].name.clone(),
                reason,
            });
        }
    }
    out
}

/// Sees to the mount point of `inner` within `outer`.
fn place_in(outer: &mut Mount, keeping: Keeping, inner: &Mount) -> Result<(), Reason> {
    if keeping != Keeping::Theirs {
        // Its mount points are made with it.
        return Ok(());
    }
    let inside = inner.target[outer.target.len()..].trim_start_matches('/').to_owned();
    let point = MountPoint {
        path: inside,
        directory: inner.directory,
    };
    if has_mount_point(&outer.source, &point)? {
        return Ok(());
    }
    if outer.writable || outer.idmap.is_some() {
        let text = format!(
            "it lies in {}, where {} is missing, and PySecure does not write to your tree: create it there",
            outer.source.display(),
            point.path
        );
        return Err(text.into());
    }
    outer.missing.push(point);
    Ok(())
}

/// A resource may not hide what the root brings, nor lie in a part of it that has no place for it.
fn covered(template: &Template, mount: &Mount) -> Option<Reason> {
    let through = template.links().find_map(|(place, target)| {
        let link = place.to_str()?;
        if link != mount.target && !path::is_below(&mount.target, link) {
            return None;
        }
        let inside = mount.target.strip_prefix(link)?;
        let why = format!(
            "its path {} goes through {link}, which is a link to {} in jail \"{}\"",
            mount.target,
            target.display(),
            template.name,
        );
        Some(Reason::new(why).remedy(format!("choose another, such as /srv/{}{inside}", path::base(link))))
    });
    if through.is_some() {
        return through;
    }
    template.binds().find_map(|(place, source)| {
        let bound = place.to_str()?;
        let below = bound == mount.target || path::is_below(bound, &mount.target);
        if below && template.jail.is_none() && path::is_below(bound, "/etc") {
            // What the host's root shows of a program's files there, a service may have as the manifest says.
            return None;
        }
        if below {
            let why = format!(
                "its path {} would hide {bound} of jail \"{}\"",
                mount.target, template.name
            );
            return Some(Reason::new(why).remedy(format!("choose another, such as /srv{}", mount.target)));
        }
        let inside = mount.target.strip_prefix(bound)?.strip_prefix('/')?;
        let point = MountPoint {
            path: inside.to_owned(),
            directory: mount.directory,
        };
        match has_mount_point(source, &point) {
            Ok(true) => None,
            Ok(false) => {
                let why = format!(
                    "its path {} lies in {bound}, which is read-only and does not have it",
                    mount.target
                );
                Some(Reason::new(why).remedy(format!("choose another, such as /srv/{inside}")))
            }
            Err(why) => Some(why),
        }
    })
}
