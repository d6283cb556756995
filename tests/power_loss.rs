//! Power loss, on a real file system: an ext4 image is cut off from one moment to the next, copied while it is mounted, and
//! the copy is mounted, which replays its journal. Whatever counts as there must be whole there.
//!
//! The cut is the kernel's own (FS_IOC_SHUTDOWN without a flush of the journal): what the device has, it has, and nothing
//! that is only in memory gets there any more. Another program syncs a file of its own all the time, so that the journal is
//! written every few milliseconds, and ext4's care for careless programs is turned off (`noauto_da_alloc`). A control shows
//! that a file which is renamed without being synced is empty then.
//!
//! Two moments a case and mode in the ordinary run; `PYSECURE_POWER_LOSS=20` for twenty.

#![allow(unsafe_code, reason = "an ioctl that no library has")]

mod harness;

use harness::{App, BOTH, Ended, Mode};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn moments() -> u32 {
    std::env::var("PYSECURE_POWER_LOSS").map_or(2, |n| {
        n.parse().expect("PYSECURE_POWER_LOSS is how many moments a case")
    })
}

/// A source of chance that is told, so that a run can be had again.
struct Chance(u64);

impl Chance {
    fn new() -> Chance {
        let seed = std::env::var("PYSECURE_POWER_LOSS_SEED")
            .map_or(u64::from(std::process::id()) << 20 | 0x9e37, |n| n.parse().unwrap());
        println!("PYSECURE_POWER_LOSS_SEED={seed}");
        Chance(seed)
    }

    fn within(&mut self, longest: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(self.0 % (longest.as_micros() as u64 + 1))
    }
}

#[track_caller]
fn tool(program: &str, args: &[&str]) -> Ended {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}; install `e2fsprogs` and `util-linux`"));
    Ended::from(output).ok()
}

/// An image, mounted on an app's state directory.
struct Disk {
    image: PathBuf,
    place: PathBuf,
}

impl Disk {
    /// A new and empty one.
    fn format(image: &Path, owner: (u32, u32)) {
        let file = std::fs::File::create(image).unwrap();
        file.set_len(192 << 20).unwrap();
        let owner = format!("root_owner={}:{}", owner.0, owner.1);
        tool("mkfs.ext4", &["-q", "-F", "-E", &owner, image.to_str().unwrap()]);
    }

    fn mount(image: &Path, place: &Path) -> Disk {
        std::fs::create_dir_all(place).unwrap();
        let (image, at) = (image.to_str().unwrap(), place.to_str().unwrap());
        tool("mount", &["-o", "loop,noauto_da_alloc,commit=1", image, at]);
        Disk {
            image: image.into(),
            place: place.to_owned(),
        }
    }

    /// From now on nothing gets to the device any more.
    fn cut(&self) {
        nix::ioctl_read!(goingdown, b'X', 125, u32);
        const NO_FLUSH_OF_THE_LOG: u32 = 2;
        let top = std::fs::File::open(&self.place).unwrap();
        let mut flags = NO_FLUSH_OF_THE_LOG;
        // SAFETY: FS_IOC_SHUTDOWN reads a number.
        unsafe { goingdown(top.as_raw_fd(), &mut flags) }
            .expect("a test cuts off ext4: it needs CAP_SYS_ADMIN and FS_IOC_SHUTDOWN");
    }

    /// What the device has, mounted elsewhere.
    fn copy(&self, place: &Path) -> Disk {
        let image = self.image.with_extension("copy");
        tool(
            "cp",
            &["--sparse=always", self.image.to_str().unwrap(), image.to_str().unwrap()],
        );
        Disk::mount(&image, place)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
        // Until nobody holds it any more, what is written to it would get into whatever has its image's name next.
        if !std::thread::panicking() {
            wait_for_unmount(&self.image);
        }
    }
}

/// Another program, which has the journal written again and again.
struct Syncer<'s> {
    ends: &'s AtomicBool,
}

impl<'s> Syncer<'s> {
    fn start<'scope>(scope: &'scope std::thread::Scope<'scope, 's>, folder: &Path, ends: &'s AtomicBool) -> Syncer<'s> {
        let path = folder.join("another-s");
        scope.spawn(move || {
            let Ok(mut file) = std::fs::File::create(path) else {
                return;
            };
            while !ends.load(Ordering::Relaxed) {
                // Until the power goes.
                if file.write_all(&[0; 512]).and_then(|()| file.sync_all()).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Syncer { ends }
    }
}

impl Drop for Syncer<'_> {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// Ends all that the app's user has started with this state directory, and their services with them.
fn end_all(app: &App) {
    let mark = format!("PYSECURE_STATE_DIR={}", app.state().display());
    let running = || -> Vec<i32> {
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.windows(mark.len()).any(|w| w == mark.as_bytes())
        })
        .collect()
    };
    harness::wait_until(|| {
        let all = running();
        for pid in &all {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
        }
        all.is_empty().then_some(())
    });
}

/// What a case is made of.
struct Case<'c> {
    name: &'c str,
    manifest: String,
    /// Beside the manifest.
    files: Vec<(&'c str, Vec<u8>)>,
    /// What is done before, in peace.
    before: &'c dyn Fn(&App),
    /// What the power goes during; the app need not be down after it.
    command: &'c [&'c str],
    /// What has to be so afterwards, with the power back. A word for what was found.
    after: &'c dyn Fn(&App) -> &'static str,
}

fn owner(mode: Mode) -> (u32, u32) {
    match mode {
        Mode::Root => (0, 0),
        Mode::Rootless => harness::user(),
    }
}

fn try_all(case: &Case<'_>) {
    let mut chance = Chance::new();
    for mode in BOTH {
        let app = App::new(mode, &case.manifest);
        for (name, content) in &case.files {
            app.write(name, content);
        }
        let (base, image) = (app.folder.join("base.img"), app.folder.join("disk.img"));
        Disk::format(&base, owner(mode));
        let disk = Disk::mount(&base, &app.state());
        (case.before)(&app);
        drop(disk);
        let mut longest = Duration::ZERO;
        let mut found: BTreeMap<&'static str, u32> = BTreeMap::new();
        // One to see how long it takes.
        for moment in 0..=moments() {
            tool(
                "cp",
                &["--sparse=always", base.to_str().unwrap(), image.to_str().unwrap()],
            );
            let disk = Disk::mount(&image, &app.state());
            let ends = AtomicBool::new(false);
            let delay = std::thread::scope(|scope| {
                let _syncer = Syncer::start(scope, &app.state(), &ends);
                let begun = Instant::now();
                let mut child = app
                    .command(case.command)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                let delay = match moment {
                    0 => {
                        assert!(
                            child.wait().unwrap().success(),
                            "{}: {:?} fails as it is",
                            case.name,
                            case.command
                        );
                        longest = begun.elapsed() * 5 / 4;
                        longest
                    }
                    _ => {
                        let delay = chance.within(longest);
                        std::thread::sleep(delay);
                        delay
                    }
                };
                disk.cut();
                let _ = child.kill();
                let _ = child.wait();
                delay
            });
            let copy = disk.image.with_extension("copy");
            tool(
                "cp",
                &["--sparse=always", disk.image.to_str().unwrap(), copy.to_str().unwrap()],
            );
            end_all(&app);
            drop(disk);
            let copy = Disk::mount(&copy, &app.state());
            let what = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (case.after)(&app)));
            let Ok(what) = what else {
                panic!("{} {mode:?}: power lost after {delay:?} of {longest:?}", case.name);
            };
            *found.entry(what).or_default() += 1;
            let _ = app.run(&["down"]);
            end_all(&app);
            drop(copy);
        }
        println!(
            "{} {mode:?}: power lost at {} moments of {longest:?}: {found:?}",
            case.name,
            moments() + 1
        );
    }
}

fn wait_for_unmount(image: &Path) {
    harness::wait_until(|| {
        let used = Command::new("losetup").arg("-j").arg(image).output().unwrap().stdout;
        used.is_empty().then_some(())
    });
}

/// Lines that are told apart, enough to take several blocks.
fn content(of: &str) -> Vec<u8> {
    (0..2_000)
        .flat_map(|line| format!("{of} {line}\n").into_bytes())
        .collect()
}

const FILES: usize = 20;

fn manifest(name: &str, range: u32, more: &str) -> String {
    format!(
        r#"
[app]
name = "{name}"
uid_range = [{range}, {last}]
gid_range = [{range}, {last}]
{more}
[services.keeps]
command = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"]
owner_resources = ["data"]
"#,
        last = range + 9
    )
}

const FILL: &str = r#"set -e
for n in $(seq 20); do
  seq -f "data $n %.0f" 2000 > /data/d/$n
done
echo first > /data/d/state
"#;

/// All of what `FILL` makes, as the service sees it.
fn whole(app: &App) -> bool {
    let sums = "cd /data/d; for n in $(seq 20); do seq -f \"data $n %.0f\" 2000 | cmp - $n || exit 1; done; cat state; stat -c %u 1; id -u";
    let seen = app.sh("keeps", sums).ok().out;
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines.len(), 3, "{seen}");
    // It is its owner's.
    assert_eq!(lines[1], lines[2], "{seen}");
    lines[0] == "first"
}

#[test]
fn what_setup_makes_is_whole_or_is_made_again() {
    let case = Case {
        name: "setup",
        manifest: manifest(
            "lossinit",
            44_000,
            "setup = \"fill.sh\"\n[resources]\ndata = { path = \"/data/d/\", owner = \"rw\" }",
        ),
        files: vec![("fill.sh", FILL.into())],
        before: &|_| {},
        command: &["up", "-d"],
        after: &|app| {
            let there = app.state().join("apps/lossinit/resources").exists();
            app.ok(&["up", "-d"]);
            assert!(whole(app));
            assert!(!app.state().join("apps/lossinit/initializing").exists());
            if there { "there" } else { "made again" }
        },
    };
    try_all(&case);
}

#[test]
fn initializing_again_leaves_the_old_data_or_the_new() {
    let case = Case {
        name: "setup-again",
        manifest: manifest(
            "lossagain",
            44_020,
            "setup = \"fill.sh\"\n[resources]\ndata = { path = \"/data/d/\", owner = \"rw\" }",
        ),
        files: vec![("fill.sh", FILL.into())],
        before: &|app| {
            app.ok(&["up", "-d"]);
            app.sh("keeps", "echo second > /data/d/state").ok();
            app.ok(&["down"]);
        },
        command: &["setup"],
        after: &|app| {
            app.ok(&["up", "-d"]);
            let first = whole(app);
            assert!(!app.state().join("apps/lossagain/initializing").exists());
            if first { "new" } else { "old" }
        },
    };
    try_all(&case);
}

#[test]
fn after_a_start_the_ledger_and_what_resources_begin_with_are_whole() {
    let more = "[resources]\ndata = { path = \"/data/d/\", owner = \"rw\", initial = \"begin\" }";
    let names: Vec<String> = (0..FILES).map(|n| format!("begin/{n}")).collect();
    let case = Case {
        name: "up",
        manifest: manifest("lossup", 44_040, more),
        files: names.iter().map(|name| (name.as_str(), content(name))).collect(),
        before: &|_| {},
        command: &["up", "-d"],
        after: &|app| {
            let folder = app.state().join("apps/lossup");
            let ledger = folder.join("ledger.json");
            if let Ok(text) = std::fs::read_to_string(&ledger) {
                serde_json::from_str::<serde_json::Value>(&text).expect("the ledger is whole");
            }
            let there = folder.join("resources/data").exists();
            app.ok(&["up", "-d"]);
            for name in &names {
                let inside = name.replace("begin", "/data/d");
                let seen = app
                    .sh("keeps", &format!("cat {inside}; stat -c %u {inside}; id -u"))
                    .ok()
                    .out;
                let rest = seen.strip_prefix(std::str::from_utf8(&content(name)).unwrap());
                let ids: Vec<&str> = rest.expect("a file is whole").lines().collect();
                assert_eq!(ids[0], ids[1]);
            }
            if there { "there" } else { "made again" }
        },
    };
    try_all(&case);
}

#[test]
fn a_jail_that_is_there_is_whole_and_no_blob_lies() {
    let host = harness::folder_of_the_host();
    for number in 0..FILES {
        let file = host.path().join(number.to_string());
        std::fs::write(&file, content(&number.to_string())).unwrap();
    }
    let recipe = format!("extends = \"minimal\"\npaths = [\"{}\"]\n", host.path().display());
    let case = Case {
        name: "jail build",
        manifest: manifest(
            "lossjail",
            44_060,
            "[resources]\ndata = { path = \"/data/d/\", owner = \"rw\" }",
        ),
        files: vec![("jails/small.toml", recipe.into_bytes())],
        before: &|_| {},
        command: &["jail", "build", "small"],
        after: &|app| {
            let jails = app.state().join("jails");
            let there = check_store(&jails, host.path());
            // And what there is no more is made again.
            app.ok(&["jail", "build", "small"]);
            assert_eq!(check_store(&jails, host.path()), 1);
            if there > 0 { "there" } else { "made again" }
        },
    };
    try_all(&case);
}

/// How many trees there are; all of them and all blobs are whole.
fn check_store(jails: &Path, host: &Path) -> usize {
    for shelf in entries(&jails.join("blobs")) {
        for blob in entries(&shelf) {
            let name = blob.file_name().unwrap().to_str().unwrap().to_owned();
            let hash: String = Sha256::digest(std::fs::read(&blob).unwrap())
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            assert!(name.starts_with(&hash), "{name} holds what has the hash {hash}");
        }
    }
    let trees = entries(&jails.join("trees"));
    for tree in &trees {
        for number in 0..FILES {
            let inside = host.strip_prefix("/").unwrap().join(number.to_string());
            assert!(
                std::fs::read(tree.join(&inside)).unwrap() == content(&number.to_string()),
                "{tree:?}: {inside:?}"
            );
        }
        let hash = tree.file_name().unwrap();
        assert!(std::fs::metadata(jails.join("manifests").join(hash)).unwrap().size() > 0);
    }
    for known in entries(&jails.join("index")) {
        let hash = std::fs::read_to_string(&known).unwrap();
        assert!(jails.join("trees").join(&hash).is_dir() && hash.len() == 64, "{hash:?}");
    }
    trees.len()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder).into_iter().flatten();
    all.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn data_that_is_being_deleted_is_all_there_or_counts_as_gone() {
    let case = Case {
        name: "down --purge",
        manifest: manifest(
            "losspurge",
            44_080,
            "setup = \"fill.sh\"\n[resources]\ndata = { path = \"/data/d/\", owner = \"rw\" }",
        ),
        files: vec![("fill.sh", FILL.into())],
        before: &|app| {
            app.ok(&["up", "-d"]);
            // So much that deleting it takes several turns of the journal.
            let more = "mkdir /data/d/more && cd /data/d/more && for n in $(seq 2000); do : >$n; done";
            app.sh("keeps", more).ok();
            app.sh("keeps", "echo second > /data/d/state").ok();
            app.ok(&["down"]);
        },
        command: &["down", "--purge"],
        after: &|app| {
            app.ok(&["up", "-d"]);
            // Half of it would not be whole.
            let first = whole(app);
            let more = app.sh("keeps", "ls /data/d/more | wc -l").ok().out;
            assert_eq!(more.trim(), if first { "0" } else { "2000" });
            assert!(!app.state().join("apps/losspurge/purging").exists());
            if first { "gone" } else { "all there" }
        },
    };
    try_all(&case);
}

/// Without what is tried here, files are empty.
#[test]
fn a_file_that_is_renamed_and_not_synced_is_empty_after_a_power_loss() {
    harness::need_root();
    let folder = harness::fresh_folder();
    let image = folder.join("disk.img");
    let (place, again) = (folder.join("state"), folder.join("again"));
    Disk::format(&image, (0, 0));
    let mut empty = 0;
    for synced in [false, true] {
        let disk = Disk::mount(&image, &place);
        let ends = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _syncer = Syncer::start(scope, &place, &ends);
            for number in 0..FILES {
                let fresh = place.join("fresh");
                std::fs::write(&fresh, content("control")).unwrap();
                if synced {
                    std::fs::File::open(&fresh).unwrap().sync_all().unwrap();
                }
                std::fs::rename(&fresh, place.join(format!("{synced}-{number}"))).unwrap();
            }
            // What is synced after all of them brings all the names.
            std::fs::File::create(place.join("last")).unwrap().sync_all().unwrap();
            disk.cut();
        });
        let copy = disk.copy(&again);
        for number in 0..FILES {
            let found = std::fs::read(again.join(format!("{synced}-{number}"))).unwrap();
            if synced {
                assert!(found == content("control"), "{number}");
            } else {
                empty += usize::from(found.is_empty());
            }
        }
        drop(copy);
        drop(disk);
        Disk::format(&image, (0, 0));
    }
    println!("without a sync {empty} of {FILES} are empty, with one none");
    assert!(empty > 0);
    std::fs::remove_dir_all(&folder).unwrap();
}
