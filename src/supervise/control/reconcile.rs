//! What runs against what the manifest says now: the difference, and making it so. Only what differs is touched.

use super::protocol::Apply;
use crate::model::life::Ready;
use crate::plan::{self, template::Template};
use crate::supervise::app::{App, Sink, Watch};
use crate::supervise::service::{After, Service, State};
use crate::values::ServiceType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A planned service in short: equal ones are the same to all intents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prints {
    /// What a process is started from: a change takes a restart.
    pub process: u64,
    /// What the supervisor goes by: a change takes effect at once.
    pub life: u64,
}

impl Prints {
    pub fn of(service: &plan::Unit, template: Option<&Template>) -> Prints {
        let kept = plan::Unit {
            life: crate::model::Life::default(),
            ..service.clone()
        };
        Prints {
            process: print(&format!("{kept:?}{template:?}")),
            life: print(&format!("{:?}", service.life)),
        }
    }
}

fn print(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Planned resources in short.
pub fn storage_print(plan: &plan::Plan) -> u64 {
    print(&format!("{:?}", plan.storage))
}

/// What is to be done with a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Add,
    Remove,
    /// It has to be started anew.
    Restart,
    /// It goes on running by other rules.
    Adjust,
}

/// The difference between what runs and what is wanted, by name: first what is wanted, in its order.
pub fn difference(runs: &[(String, Prints)], wanted: &[(String, Prints)]) -> Vec<(String, Change)> {
    let have: BTreeMap<&str, Prints> = runs.iter().map(|(name, prints)| (name.as_str(), *prints)).collect();
    let mut out = Vec::new();
    for (name, prints) in wanted {
        let change = match have.get(name.as_str()) {
            None => Change::Add,
            Some(old) if old.process != prints.process => Change::Restart,
            Some(old) if old.life != prints.life => Change::Adjust,
            Some(_) => continue,
        };
        out.push((name.clone(), change));
    }
    let wanted: std::collections::BTreeSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
    let gone = runs.iter().filter(|(name, _)| !wanted.contains(name.as_str()));
    out.extend(gone.map(|(name, _)| (name.clone(), Change::Remove)));
    out
}

impl App {
    /// Makes the app what it is to become; `sink` hears how that goes. With an error nothing was changed.
    pub(in crate::supervise) fn apply(&mut self, apply: Apply, sink: Sink) -> Result<(), String> {
        if self.stopping.is_some() {
            return Err(format!("`{}` is going down", self.plan.app));
        }
        let mut given: BTreeMap<String, plan::Unit> = apply.services.into_iter().map(|s| (s.name.clone(), s)).collect();
        let mut planned = Vec::with_capacity(apply.order.len());
        for name in &apply.order {
            let known = self.by_name.get(name).and_then(|id| self.services.get(id));
            let held = known.map(|s| s.next.as_ref().unwrap_or(&s.plan));
            match given.remove(name).or_else(|| held.cloned()) {
                Some(service) => planned.push(service),
                None => return Err(format!("service `{name}` is not known, and came without a plan")),
            }
        }
        let spare = crate::supervise::app::raise_descriptors(&planned).map_err(|e| e.to_string())?;
        let networks = self
            .networks
            .prepare(&self.plan.privilege, planned.iter(), &mut self.launcher)
            .map_err(|e| e.to_string())?;
        let ground = crate::supervise::ground::known(apply.places).map_err(|e| e.to_string())?;
        self.sockets
            .hold(&self.plan.dirs, planned.iter())
            .map_err(|e| e.to_string())?;
        self.ground.replace(ground);
        self.spare_descriptors = spare;
        self.networks.take_on(networks);
        self.watch_app_network().map_err(|e| e.to_string())?;
        let templates = apply.templates;
        let named: std::collections::HashSet<&str> = apply.order.iter().map(String::as_str).collect();
        let mut watch = Watch::of_all(sink);
        let gone: Vec<u32> = self
            .order
            .iter()
            .copied()
            .filter(|id| {
                self.services
                    .get(id)
                    .is_some_and(|s| !named.contains(s.plan.name.as_str()))
            })
            .collect();
        let mut order = Vec::with_capacity(planned.len());
        let mut touched = Vec::new();
        for service in planned {
            let Some(id) = self.by_name.get(&service.name).copied() else {
                let id = self.add(service);
                order.push(id);
                touched.push((id, true));
                continue;
            };
            order.push(id);
            let old = Prints::of(
                &self.services[&id].plan,
                self.plan.templates.get(&self.services[&id].plan.rootfs),
            );
            let new = Prints::of(&service, templates.get(&service.rootfs));
            let Some(of) = self.services.get_mut(&id) else { continue };
            if of.after == After::Gone {
                // It had been removed, and has not ended yet.
                of.after = After::Rest;
            }
            if old.process == new.process {
                of.plan.life = service.life;
                of.next = None;
                touched.push((id, false));
            } else {
                of.next = Some(service);
                touched.push((id, true));
            }
        }
        self.plan.templates = templates;
        self.storage = apply.storage;
        if let Err(error) = self.watch_shared(apply.shared) {
            tracing::warn!(%error, "shared folders are not watched");
        }
        for id in &gone {
            watch.await_end(*id);
        }
        self.order = order;
        self.order.extend(&gone);
        self.index();
        let begins: Vec<(u32, bool)> = touched
            .into_iter()
            .map(|(id, anew)| (id, anew || self.services.get(&id).is_some_and(rests)))
            .collect();
        for (id, begins) in &begins {
            if *begins || self.services.get(id).is_some_and(is_starting) {
                watch.await_start(*id);
            }
        }
        let number = self.watch_for(watch);
        for id in gone {
            self.end(id, After::Gone, None);
        }
        for (id, begins) in &begins {
            match begins {
                true => self.begin_anew(*id, None),
                false => self.rearm(*id),
            }
        }
        // All rules may have changed, and with them what is waited for.
        for (id, _) in begins {
            self.consider(id);
        }
        // Sockets were bound for all, those whose work is done included.
        for id in self.order.clone() {
            if self
                .services
                .get(&id)
                .is_some_and(|s| matches!(s.state, State::Exited { .. }))
            {
                self.release(id);
            }
        }
        self.check_watch(number);
        Ok(())
    }

    /// Takes a new service on, which does not run yet.
    pub(in crate::supervise) fn add(&mut self, planned: plan::Unit) -> u32 {
        let id = self.next_service;
        self.next_service += 1;
        self.by_name.insert(planned.name.clone(), id);
        self.services.insert(id, Service::new(planned));
        id
    }
}

/// Is there a service that could run and does not, or is about to end? One whose work is done has nothing to run for.
pub(in crate::supervise) fn rests(service: &Service) -> bool {
    let done = service.plan.life.kind == ServiceType::Oneshot && service.state == State::Exited { code: 0 };
    !done && (service.state.over() || service.state == State::Stopping || service.after != After::Policy)
}

/// Is it on its way to what a start is awaited for?
pub(in crate::supervise) fn is_starting(service: &Service) -> bool {
    match service.state {
        State::Waiting | State::Starting | State::Restarting => true,
        State::Running => service.plan.life.kind == ServiceType::Oneshot && service.plan.life.ready == Ready::Started,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_named() {
        let of = |name: &str, process, life| (name.to_owned(), Prints { process, life });
        let runs = [of("a", 1, 1), of("b", 1, 1), of("c", 1, 1), of("d", 1, 1)];
        let wanted = [of("e", 1, 1), of("a", 1, 1), of("b", 2, 2), of("c", 1, 2)];
        let named: Vec<_> = difference(&runs, &wanted);
        let of = |name: &str, change| (name.to_owned(), change);
        assert_eq!(
            named,
            [
                of("e", Change::Add),
                of("b", Change::Restart),
                of("c", Change::Adjust),
                of("d", Change::Remove)
            ]
        );
    }
}
