//! Who waits for services to begin or to end, and what they are told.

use super::state::{After, Service, State};
use super::{Effect, Machine, ServiceId, WatchId};
use crate::model::life::Ready;
use crate::supervise::protocol::Progress;
use std::collections::{BTreeMap, BTreeSet};

/// Services that somebody waits for.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    starts: BTreeSet<ServiceId>,
    ends: BTreeSet<ServiceId>,
    /// It is an `up`, which speaks of all services: of those as well that had started when it was asked.
    whole: bool,
    /// Of a whole one: services that had started, and were told to start anew since.
    anew: BTreeSet<ServiceId>,
}

impl Watch {
    /// Of an `up`.
    pub(super) fn of_all() -> Watch {
        Watch {
            whole: true,
            ..Watch::default()
        }
    }

    pub(super) fn await_start(&mut self, service: ServiceId) {
        self.starts.insert(service);
    }

    pub(super) fn await_end(&mut self, service: ServiceId) {
        self.ends.insert(service);
    }

    fn awaits_start(&self) -> bool {
        !self.starts.is_empty() || !self.anew.is_empty()
    }

    fn is_over(&self) -> bool {
        !self.awaits_start() && self.ends.is_empty()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Watches {
    each: BTreeMap<WatchId, Watch>,
    next: WatchId,
}

impl Default for Watches {
    fn default() -> Watches {
        Watches {
            each: BTreeMap::from([(WatchId::FIRST, Watch::of_all())]),
            next: WatchId::FIRST.next(),
        }
    }
}

impl Watches {
    /// Takes up a watch; [`Machine::check_watch`] says what is so already.
    pub(super) fn open(&mut self, watch: Watch) -> WatchId {
        let id = self.next;
        self.next = id.next();
        self.each.insert(id, watch);
        id
    }

    pub(super) fn await_start(&mut self, watch: WatchId, service: ServiceId) {
        if let Some(watch) = self.each.get_mut(&watch) {
            watch.await_start(service);
        }
    }

    /// Does the app's own start still wait for this service?
    pub(super) fn first_awaits(&self, service: ServiceId) -> bool {
        let first = self.each.get(&WatchId::FIRST);
        first.is_some_and(|watch| watch.starts.contains(&service))
    }

    /// Those that are not over, and whether they wait for a start.
    pub(crate) fn left(&self) -> impl Iterator<Item = (WatchId, bool)> + '_ {
        self.each.iter().map(|(id, watch)| (*id, watch.awaits_start()))
    }

    /// Services that some watch waits for.
    #[cfg(test)]
    pub(super) fn awaited(&self) -> impl Iterator<Item = ServiceId> + '_ {
        let of = |watch: &Watch| {
            [&watch.starts, &watch.anew, &watch.ends]
                .into_iter()
                .flatten()
                .copied()
                .collect()
        };
        self.each.values().flat_map::<Vec<ServiceId>, _>(of)
    }
}

/// What whoever waits for a service to begin waits for. One that waits for others is not named, but those.
fn awaited(service: &Service) -> Option<String> {
    let instance = &service.instance;
    Some(match (&service.state, &service.policy().ready) {
        (State::Starting, Ready::Probe(_)) => match &instance.complaint {
            Some(complaint) => format!("ready probe: {complaint}"),
            None => "ready probe, which is not answered yet".to_owned(),
        },
        (State::Starting, Ready::Notify) => match &instance.says {
            Some(says) => format!("READY=1 of it; it says: {says}"),
            None => "READY=1 of it".to_owned(),
        },
        (State::Starting, Ready::Started) => "its program".to_owned(),
        (State::Running, _) => "its end".to_owned(),
        (State::Stopping, _) => "its end, after which it is started again".to_owned(),
        (State::Restarting, _) => match service.last_exit {
            Some(code) => format!("its next start, after it ended with code {code}"),
            None => "its next start".to_owned(),
        },
        _ => return None,
    })
}

impl Machine {
    /// For which services a watch waits, in the manifest's order, and for what of each.
    pub(crate) fn awaited_by(&self, watch: WatchId) -> Vec<(&str, String)> {
        let Some(watch) = self.watches.each.get(&watch) else {
            return Vec::new();
        };
        let awaits = |id: &ServiceId| watch.starts.contains(id) || watch.anew.contains(id) || watch.ends.contains(id);
        let of = |(id, service): (ServiceId, &'_ Service)| awaits(&id).then(|| awaited(service)).flatten();
        let all = self.in_order();
        all.filter_map(|(id, service)| Some((service.name(), of((id, service))?)))
            .collect()
    }

    /// Tells whoever waits for a service to begin.
    pub(super) fn settle_start(&mut self, id: ServiceId, how: Result<(), (&str, u8)>) {
        let Some(service) = self.services.get(&id) else { return };
        let name = service.name().to_owned();
        let progress = match how {
            Ok(()) => Progress::Settled {
                service: name,
                state: service.state.word().to_owned(),
            },
            Err((error, code)) => Progress::Failed {
                service: name,
                error: error.to_owned(),
                code,
            },
        };
        let failed = how.is_err();
        self.settle(&progress, |watch| {
            watch.starts.remove(&id) | watch.anew.remove(&id) | (failed && watch.whole)
        });
    }

    pub(super) fn settle_end(&mut self, id: ServiceId) {
        let Some(service) = self.services.get(&id) else { return };
        let progress = Progress::Settled {
            service: service.name().to_owned(),
            state: service.state.word().to_owned(),
        };
        self.settle(&progress, |watch| watch.ends.remove(&id));
    }

    /// Tells those whose order can no longer be carried out, as a later one says otherwise.
    pub(super) fn overtake(&mut self, id: ServiceId, after: After) {
        match after {
            After::Policy => {}
            After::Rest => self.settle_start(id, Err(("it was told to stop meanwhile", 1))),
            After::Again => {
                // One that removes it does not speak of it.
                let speaks = |w: &&mut Watch| w.whole && !w.starts.contains(&id) && !w.ends.contains(&id);
                for watch in self.watches.each.values_mut().filter(speaks) {
                    watch.anew.insert(id);
                }
                let error = "it was told to start again before it had ended";
                self.settle_failed(id, error, |watch| watch.ends.remove(&id));
            }
            After::Gone => {
                let error = "the manifest has it no more";
                self.settle_failed(id, error, |watch| watch.starts.remove(&id) | watch.anew.remove(&id));
            }
        }
    }

    fn settle_failed(&mut self, id: ServiceId, error: &str, takes: impl FnMut(&mut Watch) -> bool) {
        let Some(service) = self.services.get(&id) else { return };
        let progress = Progress::Failed {
            service: service.name().to_owned(),
            error: error.to_owned(),
            code: 1,
        };
        self.settle(&progress, takes);
    }

    fn settle(&mut self, progress: &Progress, mut takes: impl FnMut(&mut Watch) -> bool) {
        let each = self.watches.each.iter_mut();
        let concerned: Vec<WatchId> = each.filter_map(|(id, watch)| takes(watch).then_some(*id)).collect();
        for id in concerned {
            self.effects.push(Effect::Tell(id, progress.clone()));
            self.check_watch(id);
        }
    }

    /// Ends a watch for which nothing more is to come.
    pub(super) fn check_watch(&mut self, id: WatchId) {
        if !self.watches.each.get(&id).is_some_and(Watch::is_over) {
            return;
        }
        if id == WatchId::FIRST && self.failure.is_some() {
            // There is something to come: that all is cleared away.
            return;
        }
        self.watches.each.remove(&id);
        self.effects.push(Effect::Done(id));
    }
}
