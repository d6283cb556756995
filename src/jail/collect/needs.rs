//! What programs, libraries and scripts need: their interpreters, what the linker loads, what they open by name.

use super::libraries::Library;
use super::{Bringer, Collector, find_program};
use crate::jail::JailError;
use crate::jail::elf;
use crate::jail::listing::{EntryKind, JailEntry};
use crate::jail::opened::{self, Opens};
use std::path::{Path, PathBuf};

/// A file whose needs are still to be looked at.
pub(super) struct Pending {
    pub owner: Option<u32>,
    pub path: PathBuf,
    /// As whoever loads it names it: the linker's $ORIGIN does not follow a library's links.
    pub named: PathBuf,
    /// Is a lack an error?
    pub needed: bool,
    /// Where those that load it say (RPATH) that libraries are.
    pub loaders: Vec<PathBuf>,
}

impl Collector {
    /// Follows what is on the list to what that needs, until nothing is new.
    pub(super) fn follow(&mut self) -> Result<(), JailError> {
        while let Some(next) = self.queue.pop() {
            match self.needs_of(&next) {
                Err(
                    e @ (JailError::NoLibrary { .. } | JailError::NoInterpreter { .. } | JailError::BrokenElf { .. }),
                ) if !next.needed => {
                    self.out.notes.push(e.to_string());
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// A file that nobody may run, of a kind that needs nothing: there are thousands, and they need not be opened.
    fn is_text(&self, path: &Path) -> bool {
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let runs = |i: &JailEntry| matches!(i.kind, EntryKind::File { executable: true, .. });
        let known = ["py", "pyc", "js", "json", "pem", "crt", "txt", "h", "html", "conf"].contains(&kind)
            || path.starts_with("/usr/share/zoneinfo");
        known && !self.out.items.get(path).is_some_and(runs)
    }

    fn needs_of(&mut self, pending: &Pending) -> Result<(), JailError> {
        use std::io::{Read, Seek};
        let Pending {
            path, named, needed, ..
        } = pending;
        let needed = *needed;
        if self.is_text(path) {
            return Ok(());
        }
        let read = |e| JailError::io("read", path, e);
        let mut file = std::fs::File::open(path).map_err(read)?;
        let mut head = [0; 256];
        let got = file.read(&mut head).map_err(read)?;
        let head = &head[..got];
        let why = format!("{} needs it", path.display());
        let bringer = Bringer {
            owner: pending.owner,
            loaders: &pending.loaders,
        };
        if let Some(line) = head.strip_prefix(b"#!") {
            let executable = matches!(
                self.out.items.get(path),
                Some(JailEntry {
                    kind: EntryKind::File { executable: true, .. },
                    ..
                })
            );
            return if executable {
                self.script(path, line, &why, needed, bringer)
            } else {
                Ok(())
            };
        }
        if !elf::is_elf(head) {
            return Ok(());
        }
        file.rewind().map_err(read)?;
        let mut data = Vec::with_capacity(file.metadata().map_or(0, |m| m.len() as usize) + 1);
        file.read_to_end(&mut data).map_err(read)?;
        let broken = |cause| JailError::BrokenElf {
            path: path.to_owned(),
            cause,
        };
        let Some(needs) = elf::needs(&data).map_err(broken)? else {
            return Ok(());
        };
        if let Some(interpreter) = &needs.interpreter
            && !self.add(interpreter, &why, needed, bringer)?
        {
            return Err(JailError::NoInterpreter {
                script: path.to_owned(),
                interpreter: interpreter.display().to_string(),
            });
        }
        // Where a RUNPATH stands, no RPATH counts; else its own and those of whoever loads it, ld.so(8).
        let mut loaders = pending.loaders.clone();
        if needs.runpath.is_empty() {
            loaders.splice(0..0, elf::expand(&needs.rpath, named, needs.kind));
        }
        let bringer = Bringer {
            loaders: &loaders,
            ..bringer
        };
        for library in &needs.libraries {
            let Some(found) = self.search(named, &needs, library, &loaders)? else {
                continue;
            };
            self.bring(&found, &why, needed, bringer)?;
            self.opened_by(library, &found, needs.kind, bringer.owner)?;
        }
        let why = format!("{} opens it by name", path.display());
        for library in &needs.opened {
            self.opened(named, &needs, library, &why, bringer)?;
        }
        let owner = pending.owner;
        self.all_opened(opened::by_program(path), path, named, needs.kind, owner)
    }

    fn bring(&mut self, found: &Library, why: &str, needed: bool, bringer: Bringer<'_>) -> Result<(), JailError> {
        for variant in &found.variants {
            self.add_as(variant, Some(variant), why, needed, bringer)?;
        }
        if found.by_cache {
            let because = format!("it says where {} is", found.file.display());
            self.add(Path::new("/etc/ld.so.cache"), &because, needed, bringer)?;
        }
        self.add_as(&found.file, Some(&found.file), why, needed, bringer)
            .map(drop)
    }

    /// What a library opens by name, as far as that is known; what of it is not here, is not there either.
    fn opened_by(
        &mut self,
        library: &str,
        found: &Library,
        kind: (u8, u16),
        mut owner: Option<u32>,
    ) -> Result<(), JailError> {
        let opens = opened::by(library);
        if opens.is_empty() || !self.openers.insert(library.to_owned()) {
            return Ok(());
        }
        let place = self.resolve(&found.file, "", &mut owner)?;
        self.all_opened(opens, &place, &found.file, kind, owner)
    }

    /// `opener`: where what opens it really lies; `named`: as whoever loads that names it.
    fn all_opened(
        &mut self,
        opens: &[Opens],
        opener: &Path,
        named: &Path,
        kind: (u8, u16),
        owner: Option<u32>,
    ) -> Result<(), JailError> {
        let why = format!("{} opens it by name", opener.display());
        let bringer = Bringer { owner, loaders: &[] };
        let needs = elf::Needs {
            kind,
            ..elf::Needs::default()
        };
        for what in opens {
            match what {
                Opens::Library(name) => self.opened(named, &needs, name, &why, bringer)?,
                Opens::Path(pattern) => {
                    for path in glob::glob(pattern).into_iter().flatten().flatten() {
                        self.opened_path(&path, &why, bringer);
                    }
                }
                Opens::Beside(path) => {
                    self.opened_path(&opener.parent().unwrap_or(opener).join(path), &why, bringer);
                }
            }
        }
        Ok(())
    }

    fn opened_path(&mut self, path: &Path, why: &str, bringer: Bringer<'_>) {
        if self.excluded(path) {
            return;
        }
        // It may be so odd that it cannot be there; a recipe that names it is told so.
        if let Err(e) = self.add(path, why, false, bringer) {
            self.out.notes.push(e.to_string());
        }
    }

    fn opened(
        &mut self,
        by: &Path,
        needs: &elf::Needs,
        name: &str,
        why: &str,
        bringer: Bringer<'_>,
    ) -> Result<(), JailError> {
        match self.search(by, needs, name, bringer.loaders) {
            Ok(Some(found)) if !self.excluded(&found.file) => self.bring(&found, why, false, bringer),
            Ok(_) | Err(JailError::NoLibrary { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// By the name that it is found by, or by its place.
    pub(super) fn excluded(&self, path: &Path) -> bool {
        let real = std::fs::canonicalize(path).unwrap_or_default();
        self.exclude
            .iter()
            .any(|g| g.matches_path(path) || g.matches_path(&real))
    }

    fn script(
        &mut self,
        path: &Path,
        line: &[u8],
        why: &str,
        needed: bool,
        bringer: Bringer<'_>,
    ) -> Result<(), JailError> {
        let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line).into_owned();
        let mut words = line.split_whitespace();
        let Some(interpreter) = words.next() else { return Ok(()) };
        let lacks = |what: &str| JailError::NoInterpreter {
            script: path.to_owned(),
            interpreter: what.to_owned(),
        };
        let found = Path::new(interpreter).is_absolute() && self.add(Path::new(interpreter), why, needed, bringer)?;
        if !found {
            return Err(lacks(interpreter));
        }
        if interpreter.ends_with("/env")
            && let Some(program) = words.find(|w| !w.starts_with('-') && !w.contains('='))
        {
            let place = find_program(program)?.ok_or_else(|| lacks(program))?;
            self.add(&place, why, needed, bringer)?;
        }
        Ok(())
    }
}
