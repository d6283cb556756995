//! The compiled specs: valid by the OCI's own schema, the same bytes every time, and run by other OCI runtimes
//! to the same effect as by PySecure itself.

mod harness;

use harness::{App, BOTH, Container, Ended, Mode};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// The manifest that has everything in it. What each service runs, says the probe.
fn everything(name: &str) -> String {
    format!(
        r#"
[app]
name = "{name}"
external_uid = 33
external_gid = 33
code = {{ "/zoobar" = "./zoobar" }}

[resources]
# Below read-only code: the mount point is supplied by a layer.
cred = {{ path = "/zoobar/db/cred/cred.db", owner = "rw" }}
board = {{ path = "/data/board/", owner = "rwx", bundle = "rw" }}
letters = {{ path = "/data/letters/", owner = "rw", bundle = "r", global = "r" }}
pinned = {{ path = "/data/letters/pinned/", owner = "rw", global = "x" }}
dropbox = {{ path = "/data/dropbox/", owner = "rw", bundle = "w" }}
motd = {{ path = "/data/motd.txt", source = "./motd.txt", global = "r" }}
tools = {{ path = "/opt/tools", source = "./tools", global = "rx" }}
static = {{ path = "/srv/static", bundle = "r", owner = "rw", owned_by_external = true }}

[bundles.team]
resources = ["board", "letters"]
[bundles.post]
resources = ["letters", "dropbox"]
[bundles.web]
resources = ["static"]
used_by_external = true

[services.auth]
command = ["sh", "/opt/tools/probe.sh"]
directory = "/zoobar"
owner_resources = ["cred", "board"]
bundles = ["team", "post"]
callers = {{ front = "*", admin = ["check"] }}

[services.front]
command = ["sh", "/opt/tools/probe.sh"]
bundles = ["post", "web"]
environment = {{ GREETING = "hello = world", EMPTY = "" }}

[services.admin]
command = ["sh", "/opt/tools/probe.sh"]
owner_resources = ["letters", "pinned", "dropbox"]
runs_with_root = true
bundle = "team"

[services.net]
command = ["sh", "/opt/tools/probe.sh"]
network = "host"
"#
    )
}

fn app(mode: Mode, name: &str) -> App {
    let app = App::new(mode, &everything(name));
    app.write("zoobar/auth.py", "print('auth')\n");
    app.write("motd.txt", "welcome\n");
    app.write("tools/probe.sh", include_str!("oci-probe.sh"));
    app
}

fn schema() -> jsonschema::Validator {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oci-schema");
    let mut registry = jsonschema::Registry::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "json") {
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            let schema: Value = serde_json::from_str(&text).unwrap();
            registry = registry.add(format!("https://oci.test/{name}"), schema).unwrap();
        }
    }
    // Leaked, as the validator borrows it: once a process.
    let registry = Box::leak(Box::new(registry.prepare().unwrap()));
    jsonschema::options()
        .with_registry(registry)
        .offline()
        .build(&serde_json::json!({ "$ref": "https://oci.test/config-schema.json" }))
        .unwrap()
}

#[track_caller]
fn valid(schema: &jsonschema::Validator, what: &str, spec: &Value) {
    let errors: Vec<String> = schema
        .iter_errors(spec)
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect();
    assert_eq!(errors, [""; 0], "{what}");
}

#[test]
fn specs_are_valid_by_the_oci_schema() {
    let schema = schema();
    for mode in BOTH {
        let app = app(mode, "valid");
        let specs: Value = serde_json::from_str(&app.ok(&["spec"]).out).unwrap();
        assert_eq!(specs.as_object().unwrap().len(), 4);
        for (service, spec) in specs.as_object().unwrap() {
            valid(&schema, service, spec);
        }
        // The schema does look into the parts that matter: each of these is a spec that no runtime takes.
        let good = &specs["auth"];
        for (pointer, wrong) in [
            ("/linux/namespaces/0/type", Value::from("users")),
            ("/linux/uidMappings/0/containerID", Value::from("0")),
            ("/linux/seccomp/defaultAction", Value::from("SCMP_ACT_DENY")),
            ("/process/rlimits/0/hard", Value::from(-1)),
            ("/mounts/0/destination", Value::Null),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).unwrap() = wrong;
            assert!(!schema.is_valid(&bad), "{pointer} is not looked at");
        }
    }
}

#[test]
fn examples_are_valid_by_the_oci_schema() {
    let schema = schema();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let manifest = entry.unwrap().path().join("pysecure.toml");
        if !manifest.is_file() {
            continue;
        }
        let state = harness::fresh_folder();
        let output = Command::new(harness::binary())
            .args([
                "--state-dir",
                state.to_str().unwrap(),
                "-f",
                manifest.to_str().unwrap(),
                "spec",
            ])
            .output()
            .unwrap();
        let specs: Value = serde_json::from_str(&Ended::from(output).ok().out).unwrap();
        for (service, spec) in specs.as_object().unwrap() {
            valid(&schema, &format!("{} {service}", manifest.display()), spec);
        }
        assert_eq!(
            std::fs::read_dir(&state).unwrap().count(),
            0,
            "printing leaves no trace"
        );
        std::fs::remove_dir(&state).unwrap();
        seen += 1;
    }
    assert!(seen >= 2, "examples are gone");
}

#[test]
fn the_same_manifest_gives_the_same_bytes() {
    for mode in BOTH {
        let app = app(mode, "bytes");
        let first = app.ok(&["spec"]).out;
        assert_eq!(first, app.ok(&["spec"]).out);
        // Nor does it matter that the ids are on record by now, or that all was made on disk.
        let out = app.folder.join("out");
        app.ok(&["spec", "-o", out.to_str().unwrap()]);
        assert_eq!(first, app.ok(&["spec"]).out);
        let read =
            || ["auth", "front", "admin", "net"].map(|s| std::fs::read(out.join(s).join("config.json")).unwrap());
        let written = read();
        app.ok(&["spec", "-o", out.to_str().unwrap()]);
        assert!(written == read(), "a second `compile -o` wrote other bytes");
    }
}

/// A spec without the annotation that says which rows it carries out, and what that says.
fn apart(spec: &Value) -> (Value, Vec<Value>) {
    let mut spec = spec.clone();
    let said = spec["annotations"]
        .as_object_mut()
        .unwrap()
        .remove("org.pysecure.grants");
    (spec, serde_json::from_str(said.unwrap().as_str().unwrap()).unwrap())
}

#[test]
fn a_spec_leads_back_to_the_manifests_lines() {
    for mode in BOTH {
        let app = app(mode, "leads");
        let specs = || serde_json::from_str::<Value>(&app.ok(&["spec"]).out).unwrap();
        let before = specs();
        let text = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
        for (service, spec) in before.as_object().unwrap() {
            let (spec, said) = apart(spec);
            let mounts: Vec<&Value> = spec["mounts"]
                .as_array()
                .unwrap()
                .iter()
                .map(|m| &m["destination"])
                .collect();
            assert!(
                said.iter().any(|grant| grant["kind"] == "resource"),
                "{service}: {said:?}"
            );
            for grant in &said {
                assert!(
                    grant["kind"] != "resource" || mounts.contains(&&grant["mount"]),
                    "{service}: {grant}"
                );
                let because = grant["because"].as_array().unwrap();
                assert!(!because.is_empty(), "{service}: {grant}");
                let lines = because.iter().map(|line| {
                    assert!(line["file"].as_str().unwrap().ends_with("pysecure.toml"), "{line}");
                    text.lines()
                        .nth(usize::try_from(line["line"].as_u64().unwrap()).unwrap() - 1)
                        .unwrap()
                });
                // One of them names what is granted, or how.
                let object = grant["object"]
                    .as_str()
                    .unwrap_or("runs_with_root")
                    .trim_start_matches("code:");
                let names = [object, "callers"];
                let lines: Vec<&str> = lines.collect();
                let named = lines.iter().any(|line| names.iter().any(|name| line.contains(name)));
                assert!(named, "{service}: {grant}: {lines:?}");
            }
        }
        // A comment moves the lines, and nothing else.
        app.write("pysecure.toml", format!("# One line more.\n{text}"));
        let after = specs();
        assert_ne!(before, after);
        for (service, spec) in before.as_object().unwrap() {
            let ((spec, mut said), (later, moved)) = (apart(spec), apart(&after[service]));
            assert_eq!(spec, later, "{service}");
            for line in said
                .iter_mut()
                .flat_map(|grant| grant["because"].as_array_mut().unwrap())
            {
                line["line"] = (line["line"].as_u64().unwrap() + 1).into();
            }
            assert_eq!(said, moved, "{service}");
        }
    }
}

#[test]
fn a_spec_names_the_version_that_its_keys_need() {
    let app = App::new(
        Mode::Root,
        r#"
[app]
name = "versions"
[resources]
mine = { path = "/data/mine", source = "./mine", owner = "rw" }
[services.plain]
command = "true"
[services.idmapped]
command = "true"
owner_resources = ["mine"]
"#,
    );
    app.write("mine/file", "");
    std::os::unix::fs::chown(app.folder.join("mine"), Some(1234), Some(1234)).unwrap();
    let specs: Value = serde_json::from_str(&app.ok(&["spec"]).out).unwrap();
    // crun 1.8 takes no higher number; the recursive mount options and the maps of mounts came with this one.
    assert_eq!(specs["plain"]["ociVersion"], "1.1.0");
    assert_eq!(specs["idmapped"]["ociVersion"], "1.1.0");
    let maps = |spec: &Value| spec["mounts"].to_string().contains("uidMappings");
    assert!(maps(&specs["idmapped"]) && !maps(&specs["plain"]));
    valid(&schema(), "idmapped", &specs["idmapped"]);
}

/// The facts of a probe, with a namespace named by whose it is.
fn facts_of(text: &str) -> String {
    let fact = |line: &str| match line.strip_prefix("namespace ").and_then(|l| l.split_once(' ')) {
        Some((kind, id)) => {
            let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            let whose = if host == Path::new(id) { "the host's" } else { "its own" };
            assert!(id.starts_with(&format!("{kind}:[")), "{line}");
            format!("namespace {kind}: {whose}\n")
        }
        None => format!("{line}\n"),
    };
    text.lines().map(fact).collect()
}

const SERVICES: [&str; 4] = ["auth", "front", "admin", "net"];

/// Flags that the OCI gives a runtime no say in, or that Debian's are known to do in another way: what is
/// covered or made by the runtime itself, and crun's lost flags of a writable directory that is another service's.
fn by_the_runtime(program: &str, service: &str, line: &str) -> bool {
    line.starts_with("mount / ")
        || line.starts_with("mount /proc/")
        || line.starts_with("mount /dev/")
        || line.starts_with("dev ")
        // Beside the app nobody writes a log, nor hears what `auth` says of itself.
        || line.starts_with("mount /run/pysecure/syslog ")
        || service == "auth" && (line.starts_with("env NOTIFY_SOCKET=") || line.starts_with("mount /run/pysecure/notify "))
        || program == "crun" && line.starts_with("mount /data/dropbox ")
}

/// Where the spec's mounts show files under other ids.
fn idmapped(bundle: &Path) -> Vec<String> {
    let spec: Value = serde_json::from_slice(&std::fs::read(bundle.join("config.json")).unwrap()).unwrap();
    let mounts = spec["mounts"].as_array().unwrap().iter();
    let mapped = mounts.filter(|m| m["uidMappings"].is_array());
    mapped.map(|m| m["destination"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn other_runtimes_run_a_bundle_to_the_same_effect() {
    let app = app(Mode::Root, "parity");
    let out = app.folder.join("out");
    app.ok(&["spec", "-o", out.to_str().unwrap()]);
    let mut different = String::new();
    for service in SERVICES {
        let ours = facts_of(&app.ok(&["run", "-T", service]).out);
        let shared = ours.lines().filter(|l| l.ends_with(": the host's"));
        // It has `network = "host"`.
        let expected: &[&str] = if service == "net" {
            &["namespace net: the host's"]
        } else {
            &[]
        };
        assert_eq!(shared.collect::<Vec<_>>(), expected, "{service}");
        assert!(
            ours.contains("loopback up") && ours.contains("NoNewPrivs:\t1"),
            "{ours}"
        );
        for program in ["crun", "runc"] {
            // runc 1.1 takes no notice of the maps of mounts; what is shared is closed there, and no more, nor can
            // it mount anything in there.
            let shared = if program == "runc" {
                idmapped(&out.join(service))
            } else {
                Vec::new()
            };
            let theirs = Container::run(program, &out.join(service)).ended();
            if !shared.is_empty() && theirs.code != 0 {
                assert!(
                    theirs.err.contains("/data/letters/pinned: permission denied"),
                    "{service}: {}",
                    theirs.err
                );
                continue;
            }
            let theirs = facts_of(&theirs.ok().out);
            for line in theirs.lines().filter(|l| l.starts_with("path ")) {
                let mut words = line.split(' ').skip(1);
                let (path, may) = (words.next().unwrap(), words.next().unwrap());
                if shared.iter().any(|s| s == path) {
                    assert!(!may.contains("list") && !may.contains("make"), "{service}: {line}");
                }
            }
            let closed = |line: &str| {
                let path = line.strip_prefix("path ").and_then(|l| l.split(' ').next());
                path.is_some_and(|p| shared.iter().any(|s| Path::new(p).starts_with(s)))
            };
            let facts = |text: &str| -> Vec<String> {
                let kept = text
                    .lines()
                    .filter(|l| !by_the_runtime(program, service, l) && !closed(l));
                kept.map(str::to_owned).collect()
            };
            let (ours, theirs) = (facts(&ours), facts(&theirs));
            for line in ours.iter().filter(|l| !theirs.contains(l)) {
                different += &format!("{service}: only by pysecure: {line}\n");
            }
            for line in theirs.iter().filter(|l| !ours.contains(l)) {
                different += &format!("{service}: only by {program}: {line}\n");
            }
        }
    }
    assert_eq!(different, "");
}

#[test]
fn examples_run_under_other_runtimes() {
    let bundles = |name: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
        let app = App::new(
            Mode::Root,
            &std::fs::read_to_string(folder.join("pysecure.toml")).unwrap(),
        );
        for entry in std::fs::read_dir(folder.join("app")).into_iter().flatten() {
            let path = entry.unwrap().path();
            app.write(
                &format!("app/{}", path.file_name().unwrap().to_str().unwrap()),
                std::fs::read(&path).unwrap(),
            );
        }
        let out = app.folder.join("out");
        app.ok(&["spec", "-o", out.to_str().unwrap()]);
        (app, out)
    };
    // What a service may, it may under each; only who is PID 1 differs, for there it is the service itself.
    let facts = |lines: &[String]| -> Vec<String> {
        let fact = |l: &&String| (l.starts_with("can") || l.starts_with("find")) && !l.contains("PID 1");
        lines.iter().filter(fact).cloned().collect()
    };
    let (app, out) = bundles("hello");
    app.ok(&["up", "-d"]);
    for service in ["auth", "web", "stranger"] {
        let last = "cannot become root";
        let log = app.wait_for_log(service, last);
        let ours: Vec<String> = log.lines().map(|l| l.split_once("| ").unwrap().1.to_owned()).collect();
        assert_eq!(facts(&ours).len(), 9, "{log}");
        for program in ["crun", "runc"] {
            let theirs = Container::run(program, &out.join(service)).until(last);
            if program == "crun" || idmapped(&out.join(service)).is_empty() {
                assert_eq!(facts(&ours), facts(&theirs), "{program} {service}");
            }
        }
    }
    app.ok(&["down"]);

    for program in ["crun", "runc"] {
        let (_app, out) = bundles("redis");
        if program == "runc" {
            // The socket's folder is shared, see above.
            assert_eq!(idmapped(&out.join("counter")), ["/run/redis"]);
            continue;
        }
        let mut redis = Container::run(program, &out.join("redis"));
        redis.until("ready to accept connections at /run/redis/redis.sock");
        let mut counter = Container::run(program, &out.join("counter"));
        counter.until("started 1 times");
        let mut stranger = Container::run(program, &out.join("stranger"));
        let said = stranger.until("and no port");
        assert!(said.contains(&"no socket for me".to_owned()), "{program} {said:?}");
    }
}

/// A bundle names the app's network beside itself, where whoever runs bundles makes it.
#[test]
fn other_runtimes_join_the_apps_network() {
    let manifest = r#"
[app]
name = "joined"
[services.one]
command = ["sh", "-c", "readlink /proc/self/ns/net; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"]
network = "app"
[services.two]
command = ["readlink", "/proc/self/ns/net"]
network = "app"
publish = ["127.0.0.1:18080:80"]
"#;
    let app = App::new(Mode::Root, manifest);
    let out = app.folder.join("out");
    let written = app.ok(&["spec", "-o", out.to_str().unwrap()]);
    let network = out.join("app.net");
    // What no runtime will do is said.
    assert!(
        written.err.contains("`two`") && written.err.contains("publish"),
        "{}",
        written.err
    );
    assert!(written.err.contains(network.to_str().unwrap()), "{}", written.err);
    // Not there, it is an error and not another network.
    for program in ["crun", "runc"] {
        assert_ne!(Container::run(program, &out.join("one")).ended().code, 0);
    }
    std::fs::write(&network, "").unwrap();
    let script =
        "unshare --net=\"$1\" sh -c 'echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start' && stat -Lc %i \"$1\"";
    let made = Command::new("sh")
        .args(["-euc", script, "sh", network.to_str().unwrap()])
        .output()
        .unwrap();
    let id = Ended::from(made).ok().out;
    for program in ["crun", "runc"] {
        let seen = Container::run(program, &out.join("one")).ended().ok().out;
        assert_eq!(seen, format!("net:[{}]\n0\n", id.trim()), "{program}");
        assert_eq!(
            Container::run(program, &out.join("two")).ended().ok().out,
            format!("net:[{}]\n", id.trim())
        );
    }
    assert!(Command::new("umount").arg(&network).status().unwrap().success());
}

/// Inside, a service is the same whoever starts it.
#[test]
fn rootless_services_are_as_those_of_root() {
    let [root, user] = BOTH.map(|mode| {
        let app = app(mode, "alike");
        SERVICES.map(|service| facts_of(&app.ok(&["run", "-T", service]).out))
    });
    for (service, (root, user)) in SERVICES.iter().zip(root.iter().zip(&user)) {
        // What is shared has one owner and a mode of 0700 as root, and by class without: what may be done is the same.
        let facts = |text: &str| -> Vec<String> {
            let shared = |l: &str| l.starts_with("path /data/") || l.starts_with("path /srv/");
            let fact = |l: &str| match l.split_once(':') {
                Some((rights, _)) if shared(l) => rights.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
                _ => l.to_owned(),
            };
            text.lines().filter(|l| !l.starts_with("umask ")).map(fact).collect()
        };
        assert_eq!(facts(root), facts(user), "{service}");
    }
}

/// Id 0 of a service's namespace has no power over a directory whose owner or group it does not map, and yet has
/// to mount what lies in there.
#[test]
fn a_resource_inside_another_services_closed_directory_is_mounted() {
    let manifest = r#"
[app]
name = "inner"
[resources]
outer = { path = "/data/outer/", owner = "rw", bundle = "rx" }
inner = { path = "/data/outer/a/inner/", owner = "rw", bundle = "rw" }
[bundles.team]
resources = ["outer", "inner"]
[services.owner]                    # of its bundle, which it is not in
command = "true"
owner_resources = ["outer", "inner"]
[services.member]
command = "true"
bundle = "team"
[services.stranger]
command = "true"
"#;
    for mode in BOTH {
        let app = App::new(mode, manifest);
        let sh = |service: &str, script: &str| app.run(&["run", "-T", service, "--", "sh", "-c", script]);
        sh(
            "owner",
            "echo one >/data/outer/a/inner/file && echo two >/data/outer/note",
        )
        .ok();
        assert_eq!(
            sh("member", "cat /data/outer/a/inner/file /data/outer/note").ok().out,
            "one\ntwo\n"
        );
        sh("member", "echo more >>/data/outer/a/inner/file").ok();
        assert_ne!(sh("member", "echo no >/data/outer/note").code, 0);
        assert_ne!(sh("stranger", "ls /data/outer").code, 0);
    }
}
