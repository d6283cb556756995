//! Stacks of Debian's and PyPI's packages, each with the manifest that its user would write.

mod harness;

use harness::{App, BOTH, Ended, free_port, wait_until};
use std::process::Command;

/// Asks the published port, from outside.
fn curl(port: u16, path: &str) -> Ended {
    let url = format!("http://127.0.0.1:{port}{path}");
    Ended::from(Command::new("curl").args(["-sS", "-m", "60", &url]).output().unwrap())
}

const POSTGRES: &str = r#"
[app]
name = "stack-postgres"
code = { "/app" = "./app" }

[resources]
database = { path = "/var/lib/postgresql/", owner = "rw" }
postgres = { path = "/run/postgresql/", owner = "rw", bundle = "c" }
backend = { path = "/run/backend/", owner = "rw", bundle = "c" }

[bundles]
database = { resources = ["postgres"] }
backend = { resources = ["backend"] }

[services.db]
command = ["sh", "-ec", """
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
if ! [ -e PG_VERSION ]; then
  initdb --no-sync -D . -A peer > /tmp/initdb
  printf 'create role web login;\ncreate database web owner web;\n' | postgres --single -D . postgres
fi
exec postgres -D . -k /run/postgresql -c listen_addresses=
"""]
directory = "/var/lib/postgresql"
owner_resources = ["database", "postgres"]
ready = { command = ["pg_isready", "-q", "-h", "/run/postgresql"] }

[services.web]
command = "gunicorn --bind unix:/run/backend/web.sock app:app"
directory = "/app"
owner_resources = ["backend"]
bundle = "database"
depends_on = { db = "ready" }
ready = { unix = "/run/backend/web.sock" }

[services.nginx]
command = ["nginx", "-c", "/app/nginx.conf", "-g", "daemon off;"]
bundle = "backend"
publish = ["127.0.0.1:PORT:8080"]
depends_on = { web = "ready" }
ready = { tcp = "127.0.0.1:8080" }
"#;

const FLASK: &str = r#"
import flask, psycopg2
app = flask.Flask(__name__)

@app.route("/visit")
def visit():
    with psycopg2.connect("host=/run/postgresql dbname=web") as db, db.cursor() as cursor:
        cursor.execute("create table if not exists visits (id serial)")
        cursor.execute("insert into visits default values returning id, current_user")
        return "%d by %s\n" % cursor.fetchone()
"#;

const NGINX_BEFORE_FLASK: &str = r#"
worker_processes 1;
pid /tmp/nginx.pid;
error_log stderr;
events {}
http {
    access_log /dev/stdout;
    client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
    server {
        listen 8080;
        location / { proxy_pass http://unix:/run/backend/web.sock; }
    }
}
"#;

#[test]
fn postgres_a_web_application_and_nginx() {
    for mode in BOTH {
        let port = free_port();
        let app = App::new(mode, &POSTGRES.replace("PORT", &port.to_string()));
        app.write("app/app.py", FLASK);
        app.write("app/nginx.conf", NGINX_BEFORE_FLASK);
        app.ok(&["up", "-d"]);
        assert_eq!(curl(port, "/visit").ok().out, "1 by web\n", "{mode:?}");
        // What was written is there after all has been started anew.
        app.ok(&["down"]);
        app.ok(&["up", "-d"]);
        assert_eq!(curl(port, "/visit").ok().out, "2 by web\n", "{mode:?}");
        app.wait_for_log("nginx", "GET /visit");
        // Whoever takes over the proxy is not at the database.
        assert_ne!(
            app.sh("nginx", "psql -h /run/postgresql -U web web -c 'select 1'").code,
            0
        );
        app.ok(&["down", "--purge"]);
    }
}

const PHP: &str = r#"
[app]
name = "stack-php"
code = { "/app" = "./app" }

[resources]
database = { path = "/var/lib/mysql", owner = "rw" }
nginx = { path = "/var/lib/nginx", owner = "rw" }

[services.db]
command = ["sh", "-ec", """
[ -e mysql ] || mariadb-install-db --datadir=. --skip-test-db > /tmp/installed
exec mariadbd --datadir=. --socket=/tmp/mysqld.sock --bind-address=127.0.0.1 --init-file=/app/init.sql
"""]
directory = "/var/lib/mysql"
owner_resources = ["database"]
network = "app"
ready = { tcp = "127.0.0.1:3306" }

[services.php]
command = "php-fpm8.2 --nodaemonize --fpm-config /app/php-fpm.conf"
users = ["www-data"]
network = "app"
depends_on = { db = "ready" }
ready = { tcp = "127.0.0.1:9000" }

[services.web]
command = ["nginx", "-c", "/app/nginx.conf", "-g", "daemon off;"]
users = ["www-data"]
owner_resources = ["nginx"]
network = "app"
publish = ["127.0.0.1:PORT:8080"]
depends_on = { php = "ready" }
ready = { tcp = "127.0.0.1:8080" }
"#;

const INDEX_PHP: &str = r#"<?php
$db = new PDO('mysql:host=127.0.0.1;dbname=app', 'app', 'secret');
$db->exec('create table if not exists visits (id int auto_increment primary key)');
$db->exec('insert into visits values ()');
echo $db->lastInsertId(), ' by ', posix_getpwuid(posix_geteuid())['name'], ' ', strlen($_POST['text'] ?? ''), "\n";
"#;

const NGINX_BEFORE_PHP: &str = r#"
user www-data;
worker_processes 1;
pid /tmp/nginx.pid;
error_log stderr;
events {}
http {
    include /etc/nginx/mime.types;
    access_log /dev/stdout;
    client_max_body_size 1m;
    server {
        listen 8080;
        root /app/site;
        location / { try_files $uri /index.php; }
        location ~ \.php$ { include /etc/nginx/fastcgi.conf; fastcgi_pass 127.0.0.1:9000; }
    }
}
"#;

const POOL: &str = "[global]\nerror_log = /dev/stderr\n[www]\nuser = www-data\ngroup = www-data\nlisten = 127.0.0.1:9000\npm = static\npm.max_children = 2\n";

#[test]
fn php_fpm_mariadb_and_nginx() {
    for mode in BOTH {
        let port = free_port();
        let app = App::new(mode, &PHP.replace("PORT", &port.to_string()));
        app.write("app/site/index.php", INDEX_PHP);
        app.write("app/site/style.css", "a {}\n");
        app.write("app/nginx.conf", NGINX_BEFORE_PHP);
        app.write("app/php-fpm.conf", POOL);
        app.write(
            "app/init.sql",
            "create database if not exists app;\ncreate user if not exists app@localhost identified by 'secret';\ngrant all on app.* to app@localhost;\n",
        );
        app.ok(&["up", "-d"]);
        assert_eq!(curl(port, "/").ok().out, "1 by www-data 0\n", "{mode:?}");
        // A body that does not fit into memory goes to a folder that the master made for its workers.
        app.write("body", format!("text={}", "x".repeat(400_000)));
        let url = format!("http://127.0.0.1:{port}/");
        let body = format!("@{}", app.folder.join("body").display());
        let posted = Command::new("curl")
            .args(["-sS", "-m", "60", "--data-binary", &body, &url])
            .output()
            .unwrap();
        assert_eq!(Ended::from(posted).ok().out, "2 by www-data 400000\n", "{mode:?}");
        let css = Command::new("curl")
            .args([
                "-sS",
                "-m",
                "60",
                "-o",
                "/dev/null",
                "-w",
                "%{content_type}",
                &format!("{url}style.css"),
            ])
            .output()
            .unwrap();
        assert_eq!(Ended::from(css).ok().out, "text/css", "{mode:?}");
        // Workers have dropped, and their masters have not.
        for service in ["php", "web"] {
            let users = app.sh(service, "ps -eo user= | sort | uniq -c").ok().out;
            assert!(
                users.contains("www-data") && users.contains("root"),
                "{mode:?} {service}: {users}"
            );
        }
        app.ok(&["down", "--purge"]);
    }
}

const QUEUE: &str = r#"
[app]
name = "stack-queue"
code = { "/app" = "./app", "/venv" = "PYPI" }

[resources]
jobs = { path = "/var/lib/redis", owner = "rw" }

[services.redis]
command = "redis-server --bind 127.0.0.1 --appendonly yes"
directory = "/var/lib/redis"
owner_resources = ["jobs"]
network = "app"
ready = { tcp = "127.0.0.1:6379" }

[services.worker]
command = "/venv/bin/python -m rq.cli worker --url redis://127.0.0.1"
directory = "/app"
network = "app"
depends_on = { redis = "ready" }

[services.web]
command = "sleep infinity"
directory = "/app"
network = "app"
depends_on = { redis = "ready" }
"#;

const ENQUEUE: &str = r#"
import redis, rq, time, tasks
job = rq.Queue(connection=redis.Redis()).enqueue(tasks.add, 2, 40)
while not job.is_finished:
    assert not job.is_failed, job.exc_info
    time.sleep(0.05)
print(job.return_value())
"#;

#[test]
fn a_queue_of_jobs_and_its_worker() {
    let pypi = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pypi");
    assert!(
        pypi.join("bin/python").exists(),
        "make the environment that tests/run makes, in target/pypi"
    );
    for mode in BOTH {
        let app = App::new(mode, &QUEUE.replace("PYPI", pypi.to_str().unwrap()));
        app.write(
            "app/tasks.py",
            "import getpass\ndef add(a, b): return f'{a + b} by {getpass.getuser()}'\n",
        );
        app.write("app/enqueue.py", ENQUEUE);
        app.ok(&["up", "-d"]);
        let done = app.ok(&["exec", "-T", "web", "--", "/venv/bin/python", "enqueue.py"]);
        assert_eq!(done.out, "42 by worker\n", "{mode:?}: {done:?}");
        app.ok(&["down", "--purge"]);
    }
}

const POSTFIX: &str = r#"
[app]
name = "stack-postfix"
code = { "/etc/postfix" = "./postfix" }

[resources]
queue = { path = "/var/spool/postfix", owner = "rwx" }
mail = { path = "/var/mail", owner = "rw" }

[services.mail]
command = "postfix start-fg"
users = ["postfix", "postdrop", "alice"]
owner_resources = ["queue", "mail"]
"#;

const MAIN_CF: &str = "compatibility_level = 3.6\nmyhostname = mail.example\nmydestination = mail.example, localhost\n\
                       inet_interfaces = loopback-only\nalias_maps =\ndata_directory = /var/spool/postfix/data\n";

/// Debian's own master.cf, most of whose programs change their root and drop to `postfix`.
#[test]
fn postfix_delivers_a_local_mail() {
    for mode in BOTH {
        let app = App::new(mode, POSTFIX);
        let copied = Command::new("cp")
            .args(["-r", "/etc/postfix"])
            .arg(&app.folder)
            .status();
        assert!(copied.unwrap().success(), "install `postfix`");
        app.write("postfix/main.cf", MAIN_CF);
        app.ok(&["up", "-d"]);
        app.wait_for_log("mail", "daemon started");
        let sent = app.sh(
            "mail",
            "printf 'Subject: hello\\n\\ntext of it\\n' | sendmail -f alice@mail.example alice",
        );
        sent.ok();
        app.wait_for_log("mail", "status=sent (delivered to mailbox)");
        let mail = app
            .sh("mail", "cat /var/mail/alice; stat -c %U /var/mail/alice")
            .ok()
            .out;
        assert!(
            mail.contains("text of it") && mail.ends_with("alice\n"),
            "{mode:?}: {mail}"
        );
        // By SMTP, too, to a port below 1024 of its own network.
        let smtp = "import smtplib; smtplib.SMTP('127.0.0.1').sendmail('alice@mail.example', ['alice@mail.example'], 'Subject: x\\n\\nby smtp\\n')";
        app.ok(&["exec", "-T", "mail", "--", "python3", "-c", smtp]);
        wait_until(|| {
            app.sh("mail", "grep 'by smtp' /var/mail/alice")
                .out
                .contains("by smtp")
                .then_some(())
        });
        let users = app.sh("mail", "ps -eo user=,comm= | sort -u").ok().out;
        assert!(
            users.contains("postfix  qmgr") && users.contains("root     master"),
            "{mode:?}: {users}"
        );
        app.ok(&["down", "--purge"]);
    }
}
