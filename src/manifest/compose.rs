//! What people write who come from Compose (compose-spec's file format): each of its words is answered with what stands for it here, and
//! a Compose file itself, or a Procfile, line by line.

use super::decode::shown;
use super::tree::{Node, Tree};
use super::{Diagnostic, Source};
use std::ops::Range;

/// What stands for a word of Compose's in this kind of table.
pub(super) fn counterpart(table: &str, key: &str, value: &Node<'_>) -> Option<String> {
    if table == "service" && key == "ports" {
        return Some(ports(value));
    }
    if table == "manifest" && key.starts_with("x-") {
        return Some("leave it out: nothing is referred to".to_owned());
    }
    let of = |(tables, keys, _): &&(&str, &[&str], &str)| *tables == table && keys.contains(&key);
    WORDS.iter().find(of).map(|(_, _, text)| (*text).to_owned())
}

fn ports(value: &Node<'_>) -> String {
    let mut all = Vec::new();
    if let Node::Array(items) = value {
        for item in items.iter().take(8) {
            let text = match &item.node {
                Node::String(text) => text.to_string(),
                Node::Integer(Some(number)) => number.to_string(),
                _ => continue,
            };
            let text = text.trim_end_matches("/tcp");
            let port = text.contains(':');
            let text = if port {
                text.to_owned()
            } else {
                format!("{text}:{text}")
            };
            all.push(format!("\"{}\"", shown(&text)));
        }
    }
    if all.is_empty() {
        all.push("\"8080:80\"".to_owned());
    }
    format!(
        "write `publish = [{}]`; where no address stands first it is 127.0.0.1, and not all of this host's as in Compose",
        all.join(", ")
    )
}

/// What stands for a word of Compose's that is a value.
pub(super) fn value(text: &str) -> Option<String> {
    let known = match text {
        "unless-stopped" => {
            "write `restart = \"always\"`: what `pysecure stop` has stopped stays stopped until it is started"
        }
        "service_started" => "write `\"started\"`",
        "service_healthy" => "write `\"ready\"`, and `ready` or `health` of that service",
        "service_completed_successfully" => "write `\"completed\"`",
        "bridge" | "default" => {
            "write `network = \"app\"`: one loopback for all services that say so; `publish` and `egress` lead out"
        }
        "json-file" | "local" => "write `sink = \"file\"`, or leave it out",
        _ => {
            let most = text.strip_prefix("on-failure:")?;
            let most: u32 = most.parse().ok()?;
            return Some(format!("write `restart = \"on-failure\"` and `restart_limit = {most}`"));
        }
    };
    Some(known.to_owned())
}

const LEAVE_OUT: &str = "leave it out: a service has namespaces of its own, no capabilities, no set-id programs and no device of the host's, and its \
                         root is read-only";
const LIMITS: &str = "write `limits = { memory = \"512M\", cpus = 0.5, pids = 100, nofile = 1024 }`";
const NETWORK: &str = "write `network`: \"none\" (a loopback of its own; left out it is that), \"app\" (one for all services that say so) or \"host\"; \
                       `publish` lets others in, `egress = true` lets it out";
const FILE: &str = "write `[resources.NAME]` with `path`, `source` (or `initial`, for a copy) and `owner = \"r\"`, and `owner_resources = [\"NAME\"]` \
                    in the service that alone may read it";
const VARIABLES: &str =
    "write `environment = { KEY = \"value\" }`; what is secret is better a file: a resource that this service owns";
const ROOTFS: &str = "leave it out to use this host's programs, or write `jail = \"NAME\"`: a root from a recipe in jails/NAME.toml, which \
                      may take `requirements` of Python, packages of Debian or an `image` on disk";

/// Kind of table, keys, and what to write.
const WORDS: &[(&str, &[&str], &str)] = &[
    (
        "service",
        &["expose"],
        "leave it out: services with `network = \"app\"` reach each other at 127.0.0.1, and `callers` need no port",
    ),
    (
        "service",
        &["volumes", "volumes_from", "tmpfs"],
        "write `[resources.NAME]` with `path`, `source` for a folder of yours (without it, PySecure keeps the data) and `owner = \"rw\"`, and \
         `owner_resources = [\"NAME\"]` here; code that all may read is `code` of [app]; /tmp is each service's own",
    ),
    ("service", &["env_file", "label_file", "env"], VARIABLES),
    (
        "service",
        &["healthcheck"],
        "write `health = { command = [\"PROGRAM\", \"ARGUMENT\"], interval = \"30s\", retries = 3 }`, or with `tcp`, `unix` or `http` in place of \
         `command`; `ready` takes the same, for services that depend on it",
    ),
    (
        "service",
        &["user", "group_add", "userns_mode", "uid", "gid"],
        "leave it out: each service has a UID of its own, which PySecure chooses; `bundles` are its groups, and `runs_with_root = true` is for a \
         program that wants to be root inside",
    ),
    ("service", &["secrets", "configs", "config", "secret"], FILE),
    ("service", &["image", "build", "pull_policy", "platform"], ROOTFS),
    (
        "service",
        &["container_name", "hostname", "domainname"],
        "leave it out: the name of its table is its name, and its host name inside",
    ),
    (
        "service",
        &["entrypoint", "args"],
        "write all of it in `command`: the program first, then its arguments",
    ),
    ("service", &["working_dir", "workdir"], "write `directory`"),
    (
        "service",
        &["networks", "network_mode", "links", "external_links"],
        NETWORK,
    ),
    (
        "service",
        &["dns", "dns_opt", "dns_search", "extra_hosts", "mac_address"],
        "leave it out: names are looked up as this host looks them up, by services with `egress = true` or `network = \"host\"`",
    ),
    (
        "service",
        &[
            "cap_add",
            "cap_drop",
            "privileged",
            "security_opt",
            "read_only",
            "devices",
            "device_cgroup_rules",
            "gpus",
            "ipc",
            "pid",
            "uts",
            "cgroup",
            "cgroup_parent",
            "init",
            "isolation",
            "runtime",
            "sysctls",
            "use_api_socket",
            "credential_spec",
            "storage_opt",
        ],
        LEAVE_OUT,
    ),
    (
        "service",
        &[
            "mem_limit",
            "mem_reservation",
            "mem_swappiness",
            "memswap_limit",
            "memory",
            "cpus",
            "cpu_count",
            "cpu_percent",
            "cpu_shares",
            "cpu_period",
            "cpu_quota",
            "cpu_rt_runtime",
            "cpu_rt_period",
            "cpuset",
            "pids_limit",
            "ulimits",
            "deploy",
            "blkio_config",
            "oom_kill_disable",
            "oom_score_adj",
            "resources",
        ],
        LIMITS,
    ),
    (
        "service",
        &["logging", "log_driver", "log_opt"],
        "write `logs = { sink = \"file\", max_size = \"10M\", max_files = 3 }`, or `sink = \"journald\"`",
    ),
    (
        "service",
        &["labels", "annotations", "attach", "models", "provider"],
        "leave it out: nothing reads it",
    ),
    (
        "service",
        &["profiles"],
        "write `start = \"on-demand\"` for a service that is not to start with the others",
    ),
    ("service", &["stop_grace_period"], "write `stop_timeout = \"10s\"`"),
    (
        "service",
        &["tty", "stdin_open"],
        "leave it out: `pysecure run` and `exec` give a terminal",
    ),
    (
        "service",
        &["scale", "replicas"],
        "write one service with `processes` of its server, or several with a name each",
    ),
    (
        "service",
        &["develop"],
        "leave it out: `pysecure up --watch` restarts services when their code changes",
    ),
    (
        "service",
        &["extends"],
        "write the keys out: a service takes none from another",
    ),
    (
        "service",
        &["post_start", "pre_stop"],
        "write a service with `type = \"oneshot\"` and `depends_on`",
    ),
    (
        "service",
        &["restart_policy"],
        "write `restart = \"on-failure\"`, with `restart_delay` and `restart_limit`",
    ),
    (
        "probe",
        &["test"],
        "write `command = [\"PROGRAM\", \"ARGUMENT\"]`, without \"CMD\"; or `tcp`, `unix` or `http`",
    ),
    (
        "probe",
        &["start_period", "start_interval"],
        "leave it out: `ready` is asked until it is well, for as long as `start_timeout` allows",
    ),
    ("probe", &["disable"], "leave the whole table out"),
    (
        "limits",
        &["ulimits", "ulimit"],
        "write `nofile`, `nproc`, `memlock`, `fsize` or `core`",
    ),
    (
        "limits",
        &["shm_size", "shm", "tmp", "tmp_size"],
        "write `shm_size` and `tmp_size` below [services.NAME]",
    ),
    (
        "limits",
        &["mem", "mem_limit", "mem_reservation"],
        "write `memory = \"512M\"`",
    ),
    (
        "log policy",
        &["driver"],
        "write `sink`: \"file\", \"journald\", \"syslog\" or \"none\"",
    ),
    (
        "log policy",
        &["options", "max-file"],
        "write `max_size = \"10M\"` and `max_files = 3`",
    ),
    ("manifest", &["version"], "leave it out: a manifest has no version"),
    ("manifest", &["name"], "write it below `[app]`"),
    (
        "manifest",
        &["volumes"],
        "write `[resources.NAME]` for each, with `path` and `owner = \"rw\"`, and `owner_resources = [\"NAME\"]` in the service whose it is",
    ),
    ("manifest", &["networks"], NETWORK),
    ("manifest", &["secrets", "configs"], FILE),
    (
        "manifest",
        &["include"],
        "write all of it in this manifest, or a configuration in Python",
    ),
    ("resource", &["target"], "write `path`"),
    ("resource", &["file"], "write `source`, or `initial` for a copy"),
    (
        "resource",
        &["driver", "driver_opts", "external", "type", "labels"],
        "leave it out: what has no `source`, PySecure keeps",
    ),
    (
        "resource",
        &["read_only", "mode"],
        "write `owner`, `bundle` and `global`: any of `r`, `w`, `x`, `c`",
    ),
];

/// Is this no manifest but a Compose file, or a Procfile? What is to be said of it then.
pub(super) fn instead_of_manifest(source: &Source) -> Option<Vec<Diagnostic>> {
    let name = source
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    if name.starts_with("procfile") {
        return Some(procfile(&source.text));
    }
    let yaml = name.ends_with(".yaml") || name.ends_with(".yml");
    yaml.then(|| of_yaml(&source.text))
}

/// The same for text that is no TOML, under whatever name.
pub(super) fn is_compose(text: &str) -> bool {
    text.lines().any(|line| line.trim_end() == "services:")
}

pub(super) fn of_yaml(text: &str) -> Vec<Diagnostic> {
    let lines = lines(text);
    let services = lines.iter().find(|line| line.indent == 0 && line.key == "services");
    let Some(services) = services else {
        let error = Diagnostic::error(0..0, "this is YAML, and a manifest is TOML, JSON or Python");
        return vec![error.help("`pysecure init` writes one")];
    };
    let mut out = vec![
        Diagnostic::error(
            services.span.clone(),
            "this is a Compose file, in YAML, and a manifest is TOML, JSON or Python",
        )
        .help(
            "`pysecure init` writes one: each service becomes `[services.NAME]`; `command`, `environment`, `depends_on` and `restart` are \
             called so there, too, and what else stands here follows",
        ),
    ];
    let mut path: Vec<&Line<'_>> = Vec::new();
    for line in &lines {
        path.retain(|outer| outer.indent < line.indent);
        let table = match path.as_slice() {
            [] => "manifest",
            [services, _] if services.key == "services" => "service",
            _ => "",
        };
        let items = items(line.rest, text, line);
        let found = counterpart(table, line.key, &Node::Array(items));
        if let Some(help) = found.filter(|_| !line.key.is_empty()) {
            let whose = match path.get(1) {
                Some(service) => format!(" of service `{}`", shown(service.key)),
                None => String::new(),
            };
            out.push(Diagnostic::warning(line.span.clone(), format!("`{}`{whose}", line.key)).help(help));
        } else if let Some(help) = value(line.rest.trim_matches(['"', '\''])) {
            out.push(Diagnostic::warning(line.span.clone(), format!("`{}`", shown(line.rest))).help(help));
        }
        path.push(line);
    }
    out
}

/// A line `key: rest` of YAML.
struct Line<'t> {
    indent: usize,
    key: &'t str,
    rest: &'t str,
    span: Range<usize>,
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let mut out = Vec::new();
    let mut start = 0;
    for whole in text.split_inclusive('\n') {
        let line = whole.trim_end();
        let body = line.trim_start();
        let indent = line.len() - body.len();
        if let Some((key, rest)) = body.split_once(':')
            && !body.starts_with(['#', '-'])
            && (rest.is_empty() || rest.starts_with([' ', '\t']))
        {
            out.push(Line {
                indent,
                key: key.trim_matches(['"', '\'']),
                rest: rest.trim(),
                span: start + indent..start + indent + key.len(),
            });
        }
        start += whole.len();
    }
    out
}

/// The strings of a list in YAML: on the line of its key, or below it.
fn items<'t>(rest: &'t str, text: &'t str, line: &Line<'_>) -> Vec<Tree<'t>> {
    let plain = |item: &'t str| {
        let item = item
            .split(" #")
            .next()
            .unwrap_or_default()
            .trim()
            .trim_matches(['"', '\'']);
        (!item.is_empty()).then(|| Tree {
            node: Node::String(item.into()),
            span: 0..0,
        })
    };
    if let Some(inline) = rest.strip_prefix('[') {
        return inline.trim_end_matches(']').split(',').filter_map(plain).collect();
    }
    let below = text.get(line.span.end..).unwrap_or_default().lines().skip(1);
    let below = below.map_while(|line| line.trim_start().strip_prefix("- "));
    below.filter_map(plain).collect()
}

fn procfile(text: &str) -> Vec<Diagnostic> {
    let help = "`pysecure init` writes one; each line here becomes a service";
    let mut out =
        vec![Diagnostic::error(0..0, "this is a Procfile, and a manifest is TOML, JSON or Python").help(help)];
    for line in lines(text)
        .iter()
        .filter(|line| line.indent == 0 && !line.rest.is_empty())
    {
        let command = serde_json::Value::from(line.rest);
        let shell = line.rest.contains(['$', '&', '|', ';', '>', '<', '`']);
        let command = match shell {
            true => format!(
                "command = [\"sh\", \"-c\", {}]",
                serde_json::Value::from(format!("exec {}", line.rest))
            ),
            false => format!("command = {command}"),
        };
        let key = shown(line.key);
        out.push(
            Diagnostic::warning(line.span.clone(), format!("`{key}`"))
                .help(format!("write `[services.{key}]` and below it `{command}`")),
        );
    }
    out
}
