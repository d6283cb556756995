//! From arguments to a model and a plan, as every command that has a manifest needs them.

use super::args::Cli;
use super::{Failure, initialize, terminal};
use crate::compile;
use crate::host::outer;
use crate::host::{Dirs, Privilege};
use crate::manifest::diagnostic::{Diagnostic, Severity};
use crate::manifest::{self, Source};
use crate::model::{self, Model};
use crate::packages;
use crate::plain;
use crate::plan::ledger::Whose;
use crate::plan::lock::{Claim, Lock};
use crate::plan::{self, Keeping, Ledger, Plan, PlanError, template};
use crate::python::{self, Python};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A manifest that was read and understood, right or wrong.
pub(super) struct Loaded {
    pub source: Source,
    pub model: Model,
    pub found: Vec<Diagnostic>,
    /// Where the manifest lies, free of links.
    pub folder: PathBuf,
    /// If it is one in Python: the file that it came from.
    python: Option<Python>,
    /// Is the app's data to be this manifest's, though it is another's?
    pub take_over: bool,
}

impl Loaded {
    pub(crate) fn read(cli: &Cli) -> Result<Loaded, Failure> {
        let path = manifest::locate(cli.manifest())?;
        let (source, python) = if manifest::is_python(&path) {
            let (source, python) = python::read(&path).map_err(unsuccessful)?;
            say_printed(&python.printed);
            (source, Some(python))
        } else {
            (Source::read(&path)?, None)
        };
        let (manifest, mut found) = manifest::parse(&source);
        let parent = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let base = model::source::Base::open(&parent)
            .map_err(|e| Failure::new(2, format!("open {}: {e}", parent.display())))?;
        let (model, more) = model::build(&manifest, &base);
        found.extend(more);
        if python.as_ref().is_some_and(|p| p.unrestricted) {
            found.push(
                Diagnostic::warning(
                    manifest.app.name.span.clone(),
                    "no service names `callers`, so each may call every function of all others",
                )
                .help("PySecureService(..., callers={'web': ['login']}) says who may call what"),
            );
        }
        Ok(Loaded {
            source,
            model,
            found,
            folder: base.path().to_owned(),
            python,
            take_over: false,
        })
    }

    /// Diagnostics with the lines that they are about, for people.
    pub(crate) fn render(&self, found: &[Diagnostic]) -> String {
        let colour = terminal::colour_on_stderr();
        let text = match &self.python {
            None => manifest::render(&self.source, found, colour),
            Some(python) => {
                let (shown, found) = python.at_its_lines(&self.source, found);
                manifest::render(&shown, &found, colour)
            }
        };
        // The renderer makes what would be a style in the manifest's own text visible.
        match colour {
            true => plain::styled(&text),
            false => plain::lines(&text).into_owned(),
        }
    }

    /// The same, and nothing if there are none.
    pub(crate) fn render_some(&self, found: &[Diagnostic]) -> String {
        match found.is_empty() {
            true => String::new(),
            false => self.render(found),
        }
    }

    /// The same for programs.
    pub(crate) fn diagnostics_json(&self, found: &[Diagnostic]) -> serde_json::Value {
        match &self.python {
            None => manifest::diagnostics_json(&self.source, found),
            Some(python) => {
                let (shown, found) = python.at_its_lines(&self.source, found);
                manifest::diagnostics_json(&shown, &found)
            }
        }
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.found.iter().any(|d| d.severity == Severity::Error)
    }

    /// Says what there is to say, and goes on only if nothing of it is an error.
    pub(crate) fn checked(self) -> Result<Loaded, Failure> {
        if self.has_errors() {
            eprint!("{}", self.render(&self.found));
            return Err(Failure::silent(2));
        }
        Ok(self)
    }

    /// Where the app's things are. They are refused to a manifest that they do not belong to.
    pub(crate) fn dirs(&self, cli: &Cli) -> Result<Dirs, Failure> {
        let dirs = self.places(cli)?;
        // Whoever needs the ledger says what is wrong with it.
        if let Ok(ledger) = Ledger::read(&dirs, &self.model.app) {
            self.owned_by(&ledger).map_err(|f| self.tell(f))?;
        }
        Ok(dirs)
    }

    /// The same, whoever's they are.
    pub(crate) fn places(&self, cli: &Cli) -> Result<Dirs, Failure> {
        Ok(Dirs::find(
            &self.model.app,
            outer::expected() == Privilege::Root,
            cli.state_dir.as_deref(),
        )?)
    }

    /// The manifest's path, free of links.
    pub(crate) fn manifest(&self) -> PathBuf {
        std::fs::canonicalize(&self.source.path).unwrap_or_else(|_| self.source.path.clone())
    }

    /// Makes the data of a ledger this manifest's, if it may be: when its folder was moved, that of which it was is gone, or
    /// it is taken over. Says whether that is new.
    fn claim(&self, ledger: &mut Ledger) -> Result<bool, Failure> {
        let manifest = self.manifest();
        let new = match self.owned_by(ledger).map_err(|f| self.tell(f))? {
            Whose::Ours => ledger.has_moved_to(&manifest),
            Whose::Gone(from) => {
                self.say_taken_over(&from, ", which is gone");
                true
            }
            Whose::Theirs(from) => {
                self.say_taken_over(&from, "");
                true
            }
        };
        if new {
            ledger.belong_to(&manifest);
        }
        Ok(new)
    }

    fn say_taken_over(&self, from: &Path, why: &str) {
        errln!(
            "note: the data of `{}` was that of {}{why}; from now on it is that of {}",
            self.model.app,
            from.display(),
            self.manifest().display()
        );
    }

    /// The same for an app that may be up, and is to have its data in any case.
    pub(crate) fn settle(&self, dirs: &Dirs) -> Result<(), Failure> {
        let ledger = Ledger::read(dirs, &self.model.app)?;
        let manifest = self.manifest();
        if ledger.whose(&manifest) == Whose::Ours && !ledger.has_moved_to(&manifest) {
            return Ok(());
        }
        let lock = Lock::take(dirs)?;
        let mut ledger = Ledger::read(dirs, &self.model.app)?;
        if self.claim(&mut ledger)? {
            ledger.write(dirs, &lock)?;
        }
        Ok(())
    }

    /// Is the data of this ledger this manifest's? One that is gone was moved.
    pub(crate) fn owned_by(&self, ledger: &Ledger) -> Result<Whose, Failure> {
        let whose = ledger.whose(&self.manifest());
        match whose {
            Whose::Theirs(manifest) if !self.take_over => {
                let app = self.model.app.clone();
                Err(self.refused(vec![PlanError::Claimed { app, manifest }]))
            }
            other => Ok(other),
        }
    }

    pub(crate) fn library(&self, dirs: &Dirs) -> template::Library {
        let library = template::Library::new(&self.folder, &dirs.state);
        match self.source.path.file_name() {
            Some(name) => library.of(&self.folder.join(name)),
            None => library,
        }
    }

    /// The plan as it would be now; the ledger on disk stays as it is.
    pub(crate) fn plan(&self, dirs: &Dirs, ledger: &mut Ledger) -> Result<Plan, Failure> {
        let privilege = outer::expected();
        let library = self.library(dirs);
        plan::draw(&self.model, &privilege, dirs, &library, ledger).map_err(|errors| self.refused(errors))
    }

    /// What a root cannot hold is said before anything is made, at the service's line.
    fn compiles(&self, plan: &Plan) -> Result<(), Failure> {
        let initializer = plan.initializer.iter().map(|i| &i.service);
        let mut failure = Failure::silent(2);
        // What binds the host's directories was looked at with the plan; what others have put together was not.
        let is_jail = |service: &&plan::Unit| plan.templates.get(&service.rootfs).is_some_and(|t| t.jail.is_some());
        for service in plan.services.iter().chain(initializer).filter(is_jail) {
            if let Err(error) = compile::compile(plan, service, &plan.dirs.bundle(&service.name)) {
                let span = match self.model.service(&service.name) {
                    Some(id) => &self.model.services[id].span,
                    None => &self.model.places.app,
                };
                failure.located.push(super::dry_run::split(error.to_string(), span));
            }
        }
        match failure.located.is_empty() {
            true => Ok(()),
            false => Err(failure),
        }
    }
}

impl Loaded {
    /// Whether files have names in two resources that let a service do what it may not. What was not looked at is
    /// said in notes.
    pub(crate) fn hard_links(&self, plan: &Plan) -> Result<Vec<String>, Failure> {
        plan::hard_links(&self.model, plan).map_err(|errors| self.refused(errors))
    }

    /// Whether what lies on disk lets a service do what the manifest forbids, for commands that need no plan that could
    /// be carried out here. The plan, if there is one, and notes of what was not looked at.
    pub(crate) fn compared(&self, cli: &Cli) -> Result<(Option<Plan>, Vec<String>), Failure> {
        let dirs = self.places(cli)?;
        let mut ledger = Ledger::read(&dirs, &self.model.app)?;
        let drawn = plan::draw(
            &self.model,
            &outer::expected(),
            &dirs,
            &self.library(&dirs),
            &mut ledger,
        );
        let compared = drawn.and_then(|plan| plan::hard_links(&self.model, &plan).map(|notes| (plan, notes)));
        let errors = match compared {
            Ok((plan, notes)) => return Ok((Some(plan), notes)),
            Err(errors) => errors,
        };
        let (shows, others): (Vec<_>, Vec<_>) = errors.into_iter().partition(PlanError::is_of_disk);
        if !shows.is_empty() {
            return Err(self.refused(shows));
        }
        let cause = others.first().map(ToString::to_string).unwrap_or_default();
        let note = format!("this is what the manifest says; it was not compared with what lies on disk: {cause}");
        Ok((None, vec![note]))
    }

    /// What this host cannot do of the manifest: shown at its lines where it has some.
    fn refused(&self, errors: Vec<PlanError>) -> Failure {
        let located: Vec<Diagnostic> = errors.iter().filter_map(|e| e.located(&self.model)).collect();
        let mut failure = Failure::from(
            errors
                .iter()
                .filter(|e| e.located(&self.model).is_none())
                .cloned()
                .collect::<Vec<_>>(),
        );
        if !located.is_empty() {
            failure.code = 2;
            failure.located = located;
        }
        failure
    }

    /// Says a failure with the manifest's lines, and leaves of it what has none.
    pub(crate) fn tell(&self, mut failure: Failure) -> Failure {
        let located = std::mem::take(&mut failure.located);
        if !located.is_empty() {
            eprint!("{}", self.render(&located));
        }
        failure
    }
}

/// A configuration in Python that came to nothing. What it printed, its traceback, comes first.
fn unsuccessful(error: python::PythonError) -> Failure {
    if let python::PythonError::Failed { printed, .. } = &error {
        say_printed(printed);
    }
    Failure::new(2, error)
}

/// What a configuration printed: it may be anything, so nothing of it may steer a terminal.
fn say_printed(printed: &str) {
    for line in printed.lines() {
        errln!("{}", crate::supervise::console::shown(line.as_bytes()));
    }
}

/// `read-python`: the sandbox that [`python::read`] waits for.
pub(super) fn read_python(configuration: &Path, owner: u32) -> super::Done {
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let privilege = outer::expected();
    python::sandbox::run(configuration, owner, &privilege).map_err(Failure::failed)
}

/// Gets privileges if they are needed: `Some` is the exit code of the same command, run where it has them.
pub(super) fn with_privilege() -> Result<Option<u8>, Failure> {
    match outer::privilege() {
        Some(_) => Ok(None),
        None => Ok(Some(outer::enter()?)),
    }
}

/// The plan with its ledger saved and its storage made: all that a service needs before it starts. `claim`: the right
/// to touch the data, which is to be kept for as long as something runs on it.
pub(super) fn ready(loaded: &Loaded, dirs: &Dirs, claim: &Claim) -> Result<Plan, Failure> {
    if loaded.model.initialize.is_none() && !dirs.initializing().exists() {
        return prepared(loaded, dirs, claim, |_| false);
    }
    let _one = plan::lock::initializing(dirs)?;
    // Of one that was killed.
    crate::storage::staging::clear(&dirs.initializing())?;
    prepared(loaded, dirs, claim, initialize::due)
}

/// The same, with the script of `initialize` run once more.
pub(super) fn ready_again(loaded: &Loaded, dirs: &Dirs, claim: &Claim) -> Result<Plan, Failure> {
    let _one = plan::lock::initializing(dirs)?;
    prepared(loaded, dirs, claim, |_| true)
}

/// `initialize`: is its script to be run?
fn prepared(loaded: &Loaded, dirs: &Dirs, claim: &Claim, initialize: impl Fn(&Plan) -> bool) -> Result<Plan, Failure> {
    let mut lock = Lock::take(dirs)?;
    let mut ledger = Ledger::read(dirs, &loaded.model.app)?;
    let before = ledger.clone();
    loaded.claim(&mut ledger)?;
    if crate::storage::purge::sweep(dirs)? {
        ledger.applied.clear();
        ledger.paths.clear();
    }
    super::renamed::carry_out(loaded, dirs, &mut ledger).map_err(|f| loaded.tell(f))?;
    let mut plan = loaded.plan(dirs, &mut ledger).map_err(|f| loaded.tell(f))?;
    loaded.compiles(&plan).map_err(|f| loaded.tell(f))?;
    plan.notes.extend(loaded.hard_links(&plan).map_err(|f| loaded.tell(f))?);
    claim.hold(&plan.app, written(&plan))?;
    ledger.belong_to(&loaded.manifest());
    crate::storage::forget_changing(&plan, &mut ledger);
    // Ids first: what is chowned to an id must be on record as that id's.
    if ledger != before {
        ledger.write(dirs, &lock)?;
    }
    let with_scripts = plan.services.iter().chain(plan.initializer.iter().map(|i| &i.service));
    if with_scripts.into_iter().any(|s| packages::seen_by(&s.environment)) {
        let wrong = |e| PlanError::io("unpack the Python packages into", packages::folder(&dirs.state), e);
        packages::unpack(&dirs.state).map_err(wrong)?;
    }
    if let Some(initializer) = plan.initializer.as_ref().filter(|_| initialize(&plan)) {
        // Whose the files are that the script makes is still to be put right.
        ledger.applied.clear();
        ledger.write(dirs, &lock)?;
        // Other apps need not wait for it.
        drop(lock);
        make_jails(loaded, dirs, &plan).map_err(|f| loaded.tell(f))?;
        initialize::make(&plan, initializer)?;
        lock = Lock::take(dirs)?;
        ledger = Ledger::read(dirs, &loaded.model.app)?;
    }
    let allocated = ledger.clone();
    let made = crate::storage::prepare(&plan, &mut ledger);
    if ledger != allocated {
        ledger.write(dirs, &lock)?;
    }
    made?;
    make_jails(loaded, dirs, &plan).map_err(|f| loaded.tell(f))?;
    Ok(plan)
}

/// Folders of the user's that are changed: adopted, or written to by services.
fn written(plan: &Plan) -> impl Iterator<Item = &Path> {
    let by_services = move |path: &Path| {
        let mut mounts = plan.services.iter().flat_map(|s| &s.mounts);
        mounts.any(|m| m.writable && m.source == path)
    };
    let of = move |s: &&plan::Storage| match s.keeping {
        Keeping::Ours => false,
        Keeping::Adopted => true,
        Keeping::Theirs => by_services(&s.path),
    };
    plan.storage.iter().filter(of).map(|s| s.path.as_path())
}

/// Services of which something on disk is gone that a start would make: a jail, a copy of one, a folder of a resource.
pub(super) fn lacking(plan: &Plan) -> Vec<String> {
    let store = crate::jail::store::Store::new(&plan.dirs.state);
    let gone = |path: &Path| std::fs::symlink_metadata(path).is_err();
    let lacks = |service: &&plan::Unit| {
        let jail = plan.templates.get(&service.rootfs).and_then(|t| t.jail.as_ref());
        let ours = plan.storage.iter().filter(|s| s.keeping == Keeping::Ours);
        let resources = ours.filter(|s| service.mounts.iter().any(|m| m.source == s.path));
        jail.is_some_and(|hash| !store.has(hash) || !store.has_manifest(hash))
            || service.writable.iter().any(|upper| gone(&upper.lower))
            || resources.into_iter().any(|s| gone(&s.path))
            || packages::seen_by(&service.environment) && gone(&packages::folder(&plan.dirs.state))
    };
    plan.services.iter().filter(lacks).map(|s| s.name.clone()).collect()
}

/// Jails that services of the plan have and that are not there yet.
fn make_jails(loaded: &Loaded, dirs: &Dirs, plan: &Plan) -> Result<(), Failure> {
    let library = loaded.library(dirs);
    let trees: BTreeSet<String> = plan.templates.values().filter_map(|t| t.jail.clone()).collect();
    // On record before it is there, so that a prune at the same time spares it. What a running app has stays so.
    let store = crate::jail::store::Store::new(&dirs.state);
    store.set_refs(&plan.app, &trees, dirs.socket().exists())?;
    for template in plan.templates.values() {
        library
            .make(template, super::jail::tell())
            .map_err(|e| loaded.refused(vec![e]))?;
    }
    for service in plan.services.iter().filter(|s| s.writable.is_some()) {
        if let Some(hash) = plan.templates.get(&service.rootfs).and_then(|t| t.jail.as_ref()) {
            store.make_private_tree(hash, service.identity.on_disk())?;
        }
    }
    Ok(())
}
