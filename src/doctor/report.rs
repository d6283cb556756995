//! The report: for eyes, for programs, and as an exit code.
//!
//! Judges only what it is given. Text from the machine (paths, other programs' words) is cleaned of
//! control characters here, so that none can play tricks on a terminal.

use super::finding::{Finding, Mode, Status};
use serde_json::{Value, json};

const WIDTH: usize = 96;
const MARK: usize = 10;
const NAME: usize = 22;

/// Before what a host does without.
const WITHOUT: &str = "without it: ";

/// For a terminal of 80 to 100 columns. The marks are words; `color` only adds to them.
pub fn render(findings: &[Finding], color: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let word = finding.status.word();
        let paint = match finding.status {
            Status::Ok => "32",
            Status::Degraded => "33",
            Status::Missing => "31",
        };
        let mark = format!("{word:<MARK$}");
        let mark = if color {
            format!("\x1b[{paint}m{mark}\x1b[0m")
        } else {
            mark
        };
        let indent = MARK + NAME;
        let found = wrap(&clean(&finding.found), WIDTH - indent);
        text += &format!("{mark}{:<NAME$}{}\n", finding.feature, found.join(&newline(indent)));
        // What a blocked one would need is said where its cause is.
        if finding.blocked_by.is_some() {
            continue;
        }
        if let Some(lost) = &finding.lost {
            let lost = wrap(&clean(lost), WIDTH - indent - WITHOUT.len());
            text += &format!(
                "{:indent$}{WITHOUT}{}\n",
                "",
                lost.join(&newline(indent + WITHOUT.len()))
            );
        }
        if let Some(remedy) = &finding.remedy {
            // Not wrapped: commands are copied. So they start further left.
            text += &format!("{:MARK$}to get it:\n", "");
            for line in remedy.lines() {
                text += &format!("{:1$}{2}\n", "", MARK + 2, clean(line));
            }
        }
    }
    text += &format!("\n{}\n", summary(findings).join("\n"));
    text
}

pub fn to_json(findings: &[Finding]) -> Value {
    let rows: Vec<Value> = findings
        .iter()
        .map(|finding| {
            json!({
                "feature": finding.feature,
                "status": finding.status.word(),
                "found": finding.found,
                "lost": finding.lost,
                "remedy": finding.remedy,
                "mode": finding.mode.word(),
                "required": finding.required,
                "blocked_by": finding.blocked_by,
            })
        })
        .collect();
    let ready = |mode| judged(findings, mode).then(|| lacking(findings).next().is_none());
    json!({
        "root": { "ready": ready(Mode::Root) },
        "rootless": { "ready": ready(Mode::Rootless) },
        "findings": rows,
    })
}

/// 0: services run in the mode that was probed, this user's. 1: they do not.
pub fn exit_code(findings: &[Finding]) -> u8 {
    u8::from(findings.is_empty() || lacking(findings).next().is_some())
}

/// Without these no service runs.
fn lacking(findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    findings
        .iter()
        .filter(|finding| finding.required && finding.status == Status::Missing)
}

/// A probe looks for one mode, that of the user who runs it; only its findings name that mode.
fn judged(findings: &[Finding], mode: Mode) -> bool {
    findings.iter().any(|finding| finding.mode == mode)
}

fn summary(findings: &[Finding]) -> Vec<String> {
    let names = |of: Vec<&Finding>| of.iter().map(|f| f.feature).collect::<Vec<_>>().join(", ");
    let sentence = |mode: Mode| {
        if !judged(findings, mode) {
            let how = match mode {
                Mode::Root => "sudo pysecure doctor",
                _ => "pysecure doctor as the user who will start services",
            };
            return format!("{} mode: not looked at: run {how}", mode.word());
        }
        let missing: Vec<&Finding> = lacking(findings).collect();
        if !missing.is_empty() {
            let causes: Vec<&Finding> = missing.iter().copied().filter(|f| f.blocked_by.is_none()).collect();
            // Blocked by something that is itself not required: then the blocked one is named.
            let named = if causes.is_empty() { missing } else { causes };
            return format!("{} mode: not ready: without {}", mode.word(), names(named));
        }
        let weak: Vec<&Finding> = findings
            .iter()
            .filter(|f| f.status != Status::Ok && f.blocked_by.is_none())
            .collect();
        if weak.is_empty() {
            format!("{} mode: ready", mode.word())
        } else {
            format!("{} mode: ready, with losses: {}", mode.word(), names(weak))
        }
    };
    // The mode that was judged stands last, where the eye is.
    let mut modes = [Mode::Root, Mode::Rootless];
    modes.sort_by_key(|mode| judged(findings, *mode));
    modes.iter().flat_map(|mode| wrap(&sentence(*mode), WIDTH)).collect()
}

fn newline(indent: usize) -> String {
    format!("\n{:indent$}", "")
}

fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if crate::plain::is_hidden(c) { '?' } else { c })
        .collect()
}

/// Breaks between words. A word longer than a line stays whole, for it is a path or a command.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last().map_or(0, |line| line.chars().count());
        match lines.last_mut() {
            Some(last) if line == 0 || line + 1 + word.chars().count() <= width => {
                if line > 0 {
                    last.push(' ');
                }
                last.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
