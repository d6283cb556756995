"""A service from its start to its end, in one process or in several."""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Callable

from .. import _version
from .._figures import Page
from .._function import State
from . import forked
from .engine import Engine
from .notify import notify
from .one import OneThread, Overdue
from .sockets import Listener, ServiceError, listeners


class Server:
    """Serves the functions of one service. `start_service` is what most programs want."""

    def __init__(
        self,
        name: str,
        *,
        threads: int = 8,
        queue: int = 64,
        connections: int = 1024,
        tracebacks: bool = False,
        drain: float = 8.0,
    ) -> None:
        if threads < 1 or queue < 0 or connections < 1:
            raise ServiceError("threads and connections are at least 1, queue at least 0")
        self.name = name
        self._drain = drain
        # Under PySecure it is the manifest that says so.
        tracebacks = os.environ.get("PYSECURE_RPC_TRACEBACKS", "1" if tracebacks else "0") == "1"
        self._options: dict[str, Any] = {
            "threads": threads, "queue": queue, "connections": connections, "tracebacks": tracebacks,
        }  # fmt: skip
        self.functions = State.functions.get(name, {})
        self._check_functions()
        self._listeners: list[Listener] = []
        self._bound: list[str] = []
        #: Where the supervisor is told of its figures, if there is one that asks.
        self._told_at = os.environ.get("NOTIFY_SOCKET") if "PYSECURE_RPC_CALLERS" in os.environ else None
        self._figures = Page(self.functions)
        self._engine: Engine | None = None
        self._stopped = False
        #: What there was for the signals that this service handles.
        self.before: dict[int, Any] = {}
        #: An item comes when the service is to end.
        self.asked: SimpleQueue[None] = SimpleQueue()

    def _check_functions(self) -> None:
        started = os.environ.get("PYSECURE_SERVICE", self.name)
        if started != self.name:
            raise ServiceError(f"this is the service {started!r}, and start_service names {self.name!r}")
        if not self.functions:
            others = ", ".join(sorted(State.functions)) or "none"
            raise ServiceError(
                f"{self.name}: no function has @rpc(run_as={self.name!r}); services with functions: {others}. "
                "Import the modules that hold them before start_service"
            )
        for function in self.functions.values():
            function.signature  # noqa: B018: hints that cannot cross show now, and not at the first call
            if function.is_async:
                import asyncio  # noqa: F401  # pyright: ignore[reportUnusedImport]: while nothing else runs

    def listen(self) -> None:
        """Takes the sockets that it was handed, or binds its own where there are none."""
        self._listeners, self._bound = listeners(self.name, self.functions)
        forked.add(self)

    def start(self) -> None:
        """Begins to serve, in threads of its own."""
        self.begin(here=False)

    def begin(self, here: bool) -> Engine:
        """The same. `here`: with `threads=1`, the service's own code runs in this thread, by the engine's `one`."""
        State.serving = self.name
        if not self._listeners:
            self.listen()
        if self._told_at:
            self._figures.hand_over(self._told_at)
        self._figures.close()
        self._engine = Engine(self.name, self.functions, self._figures, **self._options)
        self._engine.start(self._listeners, here)
        return self._engine

    def stop(self) -> None:
        """Takes no more calls, ends those that run, and is gone."""
        if self._stopped:
            return
        self._stopped = True
        if self._engine is not None:
            self._engine.stop(self._drain)
        for listener in self._listeners:
            listener.sock.close()
        self.remove_paths()
        forked.remove(self)
        if State.serving == self.name:
            State.serving = None

    def remove_paths(self) -> None:
        """Removes the sockets that it bound itself."""
        for path in self._bound:
            try:
                os.unlink(path)
            except OSError:
                pass

    def forked(self) -> None:
        """In a process that the service's own code forked: it has nothing to do with its parent's callers. No lock may be taken."""
        self._stopped = True
        self._bound = []
        for number, handler in self.before.items():
            with suppress(ValueError, TypeError):
                signal.signal(number, handler)
        for listener in self._listeners:
            listener.sock.close()
        if self._engine is not None:
            self._engine.forked()
        self.asked.put(None)

    @property
    def stopped(self) -> bool:
        """Has it been stopped, or never begun in this process?"""
        return self._stopped

    def close_figures(self) -> None:
        """In a parent whose children serve, and have figures of their own."""
        self._figures.close()

    def become_child(self) -> None:
        """In a process of several: figures of its own, and paths that are the parent's to remove."""
        self._bound = []
        self._figures = Page(self.functions)

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stats(self) -> dict[str, Any]:
        """Counts of each function, and of refusals."""
        engine = self._engine
        return {
            "functions": self._figures.figures(),
            "denied": engine.dispatcher.denied() if engine else [],
            "connections": len(engine.connections.by_fd) if engine else 0,
            "running": engine.gate.running if engine else 0,
            "waiting": engine.gate.waiting if engine else 0,
        }


def start_service(
    service_name: str,
    *,
    threads: int = 8,
    processes: int = 1,
    queue: int = 64,
    connections: int = 1024,
    tracebacks: bool = False,
    drain: float = 8.0,
) -> None:
    """Serves the functions with `@rpc(run_as=service_name)` until SIGTERM or SIGINT; then ends what runs, and returns.

    `threads`: how many calls run at once in a process; `queue`: how many may wait beyond them.
    `processes`: so many processes share the work. `connections`: how many each caller may have.
    `tracebacks`: exceptions carry theirs to the caller, unless the manifest says otherwise. `drain`: seconds for what runs when it ends.
    """
    patched = sys.modules.get("gevent.monkey")
    if patched is not None and any(patched.is_module_patched(m) for m in ("threading", "socket", "select")):
        raise SystemExit(
            f"pysecure_rpc: {service_name}: gevent has put its own in the place of threads and sockets, and a service "
            "serves by threads: take monkey.patch_all() out of it. Callers may have it"
        )
    try:
        server = Server(
            service_name, threads=threads, queue=queue, connections=connections, tracebacks=tracebacks, drain=drain
        )
        server.listen()
    except ServiceError as error:
        raise SystemExit(f"pysecure_rpc: {error}") from None
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    _version.compare()
    if processes > 1:
        from .prefork import Prefork

        Prefork(server, processes).run()
    else:
        serve(server, lambda: notify("READY=1"))


def serve(server: Server, ready: Callable[[], None]) -> None:
    """Serves in this process until it is told to end."""
    pid = os.getpid()
    main = threading.current_thread() is threading.main_thread()
    one: OneThread | None = None

    def stop(*_: Any) -> None:
        if one is not None and one.overdue:
            raise Overdue
        server.asked.put(None)

    if main:
        for each in forked.SIGNALS:
            server.before[int(each)] = signal.signal(each, stop)
    one = server.begin(here=True).one
    ready()
    try:
        if one is None:
            server.asked.get()
        else:
            stopper = threading.Thread(target=_stop_when_asked, args=(server, pid), name="pysecure-rpc-stop", daemon=True)
            stopper.start()
            one.run()
            stopper.join()
    except BaseException as error:
        if os.getpid() != pid:
            forked.end(error)
        raise
    finally:
        if os.getpid() != pid:
            forked.end()
        _stop(server)
        for number, handler in server.before.items():
            signal.signal(number, handler)


def _stop_when_asked(server: Server, pid: int) -> None:
    """In a thread beside the one, which may run something just then."""
    server.asked.get()
    if os.getpid() == pid:
        _stop(server)


def _stop(server: Server) -> None:
    if not server.stopped:
        notify("STOPPING=1")
        server.stop()
