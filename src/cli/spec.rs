//! `spec`: the OCI specs and bundles, to look at or to run elsewhere.

use super::args::{Cli, Spec};
use super::load::{self, ready, with_privilege};
use super::{Done, Failure, access};
use crate::app::Loaded;
use crate::app::run::service_of;
use crate::bundle::{Bundle, GRANTS_ANNOTATION, app_network};
use crate::compile::compile;
use crate::model::{Row, Subject};
use crate::plan::lock::Claim;
use crate::plan::{Ledger, Plan, Unit};
use crate::values::Network;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) fn run(cli: &Cli, args: &Spec) -> Done {
    let Some(output) = &args.output else {
        let loaded = load::checked(cli)?;
        let dirs = loaded.dirs()?;
        let mut ledger = Ledger::read(&dirs, &loaded.model.app)?;
        let plan = loaded.plan(&dirs, &mut ledger)?;
        return print(&loaded, &plan, &args.services);
    };
    // A bundle is of use only with what it mounts, so that is made too.
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let loaded = load::checked(cli)?;
    let dirs = loaded.dirs()?;
    let plan = ready(&loaded, &dirs, &Claim::join(&dirs)?)?;
    let output = std::path::absolute(output)?;
    let chosen = chosen(&plan, &args.services)?;
    let reasons = Reasons::of(&loaded, &chosen);
    for service in chosen {
        let folder = output.join(&service.name);
        crate::supervise::folders(&plan.dirs, service)?;
        let layered = service
            .mounts
            .iter()
            .filter(|m| !m.missing.is_empty() || !m.hidden.is_empty());
        if let Some(mount) = layered.into_iter().find(|m| folder.starts_with(&m.source)) {
            // The kernel takes no layer of an overlay that lies in another one of it.
            return Err(Failure::failed(format!(
                "the bundle {} would lie in {}, over which it lays a layer; name a folder outside of that with -o",
                folder.display(),
                mount.source.display()
            )));
        }
        let bundle = compile(&plan, service, &folder)?;
        reasons
            .add_to(bundle, service)?
            .write(&folder)
            .map_err(|e| Failure::failed(format!("write the bundle {}: {e}", folder.display())))?;
        outln!("{}", folder.display());
        if let Some(note) = beyond_the_bundle(service, &folder) {
            errln!("note: service `{}`: {note}", service.name);
        }
    }
    Ok(0)
}

/// What a service has under `up`, and under another runtime only if somebody sees to it.
fn beyond_the_bundle(service: &Unit, folder: &Path) -> Option<String> {
    let lacking: Vec<&str> = [
        ("publish", !service.publish.is_empty()),
        ("egress", service.egress),
        ("listen", !service.listen.is_empty()),
        ("sandboxes", !service.sandboxes.is_empty()),
        // An overlay's paths are looked up as an id that may not pass the store.
        ("writable", service.writable.is_some()),
    ]
    .into_iter()
    .filter_map(|(key, there)| there.then_some(key))
    .collect();
    let mut parts = Vec::new();
    if service.network == Network::App {
        let path = app_network(folder);
        parts.push(format!(
            "it joins the network namespace {0}, which is to be made first: `touch {0}; unshare --net={0} ip link set lo up`",
            path.display()
        ));
    }
    if service.mounts.iter().any(|m| m.idmap.is_some()) {
        parts.push(
            "it sees what it shares by idmapped mounts, so its runtime must know `uidMappings` of mounts, as crun 1.8 and \
             runc 1.2 do; under another it finds the shared resources closed"
                .to_owned(),
        );
    }
    if !lacking.is_empty() {
        parts.push(format!(
            "`{}` are carried out by `pysecure up` alone",
            lacking.join("`, `")
        ));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Because of which lines services have what they were granted.
struct Reasons(BTreeMap<(String, [String; 3]), Value>);

impl Reasons {
    fn of(loaded: &Loaded, services: &[&Unit]) -> Reasons {
        let matrix = loaded.model.matrix();
        let ids = services.iter().filter_map(|unit| loaded.model.service(&unit.name));
        let rows: Vec<Row<'_>> = ids.flat_map(|id| matrix.rows_of(Subject::Service(id))).collect();
        let mut rows = access::list(loaded, matrix, &rows);
        let rows = rows.as_array_mut().into_iter().flatten();
        let by_row = rows.map(|row| {
            let service = row["service"].as_str().unwrap_or_default().to_owned();
            ((service, which(row)), row["because"].take())
        });
        Reasons(by_row.collect())
    }

    /// Adds to each grant of a bundle the lines that it follows from: `because`, as `access` has it. What is started is
    /// without.
    fn add_to(&self, mut bundle: Bundle, service: &Unit) -> Result<Bundle, Failure> {
        let annotations = bundle.spec.annotations_mut().as_mut();
        if let Some(text) = annotations.and_then(|all| all.get_mut(GRANTS_ANNOTATION)) {
            let mut grants: Vec<Value> = serde_json::from_str(text).map_err(Failure::failed)?;
            for grant in &mut grants {
                if let Some(lines) = self.0.get(&(service.name.clone(), which(grant))) {
                    grant["because"] = lines.clone();
                }
            }
            *text = Value::Array(grants).to_string();
        }
        Ok(bundle)
    }
}

/// By what a grant is told from all others of its service.
fn which(grant: &Value) -> [String; 3] {
    ["kind", "object", "port"].map(|key| grant[key].to_string())
}

fn print(loaded: &Loaded, plan: &Plan, names: &[String]) -> Done {
    let mut all = serde_json::Map::new();
    let chosen = chosen(plan, names)?;
    let reasons = Reasons::of(loaded, &chosen);
    for service in chosen {
        let bundle = compile(plan, service, &plan.dirs.bundle(&service.name))?;
        let bundle = reasons.add_to(bundle, service)?;
        let mut printed = bundle.printed().map_err(Failure::failed)?;
        printed["pysecure"]["sockets"] = service.socket_names().collect();
        all.insert(service.name.clone(), printed);
    }
    outln!("{}", crate::plain::json(&format!("{:#}", Value::Object(all))));
    Ok(0)
}

fn chosen<'p>(plan: &'p Plan, names: &[String]) -> Result<Vec<&'p Unit>, Failure> {
    if names.is_empty() {
        return Ok(plan.services.iter().collect());
    }
    names.iter().map(|name| Ok(service_of(plan, name)?)).collect()
}
