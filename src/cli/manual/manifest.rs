//! pysecure.toml(5) and docs/reference/manifest.md, from the manifest's schema: each key with its type, its default and a sentence.

#[cfg(test)]
use super::markdown;
use super::page::{Block, Page};
use serde_json::Value;

/// The schema's tables, and what each is called in a manifest.
#[rustfmt::skip]
const TABLES: &[(&str, &str, &str)] = &[
    ("App", "[app]", "app"),
    ("Code", "Code folders", "code"),
    ("Resource", "[resources.NAME]", "resources"),
    ("Bundle", "[bundles.NAME]", "bundles"),
    ("Service", "[services.NAME]", "services"),
    ("Probe", "Probes: ready and health", "probes"),
    ("Limits", "Limits of a service", "limits"),
    ("Logs", "Logs of a service", "logs"),
    ("Sandbox", "[sandboxes.NAME]", "sandboxes"),
    ("SandboxLimits", "Limits of runs in a sandbox", "sandbox-limits"),
    ("Assertions", "[assert]", "assert"),
];

const SMALLEST: &str = "[app]\nname = \"demo\"\n\n[services.web]\ncommand = [\"python3\", \"-m\", \"http.server\"]";

const TWO_SERVICES: &str = "[app]
name = \"shop\"
code = { \"/srv/shop\" = \".\" }

[resources.accounts]
path = \"/data/accounts.db\"
owner = \"rw\"

[services.bank]
command = [\"python3\", \"/srv/shop/bank.py\"]
owner_resources = [\"accounts\"]
callers = { web = [\"transfer\"] }
ready = \"notify\"

[services.web]
command = [\"python3\", \"/srv/shop/web.py\"]
depends_on = { bank = \"ready\" }
publish = [\"8080:8080\"]
restart = \"on-failure\"

[assert]
never = [\"read accounts except bank\"]";

const EXTERNAL: &str = "[app]
name = \"pages\"
external_uid = 33
external_gid = 33

[services.auth]
command = \"/usr/bin/python3 auth.py\"
callers = { external = [\"login\"] }";

const ON_DEMAND: &str = "[services.report]
command = [\"gunicorn\", \"report:app\"]
listen = [\"127.0.0.1:8099\"]
start = \"on-demand\"";

/// One key, as it is described.
struct Key {
    name: String,
    kind: String,
    default: String,
    text: String,
}

pub(super) fn page() -> Page {
    let page = Page {
        name: "pysecure.toml".to_owned(),
        section: 5,
        about: "the manifest of an application that pysecure(1) runs".to_owned(),
        sections: Vec::new(),
    };
    let schema = crate::manifest::schema();
    let mut keys = vec![Block::Text(
        "Each key is followed by its type, and by its default if it may be left out. Unknown keys are errors."
            .to_owned(),
    )];
    for (definition, heading, _) in TABLES {
        keys.push(Block::Part((*heading).to_owned()));
        keys.push(Block::Text(doc(&schema, definition)));
        for key in keys_of(&schema, definition) {
            let default = match key.default.as_str() {
                "" => String::new(),
                default => format!(" Default: {default}."),
            };
            keys.push(Block::Item(
                format!("`{}`", key.name),
                format!("({}) {}{default}", key.kind, key.text),
            ));
        }
    }
    page.with("DESCRIPTION", vec![
        Block::text("The manifest describes an app: its services, the files that each may read or write, and who may call whom. This is a whole one:"),
        Block::code(SMALLEST),
        Block::text("A key that is left out grants no access to files, callers or network. Two keys are open by default: `jail`, which is the host's programs, read-only, and `limits`, which are none."),
    ])
    .with("FILE LOOKUP", vec![
        Block::text("Without `-f`, `pysecure.toml`, `pysecure.json` and `pysecure_config.py` are looked for in the current folder, in this order. The JSON has the same keys. The configuration in Python makes that JSON; it runs in a sandbox without root's rights. Paths of the host are relative to the folder of the manifest."),
    ])
    .with("KEYS", keys)
    .with("ACCESS CLASSES", vec![
        Block::text("A service has exactly one class for a resource: `owner` if the resource is in its `owner_resources`; else `bundle` if one of its bundles contains the resource; else `global`. Only the permissions of that class count, even if another class would grant more."),
        Block::text("A service that may write a resource can replace what is in it. So a resource inside another one is an error if a service may write the outer one and not the inner one."),
    ])
    .with("SIZES AND TIMES", vec![
        Block::text("A size is a number of bytes, or a string with a unit: `\"512K\"`, `\"64M\"`, `\"2G\"`. Units are multiples of 1024."),
        Block::text("A time is a number of seconds, or a string with units: `\"100ms\"`, `\"30s\"`, `\"1h 30m\"`."),
    ])
    .with("EXAMPLES", vec![
        Block::text("Two services, of which one may call the other and none of its files:"),
        Block::code(TWO_SERVICES),
        Block::text("A service for pages that Apache runs as www-data, with UID 33, the external service:"),
        Block::code(EXTERNAL),
        Block::text("A service that starts when somebody connects:"),
        Block::code(ON_DEMAND),
    ])
    .with("SEE ALSO", vec![Block::text("`pysecure(1)`, `pysecure-check(1)`, `pysecure-recipe(5)`, `pysecure-rpc(7)`, `sd_notify(3)`, `sd_listen_fds(3)`, `gitignore(5)`")])
}

/// The reference for readers on the web.
#[cfg(test)]
pub(super) fn reference() -> String {
    let schema = crate::manifest::schema();
    let mut out = String::from(
        "# Keys of the manifest\n\n<!-- Made from src/manifest/types.rs by `PYSECURE_BLESS=1 cargo test --lib cli::manual`: do not edit. -->\n\n",
    );
    out += "All keys, with types and defaults; [keys.md](keys.md) explains how they work together. The same is in pysecure.toml(5), which \
            `pysecure man DIR` writes, and in `specs/manifest.schema.json` for editors.\n\n";
    out += "A size is a number of bytes, or a string such as `\"64M\"`. A time is a number of seconds, or a string such as `\"1h 30m\"`.\n\n";
    for (definition, heading, _) in TABLES {
        out += &format!("## {heading}\n\n{}\n\n", doc(&schema, definition));
        out += "| key | type | default | meaning |\n| --- | --- | --- | --- |\n";
        for key in keys_of(&schema, definition) {
            let default = match key.default.as_str() {
                "" => "-",
                default => default,
            };
            let cells = [&format!("`{}`", key.name), &key.kind, default, &key.text].map(markdown::cell);
            out += &format!("| {} |\n", cells.join(" | "));
        }
        out.push('\n');
    }
    format!("{}\n", out.trim_end())
}

fn doc(schema: &Value, definition: &str) -> String {
    text(&schema["$defs"][definition]["description"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn keys_of(schema: &Value, definition: &str) -> Vec<Key> {
    let table = &schema["$defs"][definition];
    let is_required = |name: &str| {
        table["required"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one == name))
    };
    let keys = table["properties"].as_object().into_iter().flatten();
    keys.map(|(name, node)| {
        let said = text(&node["description"]);
        let (text, default) = match said.rsplit_once(" Default: ") {
            Some((text, default)) => (text.to_owned(), default.trim_end_matches('.').to_owned()),
            None if is_required(name) => (said, "required".to_owned()),
            None => (said, String::new()),
        };
        let kind = kind(node);
        Key {
            name: name.clone(),
            default: match (default.as_str(), kind.as_str()) {
                ("", "boolean") => "`false`".to_owned(),
                _ => default,
            },
            kind,
            text,
        }
    })
    .collect()
}

/// What a value is, in words.
fn kind(node: &Value) -> String {
    if let Some(title) = node["title"].as_str() {
        return title.to_owned();
    }
    if let Some(reference) = node["$ref"].as_str() {
        let definition = reference.rsplit('/').next().unwrap_or_default();
        return match TABLES.iter().find(|(name, ..)| *name == definition) {
            Some((_, _, name)) => format!("table, see {}", name.replace('-', " ")),
            None => "table".to_owned(),
        };
    }
    if let Some(values) = node["enum"].as_array() {
        let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        return values.join(", ");
    }
    if !node["const"].is_null() {
        return format!("`{}`", node["const"]);
    }
    if let Some(parts) = node["anyOf"].as_array() {
        let mut kinds: Vec<String> = parts.iter().map(kind).collect();
        kinds.dedup();
        return kinds.join(" or ");
    }
    match node["type"].as_str() {
        Some("array") if node["items"].is_object() => format!("list of {}", plural(&kind(&node["items"]))),
        Some("array") => "list".to_owned(),
        Some("object") => format!("table: name → {}", kind(&node["additionalProperties"])),
        Some("integer" | "number") => number(node),
        Some(other) => other.to_owned(),
        None => "value".to_owned(),
    }
}

fn plural(kind: &str) -> String {
    match kind.split_once(',') {
        Some((first, rest)) if !kind.starts_with('`') => format!("{first}s,{rest}"),
        None if kind.chars().all(char::is_alphabetic) => format!("{kind}s"),
        _ => kind.to_owned(),
    }
}

fn number(node: &Value) -> String {
    let noun = text(&node["type"]);
    let end = |key: &str| (!node[key].is_null()).then(|| node[key].to_string());
    match (end("minimum"), end("maximum")) {
        (Some(low), Some(high)) => format!("{noun}, {low} to {high}"),
        (Some(low), None) => format!("{noun}, at least {low}"),
        _ => noun,
    }
}

/// The tables of which there is a description.
#[cfg(test)]
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    TABLES.iter().map(|(definition, ..)| *definition)
}
