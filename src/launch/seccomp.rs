//! The spec's seccomp section, as one BPF program for the kernel.
//!
//! The call's number is looked up in a binary tree of ranges, eight comparisons deep, instead of in a list:
//! at load the kernel tries a filter on every number that there is (seccomp's action cache), so a list of
//! 350 rules costs most of a millisecond a start, and the tree a fiftieth of that. `tests` holds the result
//! against seccompiler's, number by number. Follows seccomp(2) and linux/seccomp.h.

use libc::sock_filter;
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::str::FromStr;

#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("the seccomp profile does not list this machine's architecture, {0}; add it to `architectures`")]
    Architecture(&'static str),
    #[error("the seccomp profile uses {0}, which this launcher does not have; another OCI runtime may")]
    Unsupported(String),
    #[error("the seccomp profile gives `{0}` one action here and another there; keep one")]
    Contradiction(String),
    #[error("the seccomp profile is too long for the kernel, which takes 4,096 instructions")]
    Long,
}

pub(crate) type Program = Vec<sock_filter>;

/// Compiles profiles, and remembers the last ones: services mostly share theirs.
#[derive(Default)]
pub(super) struct Compiler {
    known: VecDeque<(LinuxSeccomp, Rc<Program>)>,
}

/// More than differ in what PySecure compiles.
const REMEMBERED: usize = 8;

impl Compiler {
    pub(super) fn program(&mut self, profile: Option<&LinuxSeccomp>) -> Result<Option<Rc<Program>>, SeccompError> {
        let Some(profile) = profile else { return Ok(None) };
        if let Some((_, program)) = self.known.iter().find(|(known, _)| known == profile) {
            return Ok(Some(program.clone()));
        }
        let program = Rc::new(compile(profile)?);
        self.known.truncate(REMEMBERED - 1);
        self.known.push_front((profile.clone(), program.clone()));
        Ok(Some(program))
    }
}

/// The same profile, but with openat2(2) allowed: for code of this program that works under it. Services do not have
/// that call, since a filter does not see which mode it gives to a new file.
pub(super) fn with_openat2(profile: &LinuxSeccomp) -> Result<LinuxSeccomp, SeccompError> {
    const NAME: &str = "openat2";
    let mut out = profile.clone();
    let mut calls = out.syscalls().clone().unwrap_or_default();
    for entry in &mut calls {
        let others: Vec<String> = entry.names().iter().filter(|n| *n != NAME).cloned().collect();
        entry.set_names(others);
    }
    calls.retain(|entry| !entry.names().is_empty());
    let allowed = oci_spec::runtime::LinuxSyscallBuilder::default()
        .names([NAME.to_owned()])
        .action(LinuxSeccompAction::ScmpActAllow)
        .build()
        .map_err(|e| SeccompError::Unsupported(e.to_string()))?;
    calls.push(allowed);
    out.set_syscalls(Some(calls));
    Ok(out)
}

/// What is done with one call: always the same, or by its arguments.
#[derive(Clone, PartialEq)]
enum Verdict {
    Always(u32),
    /// The first rule all of whose conditions hold decides, else the default.
    Rules(ByArguments),
}

type ByArguments = Vec<(Vec<LinuxSeccompArg>, u32)>;

/// The program for the kernel.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Program, SeccompError> {
    let (audit_arch, arch) = this_machine()?;
    if profile.architectures().as_ref().is_some_and(|all| !all.contains(&arch)) {
        return Err(SeccompError::Architecture(std::env::consts::ARCH));
    }
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let verdicts = verdicts(profile)?;
    let newest = verdicts.keys().next_back().copied();

    // Ranges over all numbers there could be; what no rule names has the default.
    let mut ranges: Vec<(u32, Verdict)> = vec![(0, Verdict::Always(default))];
    for (number, verdict) in verdicts {
        match ranges.last_mut() {
            Some((start, last)) if *start == number => *last = verdict,
            Some((_, last)) if *last != verdict => ranges.push((number, verdict)),
            _ => {}
        }
        let beyond = match Some(number) == newest {
            true => newer(default),
            false => default,
        };
        ranges.push((number + 1, Verdict::Always(beyond)));
    }
    if newest.is_some_and(|n| n < OTHER_ABIS) {
        ranges.push((OTHER_ABIS, Verdict::Always(default)));
    }
    ranges.dedup_by(|later, earlier| later.1 == earlier.1);

    let mut program = vec![
        load(ARCH),
        jump(EQUAL, audit_arch, 1, 0),
        give(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
    ];
    let mut waiting = Vec::new();
    tree(&ranges, &mut program, &mut waiting);
    rules(waiting, default, &mut program)?;
    if program.len() > 4096 {
        return Err(SeccompError::Long);
    }
    Ok(program)
}

/// What is answered to calls that came after the newest one in the profile, where others are answered `default`.
///
/// Programs take ENOSYS for an older kernel and do without the call, but EPERM for a refusal. runc does the same.
fn newer(default: u32) -> u32 {
    match default & libc::SECCOMP_RET_ACTION_FULL {
        libc::SECCOMP_RET_ERRNO => libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        _ => default,
    }
}

/// A call that this machine's kernel never had under that name needs no rule; a profile is for many.
fn verdicts(profile: &LinuxSeccomp) -> Result<BTreeMap<u32, Verdict>, SeccompError> {
    let mut out: BTreeMap<u32, Verdict> = BTreeMap::new();
    for entry in profile.syscalls().iter().flatten() {
        let wanted = action(entry.action(), entry.errno_ret())?;
        let arguments = entry.args().clone().unwrap_or_default();
        for name in entry.names() {
            let Ok(number) = syscalls::Sysno::from_str(name) else {
                continue;
            };
            let fresh = if arguments.is_empty() {
                Verdict::Always(wanted)
            } else {
                Verdict::Rules(vec![(arguments.clone(), wanted)])
            };
            match (out.entry(number.id() as u32), fresh) {
                (std::collections::btree_map::Entry::Vacant(empty), fresh) => drop(empty.insert(fresh)),
                (std::collections::btree_map::Entry::Occupied(mut known), fresh) => match (known.get_mut(), fresh) {
                    (Verdict::Rules(all), Verdict::Rules(more)) => all.extend(more),
                    (known, fresh) if *known == fresh => {}
                    _ => return Err(SeccompError::Contradiction(name.clone())),
                },
            }
        }
    }
    Ok(out)
}

/// Emits the search among `ranges`, whose number is in the accumulator. Jumps to rules are `waiting` for these to be
/// emitted.
fn tree<'v>(ranges: &'v [(u32, Verdict)], out: &mut Program, waiting: &mut Vec<(usize, &'v ByArguments)>) {
    if let [(_, verdict)] = ranges {
        match verdict {
            Verdict::Always(action) => out.push(give(*action)),
            Verdict::Rules(rules) => {
                waiting.push((out.len(), rules));
                out.push(ahead(0));
            }
        }
        return;
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let start = right.first().map_or(0, |r| r.0);
    let (mut below, mut of_below) = (Program::new(), Vec::new());
    tree(left, &mut below, &mut of_below);
    // A conditional jump reaches 255 instructions, an unconditional one any.
    match u8::try_from(below.len()) {
        Ok(near) => out.push(jump(AT_LEAST, start, near, 0)),
        Err(_) => out.extend([jump(AT_LEAST, start, 0, 1), ahead(below.len() as u32)]),
    }
    waiting.extend(of_below.into_iter().map(|(from, rules)| (out.len() + from, rules)));
    out.append(&mut below);
    tree(right, out, waiting);
}

/// Emits the rules, once for all calls that have the same: the kernel goes through the whole program at each start.
fn rules(mut waiting: Vec<(usize, &ByArguments)>, default: u32, out: &mut Program) -> Result<(), SeccompError> {
    while let Some((_, of)) = waiting.first().copied() {
        waiting.retain(|(from, other)| {
            let same = *other == of;
            if same {
                lead(*from, out);
            }
            !same
        });
        for (conditions, action) in of {
            rule(conditions, *action, out)?;
        }
        out.push(give(default));
    }
    Ok(())
}

/// Has the unconditional jump at `from` lead to what is emitted next.
fn lead(from: usize, out: &mut Program) {
    out[from].k = (out.len() - from - 1) as u32;
}

/// Where a conditional jump of a rule leads.
#[derive(Clone, Copy, PartialEq)]
enum To {
    /// The next instruction.
    Next,
    /// Behind this condition, which holds.
    Holds,
    /// Behind this rule, which does not.
    Fails,
}

enum Piece {
    Plain(sock_filter),
    Jump(u16, u32, To, To),
}

/// Emits one rule: gives `action` if all conditions hold, else goes on behind itself.
fn rule(conditions: &[LinuxSeccompArg], action: u32, out: &mut Program) -> Result<(), SeccompError> {
    let pieces: Vec<Vec<Piece>> = conditions.iter().map(condition).collect::<Result<_, _>>()?;
    let length: usize = pieces.iter().map(Vec::len).sum::<usize>() + 1;
    let mut at = 0;
    for of in pieces {
        let end = at + of.len();
        for piece in of {
            at += 1;
            let reach = |to: To| -> Result<u8, SeccompError> {
                let target = match to {
                    To::Next => at,
                    To::Holds => end,
                    To::Fails => length,
                };
                u8::try_from(target - at).map_err(|_| SeccompError::Long)
            };
            out.push(match piece {
                Piece::Plain(instruction) => instruction,
                Piece::Jump(code, k, yes, no) => jump(code, k, reach(yes)?, reach(no)?),
            });
        }
    }
    out.push(give(action));
    Ok(())
}

/// An argument has 64 bits, the accumulator 32: first the high word, then the low one.
fn condition(of: &LinuxSeccompArg) -> Result<Vec<Piece>, SeccompError> {
    use LinuxSeccompOperator as Op;
    let index = u32::try_from(of.index())
        .ok()
        .filter(|i| *i < 6)
        .ok_or_else(|| SeccompError::Unsupported(format!("argument {}", of.index())))?;
    let (low, high) = (load(ARGUMENTS + 8 * index), load(ARGUMENTS + 8 * index + 4));
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let plain = |i: sock_filter| Piece::Plain(i);
    // The high word decides if it differs; else the low one does.
    let ordered = |value: u64, last: u16, yes: To, no: To| {
        let (above, below) = halves(value);
        vec![
            plain(high),
            Piece::Jump(GREATER, above, yes, To::Next),
            Piece::Jump(EQUAL, above, To::Next, no),
            plain(low),
            Piece::Jump(last, below, yes, no),
        ]
    };
    let (above, below) = halves(of.value());
    Ok(match of.op() {
        Op::ScmpCmpEq => vec![
            plain(high),
            Piece::Jump(EQUAL, above, To::Next, To::Fails),
            plain(low),
            Piece::Jump(EQUAL, below, To::Holds, To::Fails),
        ],
        Op::ScmpCmpNe => vec![
            plain(high),
            Piece::Jump(EQUAL, above, To::Next, To::Holds),
            plain(low),
            Piece::Jump(EQUAL, below, To::Fails, To::Holds),
        ],
        Op::ScmpCmpGe => ordered(of.value(), AT_LEAST, To::Holds, To::Fails),
        Op::ScmpCmpGt => ordered(of.value(), GREATER, To::Holds, To::Fails),
        Op::ScmpCmpLt => ordered(of.value(), AT_LEAST, To::Fails, To::Holds),
        Op::ScmpCmpLe => ordered(of.value(), GREATER, To::Fails, To::Holds),
        // The first value is the mask, the second what it must come to, as far as the mask looks.
        Op::ScmpCmpMaskedEq => {
            let (wanted_above, wanted_below) = halves(of.value_two().unwrap_or(0) & of.value());
            let upper = [
                plain(high),
                plain(masked(above)),
                Piece::Jump(EQUAL, wanted_above, To::Next, To::Fails),
            ];
            let lower = [
                plain(low),
                plain(masked(below)),
                Piece::Jump(EQUAL, wanted_below, To::Holds, To::Fails),
            ];
            // A mask that leaves out a word says nothing of it.
            upper.into_iter().filter(|_| above != 0).chain(lower).collect()
        }
    })
}

// Offsets in struct seccomp_data; arguments are read as a little-endian machine has them.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;
/// From here on numbers are the calls of another ABI: x32's on x86_64 (__X32_SYSCALL_BIT of asm/unistd.h), none elsewhere.
const OTHER_ABIS: u32 = 0x4000_0000;

const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;

fn load(offset: u32) -> sock_filter {
    sock_filter {
        code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: offset,
    }
}

fn masked(mask: u32) -> sock_filter {
    sock_filter {
        code: (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: mask,
    }
}

fn jump(code: u16, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter {
        code,
        jt: yes,
        jf: no,
        k,
    }
}

fn ahead(by: u32) -> sock_filter {
    sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JA) as u16,
        jt: 0,
        jf: 0,
        k: by,
    }
}

fn give(action: u32) -> sock_filter {
    sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: action,
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, SeccompError> {
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        LinuxSeccompAction::ScmpActErrno => {
            libc::SECCOMP_RET_ERRNO | (errno.unwrap_or(libc::EPERM as u32) & libc::SECCOMP_RET_DATA)
        }
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        LinuxSeccompAction::ScmpActLog => libc::SECCOMP_RET_LOG,
        other => return Err(SeccompError::Unsupported(format!("the action {other:?}"))),
    })
}

/// AUDIT_ARCH_* of linux/audit.h, and OCI's word for it.
fn this_machine() -> Result<(u32, Arch), SeccompError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok((0xc000_003e, Arch::ScmpArchX86_64)),
        "aarch64" => Ok((0xc000_00b7, Arch::ScmpArchAarch64)),
        "riscv64" => Ok((0xc000_00f3, Arch::ScmpArchRiscv64)),
        other => Err(SeccompError::Architecture(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

    /// What the kernel would do with a classic BPF program of the instructions that seccomp takes.
    fn evaluate(program: &[sock_filter], number: u32, arguments: [u64; 6]) -> u32 {
        evaluate_of(this_machine().unwrap().0, program, number, arguments)
    }

    fn evaluate_of(audit_arch: u32, program: &[sock_filter], number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = number.to_le_bytes().to_vec();
        data.extend(audit_arch.to_le_bytes());
        data.extend(0u64.to_le_bytes());
        data.extend(arguments.iter().flat_map(|a| a.to_le_bytes()));
        let (mut at, mut accumulator) = (0usize, 0u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let go = |yes: bool| usize::from(if yes { jt } else { jf });
            match u32::from(code) {
                c if c == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    accumulator = u32::from_le_bytes(data[k as usize..k as usize + 4].try_into().unwrap())
                }
                c if c == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => accumulator &= k,
                c if c == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => at += go(accumulator == k),
                c if c == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => at += go(accumulator > k),
                c if c == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => at += go(accumulator >= k),
                c if c == libc::BPF_JMP | libc::BPF_JA => at += k as usize,
                c if c == libc::BPF_RET | libc::BPF_K => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn shipped() -> LinuxSeccomp {
        serde_json::from_str(include_str!("../../specs/seccomp.json")).unwrap()
    }

    /// The same profile by another hand: a filter an action, of which the kernel takes the strictest.
    fn by_seccompiler(profile: &LinuxSeccomp) -> Vec<(u32, Program)> {
        let mut actions: BTreeMap<u32, BTreeMap<i64, Vec<SeccompRule>>> = BTreeMap::new();
        for entry in profile.syscalls().iter().flatten() {
            let rules = actions
                .entry(action(entry.action(), entry.errno_ret()).unwrap())
                .or_default();
            for number in entry.names().iter().filter_map(|n| syscalls::Sysno::from_str(n).ok()) {
                let chain = rules.entry(i64::from(number.id())).or_default();
                if let Some(arguments) = entry.args() {
                    let conditions = arguments.iter().map(|a| {
                        let (op, value) = match a.op() {
                            LinuxSeccompOperator::ScmpCmpEq => (SeccompCmpOp::Eq, a.value()),
                            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                                (SeccompCmpOp::MaskedEq(a.value()), a.value_two().unwrap_or(0))
                            }
                            LinuxSeccompOperator::ScmpCmpNe => (SeccompCmpOp::Ne, a.value()),
                            LinuxSeccompOperator::ScmpCmpGe => (SeccompCmpOp::Ge, a.value()),
                            LinuxSeccompOperator::ScmpCmpGt => (SeccompCmpOp::Gt, a.value()),
                            LinuxSeccompOperator::ScmpCmpLe => (SeccompCmpOp::Le, a.value()),
                            LinuxSeccompOperator::ScmpCmpLt => (SeccompCmpOp::Lt, a.value()),
                        };
                        SeccompCondition::new(a.index() as u8, SeccompCmpArgLen::Qword, op, value).unwrap()
                    });
                    chain.push(SeccompRule::new(conditions.collect()).unwrap());
                }
            }
        }
        let program = |rules: BTreeMap<i64, Vec<SeccompRule>>| -> Program {
            let filter = SeccompFilter::new(
                rules,
                SeccompAction::Log,
                SeccompAction::Allow,
                std::env::consts::ARCH.try_into().unwrap(),
            )
            .unwrap();
            let program: seccompiler::BpfProgram = filter.try_into().unwrap();
            program
                .into_iter()
                .map(|i| sock_filter {
                    code: i.code,
                    jt: i.jt,
                    jf: i.jf,
                    k: i.k,
                })
                .collect()
        };
        actions
            .into_iter()
            .map(|(action, rules)| (action, program(rules)))
            .collect()
    }

    fn agree(profile: &LinuxSeccomp, numbers: impl Iterator<Item = u32>, values: &[u64]) {
        let ours = compile(profile).unwrap();
        let theirs = by_seccompiler(profile);
        let default = action(profile.default_action(), profile.default_errno_ret()).unwrap();
        let newest = verdicts(profile).unwrap().keys().next_back().copied().unwrap();
        for number in numbers {
            for value in values {
                let arguments = [*value; 6];
                let matched = theirs
                    .iter()
                    .find(|(_, program)| evaluate(program, number, arguments) == libc::SECCOMP_RET_ALLOW);
                let unnamed = match number > newest && number < OTHER_ABIS {
                    true => libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
                    false => default,
                };
                let expected = matched.map_or(unnamed, |(action, _)| *action);
                assert_eq!(
                    evaluate(&ours, number, arguments),
                    expected,
                    "call {number}, arguments {value:#x}"
                );
            }
        }
    }

    #[test]
    fn the_shipped_profile_means_what_seccompiler_makes_of_it() {
        let values = [
            0,
            1,
            2,
            10,
            16,
            17,
            0x40000,
            0xffff_ffff,
            0x1_0000_0001,
            0x1000_0000,
            0x7e02_0080,
            0x80,
            u64::MAX,
        ];
        let edges = [0x3fff_ffff, 0x4000_0000, 0x4000_0001, u32::MAX];
        agree(&shipped(), (0..600).chain(edges), &values);
    }

    #[test]
    fn every_operator() {
        for (op, two) in [
            ("EQ", 0u64),
            ("NE", 0),
            ("LT", 0),
            ("LE", 0),
            ("GT", 0),
            ("GE", 0),
            ("MASKED_EQ", 0x5),
            ("MASKED_EQ", 0x1_0000_0005),
        ] {
            for value in [0u64, 5, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0005, u64::MAX] {
                let profile: LinuxSeccomp = serde_json::from_value(serde_json::json!({
                    "defaultAction": "SCMP_ACT_ERRNO",
                    "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 3, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}") }] }]
                }))
                .unwrap();
                let around: Vec<u64> = [value, 0, 5, 0x1_0000_0005, u64::MAX]
                    .into_iter()
                    .flat_map(|v| [v.wrapping_sub(1), v, v.wrapping_add(1)])
                    .collect();
                agree(&profile, 0..3, &around);
            }
        }
    }

    /// The calls that set a mode, by which argument has it and which one has flags without which it is none.
    const MODES: [(&str, usize, Option<usize>); 12] = [
        ("chmod", 1, None),
        ("creat", 1, None),
        ("fchmod", 1, None),
        ("fchmodat", 2, None),
        ("fchmodat2", 2, None),
        ("mkdir", 1, None),
        ("mkdirat", 2, None),
        ("mknod", 1, None),
        ("mknodat", 2, None),
        ("mq_open", 2, Some(1)),
        ("open", 2, Some(1)),
        ("openat", 3, Some(2)),
    ];

    #[test]
    fn no_call_sets_a_set_id_bit() {
        let program = compile(&shipped()).unwrap();
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        for (name, mode_at, flags_at) in MODES {
            // Some are not there on every machine.
            let Ok(number) = syscalls::Sysno::from_str(name) else {
                continue;
            };
            for bits in [0o4000u64, 0o2000, 0o6000, 0] {
                for rest in [0u64, 0o1777, 0o755, 0x1_0000_0000, 0xffff_0000] {
                    for flags in [
                        0,
                        libc::O_CREAT,
                        libc::O_TMPFILE,
                        libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
                    ] {
                        let mut arguments = [0u64; 6];
                        arguments[mode_at] = bits | rest;
                        let sets = match flags_at {
                            Some(at) => {
                                arguments[at] = flags as u64;
                                flags != 0
                            }
                            None => true,
                        };
                        let expected = if bits != 0 && sets {
                            refused
                        } else {
                            libc::SECCOMP_RET_ALLOW
                        };
                        let got = evaluate(&program, number.id() as u32, arguments);
                        assert_eq!(got, expected, "{name} {arguments:x?}");
                    }
                }
            }
        }
        let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        let number = syscalls::Sysno::openat2.id() as u32;
        assert_eq!(evaluate(&program, number, [0; 6]), absent);
        let ours = compile(&with_openat2(&shipped()).unwrap()).unwrap();
        assert_eq!(evaluate(&ours, number, [0; 6]), libc::SECCOMP_RET_ALLOW);
        assert_eq!(evaluate(&ours, syscalls::Sysno::clone3.id() as u32, [0; 6]), absent);
    }

    /// A profile allows numbers, and another architecture has other calls under them.
    #[test]
    fn a_call_of_another_architecture_ends_the_process() {
        const I386: u32 = 0x4000_0003;
        const ARM: u32 = 0x4000_0028;
        let program = compile(&shipped()).unwrap();
        for other in [I386, ARM, this_machine().unwrap().0 ^ 0x8000_0000, 0] {
            for number in 0..600 {
                let got = evaluate_of(other, &program, number, [0; 6]);
                assert_eq!(got, libc::SECCOMP_RET_KILL_PROCESS, "call {number} of {other:#x}");
            }
        }
        assert_eq!(evaluate(&program, 0, [0; 6]), libc::SECCOMP_RET_ALLOW);
    }

    /// The profile says the same as a list that is kept by hand, so that no call comes in unseen.
    #[test]
    fn what_is_allowed_was_decided() {
        let profile: serde_json::Value = serde_json::from_str(include_str!("../../specs/seccomp.json")).unwrap();
        assert_eq!(
            (&profile["defaultAction"], &profile["defaultErrnoRet"]),
            (&"SCMP_ACT_ERRNO".into(), &libc::EPERM.into())
        );
        let mut lines = std::collections::BTreeSet::new();
        for entry in profile["syscalls"].as_array().unwrap() {
            let mut words = match entry["action"].as_str().unwrap() {
                "SCMP_ACT_ALLOW" => Vec::new(),
                "SCMP_ACT_ERRNO" => vec![format!("errno {}", entry["errnoRet"])],
                other => panic!("{other}"),
            };
            for of in entry["args"].as_array().into_iter().flatten() {
                let (index, op) = (&of["index"], of["op"].as_str().unwrap());
                words.push(format!("{index} {op} {:#x}", of["value"].as_u64().unwrap()));
                words.extend(of["valueTwo"].as_u64().map(|two| format!("{two:#x}")));
            }
            for name in entry["names"].as_array().unwrap() {
                let words = [&[name.as_str().unwrap().to_owned()], &words[..]].concat();
                lines.insert(words.join(" "));
            }
        }
        let decided: std::collections::BTreeSet<String> = include_str!("../../tests/system-calls.txt")
            .lines()
            .map(str::to_owned)
            .collect();
        let new: Vec<_> = lines.difference(&decided).collect();
        let gone: Vec<_> = decided.difference(&lines).collect();
        assert!(
            new.is_empty() && gone.is_empty(),
            "specs/seccomp.json and tests/system-calls.txt differ: new {new:?}, gone {gone:?}"
        );
    }

    /// What reaches the kernel's own, other processes or the machine, whatever its arguments.
    #[test]
    fn calls_that_no_service_needs_are_refused() {
        let program = compile(&shipped()).unwrap();
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        for name in [
            "acct",
            "add_key",
            "adjtimex",
            "bpf",
            "chroot",
            "clock_adjtime",
            "clock_settime",
            "create_module",
            "delete_module",
            "fanotify_init",
            "finit_module",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "get_kernel_syms",
            "init_module",
            "io_uring_enter",
            "io_uring_register",
            "io_uring_setup",
            "ioperm",
            "iopl",
            "kcmp",
            "kexec_file_load",
            "kexec_load",
            "keyctl",
            "lookup_dcookie",
            "memfd_secret",
            "migrate_pages",
            "modify_ldt",
            "mount",
            "mount_setattr",
            "move_mount",
            "move_pages",
            "name_to_handle_at",
            "nfsservctl",
            "open_by_handle_at",
            "open_tree",
            "perf_event_open",
            "pivot_root",
            "process_madvise",
            "process_mrelease",
            "process_vm_readv",
            "process_vm_writev",
            "ptrace",
            "query_module",
            "quotactl",
            "quotactl_fd",
            "reboot",
            "request_key",
            "setdomainname",
            "sethostname",
            "setns",
            "settimeofday",
            "stime",
            "swapoff",
            "swapon",
            "syslog",
            "umount2",
            "unshare",
            "uselib",
            "userfaultfd",
            "vhangup",
            "vm86",
            "vm86old",
        ] {
            let Ok(number) = syscalls::Sysno::from_str(name) else {
                continue;
            };
            for argument in [0, 1, 2, 0x10, 0x40000, 0x1000_0000, u64::MAX] {
                assert_eq!(evaluate(&program, number.id() as u32, [argument; 6]), refused, "{name}");
            }
        }
        let personality = syscalls::Sysno::personality.id() as u32;
        for (argument, expected) in [
            (0, libc::SECCOMP_RET_ALLOW),
            (0x40000, libc::SECCOMP_RET_ALLOW),
            (0xffff_ffff, libc::SECCOMP_RET_ALLOW),
            (0x400000, refused),
            (0x0008, refused),
            (0x1_0000_0000, refused),
        ] {
            assert_eq!(
                evaluate(&program, personality, [argument, 0, 0, 0, 0, 0]),
                expected,
                "{argument:#x}"
            );
        }
    }

    /// A program that tries the newest way first goes on with an older one.
    #[test]
    fn calls_newer_than_the_profile_are_absent() {
        let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let program = compile(&shipped()).unwrap();
        let newest = verdicts(&shipped()).unwrap().keys().next_back().copied().unwrap();
        for number in [newest + 1, newest + 2, newest + 100, 0x3fff_ffff] {
            for argument in [0, 1, u64::MAX] {
                assert_eq!(evaluate(&program, number, [argument; 6]), absent, "call {number}");
            }
        }
        for number in [OTHER_ABIS, OTHER_ABIS + 1, OTHER_ABIS + newest + 1, u32::MAX] {
            assert_eq!(evaluate(&program, number, [0; 6]), refused, "call {number:#x}");
        }
        // Whatever else is the default stays it.
        for default in ["SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS"] {
            let profile: LinuxSeccomp = serde_json::from_value(serde_json::json!({
                "defaultAction": default,
                "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ERRNO" }]
            }))
            .unwrap();
            let expected = action(profile.default_action(), None).unwrap();
            assert_eq!(evaluate(&compile(&profile).unwrap(), 600, [0; 6]), expected);
        }
    }

    #[test]
    fn the_tree_is_shallow() {
        let length = compile(&shipped()).unwrap().len();
        assert!(length < 400, "{length}");
    }
}
