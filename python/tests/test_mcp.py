"""`pysecure sandbox mcp`, by the client of the package `mcp`, over standard input and output."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import unittest
from collections.abc import AsyncIterator
from typing import Any

BINARY = os.environ.get("PYSECURE_BINARY", "pysecure")

#: Another server, of whose tools some are allowed.
OTHER = """
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("other")

@server.tool()
def add(a: int, b: int = 1) -> int:
    "Adds."
    return a + b

@server.tool(name="find-person")
def find(name: str) -> dict[str, str]:
    if name == "nobody":
        raise ToolError("there is no such person")
    return {"name": name, "town": "Riga"}

@server.tool()
def secret() -> str:
    return "the other server's"

server.run()
"""


def environment() -> dict[str, str]:
    """The interpreter of this test is the first in PATH, so that the command finds it, and with it `mcp`."""
    return {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}


class Mcp(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="pysecure-test-mcp-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    @contextlib.asynccontextmanager
    async def client(self, *arguments: str) -> AsyncIterator[Any]:
        from mcp import Client, StdioServerParameters, stdio_client

        parameters = StdioServerParameters(command=BINARY, args=["sandbox", "mcp", *arguments], env=environment())
        with open(os.path.join(self.folder, "stderr"), "w+") as errors:
            async with Client(stdio_client(parameters, errlog=errors)) as client:
                yield client

    def other(self) -> str:
        path = os.path.join(self.folder, "other.py")
        with open(path, "w") as file:
            file.write(OTHER)
        return f"{sys.executable} -B {path}"

    async def call(self, client: Any, tool: str, **arguments: Any) -> Any:
        result = await client.call_tool(tool, arguments)
        self.assertFalse(result.is_error, result.content)
        return result.structured_content

    async def fails(self, client: Any, tool: str, says: str, **arguments: Any) -> None:
        result = await client.call_tool(tool, arguments)
        self.assertTrue(result.is_error, result.content)
        self.assertIn(says, result.content[0].text)

    async def test_runs_sessions_and_files(self) -> None:
        async with self.client("--sessions", "2") as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            self.assertEqual(sorted(tools), ["get", "put", "run", "session"])
            self.assertEqual(tools["run"].input_schema["required"], ["code"])
            # Runs.
            found = await self.call(client, "run", code="print(input())\n2 + 3", stdin="hi")
            self.assertEqual((found["ok"], found["stdout"], found["value"], found["exit"]), (True, "hi\n", 5, 0))
            found = await self.call(client, "run", code="1 / 0")
            self.assertEqual((found["ok"], found["exit"]), (False, 1))
            self.assertIn("ZeroDivisionError", found["explanation"])
            found = await self.call(client, "run", code="while True: pass", wall=0.3)
            self.assertEqual((found["ok"], found["limit"]), (False, "wall"))
            denied = "open('/etc/profile')"
            self.assertNotIn("Not allowed", (await self.call(client, "run", code=denied))["explanation"])
            found = await self.call(client, "run", code=denied, explain=True)
            self.assertIn("Not allowed: file: /etc/profile", found["explanation"])
            found = await self.call(client, "run", code="echo $((6 * 7)); exit 3", language="sh")
            self.assertEqual((found["stdout"], found["exit"]), ("42\n", 3))
            await self.fails(client, "run", "no language 'cobol'", code="", language="cobol")
            # What is no JSON is text.
            for code, value in (("float('nan')", "nan"), ("(1, b'x')", "(1, b'x')"), ("{1: 2}", {"1": 2}), ("{'a': [None]}", {"a": [None]})):
                self.assertEqual((await self.call(client, "run", code=code))["value"], value, code)
            self.assertIn("<object object", (await self.call(client, "run", code="object()"))["value"])
            # Files are shared, and there are no others.
            await self.call(client, "put", path="a/in.txt", text="käse")
            await self.call(client, "put", path="in.bin", base64_data="/wA=")
            await self.call(client, "run", code="open('out.txt', 'w').write(open('a/in.txt').read()[::-1])")
            self.assertEqual((await self.call(client, "get", path="out.txt"))["text"], "esäk")
            self.assertEqual((await self.call(client, "get", path="in.bin"))["base64"], "/wA=")
            await self.call(client, "run", code="import os; os.symlink('/etc/passwd', 'link')")
            for path in ("link", "../x", "/etc/passwd", "none", "a"):
                await self.fails(client, "get", "", path=path)
            await self.fails(client, "put", "", path="../x", text="")
            await self.fails(client, "put", "", path="x", base64_data="!")
            # Sessions keep names, one each.
            self.assertEqual((await self.call(client, "session", code="n = 20\nopen('made', 'w').write('x')"))["made"], ["made"])
            self.assertEqual((await self.call(client, "session", code="n + 1"))["value"], 21)
            self.assertIn("NameError", (await self.call(client, "session", code="n", name="b"))["explanation"])
            await self.fails(client, "session", "end one", code="1", name="c")
            found = await self.call(client, "session", code="while True: pass", wall=0.3)
            self.assertIn("KeyboardInterrupt", found["explanation"])
            self.assertEqual((await self.call(client, "session", code="n", end=True))["value"], 20)
            found = await self.call(client, "session", code="import os; os._exit(3)", name="c")
            self.assertEqual(found["exit"], 3)
            self.assertIn("begins a new one", found["explanation"])
            self.assertEqual((await self.call(client, "session", code="1", name="c"))["value"], 1)

    async def test_another_server_s_tools_are_functions(self) -> None:
        async with self.client("--server", self.other(), "--allow", "add=2", "--allow", "find-person") as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            self.assertEqual(sorted(tools), ["get", "put", "run", "session"])
            for tool in ("run", "session"):
                self.assertIn("def add(a: int, b: int | None = None)", tools[tool].description)
                self.assertNotIn("secret", tools[tool].description)
            found = await self.call(client, "run", code="[add(2), api.add(a=3, b=4), find_person('ann')]")
            self.assertEqual(found["value"], [3, 7, {"name": "ann", "town": "Riga"}], found)
            found = await self.call(client, "run", code="[add(1) for _ in range(3)]")
            self.assertIn("BudgetExceeded", found["explanation"])
            found = await self.call(client, "run", code="find_person('nobody')")
            self.assertIn("there is no such person", found["explanation"])
            found = await self.call(client, "run", code="add('1')")
            self.assertFalse(found["ok"])
            found = await self.call(client, "run", code="secret()")
            self.assertIn("NameError", found["explanation"])
            found = await self.call(client, "session", code="x = add(1)")
            self.assertTrue(found["ok"], found)
            self.assertEqual((await self.call(client, "session", code="x + add(1)"))["value"], 4)

    async def test_a_call_that_is_cancelled_ends_its_run(self) -> None:
        import anyio

        async with self.client() as client:
            with anyio.move_on_after(1):
                await client.call_tool("run", {"code": "import time\nwhile True:\n    open('alive', 'w').close(); time.sleep(0.01)", "wall": 25})
            # It is gone when nothing makes the file again.
            gone = "import os, time\nos.unlink('alive')\ntime.sleep(0.5)\nos.path.exists('alive')"
            while (await self.call(client, "run", code=gone))["value"] is not False:
                pass

    def refused(self, *arguments: str, **more: str) -> str:
        ended = subprocess.run(
            [BINARY, "sandbox", "mcp", *arguments], env={**environment(), **more}, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        self.assertEqual((ended.returncode, ended.stdout), (1, ""), ended.stderr)
        self.assertEqual(ended.stderr.count("\n"), 1, ended.stderr)
        return ended.stderr

    def test_what_is_wrong_is_said_in_a_line(self) -> None:
        self.assertIn("pip install", self.refused(PATH="/usr/sbin:/usr/bin:/sbin:/bin"))
        self.assertIn("--server and --allow go together", self.refused("--allow", "add"))
        self.assertIn("write TOOL, or TOOL=CALLS", self.refused("--server", "true", "--allow", "add=x"))
        self.assertIn("no such tool, but add, find-person, secret", self.refused("--server", self.other(), "--allow", "addd"))
        self.assertIn("--server", self.refused("--server", "true", "--allow", "add"))
        self.assertIn("no size", self.refused("--memory", "much"))

    def test_it_ends_with_its_client(self) -> None:
        ended = subprocess.run([BINARY, "sandbox", "mcp"], env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False)
        self.assertEqual((ended.returncode, ended.stdout), (0, b""), ended.stderr)


if __name__ == "__main__":
    unittest.main()
