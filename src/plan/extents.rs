//! Where a path lies on disk, whatever it is called: the file system, and the place within that. One folder that is
//! mounted at two paths is the same place twice; proc_pid_mountinfo(5).

use super::PlanError;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::ops::Bound;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// All that is mounted in this process' mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounts {
    rows: Vec<Row>,
    /// By the id of what they are mounted in.
    children: HashMap<u64, Vec<usize>>,
    by_path: BTreeMap<PathBuf, Vec<usize>>,
    top: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    id: u64,
    /// `MAJOR:MINOR`, which stands for a file system whatever of it is mounted.
    device: String,
    /// What of the file system is mounted.
    root: PathBuf,
    at: PathBuf,
    /// Of an overlay: the directories that it is put together from.
    layers: Vec<PathBuf>,
}

/// A place in a file system that is reached through a path, with all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    pub device: String,
    /// Within the file system.
    pub path: PathBuf,
    /// The path by which it is reached.
    pub shown: PathBuf,
    /// The id of the mount that shows it there.
    pub mount: u64,
    /// Is it the path's own place, rather than that of a mount below it or of an overlay's layer?
    pub own: bool,
    /// Is it that of a mount below the path?
    pub below: bool,
}

impl Mounts {
    pub fn read() -> Result<Mounts, PlanError> {
        let path = "/proc/self/mountinfo";
        let wrong = |e| PlanError::io("read", path, e);
        // The kernel does not say how long it is; one call takes what most hosts have.
        let mut text = Vec::with_capacity(1 << 14);
        File::open(path)
            .and_then(|mut table| table.read_to_end(&mut text))
            .map_err(wrong)?;
        Ok(Mounts::parse(&text))
    }

    pub fn parse(text: &[u8]) -> Mounts {
        let (mut rows, mut parents) = (Vec::new(), Vec::new());
        for line in text.split(|b| *b == b'\n') {
            if let Some((row, parent)) = row(line) {
                rows.push(row);
                parents.push(parent);
            }
        }
        let ids: HashSet<u64> = rows.iter().map(|r: &Row| r.id).collect();
        let inside = |(row, parent): (&Row, &u64)| (*parent != row.id && ids.contains(parent)).then_some(*parent);
        let mut parents: Vec<Option<u64>> = rows.iter().zip(&parents).map(inside).collect();
        let top = (0..rows.len()).find(|at| parents[*at].is_none() && rows[*at].at == Path::new("/"));
        // Below a root that is no mount (chroot(2)) its own file system is not told.
        let top = top.unwrap_or_else(|| {
            parents.push(None);
            rows.push(Row {
                id: 0,
                device: "the root's".to_owned(),
                root: "/".into(),
                at: "/".into(),
                layers: Vec::new(),
            });
            rows.len() - 1
        });
        let mut children: HashMap<u64, Vec<usize>> = HashMap::new();
        let mut by_path: BTreeMap<PathBuf, Vec<usize>> = BTreeMap::new();
        for (at, row) in rows.iter().enumerate() {
            by_path.entry(row.at.clone()).or_default().push(at);
            if at != top {
                children
                    .entry(parents[at].unwrap_or(rows[top].id))
                    .or_default()
                    .push(at);
            }
        }
        Mounts {
            rows,
            children,
            by_path,
            top,
        }
    }

    /// The mount that an absolute path without links leads into.
    fn walk(&self, path: &Path) -> usize {
        let mut at = self.top;
        // A walk meets what is mounted nearest to the top first; that hides what was mounted further down before.
        while let Some(next) = self.children.get(&self.rows[at].id).and_then(|below| {
            let passed = below.iter().filter(|m| path.starts_with(&self.rows[**m].at));
            passed.min_by_key(|m| self.rows[**m].at.as_os_str().len())
        }) {
            at = *next;
        }
        at
    }

    /// All that is reached through `path`, an absolute path without links: its own place first. Nothing need be there.
    pub fn extents(&self, path: &Path) -> Vec<Extent> {
        let mut out = Vec::new();
        let own = self.walk(path);
        self.push(own, path, path, &mut out);
        // Paths sort by component, so all that lies below one follows it.
        let below = self.by_path.range::<Path, _>((Bound::Excluded(path), Bound::Unbounded));
        for (shown, rows) in below.take_while(|(p, _)| p.starts_with(path)) {
            let seen = self.walk(shown);
            if rows.contains(&seen) && seen != own {
                self.push(seen, shown, path, &mut out);
            }
        }
        out
    }

    /// What the mount `at` shows at `shown`, which is `path` or below it.
    fn push(&self, at: usize, shown: &Path, path: &Path, out: &mut Vec<Extent>) {
        let row = &self.rows[at];
        let inside = shown.strip_prefix(&row.at).unwrap_or(Path::new(""));
        let mut place = |of: &Row, lies: PathBuf, own: bool| {
            out.push(Extent {
                device: of.device.clone(),
                path: lies,
                shown: shown.to_owned(),
                mount: row.id,
                own,
                below: shown != path,
            });
        };
        place(row, join(&row.root, inside), shown == path);
        for layer in &row.layers {
            let lies = join(layer, inside);
            let under = &self.rows[self.walk(&lies)];
            let within = lies.strip_prefix(&under.at).unwrap_or(Path::new(""));
            place(under, join(&under.root, within), false);
        }
    }
}

/// Without the slash that joining nothing would leave at the end.
pub(super) fn join(folder: &Path, inside: &Path) -> PathBuf {
    match inside.as_os_str().is_empty() {
        true => folder.to_owned(),
        false => folder.join(inside),
    }
}

/// A line, and the id of what it is mounted in. What is no directory tree (`net:[4026531840]`) is left out.
fn row(line: &[u8]) -> Option<(Row, u64)> {
    let mut fields = line.split(|b| *b == b' ');
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u64>().ok();
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let root = plain(fields.next()?);
    let at = plain(fields.next()?);
    let mut rest = fields.skip_while(|f| *f != b"-").skip(1);
    let (kind, _, options) = (rest.next()?, rest.next()?, rest.next().unwrap_or_default());
    let layers = match kind {
        b"overlay" => layers(options),
        _ => Vec::new(),
    };
    root.is_absolute().then_some((
        Row {
            id,
            device,
            root,
            at,
            layers,
        },
        parent,
    ))
}

fn layers(options: &[u8]) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for option in options.split(|b| *b == b',') {
        for key in [&b"lowerdir="[..], b"lowerdir+=", b"datadir+=", b"upperdir="] {
            if let Some(value) = option.strip_prefix(key) {
                let parts = value.split(|b| *b == b':').filter(|p| p.starts_with(b"/"));
                out.extend(parts.map(plain));
            }
        }
    }
    out
}

/// Undoes the octal escapes of blanks and the like.
fn plain(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let digits = field
            .get(at + 1..at + 4)
            .filter(|d| d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match (field[at], digits) {
            (b'\\', Some(digits)) => {
                out.push(
                    digits
                        .iter()
                        .fold(0u8, |sum, d| sum.wrapping_mul(8).wrapping_add(d - b'0')),
                );
                at += 4;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 8:2 / /srv rw - ext4 /dev/sdb1 rw
3 1 8:1 /home/u/data /home/u/app/with\\040blank rw shared:1 - ext4 /dev/sda1 rw
4 1 0:30 / /a/b rw - tmpfs none rw
5 1 0:31 / /a rw - tmpfs none rw
6 1 0:40 / /over rw - overlay overlay rw,lowerdir=/home/u/app:/srv/x,upperdir=/up,workdir=/work
7 1 0:4 net:[4026531840] /run/netns/x rw - nsfs nsfs rw
8 2 0:50 / /srv rw - tmpfs none rw
";

    fn of(path: &str) -> Vec<(String, String, String)> {
        let all = Mounts::parse(TABLE).extents(Path::new(path));
        let text = |p: &Path| p.display().to_string();
        all.iter()
            .map(|e| (e.device.clone(), text(&e.path), text(&e.shown)))
            .collect()
    }

    fn one(device: &str, path: &str, shown: &str) -> (String, String, String) {
        (device.into(), path.into(), shown.into())
    }

    #[test]
    fn a_mount_below_is_part_of_a_folder() {
        assert_eq!(
            of("/home/u/app"),
            [
                one("8:1", "/home/u/app", "/home/u/app"),
                one("8:1", "/home/u/data", "/home/u/app/with blank")
            ]
        );
        assert_eq!(
            of("/home/u/app/with blank/x"),
            [one("8:1", "/home/u/data/x", "/home/u/app/with blank/x")]
        );
    }

    #[test]
    fn what_is_mounted_over_is_not_seen() {
        assert_eq!(of("/a/b/c"), [one("0:31", "/b/c", "/a/b/c")]);
        assert_eq!(of("/srv"), [one("0:50", "/", "/srv")]);
    }

    #[test]
    fn an_overlay_shows_its_layers() {
        assert_eq!(
            of("/over/x"),
            [
                one("0:40", "/x", "/over/x"),
                one("8:1", "/home/u/app/x", "/over/x"),
                one("0:50", "/x/x", "/over/x"),
                one("8:1", "/up/x", "/over/x")
            ]
        );
    }

    #[test]
    fn below_a_root_that_is_no_mount() {
        let all = Mounts::parse(b"9 5 8:2 /data /srv rw - ext4 /dev/sdb1 rw\n");
        let devices = |path: &str| {
            all.extents(Path::new(path))
                .into_iter()
                .map(|e| e.device)
                .collect::<Vec<_>>()
        };
        assert_eq!(devices("/home"), ["the root's"]);
        assert_eq!(devices("/"), ["the root's", "8:2"]);
        assert_eq!(devices("/srv/x"), ["8:2"]);
    }

    #[test]
    fn bad_lines_are_none() {
        let all = Mounts::parse(b"x\n\n1 2\n1 2 3 4 5 6 - \n");
        assert_eq!(all.extents(Path::new("/a")).len(), 1);
    }
}
