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
    /// Is it better not to start than to go without one?
    pub required: bool,
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
