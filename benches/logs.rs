//! The log path: lines per second from one service through the supervisor to its file, beside the same program's
//! lines through a pipe and `cat` to a file, in one run and in turn: `cargo bench --bench logs`, as root, with gcc.
//!
//! Nothing is asserted: the table says what was seen.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 7;

/// Must reach, of what `cat` does.
const LEAST: f64 = 0.5;

/// Prints so many lines of so many bytes, in writes of 4 KiB as stdio does, and then stays, or ends.
const PRINTER: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    long lines = atol(argv[1]), length = atol(argv[2]);
    char *line = malloc(length + 1);
    memset(line, 'x', length);
    line[length - 1] = '\n';
    line[length] = 0;
    static char buffer[4096];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    for (long n = 0; n < lines; n++) fwrite(line, 1, length, stdout);
    fflush(stdout);
    if (argc > 3) for (;;) pause();
    return 0;
}
"#;

fn main() {
    let folder = PathBuf::from("/var/tmp").join(format!("pysecure-bench-logs-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("app")).unwrap();
    std::fs::write(folder.join("printer.c"), PRINTER).unwrap();
    must(
        Command::new("cc")
            .args(["-static", "-O2", "-o"])
            .arg(folder.join("app/printer"))
            .arg(folder.join("printer.c")),
    );
    println!("| what | ours | peer | ratio | must reach | met? |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (length, lines) in [(100, 6_000_000), (1000, 800_000), (20, 12_000_000)] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(supervised(&folder, lines, length));
            theirs.push(cat(&folder, lines, length));
        }
        let (ours, theirs) = (lines as f64 / median(ours), lines as f64 / median(theirs));
        let ratio = ours / theirs;
        println!(
            "| lines of {length} bytes from a service to its file | {:.2} million/s | through a pipe and `cat`: {:.2} million/s \
             | {ratio:.2} | ≥ {LEAST} | {} |",
            ours / 1e6,
            theirs / 1e6,
            if ratio >= LEAST { "met" } else { "**missed**" }
        );
    }
    let _ = std::fs::remove_dir_all(&folder);
}

/// Seconds from the start of the service until its file has all lines; the start itself is measured and left out.
fn supervised(folder: &Path, lines: usize, length: usize) -> f64 {
    let run = |lines: usize| {
        let manifest = format!(
            "[app]\nname = \"printer\"\ncode = {{ \"/app\" = \"{}\" }}\n[services.p]\n\
             command = [\"/app/printer\", \"{lines}\", \"{length}\"]\nlogs = {{ max_size = \"100G\" }}\n",
            folder.join("app").display()
        );
        std::fs::write(folder.join("pysecure.toml"), manifest).unwrap();
        let pysecure = |args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_pysecure"));
            command
                .args(args)
                .current_dir(folder)
                .env("PYSECURE_STATE_DIR", folder.join("state"));
            command
        };
        let log = folder.join("state/apps/printer/logs/p.log");
        let size = (lines * (length + "2026-01-31T12:00:00.123456Z stdout F ".len())) as u64;
        let start = Instant::now();
        must(&mut pysecure(&["up", "-d"]));
        while std::fs::metadata(&log).map_or(0, |m| m.len()) < size {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let took = start.elapsed().as_secs_f64();
        assert_eq!(std::fs::metadata(&log).unwrap().len(), size);
        must(&mut pysecure(&["down"]));
        std::fs::remove_file(&log).unwrap();
        took
    };
    run(lines) - run(1)
}

fn cat(folder: &Path, lines: usize, length: usize) -> f64 {
    let out = folder.join("cat.out");
    let start = Instant::now();
    must(Command::new("sh").arg("-c").arg(format!(
        "{} {lines} {length} | cat > {}",
        folder.join("app/printer").display(),
        out.display()
    )));
    let took = start.elapsed().as_secs_f64();
    assert_eq!(std::fs::metadata(&out).unwrap().len() as usize, lines * length);
    std::fs::remove_file(&out).unwrap();
    took
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[track_caller]
fn must(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
