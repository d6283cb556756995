//! examples/zoobar: its one command from a clone, both of its manifests, people with browsers, and an attacker whose code
//! runs in the pages' own process, in the separated application and in the same code as one process.

mod harness;

use harness::python::files;
use harness::{App, BOTH, Ended, Mode, binary, wait_until};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a clone has of zoobar, with this port, and a link to its manifest where the harness looks for it.
fn clone(mode: Mode, port: u16) -> App {
    for program in ["/usr/bin/gunicorn", "/usr/lib/python3/dist-packages/flask"] {
        assert!(Path::new(program).exists(), "install `gunicorn` and `python3-flask`");
    }
    let here = |text: String| text.replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"));
    let app = App::new(mode, "");
    let manifest = app.folder.join("pysecure.toml");
    std::fs::remove_file(&manifest).unwrap();
    std::os::unix::fs::symlink("clone/examples/zoobar/pysecure.toml", &manifest).unwrap();
    for folder in ["examples/zoobar", "python/src"] {
        let from = repository().join(folder);
        for file in files(&from) {
            let inside = file.strip_prefix(&from).unwrap();
            let mut content = std::fs::read(&file).unwrap();
            if matches!(inside.to_str(), Some("pysecure.toml" | "pysecure_config.py")) {
                content = here(String::from_utf8(content).unwrap()).into_bytes();
            }
            app.write(&format!("clone/{folder}/{}", inside.display()), content);
        }
    }
    app
}

/// `examples/zoobar/run`, the one command.
fn run(app: &App, arguments: &[&str]) -> Ended {
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", binary().parent().unwrap().display());
    let mut command = app.shell_free("sh", &[&["clone/examples/zoobar/run"], arguments].concat());
    Ended::from(command.env("PATH", path).output().unwrap())
}

/// Somebody with a browser that keeps cookies and fills in forms, made of curl.
struct Person {
    jar: PathBuf,
    base: String,
}

impl Person {
    fn new(base: &str) -> Person {
        let jar = harness::fresh_folder().join("cookies");
        Person {
            jar,
            base: base.to_owned(),
        }
    }

    /// The status and the body.
    fn curl(&self, path: &str, more: &[&str]) -> (u16, String) {
        let jar = self.jar.to_str().unwrap();
        let out = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--location",
                "--write-out",
                "\n%{http_code}",
            ])
            .args(["--cookie", jar, "--cookie-jar", jar])
            .args(more)
            .arg(format!("{}{path}", self.base))
            .output()
            .expect("install `curl`");
        let ended = Ended::from(out).ok();
        let (body, status) = ended.out.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    fn get(&self, path: &str) -> String {
        let (status, body) = self.curl(path, &[]);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Sends the form of the page `at` to `path`.
    fn post(&self, at: &str, path: &str, fields: &[&str]) -> (u16, String) {
        let page = self.get(at);
        let csrf = format!("csrf={}", after(&page, "name=\"csrf\" value=\""));
        let mut more = vec!["--data-urlencode", &csrf];
        more.extend(fields.iter().flat_map(|f| ["--data-urlencode", f]));
        self.curl(path, &more)
    }

    fn registered(base: &str, name: &str) -> Person {
        let person = Person::new(base);
        let fields = [&*format!("name={name}"), &*format!("password=password of {name}")];
        let (status, body) = person.post("/register", "/register", &fields);
        assert_eq!((status, zoobars(&body)), (200, 10), "{body}");
        person
    }

    fn zoobars_of(&self, user: &str) -> u64 {
        zoobars(&self.get(&format!("/users?user={user}")))
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.jar.parent().unwrap());
    }
}

/// What follows a mark, up to the next quote or tag.
#[track_caller]
fn after<'a>(page: &'a str, mark: &str) -> &'a str {
    let at = page.find(mark).unwrap_or_else(|| panic!("no {mark} in {page}"));
    page[at + mark.len()..].split(['"', '<']).next().unwrap()
}

#[track_caller]
fn zoobars(page: &str) -> u64 {
    after(page, "id=\"zoobars\">").parse().unwrap()
}

#[test]
fn people_use_it_with_chromium() {
    for program in [
        "/usr/bin/chromium",
        "/usr/bin/chromedriver",
        "/usr/lib/python3/dist-packages/selenium",
    ] {
        let there = Path::new(program).exists();
        assert!(there, "install `chromium`, `chromium-driver` and `python3-selenium`");
    }
    for (mode, port) in BOTH.into_iter().zip([18420, 18421]) {
        let app = clone(mode, port);
        run(&app, &["-d"]).ok();
        let script = app.write(
            "browser.py",
            std::fs::read(repository().join("tests/zoobar/browser.py")).unwrap(),
        );
        let url = format!("http://127.0.0.1:{port}");
        let mut browser = app.shell_free("/usr/bin/python3", &[script.to_str().unwrap(), &url]);
        let ended = Ended::from(browser.output().unwrap());
        assert!(
            ended.out.ends_with("that was all\n"),
            "{mode:?}: {ended:?}\n{}",
            app.logs("web")
        );
        app.ok(&["down"]);
    }
}

/// Compares what pysecure.toml and pysecure_config.py say of the services.
const SAME: &str = r#"
import json, tomllib
by_toml, by_python = tomllib.load(open("pysecure.toml", "rb")), json.load(open("zoobar.pysecure.json"))
for table in (by_toml, by_python):
    del table["sandboxes"]["profile"]["userdirs"]
assert by_toml["sandboxes"] == by_python["sandboxes"]
one, two = by_toml["services"], by_python["services"]
assert one.keys() == two.keys()
for name in one:
    for key in ("callers", "ready", "restart", "depends_on", "listen", "directory"):
        assert one[name].get(key) == two[name].get(key), (name, key)
"#;

#[test]
fn the_original_s_configuration_is_the_same_application() {
    for (mode, port) in BOTH.into_iter().zip([18422, 18423]) {
        let app = clone(mode, port);
        run(&app, &["--original", "-d"]).ok();
        let base = format!("http://127.0.0.1:{port}");
        let person = Person::registered(&base, "amy");
        Person::registered(&base, "ben");
        let (_, home) = person.post("/", "/transfer", &["recipient=ben", "zoobars=3"]);
        assert_eq!(zoobars(&home), 7);
        // Who may call what, and the rest of each service, by both manifests; and what it sees.
        let text = "import runpy\n\
                    config = runpy.run_path('pysecure_config.py')['config']\n\
                    open('zoobar.pysecure.json', 'w').write(config.to_json())\n";
        let mut json = app.shell_free("/usr/bin/python3", &["-Bc", text]);
        json.current_dir(app.folder.join("clone/examples/zoobar"))
            .env("PYTHONPATH", app.folder.join("clone/python/src"));
        Ended::from(json.output().unwrap()).ok();
        let same = app.write("same.py", SAME);
        let mut same = app.shell_free("/usr/bin/python3", &[same.to_str().unwrap()]);
        Ended::from(
            same.current_dir(app.folder.join("clone/examples/zoobar"))
                .output()
                .unwrap(),
        )
        .ok();
        let mounts = |manifest: &str| -> Vec<String> {
            let specs: serde_json::Value = serde_json::from_str(&app.ok(&["-f", manifest, "spec"]).out).unwrap();
            let mounts = ["authsvc", "banksvc", "profilesvc", "web"].map(|service| {
                let mounts = specs[service]["mounts"].as_array().unwrap().clone();
                mounts
                    .into_iter()
                    .map(move |m| format!("{service} {} {}", m["destination"], m["options"]))
            });
            let mut shown: Vec<String> = mounts.into_iter().flatten().collect();
            shown.sort();
            shown
        };
        let original = mounts("clone/examples/zoobar/pysecure_config.py");
        app.ok(&["down", "--purge"]);
        assert!(
            original.iter().any(|m| m.starts_with("authsvc \"/zoobar/db/cred")),
            "{original:?}"
        );
        assert_eq!(original, mounts("clone/examples/zoobar"));
    }
}

#[test]
fn forms_of_others_and_hostile_text_come_to_nothing() {
    let app = clone(Mode::Root, 18424);
    run(&app, &["-d"]).ok();
    let base = "http://127.0.0.1:18424";
    let (amy, ben) = (Person::registered(base, "amy"), Person::registered(base, "ben"));
    // All cookies, and no token of the form, or that of somebody else's form.
    let (status, _) = amy.curl("/transfer", &["--data", "recipient=ben&zoobars=3"]);
    assert_eq!(status, 400);
    let page = ben.get("/");
    let theirs = format!(
        "recipient=ben&zoobars=3&csrf={}",
        after(&page, "name=\"csrf\" value=\"")
    );
    assert_eq!(amy.curl("/transfer", &["--data", &theirs]).0, 400);
    assert_eq!(amy.curl("/transfer", &["--data", "csrf=%C3%A4"]).0, 400);
    assert_eq!(zoobars(&amy.get("/")), 10);
    for (to, how_many) in [
        ("ben", "11"),
        ("ben", "-1"),
        ("ben", "0"),
        ("ben", "1e3"),
        ("ben", "99999999999999999999"),
    ] {
        let (status, _) = amy.post(
            "/",
            "/transfer",
            &[&format!("recipient={to}"), &format!("zoobars={how_many}")],
        );
        assert_eq!(status, 403, "{how_many}");
    }
    for to in ["amy", "nobody", "' or 1=1 --", ""] {
        let (status, _) = amy.post("/", "/transfer", &[&format!("recipient={to}"), "zoobars=1"]);
        assert_eq!(status, 403, "{to}");
    }
    assert_eq!((zoobars(&amy.get("/")), zoobars(&ben.get("/"))), (10, 10));
    // Taken names, short passwords, and names that are none.
    for (name, password) in [
        ("ben", "another password"),
        ("new", "short"),
        ("a b", "a long password"),
        ("", "a long password"),
    ] {
        let fields = [&*format!("name={name}"), &*format!("password={password}")];
        let (status, _) = Person::new(base).post("/register", "/register", &fields);
        assert_eq!(status, 403, "{name}");
    }
    amy.post("/", "/profile", &["profile=<img src=x onerror=alert(1)>\"'&"]);
    let profile = ben.get("/users?user=amy");
    assert!(
        profile.contains("&lt;img src=x onerror=alert(1)&gt;&#34;&#39;&amp;"),
        "{profile}"
    );
    assert_eq!(
        amy.post("/", "/profile", &[&format!("profile={}", "x".repeat(5001))]).0,
        403
    );
    // Many at once neither make nor lose a zoobar: of 20 transfers of one each, 10 are made.
    let made: usize = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let again = Person::new(base);
                    let (status, _) = again.post("/login", "/login", &["name=amy", "password=password of amy"]);
                    assert_eq!(status, 200);
                    let send = |_| again.post("/", "/transfer", &["recipient=ben", "zoobars=1"]).0;
                    (0..5).map(send).filter(|status| *status == 200).count()
                })
            })
            .collect();
        senders.into_iter().map(|s| s.join().unwrap()).sum()
    });
    assert_eq!((made, ben.zoobars_of("amy"), ben.zoobars_of("ben")), (10, 0, 20));
    app.ok(&["down"]);
}

/// A program of the examples', as the profile of a user.
fn program(name: &str) -> String {
    let path = repository().join(format!("examples/zoobar/profiles/{name}.py"));
    format!("profile={}", std::fs::read_to_string(path).unwrap())
}

#[test]
fn profiles_run_their_users_code_and_it_does_no_harm() {
    for (mode, port) in BOTH.into_iter().zip([18428, 18429]) {
        let app = clone(mode, port);
        run(&app, &["-d"]).ok();
        let base = format!("http://127.0.0.1:{port}");
        let (amy, ben) = (Person::registered(&base, "amy"), Person::registered(&base, "ben"));
        let save = |person: &Person, text: &str| {
            let (status, page) = person.post("/", "/profile", &[text]);
            assert_eq!(status, 200, "{mode:?}: {page}");
        };
        let says = |visitor: &Person, whose: &str| {
            let (status, page) = visitor.curl(&format!("/users?user={whose}"), &[]);
            assert_eq!(status, 200, "{mode:?}: {}\n{}", app.logs("web"), app.logs("profilesvc"));
            after(&page, "<p id=\"profile\">").to_owned()
        };
        // One that counts visits, whose file lasts.
        save(&amy, &program("visits"));
        let first = says(&ben, "amy");
        assert!(
            first.contains("Welcome, ben: this is your visit number 1."),
            "{mode:?}: {first}"
        );
        says(&amy, "amy");
        let third = says(&ben, "amy");
        assert!(
            third.contains("this is your visit number 2.") && third.contains("amy 1, ben 2"),
            "{mode:?}: {third}"
        );
        // One that shows transfers.
        amy.post("/", "/transfer", &["recipient=ben", "zoobars=3"]);
        save(&amy, &program("transfers"));
        let shown = says(&ben, "amy");
        assert!(
            shown.contains("I gave you 3.") && shown.contains("You have 13 zoobars."),
            "{mode:?}: {shown}"
        );
        // One that gives a zoobar, and then none for a while.
        save(&amy, &program("giver"));
        let given = says(&ben, "amy");
        assert!(
            given.contains("A zoobar for you, ben. I have 6 left."),
            "{mode:?}: {given}"
        );
        let again = says(&ben, "amy");
        assert!(again.contains("I gave you one a moment ago."), "{mode:?}: {again}");
        assert_eq!((ben.zoobars_of("amy"), amy.zoobars_of("ben")), (6, 14), "{mode:?}");
        // What its author must not come by: others' folders, the databases, services' sockets, the network, more than one zoobar.
        for (code, held) in [
            ("import os; print(os.listdir('/zoobar'))", "FileNotFoundError"),
            ("import os; print(os.listdir('/run/pysecure/rpc'))", "FileNotFoundError"),
            (
                "import os; print(os.listdir('/run/pysecure/sandbox'))",
                "FileNotFoundError",
            ),
            ("import socket; socket.create_connection(('127.0.0.1', 8080))", "Error"),
            ("give(); give()", "BudgetExceeded"),
            ("while True: pass", "It was ended: "),
            ("print('x' * 100_000)", "It was ended: output."),
            ("open('big', 'w').write('x' * 10_000_000)", "It was ended: file_size."),
        ] {
            save(&ben, &format!("profile=#!python\n{code}\n"));
            let said = says(&amy, "ben");
            assert!(said.contains(held), "{mode:?} {code}: {said}");
        }
        assert_eq!((ben.zoobars_of("amy"), amy.zoobars_of("ben")), (7, 13), "{mode:?}");
        // And the next one is unaffected.
        save(&ben, &program("visits"));
        assert!(says(&amy, "ben").contains("visit number 1."), "{mode:?}");
        app.ok(&["down"]);
    }
}

/// What a break-in is: code that somebody sends runs in the process that serves the pages. No clone has this.
const HOLE: &str = r#"

@app.post("/hole")
def _hole():
    import contextlib
    import io
    told = io.StringIO()
    os.environ["ZOOBAR_TARGETS"] = request.form["targets"]
    with contextlib.redirect_stdout(told):
        exec(compile(request.form["code"], "attack.py", "exec"), {"__name__": "attack"})
    return told.getvalue()
"#;

/// Lets the attacker in, who has been told the numbers of processes; what became of each thing that was tried.
fn attack(person: &Person, targets: &str) -> (Vec<(bool, String, String)>, String) {
    let code = format!("code@{}", repository().join("examples/zoobar/attack.py").display());
    let (status, told) = person.post("/", "/hole", &[&code, &format!("targets={targets}")]);
    assert_eq!(status, 200, "{told}");
    assert!(told.ends_with("that was all\n"), "{told}");
    let lines = told.lines().filter_map(|line| {
        let taken = line.starts_with("TAKEN");
        let (what, came) = line.get(7..)?.split_once(": ")?;
        (taken || line.starts_with("held")).then(|| (taken, what.to_owned(), came.to_owned()))
    });
    (lines.collect(), told.clone())
}

/// What of the attack can be tried on one process as well, by attack.py's words, and as README.md's picture has it.
const SHOWN: [(&str, &str); 9] = [
    ("hashes by SQL", "all password hashes, by SQL"),
    ("hashes in any file", "all password hashes, from any file"),
    ("hashes from memory", "all password hashes, from memory"),
    ("hashes by authsvc's code", "all password hashes, by authsvc's code"),
    ("money by SQL", "money, by SQL"),
    (
        "money by banksvc's code and a login of one's own",
        "money, by banksvc's own code",
    ),
    (
        "money by a token that authsvc's code makes",
        "money, by a token from authsvc's code",
    ),
    ("a function that only banksvc may call", "a function only for banksvc"),
    ("money by a forged token", "money, by an invented token"),
];

/// A column of docs/pictures/attack.txt, from which tests/pictures.rs draws: what came of the attack is what stands there.
fn is_pictured(column: usize, results: &[(bool, String, String)]) {
    static WRITING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = WRITING.lock();
    let path = repository().join("docs/pictures/attack.txt");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let mut rows = vec![["attacker's code in the web process", "one process", "four services"].map(str::to_owned)];
    for (number, (tried, words)) in SHOWN.iter().enumerate() {
        let taken = results.iter().find(|(_, what, _)| what == tried);
        let (taken, ..) = taken.unwrap_or_else(|| panic!("attack.py does not try {tried:?}"));
        let old = written.lines().nth(number + 2).unwrap_or_default();
        let mut row = [*words, "", ""].map(str::to_owned);
        for (cell, old) in row.iter_mut().zip(old.split('|')).skip(1) {
            old.trim().clone_into(cell);
        }
        if *taken { "TAKEN" } else { "held" }.clone_into(&mut row[column]);
        rows.push(row);
    }
    let mut current =
        "The same attack on the same application: once as one process, once as four services\n".to_owned();
    for [what, one, four] in rows {
        current += &format!("{what:<40} | {one:<11} | {four}\n");
    }
    if std::env::var_os("PYSECURE_BLESS").is_some_and(|bless| bless == "1") {
        std::fs::write(&path, &current).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written, current,
        "run this test, and then tests/pictures.rs, with PYSECURE_BLESS=1"
    );
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.0.id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.0.wait();
    }
}

#[test]
fn who_breaks_into_the_pages_has_nothing_but_the_pages() {
    for (mode, port) in BOTH.into_iter().zip([18425, 18426]) {
        let app = clone(mode, port);
        let web = std::fs::read_to_string(repository().join("examples/zoobar/zoobar/web.py")).unwrap();
        app.write("clone/examples/zoobar/zoobar/web.py", web + HOLE);
        run(&app, &["-d"]).ok();
        let base = format!("http://127.0.0.1:{port}");
        let (alice, bob) = (Person::registered(&base, "alice"), Person::registered(&base, "bob"));
        alice.post("/", "/transfer", &["recipient=bob", "zoobars=2"]);
        let hash = app
            .sh("authsvc", "python3 -c \"import sqlite3; print(*sqlite3.connect('db/cred/cred.db').execute('select password from users where name = ?', ('alice',)).fetchone())\"")
            .ok()
            .out;
        assert!(hash.starts_with("scrypt$"), "{hash}");

        let targets: Vec<String> = ["authsvc", "banksvc", "profilesvc"]
            .iter()
            .flat_map(|service| {
                let init = app.init_of(service);
                let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
                let mut all: Vec<String> = children.split_whitespace().map(str::to_owned).collect();
                all.push(init.to_string());
                all
            })
            .collect();
        let (results, told) = attack(&bob, &targets.join(" "));
        assert_eq!(results.len(), 18, "{told}");
        for (taken, what, came) in &results {
            assert!(!taken, "{mode:?}: {what}: {came}");
        }
        is_pictured(2, &results);
        assert!(!told.contains(hash.trim()), "{told}");
        // And it was not only said.
        assert_eq!((alice.zoobars_of("alice"), alice.zoobars_of("bob")), (8, 12));
        assert_eq!(
            alice.get("/").matches("user=bob").count(),
            1,
            "one transfer is in the log"
        );
        assert!(
            app.logs("authsvc").contains("authsvc refused 'exists' to web"),
            "{}",
            app.logs("authsvc")
        );
        for service in ["authsvc", "banksvc", "profilesvc"] {
            assert_eq!(app.service(service)["restarts"], 0);
        }
        // The same by `exec`, as the pages' user.
        let mut exec = app.command(&["exec", "-T", "web", "--", "python3", "-"]);
        let script = std::fs::File::open(repository().join("examples/zoobar/attack.py")).unwrap();
        let told = Ended::from(exec.stdin(script).output().unwrap()).ok().out;
        assert!(told.contains("that was all") && !told.contains("TAKEN"), "{told}");
        app.ok(&["down"]);
    }
}

#[test]
fn who_breaks_into_the_one_process_has_it_all() {
    // As an ordinary user, which is more than this process would need to be.
    let app = clone(Mode::Rootless, 18427);
    let zoobar = app.folder.join("clone/examples/zoobar");
    let web = std::fs::read_to_string(repository().join("examples/zoobar/zoobar/web.py")).unwrap();
    app.write("clone/examples/zoobar/zoobar/web.py", web + HOLE);
    for name in ["cred", "bank", "profile"] {
        app.write(&format!("clone/examples/zoobar/db/{name}/README"), "");
    }
    let environment = [
        ("ZOOBAR_DB", zoobar.join("db")),
        ("ZOOBAR_STATIC", zoobar.join("static")),
        ("PYTHONPATH", app.folder.join("clone/python/src")),
        ("PYTHONDONTWRITEBYTECODE", "1".into()),
    ];
    let mut create = app.shell_free("/usr/bin/python3", &["clone/examples/zoobar/zoobar/create.py"]);
    Ended::from(create.envs(environment.clone()).output().unwrap()).ok();
    let mut gunicorn = app.shell_free(
        "gunicorn",
        &[
            "--config",
            "gunicorn.conf.py",
            "--bind",
            "127.0.0.1:18427",
            "one_process:app",
        ],
    );
    gunicorn
        .current_dir(zoobar.join("zoobar"))
        .envs(environment)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _gunicorn = Running(gunicorn.spawn().unwrap());
    let base = "http://127.0.0.1:18427";
    wait_until(|| std::net::TcpStream::connect("127.0.0.1:18427").ok());
    let (alice, bob) = (Person::registered(base, "alice"), Person::registered(base, "bob"));
    alice.post("/", "/transfer", &["recipient=bob", "zoobars=2"]);
    assert_eq!(alice.zoobars_of("alice"), 8);
    let (results, told) = attack(&bob, "");
    for what in [
        "hashes from memory",
        "hashes by SQL",
        "hashes in any file",
        "hashes by authsvc's code",
        "money by SQL",
        "money by banksvc's code and a login of one's own",
        "money by a token that authsvc's code makes",
        "a function that only banksvc may call",
    ] {
        assert!(
            results.iter().any(|(taken, tried, _)| *taken && tried == what),
            "{what}:\n{told}"
        );
    }
    is_pictured(1, &results);
    let stolen = stored_hash(&zoobar.join("db/cred/cred.db"));
    assert!(told.contains(stolen.trim()), "{told}");
    // What only its own logic holds, it holds.
    assert!(
        results
            .iter()
            .any(|(taken, tried, _)| !taken && tried == "money by a forged token"),
        "{told}"
    );
    assert_eq!(bob.zoobars_of("alice"), 1_000_000 - 2);
    assert_eq!(alice.zoobars_of("bob"), 1_000_000 + 2);
}

/// The stored hash of alice's password.
fn stored_hash(database: &Path) -> String {
    let out = Command::new("/usr/bin/python3")
        .args(["-c", "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute(\"select password from users where name = 'alice'\").fetchone())"])
        .arg(database)
        .output()
        .unwrap();
    Ended::from(out).ok().out
}
