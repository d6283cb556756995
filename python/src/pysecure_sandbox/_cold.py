"""An interpreter that is started for one run, and confined already.

What is not imported is not waited for: functions of the calling program, and sessions, are `_inside`'s.
"""

from __future__ import annotations

import _socket
import os
import sys

from . import _program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

#: The longest message, and room for the descriptors that come with one.
_LONGEST, _ROOM = 1 << 17, _socket.CMSG_SPACE(16 * 4)


def main() -> NoReturn:
    """Its first socket is the pool's."""
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    os.set_inheritable(3, False)
    control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, 3)
    control.send(b'{"confined":true}')
    data, rights, _, _ = control.recvmsg(_LONGEST, _ROOM, _socket.MSG_CMSG_CLOEXEC)
    if not data:
        os._exit(0)  # nobody needs it any more
    # What the pool writes as JSON is an expression, too: the module that reads JSON takes as long to import as all else here.
    asked: dict[str, Any] = eval(data, {"__builtins__": {}, "true": True, "false": False, "null": None})
    fds = [
        int.from_bytes(content[at : at + 4], sys.byteorder)
        for _, _, content in rights
        for at in range(0, len(content) - len(content) % 4, 4)
    ]
    if "api" in asked["fds"]:
        from ._inside import answer

        answer(control, asked, fds)
    task: dict[str, Any] = asked["task"]
    given = dict(zip(asked["fds"], fds))
    source = _program.source_of(task, given)
    _program.place(given)
    _program.surround(asked, task)
    program = _program.Program(task.get("name") or "<code>", {})
    _program.bound(asked)
    outcome = program.run(source, False)
    _program.leave(control, program, _program.finish(int(outcome.get("exit", 0))))
