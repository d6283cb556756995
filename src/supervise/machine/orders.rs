//! What clients order, and what it means for each service.

use super::state::{After, Service, ServiceDefinition, State};
use super::watch::Watch;
use super::{Effect, Machine, ServiceId, WatchId};
use crate::model::life::Ready;
use crate::values::{ServiceType, Start};
use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

/// What a client orders. No names: all services.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// Start these, and what they depend on.
    Start { names: Vec<String> },
    Stop {
        names: Vec<String>,
        timeout: Option<Duration>,
    },
    Restart {
        names: Vec<String>,
        timeout: Option<Duration>,
    },
    /// Become this app: all its services, in order.
    Apply(Vec<Planned>),
}

/// A service as the app is to have it.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub definition: ServiceDefinition,
    /// Its process would be started no differently: only the rules may have changed.
    pub same_process: bool,
    /// It is to run. One that is not, and rests, stays as it is.
    pub begins: bool,
}

/// Is there a service that could run and does not, or is about to end? One whose work is done has nothing to run for.
fn rests(service: &Service) -> bool {
    let done = service.policy().kind == ServiceType::Oneshot && service.state == State::Exited { code: 0 };
    !done && (service.state.over() || service.state == State::Stopping || service.after != After::Policy)
}

/// Is it on its way to what a start is awaited for?
fn is_starting(service: &Service) -> bool {
    match service.state {
        State::Waiting | State::Starting | State::Restarting => true,
        State::Running => service.policy().kind == ServiceType::Oneshot && service.policy().ready == Ready::Started,
        _ => false,
    }
}

impl Machine {
    /// What an order leads to, and the watch of whoever gave it, which hears how it goes. With an error nothing was changed.
    pub(crate) fn order(&mut self, now: Instant, order: Order) -> Result<(WatchId, Vec<Effect>), String> {
        self.now = now;
        if self.stopping {
            return Err("is going down".to_owned());
        }
        let watch = match order {
            Order::Start { names } => self.start(&names)?,
            Order::Stop { names, timeout } => {
                let ids = self.named(&names)?;
                self.end_all(&ids, After::Rest, timeout)
            }
            Order::Restart { names, timeout } => {
                let ids = self.named_to_run(&names)?;
                self.end_all(&ids, After::Again, timeout)
            }
            Order::Apply(planned) => self.apply(planned),
        };
        Ok((watch, self.finish_step()))
    }

    /// Services by name, in the manifest's order; none named: all.
    pub(crate) fn named(&self, names: &[String]) -> Result<Vec<ServiceId>, String> {
        if names.is_empty() {
            return Ok(self.order.clone());
        }
        let of = |name: &String| {
            let id = self.by_name.get(name).copied();
            id.ok_or_else(|| format!("no service is called `{name}`; `pysecure ps` lists them"))
        };
        names.iter().map(of).collect()
    }

    /// The same of those that may be started: what is removed has only its end before it.
    fn named_to_run(&self, names: &[String]) -> Result<Vec<ServiceId>, String> {
        let mut ids = self.named(names)?;
        let is_gone = |id: &ServiceId| self.services.get(id).is_some_and(|s| s.after == After::Gone);
        if let Some(service) = ids.iter().find(|id| is_gone(id)).and_then(|id| self.services.get(id))
            && !names.is_empty()
        {
            return Err(format!(
                "`{}` is being removed, as the manifest has it no more; write it there and `pysecure up -d` starts it",
                service.name()
            ));
        }
        ids.retain(|id| !is_gone(id));
        Ok(ids)
    }

    /// These services and all that they depend on; what others wait for first.
    pub(super) fn with_dependencies(&self, asked: &[ServiceId]) -> Vec<ServiceId> {
        let (mut wanted, mut known) = (Vec::new(), HashSet::new());
        let mut left = asked.to_vec();
        while let Some(id) = left.pop() {
            if !known.insert(id) {
                continue;
            }
            wanted.push(id);
            if let Some(service) = self.services.get(&id) {
                let on = service.policy().depends_on.iter();
                left.extend(on.filter_map(|(name, _)| self.by_name.get(name)));
            }
        }
        wanted.reverse();
        wanted
    }

    fn start(&mut self, names: &[String]) -> Result<WatchId, String> {
        let asked = self.named_to_run(names)?;
        let by_name: HashSet<ServiceId> = match names.is_empty() {
            true => HashSet::new(),
            false => asked.iter().copied().collect(),
        };
        let mut watch = Watch::default();
        let mut fresh = Vec::new();
        for id in self.with_dependencies(&asked) {
            let Some(service) = self.services.get(&id) else {
                continue;
            };
            // By its name it is asked for now, and not when somebody connects or when it has waited long enough.
            let at_once = by_name.contains(&id) && matches!(service.state, State::Listening | State::Restarting);
            if rests(service) || at_once {
                watch.await_start(id);
                fresh.push(id);
            } else if is_starting(service) {
                watch.await_start(id);
            }
        }
        let watch = self.watches.open(watch);
        // All are wanted before the first is looked at, lest it fails for one that is about to be.
        for id in &fresh {
            if self.services.get(id).is_some_and(|s| s.state != State::Listening) {
                self.begin_anew(*id, None);
            }
        }
        for id in fresh {
            let on_demand = |s: &Service| s.policy().start == Start::OnDemand;
            match self.services.get_mut(&id) {
                Some(service) if by_name.contains(&id) && on_demand(service) => {
                    if service.state == State::Listening {
                        self.connected(id);
                    } else {
                        service.demanded = true;
                        self.consider(id);
                    }
                }
                _ => self.consider(id),
            }
        }
        self.check_watch(watch);
        Ok(watch)
    }

    fn end_all(&mut self, ids: &[ServiceId], after: After, timeout: Option<Duration>) -> WatchId {
        let mut watch = Watch::default();
        for id in ids {
            match after {
                After::Again => watch.await_start(*id),
                _ => watch.await_end(*id),
            }
        }
        let watch = self.watches.open(watch);
        for id in ids {
            match after {
                After::Again => self.begin_anew(*id, timeout),
                _ => self.end(*id, after, timeout),
            }
        }
        for id in ids {
            self.consider(*id);
        }
        // There may have been none.
        self.check_watch(watch);
        watch
    }

    fn apply(&mut self, planned: Vec<Planned>) -> WatchId {
        let mut watch = Watch::of_all();
        let named: BTreeSet<&str> = planned.iter().map(|p| p.definition.name()).collect();
        let is_gone = |id: &ServiceId| self.services.get(id).is_some_and(|s| !named.contains(s.name()));
        let gone: Vec<ServiceId> = self.order.iter().copied().filter(is_gone).collect();
        let (order, touched) = self.redefine(planned);
        for id in &gone {
            watch.await_end(*id);
        }
        self.order = order;
        self.order.extend(&gone);
        self.index();
        let begins: Vec<(ServiceId, bool)> = touched
            .into_iter()
            .map(|(id, anew)| (id, anew || self.services.get(&id).is_some_and(rests)))
            .collect();
        for (id, begins) in &begins {
            if *begins || self.services.get(id).is_some_and(is_starting) {
                watch.await_start(*id);
            }
        }
        let watch = self.watches.open(watch);
        for id in gone {
            self.end(id, After::Gone, None);
        }
        for (id, begins) in &begins {
            match begins {
                true => self.begin_anew(*id, None),
                false => self.go_by_rules(*id),
            }
        }
        // All rules may have changed, and with them what is waited for.
        for (id, _) in begins {
            self.consider(id);
        }
        // Sockets were bound for all, those whose work is done included.
        let done = |id: &&ServiceId| {
            let of = self.services.get(id);
            of.is_some_and(|s| matches!(s.state, State::Exited { .. }))
        };
        let done: Vec<ServiceId> = self.order.iter().filter(done).copied().collect();
        self.effects.extend(done.into_iter().map(Effect::Release));
        self.check_watch(watch);
        watch
    }

    /// A service that is new, and is not to run before somebody asks for it.
    fn set_aside(&mut self, id: ServiceId) {
        if let Some(service) = self.services.get_mut(&id) {
            service.enter(State::Stopped, self.now);
        }
        self.effects.push(Effect::Release(id));
    }

    /// Gives services their definitions; those that are not known yet are taken on. Returns their order, and which of them
    /// have to be started anew.
    fn redefine(&mut self, planned: Vec<Planned>) -> (Vec<ServiceId>, Vec<(ServiceId, bool)>) {
        let mut order = Vec::with_capacity(planned.len());
        let mut touched = Vec::with_capacity(planned.len());
        for Planned {
            definition,
            same_process,
            begins,
        } in planned
        {
            let known = self.by_name.get(definition.name()).copied();
            let Some(id) = known.filter(|id| self.services.contains_key(id)) else {
                let id = self.add(definition);
                order.push(id);
                match begins {
                    true => touched.push((id, true)),
                    false => self.set_aside(id),
                }
                continue;
            };
            order.push(id);
            if begins {
                touched.push((id, !same_process));
            }
            let Some(service) = self.services.get_mut(&id) else {
                continue;
            };
            if service.after == After::Gone {
                // It had been removed, and has not ended yet.
                service.after = After::Rest;
            }
            if same_process {
                service.definition = definition;
                service.next = None;
            } else {
                service.next = Some(definition);
            }
        }
        (order, touched)
    }
}
