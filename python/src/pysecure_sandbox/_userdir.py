"""Folders of users: one for each name, whatever is in the name, and files in them, reached through no link.

What lies in such a folder was made by code that nobody trusts. A link there may lead anywhere, and a FIFO makes who opens it wait.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import Union

PathText = Union[str, "os.PathLike[str]"]

#: What stands for itself in a folder's name. Capitals do not: some file systems take them for the small ones.
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-")
#: Longer names are cut off, and told apart by their hash.
_LONGEST, _KEPT = 200, 100
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Entries of a folder that are looked at when its files are listed.
_MOST_ENTRIES = 100_000


def userdir_for(root: PathText, user: str) -> str:
    """The folder of a user below `root`, which is made where it is not there. Any text is a name, and no two names share a folder."""
    path = os.path.join(os.fspath(root), folder_name(user))
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "a user's folder is something else", path) from None
    return path


def folder_name(user: str) -> str:
    """The name of a user's folder: what is unusual in it is written as a number, `%2e`."""
    if not isinstance(user, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a user's name is text, not {user!r}")
    raw = user.encode("utf-8", "surrogatepass")
    name = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in raw)
    # `+` stands in no name that was written out.
    if not name:
        return "+"
    return name if len(name) <= _LONGEST else f"{name[:_KEPT]}+{hashlib.sha256(raw).hexdigest()}"


def put(userdir: PathText, path: PathText, data: bytes | str) -> None:
    """Writes a file below a user's folder, in place of one that may be there. Folders on its way are made."""
    *above, name = _parts(path)
    folder = _opened(userdir, above, make=True)
    try:
        content = data.encode() if isinstance(data, str) else data
        temporary = f".{name[:100]}.{os.urandom(6).hex()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder)
        try:
            with open(fd, "wb") as file:
                _give(fd, folder)
                file.write(content)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            try:
                os.unlink(temporary, dir_fd=folder)
            except OSError:
                pass
            raise
    finally:
        os.close(folder)


def get(userdir: PathText, path: PathText, most: int | None = None) -> bytes:
    """Reads a file below a user's folder. `most`: what is longer is refused."""
    *above, name = _parts(path)
    folder = _opened(userdir, above, make=False)
    try:
        # Nothing that is opened may wait, and what is no file is not read.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise _told(error, path) from None
    finally:
        os.close(folder)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a file", os.fspath(path))
        if most is None:
            return file.read()
        data = file.read(most + 1)
        if len(data) > most:
            raise OSError(errno.EFBIG, f"longer than {most} bytes", os.fspath(path))
        return data


def listed(userdir: PathText) -> dict[str, tuple[int, int, int]]:
    """All files below a user's folder: size, time of the last change in nanoseconds, and number. Links are not followed."""
    found: dict[str, tuple[int, int, int]] = {}
    root = os.open(os.fspath(userdir), _FOLDER)
    try:
        waiting = [""]
        seen = 0
        while waiting and seen < _MOST_ENTRIES:
            inside = waiting.pop()
            try:
                folder = _below(root, [p for p in inside.split("/") if p])
            except OSError:
                continue  # it went, or became something else
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        seen += 1
                        if seen > _MOST_ENTRIES:
                            break
                        path = f"{inside}/{entry.name}" if inside else entry.name
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(path)
                        elif entry.is_file(follow_symlinks=False):
                            of = entry.stat(follow_symlinks=False)
                            found[path] = (of.st_size, of.st_mtime_ns, of.st_ino)
            except OSError:
                pass
            finally:
                os.close(folder)
    finally:
        os.close(root)
    return found


def _parts(path: PathText) -> list[str]:
    text = os.fspath(path)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or text.startswith("/") or "\0" in text:
        raise ValueError(f"{text!r} is not the path of a file below a user's folder: give it relative, without `..`")
    return parts


def _opened(userdir: PathText, parts: list[str], make: bool) -> int:
    root = os.open(os.fspath(userdir), _FOLDER)
    try:
        return _below(root, parts, make)
    except OSError as error:
        raise _told(error, "/".join(parts)) from None
    finally:
        os.close(root)


def _below(root: int, parts: list[str], make: bool = False) -> int:
    """A folder below another, step by step and through no link."""
    here = os.dup(root)
    for part in parts:
        made = False
        try:
            if make:
                try:
                    os.mkdir(part, 0o755, dir_fd=here)
                except FileExistsError:
                    pass
                else:
                    made = True
            following = os.open(part, _FOLDER, dir_fd=here)
            if made:
                _give(following, here)
        finally:
            os.close(here)
        here = following
    return here


def _give(fd: int, folder: int) -> None:
    """What root makes is the folder's owner's, who is a user's own id."""
    if os.geteuid() == 0:
        owner = os.fstat(folder)
        os.fchown(fd, owner.st_uid, owner.st_gid)


def _told(error: OSError, path: PathText) -> OSError:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return PermissionError(errno.ELOOP, "a link is not followed", os.fspath(path))
    return OSError(error.errno or errno.EIO, error.strerror or "", os.fspath(path))
