//! What the manual says of each command beyond what its arguments say: used by `--help`, by the man pages and by docs/reference/cli.md.

/// Commands that belong together, as `--help` lists them.
#[rustfmt::skip]
pub(super) const GROUPS: &[(&str, &[&str])] = &[
    ("Start and stop", &["up", "down", "start", "stop", "restart", "reload", "kill", "wait"]),
    ("Look", &["ps", "ls", "logs", "stats", "top", "events", "metrics", "access"]),
    ("Work inside", &["exec", "run", "cp", "rpc", "unshare"]),
    ("Write and check", &["init", "check", "spec", "doctor"]),
    ("Data and jails", &["setup", "data", "give-back", "jail"]),
    ("Run code that you do not trust", &["sandbox"]),
    ("This program", &["completions", "man"]),
];

/// Further text, and examples.
pub(super) struct About {
    /// The command's words: `jail build`.
    pub command: &'static str,
    /// A paragraph each.
    pub more: &'static [&'static str],
    /// What it is for, and what to type.
    pub examples: &'static [(&'static str, &'static str)],
    /// Other pages of interest.
    pub see: &'static [&'static str],
}

const fn about(
    command: &'static str,
    more: &'static [&'static str],
    examples: &'static [(&'static str, &'static str)],
    see: &'static [&'static str],
) -> About {
    About {
        command,
        more,
        examples,
        see,
    }
}

#[rustfmt::skip]
pub(super) const COMMANDS: &[About] = &[
    about(
        "init",
        &["The manifest describes an app of two services. Each key that a manifest can have is in it, most of them as comments."],
        &[("Write a manifest into this folder, and try it.", "pysecure init\npysecure up")],
        &["pysecure.toml(5)", "pysecure-check(1)"],
    ),
    about(
        "check",
        &[
            "All errors are shown at once, each with its line and what to write instead. `check` finds what `up` would refuse, and changes nothing: it looks for programs, interpreters and directories as the service would see them.",
            "Warnings and notes are no errors: the exit code stays 0.",
        ],
        &[
            ("Check the manifest in this folder.", "pysecure check"),
            ("Check another manifest, for an editor or in CI.", "pysecure check --file deploy/pysecure.toml --json"),
        ],
        &["pysecure.toml(5)", "pysecure-access(1)"],
    ),
    about(
        "spec",
        &["The spec is the OCI runtime specification that `up` starts a service from. `-o` writes a bundle for each service, which runc(8) and crun(1) can run without PySecure."],
        &[
            ("Print the specs of all services.", "pysecure spec"),
            ("Run the service `web` without PySecure.", "pysecure spec -o bundles web\ncrun run --bundle bundles/web web"),
        ],
        &["pysecure-check(1)"],
    ),
    about(
        "up",
        &[
            "Without `-d`, `up` stays in the foreground, prints what services print, and stops them at Ctrl-C. With `-d` a supervisor stays in the background, and `up` returns when all services are ready.",
            "If the app is up already, `up` changes it to what the manifest says now, and touches only the services that have changed. `--dry-run` shows what that would be.",
        ],
        &[
            ("Start all services in the background.", "pysecure up -d"),
            ("See what a changed manifest would restart, then apply it.", "pysecure up --dry-run\npysecure up -d"),
            ("Restart services when their code changes.", "pysecure up --watch"),
        ],
        &["pysecure-down(1)", "pysecure-logs(1)", "pysecure.toml(5)"],
    ),
    about(
        "down",
        &[
            "Each service stops before those that it depends on. Data, logs and ids stay for the next `up`.",
            "`--purge` deletes them. It says what will be deleted, and asks first at a terminal. Files that the app took over (`chown = true`) go back to their owner.",
        ],
        &[
            ("Stop the app.", "pysecure down"),
            ("Stop the app and delete its data without a question.", "pysecure down --purge --yes"),
        ],
        &["pysecure-up(1)", "pysecure-data(1)"],
    ),
    about(
        "ps",
        &["Each line shows a service's state, its health, how often it was restarted, the PID of its first process, its ids, and how long it has been in this state."],
        &[
            ("List the services.", "pysecure ps"),
            ("Print the PIDs of all services that run.", "pysecure ps --json | jq '.[].pid // empty'"),
        ],
        &["pysecure-stats(1)", "pysecure-top(1)"],
    ),
    about(
        "ls",
        &["Apps are those of this user, wherever their manifests are."],
        &[("List your apps.", "pysecure ls")],
        &["pysecure-ps(1)"],
    ),
    about(
        "wait",
        &["A service that will be restarted counts as running. Of several services, the exit code is the first that is not 0, in the order in which they were named."],
        &[("Start a service that does its work once, and end as it does.", "pysecure start migrate\npysecure wait migrate")],
        &["pysecure-start(1)", "pysecure-run(1)"],
    ),
    about(
        "start",
        &["A service that was given up after too many restarts is started again as well, with its count at zero."],
        &[("Start `web`, and what it depends on.", "pysecure start web")],
        &["pysecure-stop(1)", "pysecure-restart(1)"],
    ),
    about(
        "stop",
        &["Only the named services stop, and the app stays up. A service that does not end in time is killed with all of its processes. It stays stopped until `start`, `restart` or `up` starts it."],
        &[("Stop `web`, and kill it after two seconds.", "pysecure stop -t 2 web")],
        &["pysecure-start(1)", "pysecure-kill(1)"],
    ),
    about(
        "restart",
        &["Sockets of `listen` and of calls stay open meanwhile, so clients wait and are not refused."],
        &[("Restart two services.", "pysecure restart web worker")],
        &["pysecure-reload(1)", "pysecure-up(1)"],
    ),
    about(
        "reload",
        &["The signal is the service's `reload_signal`, SIGHUP if the manifest names none."],
        &[("Have nginx read its configuration again.", "pysecure reload nginx")],
        &["pysecure-kill(1)", "pysecure-restart(1)"],
    ),
    about(
        "kill",
        &["The signal goes to the service's program, not to the processes that it has started. A service that ends of it is restarted if its `restart` says so: `stop` is for good."],
        &[
            ("Rotate logs of a program that does so at SIGUSR1.", "pysecure kill -s USR1 web"),
            ("Hold a service, and let it go on.", "pysecure kill -s STOP worker\npysecure kill -s CONT worker"),
        ],
        &["pysecure-stop(1)", "signal(7)"],
    ),
    about(
        "logs",
        &["Lines are kept for services whose `logs` have the sink `file`, which is the default. Lines of all services are shown in the order of their times."],
        &[
            ("Follow what `web` prints, from its last 20 lines on.", "pysecure logs -f -n 20 web"),
            ("Show what was printed in the last ten minutes, with times.", "pysecure logs --since 10m -t"),
            ("Print the lines of one minute as JSON.", "pysecure logs --since 2026-11-28T10:00 --until 2026-11-28T10:01 --json"),
        ],
        &["pysecure-events(1)"],
    ),
    about(
        "stats",
        &["On a terminal the table is renewed each second. Calls of functions are counted since `up`, if a service has any."],
        &[
            ("Show usage once.", "pysecure stats --no-stream"),
            ("Read usage from a script.", "pysecure stats --json"),
        ],
        &["pysecure-top(1)", "pysecure-metrics(1)"],
    ),
    about(
        "top",
        &["Arrow keys choose a service. `s` starts it, `t` stops it, `r` restarts it, `R` has it reload; `q` ends the page."],
        &[("Watch the app.", "pysecure top")],
        &["pysecure-stats(1)", "pysecure-logs(1)"],
    ),
    about(
        "events",
        &["Events are starts, exits, restarts, changes of health, and orders of clients. `events` goes on until it is interrupted."],
        &[("Print events as JSON, one object per line.", "pysecure events --json")],
        &["pysecure-logs(1)"],
    ),
    about(
        "metrics",
        &["`--socket` prints the path of a Unix socket on which the supervisor answers HTTP requests for the same text."],
        &[
            ("Print the metrics.", "pysecure metrics"),
            ("Ask the supervisor as Prometheus would.", "curl --unix-socket \"$(pysecure metrics --socket)\" http://localhost/metrics"),
        ],
        &["pysecure-stats(1)"],
    ),
    about(
        "access",
        &["Each row names the lines of the manifest that it follows from. The app need not be up."],
        &[
            ("Show who may touch what.", "pysecure access"),
            ("Print all rows as JSON.", "pysecure access --json"),
        ],
        &["pysecure.toml(5)", "pysecure-check(1)"],
    ),
    about(
        "exec",
        &["The program runs next to the service: in its namespaces, with its UID, its grants and its system call filter. It can do no more than the service can."],
        &[
            ("Open a shell in `web`.", "pysecure exec web -- sh"),
            ("Run one program, in another directory, without a terminal.", "pysecure exec -T -w /data web -- ls -l"),
        ],
        &["pysecure-run(1)", "pysecure-cp(1)"],
    ),
    about(
        "run",
        &["The program starts by itself, with the service's grants; nothing else is started. Without a program it is the service's own command, which is refused while the service runs."],
        &[
            ("See what `web` could see.", "pysecure run web -- ls /data"),
            ("Apply a database's migrations with the rights of `web`.", "pysecure run web -- python3 manage.py migrate"),
        ],
        &["pysecure-exec(1)"],
    ),
    about(
        "cp",
        &["One of `FROM` and `TO` is `SERVICE:/PATH`. Files are read and written with the service's rights. Copied in, a file belongs to the service; copied out, it is yours."],
        &[
            ("Copy a folder into the service `web`.", "pysecure cp ./static web:/srv/"),
            ("Copy a file out of it.", "pysecure cp web:/data/app.db ."),
        ],
        &["pysecure-exec(1)"],
    ),
    about(
        "unshare",
        &["Without root, files of services belong to subordinate ids, which you may not read. `unshare` runs a program in a user namespace in which they can be read, as podman-unshare(1) does."],
        &[
            ("Look at the files of an app.", "pysecure unshare ls -l ~/.local/share/pysecure/apps/demo"),
        ],
        &["subuid(5)", "user_namespaces(7)"],
    ),
    about(
        "give-back",
        &["`chown = true` in the manifest gives a folder of yours to services. This makes its files yours again, with the modes that they had. The app must be down."],
        &[
            ("Give back all that the app took over.", "pysecure give-back"),
            ("Give back a folder that has moved meanwhile.", "pysecure give-back --moved-to /srv/new /srv/old"),
        ],
        &["pysecure-down(1)"],
    ),
    about(
        "setup",
        &["The script is the one of the key `setup` of `[app]`. It runs by itself when an app's data is created; this runs it once more. It works on a copy, which replaces the data only if the script succeeds. The app must be down."],
        &[("Fill the databases again.", "pysecure down\npysecure setup")],
        &["pysecure.toml(5)"],
    ),
    about(
        "data",
        &["Data of a resource that the manifest does not name any more is kept until it is removed."],
        &[("List what is kept of the app.", "pysecure data")],
        &["pysecure-down(1)"],
    ),
    about(
        "data remove",
        &[],
        &[("Delete the data of a resource that was renamed away.", "pysecure data remove old_db")],
        &["pysecure-data(1)"],
    ),
    about(
        "jail",
        &["A jail is a root file system with what a service needs and nothing else. Its recipe is one of PySecure's, or a file `jails/NAME.toml` beside the manifest. A service names it by `jail = \"NAME\"`."],
        &[("List recipes and jails.", "pysecure jail list")],
        &["pysecure-recipe(5)"],
    ),
    about("jail list", &[], &[("List recipes and jails.", "pysecure jail list")], &["pysecure-recipe(5)"]),
    about(
        "jail build",
        &["`up` builds jails that are missing, but for what has to be downloaded: virtual environments and Debian roots are made here."],
        &[
            ("Build two jails.", "pysecure jail build python wsgi"),
            ("Build a jail from a list of paths and programs.", "pysecure jail build --list jail_resources.txt"),
        ],
        &["pysecure-recipe(5)"],
    ),
    about("jail show", &[], &[("List the files of a jail.", "pysecure jail show python")], &["pysecure-jail-why(1)"]),
    about(
        "jail why",
        &["The answer is the chain from the recipe to the file: which program needs which library."],
        &[("Ask why a library is in the jail.", "pysecure jail why /usr/lib/x86_64-linux-gnu/libssl.so.3 python")],
        &["pysecure-jail-show(1)"],
    ),
    about(
        "jail diff",
        &[],
        &[
            ("Compare two jails.", "pysecure jail diff python least"),
            ("List files that `web` never opened while it was traced.", "pysecure jail diff python --traced web"),
        ],
        &["pysecure-jail-trace(1)"],
    ),
    about(
        "jail trace",
        &["The program runs as `pysecure run` would run it, and is followed by ptrace(2). The files that it opened become a recipe. Files that it did not need this time are missing: use it as the service will be used."],
        &[("Write the least recipe for `web`.", "pysecure jail trace -o jails/least.toml web")],
        &["pysecure-recipe(5)", "pysecure-jail-diff(1)"],
    ),
    about("jail prune", &[], &[("Remove jails that no app uses.", "pysecure jail prune")], &["pysecure-jail-list(1)"]),
    about(
        "sandbox",
        &["A sandbox is for code that may be hostile: it has no network, an empty root with the system's programs, a UID of its own, and limits. No manifest is needed."],
        &[
            ("Run a Python file that you do not trust.", "pysecure sandbox run script.py"),
            ("Run a program that may write to one folder.", "pysecure sandbox --userdir ./work -- gcc -o /home/user/a /home/user/a.c"),
        ],
        &["pysecure-sandbox-run(1)"],
    ),
    about(
        "sandbox run",
        &[],
        &[
            ("Run a file for two seconds at most.", "pysecure sandbox run --wall 2 script.py"),
            ("Run what comes on standard input.", "echo 'print(6 * 7)' | pysecure sandbox run -"),
        ],
        &["pysecure-sandbox(1)"],
    ),
    about(
        "sandbox mcp",
        &["The Model Context Protocol is spoken on standard input and output."],
        &[("Show its options.", "pysecure sandbox mcp --help")],
        &["pysecure-sandbox(1)"],
    ),
    about(
        "sandbox serve",
        &["The API is that of Piston, so its clients work unchanged."],
        &[("Serve on a socket.", "pysecure sandbox serve --socket /run/sandbox.sock")],
        &["pysecure-sandbox(1)"],
    ),
    about(
        "rpc",
        &["Calls go over the same sockets that services use, so the manifest's `callers` decide. `operator` in `callers` is you: whoever runs the app."],
        &[("Call a function of the service `auth`.", "pysecure rpc call auth login alice secret")],
        &["pysecure-rpc(7)"],
    ),
    about(
        "rpc call",
        &["Arguments that are JSON are values, others are text. The result is printed as JSON; a stream as one line for each item. `pysecure call` is short for this."],
        &[
            ("Call a function as the service `web` would.", "pysecure rpc call --as web auth login alice secret"),
            ("Give arguments by name.", "pysecure rpc call bank transfer -k to=bob -k amount=1 \"$token\""),
        ],
        &["pysecure-rpc-list(1)", "pysecure-rpc(7)"],
    ),
    about("rpc list", &[], &[("List what `web` may call.", "pysecure rpc list --as web auth")], &["pysecure-rpc-describe(1)"]),
    about(
        "rpc stubs",
        &[],
        &[("Write stubs beside the code that calls.", "pysecure rpc stubs --as web -o auth.pyi auth")],
        &["pysecure-rpc-describe(1)"],
    ),
    about("rpc describe", &[], &[("Print the functions as JSON.", "pysecure rpc describe --json --as web auth")], &["pysecure-rpc-list(1)"]),
    about(
        "doctor",
        &["Each feature is tried, and not only looked for. A line that is not `ok` says what is lost without the feature and how to get it. The exit code is 0 if services can be run in this user's mode, as root or not."],
        &[
            ("See what this host offers to root, and to you.", "sudo pysecure doctor\npysecure doctor"),
        ],
        &["pysecure-check(1)"],
    ),
    about(
        "completions",
        &[],
        &[("Have bash complete commands and options.", "pysecure completions bash > ~/.local/share/bash-completion/completions/pysecure")],
        &[],
    ),
    about(
        "man",
        &["The folder gets `man1`, `man5` and `man7`. `SOURCE_DATE_EPOCH` sets the date in the pages; else it is the day of the release."],
        &[("Install the pages for all users.", "sudo pysecure man /usr/local/share/man")],
        &["man(1)"],
    ),
];

/// Environment variables that the program reads, and the commands that do; none: all.
#[rustfmt::skip]
pub(super) const ENVIRONMENT: &[(&str, &str)] = &[
    ("PYSECURE_STATE_DIR", "The folder for ledgers, data and sockets, as `--state-dir`."),
    ("XDG_DATA_HOME", "Without root, data is in `$XDG_DATA_HOME/pysecure`; `~/.local/share/pysecure` if it is not set."),
    ("RUST_LOG", "Which diagnostics are printed on standard error, for example `pysecure=debug`."),
    ("NO_COLOR", "No colours, whatever the value."),
    ("SHELL", "The shell that `unshare` runs if no program is named."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "Set by systemd: `up` then reports with sd_notify(3) that the app is ready, and that the supervisor is alive."),
    ("LISTEN_FDS, LISTEN_FDNAMES", "Set by systemd: `up` takes sockets of `listen` from systemd."),
    ("PYTHONPATH, VIRTUAL_ENV", "Where a configuration in Python, and `sandbox run`, find packages."),
    ("SOURCE_DATE_EPOCH", "The date of the pages that `man` writes."),
];

/// Files that the program reads and writes.
#[rustfmt::skip]
pub(super) const FILES: &[(&str, &str)] = &[
    ("pysecure.toml, pysecure.json, pysecure_config.py", "The manifest, looked for in this order in the current folder, or in the one that `-f` names."),
    ("jails/NAME.toml", "Recipes of the app's own jails, beside the manifest."),
    ("/var/lib/pysecure", "Ledgers, data and logs of root's apps, and built jails."),
    ("/run/pysecure", "Sockets of root's apps."),
    ("~/.local/share/pysecure", "All of this for an ordinary user."),
    ("/etc/subuid, /etc/subgid", "Subordinate ids, from which an ordinary user's services have their UIDs and GIDs. Without them all services run under your own UID."),
];

/// What is enforced, and what is not: the short form of docs/isolation.md.
#[rustfmt::skip]
pub(super) const SECURITY: &[&str] = &[
    "Each service has its own UID and GID, and its own user, mount, PID, network, IPC, UTS and cgroup namespaces. It has no capabilities, cannot gain privileges by set-id programs, and makes only system calls of a list. Landlock denies files a second time where the kernel has it.",
    "A service sees the root that its `jail` describes, by default the system's programs and libraries, read-only; the files that the manifest grants; and nothing else of the host.",
    "Not protected: the kernel itself; a service with `network = \"host\"`, which reaches all that listens on this host; memory, processors and disk without `limits`; and whoever may run `pysecure` as the user who started the app.",
    "An ordinary user without subordinate ids gets less: all services share that user's UID, and are separated by namespaces, seccomp and Landlock alone. `up` prints a warning, and `up --strict` refuses.",
];
