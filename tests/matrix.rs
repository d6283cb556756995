//! The access matrix against what it has to come true as: UNIX mode bits and mounts, computed here from the plan
//! alone and tried from inside real services.

mod harness;

use harness::{App, BOTH};
use proptest::prelude::*;
use pysecure::compile::compile;
use pysecure::host::{Dirs, Privilege};
use pysecure::manifest::types::{App as AppTable, At, Bundle, Manifest, Resource, Service};
use pysecure::manifest::{Diagnostic, Severity, Source};
use pysecure::model::matrix::Because;
use pysecure::model::source::Base;
use pysecure::model::{self, Class, Model, Object, ResourceId, Right, ServiceId, Subject};
use pysecure::plan::template::Library;
use pysecure::plan::{self, Keeping, Ledger, Plan, Storage, Who};
use pysecure::values::{Callable, Network, Perms, ResourceKind, Writable};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

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
            let wanted = model.matrix().perms(Subject::Service(id), number);
            let mounted = |m: &&plan::Mount| m.target == resource.mount_path() && m.source == storage.path;
            let mount = service.mounts.iter().find(mounted);
            prop_assert_eq!(
                mount.map(|m| (m.writable, m.executable)),
                (wanted != Perms::default()).then_some((wanted.write, wanted.exec))
            );
            // It leads back to its row, and the row to the lines of the manifest.
            let row = model.matrix().resources(Subject::Service(id));
            let row = row.iter().find(|r| r.object == Object::Resource(number));
            let grant = row.and_then(|row| model.matrix().grant(row)).map(|(_, grant)| grant);
            prop_assert_eq!(mount.map(|m| m.grant.clone()).unwrap_or_default(), grant.clone());
            prop_assert_eq!(
                grant.map(|g| (g.resource, g.perms)),
                row.map(|_| (resource.name.clone(), wanted))
            );
            prop_assert_eq!(row.map(|row| model.matrix().lines(row).is_empty()), row.map(|_| false));
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
        let rows = model.matrix().resources(Subject::Service(id));
        prop_assert_eq!(service.mounts.len(), rows.len());
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

/// What of the host manifests are planned with; gone with the value.
struct Ground {
    folder: std::path::PathBuf,
    base: Base,
    dirs: Dirs,
    library: Library,
}

impl Ground {
    fn new() -> Ground {
        harness::need_root();
        let folder = harness::fresh_folder();
        let dirs = Dirs::find("matrix", true, Some(&folder.join("state"))).unwrap();
        Ground {
            base: Base::open(&folder).unwrap(),
            library: Library::new(&folder, &dirs.state),
            dirs,
            folder,
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn runner(cases: u32) -> proptest::test_runner::TestRunner {
    proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}

#[test]
fn the_matrix_is_what_modes_and_mounts_come_to() {
    let Ground {
        base, dirs, library, ..
    } = &Ground::new();
    let valid = std::cell::Cell::new(0);
    let nested = std::cell::Cell::new(0);
    let result = runner(4000).run(&drawn(), |drawn| {
        let manifest = manifest(&drawn);
        let (model, found) = model::build(&manifest, base);
        if found.iter().any(|d| d.severity == Severity::Error) {
            return Ok(());
        }
        valid.set(valid.get() + 1);
        nested.set(nested.get() + usize::from(model.resources.iter().any(|r| r.parent.is_some())));
        for privilege in [Privilege::Root, Privilege::SubordinateIds] {
            let mut ledger = Ledger::default();
            match plan::draw(&model, &privilege, dirs, library, &mut ledger) {
                Ok(plan) => agree(&model, &plan)?,
                Err(errors) => prop_assert!(false, "no plan: {errors:?}"),
            }
        }
        Ok(())
    });
    result.unwrap();
    // Or the property would be shown of next to nothing.
    assert!(valid.get() > 500, "{} valid manifests", valid.get());
    assert!(nested.get() > 50, "{} of them nest", nested.get());
}

/// What a service is granted beside resources, as it was drawn: its network, whether it listens, the port inside that it
/// publishes, root inside, its root, and whom it lets call it.
type DrawnUses = (Network, bool, Option<u16>, bool, Writable, Vec<usize>);

fn uses() -> impl Strategy<Value = DrawnUses> {
    (
        proptest::sample::select(vec![Network::None, Network::App, Network::Host]),
        any::<bool>(),
        proptest::option::of(proptest::sample::select(vec![80u16, 8080])),
        any::<bool>(),
        proptest::sample::select(vec![Writable::No, Writable::Memory, Writable::Persistent]),
        proptest::collection::vec(0usize..5, 0..3),
    )
}

/// The rest of a manifest: `egress` for all that are not on the host's network, since those of one network share it.
fn with_uses(manifest: &mut Manifest, uses: &[DrawnUses], egress: bool) {
    let count = manifest.services.len();
    for (i, ((_, table), of)) in manifest.services.iter_mut().zip(uses).enumerate() {
        let (network, listens, published, root, writable, callers) = of;
        table.network = Some(at(*network));
        table.runs_with_root = Some(at(*root));
        if *listens {
            table.listen = vec![at(format!("127.0.0.1:{}", 8000 + i))];
        }
        if *network != Network::Host {
            table.egress = Some(at(egress));
            // In the app's network two services cannot have one port.
            let inside = published.map(|port| {
                if *network == Network::App {
                    port + i as u16
                } else {
                    port
                }
            });
            table.publish = inside.iter().map(|port| at(format!("{}:{port}", 9000 + i))).collect();
        }
        if *writable != Writable::No {
            table.jail = Some(at("small".to_owned()));
            table.writable = Some(at(*writable));
        }
        let callers = unique(callers.clone(), count + 1)
            .into_iter()
            .filter(|caller| *caller != i);
        let callers = callers.map(|caller| match caller == count {
            true => (at("operator".to_owned()), at(Callable::All)),
            false => (
                at(format!("s{caller}")),
                at(Callable::Functions(vec!["one".to_owned()])),
            ),
        });
        table.callers = Some(callers.collect());
    }
}

/// A compiled service and its rows. Each thing that the spec allows has its row, and each row its effect: in the spec, or
/// in what its supervisor carries out.
struct Compiled<'a> {
    model: &'a Model,
    plan: &'a Plan,
    subject: Subject,
    unit: &'a plan::Unit,
    spec: Value,
    rows: Vec<model::Row<'a>>,
}

impl<'a> Compiled<'a> {
    fn new(model: &'a Model, plan: &'a Plan, subject: Subject) -> Compiled<'a> {
        let unit = match subject {
            Subject::Service(id) => &plan.services[id.position()],
            _ => &plan.setup_script.as_ref().unwrap().service,
        };
        let bundle = compile(plan, unit, &plan.dirs.bundle(&unit.name)).unwrap();
        Compiled {
            model,
            plan,
            subject,
            unit,
            spec: bundle.json().unwrap(),
            rows: model.matrix().rows_of(subject),
        }
    }

    /// Who may call it.
    fn callers(&self) -> Vec<&'a str> {
        match self.subject {
            Subject::Service(id) => {
                let calls = self.model.matrix().calls_to(id);
                calls.map(|row| self.model.subject_name(row.subject)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn has(&self, object: Object) -> bool {
        self.rows.iter().any(|row| row.object == object)
    }

    /// What all have, what the root brings, folders of ours, and resources.
    fn mounts(&self) -> Result<(), TestCaseError> {
        let Compiled {
            model,
            plan,
            subject,
            unit,
            spec,
            rows,
        } = self;
        let initializes = *subject == Subject::SetupScript;
        let defaults: Value = serde_json::from_str(include_str!("../specs/config.json")).unwrap();
        let destination = |mount: &Value| mount["destination"].as_str().unwrap().to_owned();
        let of_all: BTreeSet<String> = defaults["mounts"].as_array().unwrap().iter().map(destination).collect();
        let writable_root = self.has(Object::Root(Writable::Memory)) || self.has(Object::Root(Writable::Persistent));
        let template = &plan.templates[&unit.rootfs];
        let brought: BTreeSet<String> = template.binds().map(|(path, _)| path.display().to_string()).collect();
        let called = !self.callers().is_empty();
        let calls = !model.matrix().calls_by(*subject).is_empty();
        // A script of the user's may have modules of services.
        let imports = initializes && model.matrix().has_calls();
        let (mut mounted, mut overlays) = (BTreeMap::new(), 0);
        for mount in spec["mounts"].as_array().unwrap() {
            let options: Vec<&str> = mount["options"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let at = destination(mount);
            if of_all.contains(&at) {
                continue;
            }
            let is_written = options.contains(&"rw") || options.iter().any(|o| o.starts_with("upperdir="));
            match at.as_str() {
                "/run/pysecure/rpc" => prop_assert!(calls && !is_written),
                "/run/pysecure/notify" => prop_assert!(called && !is_written),
                "/run/pysecure/syslog" => prop_assert!(!initializes && !is_written),
                "/run/pysecure/python" => prop_assert!((calls || called || imports) && !is_written),
                "/run/pysecure/script.sh" => prop_assert!(initializes && !is_written),
                _ if mount["type"] == "overlay" && options.iter().any(|o| o.starts_with("upperdir=")) => {
                    prop_assert!(writable_root, "{} writes below {at}", unit.name);
                    overlays += 1;
                }
                _ if brought.contains(&at) => prop_assert!(!is_written, "{at}"),
                _ => {
                    let may = (is_written, !options.iter().any(|o| o.ends_with("noexec")));
                    prop_assert!(mounted.insert(at.clone(), may).is_none(), "{at} twice");
                }
            }
        }
        prop_assert_eq!(overlays > 0, writable_root);
        let granted: BTreeMap<String, (bool, bool)> = rows
            .iter()
            .filter_map(|row| match (row.object, row.right) {
                (Object::Resource(r), Right::Touch(perms)) => {
                    Some((model.resources[r].mount_path().to_owned(), (perms.write, perms.exec)))
                }
                _ => None,
            })
            .collect();
        prop_assert_eq!(mounted, granted);
        let upper = unit.writable.as_ref();
        prop_assert_eq!(
            upper.is_some_and(|u| u.kept.is_some()),
            self.has(Object::Root(Writable::Persistent))
        );
        let in_memory = &spec["annotations"]["org.pysecure.memory"];
        prop_assert_eq!(in_memory.is_string(), self.has(Object::Root(Writable::Memory)));

        Ok(())
    }

    /// Its network, its ids, whom it may call, and who may call it.
    fn uses(&self) -> Result<(), TestCaseError> {
        let Compiled {
            model,
            unit,
            spec,
            rows,
            ..
        } = self;
        let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
        let network = namespaces.iter().find(|n| n["type"] == "network");
        prop_assert_eq!(network.is_none(), self.has(Object::HostNetwork));
        prop_assert_eq!(
            network.is_some_and(|n| n["path"].is_string()),
            self.has(Object::AppNetwork)
        );
        prop_assert_eq!(unit.egress, self.has(Object::Egress));
        // On the host's network it is the host's, whatever that is.
        if !self.has(Object::HostNetwork) {
            let resolver = if unit.egress { "nameserver 10.0.2.3\n" } else { "" };
            prop_assert_eq!(unit.resolver.as_str(), resolver);
        }
        let listen = rows.iter().filter_map(|row| match row.object {
            Object::Listen(address) => Some(address),
            _ => None,
        });
        prop_assert_eq!(&unit.listen, &listen.collect::<Vec<_>>());
        let publish = rows.iter().filter_map(|row| match row.object {
            Object::Publish(publish) => Some(publish),
            _ => None,
        });
        let publish: Vec<_> = publish.collect();
        prop_assert_eq!(&unit.publish, &publish);
        let low = spec["linux"]["sysctl"]["net.ipv4.ip_unprivileged_port_start"].is_string();
        prop_assert_eq!(
            low,
            network.is_some_and(|n| n["path"].is_null()) && publish.iter().any(|p| p.port < 1024)
        );

        // Its ids: 0 is its own, or the keeper's.
        let zero = spec["linux"]["uidMappings"]
            .as_array()
            .unwrap()
            .iter()
            .find(|m| m["containerID"] == 0);
        let own = zero.map(|m| m["hostID"] == unit.identity.uid);
        prop_assert_eq!(own, Some(self.has(Object::RootInside)));
        prop_assert_eq!(spec["process"]["user"]["uid"] == 0, self.has(Object::RootInside));

        // Whom it may call, and who may call it.
        prop_assert_eq!(&unit.callers, &self.callers());
        let callees = rows.iter().filter_map(|row| match row.object {
            Object::Functions(callee) => Some(model.services[callee].name.clone()),
            _ => None,
        });
        prop_assert_eq!(&unit.callees, &callees.collect::<Vec<_>>());

        Ok(())
    }

    /// What the spec itself says of them.
    fn grants(&self) -> Result<(), TestCaseError> {
        let Compiled { model, spec, rows, .. } = self;
        let said: Vec<Value> =
            serde_json::from_str(spec["annotations"]["org.pysecure.grants"].as_str().unwrap()).unwrap();
        let said: BTreeSet<String> = said.iter().map(Value::to_string).collect();
        let object = |row: &model::Row<'_>| match (row.object, row.right) {
            (Object::Resource(r), Right::Touch(perms)) => {
                let mut out =
                    json!({ "kind": "resource", "object": model.resources[r].name, "permissions": perms.letters() });
                out["class"] = "setup".into();
                if let Because::Class(class, bundle) = row.because {
                    out["class"] = class.name().into();
                    if let Some(bundle) = bundle {
                        out["bundle"] = model.bundles[bundle].name.as_str().into();
                    }
                }
                out["mount"] = model.resources[r].mount_path().into();
                out
            }
            (Object::Functions(callee), _) => json!({ "kind": "call", "object": model.services[callee].name }),
            (Object::Listen(address), _) => json!({ "kind": "listen", "object": address }),
            (Object::Publish(p), _) => json!({ "kind": "publish", "object": p.address, "port": p.port }),
            (Object::Egress, _) => json!({ "kind": "egress", "object": "outside" }),
            (Object::AppNetwork, _) => json!({ "kind": "network", "object": "app" }),
            (Object::HostNetwork, _) => json!({ "kind": "network", "object": "host" }),
            (Object::RootInside, _) => json!({ "kind": "root-inside", "object": null }),
            (Object::Root(writable), _) => json!({ "kind": "root", "object": writable }),
            (other, _) => panic!("{other:?}"),
        };
        prop_assert_eq!(said, rows.iter().map(|row| object(row).to_string()).collect());
        Ok(())
    }
}

#[test]
fn each_right_of_a_spec_has_its_row_and_each_row_its_effect() {
    let Ground {
        folder,
        base,
        dirs,
        library,
    } = &Ground::new();
    std::fs::create_dir(folder.join("jails")).unwrap();
    let small =
        "description = \"next to nothing\"\nbinaries = [\"/bin/busybox\"]\ndirectories = [\"/etc\", \"/srv\"]\n";
    std::fs::write(folder.join("jails/small.toml"), small).unwrap();
    std::fs::write(folder.join("script.sh"), "true\n").unwrap();
    let seen = std::cell::RefCell::new(BTreeMap::<String, usize>::new());
    let all = (
        drawn(),
        proptest::collection::vec(uses(), 4),
        any::<bool>(),
        any::<bool>(),
    );
    let property = |(drawn, uses, egress, setup): (Drawn, Vec<DrawnUses>, bool, bool)| {
        let mut manifest = manifest(&drawn);
        with_uses(&mut manifest, &uses, egress);
        manifest.app.setup = setup.then(|| at("script.sh".to_owned()));
        let (model, found) = model::build(&manifest, base);
        if found.iter().any(|d| d.severity == Severity::Error) {
            return Ok(());
        }
        for privilege in [Privilege::Root, Privilege::SubordinateIds] {
            let mut ledger = Ledger::default();
            let plan = match plan::draw(&model, &privilege, dirs, library, &mut ledger) {
                Ok(plan) => plan,
                Err(errors) => return Err(TestCaseError::fail(format!("no plan: {errors:?}"))),
            };
            let setup_script = plan.setup_script.is_some().then_some(Subject::SetupScript);
            let services = ServiceId::all(&model.services).map(Subject::Service);
            for subject in services.chain(setup_script) {
                let compiled = Compiled::new(&model, &plan, subject);
                compiled.mounts()?;
                compiled.uses()?;
                compiled.grants()?;
            }
        }
        for row in model.matrix().rows() {
            let kind = format!("{:?}", row.object).split(['(', ' ']).next().unwrap().to_owned();
            *seen.borrow_mut().entry(kind).or_default() += 1;
        }
        Ok(())
    };
    let kinds = [
        "Resource",
        "Functions",
        "Listen",
        "Publish",
        "Egress",
        "AppNetwork",
        "HostNetwork",
        "RootInside",
        "Root",
    ];
    // Or it would be shown of next to nothing. Chance decides how many rounds that takes: most often one.
    let some_of_each = || {
        let seen = seen.borrow();
        kinds.iter().all(|kind| seen.get(*kind).is_some_and(|rows| *rows > 20))
    };
    for _ in 0..20 {
        runner(300).run(&all, property).unwrap();
        if some_of_each() {
            return;
        }
    }
    panic!("some kind has no more than 20 rows: {:?}", seen.borrow());
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
        let rows = app.access();
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
        for row in rows {
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            if row["kind"] == "resource" && text("path") != "/code" {
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

/// A model of a manifest without errors.
fn built(text: &str) -> (Model, Vec<Diagnostic>) {
    let folder = harness::fresh_folder();
    let path = folder.join("pysecure.toml");
    std::fs::create_dir(folder.join("code")).unwrap();
    std::fs::write(&path, text).unwrap();
    let source = Source::read(&path).unwrap();
    let (manifest, mut found) = pysecure::manifest::parse(&source);
    let (model, more) = model::build(&manifest, &Base::open(&folder).unwrap());
    found.extend(more);
    std::fs::remove_dir_all(&folder).unwrap();
    (model, found)
}

const REASONS: &str = r#"
[app]
name = "reasons"
external_uid = 33
external_gid = 33
code = { "/code" = "./code" }
[resources]
own = { path = "/own/", owner = "rw", global = "r" }
both = { path = "/both/", owner = "rx", bundle = "r" }
theirs = { path = "/theirs/", owner = "rw", owned_by_external = true }
none = { path = "/none/", owner = "rw" }
[bundles.left]
resources = ["both"]
[bundles.right]
resources = ["own", "both"]
used_by_external = false
[services.a]
command = "true"
owner_resources = ["own", "none"]
bundles = ["right", "left"]
callers = { b = ["one", "two"], operator = "*" }
listen = ["127.0.0.1:8080"]
publish = ["127.0.0.1:8081:81"]
egress = true
network = "app"
runs_with_root = true
[services.b]
command = "true"
owner_resources = ["both"]
network = "host"
jail = "minimal"
writable = true
[services.c]
command = "true"
"#;

/// Each row of a manifest: who, to what, which right, and the text of the manifest's places that it follows from.
#[test]
fn each_row_leads_back_to_its_lines() {
    let (model, found) = built(REASONS);
    assert!(found.iter().all(|d| d.severity != Severity::Error), "{found:?}");
    let matrix = model.matrix();
    let rows: Vec<String> = matrix
        .rows()
        .map(|row| {
            let object = match row.object {
                Object::Resource(id) => model.resources[id].name.clone(),
                Object::Functions(id) => model.services[id].name.clone(),
                Object::Listen(address) => address.to_string(),
                Object::Publish(p) => format!("{} to {}", p.address, p.port),
                other => format!("{other:?}"),
            };
            let class = match row.because {
                Because::Class(class, _) => class.name(),
                _ => "key",
            };
            let lines = matrix.lines(&row);
            let places: Vec<&str> = lines.iter().map(|line| &REASONS[line.span.clone()]).collect();
            format!(
                "{} {object} {class}: {}",
                model.subject_name(row.subject),
                places.join(" > ")
            )
        })
        .collect();
    let wanted = [
        r#"a own owner: "own" > "rw""#,
        r#"a both bundle: "left" > "both" > "r""#,
        r#"a none owner: "none" > "rw""#,
        r#"a code:/code global: "/code""#,
        r#"a 127.0.0.1:8080 key: "127.0.0.1:8080""#,
        r#"a 127.0.0.1:8081 to 81 key: "127.0.0.1:8081:81""#,
        "a Egress key: true",
        r#"a AppNetwork key: "app""#,
        "a RootInside key: true",
        r#"b own global: "r""#,
        r#"b both owner: "both" > "rx""#,
        r#"b code:/code global: "/code""#,
        "b a key: b",
        r#"b HostNetwork key: "host""#,
        "b Root(Memory) key: true",
        r#"c own global: "r""#,
        r#"c code:/code global: "/code""#,
        r#"external own global: "r""#,
        r#"external theirs owner: true > "rw""#,
        r#"external code:/code global: "/code""#,
        "external HostIds key: 33",
        "operator a key: operator",
    ];
    assert_eq!(rows, wanted, "{rows:#?}");
    // A column holds what the rows of it say, for those who have one of their own.
    for (id, resource) in ResourceId::all(&model.resources).zip(&model.resources) {
        let column = matrix.column(id);
        for subject in matrix.subjects().filter(|s| *s != Subject::Operator) {
            let name = model.subject_name(subject);
            assert_eq!(
                column.of(name),
                matrix.perms(subject, id),
                "{name} on {}",
                resource.name
            );
        }
    }
    let (_, because) = matrix.touch(Subject::Service(ServiceId::new(0)), ResourceId::new(1));
    assert!(matches!(because, Because::Class(Class::Bundle, Some(bundle)) if model.bundles[bundle].name == "left"));
}

/// Rules on [`REASONS`], and for those that fail: the message's end, and the places that lead there.
#[test]
fn a_broken_assertion_shows_what_leads_there() {
    const HOLD: &[&str] = &[
        r#"never = ["read none except a", "write own except a", "write code:/code", "execute both except b"]"#,
        r#"never = ["call b", "call a except b, operator", "call a.three except operator", "call a from c"]"#,
        r#"never = ["listen from c", "listen 127.0.0.1:9 except b, external", "egress except a, b, external"]"#,
        r#"never = ["network app except a", "network host except b, external", "runs_with_root except a", "writable except b"]"#,
        r#"always = ["read own by a, b, c, external", "execute both by b", "call a.two by b", "call a by operator"]"#,
        r#"always = ["listen 127.0.0.1:8080 by a", "egress by a, b", "network app by a", "runs_with_root by a", "writable by b"]"#,
    ];
    for rules in HOLD {
        let (_, found) = built(&format!("{REASONS}[assert]\n{rules}\n"));
        let wrong: Vec<_> = found.iter().filter(|d| d.severity == Severity::Error).collect();
        assert!(wrong.is_empty(), "{rules}: {wrong:?}");
    }
    for (rule, message, path) in [
        (
            r#"never = ["read own except a"]"#,
            "`b`, `c`, `external` may read `own`",
            &[r#""r""#][..],
        ),
        (
            r#"never = ["read both except b"]"#,
            "`a` may read `both`",
            &[r#""left""#, r#""both""#, r#""r""#],
        ),
        (
            r#"never = ["write none"]"#,
            "`a` may write `none`",
            &[r#""none""#, r#""rw""#],
        ),
        (
            r#"never = ["write theirs"]"#,
            "`external` may write `theirs`",
            &["true", r#""rw""#],
        ),
        (
            r#"never = ["read code:/code from c"]"#,
            "`c` may read `code:/code`",
            &[r#""/code""#],
        ),
        (r#"never = ["call a except operator"]"#, "`b` may call `a`", &["b"]),
        (
            r#"never = ["call a except b"]"#,
            "`operator` may call `a`",
            &["operator"],
        ),
        (r#"never = ["call a.one from b"]"#, "`b` may call `one` of `a`", &["b"]),
        (
            r#"never = ["listen from a"]"#,
            "`a` may listen on the host",
            &[r#""127.0.0.1:8080""#],
        ),
        (
            r#"never = ["listen 127.0.0.1:8081 from a"]"#,
            "`a` may listen on 127.0.0.1:8081",
            &[r#""127.0.0.1:8081:81""#],
        ),
        (
            r#"never = ["listen 0.0.0.0:8080 from a"]"#,
            "`a` may listen on 0.0.0.0:8080",
            &[r#""127.0.0.1:8080""#],
        ),
        (
            r#"never = ["listen 127.0.0.1:9 from b"]"#,
            "`b` may listen on 127.0.0.1:9",
            &[r#""host""#],
        ),
        (
            r#"never = ["egress except a, external"]"#,
            "`b` may connect to the outside",
            &[r#""host""#],
        ),
        (
            r#"never = ["egress except a, b"]"#,
            "`external` may connect to the outside",
            &["33"],
        ),
        (
            r#"never = ["network app"]"#,
            "`a` may use the app's network",
            &[r#""app""#],
        ),
        (
            r#"never = ["network host except external"]"#,
            "`b` may use the host's network",
            &[r#""host""#],
        ),
        (
            r#"never = ["runs_with_root"]"#,
            "`a` may run with root inside",
            &["true"],
        ),
        (r#"never = ["writable"]"#, "`b` may write to its root", &["true"]),
        (
            r#"always = ["write own by a, b, c"]"#,
            "`b`, `c` may not write `own`",
            &[r#""r""#],
        ),
        (
            r#"always = ["write both by a"]"#,
            "`a` may not write `both`",
            &[r#""left""#, r#""both""#, r#""r""#],
        ),
        (r#"always = ["call a by b"]"#, "`b` may not call `a`", &["b"]),
        (
            r#"always = ["call a.three by b"]"#,
            "`b` may not call `three` of `a`",
            &["b"],
        ),
        (r#"always = ["call b by a"]"#, "`a` may not call `b`", &["b"]),
        (
            r#"always = ["listen 0.0.0.0:8080 by a"]"#,
            "`a` may not listen on 0.0.0.0:8080",
            &["a"],
        ),
        (
            r#"always = ["egress by c"]"#,
            "`c` may not connect to the outside",
            &["c"],
        ),
    ] {
        let text = format!("{REASONS}[assert]\n{rule}\n");
        let (_, found) = built(&text);
        let wrong: Vec<_> = found.iter().filter(|d| d.severity == Severity::Error).collect();
        let [broken] = wrong[..] else {
            panic!("{rule}: {found:?}")
        };
        assert_eq!(broken.message, format!("assertion fails: {message}"), "{rule}");
        let places: Vec<&str> = broken.others.iter().map(|(span, _)| &text[span.clone()]).collect();
        assert_eq!(places, path, "{rule}: {:?}", broken.others);
    }
    for (rule, message) in [
        (r#"never = [""]"#, "the assertion is empty"),
        (r#"never = ["read nothing"]"#, "no resource is called `nothing`"),
        (r#"never = ["read code:/x"]"#, "no resource is called `code:/x`"),
        (r#"never = ["call nobody"]"#, "no service is called `nobody`"),
        (
            r#"never = ["network"]"#,
            "an assertion on `network` names `host` or `app`",
        ),
        (r#"never = ["egress by a"]"#, "expected `except` or `from`, found `by`"),
        (
            r#"never = ["egress except"]"#,
            "the assertion names nobody behind its last word",
        ),
        (
            r#"always = ["egress"]"#,
            "the assertion does not say who: expected `by`",
        ),
        (r#"always = ["egress from a"]"#, "expected `by`, found `from`"),
        (
            r#"always = ["egress by"]"#,
            "the assertion names nobody behind its last word",
        ),
    ] {
        let (_, found) = built(&format!("{REASONS}[assert]\n{rule}\n"));
        let said = found
            .iter()
            .filter(|d| d.severity == Severity::Error)
            .map(|d| d.message.as_str());
        assert_eq!(said.collect::<Vec<_>>(), [message], "{rule}");
    }
}

#[test]
fn access_shows_all_kinds_of_rows_with_their_lines() {
    for mode in BOTH {
        let app = App::new(mode, REASONS);
        app.write("code/main.py", "");
        let text = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
        let rows = app.access();
        let row = |service: &str, kind: &str| {
            let mut rows = rows.iter();
            let found = rows.find(|r| r["service"] == service && r["kind"] == kind);
            found.unwrap_or_else(|| panic!("{service} {kind}: {rows:?}")).clone()
        };
        let line = |of: &serde_json::Value, at: usize| {
            let because = &of["because"][at];
            assert!(
                because["file"].as_str().unwrap().ends_with("pysecure.toml"),
                "{because}"
            );
            let number = usize::try_from(because["line"].as_u64().unwrap()).unwrap();
            text.lines().nth(number - 1).unwrap()
        };
        let own = row("a", "resource");
        assert_eq!(
            (
                &own["resource"],
                &own["path"],
                &own["class"],
                &own["permissions"],
                &own["object"]
            ),
            (
                &"own".into(),
                &"/own".into(),
                &"owner".into(),
                &"rw".into(),
                &"own".into()
            )
        );
        assert!(line(&own, 0).starts_with("owner_resources") && line(&own, 1).starts_with("own ="));
        let call = row("b", "call");
        assert_eq!(
            (&call["object"], &call["functions"]),
            (&"a".into(), &serde_json::json!(["one", "two"]))
        );
        assert!(line(&call, 0).starts_with("callers"));
        assert_eq!(row("operator", "call")["functions"], "*");
        assert_eq!(row("a", "listen")["object"], "127.0.0.1:8080");
        assert_eq!(row("a", "publish")["port"], 81);
        assert_eq!(row("b", "network")["object"], "host");
        assert_eq!(row("b", "root")["object"], "memory");
        assert_eq!(row("external", "host-ids")["object"], serde_json::json!([33, 33]));
        for kind in ["egress", "root-inside"] {
            assert!(line(&row("a", kind), 0).ends_with("true"), "{kind}");
        }
        let table = app.ok(&["access"]).out;
        for words in [
            &["a", "rw-", "own", "owner", "/own"][..],
            &["b", "call", "a", "callers", "one, two"],
            &["a", "listen", "127.0.0.1:8081", "publish", "port 81 inside"],
            &["a", "be", "root inside", "runs_with_root"],
            &["external", "be", "ids of the host", "33:33"],
        ] {
            let shown = table.lines().any(|l| words.iter().all(|word| l.contains(word)));
            assert!(shown, "{words:?}: {table}");
        }
    }
}
