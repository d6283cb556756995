"""`python3 -m pysecure_sandbox mcp` and `… serve`, which `pysecure sandbox mcp` and `pysecure sandbox serve` start."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ._errors import SandboxError

if TYPE_CHECKING:
    from ._sandbox import Sandbox


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    try:
        if given.front == "mcp":
            from . import _mcp

            return _mcp.main(given, _sandbox(given))
        from . import _http

        return _http.main(given, _sandbox(given))
    except KeyboardInterrupt:
        return 130
    except (SandboxError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pysecure sandbox", description="Sandboxes for programs that are not in Python.")
    fronts = parser.add_subparsers(dest="front", required=True, metavar="FRONT")
    limits = argparse.ArgumentParser(add_help=False)
    group = limits.add_argument_group("sandbox")
    group.add_argument("--sandbox", metavar="NAME", help="a sandbox of the manifest, where a service runs this")
    group.add_argument("--isolation", choices=("namespaces", "landlock"))
    group.add_argument("--wall", type=float, metavar="SECONDS", help="until a run is ended [30]")
    group.add_argument("--cpu", type=float, metavar="SECONDS", help="that a run may compute [10]")
    group.add_argument("--memory", metavar="SIZE", help="of each process, such as 256M [512M]")
    group.add_argument("--processes", type=int, metavar="NUMBER", help="processes and threads at once [64]")
    group.add_argument("--output", metavar="SIZE", help="that a run may print [1M]")
    group.add_argument("--at-once", type=int, metavar="NUMBER", help="runs at once; more wait in order [16]")
    group.add_argument("--preload", action="append", metavar="MODULE", help="imported before any code runs (may be repeated)")
    _mcp_parser(fronts.add_parser("mcp", parents=[limits], help="tools for a model's client, by MCP on standard input and output"))
    serve = fronts.add_parser("serve", parents=[limits], help="runs over HTTP on a unix socket, as Piston's API has them")
    serve.add_argument("--socket", required=True, metavar="PATH", help="is made here, for this user alone")
    return parser


def _mcp_parser(mcp: argparse.ArgumentParser) -> None:
    mcp.add_argument("--userdir", metavar="DIR", help="the folder of all runs and sessions [one that goes with this server]")
    mcp.add_argument("--sessions", type=int, default=8, metavar="NUMBER", help="that are kept at once [8]")
    tools = mcp.add_argument_group("functions that code may call")
    tools.add_argument("--server", metavar="COMMAND", help="another MCP server, on its standard input and output")
    tools.add_argument(
        "--allow", action="append", default=[], metavar="TOOL[=CALLS]",
        help="a tool of it that code may call, and how often in a run or session (may be repeated)",
    )  # fmt: skip


def _sandbox(given: argparse.Namespace) -> Sandbox:
    from ._sandbox import Sandbox

    names = ("isolation", "wall", "cpu", "memory", "processes", "output", "at_once", "preload")
    profile: Any = {name: value for name in names if (value := getattr(given, name)) is not None}
    return Sandbox(given.sandbox, **profile)


if __name__ == "__main__":
    sys.exit(main())
