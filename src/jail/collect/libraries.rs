//! Where the linker finds a library, ld.so(8).

use super::Collector;
use crate::jail::JailError;
use crate::jail::elf;
use std::path::{Path, PathBuf};

/// A library, where the linker finds it.
pub(super) struct Library {
    pub file: PathBuf,
    /// Others beside it for some processors: which is taken is decided where the jail runs, so all of them go in.
    pub variants: Vec<PathBuf>,
    /// Does the linker know its place from ld.so.cache alone?
    pub by_cache: bool,
}

impl Collector {
    /// Where the linker finds a library; none if it need not look, for it is there.
    pub(super) fn search(
        &mut self,
        path: &Path,
        needs: &elf::Needs,
        name: &str,
        loaders: &[PathBuf],
    ) -> Result<Option<Library>, JailError> {
        let own: Vec<PathBuf> = if name.contains('/') {
            elf::expand(&[name.to_owned()], path, needs.kind)
        } else {
            let folders = match needs.runpath.is_empty() {
                true => loaders.to_owned(),
                false => elf::expand(&needs.runpath, path, needs.kind),
            };
            folders.iter().map(|f| f.join(name)).collect()
        };
        let fits = |p: &Path| fits(p, needs.kind);
        if let Some(found) = own.into_iter().find(|p| fits(p)) {
            if path.starts_with(&self.grafted) && found.starts_with(&self.grafted) {
                return Ok(None);
            }
            let beside = found.parent().unwrap_or(Path::new("/")).join("glibc-hwcaps");
            let kinds = std::fs::read_dir(beside).into_iter().flatten().flatten();
            let mut variants: Vec<_> = kinds.map(|k| k.path().join(name)).filter(|p| fits(p)).collect();
            variants.sort();
            return Ok(Some(Library {
                file: found,
                variants,
                by_cache: false,
            }));
        }
        let folders = elf::default_folders(needs.kind);
        let cache = self.cache.get_or_insert_with(|| {
            let data = std::fs::read("/etc/ld.so.cache").unwrap_or_default();
            elf::cache(&data)
        });
        let cached: Vec<PathBuf> = cache
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, p)| p.clone())
            .collect();
        let is_variant = |p: &Path| p.components().any(|c| c.as_os_str() == "glibc-hwcaps");
        let (mut variants, plain): (Vec<_>, Vec<_>) = cached.into_iter().partition(|p| is_variant(p));
        variants.retain(|p| fits(p));
        let usual = folders.iter().map(|f| f.join(name));
        let Some(file) = plain.into_iter().chain(usual).find(|p| fits(p)) else {
            // The linker takes one of that name that somebody else has loaded, from wherever.
            let named = |p: &PathBuf| p.file_name().is_some_and(|n| n == name);
            if self.out.items.keys().any(|p| named(p) && fits(p)) {
                return Ok(None);
            }
            return Err(JailError::NoLibrary {
                program: path.to_owned(),
                library: name.to_owned(),
            });
        };
        Ok(Some(Library {
            by_cache: !file.parent().is_some_and(|p| folders.iter().any(|f| f == p)),
            file,
            variants,
        }))
    }
}

/// Is this a file for the same kind of machine? The linker passes over others.
fn fits(path: &Path, kind: (u8, u16)) -> bool {
    use std::io::Read;
    let mut head = [0u8; 20];
    let read = std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut head));
    if read.is_err() || !elf::is_elf(&head) || head[4] != kind.0 {
        return false;
    }
    let machine = [head[18], head[19]];
    let number = if head[5] == 2 {
        u16::from_be_bytes(machine)
    } else {
        u16::from_le_bytes(machine)
    };
    number == kind.1
}
