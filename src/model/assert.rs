//! `[assert]`: what must never become true, and what must stay possible, whatever the rest of the manifest says.
//!
//! ```text
//! never:   WHAT [except NAME, NAME…]     nobody else may
//!          WHAT from NAME, NAME…         none of these may
//! always:  WHAT by NAME, NAME…           each of these may
//!
//! WHAT:    read|write|execute|connect RESOURCE
//!          call SERVICE | call SERVICE.FUNCTION
//!          listen [ADDRESS:PORT]         take connections to the host, by `listen`, `publish` or the host's network
//!          egress                        connect to the outside, by `egress` or the host's network
//!          network host | network app | runs_with_root | writable
//!          use SANDBOX                   have code run in it
//! ```
//!
//! Asked of the matrix's rows, by name and, once there is a plan, over the disk. The setup script is not asked
//! about: it makes what others find.

use super::build::Names;
use super::matrix::{Because, Line, Matrix, Object, Right, Row};
use super::{ResourceId, SandboxId, ServiceId, Subject, network};
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::types::{Assertions, At};
use crate::values::{Callable, Perms};
use std::net::SocketAddr;
use std::ops::Range;

#[derive(Clone, Debug)]
pub struct Assertion {
    span: Range<usize>,
    asked: Asked,
    rule: Rule,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Touch(Deed, ResourceId),
    /// All functions, or one of them.
    Call(ServiceId, Option<String>),
    /// On any address, or on this.
    Listen(Option<SocketAddr>),
    Egress,
    AppNetwork,
    HostNetwork,
    RootInside,
    WritableRoot,
    UseSandbox(SandboxId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Read,
    Write,
    Execute,
    Connect,
}

#[derive(Clone, Debug)]
enum Rule {
    NeverExcept(Vec<Subject>),
    NeverFrom(Vec<Subject>),
    AlwaysBy(Vec<Subject>),
}

/// An assertion that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Of the rule.
    pub span: Range<usize>,
    pub message: String,
    pub label: &'static str,
    /// The lines that lead there.
    pub path: Vec<Line>,
    pub help: &'static str,
}

impl Broken {
    pub fn located(&self) -> Diagnostic {
        let made = Diagnostic::error(self.span.clone(), self.message.as_str());
        let made = self
            .path
            .iter()
            .filter(|line| !line.span.is_empty())
            .fold(made.label(self.label), |made, line| {
                made.other(line.span.clone(), line.says.as_str())
            });
        made.help(self.help)
    }
}

const SHAPE: &str = "write `read|write|execute|connect RESOURCE except NAME, …`, `… from NAME, …`, or `call SERVICE …`";
const PROMISE_SHAPE: &str = "write `read|write|execute|connect RESOURCE by NAME, …`, or `call SERVICE by NAME, …`";

/// Those rules that can be understood.
pub(super) fn read(rules: &Assertions, names: &Names, found: &mut Vec<Diagnostic>) -> Vec<Assertion> {
    let never = rules.never.iter().map(|rule| (rule, false));
    let always = rules.always.iter().map(|rule| (rule, true));
    let mut out = Vec::new();
    for (rule, always) in never.chain(always) {
        match parse(rule, always, names) {
            Ok(assertion) => out.push(assertion),
            Err(problem) => found.push(*problem),
        }
    }
    out
}

fn parse(rule: &At<String>, always: bool, names: &Names) -> Result<Assertion, Box<Diagnostic>> {
    let shape = if always { PROMISE_SHAPE } else { SHAPE };
    let wrong = |message: String| Box::new(Diagnostic::error(rule.span.clone(), message).help(shape));
    let spaced = rule.value.replace(',', " ");
    let mut words = spaced.split_whitespace().peekable();
    let asked = asked(&mut words, names).map_err(wrong)?;
    let keyword = words.next();
    let listed = words
        .map(|name| {
            names
                .subject(name)
                .ok_or_else(|| wrong(names.undeclared("service", name)))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let rule_of = match (keyword, always) {
        (None, false) => Rule::NeverExcept(listed),
        (Some("except" | "from" | "by"), _) if listed.is_empty() => {
            return Err(wrong("the assertion names nobody behind its last word".into()));
        }
        (Some("except"), false) => Rule::NeverExcept(listed),
        (Some("from"), false) => Rule::NeverFrom(listed),
        (Some("by"), true) => Rule::AlwaysBy(listed),
        (None, true) => return Err(wrong("the assertion does not say who: expected `by`".into())),
        (Some(other), true) => return Err(wrong(format!("expected `by`, found `{other}`"))),
        (Some(other), false) => return Err(wrong(format!("expected `except` or `from`, found `{other}`"))),
    };
    Ok(Assertion {
        span: rule.span.clone(),
        asked,
        rule: rule_of,
    })
}

fn asked<'w>(words: &mut std::iter::Peekable<impl Iterator<Item = &'w str>>, names: &Names) -> Result<Asked, String> {
    let verb = words.next().unwrap_or("");
    let mut touch = |deed| {
        let name = words.next().unwrap_or("");
        let resource = names.object(name).ok_or_else(|| names.undeclared("resource", name))?;
        Ok(Asked::Touch(deed, resource))
    };
    match verb {
        "read" => touch(Deed::Read),
        "write" => touch(Deed::Write),
        "execute" => touch(Deed::Execute),
        "connect" => touch(Deed::Connect),
        "call" => {
            let name = words.next().unwrap_or("");
            let (name, function) = match name.split_once('.') {
                Some((service, function)) => (service, Some(function.to_owned())),
                None => (name, None),
            };
            let callee = names.service(name).ok_or_else(|| names.undeclared("service", name))?;
            Ok(Asked::Call(callee, function))
        }
        "listen" => {
            let address = words.peek().and_then(|word| word.parse().ok());
            if address.is_some() {
                words.next();
            }
            Ok(Asked::Listen(address))
        }
        "egress" => Ok(Asked::Egress),
        "network" => match words.next() {
            Some("host") => Ok(Asked::HostNetwork),
            Some("app") => Ok(Asked::AppNetwork),
            _ => Err("an assertion on `network` names `host` or `app`".to_owned()),
        },
        "runs_with_root" => Ok(Asked::RootInside),
        "writable" => Ok(Asked::WritableRoot),
        "use" => {
            let name = words.next().unwrap_or("");
            let sandbox = names.sandbox(name).ok_or_else(|| names.undeclared("sandbox", name))?;
            Ok(Asked::UseSandbox(sandbox))
        }
        "" => Err("the assertion is empty".into()),
        other => Err(format!("an assertion cannot begin with `{other}`")),
    }
}

/// All that do not hold.
pub fn check(matrix: Matrix<'_>) -> Vec<Broken> {
    let all = &matrix.model.assertions;
    all.iter().filter_map(|assertion| broken(matrix, assertion)).collect()
}

fn broken(matrix: Matrix<'_>, assertion: &Assertion) -> Option<Broken> {
    let asked = &assertion.asked;
    let listed: Vec<Subject> = match &assertion.rule {
        Rule::NeverFrom(listed) | Rule::AlwaysBy(listed) => listed.clone(),
        Rule::NeverExcept(listed) => matrix
            .subjects()
            .filter(|s| *s != Subject::SetupScript && !listed.contains(s))
            .collect(),
    };
    let always = matches!(assertion.rule, Rule::AlwaysBy(_));
    // What nobody may is soon told.
    let culprits: Vec<(Subject, Option<Row<'_>>)> = listed
        .into_iter()
        .map(|subject| (subject, row(matrix, subject, asked, always)))
        .filter(|(_, row)| row.is_some() != always)
        .collect();
    let (first, row) = culprits.first()?;
    let who = culprits
        .iter()
        .take(5)
        .map(|(s, _)| format!("`{}`", matrix.model.subject_name(*s)))
        .collect::<Vec<_>>()
        .join(", ");
    let more = match culprits.len().checked_sub(5) {
        Some(more) if more > 0 => format!(" and {more} more"),
        _ => String::new(),
    };
    let (path, may) = match row {
        Some(row) => (matrix.lines(row), "may"),
        None => (refusal(matrix, *first, asked), "may not"),
    };
    Some(Broken {
        span: assertion.span.clone(),
        message: format!("assertion fails: {who}{more} {may} {}", text(matrix, asked)),
        label: if always {
            "must stay possible"
        } else {
            "must never become true"
        },
        path,
        help: match always {
            true => "grant it, or take the name out of the assertion",
            false => "take the grant away, or name the service in the assertion's `except`",
        },
    })
}

/// The row by which a subject may do what is asked. `always`: all of it, for sure.
fn row<'m>(matrix: Matrix<'m>, subject: Subject, asked: &Asked, always: bool) -> Option<Row<'m>> {
    match asked {
        Asked::Touch(deed, resource) => {
            let may = |row: &Row<'_>| matches!(row.right, Right::Touch(perms) if deed.is_in(perms));
            // A part of something, or a way that nobody meant, is no promise.
            let meant = |row: &Row<'_>| !always || !matches!(row.because, Because::Way(..));
            matrix
                .ways(subject, *resource)
                .into_iter()
                .find(|row| may(row) && meant(row))
        }
        Asked::Call(callee, function) => matrix.call(subject, *callee).filter(|row| match (row.right, function) {
            (Right::Call(Callable::All), _) => true,
            (Right::Call(Callable::Functions(some)), Some(function)) => some.contains(function),
            (Right::Call(Callable::Functions(_)), None) => !always,
            _ => false,
        }),
        _ => matrix
            .uses(subject)
            .into_iter()
            .find(|row| used(row.object, asked, always)),
    }
}

/// Who has the host's network, or runs on the host, may do there what it likes.
fn used(object: Object, asked: &Asked, always: bool) -> bool {
    let on_host = matches!(object, Object::HostNetwork | Object::HostIds);
    let at = |address: SocketAddr, wanted: &Option<SocketAddr>| match wanted {
        None => true,
        Some(wanted) if always => network::covers(address, *wanted),
        Some(wanted) => network::meet(address, *wanted),
    };
    match asked {
        Asked::Listen(wanted) => match object {
            Object::Listen(address) => at(address, wanted),
            Object::Publish(publish) => at(publish.address, wanted),
            _ => on_host,
        },
        Asked::Egress => on_host || object == Object::Egress,
        Asked::HostNetwork => on_host,
        Asked::AppNetwork => object == Object::AppNetwork,
        Asked::RootInside => object == Object::RootInside,
        Asked::WritableRoot => matches!(object, Object::Root(_)),
        Asked::UseSandbox(id) => object == Object::Sandbox(*id),
        Asked::Touch(..) | Asked::Call(..) => false,
    }
}

/// Why something is not possible: what is granted instead.
fn refusal(matrix: Matrix<'_>, subject: Subject, asked: &Asked) -> Vec<Line> {
    match asked {
        Asked::Touch(_, resource) => {
            let (perms, because) = matrix.touch(subject, *resource);
            matrix.lines(&Row {
                subject,
                object: Object::Resource(*resource),
                right: Right::Touch(perms),
                because,
            })
        }
        Asked::Call(callee, _) => {
            let of = &matrix.model.services[*callee];
            let named = of.callers.iter().find(|c| c.subject == subject);
            vec![match named {
                Some(caller) => Line {
                    span: caller.span.clone(),
                    says: "only these functions are granted here".to_owned(),
                },
                None => Line {
                    span: of.span.clone(),
                    says: format!("the `callers` of `{}` do not name it", of.name),
                },
            }]
        }
        _ => match subject {
            Subject::Service(id) => vec![Line {
                span: match asked {
                    Asked::UseSandbox(sandbox) => matrix.model.sandboxes[*sandbox].span.clone(),
                    _ => matrix.model.services[id].span.clone(),
                },
                says: "nothing here grants it".to_owned(),
            }],
            Subject::Sandbox(id) => vec![Line {
                span: matrix.model.sandboxes[id].span.clone(),
                says: "no sandbox has it".to_owned(),
            }],
            _ => Vec::new(),
        },
    }
}

fn text(matrix: Matrix<'_>, asked: &Asked) -> String {
    let model = matrix.model;
    match asked {
        Asked::Touch(deed, id) => format!("{} `{}`", deed.text(), model.resources[*id].name),
        Asked::Call(id, None) => format!("call `{}`", model.services[*id].name),
        Asked::Call(id, Some(function)) => format!("call `{function}` of `{}`", model.services[*id].name),
        Asked::Listen(None) => "listen on the host".to_owned(),
        Asked::Listen(Some(address)) => format!("listen on {address}"),
        Asked::Egress => "connect to the outside".to_owned(),
        Asked::AppNetwork => "use the app's network".to_owned(),
        Asked::HostNetwork => "use the host's network".to_owned(),
        Asked::RootInside => "run with root inside".to_owned(),
        Asked::WritableRoot => "write to its root".to_owned(),
        Asked::UseSandbox(id) => format!("use sandbox `{}`", model.sandboxes[*id].name),
    }
}

impl Deed {
    fn is_in(self, perms: Perms) -> bool {
        match self {
            Deed::Read => perms.read,
            Deed::Write => perms.write,
            Deed::Execute => perms.exec,
            Deed::Connect => perms.connects(),
        }
    }

    fn text(self) -> &'static str {
        match self {
            Deed::Read => "read",
            Deed::Write => "write",
            Deed::Execute => "execute",
            Deed::Connect => "connect to sockets in",
        }
    }
}
