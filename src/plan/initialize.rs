//! Who makes the first content of an app's resources: a script of the user's, run under ids of its own, which sees
//! all resources of the app and nothing else.
//!
//! What PySecure keeps it may write, in a place aside; only when it has ended well are they put in place, and become
//! whose the manifest says. What is the user's (`source`, `code`) it may read, but for what is adopted: that has its
//! content already.

use super::ledger::Ids;
use super::template::Template;
use super::{Holding, Identity, Keeping, Ledger, Mount, Ownership, PlanError, Storage, Unit, mounts};
use crate::host::{Dirs, Privilege};
use crate::model::{self, INITIALIZE, Life, Limits, Logs, Model, Subject};
use crate::values::Network;
use std::path::PathBuf;

#[derive(Clone, Debug)]
pub struct Initializer {
    pub script: PathBuf,
    /// A copy of the script in the place aside, which is what runs: nothing else in the script's folder is seen.
    pub copy: PathBuf,
    /// The resources in the place aside, all of them the script's.
    pub storage: Vec<Storage>,
    /// `dirs` of the place aside.
    pub dirs: Dirs,
    pub service: Unit,
}

#[allow(clippy::too_many_arguments, reason = "all that a plan is made of")]
pub(super) fn plan(
    model: &Model,
    initialize: &model::Initialize,
    ledger: &Ledger,
    privilege: &Privilege,
    dirs: &Dirs,
    storage: &[Storage],
    template: Option<&Template>,
    errors: &mut Vec<PlanError>,
) -> Initializer {
    let own = ledger.service(INITIALIZE);
    let on_disk = match privilege {
        Privilege::OneId => Ids { uid: 0, gid: 0 },
        _ => own,
    };
    let aside = Dirs {
        app: dirs.initializing(),
        ..dirs.clone()
    };
    let mut storage: Vec<Storage> = storage.iter().map(|s| place_aside(s, on_disk, dirs, &aside)).collect();
    let mut mounts = mounts::plan(
        model.matrix(),
        Subject::Initializer,
        on_disk,
        privilege,
        &storage,
        template,
        errors,
    );
    storage.retain(|s| s.keeping == Keeping::Ours);
    let name = initialize.script.file_name().unwrap_or_default().to_string_lossy();
    let target = format!("/run/pysecure/{name}");
    let copy = aside.app.join("script");
    mounts.push(Mount {
        target: target.clone(),
        source: copy.clone(),
        directory: false,
        foreign: false,
        writable: false,
        executable: true,
        idmap: None,
        missing: Vec::new(),
        hidden: Vec::new(),
        exclude: Default::default(),
        masked: Vec::new(),
        grant: None,
    });
    let identity = Identity {
        uid: own.uid,
        gid: own.gid,
        groups: Vec::new(),
        peers: Vec::new(),
        keeper: (!matches!(privilege, Privilege::OneId)).then_some(ledger.keeper),
        root_inside: false,
    };
    let service = Unit {
        name: INITIALIZE.to_owned(),
        environment: {
            let mut all = super::login(INITIALIZE, INITIALIZE);
            all.extend(template.iter().flat_map(|t| t.environment.clone()));
            // Its script may import modules of services.
            if model.services.iter().any(|s| !s.callers.is_empty()) {
                super::show_packages(&mut all);
            }
            all
        },
        identity,
        command: if runs_by_itself(&initialize.script) {
            vec![target]
        } else {
            vec!["sh".to_owned(), target]
        },
        directory: "/".to_owned(),
        umask: super::private(),
        rootfs: initialize.rootfs.clone(),
        writable: None,
        mounts,
        network: Network::None,
        publish: Vec::new(),
        egress: false,
        resolver: String::new(),
        listen: Vec::new(),
        callers: Vec::new(),
        dynamic_uid: None,
        callees: Vec::new(),
        life: Life::default(),
        limits: Limits::default(),
        logs: Logs::default(),
    };
    Initializer {
        script: initialize.script.clone(),
        copy,
        storage,
        dirs: aside,
        service,
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
