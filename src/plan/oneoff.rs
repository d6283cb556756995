//! What is run once in a service's place: another program, the same one under trace, or a copy of files.
//!
//! The rule: it is the service in all that it is, sees and may do, and has nothing for which others would have to be
//! there. So ids, root, grants, environment, umask and system calls stay as they are. What calls it, what it is handed, who
//! hears from it and the ports that the host publishes are gone in each case, for those are the running service's; what
//! else goes is a row of [`OneOff::keeps`].

use super::unit::{Role, Unit};
use crate::model::{Life, Limits, Logs};
use crate::values::Network;

/// What a service's place is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OneOff {
    /// `run`: a program, on a network as the service has it.
    Run,
    /// `jail trace`: a program, of which one wants to know what it opens.
    Trace,
    /// `cp` while the app is down: no program at all.
    Copy,
}

/// What is kept of that for which something has to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Keeps {
    /// The folders of those whom it may call, and of the sandboxes that it may use.
    callees: bool,
    /// The way out, and a network of the app's.
    network: bool,
    /// A cgroup, and the limits of each process.
    limits: bool,
    /// What it writes to its root. An overlay's upper directory is one mount's alone (the kernel's overlayfs.rst), and
    /// the running service may have it.
    kept_root: bool,
}

impl OneOff {
    const fn keeps(self) -> Keeps {
        let (callees, network, limits, kept_root) = match self {
            OneOff::Run => (true, true, true, false),
            OneOff::Trace => (false, false, false, false),
            OneOff::Copy => (false, false, false, true),
        };
        Keeps {
            callees,
            network,
            limits,
            kept_root,
        }
    }
}

impl Unit {
    /// This service, to be run once.
    pub fn one_off(&self, purpose: OneOff) -> Unit {
        let keeps = purpose.keeps();
        let mut out = Unit {
            role: Role::OneOff,
            life: Life::default(),
            logs: Logs::default(),
            callers: Vec::new(),
            external_uid: None,
            listen: Vec::new(),
            publish: Vec::new(),
            ..self.clone()
        };
        for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
            out.environment.remove(variable);
        }
        if !keeps.callees {
            out.callees.clear();
            out.sandboxes.clear();
        }
        if !keeps.network {
            out.egress = false;
        }
        out.network = match (purpose, out.network) {
            // Files are on no network.
            (OneOff::Copy, _) => Network::None,
            (_, Network::App) if !keeps.network => Network::None,
            (_, as_it_is) => as_it_is,
        };
        if !keeps.limits {
            out.limits = Limits::default();
        }
        if let Some(upper) = out.writable.as_mut().filter(|_| !keeps.kept_root) {
            upper.kept = None;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Ids;
    use super::super::{Identity, Mount, Upper};
    use super::*;
    use crate::model::Publish;
    use std::path::PathBuf;

    /// A service with all that one can have.
    fn rich() -> Unit {
        let identity = Identity {
            uid: 61_001,
            gid: 61_001,
            groups: vec![(61_100, "shared".into())],
            peers: vec![(61_002, "peer".into())],
            keeper: Some(Ids::default()),
            outside: Ids::default(),
            root_inside: false,
        };
        let mut unit = Unit::new(Role::Service, "rich", identity, "minimal", vec!["program".into()]);
        unit.environment = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "OWN"]
            .map(|k| (k.to_owned(), "x".to_owned()))
            .into();
        unit.umask = 0o007;
        unit.writable = Some(Upper {
            lower: "/lower".into(),
            kept: Some("/kept".into()),
        });
        unit.mounts = vec![Mount::read_only("/seen".into(), PathBuf::from("/seen"), true)];
        unit.network = Network::App;
        unit.publish = vec![Publish {
            address: ([127, 0, 0, 1], 8080).into(),
            port: 80,
            proxy: None,
        }];
        unit.low_ports = true;
        unit.egress = true;
        unit.resolver = "nameserver 10.0.2.3\n".into();
        unit.listen = vec![([127, 0, 0, 1], 8081).into()];
        unit.callers = vec!["caller".into()];
        unit.external_uid = Some(33);
        unit.callees = vec!["callee".into()];
        unit.life.watchdog = Some(std::time::Duration::from_secs(1));
        unit.limits.pids = Some(9);
        unit.logs.max_files = 9;
        unit
    }

    #[test]
    fn what_a_one_off_keeps_and_loses() {
        let service = rich();
        // Purpose; callees; way out; network; limits; kept root.
        let rows = [
            (OneOff::Run, true, true, Network::App, true, false),
            (OneOff::Trace, false, false, Network::None, false, false),
            (OneOff::Copy, false, false, Network::None, false, true),
        ];
        for (purpose, callees, egress, network, limits, kept) in rows {
            let out = service.one_off(purpose);
            let expected = Unit {
                role: Role::OneOff,
                environment: [("OWN".to_owned(), "x".to_owned())].into(),
                callers: Vec::new(),
                external_uid: None,
                listen: Vec::new(),
                publish: Vec::new(),
                life: Life::default(),
                logs: Logs::default(),
                callees: if callees { service.callees.clone() } else { Vec::new() },
                egress,
                network,
                limits: if limits {
                    service.limits.clone()
                } else {
                    Limits::default()
                },
                writable: Some(Upper {
                    lower: "/lower".into(),
                    kept: kept.then(|| "/kept".into()),
                }),
                ..service.clone()
            };
            assert_eq!(out, expected, "{purpose:?}");
            assert!(!out.notifies(), "{purpose:?}");
        }
    }

    #[test]
    fn the_hosts_network_stays_for_programs() {
        let mut service = rich();
        service.network = Network::Host;
        let network = |purpose| service.one_off(purpose).network;
        assert_eq!(network(OneOff::Run), Network::Host);
        assert_eq!(network(OneOff::Trace), Network::Host);
        assert_eq!(network(OneOff::Copy), Network::None);
    }
}
