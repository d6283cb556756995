//! From a path to a model and a plan, as all that has a manifest needs them.

use super::error::AppError;
use super::text::ManifestText;
use crate::compile;
use crate::host::outer;
use crate::host::{Dirs, Privilege};
use crate::jail::store::Tell;
use crate::manifest::diagnostic::{Diagnostic, Severity};
use crate::manifest::{self, Source};
use crate::model::{self, Model};
use crate::plan::ledger::Whose;
use crate::plan::lock::Lock;
use crate::plan::{self, HardLinks, Ledger, Plan, PlanError, Unit, template};
use crate::python;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Where a manifest and its apps' data are looked for, if not where they are by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'g> {
    /// The manifest, or a folder that holds one.
    pub manifest: Option<&'g Path>,
    pub state_dir: Option<&'g Path>,
}

/// Who hears of what happens while an app is made ready.
#[derive(Clone, Copy)]
pub struct Listener {
    pub taken_over: fn(&TakenOver),
    /// How far the building of a jail is, which it may break off.
    pub building: Tell,
}

/// An app's data was another manifest's, and is this one's from now on.
#[derive(Debug)]
pub struct TakenOver {
    pub app: String,
    pub from: PathBuf,
    /// Because that one is not there any more.
    pub gone: bool,
    pub by: PathBuf,
}

/// A manifest that was read and understood, right or wrong.
pub struct Loaded {
    pub text: Rc<ManifestText>,
    pub model: Model,
    pub found: Vec<Diagnostic>,
    /// Where the manifest lies, free of links.
    pub folder: PathBuf,
    /// Is the app's data to be this manifest's, though it is another's?
    pub take_over: bool,
    state_dir: Option<PathBuf>,
}

impl Loaded {
    pub fn read(given: Given<'_>) -> Result<Loaded, AppError> {
        let path = manifest::locate(given.manifest)?;
        let text = read_text(&path)?;
        let (manifest, mut found) = manifest::parse(&text.source);
        let parent = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let base = model::source::Base::open(&parent).map_err(|source| AppError::Folder { path: parent, source })?;
        let (model, more) = model::build(&manifest, &base);
        found.extend(more);
        if text.python.as_ref().is_some_and(|p| p.unrestricted) {
            found.push(
                Diagnostic::warning(
                    manifest.app.name.span.clone(),
                    "no service names `callers`, so each may call every function of all others",
                )
                .help("PySecureService(..., callers={'web': ['login']}) says who may call what"),
            );
        }
        Ok(Loaded {
            text: Rc::new(text),
            model,
            found,
            folder: base.path().to_owned(),
            take_over: false,
            state_dir: given.state_dir.map(Path::to_owned),
        })
    }

    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|d| d.severity == Severity::Error)
    }

    /// The same, if nothing that is wrong with it is an error.
    pub fn checked(self) -> Result<Loaded, AppError> {
        match self.has_errors() {
            true => Err(AppError::Wrong {
                text: self.text,
                found: self.found,
            }),
            false => Ok(self),
        }
    }

    /// Where the app's things are. They are refused to a manifest that they do not belong to.
    pub fn dirs(&self) -> Result<Dirs, AppError> {
        let dirs = self.places()?;
        // Whoever needs the ledger says what is wrong with it.
        if let Ok(ledger) = Ledger::read(&dirs, &self.model.app) {
            self.owned_by(&ledger)?;
        }
        Ok(dirs)
    }

    /// The same, whoever's they are.
    pub fn places(&self) -> Result<Dirs, AppError> {
        let root = outer::expected() == Privilege::Root;
        Ok(Dirs::find(&self.model.app, root, self.state_dir.as_deref())?)
    }

    /// Makes the data of a ledger this manifest's, if it may be: when its folder was moved, that of which it was is gone, or
    /// it is taken over. Says whether that is new.
    pub(super) fn claim(&self, ledger: &mut Ledger, listener: Listener) -> Result<bool, AppError> {
        let manifest = self.text.canonical();
        let taken_over = |from: PathBuf, gone: bool| {
            (listener.taken_over)(&TakenOver {
                app: self.model.app.clone(),
                from,
                gone,
                by: manifest.clone(),
            });
            true
        };
        let new = match self.owned_by(ledger)? {
            Whose::Ours => ledger.has_moved_to(&manifest),
            Whose::Gone(from) => taken_over(from, true),
            Whose::Theirs(from) => taken_over(from, false),
        };
        if new {
            ledger.belong_to(&manifest);
        }
        Ok(new)
    }

    /// The same for an app that may be up, and is to have its data in any case.
    pub fn settle(&self, dirs: &Dirs, listener: Listener) -> Result<(), AppError> {
        let ledger = Ledger::read(dirs, &self.model.app)?;
        let manifest = self.text.canonical();
        if ledger.whose(&manifest) == Whose::Ours && !ledger.has_moved_to(&manifest) {
            return Ok(());
        }
        let lock = Lock::take(dirs)?;
        let mut ledger = Ledger::read(dirs, &self.model.app)?;
        if self.claim(&mut ledger, listener)? {
            ledger.write(dirs, &lock)?;
        }
        Ok(())
    }

    /// Is the data of this ledger this manifest's? One that is gone was moved.
    pub fn owned_by(&self, ledger: &Ledger) -> Result<Whose, AppError> {
        match ledger.whose(&self.text.canonical()) {
            Whose::Theirs(manifest) if !self.take_over => {
                let app = self.model.app.clone();
                Err(self.refused(vec![PlanError::Claimed { app, manifest }]))
            }
            other => Ok(other),
        }
    }

    pub(super) fn library(&self, dirs: &Dirs) -> template::Library {
        let library = template::Library::new(&self.folder, &dirs.state);
        match self.text.path().file_name() {
            Some(name) => library.of(&self.folder.join(name)),
            None => library,
        }
    }

    /// The plan as it would be now; the ledger on disk stays as it is.
    pub fn plan(&self, dirs: &Dirs, ledger: &mut Ledger) -> Result<Plan, AppError> {
        let privilege = outer::expected();
        let library = self.library(dirs);
        plan::draw(&self.model, &privilege, dirs, &library, ledger).map_err(|errors| self.refused(errors))
    }

    /// What a root cannot hold is said before anything is made, at the service's line.
    pub(super) fn compiles(&self, plan: &Plan) -> Result<(), AppError> {
        let setup_script = plan.setup_script.iter().map(|i| &i.service);
        let mut located = Vec::new();
        // What binds the host's directories was looked at with the plan; what others have put together was not.
        let is_jail = |service: &&Unit| plan.templates.get(&service.rootfs).is_some_and(|t| t.jail.is_some());
        for service in plan.services.iter().chain(setup_script).filter(is_jail) {
            if let Err(error) = compile::effects(plan, service, &plan.dirs.bundle(&service.name)) {
                let span = match self.model.service(&service.name) {
                    Some(id) => &self.model.services[id].span,
                    None => &self.model.places.app,
                };
                located.push(Diagnostic::of(span.clone(), &error, error.help().as_deref()));
            }
        }
        match located.is_empty() {
            true => Ok(()),
            false => Err(self.at_lines(located)),
        }
    }

    /// Whether files have names in two resources that let a service do what it may not. What was not looked at is
    /// said in notes.
    pub fn hard_links(&self, plan: &Plan) -> Result<Vec<String>, AppError> {
        let found = plan::hard_links(&self.model, plan);
        found.map(|links| links.notes).map_err(|errors| self.refused(errors))
    }

    /// Whether what lies on disk lets a service do what the manifest forbids, for commands that need no plan that could
    /// be carried out here. The plan and the hard links, if there is one, or a note why there is none.
    pub fn compared(&self) -> Result<Result<(Plan, HardLinks), String>, AppError> {
        let dirs = self.places()?;
        let mut ledger = Ledger::read(&dirs, &self.model.app)?;
        let drawn = plan::draw(
            &self.model,
            &outer::expected(),
            &dirs,
            &self.library(&dirs),
            &mut ledger,
        );
        let compared = drawn.and_then(|plan| plan::hard_links(&self.model, &plan).map(|links| (plan, links)));
        let errors = match compared {
            Ok(compared) => return Ok(Ok(compared)),
            Err(errors) => errors,
        };
        let (shows, others): (Vec<_>, Vec<_>) = errors.into_iter().partition(PlanError::is_of_disk);
        if !shows.is_empty() {
            return Err(self.refused(shows));
        }
        let cause = others.first().map(ToString::to_string).unwrap_or_default();
        Ok(Err(format!(
            "this is what the manifest says; it was not compared with what lies on disk: {cause}"
        )))
    }

    /// What this host cannot do of the manifest: at its lines where it has some.
    pub(super) fn refused(&self, errors: Vec<PlanError>) -> AppError {
        let source = errors.first().cloned().map(Box::new);
        let (mut located, mut others) = (Vec::new(), Vec::new());
        for error in errors {
            match error.located(&self.model) {
                Some(diagnostic) => located.push(diagnostic),
                None => others.push(error),
            }
        }
        AppError::Refused {
            text: self.text.clone(),
            located,
            others,
            source,
        }
    }

    pub(super) fn at_lines(&self, located: Vec<Diagnostic>) -> AppError {
        AppError::Refused {
            text: self.text.clone(),
            located,
            others: Vec::new(),
            source: None,
        }
    }
}

fn read_text(path: &Path) -> Result<ManifestText, AppError> {
    let (source, python) = if manifest::is_python(path) {
        let (source, python) = python::read(path)?;
        (source, Some(python))
    } else {
        (Source::read(path)?, None)
    };
    Ok(ManifestText { source, python })
}
