//! The manifest's front end, as the rest of the program uses it. Needs no privilege.

use std::fs;
use std::path::Path;
use std::time::Instant;

use proptest::prelude::*;
use pysecure::manifest::{
    Diagnostic, Format, INIT, Manifest, Severity, Source, diagnostics_json, locate, parse, render, schema,
};
use pysecure::values::{Callable, Network, ResourceKind};
use serde_json::{Value, json};

fn source(text: &str, format: Format) -> Source {
    let name = match format {
        Format::Toml => "pysecure.toml",
        Format::Json => "pysecure.json",
    };
    Source {
        path: name.into(),
        text: text.to_owned(),
        format,
    }
}

fn toml(text: &str) -> (Manifest, Vec<Diagnostic>) {
    parse(&source(text, Format::Toml))
}

fn messages(text: &str, format: Format) -> Vec<String> {
    parse(&source(text, format))
        .1
        .into_iter()
        .map(|diagnostic| diagnostic.message)
        .collect()
}

/// A manifest's content: its debug form without the places.
fn content(manifest: &Manifest) -> String {
    let text = format!("{manifest:?}");
    let mut parts = text.split(", span: ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.'));
    }
    out
}

const ZOOBAR: &str = r#"
[app]
name = "zoobar"
uid_range = [61000, 61999]
gid_range = [61000, 61999]
external_uid = 33
external_gid = 33
code = { "/zoobar" = "./zoobar" }

[resources]
log = { path = "/zoobar/log", owner = "wr", kind = "directory", chown = true, source = "./log" }

[resources.cred_db]
path = "/zoobar/db/cred/cred.db"
owner = "rw"
bundle = ""
global = ""

[resources.static]
path = "/zoobar/static"
owner = "rw"
bundle = "r"
global = "rx"
owned_by_external = true

[bundles.zoobar]
resources = ["static"]
used_by_external = true

[services.authsvc]
command = "python3 'auth file.py'"
directory = "/zoobar"
owner_resources = ["cred_db"]
bundle = "zoobar"
runs_with_root = false
jail = "python"
callers = { web = "*", banksvc = ["check_token"] }

[services.banksvc]
command = ["python3", "bank.py"]
bundles = ["zoobar"]
listen = ["127.0.0.1:8080"]
network = "host"
environment = { LANG = "C", _x1 = "" }

[assert]
never = ["read cred_db except authsvc", "call authsvc from profilesvc"]
"#;

const ZOOBAR_JSON: &str = r#"{
  "app": {
    "name": "zoobar", "uid_range": [61000, 61999], "gid_range": [61000, 61999],
    "external_uid": 33, "external_gid": 33, "code": { "/zoobar": "./zoobar" }
  },
  "resources": {
    "log": { "path": "/zoobar/log", "owner": "wr", "kind": "directory", "chown": true, "source": "./log" },
    "cred_db": { "path": "/zoobar/db/cred/cred.db", "owner": "rw", "bundle": "", "global": "" },
    "static": {
      "path": "/zoobar/static", "owner": "rw", "bundle": "r", "global": "rx", "owned_by_external": true
    }
  },
  "bundles": { "zoobar": { "resources": ["static"], "used_by_external": true } },
  "services": {
    "authsvc": {
      "command": "python3 'auth file.py'", "directory": "/zoobar", "owner_resources": ["cred_db"],
      "bundle": "zoobar", "runs_with_root": false, "jail": "python",
      "callers": { "web": "*", "banksvc": ["check_token"] }
    },
    "banksvc": {
      "command": ["python3", "bank.py"], "bundles": ["zoobar"], "listen": ["127.0.0.1:8080"],
      "network": "host", "environment": { "LANG": "C", "_x1": "" }
    }
  },
  "assert": { "never": ["read cred_db except authsvc", "call authsvc from profilesvc"] }
}"#;

#[test]
fn every_key_is_decoded() {
    let (manifest, diagnostics) = toml(ZOOBAR);
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    assert_eq!(manifest.app.name.value, "zoobar");
    assert_eq!(&ZOOBAR[manifest.app.name.span.clone()], "\"zoobar\"");
    assert_eq!(
        manifest.app.uid_range.as_ref().map(|range| range.value),
        Some([61000, 61999])
    );
    assert_eq!(manifest.app.external_gid.as_ref().map(|id| id.value), Some(33));
    assert_eq!(manifest.app.code[0].0.value, "/zoobar");
    assert_eq!(manifest.app.code[0].1.source.value, "./zoobar");
    let (name, log) = &manifest.resources[0];
    assert_eq!((name.value.as_str(), &ZOOBAR[name.span.clone()]), ("log", "log"));
    assert_eq!(log.kind.as_ref().map(|kind| kind.value), Some(ResourceKind::Directory));
    let perms = log.owner.as_ref().expect("owner").value;
    assert!(perms.read && perms.write && !perms.exec);
    let (_, auth) = &manifest.services[0];
    assert_eq!(auth.command.value, ["python3", "auth file.py"]);
    assert_eq!(auth.bundles[0].value, "zoobar");
    let callers = auth.callers.as_ref().expect("callers");
    assert_eq!(callers[0].1.value, Callable::All);
    assert_eq!(callers[1].1.value, Callable::Functions(vec!["check_token".to_owned()]));
    let (_, bank) = &manifest.services[1];
    assert_eq!(bank.network.as_ref().map(|network| network.value), Some(Network::Host));
    assert!(bank.callers.is_none());
    assert_eq!(bank.environment.len(), 2);
    assert_eq!(manifest.assert.never.len(), 2);
}

#[test]
fn json_says_the_same_as_toml() {
    let (from_json, diagnostics) = parse(&source(ZOOBAR_JSON, Format::Json));
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    assert_eq!(content(&toml(ZOOBAR).0), content(&from_json));
}

#[test]
fn what_init_writes_is_valid_and_shows_every_key() {
    let (manifest, diagnostics) = toml(INIT);
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    assert_eq!(manifest.services.len(), 2);
    let schema = schema();
    for (table, definition) in schema["$defs"].as_object().expect("definitions") {
        for key in definition["properties"].as_object().expect("properties").keys() {
            assert!(
                INIT.contains(&format!("{key} =")),
                "{key} of {table} is not in specs/init.toml"
            );
        }
    }
    // Each comment that holds a key is one that can be uncommented.
    for line in INIT
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.contains(" = "))
    {
        ::toml::de::DeTable::parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn several_errors_are_shown_at_once_each_on_its_line() {
    let text = r#"[app]
name = "zoobar"
uid_range = [61000]
[resources.db]
path = "/db"
ownr = "rw"
bundle = "rq"
[services.web]
command = 5
bundle = "a"
bundles = ["b"]
callers = ["x"]
network = "bridge"
"#;
    let (_, diagnostics) = toml(text);
    let source = source(text, Format::Toml);
    let lines: Vec<(u64, String)> = diagnostics_json(&source, &diagnostics)
        .as_array()
        .expect("array")
        .iter()
        .map(|found| {
            (
                found["line"].as_u64().expect("line"),
                found["message"].as_str().expect("message").to_owned(),
            )
        })
        .collect();
    let expected = [
        (3, "`uid_range` of `app`: expected two ids, found 1"),
        (6, "unknown key `ownr` in resource `db`"),
        (7, "`bundle` of resource `db`: `q` is not a permission"),
        (
            9,
            "`command` of service `web`: expected a list of strings, or one string, found an integer",
        ),
        (11, "service `web` has both `bundle` and `bundles`"),
        (
            12,
            "`callers` of service `web`: expected a table of names, found a list",
        ),
        (13, "`network` of service `web`: there is no `bridge`"),
    ];
    assert_eq!(lines, expected.map(|(line, message)| (line, message.to_owned())));
}

#[test]
fn an_error_is_shown_with_its_line_and_its_remedy() {
    let source = source(
        "[app]\nname = \"zoobar\"\n\n[resources.db]\npath = \"/é\"; ownr = 1\n[services.web]\ncallers = [\"bank\"]\n",
        Format::Toml,
    );
    let (_, diagnostics) = parse(&source);
    let expected = r#"error: unexpected key or value, expected newline, `#`
 --> pysecure.toml:5:12
  |
5 | path = "/é"; ownr = 1
  |            ^ not valid TOML

error: `callers` of service `web`: expected a table of names, found a list
 --> pysecure.toml:7:11
  |
7 | callers = ["bank"]
  |           ^^^^^^^^ expected a table of names
  |
  = help: write `callers = { bank = "*" }`

pysecure.toml: 2 errors
"#;
    assert_eq!(render(&source, &diagnostics, false), expected);
}

#[test]
fn a_duplicate_key_shows_both_places() {
    let text = "[services.a]\nenvironment = { A = \"1\", A = \"2\" }\n[services.web]\n[services.b]\n[services.web]\n";
    let source = source(text, Format::Toml);
    let expected = r#"error: `A` is set twice
 --> pysecure.toml:2:26
  |
2 | environment = { A = "1", A = "2" }
  |                 -        ^ the second time
  |                 |
  |                 first set here
  |
  = help: keep one of the two

error: `web` is set twice
 --> pysecure.toml:5:11
  |
3 | [services.web]
  |           --- first set here
4 | [services.b]
5 | [services.web]
  |           ^^^ the second time
  |
  = help: keep one of the two

pysecure.toml: 2 errors
"#;
    assert_eq!(render(&source, &parse(&source).1, false), expected);
}

#[test]
fn places_far_apart_are_shown_apart() {
    let mut text = "{\"app\": {\"name\": \"a\"},\n".to_owned();
    text.push_str(&"\n".repeat(60));
    text.push_str("\"services\": {\"w\": {\"command\": \"x\"}},\n\"app\": 1}");
    let source = source(&text, Format::Json);
    let expected = r#"error: `app` is set twice
  --> pysecure.json:63:1
   |
63 | "app": 1}
   | ^^^^^ the second time
   |
  ::: pysecure.json:1:2
   |
 1 | {"app": {"name": "a"},
   |  ----- first set here
   |
   = help: keep one of the two

pysecure.json: 1 error
"#;
    assert_eq!(render(&source, &parse(&source).1, false), expected);
}

#[test]
fn a_long_line_is_cut_and_the_column_stays_right() {
    let mut text = "{\"app\":{\"name\":\"é\"},\"services\":{".to_owned();
    for number in 0..200 {
        text.push_str(&format!("\"w{number}\":{{\"command\":\"x\"}},"));
    }
    let column = text.chars().count() + 6;
    text.push_str("\"y\":{\"comand\":\"x\"}}}");
    let source = source(&text, Format::Json);
    let rendered = render(&source, &parse(&source).1, false);
    assert!(
        rendered.contains(&format!("--> pysecure.json:1:{column}\n")),
        "{column}: {rendered}"
    );
    assert!(rendered.contains("^^^^^^^^ unknown key"), "{rendered}");
    assert!(rendered.lines().all(|line| line.len() < 400), "{rendered}");
}

#[test]
fn bad_values_get_their_own_words() {
    let cases = [
        (
            "[app]\nname = \"Zoo Bar\"",
            "`Zoo Bar` cannot be the name of an app",
            "for example, `zoo_bar`",
        ),
        (
            "[app]\nname = \"9\"",
            "`9` cannot be the name of an app",
            "for example, `app_9`",
        ),
        (
            "[app]\nname = \"\"",
            "the name of an app is empty",
            "for example, `app`",
        ),
        (
            "[app]\nuid_range = [2, 1]",
            "`uid_range` of `app`: the range is the wrong way round",
            "write `uid_range = [1, 2]`",
        ),
        (
            "[app]\nuid_range = [0, 1]",
            "`uid_range` of `app`: no such id",
            "write, for example, `uid_range = [60706, 61183]`",
        ),
        (
            "[app]\nexternal_uid = -1",
            "`external_uid` of `app`: no such id",
            "write, for example, `external_uid = 33`",
        ),
        (
            "[app]\nexternal_uid = 1.5",
            "`external_uid` of `app`: expected an integer, found a number with a fraction or exponent",
            "write, for example, `external_uid = 33`",
        ),
        (
            "[resources.a]\nowner = \"rr\"",
            "`owner` of resource `a`: `r` stands twice",
            "",
        ),
        (
            "[resources.a]\nkind = \"dir\"",
            "`kind` of resource `a`: there is no `dir`",
            "write, for example, `kind = \"directory\"`",
        ),
        (
            "[resources.a]\nkind = \"files\"",
            "`kind` of resource `a`: there is no `files`",
            "did you mean `\"file\"`?",
        ),
        (
            "[resources.a]\nbundle = 1979-05-27",
            "`bundle` of resource `a`: expected a string of `r`, `w`, `x` and `c`, found a date or time",
            "",
        ),
        (
            "[services.a]\ncommand = \"\"",
            "`command` of service `a` names no program",
            "",
        ),
        (
            "[services.a]\ncommand = []",
            "`command` of service `a` names no program",
            "",
        ),
        (
            "[services.a]\ncommand = [\"\"]",
            "`command` of service `a` names no program",
            "",
        ),
        (
            "[services.a]\ncommand = \"a 'b\"",
            "`command` of service `a`: a quotation mark is left open",
            "",
        ),
        (
            "[services.a]\ncommand = [\"a\\u0000\"]",
            "`command` of service `a` contains a NUL character",
            "",
        ),
        (
            "[services.a]\ncallers = { b = \"f\" }",
            "`b` of `callers` of service `a`: expected `\"*\"` or a list of functions, found `f`",
            "for that one function, write `b = [\"f\"]`",
        ),
        (
            "[services.a]\ncallers = { b = [\"*\"] }",
            "`b` of `callers` of service `a`: `*` is not the name of a function",
            "for all functions, write `b = \"*\"`",
        ),
        (
            "[services.a]\nbundle = [\"b\"]",
            "`bundle` of service `a`: expected a string, found a list",
            "a list goes under the key `bundles`",
        ),
        (
            "[services.a]\nbundles = \"b\"",
            "`bundles` of service `a`: expected a list, found a string",
            "write `bundles = [\"b\"]`",
        ),
        (
            "[services.a]\nenvironment = { LISTEN_PID = \"1\" }",
            "the variable `LISTEN_PID` is set by PySecure itself",
            "",
        ),
        (
            "[services.a]\nenvironment = { PYSECURE_X = \"1\" }",
            "the variable `PYSECURE_X` is set by PySecure itself",
            "",
        ),
        (
            "[services.a]\nenvironment = { \"a-b\" = \"1\" }",
            "`a-b` cannot be the name of a variable",
            "",
        ),
        (
            "[services.a]\nenvironment = { A = 1 }",
            "`A` of `environment` of service `a`: expected a string, found an integer",
            "",
        ),
        (
            "services = 5",
            "`services`: expected a table of names, found an integer",
            "write a table that begins with `[services.NAME]`",
        ),
        (
            "services.web = 5",
            "service `web`: expected a table of keys, found an integer",
            "write a table that begins with `[services.web]`",
        ),
        (
            "[service.web]",
            "unknown key `service` in the manifest",
            "did you mean `services`?",
        ),
        (
            "[assert]\nnever = 5",
            "`never` of `assert`: expected a list, found an integer",
            "write, for example, `never = [\"read secret except vault\"]`",
        ),
    ];
    for (text, message, help) in cases {
        let (_, diagnostics) = toml(text);
        let found = diagnostics.iter().find(|found| found.message == message);
        let found = found.unwrap_or_else(|| panic!("{text}\nhas no {message:?} but {diagnostics:#?}"));
        assert!(
            found.help.as_deref().unwrap_or_default().contains(help),
            "{text}: {found:?}"
        );
        assert_eq!(found.severity, Severity::Error);
    }
}

#[test]
fn what_is_absent_is_said_once() {
    assert_eq!(
        messages("[resources]", Format::Toml),
        [
            "the manifest has no `app`",
            "no services: the manifest declares nothing that runs"
        ]
    );
    assert_eq!(
        messages("[app]\n[services.a]\ncommand='a'", Format::Toml),
        ["`app` has no `name`"]
    );
    assert_eq!(
        messages("[app]\nname='a'\n[services.a]", Format::Toml),
        ["service `a` has no `command`"]
    );
    assert_eq!(
        messages("[app]\nname='a'\n[service.a]\ncommand='a'", Format::Toml),
        ["unknown key `service` in the manifest"]
    );
    for empty in ["", "  \n\n", "\t"] {
        assert_eq!(messages(empty, Format::Toml), ["the manifest is empty"]);
        assert_eq!(messages(empty, Format::Json), ["the manifest is empty"]);
    }
    // A syntax error may have swallowed anything.
    assert_eq!(messages("[app]\nname = \n", Format::Toml).len(), 1);
}

#[test]
fn what_failed_stays_declared() {
    let (manifest, diagnostics) =
        toml("app.name = 'a'\n[resources]\na = 5\nb = { path = 5 }\n[services.w]\ncommand = 1");
    assert_eq!(diagnostics.len(), 3, "{diagnostics:?}");
    assert_eq!(manifest.resources.len(), 2);
    assert_eq!(manifest.resources[1].1.path.span, 0..0);
    assert_eq!(manifest.services.len(), 1);
}

#[test]
fn json_is_strict() {
    for text in [
        "{} // comment",
        "{\"app\": {},}",
        "{'app': {}}",
        "{app: {}}",
        "{\"app\": [0x1]}",
        "{\"app\": \"\n\"}",
        "{\"app\": [1 2]}",
        "{\"app\": 1} {}",
        "{\"app\": 1",
        "{\"app\": NaN}",
        "[]",
        "null",
    ] {
        let (manifest, diagnostics) = parse(&source(text, Format::Json));
        assert!(!diagnostics.is_empty(), "{text}");
        assert_eq!(content(&manifest), content(&Manifest::default()), "{text}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    for depth in [100, 10_000, 1_000_000] {
        let arrays = "[".repeat(depth);
        let tables = "{a=".repeat(depth);
        let objects = "{\"a\":".repeat(depth);
        let dotted = vec!["a"; depth].join(".");
        for (text, format) in [
            (format!("app = {arrays}"), Format::Toml),
            (format!("app = {tables}"), Format::Toml),
            (format!("{dotted} = 1"), Format::Toml),
            (format!("[{dotted}]"), Format::Toml),
            (arrays.clone(), Format::Json),
            (objects.clone(), Format::Json),
            (format!("{arrays}{}", "]".repeat(depth)), Format::Json),
        ] {
            let source = source(&text, format);
            let (_, diagnostics) = parse(&source);
            assert!(!diagnostics.is_empty());
            assert!(render(&source, &diagnostics, true).len() < 1 << 20);
        }
    }
}

#[test]
fn very_many_errors_take_linear_time() {
    // The thread's own time: what others do on the machine is none of it.
    let spent = || -> f64 {
        let text = fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
        text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number")
    };
    let mut took = Vec::new();
    for errors in [5_000, 50_000] {
        let mut text = "[app]\nname = \"a\"\n".to_owned();
        for number in 0..errors {
            text.push_str(&format!("[services.s{number}]\ncomand = \"x\"\n"));
        }
        let one_line = format!(
            "{{\"app\":{{\"name\":\"a\"}},\"services\":{{{}\"z\":1}}}}",
            "\"s\":1,".repeat(errors)
        );
        let twice = "[app]\n".repeat(errors);
        let sources = [
            source(&text, Format::Toml),
            source(&one_line, Format::Json),
            source(&twice, Format::Toml),
        ];
        took.push(sources.map(|source| {
            let start = spent();
            let (_, diagnostics) = parse(&source);
            assert!(diagnostics.len() >= 1_000 || source.text.len() > 1 << 20);
            let rendered = render(&source, &diagnostics, false);
            let shown = rendered.matches("error: ").count();
            assert_eq!(shown, 100, "{rendered}");
            assert!(rendered.contains(&format!("and {} more", diagnostics.len() - 100)));
            assert_eq!(
                diagnostics_json(&source, &diagnostics).as_array().map(Vec::len),
                Some(diagnostics.len())
            );
            spent() - start
        }));
    }
    // Ten times the errors: what is quadratic takes a hundred times as long.
    for (few, many) in took[0].iter().zip(took[1]) {
        assert!(many < 40.0 * few, "{took:?}");
    }
}

#[test]
fn a_manifest_is_found() {
    let folder = tempfile::tempdir().expect("folder");
    let error = locate(Some(folder.path())).expect_err("nothing there").to_string();
    assert!(error.contains("pysecure init") && error.contains("-f"), "{error}");
    let json = folder.path().join("pysecure.json");
    fs::write(&json, "{}").expect("write");
    assert_eq!(locate(Some(folder.path())).expect("json"), json);
    let toml = folder.path().join("pysecure.toml");
    fs::write(&toml, INIT).expect("write");
    assert_eq!(locate(Some(folder.path())).expect("toml first"), toml);
    assert_eq!(locate(Some(&json)).expect("the file itself"), json);
    let error = locate(Some(&folder.path().join("none")))
        .expect_err("missing")
        .to_string();
    assert!(error.contains("pysecure init"), "{error}");
    assert_eq!(Source::read(&toml).expect("read").format, Format::Toml);
    assert_eq!(Source::read(&json).expect("read").format, Format::Json);
}

fn read_error(path: &Path) -> String {
    let error = Source::read(path).expect_err("must be refused").to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    error
}

#[test]
fn what_is_no_manifest_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("pysecure.toml");

    assert!(read_error(folder.path()).contains("a directory"));
    assert!(read_error(&path).contains("No such file"));
    assert!(read_error(Path::new("/dev/zero")).contains("a device"));

    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    assert!(read_error(&path).contains("a fifo"));
    fs::remove_file(&path).expect("remove");

    let big = fs::File::create(&path).expect("create");
    big.set_len(100 << 20).expect("sparse");
    let error = read_error(&path);
    assert!(error.contains("104857600") && error.contains("16 MiB"), "{error}");

    fs::write(&path, b"[app]\nname = \"\x7fELF\0\"").expect("write");
    let error = read_error(&path);
    assert!(
        error.contains("binary") && error.contains("line 2") && error.contains("byte offset 18"),
        "{error}"
    );

    fs::write(&path, b"[app]\nname = \"\xe9\"").expect("write");
    let error = read_error(&path);
    assert!(error.contains("not UTF-8 (line 2, at byte offset 14)"), "{error}");

    fs::write(&path, b"").expect("write");
    let empty = Source::read(&path).expect("an empty file can be read");
    let rendered = render(&empty, &parse(&empty).1, false);
    assert!(
        rendered.contains("the manifest is empty") && rendered.contains("pysecure init"),
        "{rendered}"
    );
}

#[test]
fn the_schema_in_specs_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("specs/manifest.schema.json");
    let current = format!("{:#}\n", schema());
    if std::env::var_os("PYSECURE_BLESS").is_some_and(|bless| bless == "1") {
        fs::write(&path, &current).expect("write the schema");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == current,
        "specs/manifest.schema.json is not current: run this test with PYSECURE_BLESS=1"
    );
}

fn toml_as_json(value: &::toml::de::DeValue<'_>) -> Value {
    use ::toml::de::DeValue;
    match value {
        DeValue::Table(table) => Value::Object(
            table
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), toml_as_json(value.get_ref())))
                .collect(),
        ),
        DeValue::Array(values) => values.iter().map(|value| toml_as_json(value.get_ref())).collect(),
        DeValue::String(text) => json!(text),
        DeValue::Boolean(value) => json!(value),
        other => panic!("no {} in this manifest", other.type_str()),
    }
}

fn with(pointer: &str, value: Value) -> Value {
    let mut manifest: Value = serde_json::from_str(ZOOBAR_JSON).expect("JSON");
    let (parent, key) = pointer.rsplit_once('/').expect("pointer");
    manifest.pointer_mut(parent).expect("parent")[key] = value;
    manifest
}

fn accepted(manifest: &Value) -> bool {
    parse(&source(&manifest.to_string(), Format::Json)).1.is_empty()
}

#[test]
fn schema_and_decoder_agree() {
    let validator = jsonschema::draft202012::new(&schema()).expect("a valid schema");
    let init = ::toml::de::DeTable::parse(INIT).expect("TOML").into_inner();
    let init = toml_as_json(&::toml::de::DeValue::Table(init));
    assert!(validator.is_valid(&init) && accepted(&init));
    let good = [
        ("/app/name", json!("a-b_9")),
        ("/app/uid_range", json!([1, 4294967294u32])),
        ("/app/external_uid", json!(0)),
        ("/resources/log", json!({ "path": "/x" })),
        ("/resources/log/owner", json!("xwr")),
        ("/resources/log/global", json!("")),
        ("/resources/Log2", json!({ "path": "/x" })),
        (
            "/app/code",
            json!({ "/a": { "source": "./a", "exclude": [".env", "!x", "/a/*.db"] } }),
        ),
        (
            "/resources/log",
            json!({ "path": "/x", "initial": "./log", "was": "logs" }),
        ),
        ("/services/banksvc/was", json!("bank")),
        ("/services/authsvc/command", json!(["a", ""])),
        ("/services/authsvc/command", json!("a")),
        ("/services/authsvc/callers", json!({})),
        ("/services/authsvc/callers/web", json!([])),
        ("/services/banksvc/bundles", json!([])),
        ("/services/banksvc/environment/A", json!("é\n")),
        (
            "/services/banksvc/limits",
            json!({ "memory": "256M", "cpus": 0.5, "pids": 64, "io_weight": 10000, "nofile": 64, "fsize": 0, "core": "1 GiB" }),
        ),
        (
            "/services/banksvc/limits",
            json!({ "memory": 1048576, "cpus": 2, "required": true }),
        ),
        ("/assert/never", json!([])),
        ("/assert", json!({})),
    ];
    for (pointer, value) in good {
        let manifest = with(pointer, value.clone());
        assert!(accepted(&manifest), "decoder: {pointer} = {value}");
        assert!(validator.is_valid(&manifest), "schema: {pointer} = {value}");
    }
    let bad = [
        ("/app/name", json!("A")),
        ("/app/name", json!("9a")),
        ("/app/name", json!("")),
        ("/app/name", json!("a".repeat(64))),
        ("/app/name", json!(null)),
        ("/app/nam", json!("a")),
        ("/app", json!({})),
        ("/app", json!([])),
        ("/app/uid_range", json!([1])),
        ("/app/uid_range", json!([1, 2, 3])),
        ("/app/uid_range", json!([0, 2])),
        ("/app/uid_range", json!([1, 4294967295u32])),
        ("/app/uid_range", json!(["1", "2"])),
        ("/app/external_uid", json!(-1)),
        ("/app/external_uid", json!("33")),
        ("/app/external_uid", json!(1.5)),
        ("/app/code", json!(["./a"])),
        ("/app/code", json!({ "/a": ["./a"] })),
        ("/app/code", json!({ "/a": { "exclude": [] } })),
        ("/app/code", json!({ "/a": { "source": "./a", "exclude": ".env" } })),
        ("/resources/log", json!({})),
        ("/resources/log", json!("x")),
        ("/resources/log/owner", json!("rr")),
        ("/resources/log/owner", json!("rwq")),
        ("/resources/log/owner", json!(true)),
        ("/resources/log/kind", json!("fifo")),
        ("/resources/log/chown", json!("yes")),
        ("/resources/log/path", json!("a\u{0}b")),
        ("/resources/a b", json!({ "path": "/x" })),
        ("/services", json!({})),
        ("/services/a.b", json!({ "command": "x" })),
        ("/services/banksvc/limits", json!({ "memory": "lots" })),
        ("/services/banksvc/limits", json!({ "memory": -1 })),
        ("/services/banksvc/limits", json!({ "cpus": 0 })),
        ("/services/banksvc/limits", json!({ "cpus": "2" })),
        ("/services/banksvc/limits", json!({ "pids": 1 })),
        ("/services/banksvc/limits", json!({ "io_weight": 0 })),
        ("/services/banksvc/limits", json!({ "nofile": 3 })),
        ("/services/banksvc/limits", json!({ "swap": "1G" })),
        ("/services/authsvc/command", json!("")),
        ("/services/authsvc/command", json!("  ")),
        ("/services/authsvc/command", json!([])),
        ("/services/authsvc/command", json!([""])),
        ("/services/authsvc/command", json!(["a", 1])),
        ("/services/authsvc/command", json!(["a", "b\u{0}"])),
        ("/services/authsvc/command", json!(5)),
        ("/services/authsvc/bundles", json!(["both"])),
        ("/services/banksvc/bundles", json!("a")),
        ("/services/authsvc/callers", json!(["web"])),
        ("/services/authsvc/callers/web", json!("f")),
        ("/services/authsvc/callers/web", json!(["*"])),
        ("/services/authsvc/callers/web", json!([""])),
        ("/services/authsvc/network", json!("bridge")),
        ("/services/authsvc/listen", json!("127.0.0.1:80")),
        ("/services/authsvc/comand", json!("x")),
        ("/services/banksvc/environment/LISTEN_FDS", json!("1")),
        ("/services/banksvc/environment/PYSECURE_A", json!("1")),
        ("/services/banksvc/environment/PYSECURE_RPC_PURER", json!("1")),
        ("/services/banksvc/environment/1A", json!("1")),
        ("/services/banksvc/environment/A", json!(1)),
        ("/assert/never", json!("x")),
        ("/assert/nevr", json!([])),
        ("/service", json!({})),
    ];
    // The one variable of the Python package's that is the program's to set.
    let pure = with("/services/banksvc/environment/PYSECURE_RPC_PURE", json!("1"));
    assert!(accepted(&pure) && validator.is_valid(&pure));
    for (pointer, value) in bad {
        let manifest = with(pointer, value.clone());
        assert!(!accepted(&manifest), "decoder: {pointer} = {value}");
        assert!(!validator.is_valid(&manifest), "schema: {pointer} = {value}");
    }
}

/// How much decoding adds to parsing, by the largest manifest that the benchmark uses. Only an optimised
/// build says anything: `cargo test --release --test manifest -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn decoding_costs_little_beside_parsing() {
    for services in [1_000, 10_000] {
        let mut text = "[app]\nname = \"big\"\n".to_owned();
        for number in 0..3 * services {
            text.push_str(&format!(
                "\n[resources.r{number}]\npath = \"/data/r{number}/file.db\"\nowner = \"rw\"\nbundle = \"r\"\n"
            ));
        }
        for number in 0..services {
            text.push_str(&format!(
                "\n[bundles.b{number}]\nresources = [\"r{number}\"]\n\n[services.s{number}]\ncommand = [\"python3\", \"s{number}.py\"]\n\
                 directory = \"/srv\"\nowner_resources = [\"r{}\", \"r{}\", \"r{}\"]\nbundle = \"b{number}\"\ncallers = {{ s0 = \"*\" }}\n",
                3 * number, 3 * number + 1, 3 * number + 2
            ));
        }
        let source = source(&text, Format::Toml);
        let best = |run: &dyn Fn()| {
            let time = || {
                let start = Instant::now();
                run();
                start.elapsed()
            };
            (0..15).map(|_| time()).min().expect("15 runs")
        };
        let alone = best(&|| assert!(::toml::de::DeTable::parse(&source.text).is_ok()));
        let whole = best(&|| assert!(parse(&source).1.is_empty()));
        let ratio = whole.as_secs_f64() / alone.as_secs_f64();
        println!(
            "{services} services, {} bytes: {alone:?} alone, {whole:?} in all, {ratio:.2}",
            text.len()
        );
        assert!(ratio < 2.0, "{ratio}");
    }
}

fn never_panics(text: &str, format: Format) {
    let source = source(text, format);
    let (_, diagnostics) = parse(&source);
    let rendered = render(&source, &diagnostics, false);
    assert_eq!(rendered.is_empty(), diagnostics.is_empty());
    diagnostics_json(&source, &diagnostics);
}

fn format_of(json: bool) -> Format {
    if json { Format::Json } else { Format::Toml }
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z][A-Za-z0-9_-]{0,8}"
}

/// Printable, with what needs care in either format.
fn text() -> impl Strategy<Value = String> {
    "[ -~éß€😀\t\n]{0,12}"
}

fn object(keys: Vec<(&'static str, Option<Value>)>) -> Value {
    Value::Object(
        keys.into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect(),
    )
}

fn maybe<T: Into<Value> + std::fmt::Debug + 'static>(
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<Value>> {
    proptest::option::of(strategy.prop_map(Into::into)).boxed()
}

fn named(
    key: impl Strategy<Value = String>,
    value: impl Strategy<Value = Value>,
    least: usize,
) -> impl Strategy<Value = Value> {
    proptest::collection::btree_map(key, value, least..4)
        .prop_map(|entries| Value::Object(entries.into_iter().collect()))
}

fn perms() -> impl Strategy<Value = String> {
    "r?w?x?"
}

fn resource() -> impl Strategy<Value = Value> {
    (
        text(),
        maybe("file|directory"),
        maybe(text()),
        maybe(perms()),
        maybe(perms()),
        maybe(perms()),
        maybe(any::<bool>()),
        maybe(any::<bool>()),
    )
        .prop_map(|(path, kind, source, owner, bundle, global, owned, chown)| {
            object(vec![
                ("path", Some(path.into())),
                ("kind", kind),
                ("source", source),
                ("owner", owner),
                ("bundle", bundle),
                ("global", global),
                ("owned_by_external", owned),
                ("chown", chown),
            ])
        })
}

fn service() -> impl Strategy<Value = Value> {
    let words = proptest::collection::vec(text(), 0..3);
    let list = || maybe(proptest::collection::vec(text(), 0..3));
    let command = prop_oneof![
        ("[a-z]{1,5}", words).prop_map(|(program, words)| {
            Value::Array(std::iter::once(program).chain(words).map(Value::String).collect())
        }),
        "[a-z]{1,5}( [a-z]{1,3}){0,2}".prop_map(Value::String),
    ];
    let bundles = prop_oneof![
        Just((None, None)),
        name().prop_map(|name| (Some(Value::from(name)), None)),
        proptest::collection::vec(name(), 0..3).prop_map(|names| (None, Some(Value::from(names)))),
    ];
    let callable = prop_oneof![
        Just(json!("*")),
        proptest::collection::vec("[a-z]{1,5}", 0..3).prop_map(Value::from)
    ];
    let callers = proptest::option::of(named(text(), callable, 0));
    let environment = proptest::option::of(named("[A-Z_][a-z0-9]{0,5}", text().prop_map(Value::from), 0));
    (
        command,
        bundles,
        maybe(text()),
        list(),
        list(),
        maybe(any::<bool>()),
        callers,
        maybe("none|host"),
        environment,
    )
        .prop_map(
            |(command, (bundle, bundles), directory, owner_resources, listen, root, callers, network, environment)| {
                object(vec![
                    ("command", Some(command)),
                    ("bundle", bundle),
                    ("bundles", bundles),
                    ("directory", directory),
                    ("owner_resources", owner_resources),
                    ("listen", listen),
                    ("runs_with_root", root),
                    ("callers", callers),
                    ("network", network),
                    ("environment", environment),
                ])
            },
        )
}

fn manifest() -> impl Strategy<Value = Value> {
    let bundle = (maybe(proptest::collection::vec(name(), 0..3)), maybe(any::<bool>()))
        .prop_map(|(resources, used)| object(vec![("resources", resources), ("used_by_external", used)]));
    let range = (1u32..1000, 1000u32..4294967295).prop_map(|(lowest, highest)| vec![lowest, highest]);
    let app = (
        "[a-z][a-z0-9_-]{0,8}",
        maybe(range),
        maybe(0u32..4294967295),
        proptest::option::of(named(text(), text().prop_map(Value::from), 0)),
    )
        .prop_map(|(name, range, uid, code)| {
            object(vec![
                ("name", Some(name.into())),
                ("uid_range", range),
                ("external_uid", uid),
                ("code", code),
            ])
        });
    let never = maybe(proptest::collection::vec(text(), 0..3)).prop_map(|never| object(vec![("never", never)]));
    (app, named(name(), resource(), 0), named(name(), bundle, 0), named(name(), service(), 1), never).prop_map(
        |(app, resources, bundles, services, never)| {
            json!({ "app": app, "resources": resources, "bundles": bundles, "services": services, "assert": never })
        },
    )
}

/// As TOML, with the inner tables inline. A JSON string is a TOML string, but for DEL, which is not made here.
fn inline(value: &Value) -> String {
    match value {
        Value::Object(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{} = {}", json!(key), inline(value)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(inline).collect::<Vec<_>>().join(", ")),
        scalar => scalar.to_string(),
    }
}

fn as_toml(manifest: &Value) -> String {
    let mut out = String::new();
    for (table, entries) in manifest.as_object().expect("object") {
        if table == "services" {
            for (name, service) in entries.as_object().expect("services") {
                out.push_str(&format!("[services.{name}]\n"));
                for (key, value) in service.as_object().expect("service") {
                    out.push_str(&format!("{key} = {}\n", inline(value)));
                }
            }
        } else {
            out.push_str(&format!("[{table}]\n"));
            for (key, value) in entries.as_object().expect("table") {
                out.push_str(&format!("{key} = {}\n", inline(value)));
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}", json: bool) {
        never_panics(&text, format_of(json));
    }

    #[test]
    fn no_toml_like_text_makes_it_panic(text in "([a-c]|\\[|\\]|\\{|\\}|=|,|\\.|\"|'|\n|app|services|\\.name|=1| |é|\r|#){0,60}", json: bool) {
        never_panics(&text, format_of(json));
    }

    #[test]
    fn no_mutation_makes_it_panic(
        json: bool,
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[\\[\\]{}\"'=,.:#\n a-z0é\u{0}]{0,4}"), 1..6),
    ) {
        let mut letters: Vec<char> = if json { ZOOBAR_JSON } else { ZOOBAR }.chars().collect();
        for (at, length, insert) in cuts {
            let start = at.index(letters.len());
            let end = (start + length).min(letters.len());
            letters.splice(start..end, insert.chars());
        }
        never_panics(&letters.into_iter().collect::<String>(), format_of(json));
    }

    #[test]
    fn toml_and_json_decode_to_the_same(manifest in manifest()) {
        let (from_json, wrong) = parse(&source(&manifest.to_string(), Format::Json));
        let wrong: Vec<_> = wrong.into_iter().filter(|d| d.severity == Severity::Error).collect();
        prop_assert!(wrong.is_empty(), "{manifest}: {wrong:?}");
        let text = as_toml(&manifest);
        let (from_toml, wrong) = parse(&source(&text, Format::Toml));
        let wrong: Vec<_> = wrong.into_iter().filter(|d| d.severity == Severity::Error).collect();
        prop_assert!(wrong.is_empty(), "{text}: {wrong:?}");
        prop_assert_eq!(content(&from_json), content(&from_toml));
    }
}

/// The first help of a manifest whose one service has these lines.
fn help_of(lines: &str, format: Format) -> String {
    let text = match format {
        Format::Toml => format!("[app]\nname = \"a\"\n[services.web]\ncommand = \"true\"\n{lines}\n"),
        Format::Json => {
            format!("{{\"app\": {{\"name\": \"a\"}}, \"services\": {{\"web\": {{\"command\": \"true\", {lines}}}}}}}")
        }
    };
    let found = parse(&source(&text, format)).1;
    let first = found.first().unwrap_or_else(|| panic!("nothing is said of {lines}"));
    first.help.clone().unwrap_or_default()
}

/// Names of before version 1: `src/former.rs`.
#[test]
fn former_names_are_told_by_the_new_ones() {
    for (text, old, new) in [
        ("[app]\ndynamic_svc_uid = 33\n", "dynamic_svc_uid", "external_uid"),
        ("[app]\ndynamic_svc_gid = 33\n", "dynamic_svc_gid", "external_gid"),
        ("[app]\ninitialize = \"a.sh\"\n", "initialize", "setup"),
        (
            "[app]\ninitialize_rootfs = \"host\"\n",
            "initialize_rootfs",
            "setup_jail",
        ),
        ("[app]\nrpc_largest = \"1M\"\n", "rpc_largest", "rpc_max_message"),
        ("[resources.a]\nadopt = true\n", "adopt", "chown"),
        (
            "[resources.a]\nowned_by_dynamic_svc = true\n",
            "owned_by_dynamic_svc",
            "owned_by_external",
        ),
        (
            "[bundles.a]\nused_by_dynamic_svc = true\n",
            "used_by_dynamic_svc",
            "used_by_external",
        ),
        ("[services.a]\nrootfs = \"python\"\n", "rootfs", "jail"),
        ("[sandboxes.a]\nrootfs = \"python\"\n", "rootfs", "jail"),
    ] {
        let source = source(text, Format::Toml);
        let (_, diagnostics) = parse(&source);
        let found = diagnostics
            .iter()
            .find(|d| d.message.contains(&format!("unknown key `{old}`")));
        let found = found.unwrap_or_else(|| panic!("{old}: {diagnostics:?}"));
        assert_eq!(&source.text[found.span.clone()], old);
        assert_eq!(
            found.help.as_deref(),
            Some(&*format!("this is called `{new}` now: write that"))
        );
    }
    let source = source("[services.a]\nwritable = \"kept\"\n", Format::Toml);
    let (_, diagnostics) = parse(&source);
    let said = diagnostics
        .iter()
        .find(|d| d.message.contains("there is no `kept`"))
        .unwrap();
    assert_eq!(
        said.help.as_deref(),
        Some("this is called `\"persistent\"` now: write that")
    );
}

#[test]
fn words_of_compose_are_answered_with_their_counterpart() {
    for (line, counterpart) in [
        (
            "ports = [\"8080:80\", \"443\"]",
            "`publish = [\"8080:80\", \"443:443\"]`; where no address stands first",
        ),
        ("volumes = [\"./data:/data\"]", "`[resources.NAME]` with `path`"),
        ("env_file = \".env\"", "environment = { KEY = \"value\" }"),
        ("healthcheck = { test = \"true\" }", "health = { command ="),
        ("user = \"1000\"", "has a UID of its own"),
        ("secrets = [\"key\"]", "owner = \"r\""),
        ("image = \"nginx\"", "jail = \"NAME\""),
        ("build = \".\"", "jail = \"NAME\""),
        ("networks = [\"front\"]", "\"app\" (one for all services that say so)"),
        ("network_mode = \"host\"", "write `network`"),
        ("restart = \"unless-stopped\"", "restart = \"always\""),
        (
            "restart = \"on-failure:5\"",
            "`restart = \"on-failure\"` and `restart_limit = 5`",
        ),
        (
            "depends_on = { db = { condition = \"service_healthy\" } }",
            "write `\"ready\"`",
        ),
        (
            "depends_on = { db = \"service_completed_successfully\" }",
            "write `\"completed\"`",
        ),
        (
            "environment = [\"PORT=80\", \"A=b=c\"]",
            "environment = { PORT = \"80\", A = \"b=c\" }",
        ),
        ("environment = { PORT = 80 }", "PORT = \"80\""),
        ("working_dir = \"/app\"", "write `directory`"),
        ("entrypoint = \"/run.sh\"", "all of it in `command`"),
        ("mem_limit = \"1g\"", "limits = { memory ="),
        ("health = { test = \"true\" }", "command = [\"PROGRAM\""),
        ("logs = { driver = \"json-file\" }", "write `sink`"),
        ("logs = { sink = \"json-file\" }", "sink = \"file\""),
        ("cap_add = [\"NET_ADMIN\"]", "no capabilities"),
        ("stop_grace_period = \"1m\"", "stop_timeout"),
    ] {
        let help = help_of(line, Format::Toml);
        assert!(help.contains(counterpart), "{line}: {help}");
        assert!(!help.contains("takes:"), "{line}: {help}");
    }
    assert!(help_of("\"ports\": [\"80:80\"]", Format::Json).contains("publish = [\"80:80\"]"));
    // All that compose-spec has for a service and a manifest has not; and its other tables.
    for key in "annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent configs container_name cpu_count cpu_percent \
                cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset credential_spec deploy develop device_cgroup_rules \
                devices dns dns_opt dns_search domainname entrypoint env_file expose extends external_links extra_hosts gpus group_add \
                healthcheck hostname image init ipc isolation label_file labels links logging mac_address mem_limit mem_reservation \
                mem_swappiness memswap_limit models network_mode networks oom_kill_disable oom_score_adj pid pids_limit platform ports \
                post_start pre_stop privileged profiles provider pull_policy read_only runtime scale secrets security_opt \
                stdin_open stop_grace_period storage_opt sysctls tmpfs tty ulimits use_api_socket user userns_mode uts volumes volumes_from \
                working_dir"
        .split_whitespace()
    {
        let help = help_of(&format!("{key} = 1"), Format::Toml);
        assert!(!help.contains("takes:") && !help.contains("did you mean"), "{key}: {help}");
    }
    for table in ["volumes", "networks", "secrets", "configs"] {
        let found = toml(&format!(
            "[app]\nname = \"a\"\n[services.a]\ncommand = \"a\"\n[{table}.x]\n"
        ))
        .1;
        assert!(found[0].help.as_ref().unwrap().starts_with("write `"), "{found:?}");
    }
}

const COMPOSE: &str = "# a comment
version: \"3\"
services:
  web:
    image: \"nginx:1\"
    ports:
      - \"8080:80\"
      - 443:443 # tls
    environment:
      image: not a word of its own
    depends_on:
      db:
        condition: service_healthy
    restart: unless-stopped
  db:
    volumes: [\"data:/data\"]
volumes:
  data:
";

#[test]
fn a_compose_file_and_a_procfile_are_told_line_by_line() {
    let of = |name: &str, text: &str| {
        let (_, found) = parse(&Source {
            path: name.into(),
            text: text.to_owned(),
            format: Format::of(Path::new(name)),
        });
        let told = found
            .iter()
            .map(|d| (d.message.clone(), d.help.clone().unwrap_or_default()));
        let told: Vec<_> = told.map(|(message, help)| format!("{message}: {help}")).collect();
        assert_eq!(
            found.iter().filter(|d| d.severity == Severity::Error).count(),
            1,
            "{told:?}"
        );
        for diagnostic in &found[1..] {
            assert!(text[diagnostic.span.clone()].len() > 1, "{diagnostic:?}");
        }
        told
    };
    // By its name, and by what stands in it.
    for name in ["compose.yaml", "docker-compose.YML", "pysecure.toml"] {
        let told = of(name, COMPOSE);
        for (at, part) in [
            "this is a Compose file",
            "`version`: leave it out",
            "`image` of service `web`: leave it out to use this host's programs",
            "`ports` of service `web`: write `publish = [\"8080:80\", \"443:443\"]`",
            "`service_healthy`: write `\"ready\"`",
            "`unless-stopped`: write `restart = \"always\"`",
            "`volumes` of service `db`: write `[resources.NAME]`",
            "`volumes`: write `[resources.NAME]` for each",
        ]
        .iter()
        .enumerate()
        {
            assert!(told[at].starts_with(part), "{name}: {at} {told:#?}");
        }
        assert_eq!(told.len(), 8);
    }
    assert!(of("other.yaml", "a: 1\n")[0].starts_with("this is YAML"));
    let told = of(
        "Procfile",
        "# it\nweb: gunicorn app:app --bind :$PORT\nworker: celery -A app worker\n",
    );
    assert!(told[0].starts_with("this is a Procfile"));
    assert!(
        told[1].contains("[services.web]") && told[1].contains("command = [\"sh\", \"-c\", \"exec gunicorn app:app"),
        "{told:?}"
    );
    assert!(told[2].contains("command = \"celery -A app worker\""), "{told:?}");
}

#[test]
fn what_only_a_shell_would_replace_is_said() {
    for (lines, part) in [
        (
            "environment = { URL = \"postgres://${DB_USER}@db\" }",
            "`${DB_USER}` is not replaced",
        ),
        ("environment = { HOME = \"~/app\" }", "`~` is not replaced"),
        ("directory = \"$HOME/app\"", "`$HOME` is not replaced"),
        ("publish = [\"${PORT:-8080}:80\"]", "`${PORT:-8080}` is not replaced"),
    ] {
        let text = format!("[app]\nname = \"a\"\n[services.web]\ncommand = \"true\"\n{lines}\n");
        let (_, found) = toml(&text);
        assert!(found[0].message.contains(part), "{lines}: {found:?}");
        assert_eq!(found[0].severity, Severity::Warning);
    }
    for (command, help) in [
        (
            "\"cd /app && python3 a.py\"",
            Some("command = [\"sh\", \"-c\", \"cd /app && python3 a.py\"]"),
        ),
        ("\"python3 a.py | tee log\"", Some("[\"sh\", \"-c\"")),
        (
            "\"gunicorn --bind :$PORT app\"",
            Some("[\"sh\", \"-c\", \"gunicorn --bind :$PORT app\"]"),
        ),
        ("[\"gunicorn\", \"${APP}\"]", Some("[\"sh\", \"-c\"")),
        ("[\"sh\", \"-c\", \"exec gunicorn --bind :$PORT && true\"]", None),
        ("\"sh -c 'a && b > c'\"", None),
        ("[\"printf\", \"&&\"]", None),
    ] {
        let (_, found) = toml(&format!("[app]\nname = \"a\"\n[services.web]\ncommand = {command}\n"));
        match help {
            Some(help) => assert!(found[0].help.as_ref().unwrap().contains(help), "{command}: {found:?}"),
            None => assert!(found.is_empty(), "{command}: {found:?}"),
        }
    }
}
