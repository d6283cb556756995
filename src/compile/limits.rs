//! Limits → `linux.resources` and `process.rlimits`, so that every OCI runtime holds a service to the same.

use crate::model::{Limits, MemoryFiles};
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, Mount, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process,
};
use std::collections::HashMap;
use std::path::Path;

/// Within so many microseconds a service may run for its part of them: what all runtimes use.
const PERIOD: u64 = 100_000;

/// What a cgroup is to hold; `None` if nothing.
pub fn resources(limits: &Limits) -> Option<LinuxResources> {
    let mut out = LinuxResources::default();
    if let Some(bytes) = limits.memory.and_then(|bytes| i64::try_from(bytes).ok()) {
        // Memory and swap together: what has no room is not to fill the disk instead.
        let memory = LinuxMemoryBuilder::default().limit(bytes).swap(bytes).build();
        out.set_memory(memory.ok());
    }
    if let Some(thousandths) = limits.cpus {
        let quota = i64::from(thousandths) * (PERIOD as i64 / 1000);
        let cpu = LinuxCpuBuilder::default().quota(quota).period(PERIOD).build();
        out.set_cpu(cpu.ok());
    }
    if let Some(pids) = limits.pids {
        out.set_pids(LinuxPidsBuilder::default().limit(i64::from(pids)).build().ok());
    }
    if let Some(weight) = limits.io_weight {
        // `blockIO.weight` has another scale, and each runtime its own way from there to this file.
        out.set_unified(Some(HashMap::from([("io.weight".to_owned(), weight.to_string())])));
    }
    (out != LinuxResources::default()).then_some(out)
}

/// What is to be held for each process.
pub fn rlimits(limits: &Limits) -> Vec<PosixRlimit> {
    [
        (PosixRlimitType::RlimitNofile, limits.nofile.map(u64::from)),
        (PosixRlimitType::RlimitFsize, limits.fsize),
        (PosixRlimitType::RlimitCore, limits.core),
        (PosixRlimitType::RlimitMemlock, limits.memlock),
        (PosixRlimitType::RlimitNproc, limits.nproc.map(u64::from)),
    ]
    .into_iter()
    .filter_map(|(kind, value)| {
        let value = value?;
        PosixRlimitBuilder::default()
            .typ(kind)
            .soft(value)
            .hard(value)
            .build()
            .ok()
    })
    .collect()
}

/// In place of the defaults of the same kind.
pub(super) fn replace(process: &mut Process, limits: &Limits) {
    let own = rlimits(limits);
    if own.is_empty() {
        return;
    }
    let mut all = process.rlimits().clone().unwrap_or_default();
    all.retain(|default| own.iter().all(|limit| limit.typ() != default.typ()));
    all.extend(own);
    process.set_rlimits(Some(all));
}

/// Sizes and the like of what is mounted in memory.
pub(super) fn memory_files(mounts: &mut [Mount], of: &MemoryFiles) {
    let sizes = [("/dev/shm", of.shm_size), ("/tmp", of.tmp_size)];
    for mount in mounts.iter_mut() {
        let is = |place: &str| mount.destination() == Path::new(place);
        let size = sizes.iter().find_map(|(place, size)| size.filter(|_| is(place)));
        let runs = of.tmp_exec && is("/tmp");
        let mut options = mount.options().clone().unwrap_or_default();
        if let Some(bytes) = size {
            options.retain(|option| !option.starts_with("size="));
            options.push(format!("size={bytes}"));
        }
        if runs {
            options.retain(|option| option != "noexec");
        }
        mount.set_options(Some(options));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_resources() {
        assert_eq!(resources(&Limits::default()), None);
        let limits = Limits {
            memory: Some(64 << 20),
            cpus: Some(500),
            pids: Some(20),
            io_weight: Some(200),
            ..Limits::default()
        };
        let json = serde_json::to_value(resources(&limits)).unwrap_or_default();
        assert_eq!(
            json,
            serde_json::json!({
                "memory": { "limit": 67_108_864, "swap": 67_108_864 },
                "cpu": { "quota": 50_000, "period": 100_000 },
                "pids": { "limit": 20 },
                "unified": { "io.weight": "200" }
            })
        );
    }
}
