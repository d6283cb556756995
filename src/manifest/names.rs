//! What names may look like, and the few rules that take two keys to check.

use super::diagnostic::Diagnostic;
use super::types::{At, Manifest};

pub(super) fn check(manifest: &mut Manifest, found: &mut Vec<Diagnostic>) {
    let app = &manifest.app.name;
    if !app.span.is_empty() && !is_app_name(&app.value) {
        found.push(wrong("app", app, "letters a-z, digits, - and _", true));
    }
    let resources = manifest.resources.iter().map(|(n, _)| ("resource", n));
    let bundles = manifest.bundles.iter().map(|(n, _)| ("bundle", n));
    let services = manifest.services.iter().map(|(n, _)| ("service", n));
    for (what, name) in resources.chain(bundles).chain(services).filter(|(_, n)| !is_name(&n.value)) {
        found.push(wrong(what, name, "letters, digits, - and _", false));
    }
    for (_, service) in &mut manifest.services {
        for (name, _) in &service.environment {
            environment(name, found);
        }
        match service.bundle.take() {
            Some(bundle) if !service.bundles.is_empty() => {
                found.push(Diagnostic::error(bundle.span.clone(), "`bundle` and `bundles` are both written").other(service.bundles[0].span.clone(), "and here").help("keep `bundles`, with all names in it"));
            }
            Some(bundle) if !bundle.span.is_empty() => service.bundles.push(bundle),
            _ => {}
        }
    }
    if manifest.services.is_empty() && found.is_empty() {
        found.push(Diagnostic::error(app.span.clone(), format!("`{}` has no services", app.value)).help("write [services.NAME] with command = [\"program\"]"));
    }
}

/// Names become file names, group names and socket names.
fn is_name(name: &str) -> bool {
    name.len() <= 63 && name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

fn is_app_name(name: &str) -> bool {
    is_name(name) && !name.chars().any(|c| c.is_ascii_uppercase())
}

fn wrong(what: &str, name: &At<String>, takes: &str, lower: bool) -> Diagnostic {
    let mut better: String = name.value.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    if lower {
        better.make_ascii_lowercase();
    }
    let better = better.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
    let better = if better.is_empty() { what } else { &better[..better.len().min(63)] };
    let shown: String = name.value.chars().take(80).collect();
    Diagnostic::error(name.span.clone(), format!("\"{shown}\" cannot be the name of {} {what}", if what == "app" { "an" } else { "a" }))
        .label(format!("a name takes {takes}, begins with a letter, and has at most 63 of them"))
        .help(format!("write \"{better}\""))
}

fn environment(name: &At<String>, found: &mut Vec<Diagnostic>) {
    let key = &name.value;
    let ours = key.starts_with("PYSECURE_") || matches!(key.as_str(), "LISTEN_FDS" | "LISTEN_PID" | "LISTEN_FDNAMES");
    let plain = !key.is_empty() && !key.starts_with(|c: char| c.is_ascii_digit()) && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if ours {
        found.push(Diagnostic::error(name.span.clone(), format!("`{key}` is set by PySecure itself")).help("choose another name"));
    } else if !plain {
        found.push(Diagnostic::error(name.span.clone(), format!("\"{key}\" cannot be a variable's name")).help("letters, digits and _ make one, and it does not begin with a digit"));
    }
}
