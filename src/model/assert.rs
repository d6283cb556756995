//! `[assert] never`: what must not become true, whatever the rest of the manifest says.
//!
//! ```text
//! read|write|execute|connect RESOURCE [except NAME, NAME…]     nobody else may
//! read|write|execute|connect RESOURCE from NAME, NAME…         none of these may
//! call SERVICE [except NAME…] | from NAME…
//! ```

use super::{Model, ResourceId, ServiceId, Subject};
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::types::At;
use crate::values::Perms;

#[derive(Clone, Copy)]
enum Action {
    Touch(fn(Perms) -> bool, ResourceId),
    Call(ServiceId),
}

enum Scope {
    Except(Vec<Subject>),
    From(Vec<Subject>),
}

const SHAPE: &str = "write `read|write|execute|connect RESOURCE except NAME, …`, `… from NAME, …`, or `call SERVICE …`";

/// Parses and checks each rule; a rule that does not hold is an error at its own line.
pub(super) fn check(model: &Model, rules: &[At<String>], names: &super::build::Names, found: &mut Vec<Diagnostic>) {
    for rule in rules {
        match parse(rule, names) {
            Err(problem) => found.push(*problem),
            Ok((action, scope, verb)) => {
                let culprits = violations(model, action, &scope);
                if culprits.is_empty() {
                    continue;
                }
                let who = culprits
                    .iter()
                    .take(5)
                    .map(|s| format!("`{}`", model.subject_name(*s)))
                    .collect::<Vec<_>>()
                    .join(", ");
                let more = if culprits.len() > 5 {
                    format!(" and {} more", culprits.len() - 5)
                } else {
                    String::new()
                };
                let (object, cause) = match action {
                    Action::Touch(_, resource) => {
                        let of = &model.resources[resource];
                        let class = model.access(culprits[0], resource).class;
                        (
                            &of.name,
                            (of.span.clone(), format!("granted here, to the {} class", class.name())),
                        )
                    }
                    Action::Call(callee) => {
                        let of = &model.services[callee];
                        (&of.name, (of.span.clone(), "granted here, in `callers`".to_owned()))
                    }
                };
                found.push(
                    Diagnostic::error(
                        rule.span.clone(),
                        format!("assertion fails: {who}{more} may {verb} `{object}`"),
                    )
                    .label("must never become true")
                    .other(cause.0, cause.1)
                    .help("take the grant away, or name the service in the assertion's `except`"),
                );
            }
        }
    }
}

fn parse(rule: &At<String>, names: &super::build::Names) -> Result<(Action, Scope, &'static str), Box<Diagnostic>> {
    let wrong = |message: String| Box::new(Diagnostic::error(rule.span.clone(), message).help(SHAPE));
    let spaced = rule.value.replace(',', " ");
    let mut words = spaced.split_whitespace();
    let (verb, object) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (action, verb) = match verb {
        "read" | "write" | "execute" | "connect" => {
            let resource = names
                .resource(object)
                .ok_or_else(|| wrong(names.undeclared("resource", object)))?;
            match verb {
                "read" => (Action::Touch(|p| p.read, resource), "read"),
                "write" => (Action::Touch(|p| p.write, resource), "write"),
                "connect" => (Action::Touch(Perms::connects, resource), "connect to sockets in"),
                _ => (Action::Touch(|p| p.exec, resource), "execute"),
            }
        }
        "call" => {
            let callee = names
                .service(object)
                .ok_or_else(|| wrong(names.undeclared("service", object)))?;
            (Action::Call(callee), "call")
        }
        "" => return Err(wrong("the assertion is empty".into())),
        other => return Err(wrong(format!("an assertion cannot begin with `{other}`"))),
    };
    let keyword = words.next();
    let listed = words
        .map(|name| {
            names
                .subject(name)
                .ok_or_else(|| wrong(names.undeclared("service", name)))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let scope = match keyword {
        None => Scope::Except(listed),
        Some("except") if !listed.is_empty() => Scope::Except(listed),
        Some("from") if !listed.is_empty() => Scope::From(listed),
        Some("except" | "from") => return Err(wrong("the assertion names nobody behind its last word".into())),
        Some(other) => return Err(wrong(format!("expected `except` or `from`, found `{other}`"))),
    };
    Ok((action, scope, verb))
}

fn violations(model: &Model, action: Action, scope: &Scope) -> Vec<Subject> {
    let all = ServiceId::all(&model.services)
        .map(Subject::Service)
        .chain(model.dynamic_uid.is_some().then_some(Subject::Dynamic));
    let asked: Vec<Subject> = match scope {
        Scope::From(listed) => listed.clone(),
        Scope::Except(listed) => all.filter(|s| !listed.contains(s)).collect(),
    };
    asked
        .into_iter()
        .filter(|subject| match action {
            Action::Touch(right, resource) => right(model.access(*subject, resource).perms),
            Action::Call(callee) => model.may_call(*subject, callee).is_some(),
        })
        .collect()
}
