//! Who makes the first content of an app's resources: a script of the user's, run under ids of its own, which sees
//! all resources of the app and nothing else.
//!
//! What PySecure keeps it may write, in a place aside; only when it has ended well are they put in place, and become
//! whose the manifest says. What is the user's (`source`, `code`) it may read, but for what is adopted: that has its
//! content already.

use super::context::{Context, Findings};
use super::ledger::Ids;
use super::service::{login, show_packages};
use super::template::Template;
use super::{Holding, Identity, Keeping, Mount, Ownership, Role, Storage, Unit, mounts};
use crate::host::Dirs;
use crate::model::{self, SETUP_SCRIPT, Subject};
use std::path::PathBuf;

#[derive(Clone, Debug)]
pub struct SetupScript {
    pub script: PathBuf,
    /// A copy of the script in the place aside, which is what runs: nothing else in the script's folder is seen.
    pub copy: PathBuf,
    /// The resources in the place aside, all of them the script's.
    pub storage: Vec<Storage>,
    /// `dirs` of the place aside.
    pub dirs: Dirs,
    pub service: Unit,
}

/// The script's unit, and the place aside in which it works.
pub(super) fn plan(
    of: &Context<'_>,
    setup: &model::Setup,
    storage: &[Storage],
    template: Option<&Template>,
    found: &mut Findings,
) -> SetupScript {
    let own = of.ledger.service(SETUP_SCRIPT);
    let on_disk = if of.has_one_id() { Ids::default() } else { own };
    let aside = Dirs {
        app: of.dirs.initializing(),
        ..of.dirs.clone()
    };
    let mut storage: Vec<Storage> = storage
        .iter()
        .map(|s| place_aside(s, on_disk, of.dirs, &aside))
        .collect();
    let mut mounts = mounts::plan(
        of.model.matrix(),
        Subject::SetupScript,
        on_disk,
        of.privilege,
        &storage,
        template,
        &mut found.errors,
    );
    storage.retain(|s| s.keeping == Keeping::Ours);
    let name = setup.script.file_name().unwrap_or_default().to_string_lossy();
    let target = format!("/run/pysecure/{name}");
    let copy = aside.app.join("script");
    mounts.push(Mount::read_only(target.clone(), copy.clone(), false));
    let identity = Identity {
        uid: own.uid,
        gid: own.gid,
        groups: Vec::new(),
        peers: Vec::new(),
        keeper: (!of.has_one_id()).then_some(of.ledger.keeper),
        outside: Ids::default(),
        root_inside: false,
    };
    let command = match runs_by_itself(&setup.script) {
        true => vec![target],
        false => vec!["sh".to_owned(), target],
    };
    let mut environment = login(SETUP_SCRIPT, SETUP_SCRIPT);
    environment.extend(template.iter().flat_map(|t| t.environment.clone()));
    // Its script may import modules of services.
    if of.model.matrix().has_calls() {
        show_packages(&mut environment);
    }
    SetupScript {
        script: setup.script.clone(),
        copy,
        storage,
        dirs: aside,
        service: Unit {
            environment,
            mounts,
            ..Unit::new(Role::SetupScript, SETUP_SCRIPT, identity, &setup.rootfs, command)
        },
    }
}

fn place_aside(storage: &Storage, own: Ids, dirs: &Dirs, aside: &Dirs) -> Storage {
    let mut out = storage.clone();
    match storage.keeping {
        Keeping::Ours => {
            if let Ok(inside) = storage.path.strip_prefix(dirs.resources()) {
                out.path = aside.resources().join(inside);
            }
            out.ownership = Ownership::of_one(own, 0o7);
            out.holding = Holding::Classes;
            out.disk = own;
        }
        Keeping::Adopted | Keeping::Theirs => {}
    }
    out
}

/// Is it a program, or a script that says what runs it?
fn runs_by_itself(script: &std::path::Path) -> bool {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    let mut head = [0u8; 4];
    let read = std::fs::File::open(script).and_then(|mut f| f.read(&mut head));
    let executable = std::fs::metadata(script).is_ok_and(|m| m.permissions().mode() & 0o111 != 0);
    executable && read.is_ok() && (head.starts_with(b"#!") || head == *b"\x7fELF")
}
