//! The access matrix against what it has to come true as: UNIX mode bits and mounts, computed here from the plan
//! alone and tried from inside real services.

mod harness;

use harness::{App, BOTH};
use proptest::prelude::*;
use pysecure::manifest::Severity;
use pysecure::manifest::types::{App as AppTable, At, Bundle, Manifest, Resource, Service};
use pysecure::model::source::Base;
use pysecure::model::{self, Model, ResourceId, ServiceId, Subject};
use pysecure::plan::template::Library;
use pysecure::plan::{self, Dirs, Keeping, Ledger, Plan, Privilege, Storage, Who};
use pysecure::values::{Perms, ResourceKind};
use std::collections::BTreeMap;

fn at<T>(value: T) -> At<T> {
    // Not empty: an empty span says that a value failed to decode.
    At { value, span: 0..1 }
}

fn perms() -> impl Strategy<Value = Perms> {
    let all = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    all.prop_map(|(read, write, exec, connect)| Perms {
        read,
        write,
        exec,
        connect,
    })
}

/// A few names, so that paths often lie in one another; a dot makes a file.
fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(vec!["a", "b", "c", "d.db"]), 1..4)
        .prop_map(|parts| format!("/data/{}", parts.join("/")))
}

/// A resource as it was drawn: its path, its kind, its permissions by class, its owner.
type DrawnResource = (String, Option<ResourceKind>, [Perms; 3], Option<usize>);

#[derive(Clone, Debug)]
struct Drawn {
    resources: Vec<DrawnResource>,
    bundles: Vec<Vec<usize>>,
    services: Vec<(Vec<usize>, bool)>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let kind = proptest::option::weighted(
        0.3,
        proptest::sample::select(vec![ResourceKind::File, ResourceKind::Directory]),
    );
    let resource = (
        path(),
        kind,
        [perms(), perms(), perms()],
        proptest::option::of(0usize..4),
    );
    let resources = proptest::collection::vec(resource, 1..8);
    let bundles = proptest::collection::vec(proptest::collection::vec(0usize..8, 0..5), 0..4);
    let services = proptest::collection::vec((proptest::collection::vec(0usize..4, 0..3), any::<bool>()), 1..5);
    (resources, bundles, services).prop_map(|(resources, bundles, services)| Drawn {
        resources,
        bundles,
        services,
    })
}

fn unique(mut list: Vec<usize>, below: usize) -> Vec<usize> {
    list.retain(|i| *i < below);
    list.sort_unstable();
    list.dedup();
    list
}

/// As a manifest, with all that would be an error left out one by one.
fn manifest(drawn: &Drawn) -> Manifest {
    let count = drawn.resources.len();
    let resources = drawn
        .resources
        .iter()
        .enumerate()
        .map(|(i, (path, kind, [owner, bundle, global], _))| {
            let table = Resource {
                path: at(path.clone()),
                kind: kind.map(at),
                owner: Some(at(*owner)),
                bundle: Some(at(*bundle)),
                global: Some(at(*global)),
                ..Resource::default()
            };
            (at(format!("r{i}")), table)
        });
    let bundles = drawn.bundles.iter().enumerate().map(|(i, members)| {
        let resources = unique(members.clone(), count)
            .iter()
            .map(|r| at(format!("r{r}")))
            .collect();
        (
            at(format!("b{i}")),
            Bundle {
                resources,
                ..Bundle::default()
            },
        )
    });
    let services = drawn.services.iter().enumerate().map(|(i, (bundles, root))| {
        let owned = (0..count).filter(|r| drawn.resources[*r].3 == Some(i));
        let table = Service {
            command: at(vec!["true".to_owned()]),
            owner_resources: owned.map(|r| at(format!("r{r}"))).collect(),
            bundles: unique(bundles.clone(), drawn.bundles.len())
                .iter()
                .map(|b| at(format!("b{b}")))
                .collect(),
            runs_with_root: Some(at(*root)),
            ..Service::default()
        };
        (at(format!("s{i}")), table)
    });
    Manifest {
        app: AppTable {
            name: at("matrix".to_owned()),
            uid_range: Some(at([61_000, 61_999])),
            gid_range: Some(at([61_000, 61_999])),
            ..AppTable::default()
        },
        resources: resources.collect(),
        bundles: bundles.collect(),
        services: services.collect(),
        ..Manifest::default()
    }
}

/// What the kernel would allow: the bits of the class that the ids fall into, as path_resolution(7) and acl(5) have it,
/// of the file as the service's mount shows it; and of that, what the mount leaves. Connecting to a socket, which takes
/// its `w`, no mount withholds.
fn by_mode(service: &plan::Unit, storage: &Storage, mount: &plan::Mount) -> (Perms, bool) {
    let of = &storage.ownership;
    let ids: Vec<u32> = service.identity.groups.iter().map(|g| g.0).collect();
    let (uid, gid) = match mount.idmap {
        Some(map) => {
            assert_eq!((map.disk.uid, map.disk.gid), (of.uid, of.gid));
            (map.seen.uid, map.seen.gid)
        }
        None => (of.uid, of.gid),
    };
    let is = |id: u32| ids.contains(&id) || service.identity.gid == id;
    let named = |wanted: Who| of.named.iter().find(|(who, _)| *who == wanted).map(|(_, bits)| *bits);
    let group = of
        .named
        .iter()
        .filter(|(who, _)| matches!(who, Who::Group(gid) if is(*gid)));
    let bits = if service.identity.uid == uid {
        of.owner
    } else if let Some(bits) = named(Who::User(service.identity.uid)) {
        bits
    } else if is(gid) || group.clone().next().is_some() {
        group.fold(if is(gid) { of.bundle } else { 0 }, |all, (_, bits)| all | bits)
    } else {
        of.global
    };
    let perms = Perms {
        read: bits & 4 != 0,
        write: bits & 2 != 0 && mount.writable,
        exec: bits & 1 != 0 && mount.executable,
        connect: false,
    };
    (perms, bits & 2 != 0)
}

fn agree(model: &Model, plan: &Plan) -> Result<(), TestCaseError> {
    for (id, service) in ServiceId::all(&plan.services).zip(&plan.services) {
        for (number, storage) in ResourceId::all(&plan.storage).zip(&plan.storage) {
            let resource = &model.resources[number];
            prop_assert_eq!(storage.keeping, Keeping::Ours);
            let wanted = model.access(Subject::Service(id), number).perms;
            let mounted = |m: &&plan::Mount| m.target == resource.mount_path() && m.source == storage.path;
            let mount = service.mounts.iter().find(mounted);
            prop_assert_eq!(
                mount.map(|m| (m.writable, m.executable)),
                (wanted != Perms::default()).then_some((wanted.write, wanted.exec))
            );
            let (real, connects) = mount.map(|m| by_mode(service, storage, m)).unwrap_or_default();
            prop_assert!(connects || !(wanted.connect || wanted.write), "{}", storage.resource);
            prop_assert!(!connects || wanted.connects(), "{}", storage.resource);
            let wanted = Perms {
                connect: false,
                ..wanted
            };
            prop_assert_eq!(
                wanted,
                real,
                "{} on {}: {:?}",
                service.name,
                storage.resource,
                storage.ownership
            );
            // Who is not granted it has no right on disk either.
            if mount.is_none() {
                let disk = plan::Mount {
                    target: String::new(),
                    source: storage.path.clone(),
                    directory: storage.directory,
                    foreign: true,
                    writable: true,
                    executable: true,
                    idmap: None,
                    missing: Vec::new(),
                    hidden: Vec::new(),
                    exclude: Default::default(),
                    masked: Vec::new(),
                    grant: None,
                };
                prop_assert_eq!(by_mode(service, storage, &disk), (Perms::default(), false));
            }
            // A directory is searched by whoever has any right in it, and by nobody else.
            let directory = storage.ownership.directory_mode();
            for class in [6, 3, 0] {
                let (file, directory) = (storage.ownership.file_mode() >> class & 7, directory >> class & 7);
                prop_assert_eq!(directory, if file == 0 { 0 } else { file | 1 });
            }
        }
        // Nothing is mounted that was not granted, and nothing twice.
        let targets: std::collections::BTreeSet<&str> = service.mounts.iter().map(|m| m.target.as_str()).collect();
        prop_assert_eq!(targets.len(), service.mounts.len());
        prop_assert_eq!(service.mounts.len(), model.grants(id).len());
    }
    // No two services share an id, nor anything with the keeper.
    let mut uids: Vec<u32> = plan.services.iter().map(|s| s.identity.uid).collect();
    uids.extend(plan.services.first().and_then(|s| s.identity.keeper).map(|k| k.uid));
    let count = uids.len();
    uids.sort_unstable();
    uids.dedup();
    prop_assert_eq!(uids.len(), count);
    Ok(())
}

#[test]
fn the_matrix_is_what_modes_and_mounts_come_to() {
    harness::need_root();
    let folder = harness::fresh_folder();
    let base = Base::open(&folder).unwrap();
    let dirs = Dirs::find("matrix", true, Some(&folder.join("state"))).unwrap();
    let library = Library::new(&folder, &dirs.state);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        max_global_rejects: 1_000_000,
        ..ProptestConfig::default()
    });
    let valid = std::cell::Cell::new(0);
    let nested = std::cell::Cell::new(0);
    let result = runner.run(&drawn(), |drawn| {
        let manifest = manifest(&drawn);
        let (model, found) = model::build(&manifest, &base);
        if found.iter().any(|d| d.severity == Severity::Error) {
            return Ok(());
        }
        valid.set(valid.get() + 1);
        nested.set(nested.get() + usize::from(model.resources.iter().any(|r| r.parent.is_some())));
        for privilege in [Privilege::Root, Privilege::SubordinateIds] {
            let mut ledger = Ledger::default();
            match plan::draw(&model, &privilege, &dirs, &library, &mut ledger) {
                Ok(plan) => agree(&model, &plan)?,
                Err(errors) => prop_assert!(false, "no plan: {errors:?}"),
            }
        }
        Ok(())
    });
    std::fs::remove_dir_all(&folder).unwrap();
    result.unwrap();
    // Or the property would be shown of next to nothing.
    assert!(valid.get() > 500, "{} valid manifests", valid.get());
    assert!(nested.get() > 50, "{} of them nest", nested.get());
}

const WHOLE: &str = r#"
[app]
name = "whole"
code = { "/code" = "./code" }
[resources]
own_dir = { path = "/data/own/", owner = "rw" }
own_run = { path = "/data/run/", owner = "rwx", global = "r" }
poor_owner = { path = "/data/poor/", owner = "r", bundle = "rw" }
shared = { path = "/data/shared/", owner = "rw", bundle = "rw", global = "r" }
nested = { path = "/data/shared/nested/", owner = "rw", bundle = "rw" }
blind = { path = "/data/blind/", owner = "rw", bundle = "w" }
search = { path = "/data/search/", owner = "rw", global = "x" }
file = { path = "/data/one/file.txt", owner = "rw", bundle = "r" }
program = { path = "/data/prog/tool", kind = "file", owner = "rwx", bundle = "rx", global = "x" }
public = { path = "/data/public.txt", owner = "rw", global = "r" }
two = { path = "/data/two/", owner = "", bundle = "rw" }
nobodys = { path = "/data/nobodys/", global = "rw" }
[bundles.left]
resources = ["poor_owner", "shared", "nested", "blind", "file", "program", "two"]
[bundles.right]
resources = ["two", "file"]
[services.a]
command = "true"
owner_resources = ["own_dir", "own_run", "poor_owner", "shared", "nested", "search", "file", "program", "public", "two"]
[services.b]
command = "true"
bundles = ["left", "right"]
owner_resources = ["blind"]
[services.c]
command = "true"
bundle = "right"
[services.d]
command = "true"
runs_with_root = true
bundle = "left"
"#;

/// Tries what may be done at a path, by doing it. A directory's `x` is shown by a program run from it, as the
/// mount's noexec decides on that; to put one there takes `w`, so without `w` the mount's flag is read.
const PROBE: &str = r#"
for path in "$@"; do
  may=
  if [ -d "$path" ]; then
    ls "$path" >/dev/null 2>&1 && may=r
    if (: >"$path/.probe$$") 2>/dev/null; then may=${may}w; rm -f "$path/.probe$$"; fi
    if cd "$path" 2>/dev/null; then
      cd /
      flags=$(awk -v at="$path" '$5 == at {print $6}' /proc/self/mountinfo)
      case ",$flags," in ,,|*,noexec,*) ;; *) may=${may}x ;; esac
    fi
  elif [ -e "$path" ]; then
    cat "$path" >/dev/null 2>&1 && may=r
    (: >>"$path") 2>/dev/null && may=${may}w
    [ -x "$path" ] && may=${may}x
  fi
  echo "$path $may"
done
"#;

#[test]
fn services_may_what_the_matrix_says() {
    for mode in BOTH {
        let app = App::new(mode, WHOLE);
        app.write("code/probe.sh", PROBE);
        let rows: serde_json::Value = serde_json::from_str(&app.ok(&["access", "--json"]).out).unwrap();
        let mut wanted: BTreeMap<(String, String), String> = BTreeMap::new();
        let paths: Vec<String> = WHOLE
            .lines()
            .filter_map(|l| l.split("path = \"").nth(1)?.split('"').next())
            .map(|p| p.trim_end_matches('/').to_owned())
            .collect();
        assert_eq!(paths.len(), 12);
        let services = ["a", "b", "c", "d"];
        for (service, path) in services.iter().flat_map(|s| paths.iter().map(move |p| (s, p))) {
            wanted.insert(((*service).to_owned(), path.clone()), String::new());
        }
        for row in rows.as_array().unwrap() {
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            if text("path") != "/code" {
                wanted.insert((text("service"), text("path")), text("permissions"));
            }
        }
        // A writable file's directory is made, the file itself is the service's to make; and a program is one by
        // its mode, which whoever makes it has to give it.
        let make = "echo text >/data/one/file.txt; echo '#!/bin/sh' >/data/prog/tool; chmod 751 /data/prog/tool";
        app.ok(&["run", "-T", "a", "--", "sh", "-c", make]);
        let mut real = BTreeMap::new();
        for service in services {
            let mut args = vec!["run", "-T", service, "--", "sh", "/code/probe.sh"];
            args.extend(paths.iter().map(String::as_str));
            for line in app.ok(&args).out.lines() {
                let (path, may) = line.split_once(' ').unwrap();
                real.insert((service.to_owned(), path.to_owned()), may.to_owned());
            }
        }
        let differing: Vec<_> = wanted
            .iter()
            .filter(|(key, may)| real.get(*key) != Some(*may))
            .collect();
        let differing: Vec<String> = differing
            .iter()
            .map(|(key, may)| format!("{key:?}: {may:?}, but {:?}", real.get(*key)))
            .collect();
        assert!(differing.is_empty(), "{mode:?}:\n{}", differing.join("\n"));
    }
}
