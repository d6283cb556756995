//! What programs expect of a machine, and find in a service: files of /etc, devices, a log, limits.

mod harness;

use harness::{App, BOTH, Mode};

fn manifest(name: &str, more: &str) -> String {
    format!("[app]\nname = \"{name}\"\n[services.a]\ncommand = \"sleep infinity\"\n{more}")
}

/// Looks up what the C library and runtimes look up, and follows all links of /usr that lead into /etc.
const LOOKED_UP: &str = r#"
import mimetypes, os, platform, socket, sys
assert socket.getservbyname("https", "tcp") == 443
assert socket.getservbyport(25) == "smtp"
assert socket.getprotobyname("icmp") == 1
assert platform.freedesktop_os_release()["ID"]
assert mimetypes.MimeTypes(["/etc/mime.types"]).guess_type("a.woff2")[0]
for name in ["host.conf", "ld.so.conf", "rpc", "networks", "timezone", "localtime", "ssl/certs/ca-certificates.crt"]:
    assert os.path.exists("/etc/" + name), name
# Links that lead into /etc.
secret = ["/etc/environment", "/etc/ssl/private"]
broken = []
found = 0
for folder, folders, files in os.walk("/usr"):
    if folder.startswith("/usr/share/man"): continue
    for name in folders + files:
        path = os.path.join(folder, name)
        if not os.path.islink(path): continue
        to = os.path.normpath(os.path.join(folder, os.readlink(path)))
        if not to.startswith("/etc/") or to in secret: continue
        found += 1
        if not os.path.exists(path): broken.append(path)
print(found, *broken, sep="\n")
for name in ["shadow", "gshadow", "subuid", "ssh", "ssl/private", "machine-id", "sudoers", "pip.conf", "npmrc", "crontab",
             "nginx/nginx.conf", "apache2/sites-enabled", "mysql", "postgresql", "php/8.2/fpm/pool.d", "postfix", "default",
             "environment", "cron.d", "systemd", "pam.d"]:
    if os.path.lexists("/etc/" + name): print("there:", name, file=sys.stderr)
"#;

#[test]
fn tables_and_links_of_etc_are_there_and_secrets_are_not() {
    // What leads nowhere on the host leads nowhere in a service.
    let outside = std::process::Command::new("python3")
        .args(["-c", LOOKED_UP])
        .output()
        .unwrap();
    let outside = harness::Ended::from(outside).ok();
    for secret in ["shadow", "ssl/private", "pam.d", "nginx/nginx.conf"] {
        assert!(
            outside.err.contains(&format!("there: {secret}\n")),
            "{secret}: {outside:?}"
        );
    }
    for mode in BOTH {
        let app = App::new(mode, &manifest("machine-etc", ""));
        let inside = app.ok(&["run", "-T", "a", "--", "python3", "-c", LOOKED_UP]);
        assert_eq!(inside.out, outside.out, "{mode:?}");
        assert_eq!(inside.err, "", "{mode:?}");
    }
}

/// Java's cryptography, which reads what its links in /usr lead to, and PHP's modules, which are links in /etc.
#[test]
fn java_and_php_find_what_their_links_lead_to() {
    let jail = "jail = \"own\"\n";
    for mode in BOTH {
        for (name, root) in [("machine-host", ""), ("machine-jail", jail)] {
            if mode == Mode::Root && root == jail {
                // Who builds a jail is the same in both modes, and this one is large.
                continue;
            }
            let app = App::new(mode, &manifest(name, root));
            app.write(
                "jails/own.toml",
                "extends = \"minimal\"\nbinaries = [\"php\", \"keytool\"]\n",
            );
            let run = |args: &[&str]| app.ok(&[&["run", "-T", "a", "--"], args].concat()).out;
            let keytool = "keytool -genkeypair -alias a -keyalg EC -dname CN=a -storepass changeit -keystore /tmp/keys 2>/dev/null &&
                keytool -list -storepass changeit -keystore /tmp/keys";
            let listed = run(&["sh", "-c", keytool]);
            assert!(listed.contains("PrivateKeyEntry"), "{mode:?} {name}: {listed}");
            let modules = run(&["php", "-m"]);
            for module in ["pdo_mysql", "PDO", "ctype", "mysqli"] {
                assert!(modules.lines().any(|line| line == module), "{mode:?} {name}: {modules}");
            }
            let time = "date_default_timezone_set('Europe/Berlin'); echo date('e');";
            assert_eq!(run(&["php", "-r", time]), "Europe/Berlin", "{mode:?} {name}");
        }
    }
}
