//! examples/zoobar: pages per second as four services, beside the same code in one process under the same gunicorn, in one
//! run and in turn: `cargo bench --bench zoobar`, as root, with gunicorn, python3-flask and apache2-utils (`ab`).
//!
//! Nothing is asserted: the table says what was seen.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const ROUNDS: usize = 9;
/// Must reach, of what one process does.
const LEAST: f64 = 0.8;
const REQUESTS: &str = "1500";
const AT_ONCE: &str = "8";

/// The one process once more, with each call made as if no function had `@rpc`.
const DIRECT: &str = r#"
import auth, bank, profiles
for module in (auth, bank, profiles):
    for name, value in list(vars(module).items()):
        if callable(value) and hasattr(value, "rpc"):
            setattr(module, name, value.__wrapped__)
from web import app
"#;

/// Makes two users, has one send the other something, and prints the cookies of the first.
const USERS: &str = r#"
import http.cookiejar, re, sys, urllib.parse, urllib.request
base = sys.argv[1]
def person(name):
    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    def post(at, to, **fields):
        page = browser.open(base + at).read().decode()
        fields["csrf"] = re.search('name="csrf" value="([0-9a-f]+)"', page)[1]
        browser.open(base + to, urllib.parse.urlencode(fields).encode()).read()
    post("/register", "/register", name=name, password="password of " + name)
    return jar, post
jar, post = person("amy")
person("ben")
for _ in range(5):
    post("/", "/transfer", recipient="ben", zoobars="1")
post("/", "/profile", profile="I am amy. " * 20)
print("; ".join(f"{c.name}={c.value}" for c in jar))
"#;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

fn main() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = PathBuf::from("/var/tmp").join(format!("pysecure-bench-zoobar-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let copy = |from: &str, to: &str| {
        let mut cp = Command::new("cp");
        must(cp.arg("-r").arg(repository.join(from)).arg(folder.join(to)));
    };
    copy("examples/zoobar", "zoobar");
    std::fs::create_dir(folder.join("zoobar/lib")).unwrap();
    copy("python/src/pysecure_rpc", "zoobar/lib/");
    let (zoobar, code) = (folder.join("zoobar"), folder.join("zoobar/zoobar"));
    // As the wheel has it. `PYSECURE_RPC_PURE=1`: as a plain copy of the package has it.
    let core = zoobar.join("lib/pysecure_rpc/_core.abi3.so");
    match std::env::var_os("PYSECURE_RPC_PURE") {
        Some(_) => drop(std::fs::remove_file(core)),
        None => {
            let target = repository.join("target/python-core");
            must(
                Command::new(env!("CARGO"))
                    .args([
                        "rustc",
                        "--quiet",
                        "--profile",
                        "extension",
                        "--crate-type",
                        "cdylib",
                        "--locked",
                        "--target-dir",
                    ])
                    .arg(&target)
                    .current_dir(repository.join("python/core")),
            );
            let built = std::fs::read_dir(&target).unwrap().map(|e| e.unwrap().path());
            let mut built = built.map(|folder| folder.join("extension/lib_core.so"));
            std::fs::copy(built.find(|file| file.exists()).unwrap(), core).unwrap();
        }
    }
    std::fs::write(code.join("direct.py"), DIRECT).unwrap();
    let manifest = std::fs::read_to_string(zoobar.join("pysecure.toml")).unwrap();
    std::fs::write(
        zoobar.join("pysecure.toml"),
        manifest
            .replace("127.0.0.1:8080", "127.0.0.1:18440")
            .replace("\"./zoobar\" }", "\"./zoobar\", \"/opt/pysecure\" = \"./lib\" }")
            .replace(
                "directory = \"/zoobar\"\n",
                "directory = \"/zoobar\"\nenvironment = { PYTHONPATH = \"/opt/pysecure\" }\n",
            ),
    )
    .unwrap();
    let pysecure = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pysecure"));
        command
            .args(args)
            .current_dir(&zoobar)
            .env("PYSECURE_STATE_DIR", folder.join("state"));
        command
    };
    must(&mut pysecure(&["up", "-d"]));
    let one = |port: u16, module: &str| {
        let databases = folder.join(module);
        for name in ["cred", "bank", "profile"] {
            std::fs::create_dir_all(databases.join(name)).unwrap();
        }
        let environment = [
            ("ZOOBAR_DB", databases),
            ("ZOOBAR_STATIC", zoobar.join("static")),
            ("PYTHONPATH", zoobar.join("lib")),
        ];
        must(
            Command::new("/usr/bin/python3")
                .arg(code.join("create.py"))
                .envs(environment.clone()),
        );
        let child = Command::new("/usr/bin/gunicorn")
            .args([
                "--config",
                "gunicorn.conf.py",
                "--bind",
                &format!("127.0.0.1:{port}"),
                &format!("{module}:app"),
            ])
            .current_dir(&code)
            .envs(environment)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("install `gunicorn`");
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Running(child)
    };
    let _running = [one(18441, "one_process"), one(18442, "direct")];
    let sites = [18440, 18441, 18442].map(|port| {
        let base = format!("http://127.0.0.1:{port}");
        let users = must(Command::new("/usr/bin/python3").args(["-c", USERS, &base]));
        (base, users.trim().to_owned())
    });

    println!(
        "| what | four services | one process | ratio | must reach | met? | one process, functions without `@rpc` | ratio |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let pages = [
        ("one's own page (4 calls)", "/"),
        ("another's page (4 calls)", "/users?user=ben"),
        ("the form to log in (1 call)", "/login"),
        ("a static file (none)", "/static/zoobar.css"),
    ];
    let mut seconds = [0.0; 3];
    for (what, path) in pages {
        let mut seen = [const { Vec::new() }; 3];
        // The first of each warms it up.
        for round in 0..=ROUNDS {
            for (site, (base, cookies)) in sites.iter().enumerate() {
                let rate = ab(&format!("{base}{path}"), cookies);
                if round > 0 {
                    seen[site].push(rate);
                }
            }
        }
        let rates = seen.map(median);
        if path != "/static/zoobar.css" {
            (0..3).for_each(|site| seconds[site] += 1.0 / rates[site]);
        }
        row(what, rates);
    }
    row("the three pages, one after the other", seconds.map(|s| 3.0 / s));
    must(&mut pysecure(&["down", "--purge"]));
    let _ = std::fs::remove_dir_all(&folder);
}

fn row(what: &str, [ours, one, direct]: [f64; 3]) {
    let ratio = ours / one;
    let met = if ratio >= LEAST { "met" } else { "**missed**" };
    println!(
        "| {what} | {ours:.0}/s | {one:.0}/s | {ratio:.2} | ≥ {LEAST} | {met} | {direct:.0}/s | {:.2} |",
        ours / direct
    );
}

/// Pages per second, every one of them a whole page.
fn ab(url: &str, cookies: &str) -> f64 {
    let mut ab = Command::new("ab");
    let said = must(ab.args(["-q", "-k", "-n", REQUESTS, "-c", AT_ONCE, "-C", cookies, url]));
    let of = |what: &str| said.lines().find_map(|l| l.strip_prefix(what)).map(str::trim);
    assert_eq!(
        (of("Failed requests:"), of("Non-2xx responses:")),
        (Some("0"), None),
        "{url}: {said}"
    );
    let rate = of("Requests per second:").and_then(|r| r.split_whitespace().next());
    rate.unwrap().parse().unwrap()
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[track_caller]
fn must(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}
