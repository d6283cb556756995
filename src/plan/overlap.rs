//! Rights are over what lies on disk, not over names of it. One file can be reached through two resources: where one
//! `source` lies in another, where both are the same, where a folder is mounted at two paths. Then the narrower word
//! has to hold, whichever way a service goes.
//!
//! - **The inner one decides.** Where a part of the disk belongs to two resources, the one that names less of the disk says
//!   what may be done there. A service that may do more by the outer one is an error.
//! - **Hidden by name.** A resource whose path lies in another's is mounted over that. Whoever may not see it would see
//!   what the outer one holds there, so that is left out of the outer mount ([`Mount::hidden`]): by name, so it holds
//!   whatever is put there later.
//! - What is PySecure's own (data of all apps, ledgers, logs) is masked, and nobody writes what says who may do what: the
//!   manifest, its script, its templates.
//!
//! This is asked when a plan is made, and again at each start, as mounts come and go ([`Overlaps`]). Links are not asked
//! about: a service follows them in its own root, where they lead to what it was granted or nowhere.

use super::error::Shows;
use super::extents::{Extent, Mounts, join};
use super::ledger::Ids;
use super::template::Template;
use super::{IdMap, Identity, Keeping, Mount, PlanError, Storage, Unit};
use crate::cause::Reason;
use crate::host::Dirs;
use crate::model::matrix::{Alias, Disk, Holder};
use crate::model::{Column, Matrix, ResourceId, SETUP_SCRIPT, ServiceId, path};
use crate::values::Perms;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Before the name of a jail, where a resource's could stand.
pub(super) const ROOTFS: &str = "rootfs:";

/// A path on disk with all below it, and who may do what with it. A file is one, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subtree {
    /// The resource's or jail's name, or what it is in words.
    pub name: String,
    #[serde(rename = "what")]
    pub kind: SubtreeKind,
    /// On the host.
    pub path: PathBuf,
    /// As services see it; empty where none does.
    pub target: String,
    /// The matrix's rows of it; for what is no resource, what everybody has of it.
    pub rows: Column,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubtreeKind {
    /// A resource, `code` among them. `file`: it is kept in a directory of its own, as this file.
    Resource { kept: bool, file: Option<String> },
    /// A part of a jail.
    Root,
    /// PySecure's own.
    Own,
    /// What says who may do what.
    Rules,
}

impl Subtree {
    fn rights(&self, service: &str) -> Perms {
        self.rows.of(service).with_implied()
    }

    /// May everybody read and run it, and nobody write it?
    pub(super) fn is_code(&self) -> bool {
        let code = Perms::READ_AND_RUN.with_implied();
        self.rows.of_services().all(|perms| perms.with_implied() == code)
    }

    /// May any service write it?
    fn is_written(&self) -> bool {
        self.rows.of_services().any(|perms| perms.write)
    }

    pub(super) fn is_resource(&self) -> bool {
        matches!(self.kind, SubtreeKind::Resource { .. })
    }

    fn is_kept(&self) -> bool {
        matches!(self.kind, SubtreeKind::Resource { kept: true, .. })
    }

    /// What is no resource, and shown to nobody by a name of its own.
    fn unnamed(name: String, kind: SubtreeKind, path: PathBuf, rights: Perms) -> Subtree {
        Subtree {
            name,
            kind,
            path,
            target: String::new(),
            rows: Column::of_everyone(rights),
        }
    }
}

/// All that the services of an app could meet on disk: its resources first, in their order.
pub(super) fn subtrees<'t>(
    matrix: Matrix<'_>,
    storage: &[Storage],
    dirs: &Dirs,
    templates: impl Iterator<Item = &'t Template>,
    rules: Vec<(String, PathBuf)>,
) -> Vec<Subtree> {
    let mut resolved = Resolved::default();
    let mut out = resources(matrix, storage, dirs, &mut resolved);
    for template in templates.filter(|t| t.jail.is_none()) {
        out.extend(template.binds().map(|(at, source)| Subtree {
            target: at.display().to_string(),
            ..Subtree::unnamed(
                template.name.clone(),
                SubtreeKind::Root,
                resolved.real(source),
                Perms::READ_AND_RUN,
            )
        }));
    }
    // The state directory itself may hold what is others'.
    let of_all = [dirs.locks(), dirs.state.join("apps"), dirs.state.join("jails")];
    let of_app = [&dirs.run, &dirs.external].map(|d| d.parent().unwrap_or(d).to_owned());
    let own: BTreeSet<PathBuf> = of_all.iter().chain(&of_app).map(|p| resolved.real(p)).collect();
    let own_name = || "PySecure's own data".to_owned();
    out.extend(
        own.into_iter()
            .map(|path| Subtree::unnamed(own_name(), SubtreeKind::Own, path, Perms::default())),
    );
    let setup = matrix.model.setup.as_ref();
    let script = setup.map(|i| ("the setup script".to_owned(), i.script.clone()));
    let rules = rules.into_iter().chain(script);
    out.extend(
        rules.map(|(name, path)| Subtree::unnamed(name, SubtreeKind::Rules, resolved.real(&path), Perms::READ_AND_RUN)),
    );
    out
}

fn resources(matrix: Matrix<'_>, storage: &[Storage], dirs: &Dirs, resolved: &mut Resolved) -> Vec<Subtree> {
    let model = matrix.model;
    let mut out = Vec::with_capacity(model.resources.len() + 16);
    // Below this nobody but PySecure makes anything, so it holds no link.
    let resources = dirs.resources();
    let kept_in = resolved.real(&resources);
    let kept_at = |path: &Path, resolved: &mut Resolved| match path.strip_prefix(&resources) {
        Ok(inside) => join(&kept_in, inside),
        Err(_) => resolved.real(path),
    };
    for ((id, resource), subtree) in ResourceId::all(&model.resources).zip(&model.resources).zip(storage) {
        let kept = subtree.keeping == Keeping::Ours;
        out.push(Subtree {
            name: resource.name.clone(),
            kind: SubtreeKind::Resource {
                kept,
                file: resource.with_directory.then(|| path::base(&resource.path).to_owned()),
            },
            path: match kept {
                true => kept_at(&subtree.path, resolved),
                false => subtree.path.clone(),
            },
            target: resource.mount_path().to_owned(),
            rows: matrix.column(id),
        });
    }
    out
}

/// Paths without links, as far as they are there. What many have in common is looked at once.
#[derive(Default)]
struct Resolved {
    known: HashMap<PathBuf, PathBuf>,
}

impl Resolved {
    fn real(&mut self, path: &Path) -> PathBuf {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return as_far_as_it_is_there(path);
        };
        if let Some(real) = self.known.get(path) {
            return real.clone();
        }
        let plain = self.real(parent).join(name);
        let real = match std::fs::read_link(&plain) {
            Ok(_) => as_far_as_it_is_there(path),
            Err(_) => plain,
        };
        self.known.insert(path.to_owned(), real.clone());
        real
    }
}

fn as_far_as_it_is_there(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|a| Some((a, std::fs::canonicalize(a).ok()?)));
    match there {
        Some((ancestor, real)) => match path.strip_prefix(ancestor) {
            Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
            _ => real,
        },
        None => path.to_owned(),
    }
}

/// A part of one subtree that is another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Overlap {
    inner: usize,
    /// Where, below the outer one's path.
    inside: PathBuf,
    /// Only through a mount below that path?
    below: bool,
}

/// The subtrees that services could meet, and where they overlap as things are mounted now.
#[derive(Clone, Debug, Default)]
pub struct Overlaps {
    subtrees: Vec<Subtree>,
    extents: Vec<Vec<Extent>>,
    /// For each subtree, what it shows of others.
    shows: Vec<Vec<Overlap>>,
    /// For each resource, those whose paths lie in its own.
    nested: Vec<Vec<usize>>,
    by_target: HashMap<String, usize>,
    roots: HashMap<String, Vec<usize>>,
    /// What was found where a resource's path lies in another's, by tree and resource.
    held: RefCell<HashMap<(PathBuf, usize), Vec<PathBuf>>>,
}

impl Overlaps {
    pub fn new(subtrees: Vec<Subtree>, mounts: &Mounts) -> Overlaps {
        let extents: Vec<Vec<Extent>> = subtrees.iter().map(|p| mounts.extents(&p.path)).collect();
        let shows = shows(&subtrees, &extents);
        let resources = || subtrees.iter().enumerate().filter(|(_, p)| p.is_resource());
        let mut order: Vec<usize> = resources().map(|(at, _)| at).collect();
        order.sort_by(|a, b| path::nesting_order(&subtrees[*a].target, &subtrees[*b].target));
        let mut nested = vec![Vec::new(); subtrees.len()];
        let mut around: Vec<usize> = Vec::new();
        for at in order {
            around.retain(|outer| path::is_below(&subtrees[at].target, &subtrees[*outer].target));
            for outer in &around {
                nested[*outer].push(at);
            }
            around.push(at);
        }
        let by_target = resources().map(|(at, p)| (p.target.clone(), at)).collect();
        let mut roots: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, subtree) in subtrees.iter().enumerate().filter(|(_, p)| p.kind == SubtreeKind::Root) {
            roots.entry(subtree.name.clone()).or_default().push(at);
        }
        Overlaps {
            extents,
            shows,
            nested,
            by_target,
            roots,
            subtrees,
            held: RefCell::default(),
        }
    }

    pub fn subtrees(&self) -> &[Subtree] {
        &self.subtrees
    }

    /// Who may do more with a file of `inner` by its name in `outer`, which is `there`.
    pub(super) fn linked(&self, services: &[Unit], outer: usize, inner: usize, there: &Path) -> Vec<Leak> {
        let out = &self.subtrees[outer];
        let inside = there.strip_prefix(&out.path).unwrap_or(Path::new(""));
        services
            .iter()
            .filter(|s| self.refused(&s.name, outer, inner).any() && self.shows_link(s, outer, there))
            .map(|service| Leak {
                service: service.name.clone(),
                outer,
                inner,
                refused: self.refused(&service.name, outer, inner),
                at: Path::new(&out.target).join(inside),
                route: Route::Linked(there.to_owned()),
            })
            .collect()
    }

    /// Is `there`, in `outer`, not left out of what a service sees of that?
    fn shows_link(&self, service: &Unit, outer: usize, there: &Path) -> bool {
        let out = &self.subtrees[outer];
        let inside = there.strip_prefix(&out.path).unwrap_or(Path::new(""));
        let mut mounts = service.mounts.iter();
        !mounts.any(|m| m.target == out.target && covered(m, inside))
    }

    /// What a service may do by one subtree that another, a part of it, refuses it.
    fn refused(&self, service: &str, outer: usize, inner: usize) -> Perms {
        let (out, inn) = (&self.subtrees[outer], &self.subtrees[inner]);
        let rights = inn.rights(service);
        // What the setup script may see at all it may see whichever way.
        if service == SETUP_SCRIPT && inn.is_resource() && rights.any() {
            return Perms::default();
        }
        out.rights(service).without(rights)
    }

    pub(super) fn into_subtrees(self) -> Vec<Subtree> {
        self.subtrees
    }

    /// Sources that lie in what is PySecure's own: a service could change what it may do, or read another app's data.
    pub(super) fn own_data_named(&self) -> Vec<PlanError> {
        let mut out = Vec::new();
        for (subtree, lies) in self.subtrees.iter().zip(&self.extents) {
            let (SubtreeKind::Resource { kept: false, .. }, Some(lies)) = (&subtree.kind, lies.first()) else {
                continue;
            };
            let own = self.subtrees.iter().zip(&self.extents).find(|(own, extents)| {
                own.kind == SubtreeKind::Own
                    && extents
                        .iter()
                        .any(|e| lies.device == e.device && lies.path.starts_with(&e.path))
            });
            if let Some((own, _)) = own {
                out.push(PlanError::Shows(Box::new(Shows {
                    inner: None,
                    inner_label: String::new(),
                    outer: subtree.name.clone(),
                    outer_label: format!("is {}", subtree.path.display()),
                    message: format!(
                        "`{}` lies in PySecure's own data, {}, of which nothing can be granted",
                        subtree.name,
                        own.path.display()
                    ),
                    help: "name another `source`".to_owned(),
                })));
            }
        }
        out
    }

    /// Sources that hold what is PySecure's own and are to be another's on disk, all that lies in them (`chown`): who owns them
    /// could change ledgers, and read other apps' data.
    pub(super) fn own_data_adopted(&self, adopted: &BTreeSet<&str>) -> Vec<PlanError> {
        let resources = self.subtrees.iter().enumerate().filter(|(_, s)| s.is_resource());
        let taken = resources.filter(|(_, s)| adopted.contains(s.name.as_str()));
        taken
            .filter_map(|(outer, subtree)| {
                // What is mounted in it is left as it is.
                let held = self.shows[outer].iter().filter(|o| !o.below);
                let own = held
                    .map(|o| &self.subtrees[o.inner])
                    .find(|inner| inner.kind == SubtreeKind::Own)?;
                Some(PlanError::Shows(Box::new(Shows {
                    inner: None,
                    inner_label: String::new(),
                    outer: subtree.name.clone(),
                    outer_label: format!("is {}", subtree.path.display()),
                    message: format!(
                        "`{}` would be given another owner with PySecure's own data in it, {}",
                        subtree.name,
                        own.path.display()
                    ),
                    help: format!(
                        "name a `source` that does not hold {}, or put that elsewhere by --state-dir",
                        own.path.display()
                    ),
                })))
            })
            .collect()
    }

    /// What a resource would show of others to code that has a right to nothing but it, and from which nothing can be hidden.
    pub(super) fn shown_in(&self, of: ResourceId) -> Option<PlanError> {
        let outer = self.subtrees.get(of.position())?;
        let overlap = self.shows.get(of.position())?.first()?;
        let inner = &self.subtrees[overlap.inner];
        let (out, inn) = (outer.path.display(), inner.path.display());
        Some(PlanError::Shows(Box::new(Shows {
            inner: inner.is_resource().then(|| inner.name.clone()),
            inner_label: format!("{inn} is what would be reached"),
            outer: outer.name.clone(),
            outer_label: format!("shows {out} at {}", outer.target),
            message: format!(
                "runs in a sandbox have their directories in `{}`, which holds `{}`: {inn}",
                outer.name, inner.name
            ),
            help: format!(
                "move {inn} out of {out}, or leave `source` out, to have PySecure keep `{}`",
                outer.name
            ),
        })))
    }

    /// Hides from a service what its mounts would show of what it has no right to, and says what cannot be hidden.
    /// `closed`: do services not get into what others may not search?
    pub fn restrict(&self, viewer: &Viewer<'_>, closed: bool, mounts: &mut [Mount]) -> Vec<Leak> {
        let mut leaks = Vec::new();
        let shown: Vec<Option<usize>> = mounts.iter().map(|m| self.by_target.get(&m.target).copied()).collect();
        for (at, outer) in shown.iter().enumerate() {
            let Some(outer) = *outer else { continue };
            for inner in &self.nested[outer] {
                self.hide_nested(viewer, outer, *inner, at, closed, mounts, &mut leaks);
            }
            for overlap in &self.shows[outer] {
                let at_it = Path::new(&self.subtrees[outer].target).join(&overlap.inside);
                let in_it = |m: &Mount| Path::new(&m.target).starts_with(&at_it);
                let shut = self.shut(viewer, outer, overlap, Some(&mounts[at]), closed);
                let own = self.subtrees[overlap.inner].kind == SubtreeKind::Own && !shut;
                if own && !overlap.below && self.can_hide(outer) && !mounts.iter().any(in_it) {
                    mask(&mut mounts[at], &overlap.inside);
                }
            }
        }
        for (mount, outer) in mounts.iter().zip(&shown) {
            if let Some(outer) = *outer {
                self.compare(viewer, outer, Some(mount), closed, &mut leaks);
            }
        }
        for outer in self.roots.get(viewer.rootfs).into_iter().flatten() {
            self.compare(viewer, *outer, None, closed, &mut leaks);
        }
        leaks
    }

    fn held(&self, tree: &Path, inside: &Path, inner: usize) -> Vec<PathBuf> {
        let look = || held(tree, inside, &self.subtrees[inner]);
        let mut known = self.held.borrow_mut();
        known.entry((tree.to_owned(), inner)).or_insert_with(look).clone()
    }

    /// Has the disk looked at again.
    pub fn look_again(&mut self) {
        self.held.get_mut().clear();
    }

    /// Beneath an overlay nobody may write: the kernel does not say what is seen then (overlayfs.rst).
    fn can_hide(&self, outer: usize) -> bool {
        let subtree = &self.subtrees[outer];
        !subtree.is_kept() && !subtree.is_written()
    }

    /// A resource that lies in the mount `at` by its path, and that the service may not see.
    #[allow(clippy::too_many_arguments, reason = "the two subtrees, and how one is seen")]
    fn hide_nested(
        &self,
        viewer: &Viewer<'_>,
        outer: usize,
        inner: usize,
        at: usize,
        closed: bool,
        mounts: &mut [Mount],
        leaks: &mut Vec<Leak>,
    ) {
        let (subtree, service) = (&self.subtrees[inner], viewer.service);
        if subtree.rights(service).any() {
            return;
        }
        let target = mounts[at].target.clone();
        // Another mount lies over this one there.
        let between = |m: &Mount| path::is_below(&m.target, &target) && path::is_below(&subtree.target, &m.target);
        if mounts.iter().any(between) {
            return;
        }
        let inside = PathBuf::from(subtree.target[target.len()..].trim_start_matches('/'));
        for entry in self.held(&mounts[at].source, &inside, inner) {
            let there = mounts[at].source.join(&entry);
            let passed = viewer.passes(&mounts[at].source, &entry, mounts[at].idmap);
            if covered(&mounts[at], &entry) || closed && passed == Passes::Nobody {
                continue;
            }
            let in_it = mounts.iter().find(|m| path::is_below(&m.target, &subtree.target));
            if let Some(in_it) = in_it {
                let also = self.by_target.get(&in_it.target).copied();
                leaks.push(Leak::around(service, outer, inner, also.unwrap_or(inner), there));
            } else if !self.can_hide(outer) || closed && passed == Passes::Blindly || !hide(&mut mounts[at], &entry) {
                leaks.push(Leak::leftover(service, outer, inner, there));
            }
        }
    }

    /// Does the service not get to what is PySecure's own, by the modes on the way? Then there is no way to mask it either.
    fn shut(&self, viewer: &Viewer<'_>, outer: usize, overlap: &Overlap, mount: Option<&Mount>, closed: bool) -> bool {
        let map = mount.and_then(|m| m.idmap);
        let passes = || viewer.passes(&self.subtrees[outer].path, &overlap.inside, map);
        closed && !overlap.below && passes() == Passes::Nobody
    }

    /// `mount`: how the service sees `outer`; `None` for what every service with its root sees.
    fn compare(&self, viewer: &Viewer<'_>, outer: usize, mount: Option<&Mount>, closed: bool, leaks: &mut Vec<Leak>) {
        let service = viewer.service;
        for overlap in &self.shows[outer] {
            let refused = self.refused(service, outer, overlap.inner);
            if !refused.any() {
                continue;
            }
            if let Some(at) = self.seen(viewer, outer, overlap, mount, closed) {
                leaks.push(Leak {
                    service: service.to_owned(),
                    outer,
                    inner: overlap.inner,
                    refused,
                    at,
                    route: if overlap.below {
                        Route::Mounted
                    } else {
                        Route::Contained
                    },
                });
            }
        }
    }

    /// Where a service sees this in `outer`, unless it is hidden there or something is mounted over it. `mount` as for
    /// [`compare`](Self::compare).
    fn seen(
        &self,
        viewer: &Viewer<'_>,
        outer: usize,
        overlap: &Overlap,
        mount: Option<&Mount>,
        closed: bool,
    ) -> Option<PathBuf> {
        // An overlay shows nothing of what is mounted below its layers.
        if overlap.below && mount.is_some_and(layered) {
            return None;
        }
        let inner = &self.subtrees[overlap.inner];
        let ours = inner.is_kept() || inner.kind == SubtreeKind::Own;
        let shut = ours && self.can_hide(outer) && self.shut(viewer, outer, overlap, mount, closed);
        if shut || mount.is_some_and(|m| covered(m, &overlap.inside)) {
            return None;
        }
        let seen = self.at(outer, overlap);
        let covers = |r: &usize| {
            let over = &self.subtrees[*r];
            over.rights(viewer.service).any() && seen.starts_with(&over.target)
        };
        (!self.nested[outer].iter().any(covers)).then_some(seen)
    }

    /// Where this is in `outer`, as services see that.
    fn at(&self, outer: usize, overlap: &Overlap) -> PathBuf {
        join(Path::new(&self.subtrees[outer].target), &overlap.inside)
    }

    /// Over what is mounted in a source nothing can be laid: a layer would not show it, and to an ordinary user the kernel
    /// does not give one (mount_namespaces(7), locked mounts).
    pub(super) fn under_layers(&self, mounts: &[Mount]) -> Vec<PlanError> {
        let mut out = Vec::new();
        for mount in mounts.iter().filter(|m| layered(m)) {
            let Some(subtree) = self.by_target.get(&mount.target) else {
                continue;
            };
            if let Some(below) = self.extents[*subtree].iter().find(|e| e.below) {
                let inside = mount.missing.iter().map(|m| &m.path).chain(&mount.hidden).next();
                let (at, over) = (below.shown.display(), mount.source.display());
                let why = format!(
                    "something is mounted in it, at {at}, which services would not see, as PySecure has to see to {} by a \
                     layer of its own over {over}",
                    inside.map_or("a part", String::as_str)
                );
                let help = format!("give {at} a name as a resource, outside of {over}, or unmount it");
                out.push(PlanError::Resource {
                    name: self.subtrees[*subtree].name.clone(),
                    reason: Reason::new(why).remedy(help),
                });
            }
        }
        out
    }

    /// One error for each pair of subtrees.
    pub fn errors(&self, leaks: &[Leak]) -> Vec<PlanError> {
        let mut pairs: BTreeMap<(usize, usize), Vec<&Leak>> = BTreeMap::new();
        for leak in leaks {
            pairs.entry((leak.outer, leak.inner)).or_default().push(leak);
        }
        pairs.into_values().map(|leaks| self.error(&leaks)).collect()
    }

    /// What is wrong, and what to do. A match on how it comes about, an arm of text each. `who`: those who may do `most`.
    fn words(&self, leaks: &[&Leak], who: &str, most: Perms) -> (String, String) {
        let leak = leaks[0];
        let (outer, inner) = (&self.subtrees[leak.outer], &self.subtrees[leak.inner]);
        let verb = verbs(most);
        let at = leak.at.display();
        let (out, inn) = (outer.path.display(), inner.path.display());
        let shown_by = match outer.kind {
            SubtreeKind::Root => format!("jail \"{}\"", outer.name),
            _ => format!("`{}`", outer.name),
        };
        match (&inner.kind, &leak.route) {
            (_, Route::Leftover) => (
                format!(
                    "{who} may not see `{}`, but sees what {shown_by} holds in its place: {at}",
                    inner.name
                ),
                format!("move {at} out of {out}"),
            ),
            (_, Route::Around(also)) => (
                format!(
                    "{who} may see `{}`, but not `{}`, which it lies in, and {at} would show through",
                    self.subtrees[*also].name, inner.name
                ),
                format!("move {at} out of {out}"),
            ),
            (_, Route::Linked(there)) => (
                format!(
                    "{who} may not {verb} `{}`, but may through {shown_by}: {} is one of its files",
                    inner.name,
                    there.display()
                ),
                "hard links are one file; make a copy of it instead (`cp`), or grant the same on both".to_owned(),
            ),
            (SubtreeKind::Own, _) => (
                format!("{shown_by} holds PySecure's own data, in {inn}"),
                format!("name a `source` that does not hold {inn}, or put that elsewhere by --state-dir"),
            ),
            (SubtreeKind::Rules, _) => (
                format!("{who} may write {}, {inn}: it lies in {shown_by}", inner.name),
                "name a `source` that does not hold it, or take `w` away: it says who may do what".to_owned(),
            ),
            (SubtreeKind::Root, _) => (
                format!(
                    "{who} may write {inn} through {shown_by}, and services run what jail \"{}\" has there",
                    inner.name
                ),
                format!("name a `source` outside of {inn}"),
            ),
            (SubtreeKind::Resource { .. }, Route::Mounted) => (
                format!(
                    "{who} may not {verb} `{}`, but may through {shown_by}, at {at}, where it is mounted too",
                    inner.name
                ),
                format!("unmount what lies in {out}, or grant the same on both"),
            ),
            (SubtreeKind::Resource { .. }, Route::Contained) => (
                format!(
                    "{who} may not {verb} `{}`, but may through {shown_by}, at {at}: it is the same on disk",
                    inner.name
                ),
                self.apart(leaks),
            ),
        }
    }

    /// What to do about two resources, or a resource and a root, that are one on disk.
    fn apart(&self, leaks: &[&Leak]) -> String {
        let leak = leaks[0];
        let (outer, inner) = (&self.subtrees[leak.outer], &self.subtrees[leak.inner]);
        let (out, inn, at) = (outer.path.display(), inner.path.display(), leak.at.display());
        if outer.kind == SubtreeKind::Root {
            return format!("move {inn} out of {out}, or give services another root, such as jail = \"minimal\"");
        }
        if leak.at == Path::new(&outer.target) {
            return "make them one resource, give each a `source` of its own, or grant the same on both".to_owned();
        }
        let written = leaks.iter().any(|l| outer.rights(&l.service).write);
        if written || outer.path.starts_with(&inner.path) {
            return format!("move {inn} out of {out}, or grant the same on both");
        }
        format!(
            "move {inn} out of {out}, or write path = \"{at}\" for `{}`, which hides it from others",
            inner.name
        )
    }

    fn error(&self, leaks: &[&Leak]) -> PlanError {
        let leak = leaks[0];
        let (outer, inner) = (&self.subtrees[leak.outer], &self.subtrees[leak.inner]);
        // Those who are refused the most stand for all.
        let most = leaks.iter().map(|l| l.refused).max().unwrap_or_default();
        let those = leaks.iter().filter(|l| l.refused == most);
        let names: BTreeSet<&str> = those.map(|l| l.service.as_str()).collect();
        let mut who = names
            .iter()
            .take(5)
            .map(|n| format!("`{n}`"))
            .collect::<Vec<_>>()
            .join(", ");
        if names.len() > 5 {
            who += &format!(" and {} more", names.len() - 5);
        }
        let (message, help) = self.words(leaks, &who, most);
        PlanError::Shows(Box::new(Shows {
            inner: inner.is_resource().then(|| inner.name.clone()),
            inner_label: format!("{} is what would be reached", inner.path.display()),
            outer: match outer.kind {
                SubtreeKind::Root => format!("{ROOTFS}{}", outer.name),
                _ => outer.name.clone(),
            },
            outer_label: format!("shows {} at {}", outer.path.display(), outer.target),
            message,
            help,
        }))
    }
}

/// The subtrees as the matrix's [`Disk`]: names of one thing, and to which services they are hidden.
pub(super) struct Aliases<'p> {
    overlaps: &'p Overlaps,
    /// In the order of the model's, with mounts from which all is left out that is to be hidden.
    services: &'p [Unit],
    closed: bool,
    /// For each subtree, what shows it: the subtree, and which of those that it shows.
    shown_by: Vec<Vec<(usize, usize)>>,
    /// For each subtree, which others hold a file of it by a hard link, and where.
    linked: BTreeMap<usize, Vec<(usize, PathBuf)>>,
}

impl<'p> Aliases<'p> {
    /// `linked`: the subtree that holds a file, the one that it is of, and where. `closed` as for [`Overlaps::restrict`].
    pub(crate) fn new(
        overlaps: &'p Overlaps,
        services: &'p [Unit],
        closed: bool,
        links: impl Iterator<Item = (usize, usize, PathBuf)>,
    ) -> Aliases<'p> {
        let mut shown_by = vec![Vec::new(); overlaps.subtrees.len()];
        for (outer, shown) in overlaps.shows.iter().enumerate() {
            for (number, overlap) in shown.iter().enumerate() {
                shown_by[overlap.inner].push((outer, number));
            }
        }
        let mut linked: BTreeMap<usize, Vec<(usize, PathBuf)>> = BTreeMap::new();
        for (outer, inner, there) in links {
            linked.entry(inner).or_default().push((outer, there));
        }
        Aliases {
            overlaps,
            services,
            closed,
            shown_by,
            linked,
        }
    }

    fn alias(&self, outer: usize, inner: usize, at: PathBuf, linked: Option<PathBuf>) -> Option<Alias> {
        let out = &self.overlaps.subtrees[outer];
        Some(Alias {
            outer: match out.kind {
                SubtreeKind::Resource { .. } => Holder::Resource(ResourceId::new(outer)),
                SubtreeKind::Root => Holder::Rootfs(out.name.clone()),
                SubtreeKind::Own | SubtreeKind::Rules => return None,
            },
            inner: ResourceId::new(inner),
            at,
            linked,
            more: 0,
        })
    }
}

/// Resources stand first among the subtrees, so the id of one is its number.
impl Disk for Aliases<'_> {
    fn holders(&self, of: ResourceId) -> Vec<Alias> {
        let inner = of.position();
        let shown = self
            .shown_by
            .get(inner)
            .into_iter()
            .flatten()
            .filter_map(|(outer, number)| {
                let at = self.overlaps.at(*outer, &self.overlaps.shows[*outer][*number]);
                self.alias(*outer, inner, at, None)
            });
        let linked = self
            .linked
            .get(&inner)
            .into_iter()
            .flatten()
            .filter_map(|(outer, there)| {
                let out = &self.overlaps.subtrees[*outer];
                let inside = there.strip_prefix(&out.path).unwrap_or(Path::new(""));
                let at = join(Path::new(&out.target), inside);
                self.alias(*outer, inner, at, Some(there.clone()))
            });
        shown.chain(linked).collect()
    }

    fn parts(&self, of: ResourceId) -> Vec<Alias> {
        let outer = of.position();
        let shown = self.overlaps.shows.get(outer).into_iter().flatten();
        shown
            .filter_map(|overlap| {
                let part = &self.overlaps.subtrees[overlap.inner];
                let at = self.overlaps.at(outer, overlap);
                // One that stands at its own path in the outer one is told apart by its path, as the manifest shows.
                let told_apart = Path::new(&part.target) == at;
                (part.is_resource() && !part.is_kept() && !told_apart)
                    .then(|| self.alias(outer, overlap.inner, at, None))
                    .flatten()
            })
            .collect()
    }

    fn aliased(&self) -> Vec<ResourceId> {
        let subtrees = self.overlaps.subtrees.iter().enumerate();
        let shows = |at: usize| self.overlaps.shows.get(at).is_some_and(|all| !all.is_empty());
        let is_shown = |at: usize| self.shown_by.get(at).is_some_and(|all| !all.is_empty());
        let aliased = subtrees.filter(|(at, subtree)| {
            subtree.is_resource() && (shows(*at) || is_shown(*at) || self.linked.contains_key(at))
        });
        aliased.map(|(at, _)| ResourceId::new(at)).collect()
    }

    fn sees(&self, service: ServiceId, alias: &Alias) -> bool {
        let Some(service) = self.services.get(service.position()) else {
            return true;
        };
        let outers: &[usize] = match &alias.outer {
            Holder::Resource(id) => &[id.position()],
            Holder::Rootfs(name) => self.overlaps.roots.get(name).map_or(&[], Vec::as_slice),
        };
        outers.iter().any(|outer| {
            if let Some(there) = &alias.linked {
                return self.overlaps.shows_link(service, *outer, there);
            }
            let out = &self.overlaps.subtrees[*outer];
            let mount = service
                .mounts
                .iter()
                .find(|m| out.is_resource() && m.target == out.target);
            let shown = self.overlaps.shows[*outer].iter();
            shown
                .filter(|o| o.inner == alias.inner.position() && self.overlaps.at(*outer, o) == alias.at)
                .any(|o| {
                    self.overlaps
                        .seen(&Viewer::of(service), *outer, o, mount, self.closed)
                        .is_some()
                })
        })
    }
}

/// Something that a service could reach against the manifest's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    service: String,
    outer: usize,
    inner: usize,
    refused: Perms,
    at: PathBuf,
    route: Route,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    /// As a part of the outer one, or the same.
    Contained,
    Mounted,
    /// Something of its name, which is not it.
    Leftover,
    /// The service sees this, which lies in what it may not see.
    Around(usize),
    /// As another name of a file: this one.
    Linked(PathBuf),
}

impl Leak {
    fn leftover(service: &str, outer: usize, inner: usize, there: PathBuf) -> Leak {
        Leak {
            service: service.to_owned(),
            outer,
            inner,
            refused: Perms {
                read: true,
                ..Perms::default()
            },
            at: there,
            route: Route::Leftover,
        }
    }

    fn around(service: &str, outer: usize, inner: usize, seen: usize, there: PathBuf) -> Leak {
        Leak {
            route: Route::Around(seen),
            ..Leak::leftover(service, outer, inner, there)
        }
    }
}

fn verbs(perms: Perms) -> String {
    let all = [
        (perms.read, "read"),
        (perms.write, "write"),
        (perms.exec, "execute"),
        // Whoever may read may connect: said only where there is nothing more to say.
        (perms.connect && !perms.read && !perms.write, "connect to sockets in"),
    ];
    let named: Vec<&str> = all.iter().filter(|(named, _)| *named).map(|(_, verb)| *verb).collect();
    match named.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Is `inside` a mount left out of it, or what it lies in?
fn covered(mount: &Mount, inside: &Path) -> bool {
    mount.hidden.iter().chain(&mount.masked).any(|h| inside.starts_with(h))
}

/// Who gets to what lies in a tree, of those that have no right to it but as everybody. A layer has folders of its own
/// on the way to what it hides, which everybody may pass and list.
#[derive(PartialEq, Eq)]
enum Passes {
    Everybody,
    /// Without a list of what is on the way.
    Blindly,
    Nobody,
}

/// Who looks at what a mount shows: a service, by the ids that decide what it may pass on disk.
pub struct Viewer<'u> {
    pub service: &'u str,
    pub rootfs: &'u str,
    pub identity: &'u Identity,
}

impl<'u> Viewer<'u> {
    pub fn of(unit: &'u Unit) -> Viewer<'u> {
        Viewer {
            service: &unit.name,
            rootfs: &unit.rootfs,
            identity: &unit.identity,
        }
    }

    /// By the modes of what lies on the way. `map`: how owners on disk are shown to it.
    fn passes(&self, tree: &Path, inside: &Path, map: Option<IdMap>) -> Passes {
        let way = inside.ancestors().skip(1).filter(|a| !a.as_os_str().is_empty());
        let bits = |a: &Path| {
            let place = tree.join(a);
            let found = std::fs::metadata(&place).ok()?;
            let owner = Ids {
                uid: found.uid(),
                gid: found.gid(),
            };
            let more = rustix::fs::getxattr(&place, ACL, &mut [0u8; 0][..]).is_ok();
            Some(self.bits(found.mode(), owner, more, map))
        };
        match way.filter_map(bits).fold(0o5, |all, bits| all & bits) {
            0o5 => Passes::Everybody,
            bits if bits & 0o1 != 0 => Passes::Blindly,
            _ => Passes::Nobody,
        }
    }

    /// What a directory lets it do; path_resolution(7). `acl`: has it entries of which the mode says nothing but the most that
    /// they give (acl(5))? They may be for this one.
    fn bits(&self, mode: u32, owner: Ids, acl: bool, map: Option<IdMap>) -> u32 {
        let shown = |id: u32, disk: u32, seen: u32| match id {
            _ if id == disk => seen,
            _ if id == seen => disk,
            _ => id,
        };
        let owner = map.map_or(owner, |map| Ids {
            uid: shown(owner.uid, map.disk.uid, map.seen.uid),
            gid: shown(owner.gid, map.disk.gid, map.seen.gid),
        });
        let (uid, gid) = self.identity.on_disk();
        let member = || owner.gid == gid || self.identity.groups.iter().any(|(group, _)| *group == owner.gid);
        match () {
            () if owner.uid == uid => mode >> 6,
            () if acl => mode >> 3 | mode,
            () if member() => mode >> 3,
            () => mode,
        }
    }
}

const ACL: &str = "system.posix_acl_access";

fn layered(mount: &Mount) -> bool {
    !mount.missing.is_empty() || !mount.hidden.is_empty()
}

/// Leaves `inside` out of a mount; `false` where that cannot be done. Through a layer nothing can be written, and no
/// other owner shown.
fn hide(mount: &mut Mount, inside: &Path) -> bool {
    let Some(inside) = inside.to_str().filter(|i| !i.is_empty()) else {
        return false;
    };
    let target = format!("{}/{inside}", mount.target);
    let needed = |missing: &super::MountPoint| {
        let point = format!("{}/{}", mount.target, missing.path);
        point == target || path::is_below(&point, &target)
    };
    if mount.writable || mount.idmap.is_some() || mount.foreign || !mount.directory || mount.missing.iter().any(needed)
    {
        return false;
    }
    let within = |a: &str, b: &str| Path::new(a).starts_with(b);
    if !mount.hidden.iter().any(|h| within(inside, h)) {
        mount.hidden.retain(|h| !within(h, inside));
        mount.hidden.push(inside.to_owned());
        mount.hidden.sort_unstable();
    }
    true
}

/// Lays something over `inside` a mount. Nothing else may be mounted there: it would be under it.
fn mask(mount: &mut Mount, inside: &Path) {
    if let Some(inside) = inside.to_str().filter(|i| !i.is_empty())
        && mount.directory
        && !mount.masked.iter().any(|m| m == inside)
    {
        mount.masked.push(inside.to_owned());
    }
}

/// What `inside` a tree, at a resource's path, holds anything that is not to be seen there; relative to the tree.
fn held(tree: &Path, inside: &Path, subtree: &Subtree) -> Vec<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let there = tree.join(inside);
    let (kept, file) = match &subtree.kind {
        SubtreeKind::Resource { kept, file } => (*kept, file.as_deref()),
        _ => return Vec::new(),
    };
    let Ok(found) = std::fs::symlink_metadata(&there) else {
        return Vec::new();
    };
    if let Some(name) = file.filter(|_| found.is_dir()) {
        // The file, and what programs put beside it: journals, copies.
        let entries = std::fs::read_dir(&there).into_iter().flatten().flatten();
        let of_it = entries
            .map(|e| e.file_name())
            .filter(|e| e.as_encoded_bytes().starts_with(name.as_bytes()));
        return of_it.map(|e| inside.join(e)).collect();
    }
    let empty = if found.is_dir() {
        std::fs::read_dir(&there).is_ok_and(|mut entries| entries.next().is_none())
    } else {
        found.is_file() && found.len() == 0
    };
    // It may itself be the resource, and have something in it later; else an empty directory or file is but a mount point.
    let itself =
        !kept && std::fs::metadata(&subtree.path).is_ok_and(|m| (m.dev(), m.ino()) == (found.dev(), found.ino()));
    match empty && !itself || found.is_symlink() {
        true => Vec::new(),
        false => vec![inside.to_owned()],
    }
}

/// For each subtree, which others it shows, and where.
fn shows(subtrees: &[Subtree], extents: &[Vec<Extent>]) -> Vec<Vec<Overlap>> {
    /// What lies where in one file system: subtrees, and the mount by which each has it.
    type Device<'p> = BTreeMap<&'p Path, Vec<(usize, u64)>>;
    let mut index: HashMap<&str, Device<'_>> = HashMap::new();
    for (at, extents) in extents.iter().enumerate() {
        for extent in extents {
            let of_device = index.entry(&extent.device).or_default();
            of_device.entry(&extent.path).or_default().push((at, extent.mount));
        }
    }
    let mut out = Vec::with_capacity(subtrees.len());
    for (outer, extents) in extents.iter().enumerate() {
        let mut shown: Vec<Overlap> = Vec::new();
        // Nobody is shown PySecure's own, and what says who may do what is a file.
        let is_mounted = matches!(subtrees[outer].kind, SubtreeKind::Resource { .. } | SubtreeKind::Root);
        for extent in extents.iter().filter(|_| is_mounted) {
            let Some(of_device) = index.get(extent.device.as_str()) else {
                continue;
            };
            let mut found = |inner: usize, mount: u64, at: PathBuf| {
                let nested = subtrees[outer].path != subtrees[inner].path
                    && subtrees[outer].path.starts_with(&subtrees[inner].path);
                // What is mounted below both belongs to the inner one.
                if inner == outer || nested && mount == extent.mount && subtrees[inner].kind != SubtreeKind::Rules {
                    return;
                }
                let overlap = Overlap {
                    inner,
                    inside: at
                        .strip_prefix(&subtrees[outer].path)
                        .unwrap_or(Path::new(""))
                        .to_owned(),
                    below: extent.below,
                };
                if !shown.contains(&overlap) {
                    shown.push(overlap);
                }
            };
            // Paths sort by component, so all that lies in one follows it.
            let within = of_device
                .range(extent.path.as_path()..)
                .take_while(|(p, _)| p.starts_with(&extent.path));
            for (path, list) in within {
                let inside = path.strip_prefix(&extent.path).unwrap_or(Path::new(""));
                for (inner, mount) in list {
                    found(*inner, *mount, join(&extent.shown, inside));
                }
            }
            // A part of another: if it was named as such, it is the inner one. What says who may do what has no parts.
            for around in extent.path.ancestors().skip(1) {
                for (inner, mount) in of_device.get(around).into_iter().flatten() {
                    if !extent.own || subtrees[*inner].kind == SubtreeKind::Rules {
                        found(*inner, *mount, extent.shown.clone());
                    }
                }
            }
        }
        out.push(shown);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_pass_a_folder() {
        let ids = |uid, gid| Ids { uid, gid };
        let identity = Identity {
            uid: 61_001,
            gid: 61_001,
            groups: vec![(61_100, "team".into())],
            peers: Vec::new(),
            keeper: Some(Ids::default()),
            outside: Ids::default(),
            root_inside: false,
        };
        let viewer = Viewer {
            service: "a",
            rootfs: "host",
            identity: &identity,
        };
        let map = Some(IdMap {
            disk: ids(1000, 1000),
            seen: ids(61_001, 61_001),
        });
        // Mode, owner on disk, has it an ACL, the mount's map; may it pass.
        let rows = [
            (0o700, ids(1000, 1000), false, None, false),
            (0o700, ids(1000, 1000), false, map, true),
            // What is its own on disk already has no map.
            (0o500, ids(61_001, 0), false, None, true),
            // Who owns it is not asked for the others' bits.
            (0o077, ids(61_001, 61_001), false, None, false),
            (0o750, ids(0, 61_100), false, None, true),
            (0o750, ids(0, 61_200), false, None, false),
            (0o705, ids(0, 61_100), false, None, false),
            (0o750, ids(0, 0), true, None, true),
            // On a mount that shows each as the other, what is the service's on disk is another's.
            (0o700, ids(61_001, 61_001), false, map, false),
            (0o711, ids(0, 0), false, map, true),
        ];
        for (mode, owner, acl, map, may) in rows {
            let bits = viewer.bits(mode, owner, acl, map);
            assert_eq!(bits & 1 != 0, may, "{mode:o} {owner:?} {acl} {map:?}");
        }
    }
    use std::os::unix::fs::symlink;

    #[test]
    fn paths_are_resolved_together_as_each_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir_all(at("real/deep/er")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for (name, target) in [
            ("link", "real"),
            ("real/up", ".."),
            ("real/deep/away", "/usr"),
            ("broken", "nothing/there"),
            ("loop", "loop"),
        ] {
            symlink(target, at(name)).unwrap();
        }
        let mut resolved = Resolved::default();
        for path in [
            "",
            "real",
            "link",
            "link/deep/er",
            "link/deep/er/new",
            "link/up/link/deep/away/bin",
            "real/up/file",
            "file/below",
            "broken",
            "broken/below",
            "loop/below",
            "real/deep/../..",
            "real/deep/../deep/er",
            "link/../link/deep",
            "no/where/at/all",
        ] {
            let path = at(path);
            assert_eq!(resolved.real(&path), as_far_as_it_is_there(&path), "{path:?}");
        }
        for path in ["/", "/bin/sh", "relative", "."] {
            let path = Path::new(path);
            assert_eq!(resolved.real(path), as_far_as_it_is_there(path), "{path:?}");
        }
    }
}
