//! Has it changed? What a service and its rules are, as SHA-256 of a text that is the same wherever and by whichever binary it
//! is made: a supervisor may have been started weeks ago, by an older pysecure.
//!
//! What a process is started from is the compiled spec and what of the unit stands in no spec, such as its sockets. Each is
//! JSON with sorted keys; what is empty is left out, and of the rules what is as the default has it. So a key that a newer
//! pysecure adds changes nothing where it is not used. A newer pysecure that compiles a unit otherwise has it started anew.

use crate::compile;
use crate::host::{Dirs, Privilege};
use crate::model::Life;
use crate::plan::template::Template;
use crate::plan::{self, Plan};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// SHA-256 as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

/// A planned service in short: equal ones are the same to all intents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprints {
    /// What a process is started from: a change takes a restart.
    pub process: Fingerprint,
    /// What the supervisor goes by: a change takes effect at once.
    pub policy: Fingerprint,
    /// What both follow from, and the file of the program that took them: nothing has to be compiled to see that it is the
    /// same. `None` where that cannot be said, or by one that does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Fingerprint>,
    /// What the manifest says of it, wherever its sources lead: a link in the way of one may have been switched since. `None` by one that
    /// does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Fingerprint>,
}

/// Takes services' fingerprints.
pub struct FingerprintReader {
    /// All that compiling looks at, but for the app's own folders: they are where the environment of whoever asks has them.
    plan: Plan,
    /// The text of each template, of which many services may have the same.
    templates: BTreeMap<String, String>,
    /// As [`program`].
    program: Option<String>,
}

impl FingerprintReader {
    pub fn new(app: &str, privilege: &Privilege, templates: BTreeMap<String, Template>) -> FingerprintReader {
        let folder = |name: &str| PathBuf::from("/pysecure").join(name);
        FingerprintReader {
            templates: templates.iter().map(|(name, of)| (name.clone(), text(of))).collect(),
            program: program(),
            plan: Plan {
                dirs: Dirs {
                    state: folder("state"),
                    app: folder("app"),
                    run: folder("run"),
                    external: folder("external"),
                },
                ..Plan::without_data(app, privilege, templates)
            },
        }
    }

    pub fn read(&self, unit: &plan::Unit) -> Fingerprints {
        // Which rows a spec carries out is of no account: what comes of them is all there.
        let spec = match compile::effects(&self.plan, unit, Path::new("/pysecure/bundle")) {
            Ok(bundle) => spec_text(bundle.spec),
            // It cannot be started; why, is said there.
            Err(error) => error.to_string(),
        };
        let kept = plan::Unit {
            life: Life::default(),
            ..unit.clone()
        };
        Fingerprints {
            process: of(&[&spec, &text(&kept), self.template(unit)]),
            policy: policy(json(&unit.life), &json(&Life::default())),
            source: self.source(unit),
            said: Some(self.said(&kept)),
        }
    }

    /// `unit` without what follows from where its sources lead.
    fn said(&self, unit: &plan::Unit) -> Fingerprint {
        let mut unit = unit.clone();
        for mount in unit.mounts.iter_mut().filter(|mount| mount.grant.is_some()) {
            mount.source = PathBuf::new();
            mount.idmap = None;
            mount.missing.clear();
            mount.hidden.clear();
            mount.masked.clear();
        }
        of(&[&text(&unit), self.template(&unit)])
    }

    /// The same, where `runs` was said of the one that runs: compiling takes most of the time of an `up` with nothing to do.
    pub fn read_beside(&self, unit: &plan::Unit, runs: Option<&Fingerprints>) -> Fingerprints {
        match runs {
            Some(runs) if runs.source.is_some() && runs.source == self.source(unit) => runs.clone(),
            _ => self.read(unit),
        }
    }

    fn template(&self, unit: &plan::Unit) -> &str {
        self.templates.get(&unit.rootfs).map(String::as_str).unwrap_or_default()
    }

    /// All that [`FingerprintReader::read`] looks at, by this program's own words.
    fn source(&self, unit: &plan::Unit) -> Option<Fingerprint> {
        let program = self.program.as_deref()?;
        let unit_text = serde_json::to_string(unit).ok()?;
        let privilege = format!("{:?}", self.plan.privilege);
        Some(of(&[
            program,
            &self.plan.app,
            &privilege,
            &unit_text,
            self.template(unit),
        ]))
    }
}

/// The file that this program runs from, as stat(2) tells it from others. No file gets its number while the program runs, so one
/// that is put in its place has another. A write in place, where the kernel lets one happen, shows in its size or its time.
fn program() -> Option<String> {
    let file = std::fs::metadata("/proc/self/exe").ok()?;
    let numbers = (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec());
    Some(format!("{numbers:?}"))
}

/// Most of a spec is the filter of system calls, which is the same for nearly all: its digest stands for it.
fn spec_text(mut spec: oci_spec::runtime::Spec) -> String {
    static DIGEST: OnceLock<String> = OnceLock::new();
    let mut digest = "";
    if let Some(linux) = spec.linux_mut()
        && let Ok(filter) = compile::seccomp()
        && linux.seccomp().as_ref() == Some(filter)
    {
        linux.set_seccomp(None);
        digest = DIGEST.get_or_init(|| of(&[&text(filter)]).0);
    }
    format!("{digest}{}", text(&spec))
}

/// The fingerprint of planned resources.
pub fn of_storage(storage: &[plan::Storage]) -> Fingerprint {
    of(&[&text(&storage)])
}

/// The fingerprint of a planned sandbox and of the template of its root.
pub fn of_sandbox(sandbox: &plan::Sandbox, template: Option<&Template>) -> Fingerprint {
    of(&[&text(sandbox), &template.map(text).unwrap_or_default()])
}

/// The same, beside those of services: all of it takes a start anew.
pub fn beside_services(sandbox: Fingerprint) -> Fingerprints {
    Fingerprints {
        process: sandbox,
        policy: of(&[]),
        source: None,
        said: None,
    }
}

/// Which files and folders of its user's a service is shown, as stat(2) tells them from others: what is put in the place of another,
/// as editors do that write a new file and rename it, has another number. `own`: below it lies what PySecure keeps.
pub fn of_sources(unit: &plan::Unit, own: &Path) -> Fingerprint {
    let theirs = unit
        .mounts
        .iter()
        .filter(|m| m.grant.is_some() && !m.source.starts_with(own));
    let shown = theirs.map(|mount| {
        let found = std::fs::symlink_metadata(&mount.source).ok();
        format!("{} {:?}", mount.target, found.map(|found| (found.dev(), found.ino())))
    });
    let shown: Vec<String> = shown.collect();
    of(&shown.iter().map(String::as_str).collect::<Vec<_>>())
}

fn policy(of_service: Value, default: &Value) -> Fingerprint {
    of(&[&without_defaults(of_service, default).to_string()])
}

/// Of these texts, each for itself.
fn of(texts: &[&str]) -> Fingerprint {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    let digits = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Fingerprint(digits)
}

fn text(of: &(impl Serialize + std::fmt::Debug)) -> String {
    canonical(json(of)).to_string()
}

/// A path that is not UTF-8 has no JSON. Its text for debugging stands in for it then: with nothing in its place, no change would
/// ever be seen.
fn json(of: &(impl Serialize + std::fmt::Debug)) -> Value {
    serde_json::to_value(of).unwrap_or_else(|_| Value::String(format!("{of:?}")))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// The same with sorted keys, and without what is empty.
fn canonical(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(canonical).collect()),
        Value::Object(fields) => {
            let sorted: BTreeMap<String, Value> = fields.into_iter().map(|(key, v)| (key, canonical(v))).collect();
            let filled = sorted.into_iter().filter(|(_, value)| !is_empty(value));
            Value::Object(filled.collect::<Map<String, Value>>())
        }
        other => other,
    }
}

/// The same without what is as `default` has it.
fn without_defaults(value: Value, default: &Value) -> Value {
    let (Value::Object(fields), Value::Object(defaults)) = (value, default) else {
        return Value::Null;
    };
    let differs = |(key, value): &(String, Value)| defaults.get(key) != Some(value);
    let rest = fields.into_iter().filter(differs).map(|(key, value)| {
        let value = match defaults.get(&key) {
            Some(inner @ Value::Object(_)) if value.is_object() => without_defaults(value, inner),
            _ => canonical(value),
        };
        (key, value)
    });
    canonical(Value::Object(rest.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_utf_8_is_told_from_another() {
        use std::os::unix::ffi::OsStrExt;
        let of = |bytes: &[u8]| text(&Path::new(std::ffi::OsStr::from_bytes(bytes)));
        assert_ne!(of(b"/srv/\xff/one"), of(b"/srv/\xff/two"));
    }
    use crate::values::Restart;
    use std::time::Duration;

    fn life() -> Life {
        let mut life = Life {
            stop_timeout: Duration::from_secs(3),
            ..Life::default()
        };
        life.restart.when = Restart::Always;
        life
    }

    fn policy_of(life: &Life) -> Fingerprint {
        policy(json(life), &json(&Life::default()))
    }

    #[test]
    fn what_follows_from_the_same_is_taken_over_and_nothing_else_is() {
        let reader = || FingerprintReader::new("shop", &Privilege::Root, BTreeMap::new());
        let unit = |command: &str, stop: u64| {
            let identity = plan::Identity {
                uid: 61_001,
                gid: 61_001,
                groups: Vec::new(),
                peers: Vec::new(),
                keeper: None,
                outside: plan::ledger::Ids::default(),
                root_inside: false,
            };
            let mut unit = plan::Unit::new(plan::Role::Service, "one", identity, "host", vec![command.to_owned()]);
            unit.life.stop_timeout = Duration::from_secs(stop);
            unit
        };
        let mut runs = reader().read(&unit("a", 3));
        assert_eq!(reader().read_beside(&unit("a", 3), Some(&runs)), runs);
        // So that it shows whether it was taken over.
        runs.process = Fingerprint("said".into());
        let beside = |reader: FingerprintReader, unit: &plan::Unit, runs: &Fingerprints| {
            let found = reader.read_beside(unit, Some(runs));
            (found.process == runs.process, found.policy == runs.policy)
        };
        assert_eq!(beside(reader(), &unit("a", 3), &runs), (true, true));
        assert_eq!(beside(reader(), &unit("b", 3), &runs), (false, true));
        assert_eq!(beside(reader(), &unit("a", 4), &runs), (false, false));
        let other_program = FingerprintReader {
            program: Some("another".into()),
            ..reader()
        };
        assert_eq!(beside(other_program, &unit("a", 3), &runs), (false, true));
        let other_app = FingerprintReader::new("bank", &Privilege::Root, BTreeMap::new());
        assert!(!beside(other_app, &unit("a", 3), &runs).0);
        let other_privilege = FingerprintReader::new("shop", &Privilege::SubordinateIds, BTreeMap::new());
        assert!(!beside(other_privilege, &unit("a", 3), &runs).0);
        let other_template = FingerprintReader {
            templates: BTreeMap::from([("host".to_owned(), "other".to_owned())]),
            ..reader()
        };
        assert!(!beside(other_template, &unit("a", 3), &runs).0);
        // Of a supervisor that does not say from what they follow.
        runs.source = None;
        assert!(!beside(reader(), &unit("a", 3), &runs).0);
        let unknown = FingerprintReader {
            program: None,
            ..reader()
        };
        assert!(!beside(unknown, &unit("a", 3), &runs).0);
    }

    /// Whoever changes these has every service of every app started anew, or told that its rules have changed, by the first
    /// `up` after an upgrade.
    #[test]
    fn fingerprints_stay_what_they_are() {
        let rest = without_defaults(json(&life()), &json(&Life::default())).to_string();
        assert_eq!(rest, r#"{"restart":{"when":"always"},"stop_timeout":{"secs":3}}"#);
        let golden = "20e33e35b5a2555ed98cce00585c361d47073490e8d3772eb5174612f6de889f";
        assert_eq!(policy_of(&life()).0, golden);
        assert_eq!(policy_of(&Life::default()), of(&["{}"]));
        assert_ne!(policy_of(&Life::default()), policy_of(&life()));
    }

    #[test]
    fn what_a_newer_binary_adds_with_a_default_changes_nothing() {
        let (mut newer, mut default) = (json(&life()), json(&Life::default()));
        for policy in [&mut newer, &mut default] {
            policy["slow_start"] = serde_json::json!({ "secs": 7, "nanos": 0 });
            policy["restart"]["jitter"] = serde_json::json!(0.1);
        }
        assert_eq!(policy(newer.clone(), &default), policy_of(&life()));
        newer["slow_start"]["secs"] = 8.into();
        assert_ne!(policy(newer, &default), policy_of(&life()));
    }

    #[test]
    fn what_is_empty_and_in_which_order_is_of_no_account() {
        let of = |text: &str| canonical(serde_json::from_str(text).unwrap()).to_string();
        assert_eq!(
            of(r#"{"b":1,"a":[{"d":"","c":0}],"e":{},"f":null,"g":false}"#),
            r#"{"a":[{"c":0}],"b":1}"#
        );
        assert_eq!(of(r#"{"a":[{"c":0}],"b":1}"#), of(r#"{"b":1,"a":[{"c":0}]}"#));
        // Where texts part is part of it.
        assert_ne!(super::of(&["ab", "c"]), super::of(&["a", "bc"]));
    }
}
