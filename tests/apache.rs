//! docs/how-to/apache.md, from its first command to its last, in a machine of its own as far as files, network and processes go:
//! zoobar's pages in the system's Apache, as root; and in an Apache that is a service, as root and as an ordinary user.

mod harness;

use harness::python::files;
use harness::{App, BOTH, Ended, Mode, binary};
use std::path::Path;
use std::process::{Command, Stdio};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A clone, as the mode's user's, in a folder of the harness's.
fn clone(mode: Mode) -> App {
    use std::os::unix::fs::PermissionsExt;
    let app = App::new(mode, "");
    for folder in ["examples/zoobar", "examples/apache", "python/src"] {
        for file in files(&repository().join(folder)) {
            let inside = file.strip_prefix(repository()).unwrap();
            // What the commands put there, if they were run in this clone, is not to help them.
            let copied = ["zoobar", "static"]
                .iter()
                .any(|f| inside.starts_with(format!("examples/apache/jailed/{f}")));
            if copied && !inside.ends_with("README") {
                continue;
            }
            let written = app.write(inside.to_str().unwrap(), std::fs::read(&file).unwrap());
            std::fs::set_permissions(&written, file.metadata().unwrap().permissions()).unwrap();
        }
    }
    // Its state lies where an ordinary user has it, so the folder is passable, as a home's parents are.
    std::fs::set_permissions(&app.folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    app
}

/// The commands of the page's sections with these headings.
fn commands(sections: &[&str]) -> String {
    let page = std::fs::read_to_string(repository().join("docs/how-to/apache.md")).unwrap();
    let mut out = String::new();
    for section in sections {
        let after = page.split(&format!("\n## {section}\n")).nth(1);
        let text = after.unwrap_or_else(|| panic!("docs/how-to/apache.md has no section {section:?}"));
        let text = text.split("\n## ").next().unwrap();
        let blocks = text
            .split("```console\n")
            .skip(1)
            .map(|b| b.split("```").next().unwrap());
        for (number, block) in blocks.enumerate() {
            out += &format!("step {section:?} {number}\n{block}");
        }
    }
    out
}

/// What comes before the page's commands: sudo and cargo do nothing of their own, and packages have to be there.
const PRELUDE: &str = r#"
sudo() { "$@"; }
cargo() { :; }
install() { command -v pysecure >/dev/null; }
apt() {
  shift
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" | grep -q 'install ok installed' || { echo "install \`$package\`" >&2; exit 1; }
  done
}
"#;

/// Makes a machine of its own: what the commands change is a copy. Then it runs the script that it is given.
const MACHINE: &str = r#"
busybox ip link set lo up
changed=$1
shift
for folder in /etc/apache2 /srv /var/lib/apache2 /var/log/apache2; do
  mkdir -p "$changed$folder"
  cp -a "$folder/." "$changed$folder"
  mount --bind "$changed$folder" "$folder"
done
mkdir -p /var/lib/pysecure
mount -t tmpfs -o mode=755 tmpfs /var/lib/pysecure
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
exec "$@"
"#;

/// Runs a script in a machine of its own, in the clone, as the mode's user.
fn in_a_machine(app: &App, script: &str) -> Ended {
    let script = app.write("script.sh", format!("{PRELUDE}\n{script}"));
    let changed = harness::fresh_folder();
    let path = format!(
        "{}:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
        binary().parent().unwrap().display()
    );
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-euc",
            MACHINE,
            "machine",
        ])
        .arg(&changed);
    if app.mode == Mode::Rootless {
        command.args([
            "setpriv",
            "--reuid",
            harness::USER,
            "--regid",
            harness::USER,
            "--init-groups",
            "--inh-caps=-all",
        ]);
    }
    command
        .args(["sh", "-eu", script.to_str().unwrap()])
        .current_dir(&app.folder)
        .env_clear()
        .env("PATH", path)
        .env("HOME", app.folder.join("home"))
        .stdin(Stdio::null());
    let out = command.output().expect("install `util-linux`");
    std::fs::remove_dir_all(&changed).unwrap();
    Ended::from(out)
}

/// Many users at once, by the page's own forms, and bounded: 8 people, 5 rounds each of looking and sending.
const USERS: &str = r#"
import concurrent.futures, http.cookiejar, re, sys, urllib.parse, urllib.request
base, NAMES = sys.argv[1], [f"user{n}" for n in range(8)]

class Person:
    def __init__(self, name):
        self.name = name
        self.browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        self.post("/register", "/register", name=name, password="password of " + name)

    def get(self, path):
        return self.browser.open(base + path).read().decode()

    def post(self, at, to, **fields):
        fields["csrf"] = re.search('name="csrf" value="([0-9a-f]+)"', self.get(at))[1]
        return self.browser.open(base + to, urllib.parse.urlencode(fields).encode()).read().decode()

    def zoobars(self, of):
        return int(re.search('id="zoobars">([0-9]+)', self.get("/users?user=" + of))[1])

def live(name):
    person = Person(name)
    for n in range(5):
        person.post("/", "/profile", profile=f"{name}'s number {n} <&>")
        assert f"{name}&#39;s number {n} &lt;&amp;&gt;" in person.get("/users?user=" + name)
    return person

def give(person):
    to = NAMES[(NAMES.index(person.name) + 1) % len(NAMES)]
    for n in range(5):
        person.post("/", "/transfer", recipient=to, zoobars="1")

with concurrent.futures.ThreadPoolExecutor(len(NAMES)) as many:
    people = list(many.map(live, NAMES))
    list(many.map(give, people))
    assert list(many.map(lambda p: p.zoobars(p.name), people)) == [10] * len(NAMES)
print("users were served")
"#;

const CHECK: &str = r#"
step() { echo "== $*"; }
"#;

#[test]
fn the_system_s_apache_serves_zoobar_as_the_external_service() {
    let app = clone(Mode::Root);
    let users = app.write("users.py", USERS);
    let attack = app.write(
        "attack.py",
        std::fs::read(repository().join("examples/zoobar/attack.py")).unwrap(),
    );
    let page = commands(&["What the machine needs", "The machine's own Apache"]);
    let (serve, away) = page.split_once("step \"The machine's own Apache\" 1\n").unwrap();
    // Between the page's commands: users, who may reach what, and an attacker with www-data's id.
    let between = format!(
        r#"
/usr/bin/python3 {users} http://127.0.0.1:8083
stat -c '%n %u %g %a' /run/pysecure-external/zoobar-system/*.sock /srv/zoobar/cache /srv/zoobar/static
ls /srv/zoobar/cache | grep -q jinja2 && echo "the cache is used"
/usr/bin/python3 -c 'import glob, sqlite3
for database in glob.glob("/var/lib/pysecure/apps/zoobar-system/resources/**/cred.db", recursive=True):
    for row in sqlite3.connect(database).execute("select password from users"): print("hash of one:", *row)'
as() {{ id=$1; shift; setpriv --reuid "$id" --regid "$id" --clear-groups "$@"; }}
export ZOOBAR_DB=/var/lib/pysecure/apps/zoobar-system/resources PYTHONPATH=/srv/zoobar/zoobar:/srv/zoobar/lib
export PYSECURE_RPC_DIR=/run/pysecure-external/zoobar-system PYTHONDONTWRITEBYTECODE=1
as 33 /usr/bin/python3 {attack}
as 33 touch /srv/zoobar/static/theirs || echo "static is not to be written"
as 34 ls /srv/zoobar/cache || echo "the cache is not another's"
as 34 ls /srv/zoobar/static || echo "nor are the static files"
as 34 /usr/bin/python3 -c 'import auth; auth.login("user1", "password of user1")' || echo "nor are the sockets"
as 33 /usr/bin/python3 -c 'import auth; print("a login by it:", len(auth.login("user1", "password of user1")))'
"#,
        users = users.display(),
        attack = attack.display()
    );
    let gone = r#"
test ! -e /run/pysecure-external && test ! -e /srv/zoobar && echo "all is gone"
"#;
    let script = format!("{CHECK}{serve}{between}\nunset PYTHONPATH\n{away}{gone}");
    let ended = in_a_machine(&app, &script).ok();
    let says = |text: &str| {
        assert!(
            ended.out.contains(text),
            "no line says {text:?}:\n{}\n{}",
            ended.out,
            ended.err
        )
    };
    says("<h1>Log in</h1>");
    says("Failed requests:        0");
    says("users were served");
    for callee in ["authsvc", "banksvc", "profilesvc"] {
        says(&format!("/run/pysecure-external/zoobar-system/{callee}.sock 33 0 600"));
    }
    says("/srv/zoobar/cache 33 ");
    says("the cache is used");
    for what in [
        "static is not to be written",
        "the cache is not another's",
        "nor are the static files",
        "nor are the sockets",
    ] {
        says(what);
    }
    says("a login by it: 43");
    // No hash of these users, whatever else lies about on the host.
    let hashes: Vec<&str> = ended
        .out
        .lines()
        .filter_map(|l| l.strip_prefix("hash of one: "))
        .collect();
    assert_eq!(hashes.len(), 8, "{}", ended.out);
    for hash in hashes {
        assert_eq!(ended.out.matches(hash).count(), 1, "{}", ended.out);
    }
    // It shares the host with others, and is kept from what is the services'.
    for what in [
        "hashes from memory",
        "hashes by SQL",
        "hashes by authsvc's code",
        "money by a forged token",
        "money by SQL",
        "money by banksvc's code and a login of one's own",
        "money by a token that authsvc's code makes",
        "a function that only banksvc may call",
        "another caller's socket",
        "another caller's name",
    ] {
        says(&format!("held   {what}: "));
    }
    says("all is gone");
}

#[test]
fn apache_in_a_jail_serves_zoobar() {
    for mode in BOTH {
        let app = clone(mode);
        let users = app.write("users.py", USERS);
        let attack = app.write(
            "attack.py",
            std::fs::read(repository().join("examples/zoobar/attack.py")).unwrap(),
        );
        let page = commands(&["Apache as a service, in a jail"]);
        let (serve, down) = page.split_once("step \"Apache as a service, in a jail\" 1\n").unwrap();
        let between = format!(
            r#"
/usr/bin/python3 {users} http://127.0.0.1:8082
pysecure -f examples/apache/jailed ps --json
echo
inside() {{ pysecure -f examples/apache/jailed exec -T "$@" 2>&1; }}
inside apache -- /bin/sh -c true || echo "apache has no shell"
inside apache -- /usr/bin/python3 -c 1 || echo "apache has no Python"
inside wsgi -- python3 -c 'import os; print("wsgi is", os.getuid() != 0, os.listdir("/zoobar/db") if os.path.exists("/zoobar/db") else "without a database")'
inside wsgi -- ls /zoobar/static || echo "wsgi has no static files"
inside wsgi -- python3 - < {attack}
"#,
            users = users.display(),
            attack = attack.display()
        );
        let script = format!(
            "{CHECK}{serve}{between}\n{down}\npysecure -f examples/apache/jailed down --purge\npysecure jail prune\n"
        );
        let ended = in_a_machine(&app, &script).ok();
        let says = |text: &str| {
            let all = format!("{}\n{}", ended.out, ended.err);
            assert!(ended.out.contains(text), "{mode:?}: no line says {text:?}:\n{all}");
        };
        for what in [
            "<h1>Log in</h1>",
            "Failed requests:        0",
            "users were served",
            "apache has no shell",
            "apache has no Python",
            "wsgi is True without a database",
            "wsgi has no static files",
            "that was all",
        ] {
            says(what);
        }
        // Who breaks into the pages has what they have in the other examples: nothing.
        assert!(!ended.out.contains("TAKEN"), "{mode:?}: {}", ended.out);
        assert_eq!(ended.out.matches("held   ").count(), 18, "{mode:?}: {}", ended.out);
        let ps = ended
            .out
            .find("{\n")
            .map(|at| ended.out[at..].split("\n}\n").next().unwrap().to_owned() + "}");
        let ps: serde_json::Value =
            serde_json::from_str(&ps.unwrap_or_else(|| panic!("no ps in {}", ended.out))).unwrap();
        let services = ps["services"].as_array().unwrap();
        let mut uids: Vec<u64> = services.iter().map(|s| s["uid"].as_u64().unwrap()).collect();
        uids.sort();
        uids.dedup();
        assert_eq!(uids.len(), 5, "{ps}");
        assert!(
            services.iter().all(|s| s["restarts"] == 0 && s["state"] == "running"),
            "{ps}"
        );
    }
}
