"""Code that you do not trust, run with functions of yours that it may call.

    from pysecure_sandbox import Sandbox, run_sandboxed_code

    output = run_sandboxed_code("print(get_xfers('alice'))", "/srv/users/alice", {"get_xfers": get_xfers})

    with Sandbox(memory="256M", wall=5) as sandbox:
        result = sandbox.run("total(xs) / 2", api={"total": total})
        print(result.value if result.ok else result.explain())

See docs/how-to/sandbox.md.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pysecure_rpc._version import __version__

    from ._errors import BudgetExceeded, Closed, NotApproved, Refused, SandboxError
    from ._functions import ApiCall, Approve, Function, Functions
    from ._result import Change, Denied, Raised, Result, Usage
    from ._run import Run
    from ._sandbox import Options, Profile, Sandbox, run_sandboxed_code
    from ._session import Session
    from ._stub import stub
    from ._userdir import get, put, userdir_for

__all__ = [
    "ApiCall",
    "Approve",
    "BudgetExceeded",
    "Change",
    "Closed",
    "Denied",
    "Function",
    "Functions",
    "NotApproved",
    "Options",
    "Profile",
    "Raised",
    "Refused",
    "Result",
    "Run",
    "Sandbox",
    "SandboxError",
    "Session",
    "Usage",
    "__version__",
    "get",
    "put",
    "run_sandboxed_code",
    "stub",
    "userdir_for",
]

#: Where each name is. They are loaded when they are first asked for: the interpreter in the sandbox imports this package, too, and none of them.
_FILES = {
    "_errors": ("BudgetExceeded", "Closed", "NotApproved", "Refused", "SandboxError"),
    "_functions": ("ApiCall", "Approve", "Function", "Functions"),
    "_result": ("Change", "Denied", "Raised", "Result", "Usage"),
    "_run": ("Run",),
    "_sandbox": ("Options", "Profile", "Sandbox", "run_sandboxed_code"),
    "_session": ("Session",),
    "_stub": ("stub",),
    "_userdir": ("get", "put", "userdir_for"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from pysecure_rpc import __version__ as version

        return version
    for file, names in _FILES.items():
        if name in names:
            from importlib import import_module

            value = globals()[name] = getattr(import_module(f"{__name__}.{file}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
