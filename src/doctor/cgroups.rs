//! Probe of cgroups: the version, and which limits of the manifest can be held. What is asked is what `up` asks.

use super::finding::Answer;
use super::host::Host;
use crate::launch::cgroup::{Controller, Offer, scope};
use std::collections::BTreeSet;

const SWITCH: &str = "add to GRUB_CMDLINE_LINUX in /etc/default/grub: systemd.unified_cgroup_hierarchy=1\n\
                      sudo update-grub && sudo reboot";
const WITHHELD: &str = "add to GRUB_CMDLINE_LINUX in /etc/default/grub: cgroup_no_v1=all cgroup_enable=memory\n\
                        sudo update-grub && sudo reboot";
const DELEGATE: &str = "sudo mkdir -p /etc/systemd/system/user@.service.d\n\
                        printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' |\n\
                        \x20 sudo tee /etc/systemd/system/user@.service.d/delegate.conf\n\
                        sudo systemctl daemon-reload, then log in again";

pub(crate) fn look(host: &Host) -> Answer {
    let mut offer = Offer::look();
    let asks = scope::helps();
    if asks {
        match scope::offer() {
            Some(found) => offer = found,
            None => {
                return Answer::degraded("version 2, but systemd has no manager for this user").remedy(format!(
                    "log in anew (not by su or sudo), or: sudo loginctl enable-linger {}",
                    host.user
                ));
            }
        }
    }
    judge(&offer, asks, host.root)
}

fn judge(offer: &Offer, asks: bool, root: bool) -> Answer {
    let keys = |held: bool| -> Vec<&str> {
        let refused = |c: &Controller| offer.refusal(*c).is_some();
        let all = [Controller::Memory, Controller::Cpu, Controller::Pids, Controller::Io];
        let keys: BTreeSet<&str> = all.iter().filter(|c| refused(c) != held).map(|c| c.key()).collect();
        keys.into_iter().collect()
    };
    let (held, lacking) = (keys(true), keys(false));
    let version = format!("version {}", offer.version);
    let whose = if asks {
        ", in a scope that `up` asks of systemd"
    } else {
        ""
    };
    if lacking.is_empty() {
        return Answer::ok(format!("{version}: limits can be held of {}{whose}", held.join(", ")));
    }
    let why = offer.refused.first().map_or("", |(_, refusal)| refusal.why.as_str());
    let remedy = offer.refused.first().map_or("", |(_, refusal)| refusal.remedy.as_str());
    let answer = if held.is_empty() {
        Answer::degraded(format!("{version}: {why}"))
    } else {
        Answer::degraded(format!(
            "{version}: limits can be held of {}{whose}; {why}",
            held.join(", ")
        ))
        .lost(format!("limits have no effect: {}", lacking.join(", ")))
    };
    answer.remedy(match (offer.version, held.is_empty(), root) {
        ("1", ..) => SWITCH,
        ("2", false, true) => WITHHELD,
        ("2", false, false) => DELEGATE,
        _ => remedy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;
    use crate::launch::cgroup::Refusal;

    fn offer(version: &'static str, refused: &[Controller]) -> Offer {
        let refusal = Refusal {
            why: "it is not here".into(),
            remedy: "get it".into(),
        };
        Offer {
            version,
            places: Vec::new(),
            refused: refused.iter().map(|c| (*c, refusal.clone())).collect(),
        }
    }

    #[test]
    fn limits_are_named_by_their_keys() {
        let whole = judge(&offer("1", &[]), false, true);
        assert_eq!(whole.status, Status::Ok);
        assert_eq!(
            whole.found,
            "version 1: limits can be held of cpus, io_weight, memory, pids"
        );

        let part = judge(&offer("2", &[Controller::Io]), true, false);
        assert_eq!(part.status, Status::Degraded);
        assert_eq!(part.lost.as_deref(), Some("limits have no effect: io_weight"));
        assert!(part.found.contains("of cpus, memory, pids, in a scope") && part.found.ends_with("it is not here"));
        assert_eq!(part.remedy.as_deref(), Some(DELEGATE));

        let all = [Controller::Memory, Controller::Cpu, Controller::Pids, Controller::Io];
        let none = judge(&offer("2", &all), false, false);
        assert_eq!(none.found, "version 2: it is not here");
        assert_eq!(none.remedy.as_deref(), Some("get it"));
    }
}
