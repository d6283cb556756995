//! Of one run nothing is visible to the next, nor to those beside it.

use crate::harness::{BOTH, Mode};
use crate::pool::{Pool, say};
use serde_json::json;
use std::collections::BTreeSet;

#[test]
fn nothing_of_a_run_is_there_in_the_next() {
    let leave = "
import builtins, json, os, random, sys, socket, tempfile, threading
json.left = builtins.left = sys.left = random.left = os.left = 'left'
sys.path.insert(0, '/left'); sys.argv.append('left'); os.environ['LEFT'] = 'left'
sys.modules['left'] = json
json.loads = None
random.seed(1)
random.random = lambda: 4
os.umask(0)
os.nice(5)
for folder in ('/tmp', '/dev/shm'):
    with open(folder + '/left', 'w') as file: file.write('left')
fds = [os.open('/dev/null', os.O_RDONLY) for _ in range(50)]
listening = socket.socket(socket.AF_UNIX); listening.bind('\\0left'); listening.listen()
net = socket.socket(); net.bind(('127.0.0.1', 7777)); net.listen()
import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
try: os.setpriority(os.PRIO_PROCESS, 0, 19)
except OSError: pass
print('done')
";
    let look = "
import builtins, json, os, random, sys, socket
print([hasattr(m, 'left') for m in (json, builtins, sys, random, os)], '/left' in sys.path, 'left' in sys.argv, 'LEFT' in os.environ, 'left' in sys.modules)
print(json.loads('1'), random.random() != 4, [os.listdir(f) for f in ('/tmp', '/dev/shm')])
print(oct(os.umask(0)), os.nice(0), len(os.listdir('/proc/self/fd')))
def to(family, address):
    try:
        socket.socket(family).connect(address); return 'connected'
    except OSError as e: return e.errno
print(to(socket.AF_UNIX, '\\0left'), to(socket.AF_INET, ('127.0.0.1', 7777)), sorted(n for n in os.environ if 'SECRET' in n))
import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))
";
    for mode in BOTH {
        for ready in [0, 2] {
            let pool = Pool::new(mode, json!({ "ready": ready, "at_once": 2 }));
            let first = pool.python(look).ok().out;
            let nothing = "[False, False, False, False, False] False False False False\n1 True [[], []]\n0o77 0 ";
            assert!(first.starts_with(nothing), "{mode:?} {ready}: {first}");
            assert!(first.ends_with("111 111 []\n(256, 256)\n"), "{mode:?} {ready}: {first}");
            for _ in 0..4 {
                let left = pool.with(leave, json!({ "environment": { "SECRET": "x" } })).ok();
                assert_eq!(left.out, "done\n");
                assert_eq!(pool.python(look).ok().out, first, "{mode:?} {ready}");
            }
        }
    }
}

/// What a run held in memory is not in the pages of the next, nor in the warm interpreter's.
#[test]
fn no_memory_of_a_run_is_in_the_next() {
    let hold = "secret = ('sword' + 'fish') * 1000\nprint(len(secret))";
    let scan = "
needle = b'ordfi' + b'shsw'
found = total = 0
with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
    for line in maps.read().splitlines():
        if line.split()[1][0] != 'r' or '[v' in line: continue
        first, last = (int(n, 16) for n in line.split()[0].split('-'))
        try: memory.seek(first); text = memory.read(last - first)
        except OSError: continue
        total += len(text); found += text.count(needle)
print(found > 900, total > 1000000)
";
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        // The control: a run's own memory has it.
        let own = format!("{hold}\n{scan}");
        assert_eq!(pool.python(&own).ok().out, "9000\nTrue True\n", "{mode:?}");
        assert_eq!(pool.python(scan).ok().out, "False True\n", "{mode:?}");
    }
}

#[test]
fn copies_do_not_share_what_is_random() {
    let code = "
import random, uuid, ssl, os, tempfile, hashlib
print(random.random(), uuid.uuid4(), uuid.uuid1(), ssl.RAND_bytes(8).hex(), os.urandom(8).hex(), tempfile.mktemp(), random.SystemRandom().random(), sep='\\n')
";
    for mode in BOTH {
        let preload = json!(["random", "uuid", "ssl", "tempfile"]);
        let pool = Pool::new(mode, json!({ "preload": preload, "ready": 2, "at_once": 4 }));
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let runs: Vec<_> = (0..4).map(|_| pool.begin(code, json!({}))).collect();
            for run in runs {
                let out = run.ended().ok().out;
                assert_eq!(out.lines().count(), 7);
                for line in out.lines() {
                    assert!(seen.insert(line.to_owned()), "{mode:?}: {line} twice");
                }
            }
        }
    }
}

/// As root each run at one time has an id of its own, and sees nobody else.
#[test]
fn runs_at_one_time_are_apart() {
    let code = "
import os, sys
print(os.getuid(), os.getgid(), os.getgroups(), flush=True)
sys.stdin.read()
print([p for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid())])
";
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let ask = || pool.ask(json!({ "task": { "code": code } }), &[("stdin", &read)]);
        let runs: Vec<_> = (0..6).map(|_| ask()).collect();
        let said: Vec<_> = runs.iter().map(|run| run.until("\n")).collect();
        let ids: BTreeSet<_> = said
            .iter()
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(ids.len(), if mode == Mode::Root { 6 } else { 1 }, "{said:?}");
        assert!(!ids.contains("0"), "{said:?}");
        drop(write);
        for run in runs {
            let ended = run.ended().ok();
            assert!(ended.out.ends_with("\n[]\n"), "{mode:?}: {ended:#?}");
            let own: u64 = ended.out.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(ended.uid, Some(own), "{mode:?}");
        }
    }
}

/// An interrupt reaches the run that it is for, and no other.
#[test]
fn an_interrupt_is_for_one_run() {
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        let code = "
import time
print('on', flush=True)
try: time.sleep(1e6)
except KeyboardInterrupt: print('interrupted')
";
        let runs = [pool.begin(code, json!({})), pool.begin(code, json!({}))];
        for run in &runs {
            run.until("on\n");
        }
        let [one, other] = runs;
        say(&one.connection, br#"{"interrupt": true}"#, &[]);
        assert_eq!(one.ended().ok().out, "on\ninterrupted\n", "{mode:?}");
        say(&other.connection, br#"{"kill": "stopped"}"#, &[]);
        let other = other.ended();
        assert_eq!(
            (other.limit(), other.out.as_str()),
            (Some("stopped"), "on\n"),
            "{mode:?}"
        );
    }
}
