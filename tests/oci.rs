//! The compiled specs: valid by the OCI's own schema, the same bytes every time, and run by other OCI runtimes
//! to the same effect as by PySecure itself.

mod harness;

use harness::{App, BOTH, Ended, Mode};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// The manifest that has everything in it. What each service runs, says the probe.
fn everything(name: &str) -> String {
    format!(
        r#"
[app]
name = "{name}"
dynamic_svc_uid = 33
dynamic_svc_gid = 33
code = {{ "/zoobar" = "./zoobar" }}

[resources]
# Below read-only code: the mount point is supplied by a layer.
cred = {{ path = "/zoobar/db/cred/cred.db", owner = "rw" }}
board = {{ path = "/data/board/", owner = "rwx", bundle = "rw" }}
pinned = {{ path = "/data/board/pinned/", owner = "rw", bundle = "rw" }}
letters = {{ path = "/data/letters/", owner = "rw", bundle = "r", global = "r" }}
dropbox = {{ path = "/data/dropbox/", owner = "rw", bundle = "w" }}
motd = {{ path = "/data/motd.txt", source = "./motd.txt", global = "r" }}
tools = {{ path = "/opt/tools", source = "./tools", global = "rx" }}
static = {{ path = "/srv/static", bundle = "r", owner = "rw", owned_by_dynamic_svc = true }}

[bundles.team]
resources = ["board", "pinned", "letters"]
[bundles.post]
resources = ["letters", "dropbox"]
[bundles.web]
resources = ["static"]
used_by_dynamic_svc = true

[services.auth]
command = ["sh", "/opt/tools/probe.sh"]
directory = "/zoobar"
owner_resources = ["cred", "board", "pinned"]
bundles = ["team", "post"]
callers = {{ front = "*", admin = ["check"] }}

[services.front]
command = ["sh", "/opt/tools/probe.sh"]
bundles = ["post", "web"]
environment = {{ GREETING = "hello = world", EMPTY = "" }}
listen = ["127.0.0.1:0"]

[services.admin]
command = ["sh", "/opt/tools/probe.sh"]
owner_resources = ["letters", "dropbox"]
runs_with_root = true
bundle = "team"

[services.net]
command = ["sh", "/opt/tools/probe.sh"]
network = "host"
"#
    )
    .replace("listen = [\"127.0.0.1:0\"]\n", "")
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
    assert_eq!(spec["ociVersion"], "1.2.0", "{what}");
}

#[test]
fn specs_are_valid_by_the_oci_schema() {
    let schema = schema();
    for mode in BOTH {
        let app = app(mode, "valid");
        let specs: Value = serde_json::from_str(&app.ok(&["compile"]).out).unwrap();
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
                "compile",
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
        let first = app.ok(&["compile"]).out;
        assert_eq!(first, app.ok(&["compile"]).out);
        // Nor does it matter that the ids are on record by now, or that all was made on disk.
        let out = app.folder.join("out");
        app.ok(&["compile", "-o", out.to_str().unwrap()]);
        assert_eq!(first, app.ok(&["compile"]).out);
        let read =
            || ["auth", "front", "admin", "net"].map(|s| std::fs::read(out.join(s).join("config.json")).unwrap());
        let written = read();
        app.ok(&["compile", "-o", out.to_str().unwrap()]);
        assert!(written == read(), "a second `compile -o` wrote other bytes");
    }
}
