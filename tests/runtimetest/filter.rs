//! A filter of system calls, as the kernel has it of a process, held against the spec's `linux.seccomp`: by what both say
//! of every call and of arguments on both sides of each condition.

use serde_json::Value;
use std::str::FromStr;

/// An instruction of classic BPF; linux/filter.h.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Instruction {
    code: u32,
    yes: u32,
    no: u32,
    constant: u32,
}

/// What the kernel answers with; linux/seccomp.h.
pub(crate) const ALLOW: u32 = 0x7fff_0000;
pub(crate) const ERRNO: u32 = 0x0005_0000;

/// As `filter.c` prints them.
pub(crate) fn read(text: &str) -> Vec<Instruction> {
    let one = |line: &str| {
        let numbers: Vec<u32> = line.split(' ').map(|n| n.parse().unwrap()).collect();
        Instruction {
            code: numbers[0],
            yes: numbers[1],
            no: numbers[2],
            constant: numbers[3],
        }
    };
    text.lines().map(one).collect()
}

/// What this machine's architecture is called in the data of a filter; linux/audit.h.
fn architecture() -> u32 {
    match std::env::consts::ARCH {
        "x86_64" => 0xc000_003e,
        "aarch64" => 0xc000_00b7,
        other => panic!("add {other} here"),
    }
}

/// What the kernel does with a call under this program.
fn of_program(program: &[Instruction], number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = vec![number, architecture(), 0, 0];
    data.extend(arguments.iter().flat_map(|a| [*a as u32, (*a >> 32) as u32]));
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let Instruction {
            code,
            yes,
            no,
            constant,
        } = program[at];
        at += 1;
        let mut go = |holds: bool| at += if holds { yes } else { no } as usize;
        match code {
            0x20 => accumulator = data[constant as usize / 4],
            0x54 => accumulator &= constant,
            0x05 => at += constant as usize,
            0x15 => go(accumulator == constant),
            0x25 => go(accumulator > constant),
            0x35 => go(accumulator >= constant),
            0x45 => go(accumulator & constant != 0),
            0x06 => return constant,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn action(name: &Value, errno: &Value) -> u32 {
    match name.as_str().unwrap() {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO | errno.as_u64().unwrap_or(libc::EPERM as u64) as u32,
        other => panic!("add {other} here"),
    }
}

fn rules<'s>(profile: &'s Value, name: &str) -> impl Iterator<Item = &'s Value> {
    let all = profile["syscalls"].as_array().unwrap();
    all.iter()
        .filter(move |rule| rule["names"].as_array().unwrap().iter().any(|n| n == name))
}

fn conditions(rule: &Value) -> &[Value] {
    rule["args"].as_array().map_or(&[], Vec::as_slice)
}

/// What the spec says of a call.
pub(crate) fn of_spec(profile: &Value, name: &str, arguments: [u64; 6]) -> u32 {
    decide(profile, &rules(profile, name).collect::<Vec<_>>(), arguments)
}

/// The first of a call's rules all of whose conditions hold decides, else the default.
fn decide(profile: &Value, rules: &[&Value], arguments: [u64; 6]) -> u32 {
    let holds = |condition: &Value| {
        let argument = arguments[condition["index"].as_u64().unwrap() as usize];
        let value = condition["value"].as_u64().unwrap();
        match condition["op"].as_str().unwrap() {
            "SCMP_CMP_EQ" => argument == value,
            "SCMP_CMP_NE" => argument != value,
            "SCMP_CMP_LT" => argument < value,
            "SCMP_CMP_LE" => argument <= value,
            "SCMP_CMP_GT" => argument > value,
            "SCMP_CMP_GE" => argument >= value,
            "SCMP_CMP_MASKED_EQ" => argument & value == condition["valueTwo"].as_u64().unwrap_or(0),
            other => panic!("{other}"),
        }
    };
    match rules.iter().find(|rule| conditions(rule).iter().all(holds)) {
        Some(rule) => action(&rule["action"], &rule["errnoRet"]),
        None => action(&profile["defaultAction"], &profile["defaultErrnoRet"]),
    }
}

/// Arguments on both sides of each condition on a call: with all else 0 and with all else 1.
fn arguments(rules: &[&Value]) -> Vec<[u64; 6]> {
    let mut out = vec![[0; 6], [u64::MAX; 6]];
    for condition in rules.iter().flat_map(|rule| conditions(rule)) {
        let index = condition["index"].as_u64().unwrap() as usize;
        let value = condition["value"].as_u64().unwrap();
        let two = condition["valueTwo"].as_u64().unwrap_or(0);
        for base in [0, value, two, !value | two] {
            let near = [
                base,
                base.wrapping_add(1),
                base.wrapping_sub(1),
                base ^ 1 << 32,
                base ^ 1 << 63,
            ];
            for chosen in near.into_iter().chain((0..32).map(|bit| base ^ 1 << bit)) {
                for mut all in out.clone().into_iter().take(16) {
                    all[index] = chosen;
                    out.push(all);
                }
            }
        }
    }
    out
}

/// Where the two differ: each call once, the first time. Numbers from `end` on are not compared.
pub(crate) fn differences(profile: &Value, program: &[Instruction], end: u32) -> Vec<String> {
    let named = profile["syscalls"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|rule| rule["names"].as_array().unwrap());
    let numbers = named.filter_map(|name| syscalls::Sysno::from_str(name.as_str().unwrap()).ok());
    let newest = numbers.map(|known| known.id() as u32).max().unwrap();
    let mut out = Vec::new();
    for number in 0..end {
        let name = syscalls::Sysno::new(number as usize).map_or("", |known| known.name());
        let rules: Vec<&Value> = rules(profile, name).collect();
        for arguments in arguments(&rules) {
            let found = of_program(program, number, arguments);
            let wanted = match number > newest {
                // As if the kernel were as old as the profile: so runc does it, too.
                true => ERRNO | libc::ENOSYS as u32,
                false => decide(profile, &rules, arguments),
            };
            if wanted != found {
                out.push(format!(
                    "call {number} {name} {arguments:x?}: the spec has {wanted:#x}, found {found:#x}"
                ));
                break;
            }
        }
    }
    out
}

/// The number of a call on this machine.
pub(crate) fn number(name: &str) -> i32 {
    syscalls::Sysno::from_str(name)
        .unwrap_or_else(|_| panic!("{name}"))
        .id()
}
