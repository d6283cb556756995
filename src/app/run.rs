//! One program with a service's grants, and no supervisor. It sees what the service sees, while the app is up or not.

use super::error::AppError;
use crate::host::Dirs;
use crate::launch::{Descriptors, LaunchError, Running};
use crate::oneoff;
use crate::plan::{OneOff, Plan, Unit};
use crate::supervise::ServiceId;
use crate::supervise::client::{Client, ClientError};
use crate::supervise::network::Networks;
use std::os::fd::BorrowedFd;

/// A service's own program is not run a second time on the same data: it may not expect that.
pub fn not_twice(dirs: &Dirs, app: &str, service: &str) -> Result<(), AppError> {
    let status = match Client::connect(dirs, app).and_then(|mut client| client.status()) {
        Err(ClientError::NotUp { .. }) => return Ok(()),
        other => other?,
    };
    let runs = status.services.iter().any(|s| s.service == service && s.pid.is_some());
    match runs {
        true => Err(AppError::Twice {
            service: service.to_owned(),
        }),
        false => Ok(()),
    }
}

/// The service that was named.
pub fn service_of<'p>(plan: &'p Plan, name: &str) -> Result<&'p Unit, AppError> {
    let found = plan.services.iter().find(|s| s.name == name);
    found.ok_or_else(|| AppError::no_service(name, plan.services.iter().map(|s| s.name.as_str())))
}

/// A program that is ready to be started.
pub struct Program<'p> {
    once: oneoff::OneOff<'p>,
    networks: Networks,
}

impl<'p> Program<'p> {
    /// `service`: of [`OneOff::Run`].
    pub fn prepare(plan: &'p Plan, service: &Unit) -> Result<Program<'p>, AppError> {
        if !service.callees.is_empty() {
            crate::host::make_private(&plan.dirs.run)?;
        }
        crate::supervise::folders(&plan.dirs, service)?;
        let mut once = oneoff::OneOff::prepare(plan, service.clone())?;
        // The way out is the service's; the app's network is one for this program alone.
        let mut networks = Networks::default();
        let prepared = networks.prepare(&plan.privilege, std::iter::once(service), once.launcher())?;
        networks.take_on(prepared);
        Ok(Program { once, networks })
    }

    /// Starts it, connected with the networks that it is to have.
    pub fn start(&mut self, terminal: bool, stdio: [BorrowedFd<'_>; 3]) -> Result<Running, AppError> {
        self.once.hold_limits()?;
        let service = self.once.unit().clone();
        let running = self.once.launch(&Descriptors {
            terminal,
            network: self.networks.shared(&service),
            hold: Networks::holds(&service),
            ..Descriptors::of(stdio)
        })?;
        let connected = self
            .networks
            .accompany(ServiceId::ALONE, &service, &running, self.once.launcher())
            .map(drop)
            .map_err(AppError::NotConnected)
            .and_then(|()| self.networks.settled(ServiceId::ALONE).map_err(AppError::Companion));
        if let Err(error) = connected {
            running.abort();
            return Err(error);
        }
        Ok(running)
    }

    /// Why it could not be started.
    pub fn explained(&self, error: LaunchError) -> LaunchError {
        self.once.explained(error)
    }

    /// Takes its networks down.
    pub fn close(mut self) {
        self.networks.close();
    }
}

/// A service's program, or another in its place, with more in its environment.
pub fn one_off(service: &Unit, command: &[String], environment: Vec<(String, String)>) -> Unit {
    let mut out = service.one_off(OneOff::Run);
    if !command.is_empty() {
        out.command = command.to_vec();
    }
    out.environment.extend(environment);
    out
}
