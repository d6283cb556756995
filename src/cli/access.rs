//! `access`: the matrix, as a table or a list.

use super::args::{Access, Cli};
use super::load;
use super::{Done, terminal};
use crate::app::Loaded;
use crate::manifest::diagnostic::Diagnostic;
use crate::model::Subject;
use crate::model::matrix::{Because, Matrix, Object, Right, Row};
use crate::plan;
use crate::values::{Callable, Writable};
use serde_json::{Map, Value, json};

pub(super) fn run(cli: &Cli, args: &Access) -> Done {
    let loaded = load::checked(cli)?;
    // By names alone the matrix would hold only if nothing on disk had two that let a service do different things.
    let compared = loaded.compared()?;
    let notes: Vec<&String> = match &compared {
        Ok((_, links)) => links.notes.iter().collect(),
        Err(note) => vec![note],
    };
    for note in notes {
        eprintln!("note: {note}");
    }
    let shown = |matrix: Matrix<'_>| show(&loaded, matrix, args.json);
    match &compared {
        Ok((plan, links)) => plan::on_disk(&loaded.model, plan, links, shown)?,
        Err(_) => shown(loaded.model.matrix()),
    }
    Ok(0)
}

fn show(loaded: &Loaded, matrix: Matrix<'_>, json: bool) {
    let mut rows: Vec<Row<'_>> = matrix.rows().chain(matrix.parts()).collect();
    rows.sort_by_key(|row| row.subject);
    if json {
        let list = list(loaded, matrix, &rows);
        outln!("{}", crate::plain::json(&format!("{list:#}")));
        return;
    }
    let mut table = terminal::table(["SERVICE", "PERMS", "OBJECT", "CLASS", "WHERE"]);
    for row in &rows {
        let cells = cells(matrix, row);
        table.add_row([
            matrix.model.subject_name(row.subject),
            &cells.may,
            &crate::plain::line(&cells.object),
            &cells.by,
            &crate::plain::line(&cells.place),
        ]);
    }
    outln!("{table}");
}

/// A row as people read it.
struct Cells {
    may: String,
    object: String,
    by: String,
    place: String,
}

/// Further users that a service may become.
fn users<'m>(matrix: Matrix<'m>, subject: Subject) -> &'m [String] {
    match subject {
        Subject::Service(id) => &matrix.model.services[id].users,
        _ => &[],
    }
}

fn cells(matrix: Matrix<'_>, row: &Row<'_>) -> Cells {
    let model = matrix.model;
    let of = |may: &str, object: &str, by: &str, place: String| Cells {
        may: may.to_owned(),
        object: object.to_owned(),
        by: by.to_owned(),
        place,
    };
    match row.object {
        Object::Resource(id) => {
            let resource = &model.resources[id];
            let may = match row.right {
                Right::Touch(perms) => perms.to_string(),
                Right::Call(_) | Right::Use => String::new(),
            };
            let (object, by, place) = match &row.because {
                Because::Class(class, _) => (resource.name.clone(), class.name().to_owned(), resource.path.clone()),
                Because::Way(by, alias) => {
                    let (what, as_a_link) = match alias.linked {
                        Some(_) => ("file of", ", hard link"),
                        None => ("part of", ""),
                    };
                    let more = match alias.more {
                        0 => String::new(),
                        more => format!(" and {more} more"),
                    };
                    (
                        format!("{what} {}", resource.name),
                        format!("`{}`{as_a_link}", holder(matrix, by.as_deref())),
                        format!("{}{more}", alias.at.display()),
                    )
                }
                Because::Setup => (resource.name.clone(), "setup".to_owned(), resource.path.clone()),
                Because::Key(_) => (
                    resource.name.clone(),
                    "userdirs".to_owned(),
                    format!("below {}", resource.path),
                ),
            };
            Cells { may, object, by, place }
        }
        Object::Functions(id) => {
            let functions = match row.right {
                Right::Call(Callable::Functions(names)) => names.join(", "),
                _ => "*".to_owned(),
            };
            of("call", &model.services[id].name, "callers", functions)
        }
        Object::Listen(address) => of("listen", &address.to_string(), "listen", String::new()),
        Object::Publish(p) => of(
            "listen",
            &p.address.to_string(),
            "publish",
            format!("port {} inside", p.port),
        ),
        Object::Egress => of("connect", "the outside", "egress", String::new()),
        Object::AppNetwork => of("use", "the app's network", "network", String::new()),
        Object::HostNetwork => of("use", "the host's network", "network", String::new()),
        Object::RootInside => match users(matrix, row.subject) {
            [] => of("be", "root inside", "runs_with_root", String::new()),
            users => of("be", "root inside", "users", format!("and {}", users.join(", "))),
        },
        Object::HostIds => {
            let id = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
            let ids = format!("{}:{}", id(model.external_uid), id(model.external_gid));
            of("be", "ids of the host", "external_uid", ids)
        }
        Object::HostRoot(id) => of(
            "make",
            "files of root's",
            "write_as_root",
            model.resources[id].path.clone(),
        ),
        Object::Root(writable) => {
            let kept = if writable == Writable::Persistent {
                "persistent"
            } else {
                "in memory"
            };
            of("write", "its root", "writable", kept.to_owned())
        }
        Object::Sandbox(id) => of("use", &model.sandboxes[id].name, "used_by", "sandbox".to_owned()),
        Object::Packages(..) => {
            let folder = matrix.packages(row.object).map(|folder| folder.display().to_string());
            of("r-x", "packages", "packages", folder.unwrap_or_default())
        }
    }
}

/// By what a subject has a row that its object's own name does not give it.
fn holder(matrix: Matrix<'_>, by: Option<&Row<'_>>) -> String {
    match by.map(|row| row.object) {
        Some(Object::Resource(id)) => matrix.model.resources[id].name.clone(),
        _ => "its root".to_owned(),
    }
}

/// For programs; docs/reference/commands.md says what stands there.
pub(super) fn list(loaded: &Loaded, matrix: Matrix<'_>, rows: &[Row<'_>]) -> Value {
    let lines = |row: &Row<'_>| {
        let lines = matrix.lines(row).into_iter().filter(|line| !line.span.is_empty());
        lines.fold(Diagnostic::error(0..0, ""), |all, line| all.other(line.span, line.says))
    };
    let reasons: Vec<Diagnostic> = rows.iter().map(lines).collect();
    let located = loaded.text.to_json(&reasons);
    let located = located.as_array().into_iter().flatten();
    rows.iter()
        .zip(located)
        .map(|(row, why)| object(matrix, row, why))
        .collect()
}

fn object(matrix: Matrix<'_>, row: &Row<'_>, why: &Value) -> Value {
    let model = matrix.model;
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    put("service", json!(model.subject_name(row.subject)));
    let permissions = match row.right {
        Right::Touch(perms) => perms.letters(),
        Right::Call(_) | Right::Use => String::new(),
    };
    let (kind, object) = match row.object {
        Object::Resource(id) => {
            let resource = &model.resources[id];
            put("permissions", json!(permissions));
            let kind = match &row.because {
                Because::Way(by, alias) => {
                    put("by", json!(holder(matrix, by.as_deref())));
                    put("path", json!(alias.at));
                    if let Some(file) = &alias.linked {
                        put("link", json!(file));
                        put("more", json!(alias.more));
                    }
                    "part"
                }
                because => {
                    let class = match because {
                        Because::Class(class, _) => class.name(),
                        Because::Key(_) => "userdirs",
                        _ => "setup",
                    };
                    put("resource", json!(resource.name));
                    put("path", json!(resource.path));
                    put("class", json!(class));
                    if let Because::Class(_, Some(bundle)) = because {
                        put("bundle", json!(model.bundles[*bundle].name));
                    }
                    "resource"
                }
            };
            (kind, json!(resource.name))
        }
        Object::Functions(id) => {
            put(
                "functions",
                match row.right {
                    Right::Call(Callable::Functions(names)) => json!(names),
                    _ => json!("*"),
                },
            );
            ("call", json!(model.services[id].name))
        }
        Object::Listen(address) => ("listen", json!(address)),
        Object::Publish(publish) => {
            put("port", json!(publish.port));
            ("publish", json!(publish.address))
        }
        Object::Egress => ("egress", json!("outside")),
        Object::AppNetwork => ("network", json!("app")),
        Object::HostNetwork => ("network", json!("host")),
        Object::RootInside => match users(matrix, row.subject) {
            [] => ("root-inside", Value::Null),
            users => ("root-inside", json!(users)),
        },
        Object::HostIds => ("host-ids", json!([model.external_uid, model.external_gid])),
        Object::HostRoot(id) => ("host-root", json!(model.resources[id].name)),
        Object::Root(writable) => ("root", json!(writable)),
        Object::Sandbox(id) => ("sandbox", json!(model.sandboxes[id].name)),
        Object::Packages(..) => ("packages", json!(matrix.packages(row.object))),
    };
    put("kind", json!(kind));
    put("object", object);
    let because = why["others"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|line| json!({ "file": why["file"], "line": line["line"], "says": line["label"] }));
    put("because", because.collect());
    Value::Object(out)
}
