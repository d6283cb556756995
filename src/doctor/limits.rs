//! Probes of what this process itself may do: capabilities and the number of open files.

use super::finding::Answer;
use super::host::Host;
use caps::{CapSet, Capability};
use nix::sys::resource::{Resource, getrlimit};

/// What root mode uses each capability for.
const NEEDED: &[(Capability, &str)] = &[
    (Capability::CAP_SYS_ADMIN, "make namespaces and mounts"),
    (Capability::CAP_SETUID, "give services their UIDs"),
    (Capability::CAP_SETGID, "give services their GIDs"),
    (Capability::CAP_SETPCAP, "take capabilities from services"),
    (Capability::CAP_CHOWN, "give resources their owners"),
    (Capability::CAP_FOWNER, "set permissions of resources"),
    (Capability::CAP_DAC_OVERRIDE, "reach resources of all services"),
    (Capability::CAP_KILL, "stop services"),
    (Capability::CAP_SYS_PTRACE, "enter a running service (exec, verify)"),
    (Capability::CAP_SYS_CHROOT, "change a service's root"),
    (Capability::CAP_NET_ADMIN, "bring up a service's loopback"),
];

pub(crate) fn capabilities(_: &Host) -> Answer {
    let Ok(held) = caps::read(None, CapSet::Effective) else {
        return Answer::missing("this process' capabilities cannot be read");
    };
    let lacking: Vec<_> = NEEDED.iter().filter(|(cap, _)| !held.contains(cap)).collect();
    if lacking.is_empty() {
        return Answer::ok(format!("all {} that root mode uses", NEEDED.len()));
    }
    let names: Vec<String> = lacking.iter().map(|(cap, _)| cap.to_string()).collect();
    let uses: Vec<&str> = lacking.iter().map(|(_, purpose)| *purpose).collect();
    let options: Vec<String> = names
        .iter()
        .map(|name| format!("--cap-add {}", name.strip_prefix("CAP_").unwrap_or(name)))
        .collect();
    Answer::missing(format!("this root lacks {}", names.join(", ")))
        .lost(format!("PySecure cannot {}", uses.join(", ")))
        .remedy(format!(
            "docker run {} …\nsystemd: CapabilityBoundingSet= of the unit must hold them",
            options.join(" ")
        ))
}

pub(crate) fn sys_resource(host: &Host) -> Answer {
    // In a user namespace the capability is held and yet is worth nothing: it must be used to tell.
    match host.runner.try_out("raise-limit") {
        Ok(found) => Answer::ok(found),
        Err(refused) => Answer::degraded(refused.reason()).remedy(
            "docker run --cap-add SYS_RESOURCE …\n\
             or start PySecure with higher limits: ulimit -n 65536 (see ulimit -a)",
        ),
    }
}

/// Descriptors the supervisor holds for one service (pidfd, log pipes, socket) and for itself.
const EACH: u64 = 4;
const OWN: u64 = 64;
/// Fewer services than this are worth a word.
const FEW: u64 = 200;

pub(crate) fn open_files(_: &Host) -> Answer {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => explain_open_files(soft, hard),
        Err(e) => Answer::degraded(format!("the limit cannot be read: {}", e.desc())),
    }
}

fn explain_open_files(soft: u64, hard: u64) -> Answer {
    let services = hard.saturating_sub(OWN) / EACH;
    let said = match hard {
        u64::MAX => format!("{soft}, may be raised without end"),
        _ => format!("{soft}, may be raised to {hard}: about {services} services"),
    };
    if services >= FEW {
        return Answer::ok(said);
    }
    Answer::degraded(said).remedy(
        "printf '* - nofile 65536\\n' | sudo tee /etc/security/limits.d/60-pysecure.conf\n\
         then log in again (in a unit of systemd: LimitNOFILE=65536)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn open_files_become_services() {
        assert!(explain_open_files(1024, 4064).found.contains("about 1000 services"));
        assert_eq!(explain_open_files(1024, u64::MAX).status, Status::Ok);
        assert_eq!(explain_open_files(10, 10).status, Status::Degraded);
    }
}
