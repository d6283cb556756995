//! The files in `/etc` that name a service's own ids, and nobody else's.

use crate::plan::ledger::Ids;
use crate::plan::{Confinement, Identity, SANDBOX_HOME, Unit};
use std::fmt::Write;

/// What its own id is called, and its home. In a sandbox both are what programs expect, whichever it is.
fn account(of: &Unit) -> (&str, &str) {
    match of.confinement {
        Confinement::Sandbox => ("user", SANDBOX_HOME),
        _ => (&of.name, "/tmp"),
    }
}

/// passwd(5): the service, id 0 of its namespace, those who may connect to it, and the id under which all others show.
pub(super) fn passwd(service: &Unit) -> String {
    let Identity {
        uid, gid, root_inside, ..
    } = service.identity;
    let (name, home) = account(service);
    let mut out = String::new();
    if root_inside {
        let _ = writeln!(out, "root:x:0:0:{}:/tmp:/bin/sh", service.name);
    } else {
        let _ = writeln!(out, "root:x:0:0:keeper of the namespace:/:/usr/sbin/nologin");
        let _ = writeln!(out, "{name}:x:{uid}:{gid}::{home}:/bin/sh");
    }
    for (uid, name) in &service.identity.peers {
        let _ = writeln!(
            out,
            "{name}:x:{uid}:65534:may connect to {}:/:/usr/sbin/nologin",
            service.name
        );
    }
    for (Ids { uid, gid }, name) in &service.users {
        let _ = writeln!(out, "{name}:x:{uid}:{gid}::/nonexistent:/usr/sbin/nologin");
    }
    out.push_str("nobody:x:65534:65534:what belongs to others:/:/usr/sbin/nologin\n");
    out
}

/// group(5), likewise, with the service's bundles.
pub(super) fn group(service: &Unit) -> String {
    let Identity {
        gid,
        ref groups,
        root_inside,
        ..
    } = service.identity;
    let mut out = String::from("root:x:0:\n");
    if !root_inside {
        let _ = writeln!(out, "{}:x:{gid}:", account(service).0);
    }
    let member = if root_inside { "root" } else { &service.name };
    // Its users are in its bundles, too.
    let members: Vec<&str> = std::iter::once(member)
        .chain(service.users.iter().map(|(_, name)| name.as_str()))
        .collect();
    let member = members.join(",");
    for (gid, bundle) in groups {
        let suffix = if *bundle == service.name { "-bundle" } else { "" };
        let _ = writeln!(out, "{bundle}{suffix}:x:{gid}:{member}");
    }
    for (ids, name) in &service.users {
        let _ = writeln!(out, "{name}:x:{}:", ids.gid);
    }
    out.push_str("nogroup:x:65534:\n");
    out
}

/// hosts(5).
pub(super) fn hosts(service: &Unit) -> String {
    format!(
        "127.0.0.1 localhost {0}\n::1 localhost ip6-localhost {0}\n",
        service.name
    )
}

/// nsswitch.conf(5): files alone, so that no module is looked for.
pub(super) const NSSWITCH: &str =
    "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n";
