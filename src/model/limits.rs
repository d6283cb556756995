//! What a service may use of the machine, as the manifest wants it. Whether this host can hold it is not asked here.

use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::types::{self, At};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub cpus: Option<u32>,
    pub pids: Option<u32>,
    pub io_weight: Option<u32>,
    pub nofile: Option<u32>,
    /// Bytes.
    pub fsize: Option<u64>,
    /// Bytes.
    pub core: Option<u64>,
    /// Bytes.
    #[serde(default)]
    pub memlock: Option<u64>,
    #[serde(default)]
    pub nproc: Option<u32>,
    /// Is it better not to start than to go without one?
    pub required: bool,
}

/// What a service has of files in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryFiles {
    /// Bytes of /dev/shm.
    pub shm_size: Option<u64>,
    /// Bytes of /tmp.
    pub tmp_size: Option<u64>,
    /// May what lies in /tmp be run?
    pub tmp_exec: bool,
}

/// A page, of which a tmpfs of less has none.
const LEAST_FILES: u64 = 4096;

pub(super) fn memory_files(table: &types::Service, found: &mut Vec<Diagnostic>) -> MemoryFiles {
    for (key, at) in [("shm_size", &table.shm_size), ("tmp_size", &table.tmp_size)] {
        let Some(at) = at.as_ref().filter(|at| at.value < LEAST_FILES) else {
            continue;
        };
        found.push(
            Diagnostic::error(at.span.clone(), format!("nothing has room in {} bytes", at.value))
                .help(format!("write a size with its unit, such as {key} = \"64M\"")),
        );
    }
    let memory = table.limits.as_ref().and_then(|limits| limits.memory.as_ref());
    for (place, at) in [("/dev/shm", &table.shm_size), ("/tmp", &table.tmp_size)] {
        let (Some(at), Some(memory)) = (at, memory) else {
            continue;
        };
        if at.value > memory.value {
            let message = format!("{place} could never hold so much: `limits.memory` counts what lies in it");
            let help = "make `memory` larger than both, for the programs need some too";
            found.push(Diagnostic::warning(at.span.clone(), message).help(help));
        }
    }
    MemoryFiles {
        shm_size: table.shm_size.as_ref().map(|at| at.value),
        tmp_size: table.tmp_size.as_ref().map(|at| at.value),
        tmp_exec: table.tmp_exec.as_ref().is_some_and(|at| at.value),
    }
}

/// In less, not even PID 1 starts.
const LEAST_MEMORY: u64 = 1 << 20;

pub(super) fn read(name: &At<String>, table: &types::Service, found: &mut Vec<Diagnostic>) -> Limits {
    let Some(limits) = &table.limits else {
        return Limits::default();
    };
    fn value<T: Copy>(at: &Option<At<T>>) -> Option<T> {
        at.as_ref().map(|at| at.value)
    }
    let out = Limits {
        memory: value(&limits.memory),
        cpus: value(&limits.cpus),
        pids: value(&limits.pids),
        io_weight: value(&limits.io_weight),
        nofile: value(&limits.nofile),
        fsize: value(&limits.fsize),
        core: value(&limits.core),
        memlock: value(&limits.memlock),
        nproc: value(&limits.nproc),
        required: value(&limits.required).unwrap_or_default(),
    };
    if let Some(at) = limits.memory.as_ref().filter(|m| m.value < LEAST_MEMORY) {
        found.push(
            Diagnostic::error(
                at.span.clone(),
                format!("no program of `{}` starts in {} bytes of memory", name.value, at.value),
            )
            .help("write a size with its unit, such as memory = \"64M\""),
        );
    }
    let nothing = Limits {
        required: out.required,
        ..Limits::default()
    };
    if let Some(at) = limits.required.as_ref().filter(|r| r.value && out == nothing) {
        found.push(
            Diagnostic::error(
                at.span.clone(),
                format!("`{}` requires limits, but names none", name.value),
            )
            .help("write, for example, memory = \"256M\" beside it, or leave `required` out"),
        );
    }
    out
}

/// Bytes as a manifest writes them.
pub fn size(bytes: u64) -> String {
    let unit = [(40, "T"), (30, "G"), (20, "M"), (10, "K")]
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1u64 << shift));
    match unit {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}
