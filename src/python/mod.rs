//! A configuration in Python: run in a sandbox, and read as the JSON manifest that it comes to.
//!
//! Here is the side that waits: it starts this program once more, which makes the sandbox ([`sandbox`]) and becomes
//! the interpreter's launcher, and takes what comes out within bounds of time and size. The file is untrusted: what it
//! says is a manifest like any other, and where that is wrong its own lines are shown ([`Python::at_its_lines`]).
//! What may not happen here: running any of it outside of the sandbox, or waiting for it without end.

pub mod sandbox;

use crate::manifest::{Diagnostic, Format, LoadError, Source};
use crate::packages;
use jsonc_parser::ast;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A configuration makes a few objects; what takes longer waits for something that will not come.
const PATIENCE: Duration = Duration::from_secs(crate::compile::CONFIGURATION_CPU_SECONDS / 2);
/// The largest manifest, and what stands around it.
const MOST_ANSWERED: usize = 17 << 20;
const MOST_PRINTED: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("run {}: {operation}: {cause}", .path.display())]
    Io {
        path: PathBuf,
        operation: &'static str,
        #[source]
        cause: std::io::Error,
    },
    #[error("{}: everybody may write to {what}, and so say what this configuration is; `chmod o-w`, or move it to a folder of its own", .path.display())]
    Open { path: PathBuf, what: &'static str },
    #[error(
        "{}: it belongs to UID {file}, but its folder to UID {folder}, who may put other modules beside it; move it to a folder of its owner's",
        .path.display()
    )]
    Strange { path: PathBuf, folder: u32, file: u32 },
    #[error("{}{}: {message}", .path.display(), .line.map(|n| format!(":{n}")).unwrap_or_default())]
    Failed {
        path: PathBuf,
        line: Option<usize>,
        message: String,
        /// What it printed meanwhile, such as a traceback.
        printed: String,
    },
}

/// What a configuration came to.
#[derive(Debug)]
pub struct Python {
    /// The file itself, to be shown.
    shown: Source,
    /// Where in the manifest's text each of its objects stands, and in the file the lines that made it. Sorted so that
    /// inner ones come first.
    objects: Vec<(Range<usize>, Range<usize>)>,
    /// May all call all, because it does not say who may?
    pub unrestricted: bool,
    pub printed: String,
}

/// What [`sandbox`]'s program says on its standard output.
#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
    line: Option<usize>,
    #[serde(default)]
    manifest: String,
    #[serde(default)]
    unrestricted: bool,
    /// `services.NAME` and the like: the first line and the last.
    #[serde(default)]
    places: BTreeMap<String, [usize; 2]>,
}

/// Runs the configuration; the manifest that it comes to, as JSON under the file's own name.
pub fn read(path: &Path) -> Result<(Source, Python), PythonError> {
    let place = Place::of(path)?;
    let shown = Source::of(path, place.file.try_clone().map_err(io(path, "read it"))?)?;
    let (output, status) = run(path, &place, &shown.text)?;
    let printed = String::from_utf8_lossy(&output.printed).into_owned();
    let failed = |line, message: String, printed| PythonError::Failed {
        path: path.to_owned(),
        line,
        message,
        printed,
    };
    if let Some(excess) = output.excess {
        return Err(failed(None, excess, printed));
    }
    let Ok(answer) = serde_json::from_slice::<Answer>(&output.answered) else {
        let message = format!("it ended ({status}) before it had made a configuration; what it printed says why");
        return Err(failed(None, message, printed));
    };
    if let Some(message) = answer.error {
        return Err(failed(answer.line, message, printed));
    }
    let objects = objects(&answer, &shown.text);
    let source = Source {
        path: path.to_owned(),
        text: answer.manifest,
        format: Format::Json,
    };
    let python = Python {
        shown,
        objects,
        unrestricted: answer.unrestricted,
        printed,
    };
    Ok((source, python))
}

struct Output {
    answered: Vec<u8>,
    printed: Vec<u8>,
    /// It was ended, because of this.
    excess: Option<String>,
}

/// Where a configuration lies and whose it is, by the descriptor that it is read from: its folder may be another user's,
/// who puts another file there at any time.
struct Place {
    file: File,
    /// The folder that it was opened in, free of links.
    folder: PathBuf,
    uid: u32,
}

impl Place {
    fn of(path: &Path) -> Result<Place, PythonError> {
        let parent = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(parent, flags, Mode::empty());
        let opened = opened.map_err(|e| io(path, "open its folder")(e.into()))?;
        let inside = Path::new("/proc/self/fd").join(opened.as_raw_fd().to_string());
        let folder = std::fs::read_link(&inside).map_err(io(path, "find its folder"))?;
        let file = match path.file_name() {
            Some(name) => Source::open(&inside.join(name), path)?,
            None => return Err(io(path, "open it")(std::io::ErrorKind::IsADirectory.into())),
        };
        let found = file.metadata().map_err(io(path, "look at it"))?;
        let around = rustix::fs::fstat(&opened).map_err(|e| io(path, "look at its folder")(e.into()))?;
        // Whoever may write either decides what runs here.
        let everybody = [(found.mode(), "it"), (around.st_mode, "its folder")];
        for (mode, what) in everybody {
            if mode & 0o002 != 0 {
                let path = path.to_owned();
                return Err(PythonError::Open { path, what });
            }
        }
        // In a user's namespace, others' folders and root's look alike.
        let own = [0, found.uid(), rustix::process::geteuid().as_raw()].contains(&around.st_uid);
        if !own && !crate::host::outer::inside() {
            return Err(PythonError::Strange {
                path: path.to_owned(),
                folder: around.st_uid,
                file: found.uid(),
            });
        }
        Ok(Place {
            folder,
            uid: found.uid(),
            file,
        })
    }
}

fn io(path: &Path, operation: &'static str) -> impl FnOnce(std::io::Error) -> PythonError {
    let path = path.to_owned();
    move |cause| PythonError::Io { path, operation, cause }
}

fn run(path: &Path, place: &Place, text: &str) -> Result<(Output, ExitStatus), PythonError> {
    let wrong = |operation| io(path, operation);
    // What is run is what was read, and is shown if it is wrong, even if the file changes meanwhile.
    let memory = rustix::fs::memfd_create(c"configuration", rustix::fs::MemfdFlags::CLOEXEC);
    let mut memory = File::from(memory.map_err(|e| wrong("make a memfd")(e.into()))?);
    memory.write_all(&packages()).map_err(wrong("fill a memfd"))?;
    memory.write_all(text.as_bytes()).map_err(wrong("fill a memfd"))?;
    memory.rewind().map_err(wrong("fill a memfd"))?;
    let child = Command::new("/proc/self/exe")
        .arg(sandbox::COMMAND)
        .arg(format!("--owner={}", place.uid))
        .arg("--")
        .arg(place.folder.join(path.file_name().unwrap_or_default()))
        .stdin(Stdio::from(memory))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(wrong("start its sandbox"))?;
    let output = collect(&mut child);
    // If it goes on, there is nobody to hear it.
    let _ = child.kill();
    let status = child.wait().map_err(wrong("wait for its sandbox"))?;
    Ok((output.map_err(wrong("hear from its sandbox"))?, status))
}

/// The packages that this program carries, as `boot.py` takes them: a line of JSON before the configuration.
fn packages() -> Vec<u8> {
    let files: BTreeMap<&str, &str> = packages::carried().iter().copied().collect();
    let all = serde_json::json!({ "version": packages::VERSION, "folder": packages::FOLDER, "files": files });
    format!("{all}\n").into_bytes()
}

fn collect(child: &mut Child) -> std::io::Result<Output> {
    let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(std::io::ErrorKind::BrokenPipe.into());
    };
    let end = Instant::now() + PATIENCE;
    let mut output = Output {
        answered: Vec::new(),
        printed: Vec::new(),
        excess: None,
    };
    let mut open = [true, true];
    let mut bytes = vec![0u8; 64 << 10];
    while open != [false, false] {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            output.excess = Some(format!(
                "it ran for {} seconds without coming to a configuration, and was ended; a configuration makes its \
                 objects and ends",
                PATIENCE.as_secs()
            ));
            break;
        }
        // A pipe that has ended would be ready for ever.
        let flags = |open| if open { PollFlags::IN } else { PollFlags::empty() };
        let mut ready = [PollFd::new(&out, flags(open[0])), PollFd::new(&err, flags(open[1]))];
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut ready, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let heard = [!ready[0].revents().is_empty(), !ready[1].revents().is_empty()];
        if open[0] && heard[0] {
            let read = out.read(&mut bytes)?;
            open[0] = read > 0;
            output.answered.extend_from_slice(&bytes[..read]);
        }
        if open[1] && heard[1] {
            let read = err.read(&mut bytes)?;
            open[1] = read > 0;
            output.printed.extend_from_slice(&bytes[..read]);
        }
        if output.answered.len() > MOST_ANSWERED {
            output.excess = Some("the manifest that it comes to is larger than 16 MiB".into());
            break;
        }
        if output.printed.len() > MOST_PRINTED {
            output.printed.truncate(2048);
            output.excess = Some("it printed more than 64 KiB, and was ended; above is how that begins".into());
            break;
        }
    }
    Ok(output)
}

/// The objects of the manifest that lines of the file made.
fn objects(answer: &Answer, file: &str) -> Vec<(Range<usize>, Range<usize>)> {
    let parsed = jsonc_parser::parse_to_ast(
        &answer.manifest,
        &jsonc_parser::CollectOptions::default(),
        &jsonc_parser::ParseOptions::default(),
    );
    let Ok(Some(ast::Value::Object(root))) = parsed.map(|p| p.value) else {
        return Vec::new();
    };
    let starts: Vec<usize> = std::iter::once(0)
        .chain(file.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    let line = |number: usize| starts.get(number.saturating_sub(1)).copied().unwrap_or(file.len());
    let mut found: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    for (key, [first, last]) in &answer.places {
        if key.is_empty() {
            found.push((0..answer.manifest.len(), line(*first)..line(last + 1)));
            continue;
        }
        let mut value = root.get(key.split('.').next().unwrap_or_default());
        if let Some((_, name)) = key.split_once('.') {
            value = value.and_then(|p| p.value.as_object()).and_then(|o| o.get(name));
        }
        if let Some(property) = value {
            found.push((property.range.start..property.range.end, line(*first)..line(last + 1)));
        }
    }
    found.sort_by_key(|(within, _)| within.len());
    found
}

impl Python {
    /// The file, and the same diagnostics at its lines instead of the manifest's.
    pub fn at_its_lines(&self, source: &Source, found: &[Diagnostic]) -> (Source, Vec<Diagnostic>) {
        let moved = found.iter().cloned().map(|mut diagnostic| {
            diagnostic.span = self.place(source, &diagnostic.span);
            for (span, _) in &mut diagnostic.others {
                *span = self.place(source, span);
            }
            diagnostic
        });
        (self.shown.clone(), moved.collect())
    }

    /// Where in the file is what stands in this span of the manifest? In the lines that made the innermost object
    /// around it; there the same word, if it is there.
    fn place(&self, source: &Source, span: &Range<usize>) -> Range<usize> {
        let around = |within: &Range<usize>| within.start <= span.start && span.end <= within.end;
        let Some((_, lines)) = self.objects.iter().find(|(within, _)| around(within)) else {
            return 0..0;
        };
        let text = self.shown.text.get(lines.clone()).unwrap_or_default();
        let word = source.text.get(span.clone()).unwrap_or_default().trim_matches('"');
        if !word.is_empty()
            && let Some(at) = text.find(word)
        {
            return lines.start + at..lines.start + at + word.len();
        }
        let indent = text.len() - text.trim_start().len();
        lines.start + indent..lines.start + text.trim_end().len()
    }
}
