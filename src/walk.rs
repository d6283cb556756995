//! A tree of files, gone through however deep it is: services make directories as deep as they like.
//!
//! Neither the stack nor the number of descriptors grows with the depth, and no path is looked up that could be longer
//! than the kernel takes. Everything is reached by descriptor, through no link, and no other mount is entered unless that is said. What is
//! gone or moved meanwhile is left out.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// So many directories on the way down are held open; those above are found again by `..`.
const HELD: usize = 32;

/// What could not be done, and at which path in the tree. The walk can go on without it.
#[derive(Clone, Debug)]
pub struct WalkError {
    pub operation: &'static str,
    /// Relative to the top, which is empty.
    pub path: PathBuf,
    pub errno: Errno,
}

impl WalkError {
    /// As an error that names the path below `top`.
    pub fn below(self, top: &Path) -> std::io::Error {
        let kind = std::io::Error::from(self.errno).kind();
        let path = match self.path.as_os_str().is_empty() {
            true => top.to_owned(),
            false => top.join(&self.path),
        };
        std::io::Error::new(kind, format!("{} {}: {}", self.operation, shown(&path), self.errno))
    }
}

/// A path for an error: of a very long one, its beginning and its end.
pub fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    let characters = text.chars().count();
    if characters <= 400 {
        return text.into_owned();
    }
    let begin: String = text.chars().take(200).collect();
    let end: String = text.chars().skip(characters - 150).collect();
    format!("{begin}[…]{end}")
}

/// Something in the tree.
pub enum Found<'w> {
    /// A directory comes before what is in it.
    Entry(Entry<'w>),
    /// A directory, after all that is in it. Told only by [`Walk::with_ends`]. The top has no parent here, nor has what was
    /// moved meanwhile.
    End {
        parent: Option<BorrowedFd<'w>>,
        name: &'w CStr,
        path: &'w Path,
    },
}

pub struct Entry<'w> {
    /// The directory that it lies in; the top has none here.
    pub parent: Option<BorrowedFd<'w>>,
    pub name: &'w CStr,
    /// It itself (O_PATH), and no link that it may be.
    pub file: BorrowedFd<'w>,
    pub stat: Stat,
    /// Relative to the top, which is empty.
    pub path: &'w Path,
}

impl Entry<'_> {
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// Descriptors of the directories on the way to where one is.
#[derive(Default)]
pub struct Trail {
    levels: Vec<Level>,
}

struct Level {
    name: CString,
    id: (u64, u64),
    directory: Option<OwnedFd>,
}

impl Trail {
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    pub fn depth(&self) -> usize {
        self.levels.len()
    }

    /// The directory that was entered last.
    pub fn last(&self) -> Option<BorrowedFd<'_>> {
        self.levels.last()?.directory.as_ref().map(AsFd::as_fd)
    }

    /// Goes into a directory of the last one.
    pub fn enter(&mut self, name: &CStr, directory: OwnedFd) -> Result<(), Errno> {
        let stat = rustix::fs::fstat(&directory)?;
        self.levels.push(Level {
            name: name.to_owned(),
            id: (stat.st_dev, stat.st_ino),
            directory: Some(directory),
        });
        // The top stays: from there the way can be gone again.
        if let Some(far) = self.levels.len().checked_sub(HELD + 1).filter(|far| *far > 0) {
            self.levels[far].directory = None;
        }
        Ok(())
    }

    /// Goes out of the last one. Says whether the one above is still where it was; else it is left as well.
    pub fn leave(&mut self) -> bool {
        let Some(left) = self.levels.pop() else { return true };
        let Some(above) = self.levels.last() else { return true };
        if above.directory.is_some() {
            return true;
        }
        let wanted = above.id;
        let is_it = |directory: &OwnedFd| rustix::fs::fstat(directory).is_ok_and(|s| (s.st_dev, s.st_ino) == wanted);
        let by_dots = left
            .directory
            .and_then(|d| open(d.as_fd(), c"..", PLACE).ok())
            .filter(is_it);
        let found = by_dots.or_else(|| self.again());
        let there = found.is_some();
        if let Some(above) = self.levels.last_mut() {
            above.directory = found;
        }
        there
    }

    /// The way from the top once more, if all on it is as it was.
    fn again(&self) -> Option<OwnedFd> {
        let (top, below) = self.levels.split_first()?;
        let mut at = rustix::io::fcntl_dupfd_cloexec(top.directory.as_ref()?, 3).ok()?;
        for level in below {
            at = open(at.as_fd(), &level.name, PLACE).ok()?;
            let stat = rustix::fs::fstat(&at).ok()?;
            if (stat.st_dev, stat.st_ino) != level.id {
                return None;
            }
        }
        Some(at)
    }
}

const PLACE: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn open(directory: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

/// What is still to be looked at in a directory.
struct Listing {
    stream: Option<Dir>,
    /// What was read ahead, so that the stream could be closed.
    ahead: VecDeque<CString>,
    /// How long the directory's path is.
    length: usize,
}

pub struct Walk {
    trail: Trail,
    listings: Vec<Listing>,
    path: PathBuf,
    /// What [`Walk::next`] has told last, if that was an entry.
    told: Option<Told>,
    tells_ends: bool,
    crosses: bool,
    name: CString,
    top: Option<(OwnedFd, Stat)>,
}

struct Told {
    file: OwnedFd,
    stat: Stat,
}

impl Walk {
    /// `top`: opened in whatever way, as a file or a directory, but not as a link to one.
    pub fn new(top: OwnedFd) -> Result<Walk, Errno> {
        let stat = rustix::fs::fstat(&top)?;
        Ok(Walk {
            trail: Trail::default(),
            listings: Vec::new(),
            path: PathBuf::new(),
            told: None,
            tells_ends: false,
            crosses: false,
            name: CString::default(),
            top: Some((top, stat)),
        })
    }

    /// The same at a path, whose last part is no link.
    pub fn at(path: &Path) -> Result<Walk, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Walk::new(rustix::fs::open(path, flags, Mode::empty())?)
    }

    /// The same, telling the ends of directories as well.
    pub fn with_ends(self) -> Walk {
        Walk {
            tells_ends: true,
            ..self
        }
    }

    /// The same, entering what is mounted in it: all that whoever sees the top sees.
    pub fn with_mounts(self) -> Walk {
        Walk { crosses: true, ..self }
    }

    /// Does not go into the directory that was told last.
    pub fn skip(&mut self) {
        if let Some(told) = &mut self.told {
            told.stat.st_mode = 0;
        }
    }

    /// The next one, until there are none. After an error it goes on with what comes after.
    #[allow(clippy::should_implement_trait, reason = "what it gives is lent")]
    pub fn next(&mut self) -> Result<Option<Found<'_>>, WalkError> {
        if let Some((file, stat)) = self.top.take() {
            self.told = Some(Told { file, stat });
            return Ok(self.entry());
        }
        if let Some(told) = self.told.take()
            && FileType::from_raw_mode(told.stat.st_mode) == FileType::Directory
        {
            self.enter(&told.file)?;
        } else {
            self.path_is_of_the_last();
        }
        loop {
            let Some(name) = self.next_name()? else {
                if self.listings.is_empty() {
                    return Ok(None);
                }
                if let Some(ended) = self.leave() {
                    self.name = ended;
                    return Ok(Some(Found::End {
                        parent: self.trail.last(),
                        name: &self.name,
                        path: &self.path,
                    }));
                }
                continue;
            };
            self.path_is_of_the_last();
            let Some(directory) = self.trail.last() else {
                return Ok(None);
            };
            self.path.push(OsStr::from_bytes(name.to_bytes()));
            let within = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
            let resolve = match self.crosses {
                true => within,
                false => within | ResolveFlags::NO_XDEV,
            };
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat2(directory, &*name, flags, Mode::empty(), resolve);
            let opened = opened.and_then(|file| Ok((rustix::fs::fstat(&file)?, file)));
            match opened {
                // Gone since it was listed, or the place of another mount.
                Err(Errno::NOENT | Errno::XDEV) => {}
                Err(errno) => return Err(self.trouble("open", errno)),
                Ok((stat, file)) => {
                    self.name = name;
                    self.told = Some(Told { file, stat });
                    return Ok(self.entry());
                }
            }
        }
    }

    fn entry(&self) -> Option<Found<'_>> {
        let told = self.told.as_ref()?;
        Some(Found::Entry(Entry {
            parent: self.trail.last(),
            name: &self.name,
            file: told.file.as_fd(),
            stat: told.stat,
            path: &self.path,
        }))
    }

    fn trouble(&self, operation: &'static str, errno: Errno) -> WalkError {
        WalkError {
            operation,
            path: self.path.clone(),
            errno,
        }
    }

    fn path_is_of_the_last(&mut self) {
        let length = self.listings.last().map_or(0, |listing| listing.length);
        let mut bytes = std::mem::take(&mut self.path).into_os_string().into_encoded_bytes();
        bytes.truncate(length);
        self.path = PathBuf::from(OsString::from_vec(bytes));
    }

    fn enter(&mut self, file: &OwnedFd) -> Result<(), WalkError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = open(file.as_fd(), c".", flags).and_then(|directory| {
            let stream = Dir::read_from(&directory)?;
            Ok((directory, stream))
        });
        let (directory, stream) = match opened {
            Ok(opened) => opened,
            Err(errno) => {
                let trouble = self.trouble("read", errno);
                self.path_is_of_the_last();
                return match errno {
                    Errno::NOENT => Ok(()),
                    _ => Err(trouble),
                };
            }
        };
        let name = self.name.clone();
        self.trail
            .enter(&name, directory)
            .map_err(|errno| self.trouble("look at", errno))?;
        self.listings.push(Listing {
            stream: Some(stream),
            ahead: VecDeque::new(),
            length: self.path.as_os_str().len(),
        });
        // Whose descriptor the trail has let go has no stream either.
        if let Some(far) = self.listings.len().checked_sub(HELD + 1)
            && let Some(mut stream) = self.listings[far].stream.take()
        {
            while let Some(name) = next_of(&mut stream).map_err(|errno| self.trouble("read", errno))? {
                self.listings[far].ahead.push_back(name);
            }
        }
        Ok(())
    }

    fn next_name(&mut self) -> Result<Option<CString>, WalkError> {
        let Some(listing) = self.listings.last_mut() else {
            return Ok(None);
        };
        if let Some(name) = listing.ahead.pop_front() {
            return Ok(Some(name));
        }
        let Some(stream) = &mut listing.stream else {
            return Ok(None);
        };
        match next_of(stream) {
            Ok(name) => Ok(name),
            Err(errno) => {
                listing.stream = None;
                self.path_is_of_the_last();
                Err(self.trouble("read", errno))
            }
        }
    }

    /// Out of the last directory; its name, if its end is told.
    fn leave(&mut self) -> Option<CString> {
        self.path_is_of_the_last();
        self.listings.pop();
        let name = self.trail.levels.last().map(|level| level.name.clone());
        if !self.trail.leave()
            && let Some(above) = self.listings.last_mut()
        {
            // Moved away meanwhile, with what was still to be looked at in it.
            above.stream = None;
            above.ahead.clear();
        }
        name.filter(|_| self.tells_ends)
    }
}

fn next_of(stream: &mut Dir) -> Result<Option<CString>, Errno> {
    loop {
        match stream.next().transpose()? {
            None => return Ok(None),
            Some(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
            Some(entry) => return Ok(Some(entry.file_name().to_owned())),
        }
    }
}

/// Removes what is at a path, with all that is in it; nothing there is well, too. What is mounted in it is not touched,
/// and then it stays. An error names what could not be removed.
pub fn remove(path: &Path) -> std::io::Result<()> {
    let (parent, name) = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => (parent, name),
        _ => return Err(Errno::INVAL.into()),
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
        Ok(parent) => remove_at(parent.as_fd(), name).map_err(|trouble| trouble.below(path)),
    }
}

/// The same of what lies in a directory.
pub fn remove_at(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), WalkError> {
    let wrong = |operation, path: &Path| {
        let path = path.to_owned();
        move |errno| WalkError { operation, path, errno }
    };
    let gone = |result: Result<(), Errno>| match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(wrong("open", Path::new("")))?,
    };
    let mut walk = Walk::new(top).map_err(wrong("look at", Path::new("")))?.with_ends();
    while let Some(found) = walk.next()? {
        match found {
            Found::Entry(entry) if entry.kind() == FileType::Directory => {}
            Found::Entry(entry) => {
                let done = match entry.parent {
                    Some(directory) => rustix::fs::unlinkat(directory, entry.name, AtFlags::empty()),
                    None => rustix::fs::unlinkat(parent, name, AtFlags::empty()),
                };
                gone(done).map_err(wrong("remove", entry.path))?;
            }
            Found::End {
                parent: directory,
                name: inner,
                path,
            } => {
                let done = match directory {
                    Some(directory) => rustix::fs::unlinkat(directory, inner, AtFlags::REMOVEDIR),
                    None if path.as_os_str().is_empty() => rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR),
                    None => Ok(()),
                };
                gone(done).map_err(wrong("remove", path))?;
            }
        }
    }
    Ok(())
}

/// Is there anything in a tree for which `of` holds? What cannot be looked into holds nothing.
pub fn any(path: &Path, mut of: impl FnMut(&Entry<'_>) -> bool) -> bool {
    let Ok(mut walk) = Walk::at(path) else { return false };
    loop {
        match walk.next() {
            Ok(None) => return false,
            Ok(Some(Found::Entry(entry))) if of(&entry) => return true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain of directories below `top`, a file in each of the last two; how many there are.
    fn chain(top: &Path, depth: usize) -> usize {
        let mut at = rustix::fs::open(top, PLACE, Mode::empty()).unwrap();
        for level in 0..depth {
            rustix::fs::mkdirat(&at, "a-directory", Mode::from_raw_mode(0o700)).unwrap();
            if level + 2 >= depth {
                let flags = OFlags::CREATE | OFlags::WRONLY;
                rustix::fs::openat(&at, "file", flags, Mode::from_raw_mode(0o600)).unwrap();
            }
            at = open(at.as_fd(), c"a-directory", PLACE).unwrap();
        }
        1 + depth + depth.min(2)
    }

    fn count(top: &Path) -> (usize, usize, usize) {
        let mut walk = Walk::at(top).unwrap().with_ends();
        let (mut entries, mut ends, mut longest) = (0, 0, 0);
        while let Some(found) = walk.next().unwrap() {
            match found {
                Found::Entry(entry) => {
                    entries += 1;
                    longest = longest.max(entry.path.as_os_str().len());
                }
                Found::End { .. } => ends += 1,
            }
        }
        (entries, ends, longest)
    }

    #[test]
    fn depth_is_no_matter() {
        for depth in [0, 1, 2, HELD, HELD + 1, 300, 5_000] {
            let folder = tempfile::tempdir().unwrap();
            let all = chain(folder.path(), depth);
            let (entries, ends, longest) = count(folder.path());
            assert_eq!((entries, ends), (all, depth + 1), "{depth}");
            assert!(longest + 5 >= depth * 12, "{depth}: {longest}");
            let inner = folder.path().join("a-directory");
            remove(&inner).unwrap();
            assert!(!inner.exists());
            remove(&inner).unwrap();
        }
    }

    #[test]
    fn all_of_a_bushy_tree_is_told_once_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let mut wanted = std::collections::BTreeSet::from([PathBuf::new()]);
        for first in 0..40 {
            let mut path = PathBuf::from(first.to_string());
            for depth in 0..first {
                path.push(format!("d{depth}"));
            }
            std::fs::create_dir_all(folder.path().join(&path)).unwrap();
            std::os::unix::fs::symlink("/", folder.path().join(&path).join("link")).unwrap();
            wanted.insert(path.join("link"));
            wanted.extend(path.ancestors().map(Path::to_owned));
        }
        let mut found = Vec::new();
        let mut walk = Walk::at(folder.path()).unwrap();
        while let Some(Found::Entry(entry)) = walk.next().unwrap() {
            found.push(entry.path.to_owned());
        }
        assert_eq!(found.len(), wanted.len());
        assert_eq!(found.into_iter().collect::<std::collections::BTreeSet<_>>(), wanted);
    }

    #[test]
    fn what_is_moved_meanwhile_is_left_and_the_rest_is_told() {
        let folder = tempfile::tempdir().unwrap();
        chain(folder.path(), 200);
        std::fs::create_dir(folder.path().join("z")).unwrap();
        let mut walk = Walk::at(folder.path()).unwrap();
        let (mut moved, mut others) = (false, 0);
        while let Some(Found::Entry(entry)) = walk.next().unwrap() {
            if entry.path.components().count() == 190 {
                // A directory far above, whose descriptor is not held any more.
                let mut deep = folder.path().to_owned();
                (0..60).for_each(|_| deep.push("a-directory"));
                std::fs::rename(&deep, folder.path().join("elsewhere")).unwrap();
                moved = true;
            }
            others += usize::from(entry.path == Path::new("z"));
        }
        assert!(moved && others == 1);
    }
}
