//! The spec's seccomp section, as BPF programs for the kernel.
//!
//! seccompiler makes filters of one action; a spec has several. So each action but the default gets a filter
//! of its own, loaded after the one that allows: where two filters refuse alike, the kernel takes the newest
//! one's errno (seccomp(2)).

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::str::FromStr;

#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("the seccomp profile does not list this machine's architecture, {0}; add it to `architectures`")]
    Architecture(&'static str),
    #[error("the seccomp profile uses {0}, which this launcher does not have; another OCI runtime may")]
    Unsupported(String),
    #[error("the seccomp profile cannot be compiled: {0}")]
    Compile(#[from] seccompiler::BackendError),
}

/// Compiles profiles, and remembers the last one: services mostly share theirs.
#[derive(Default)]
pub(super) struct Compiler {
    last: Option<(LinuxSeccomp, Rc<Vec<BpfProgram>>)>,
}

impl Compiler {
    pub(super) fn programs(&mut self, profile: Option<&LinuxSeccomp>) -> Result<Rc<Vec<BpfProgram>>, SeccompError> {
        let Some(profile) = profile else {
            return Ok(Rc::new(Vec::new()));
        };
        if let Some((known, programs)) = &self.last
            && known == profile
        {
            return Ok(programs.clone());
        }
        let programs = Rc::new(compile(profile)?);
        self.last = Some((profile.clone(), programs.clone()));
        Ok(programs)
    }
}

fn compile(profile: &LinuxSeccomp) -> Result<Vec<BpfProgram>, SeccompError> {
    let (target, arch) = this_machine()?;
    if profile.architectures().as_ref().is_some_and(|all| !all.contains(&arch)) {
        return Err(SeccompError::Architecture(std::env::consts::ARCH));
    }
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut by_action: Vec<(SeccompAction, BTreeMap<i64, Vec<SeccompRule>>)> =
        vec![(SeccompAction::Allow, BTreeMap::new())];
    for entry in profile.syscalls().iter().flatten() {
        let wanted = action(entry.action(), entry.errno_ret())?;
        let rules = match by_action.iter_mut().find(|(a, _)| *a == wanted) {
            Some((_, rules)) => rules,
            None => {
                by_action.push((wanted, BTreeMap::new()));
                &mut by_action
                    .last_mut()
                    .ok_or_else(|| SeccompError::Unsupported("no action".into()))?
                    .1
            }
        };
        add(rules, entry)?;
    }
    let mut programs = Vec::new();
    for (wanted, rules) in by_action {
        let mismatch = if wanted == SeccompAction::Allow {
            default.clone()
        } else {
            SeccompAction::Allow
        };
        if wanted != mismatch {
            programs.push(SeccompFilter::new(rules, mismatch, wanted, target)?.try_into()?);
        }
    }
    Ok(programs)
}

/// A call that this machine's kernel never had under that name needs no rule; a profile is for many.
fn add(rules: &mut BTreeMap<i64, Vec<SeccompRule>>, entry: &LinuxSyscall) -> Result<(), SeccompError> {
    let arguments = entry.args().as_deref().unwrap_or_default();
    for name in entry.names() {
        let Ok(number) = syscalls::Sysno::from_str(name) else {
            continue;
        };
        let chain = rules.entry(i64::from(number.id())).or_default();
        if !arguments.is_empty() {
            let conditions = arguments.iter().map(condition).collect::<Result<_, _>>()?;
            chain.push(SeccompRule::new(conditions)?);
        }
    }
    Ok(())
}

fn condition(argument: &LinuxSeccompArg) -> Result<SeccompCondition, SeccompError> {
    let (op, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (SeccompCmpOp::Ne, argument.value()),
        LinuxSeccompOperator::ScmpCmpLt => (SeccompCmpOp::Lt, argument.value()),
        LinuxSeccompOperator::ScmpCmpLe => (SeccompCmpOp::Le, argument.value()),
        LinuxSeccompOperator::ScmpCmpEq => (SeccompCmpOp::Eq, argument.value()),
        LinuxSeccompOperator::ScmpCmpGe => (SeccompCmpOp::Ge, argument.value()),
        LinuxSeccompOperator::ScmpCmpGt => (SeccompCmpOp::Gt, argument.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (
            SeccompCmpOp::MaskedEq(argument.value()),
            argument.value_two().unwrap_or(0),
        ),
    };
    let index = u8::try_from(argument.index())
        .map_err(|_| SeccompError::Unsupported(format!("argument {}", argument.index())))?;
    Ok(SeccompCondition::new(index, SeccompCmpArgLen::Qword, op, value)?)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<SeccompAction, SeccompError> {
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => SeccompAction::Allow,
        LinuxSeccompAction::ScmpActErrno => SeccompAction::Errno(errno.unwrap_or(libc::EPERM as u32)),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => SeccompAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => SeccompAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => SeccompAction::Trap,
        LinuxSeccompAction::ScmpActLog => SeccompAction::Log,
        other => return Err(SeccompError::Unsupported(format!("the action {other:?}"))),
    })
}

fn this_machine() -> Result<(TargetArch, Arch), SeccompError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok((TargetArch::x86_64, Arch::ScmpArchX86_64)),
        "aarch64" => Ok((TargetArch::aarch64, Arch::ScmpArchAarch64)),
        "riscv64" => Ok((TargetArch::riscv64, Arch::ScmpArchRiscv64)),
        other => Err(SeccompError::Architecture(other)),
    }
}
