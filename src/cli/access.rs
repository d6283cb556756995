//! `access`: the matrix, as a table or a list.

use super::Done;
use super::args::{Access, Cli};
use super::load::Loaded;
use super::terminal;
use crate::model::{ResourceId, ServiceId, Subject};

pub(super) fn run(cli: &Cli, args: &Access) -> Done {
    let loaded = Loaded::read(cli)?.checked()?;
    // The matrix is of names: it holds only if nothing on disk has two that let a service do different things.
    for note in loaded.compared(cli).map_err(|f| loaded.tell(f))? {
        eprintln!("note: {note}");
    }
    let model = &loaded.model;
    let rows = ServiceId::all(&model.services).flat_map(|id| {
        model
            .grants(id)
            .into_iter()
            .map(move |grant| (Subject::Service(id), grant))
    });
    let dynamic = model.dynamic_uid.is_some().then_some(Subject::Dynamic);
    let theirs = dynamic.into_iter().flat_map(|subject| {
        ResourceId::all(&model.resources).map(move |resource| {
            let access = model.access(subject, resource);
            (
                subject,
                crate::model::access::Grant {
                    resource,
                    class: access.class,
                    perms: access.perms,
                },
            )
        })
    });
    let rows: Vec<_> = rows.chain(theirs.filter(|(_, grant)| grant.perms.any())).collect();
    if args.json {
        let list: Vec<_> = rows
            .iter()
            .map(|(subject, grant)| {
                let resource = &model.resources[grant.resource];
                serde_json::json!({
                    "service": model.subject_name(*subject),
                    "resource": resource.name,
                    "path": resource.path,
                    "class": grant.class.name(),
                    "permissions": grant.perms.to_string().replace('-', ""),
                })
            })
            .collect();
        outln!(
            "{}",
            crate::plain::json(&format!("{:#}", serde_json::Value::Array(list)))
        );
        return Ok(0);
    }
    let mut table = terminal::table(["SERVICE", "MAY", "RESOURCE", "AS", "PATH"]);
    for (subject, grant) in rows {
        let resource = &model.resources[grant.resource];
        table.add_row([
            model.subject_name(subject),
            &grant.perms.to_string(),
            &resource.name,
            grant.class.name(),
            &crate::plain::line(&resource.path),
        ]);
    }
    outln!("{table}");
    Ok(0)
}
