"""Says what this process may do with each thing in the current folder: as many of `rlwdc` as it may read, list (a
directory), write (to a file, or in a directory), remove and put back, connect to (a socket, where only the answer
tells that nobody listens there)."""
import os, socket, stat, sys

def can(deed):
    try:
        deed()
    except OSError as error:
        return isinstance(error, ConnectionRefusedError)
    return True

def write(path, closed):
    if closed and can(lambda: os.chmod(path, 0o600)):
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
        os.chmod(path, 0o400)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))

def within(path):
    name = os.path.join(path, ".probe%d" % os.getpid())
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    os.unlink(name)

def remove(path):
    aside = path + ".aside%d" % os.getpid()
    os.rename(path, aside)
    os.rename(aside, path)

def read_all(path):
    for folder, folders, files in os.walk(path, onerror=raised):
        for name in files:
            os.close(os.open(os.path.join(folder, name), os.O_RDONLY))

def raised(error):
    raise error

def one(path):
    may = ""
    try:
        found = os.lstat(path)
    except OSError:
        return may
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFLNK:
        found = os.stat(path)
        kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFREG:
        may += "r" * can(lambda: os.close(os.open(path, os.O_RDONLY)))
        may += "w" * can(lambda: write(path, not found.st_mode & 0o200))
    elif kind == stat.S_IFIFO:
        may += "r" * can(lambda: os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK)))
        may += "w" * can(lambda: os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK)))
    elif kind == stat.S_IFDIR:
        may += "r" * can(lambda: read_all(path))
        may += "l" * can(lambda: os.listdir(path))
        may += "w" * can(lambda: within(path))
    elif kind == stat.S_IFSOCK:
        may += "c" * can(lambda: socket.socket(socket.AF_UNIX).connect(path))
    may += "d" * can(lambda: remove(path))
    return may

os.chdir(sys.argv[1])
for name in sys.argv[2:]:
    print(name, one(name) or "-")
