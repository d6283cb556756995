//! What others have named or said, as commands print it: nothing that a terminal would obey, nothing that misleads.

mod harness;

use harness::{App, BOTH, Ended};

/// Of each kind one: C0, DEL, C1, marks that turn the direction of writing, separators, what has no width, tags.
const NASTY: &str = "\u{7}\u{1b}[2J\u{1b}]0;x\u{7}\r\u{7f}\u{9b}2J\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}\u{2029}\u{200b}\u{feff}\u{ad}\u{e0041}";

/// The same for Python.
fn in_python() -> String {
    NASTY.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect()
}

const SERVICE: &str = r#"
import os, socket, sys, time
import pysecure_rpc
from pysecure_rpc import rpc

NASTY = "NASTY"

def say() -> str:
    return "said" + NASTY

def fail():
    raise ValueError("failed" + NASTY)

def halves():
    return "\udc9b\ud800" + NASTY

def many():
    for n in range(2):
        yield {"key" + NASTY: [NASTY, n]}

for f in (say, fail, halves, many):
    f.__doc__ = "doc" + NASTY + "\nmore" + NASTY
    rpc(run_as="main")(f)

def takes(x="default" + NASTY):
    return x
rpc(run_as="main")(takes)

with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(("STATUS=status" + NASTY.replace("\n", "")).encode(), os.environ["NOTIFY_SOCKET"])
print("printed" + NASTY, flush=True)
os.makedirs("/tmp/names", exist_ok=True)
os.mkfifo("/tmp/names/fifo" + NASTY)
pysecure_rpc.start_service("main")
"#;

fn hidden(text: &str) -> Option<char> {
    text.chars()
        .find(|c| pysecure::plain::is_hidden(*c) && !matches!(c, '\n' | '\t'))
}

#[track_caller]
fn plain(args: &[&str], ended: &Ended) {
    for text in [&ended.out, &ended.err] {
        assert_eq!(hidden(text), None, "{args:?} prints {text:?}");
    }
}

#[test]
fn what_services_say_is_plain() {
    for mode in BOTH {
        let app = App::new(
            mode,
            r#"
            [app]
            name = "plain"
            code = { "/app" = "./app", "/opt/lib" = "./lib" }
            [services.main]
            command = ["python3", "main.py"]
            directory = "/app"
            ready = "notify"
            environment = { PYTHONPATH = "/opt/lib" }
            callers = { operator = "*" }
            [services.gone]
            command = ["sh", "-c", "exit 3"]
            "#,
        );
        app.write(
            "app/main.py",
            SERVICE.replace("NASTY = \"NASTY\"", &format!("NASTY = \"{}\"", in_python())),
        );
        harness::python::package(&app, false, "lib");
        // The shell's own way shows that there is something to make plain.
        let raw = app.run(&["up", "-d"]);
        plain(&["up"], &raw);
        assert!(raw.code < 2, "{}{}", raw.err, app.logs("main"));
        app.wait_for_log("main", "printed");
        assert!(hidden(&app.sh("main", "ls /tmp/names").out).is_some());
        let mut all = Vec::new();
        for args in [
            &["ps"][..],
            &["rpc", "call", "main", "say"],
            &["rpc", "call", "main", "many"],
            &["rpc", "call", "main", "fail"],
            &["rpc", "call", "main", "halves"],
            &["rpc", "call", "main", "takes", NASTY],
            &["rpc", "call", "main", NASTY],
            &["rpc", "list", "main"],
            &["rpc", "describe", "main"],
            &["rpc", "describe", "--json", "main"],
            &["rpc", "stubs", "main"],
            &["logs"],
            &["logs", "--json", "main"],
            &["stats", "--no-stream"],
            &["stats", "--json"],
            &["metrics"],
            &["ps", "--json"],
            &["cp", "main:/tmp/names/.", "names"],
            &["exec", "-T", NASTY, "--", "true"],
            &["-v", "ps"],
        ] {
            let ended = app.run(args);
            plain(args, &ended);
            all.push((args[..args.len().min(4)].join(" "), ended));
        }
        let of = |args: &str| all.iter().find(|(a, _)| a == args).map(|(_, e)| e).unwrap();
        // It was there, and is made plain rather than left out…
        let kept =
            |text: &str, word: &str| assert!(text.contains(&format!("{word}\u{fffd}\u{fffd}[2J")), "{word}: {text}");
        kept(&of("ps").out, "status");
        kept(&of("rpc call main fail").err, "failed");
        assert!(of("rpc list main").out.contains("main.say"));
        kept(&of("rpc describe main").out, "doc");
        // Of lines, escape sequences are taken out whole.
        let logs = &of("logs").out;
        let printed = logs.lines().find(|line| line.starts_with("main | printed")).unwrap();
        assert!(
            printed.contains("printed\u{fffd}\u{fffd}") && !printed.contains('J'),
            "{logs}"
        );
        kept(&of("cp main:/tmp/names/. names").err, "fifo");
        // …and in JSON it is what it was.
        let json = |text: &str| -> serde_json::Value { serde_json::from_str(text).unwrap() };
        assert_eq!(json(&of("rpc call main say").out), format!("said{NASTY}"));
        assert_eq!(json(&of("rpc call main takes").out), NASTY);
        let first = of("rpc call main many").out.lines().next().unwrap();
        assert_eq!(json(first)[format!("key{NASTY}")][0], NASTY);
        let described = json(&of("rpc describe --json main").out);
        let functions = described["functions"].as_array().unwrap();
        let say = functions.iter().find(|f| f["name"] == "say").unwrap();
        assert_eq!(say["doc"], format!("doc{NASTY}\nmore{NASTY}"));
        let line = of("logs --json main")
            .out
            .lines()
            .find(|l| l.contains("printed"))
            .unwrap();
        assert_eq!(json(line)["line"], format!("printed{NASTY}"));
        app.ok(&["down"]);
    }
}

#[test]
fn what_manifests_recipes_and_images_name_is_plain() {
    for mode in BOTH {
        let toml: String = NASTY.chars().map(|c| format!("\\U{:08X}", u32::from(c))).collect();
        let app = App::new(mode, "");
        let visible: String = NASTY.chars().filter(|c| !c.is_control()).collect();
        for manifest in [
            // As it stands, where TOML lets it; and by escapes, in values, keys and names.
            format!("[app]\nname = \"n{visible}\"\n"),
            format!("[app]\nname = \"nasty\"\n[services.a]\ncommand = \"true\" # {visible}\nusr = \"{visible}\"\n"),
            format!("[app]\nname = \"{toml}\"\n\"{toml}\" = 1\n[services.\"{toml}\"]\ncommand = \"{toml}\"\n"),
            format!("[app]\nname = \"nasty\"\n[resources.r]\npath = \"/x{toml}\"\n[services.a]\ncommand = \"true\"\n"),
            format!("[app]\nname = \"nasty\"\n[services.a]\ncommand = \"true\"\njail = \"{toml}\"\n"),
            format!("[app]\nname = \"nasty\"\n[services.a]\ncommand = \"/no{toml}\"\nowner_resources = [\"{toml}\"]\n"),
            format!("[app]\nname = \"nasty\"\n{NASTY}\n"),
        ] {
            app.write("pysecure.toml", &manifest);
            for args in [&["check"][..], &["check", "--json"], &["access"], &["up", "--dry-run"]] {
                let ended = app.run(args);
                assert!(
                    ended.code != 0 || !matches!(args[0], "check"),
                    "{args:?} {manifest:?} {ended:?}"
                );
                plain(args, &ended);
            }
        }
        // On a terminal, where colours are.
        let mut terminal = app.on_terminal(&["check"], 24, 200);
        let (_, shown) = terminal.ended();
        assert_eq!(hidden(&shown.replace("\x1b[", "").replace('\r', "")), None, "{shown:?}");
        // A path that only looks like another: right, and shown for what it is.
        let path = "/da\u{202e}ta\u{200b}";
        app.write(
            "pysecure.toml",
            format!("[app]\nname = \"nasty\"\n[resources.r]\npath = \"{path}\"\nowner = \"r\"\n[services.a]\ncommand = \"true\"\nowner_resources = [\"r\"]\n"),
        );
        let shown = app.run(&["access"]);
        plain(&["access"], &shown);
        assert!(shown.ok().out.contains("/da\u{fffd}ta\u{fffd}"));
        assert_eq!(app.access()[0]["path"], path);
        plain(&["access", "--json"], &app.run(&["access", "--json"]));

        let folder = harness::folder_of_the_host();
        let name = NASTY.replace('/', "") + "\nforged\u{fffd}";
        std::fs::write(folder.path().join(format!("x{name}")), "x").unwrap();
        std::os::unix::fs::symlink(format!("nowhere{name}"), folder.path().join("link")).unwrap();
        app.write(
            "jails/own.toml",
            format!("description = \"{toml}\"\npaths = [\"{}\"]\n", folder.path().display()),
        );
        app.write(&format!("jails/x{}.toml", visible), "paths = [\"/nothing\"]\n");
        let file = folder.path().join(format!("x{name}")).display().to_string();
        for args in [
            &["jail", "build", "own"][..],
            &["jail", "list"],
            &["jail", "list", "--json"],
            &["jail", "show", "own"],
            &["jail", "show", "--json", "own"],
            &["jail", "why", &file, "own"],
            &["jail", "why", "--json", &file, "own"],
            &["jail", "diff", "own", "minimal"],
            &["jail", "diff", "--json", "own", "minimal"],
            &["jail", "show", NASTY],
        ] {
            let ended = app.run(args);
            plain(args, &ended);
            assert!(
                !ended.out.lines().any(|l| l.starts_with("forged")),
                "{args:?}: {}",
                ended.out
            );
        }
        let shown: serde_json::Value = serde_json::from_str(&app.ok(&["jail", "show", "--json", "own"]).out).unwrap();
        assert!(shown.as_array().unwrap().iter().any(|i| i["path"] == file), "{shown}");
        app.write("pysecure.toml", "[app]\nname = \"nasty\"\n");
    }
}
