//! What is run once, without a supervisor: compiled, launched and waited for.
//!
//! `run`, the setup script, `jail trace`, `cp` of a stopped service and the sandbox of a configuration come
//! here with a unit; what a service's place is taken for, and what is lost with that, is
//! [`plan::OneOff`](crate::plan::OneOff)'s to say.

use crate::bundle::Bundle;
use crate::compile::{self, CompileError};
use crate::host::{HostError, Privilege, make_private};
use crate::launch::cgroup::{Cgroups, Offer};
use crate::launch::{Descriptors, LaunchError, Launcher, Report, Running, program};
use crate::plan::{Plan, Role, Unit};
use crate::walk::remove;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum OneOffError {
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("write layers of the root to {}: {source}", path.display())]
    Layers { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("hear from `{unit}`: {source}")]
    Reports { unit: String, source: std::io::Error },
}

/// One that is ready to be started. Its folder is gone with it.
pub struct OneOff<'p> {
    plan: &'p Plan,
    unit: Unit,
    bundle: Bundle,
    launcher: Launcher,
    scratch: Scratch,
}

impl<'p> OneOff<'p> {
    /// Compiles it, and writes what of its bundle has to lie on disk.
    pub fn prepare(plan: &'p Plan, unit: Unit) -> Result<OneOff<'p>, OneOffError> {
        let scratch = Scratch::of(plan, &unit);
        let bundle = compile::compile(plan, &unit, scratch.path())?;
        if !bundle.layers.is_empty() {
            make_private(&plan.dirs.run)?;
            bundle
                .write_layers(scratch.path())
                .map_err(|source| OneOffError::Layers {
                    path: scratch.path().to_owned(),
                    source,
                })?;
        }
        Ok(OneOff {
            plan,
            unit,
            bundle,
            launcher: Launcher::new()?,
            scratch,
        })
    }

    pub fn unit(&self) -> &Unit {
        &self.unit
    }

    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The launcher of this one alone.
    pub fn launcher(&mut self) -> &mut Launcher {
        &mut self.launcher
    }

    /// Makes a place for its cgroup, if it has limits that need one.
    pub fn hold_limits(&mut self) -> Result<(), OneOffError> {
        if compile::resources(&self.unit.limits).is_some() {
            make_private(self.scratch.path())?;
            let cgroups = Cgroups::open(&self.plan.app, self.scratch.path(), &Offer::look())?;
            self.launcher.hold_limits(cgroups);
        }
        Ok(())
    }

    /// Starts it.
    pub fn launch(&mut self, with: &Descriptors<'_>) -> Result<Running, OneOffError> {
        Ok(self.launcher.launch(&self.bundle, with)?)
    }

    /// Waits until all is there but the program, which was started with [`Descriptors::hold`].
    pub fn held(&self, running: &Running) -> Result<(), OneOffError> {
        match self.report(running)? {
            Report::Held => Ok(()),
            Report::Failed(error) => Err(self.explained(error).into()),
            _ => Err(LaunchError::Vanished.into()),
        }
    }

    /// Waits for the program's end; its exit code.
    pub fn exit_code(&self, running: &Running) -> Result<u8, OneOffError> {
        loop {
            match self.report(running)? {
                Report::Exited(status) => return Ok(crate::sys::exit_status::exit_code(status)),
                Report::Failed(error) => return Err(self.explained(error).into()),
                Report::End => return Err(LaunchError::Vanished.into()),
                Report::Started | Report::Held | Report::Rules(_) | Report::Terminal(_) => {}
            }
        }
    }

    /// A start's error, with the reason why its program cannot be run if it is about that.
    pub fn explained(&self, error: LaunchError) -> LaunchError {
        let others = self.plan.privilege != Privilege::OneId;
        let process = self.bundle.spec.process().as_ref();
        program::explained(
            error,
            &self.bundle,
            process,
            self.scratch.path(),
            &self.plan.kept(),
            others,
        )
    }

    fn report(&self, running: &Running) -> Result<Report, OneOffError> {
        running.report().map_err(|errno| OneOffError::Reports {
            unit: self.unit.name.clone(),
            source: errno.into(),
        })
    }
}

/// Where layers of the root lie, which are of no use when the program has ended.
struct Scratch(Option<PathBuf>);

impl Scratch {
    fn of(plan: &Plan, unit: &Unit) -> Scratch {
        // It has no layers, and its plan no place for them.
        let none = unit.role == Role::Configuration;
        Scratch((!none).then(|| plan.dirs.run.join(format!("run-{}-{}", unit.name, std::process::id()))))
    }

    fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new("/"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(folder) = &self.0 else { return };
        let _ = remove(folder);
        if let Some(run) = folder.parent() {
            // Only if it is empty: the app may be up.
            let _ = std::fs::remove_dir(run);
        }
    }
}
