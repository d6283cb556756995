//! The short-lived child in which a probe tries the real thing, and how it answers.
//!
//! The child is this program once more (`doctor --probe NAME`), by `std::process`: a fresh process
//! has one thread, which `unshare(CLONE_NEWUSER)` demands; it keeps the path that an AppArmor
//! profile is attached to; and it takes no unsafe `fork`. The `unshare` crate would enter the
//! namespaces before the program starts and so could not say at which step a machine refuses, which
//! is what the doctor is asked.
//!
//! Whatever a trial does to itself ends with its process. A child that hangs is killed: the doctor
//! itself must always come back with an answer.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// Stands before a child's answer, so that whatever else it prints cannot be taken for one.
const MARK: &str = "pysecure-probe: ";
const PATIENCE: Duration = Duration::from_secs(10);

/// What a trial did not get: which step, and the kernel's reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub step: String,
    pub errno: i32,
}

impl Refused {
    pub(crate) fn new(step: &str, errno: i32) -> Self {
        Refused {
            step: step.to_owned(),
            errno,
        }
    }

    pub(crate) fn reason(&self) -> String {
        match self.errno {
            0 => self.step.clone(),
            n => format!("{}: {}", self.step, nix::errno::Errno::from_raw(n).desc()),
        }
    }
}

pub(crate) type Outcome = Result<String, Refused>;

/// Gives a failed call the name of its step. Takes nix's, rustix's and the standard errors alike.
pub(crate) fn step<T, E: Into<std::io::Error>>(name: &str, result: Result<T, E>) -> Result<T, Refused> {
    result.map_err(|e| Refused::new(name, e.into().raw_os_error().unwrap_or(0)))
}

/// How to start this program again so that it runs one trial: the trial's name comes last.
#[derive(Clone, Debug)]
pub struct Runner {
    pub program: PathBuf,
    pub args: Vec<OsString>,
}

impl Runner {
    /// `pysecure doctor --probe NAME`.
    pub fn this_program() -> Self {
        Runner {
            program: "/proc/self/exe".into(),
            args: vec!["doctor".into(), "--probe".into()],
        }
    }

    /// As this process, itself a trial, was started.
    pub(crate) fn again() -> Self {
        let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
        args.pop();
        Runner {
            program: "/proc/self/exe".into(),
            args,
        }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).arg(name).current_dir("/");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }

    /// Runs one trial to its end.
    pub(crate) fn try_out(&self, name: &str) -> Outcome {
        let mut child = step("start a probe", self.command(name).spawn())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match step("wait for a probe", child.try_wait())? {
                Some(_) => break,
                None if Instant::now() > deadline => {
                    // Not read any more: a grandchild may still hold the pipe open.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(Refused::new("no answer within ten seconds", 0));
                }
                None => std::thread::sleep(Duration::from_micros(500)),
            }
        }
        let mut said = String::new();
        if let Some(out) = child.stdout.take() {
            step("read a probe's answer", out.take(1 << 16).read_to_string(&mut said))?;
        }
        parse(&said)
    }

    /// A child that sits in a new user namespace with no ids mapped, for others to map.
    pub(crate) fn hold_user_namespace(&self) -> Result<Held, Refused> {
        let mut command = self.command("hold");
        let mut child = step("start a probe", command.stdin(Stdio::piped()).spawn())?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let held = Held { child, _stdin: stdin };
        let mut line = String::new();
        if let Some(out) = stdout {
            let mut out = BufReader::new(out).take(1 << 16);
            // Whatever a test harness prints before the mark is passed over.
            while !line.contains(MARK) {
                line.clear();
                if step("read a probe's answer", out.read_line(&mut line))? == 0 {
                    break;
                }
            }
        }
        parse(&line).map(|_| held)
    }
}

/// Ends its child when it goes out of scope, on every path.
pub(crate) struct Held {
    child: Child,
    _stdin: Option<ChildStdin>,
}

impl Held {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child's side: says the outcome where [`Runner::try_out`] listens.
pub(crate) fn answer(outcome: &Outcome) {
    let json = match outcome {
        Ok(found) => serde_json::json!({ "found": found }),
        Err(refused) => serde_json::json!({ "step": refused.step, "errno": refused.errno }),
    };
    let mut out = std::io::stdout().lock();
    // Nobody to tell if even this fails; the parent reports a child without an answer.
    let _ = writeln!(out, "{MARK}{json}");
    let _ = out.flush();
}

fn parse(said: &str) -> Outcome {
    let none = || Refused::new("the probe died without an answer", 0);
    let (_, json) = said.rsplit_once(MARK).ok_or_else(none)?;
    let json = json.lines().next().unwrap_or("");
    let value: serde_json::Value = serde_json::from_str(json).map_err(|_| none())?;
    if let Some(found) = value["found"].as_str() {
        return Ok(found.to_owned());
    }
    let step = value["step"].as_str().ok_or_else(none)?;
    let errno = value["errno"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
    Err(Refused::new(step, errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_after_other_output() {
        let said = "running 1 test\ntest x ... pysecure-probe: {\"found\":\"it\"}\nok\n";
        assert_eq!(parse(said), Ok("it".into()));
    }

    #[test]
    fn silence_and_nonsense_are_refusals() {
        for said in [
            "",
            "pysecure-probe: ",
            "pysecure-probe: {",
            "pysecure-probe: {\"errno\":1}",
        ] {
            assert!(parse(said).is_err(), "{said:?}");
        }
        let said = "pysecure-probe: {\"step\":\"s\",\"errno\":1}";
        assert_eq!(parse(said), Err(Refused::new("s", 1)));
    }
}
