"""Sandboxes as tools of an MCP server, on standard input and output: for the client of a model.

Runs and sessions share one folder. Code may call those tools of another MCP server that are allowed by name; they run outside of the
sandbox, and nothing else of that server is reached.
"""
# What begins with _ is private to this package. The package `mcp` may be absent, so what it has is of no known type here.
# pyright: reportPrivateUsage=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import keyword
import shlex
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Callable, Optional

from . import _userdir
from ._errors import Closed, SandboxError
from ._functions import Function
from ._sandbox import _LANGUAGES, Sandbox

if TYPE_CHECKING:
    import argparse

    from ._functions import Functions
    from ._result import Result
    from ._session import Session

#: The longest file that `get` reads, and that `put` writes.
MOST = 1 << 20
REMEDY = "install it for the Python that runs this: pip install 'pysecure-launcher[mcp]', or pip install 'mcp>=2,<3'"


@dataclass
class Outcome:
    """What a run or a cell came to."""

    ok: bool
    stdout: str
    stderr: str
    #: Of the last expression; as text where it cannot be JSON.
    value: Any
    exit: Optional[int]
    #: The limit that ended it.
    limit: Optional[str]
    #: All of this in words, with what was denied and what would help.
    explanation: str
    #: Files that a cell of a session made or changed.
    made: list[str] = field(default_factory=list[str])


@dataclass
class File:
    """A file: its text, or its bytes in base64 if they are no UTF-8."""

    path: str
    text: Optional[str] = None
    base64: Optional[str] = None


@dataclass(frozen=True)
class Allowed:
    """A tool that code may call, and how often."""

    tool: str
    calls: int | None = None

    @classmethod
    def read(cls, text: str) -> Allowed:
        tool, sign, calls = text.partition("=")
        if not tool or (sign and not (calls.isdecimal() and calls.isascii())):
            raise ValueError(f"--allow {text}: write TOOL, or TOOL=CALLS")
        return cls(tool, int(calls) if sign else None)


def outcome(result: Result) -> Outcome:
    value = result.value
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        value = result.text or repr(value).encode("utf-8", "replace").decode()
    if value is None and result.text is not None:
        value = result.text.encode("utf-8", "replace").decode()
    explanation = result.explain().encode("utf-8", "replace").decode()
    return Outcome(result.ok, result.stdout, result.stderr, value, result.exit, result.limit, explanation, result.made)


class Tools:
    """The tools that a client is offered."""

    def __init__(self, sandbox: Sandbox, userdir: str, api: Functions, most_sessions: int) -> None:
        self._sandbox = sandbox
        self._userdir = userdir
        self._api = api
        self._most_sessions = most_sessions
        self._sessions: dict[str, Session] = {}
        self._begins = asyncio.Lock()

    async def run(
        self, code: str, language: str = "python", stdin: str = "", wall: Optional[float] = None, explain: bool = False
    ) -> Outcome:
        limits: dict[str, Any] = {} if wall is None else {"wall": wall}
        if explain:
            limits["explain"] = True
        if language == "python":
            return outcome(await self._sandbox.arun(code, self._userdir, self._api, stdin=stdin, **limits))
        if language not in _LANGUAGES:
            raise ValueError(f"no language {language!r}: there are python, {', '.join(sorted(_LANGUAGES))}")
        if stdin:
            raise ValueError("only Python has `stdin`: others read their code from there")
        return outcome(await self._sandbox.acommand(_LANGUAGES[language], self._userdir, stdin=code, **limits))

    async def session(self, code: str, name: str = "main", wall: Optional[float] = 30.0, end: bool = False) -> Outcome:
        session = await self._session(name)
        try:
            result = outcome(await session.arun(code, wall=wall))
        finally:
            if end or session.ended:
                self._sessions.pop(name, None)
                await asyncio.to_thread(session.close)
        if session.ended and not end:
            result.explanation += f"\nThe session {name!r} has ended with that: the next cell begins a new one."
        return result

    async def _session(self, name: str) -> Session:
        async with self._begins:
            for each, session in list(self._sessions.items()):
                if session.ended:
                    del self._sessions[each]
            found = self._sessions.get(name)
            if found is None:
                if len(self._sessions) >= self._most_sessions:
                    there = ", ".join(repr(each) for each in self._sessions)
                    raise Closed(f"there are {len(self._sessions)} sessions already, {there}: end one with end=true, or use one of them")
                found = self._sessions[name] = await asyncio.to_thread(self._sandbox.session, self._userdir, self._api)
            return found

    async def put(self, path: str, text: str = "", base64_data: Optional[str] = None) -> str:
        data = text.encode() if base64_data is None else base64.b64decode(base64_data, validate=True)
        if len(data) > MOST:
            raise ValueError(f"{path}: longer than {MOST} bytes")
        await asyncio.to_thread(_userdir.put, self._userdir, path, data)
        return f"{path}: {len(data)} bytes were written"

    async def get(self, path: str) -> File:
        data = await asyncio.to_thread(_userdir.get, self._userdir, path, MOST)
        try:
            return File(path, text=data.decode())
        except UnicodeDecodeError:
            return File(path, base64=base64.b64encode(data).decode())

    def close(self) -> None:
        for session in self._sessions.values():
            session.kill()
            session.close()


class Upstream:
    """Another MCP server, whose tools are functions for code in the sandbox."""

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    async def functions(self, allowed: list[Allowed]) -> dict[str, Function]:
        """Those that are allowed, by the names that code calls them by."""
        offered: dict[str, Any] = {}
        cursor: str | None = None
        while True:
            page = await self._client.list_tools(cursor=cursor)
            offered.update((tool.name, tool) for tool in page.tools)
            cursor = page.next_cursor
            if cursor is None:
                break
        functions: dict[str, Function] = {}
        for each in allowed:
            tool = offered.get(each.tool)
            if tool is None:
                raise ValueError(f"--allow {each.tool}: the server has no such tool, but {', '.join(sorted(offered)) or 'none'}")
            name = function_name(each.tool)
            if name in functions:
                raise ValueError(f"--allow {each.tool}: another tool that is allowed has the name {name!r} already")
            functions[name] = Function(self._function(name, tool), calls=each.calls)
        return functions

    def _function(self, name: str, tool: Any) -> Callable[..., Any]:
        parameters = parameters_of(tool.input_schema)

        def call(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            # A parameter that is left out has None, and is left out of the call as well.
            arguments = {key: value for key, value in given.items() if value is not None or key in required}
            calling = asyncio.run_coroutine_threadsafe(self._client.call_tool(tool.name, arguments), self._loop)
            return answer_of(tool.name, calling.result())

        signature = inspect.Signature(parameters)
        required = {each.name for each in parameters if each.default is each.empty}
        call.__name__ = call.__qualname__ = name
        call.__doc__ = tool.description
        call.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": Any}
        call.__signature__ = signature  # type: ignore[attr-defined]
        return call


def function_name(tool: str) -> str:
    """A tool's name as one of Python's."""
    name = "".join(each if each.isascii() and (each.isalnum() or each == "_") else "_" for each in tool)
    return f"{name}_" if keyword.iskeyword(name) or name == "api" else f"tool_{name}" if name[:1].isdigit() or name[:2] == "__" else name


_HINTS: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list[Any], "object": dict[str, Any]}


def parameters_of(schema: dict[str, Any]) -> list[inspect.Parameter]:
    """What a tool takes, as keywords, those first that it must have."""
    required = schema.get("required") or []
    properties: dict[str, Any] = schema.get("properties") or {}
    found: list[inspect.Parameter] = []
    for name in sorted(properties, key=lambda each: each not in required):
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"the parameter {name!r} of a tool cannot be one of Python's: do not allow that tool")
        kind = properties[name].get("type") if isinstance(properties[name], dict) else None
        hint = _HINTS.get(kind, Any) if isinstance(kind, str) else Any
        must = name in required
        default = inspect.Parameter.empty if must else None
        annotation = hint if must or hint is Any else Optional[hint]
        found.append(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation))
    return found


def answer_of(tool: str, result: Any) -> Any:
    """What a tool answered: its structured content, else its text."""
    texts = [each.text for each in result.content if each.type == "text"]
    if result.is_error:
        raise RuntimeError(f"{tool}: {' '.join(texts) or 'the tool failed'}")
    structured = result.structured_content
    if structured is not None:
        # What is no object by itself is wrapped in one.
        return structured["result"] if list(structured) == ["result"] else structured
    return "\n".join(texts)


def main(given: argparse.Namespace, sandbox: Sandbox) -> int:
    """Serves until standard input ends."""
    allowed = [Allowed.read(each) for each in given.allow]
    if bool(allowed) != bool(given.server):
        raise ValueError("--server and --allow go together: a server, and which of its tools code may call")
    try:
        mcp = import_module("mcp")
        server = import_module("mcp.server.mcpserver")
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "mcp":
            raise
        raise SandboxError(f"this needs the package `mcp`, version 2, which {sys.executable} has not: {REMEDY}") from None
    with tempfile.TemporaryDirectory(prefix="pysecure-mcp-") as own, sandbox:
        userdir = given.userdir or _userdir.userdir_for(own, "files")
        try:
            asyncio.run(_serve(mcp, server, sandbox, userdir, given, allowed))
        except Exception as error:
            raise _innermost(error, mcp) from None
    return 0


def _innermost(error: BaseException, mcp: Any) -> BaseException:
    """What went wrong, out of the groups that tasks of the library wrap it in."""
    within: Any = getattr(error, "exceptions", ())
    while len(within) == 1:
        error = within[0]
        within = getattr(error, "exceptions", ())
    return SandboxError(f"the server of --server: {error}") if isinstance(error, mcp.MCPError) else error


def _unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """That a server is gone while it is written to is told by its answer, which does not come."""
    if not isinstance(context.get("exception"), ConnectionError):
        loop.default_exception_handler(context)


async def _serve(
    mcp: Any, server: Any, sandbox: Sandbox, userdir: str, given: argparse.Namespace, allowed: list[Allowed]
) -> None:
    asyncio.get_running_loop().set_exception_handler(_unheard)
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(sandbox.start_pool)
        api: Functions = {}
        if given.server:
            words = shlex.split(given.server) or [""]
            parameters = mcp.StdioServerParameters(command=words[0], args=words[1:])
            client = await stack.enter_async_context(mcp.Client(mcp.stdio_client(parameters)))
            api = await Upstream(client, asyncio.get_running_loop()).functions(allowed)
        tools = Tools(sandbox, userdir, api, given.sessions)
        stack.callback(tools.close)
        await offered(server, tools, api).run_stdio_async()


def offered(server: Any, tools: Tools, api: Functions) -> Any:
    """The MCP server with these tools."""
    made = server.MCPServer("pysecure-sandbox", instructions=_INSTRUCTIONS)
    failure = import_module("mcp.server.mcpserver.exceptions").ToolError
    functions = ""
    if api:
        from ._stub import stub

        functions = f"\n\nPython may call these functions, which are there without an import:\n\n{stub(api)}"
    for name, description in _DESCRIPTIONS.items():
        text = description + (functions if name in ("run", "session") else "")
        made.tool(name=name, description=text)(_told(getattr(tools, name), failure))
    return made


def _told(tool: Callable[..., Any], failure: type[Exception]) -> Callable[..., Any]:
    """What goes wrong is told to the client, and ends nothing."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return await tool(*args, **kwargs)
        except (SandboxError, ValueError, OSError) as error:
            raise failure(str(error)) from None

    call.__name__ = tool.__name__
    call.__signature__ = inspect.signature(tool, eval_str=True)  # type: ignore[attr-defined]
    call.__annotations__ = inspect.get_annotations(getattr(tool, "__func__", tool), eval_str=True)
    return call


_INSTRUCTIONS = (
    "Runs code in a sandbox without network, which reaches no files but those of its own folder. "
    "All runs and sessions share that folder; `put` and `get` reach it as well."
)
_DESCRIPTIONS = {
    "run": "Runs a program once, in a sandbox. `language`: python, sh, bash, javascript, perl or ruby. What is printed and the value of Python's last "
    "expression come back. `wall`: seconds until it is ended. If `ok` is false, read `explanation`; with `explain` it says which files were denied, "
    "and what would allow them, and the run is slower.",
    "session": "Runs a cell of Python in an interpreter that is kept: names and imports of earlier cells of the same `name` are there. "
    "`wall`: seconds until the cell is interrupted. `end`: the session ends after it.",
    "put": "Writes a file into the folder that code runs in, from `text`, or from `base64_data` if that is given.",
    "get": "Reads a file of the folder that code runs in.",
}
