//! `compile`: the OCI bundles, to look at or to run elsewhere.

use super::args::{Cli, Compile};
use super::load::{Loaded, ready, with_privilege};
use super::{Done, Failure};
use crate::compile::compile;
use crate::plan::{Ledger, Plan};

pub(super) fn run(cli: &Cli, args: &Compile) -> Done {
    let Some(output) = &args.output else {
        let loaded = Loaded::read(cli)?.checked()?;
        let dirs = loaded.dirs(cli)?;
        let mut ledger = Ledger::read(&dirs, &loaded.model.app)?;
        let plan = loaded.plan(&dirs, &mut ledger).map_err(|f| loaded.tell(f))?;
        return print(&plan, &args.services);
    };
    // A bundle is of use only with what it mounts, so that is made too.
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let loaded = Loaded::read(cli)?.checked()?;
    let dirs = loaded.dirs(cli)?;
    let plan = ready(&loaded, &dirs)?;
    let output = std::path::absolute(output)?;
    for service in chosen(&plan, &args.services)? {
        let folder = output.join(&service.name);
        crate::supervise::folders(&plan.dirs, service)?;
        compile(&plan, service, &folder)?
            .write(&folder)
            .map_err(|e| Failure::failed(format!("write the bundle {}: {e}", folder.display())))?;
        println!("{}", folder.display());
    }
    Ok(0)
}

fn print(plan: &Plan, names: &[String]) -> Done {
    let mut all = serde_json::Map::new();
    for service in chosen(plan, names)? {
        let bundle = compile(plan, service, &plan.dirs.bundle(&service.name))?;
        let spec = serde_json::to_value(&bundle.spec).map_err(Failure::failed)?;
        all.insert(service.name.clone(), spec);
    }
    println!("{:#}", serde_json::Value::Object(all));
    Ok(0)
}

fn chosen<'p>(plan: &'p Plan, names: &[String]) -> Result<Vec<&'p crate::plan::Service>, Failure> {
    if names.is_empty() {
        return Ok(plan.services.iter().collect());
    }
    names
        .iter()
        .map(|name| {
            plan.services
                .iter()
                .find(|s| s.name == *name)
                .ok_or_else(|| super::error::no_service(name, plan))
        })
        .collect()
}
