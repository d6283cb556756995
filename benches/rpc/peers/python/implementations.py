"""The implementations in Python: how each serves `login(user, password) -> bool` and `echo(bytes)` on a Unix socket, and how it calls them.

What is imported is imported where it is used: a process has one implementation alone.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

MIB = 1 << 20
#: As long as a call of `login` and its answer are in our protocol.
ASKED = b"\x96\x02\x01\xa5login\x92\xa5alice\xa6secret\x80\xcd\xea\x60"
ANSWERED = b"\x93\x03\x01\xc3"


def right(user: str, password: str) -> bool:
    return user == "alice" and password == "secret"


class Implementation:
    #: Can a mebibyte of bytes be asked of it?
    carries_bytes = True

    @staticmethod
    def serve(path: str) -> None:
        raise NotImplementedError

    @classmethod
    def connect(cls, path: str) -> Implementation:
        return cls(path)

    def __init__(self, path: str) -> None:
        raise NotImplementedError

    def login(self, user: str, password: str) -> bool:
        raise NotImplementedError

    def echo(self, data: bytes) -> bytes:
        raise NotImplementedError


def opened(path: str, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.connect(path)
    return sock


def threads(path: str, kind: int, serve: Callable[[socket.socket], None]) -> None:
    """A thread a connection, as plain as can be."""
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(path)
    listener.listen(128)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


def fill(sock: socket.socket, buffer: memoryview) -> bool:
    """False: the other end is closed."""
    while buffer:
        got = sock.recv_into(buffer)
        if not got:
            return False
        buffer = buffer[got:]
    return True


class Stream(Implementation):
    """Bytes alone. A connection begins with how long its questions and answers are."""

    @staticmethod
    def serve(path: str) -> None:
        def each(sock: socket.socket) -> None:
            sizes = sock.recv(8, socket.MSG_WAITALL)
            if len(sizes) < 8:
                return
            asked, answered = struct.unpack("<II", sizes)
            buffer = bytearray(asked)
            view = memoryview(buffer)
            answer = buffer if asked == answered else bytes(answered)
            while fill(sock, view):
                sock.sendall(answer)

        threads(path, socket.SOCK_STREAM, each)

    def __init__(self, path: str) -> None:
        self.small = opened(path, socket.SOCK_STREAM)
        self.small.sendall(struct.pack("<II", len(ASKED), len(ANSWERED)))
        self.large = opened(path, socket.SOCK_STREAM)
        self.large.sendall(struct.pack("<II", MIB, MIB))
        self.buffer = bytearray(MIB)

    def login(self, user: str, password: str) -> bool:
        self.small.sendall(ASKED)
        return len(self.small.recv(64)) == len(ANSWERED)

    def echo(self, data: bytes) -> bytes:
        self.large.sendall(data)
        if not fill(self.large, memoryview(self.buffer)):
            raise ConnectionError
        return self.buffer


class Packet(Implementation):
    carries_bytes = False  # a packet's bound is far below

    @staticmethod
    def serve(path: str) -> None:
        def each(sock: socket.socket) -> None:
            while sock.recv(65_536):
                sock.send(ANSWERED)

        threads(path, socket.SOCK_SEQPACKET, each)

    def __init__(self, path: str) -> None:
        self.sock = opened(path, socket.SOCK_SEQPACKET)

    def login(self, user: str, password: str) -> bool:
        self.sock.send(ASKED)
        return len(self.sock.recv(65_536)) == len(ANSWERED)


class Ours(Implementation):
    """pysecure_rpc as a program uses it, with or without its core; one process serves."""

    processes = 1

    @classmethod
    def serve(cls, path: str) -> None:
        import functions
        from pysecure_rpc import start_service

        # More than the 1,024 of one caller that are the default: what idle ones take shows only in many.
        start_service(functions.SERVICE, processes=cls.processes, connections=10_000)

    def __init__(self, path: str) -> None:
        import functions
        from pysecure_rpc import _codec

        if _codec.COMPILED == (os.environ.get("PYSECURE_RPC_PURE") == "1"):
            raise SystemExit("pysecure_rpc: the core is not there, or it is and should not be")
        self.login = functions.login  # type: ignore[method-assign]
        self.echo = functions.echo  # type: ignore[method-assign]


class OursTwice(Ours):
    processes = 2


class Msgspec(Implementation):
    """msgspec over SOCK_SEQPACKET, checked by hints on both sides: the least that a codec adds."""

    carries_bytes = False

    @staticmethod
    def serve(path: str) -> None:
        from msgspec import Raw, msgpack

        envelope = msgpack.Decoder(tuple[int, str, Raw]).decode
        functions = {"login": (right, msgpack.Decoder(tuple[str, str]).decode)}

        def each(sock: socket.socket) -> None:
            while asked := sock.recv(65_536):
                number, name, arguments = envelope(asked)
                function, decode = functions[name]
                sock.send(msgpack.encode((number, function(*decode(arguments)))))

        threads(path, socket.SOCK_SEQPACKET, each)

    def __init__(self, path: str) -> None:
        from msgspec import msgpack

        self.sock = opened(path, socket.SOCK_SEQPACKET)
        self.encode = msgpack.encode
        self.decode = msgpack.Decoder(tuple[int, bool]).decode
        self.number = 0

    def login(self, user: str, password: str) -> bool:
        self.number += 1
        self.sock.send(self.encode((self.number, "login", (user, password))))
        number, result = self.decode(self.sock.recv(65_536))
        if number != self.number:
            raise ConnectionError("the answer to another call")
        return result


class JsonLines(Implementation):
    """Bytes go as Base64."""

    @staticmethod
    def serve(path: str) -> None:
        functions: dict[str, Callable[..., Any]] = {
            "login": right,
            "echo": lambda data: base64.b64encode(base64.b64decode(data)).decode(),
        }

        def each(sock: socket.socket) -> None:
            for line in sock.makefile("rb"):
                name, arguments = json.loads(line)
                sock.sendall(json.dumps(functions[name](*arguments)).encode() + b"\n")

        threads(path, socket.SOCK_STREAM, each)

    def __init__(self, path: str) -> None:
        self.sock = opened(path, socket.SOCK_STREAM)
        self.lines = self.sock.makefile("rb")

    def ask(self, name: str, *arguments: Any) -> Any:
        self.sock.sendall(json.dumps([name, arguments]).encode() + b"\n")
        return json.loads(self.lines.readline())

    def login(self, user: str, password: str) -> bool:
        return self.ask("login", user, password)

    def echo(self, data: bytes) -> bytes:
        return base64.b64decode(self.ask("echo", base64.b64encode(data).decode()))


class Pyro(Implementation):
    serializer = "serpent"

    @staticmethod
    def serve(path: str) -> None:
        import Pyro5.api
        import Pyro5.server

        @Pyro5.api.expose
        class Auth:
            def login(self, user: str, password: str) -> bool:
                return right(user, password)

            def echo(self, data: Any) -> Any:
                return data

        daemon = Pyro5.server.Daemon(unixsocket=path)
        daemon.register(Auth(), "bench")
        daemon.requestLoop()

    def __init__(self, path: str) -> None:
        import Pyro5.api
        import serpent

        Pyro5.config.SERIALIZER = self.serializer
        self.proxy = Pyro5.api.Proxy("PYRO:bench@./u:" + path)
        self.to_bytes = serpent.tobytes
        self.proxy._pyroBind()

    def login(self, user: str, password: str) -> bool:
        return self.proxy.login(user, password)

    def echo(self, data: bytes) -> bytes:
        return self.to_bytes(self.proxy.echo(data))  # serpent has bytes as Base64 in a dict


class PyroMsgpack(Pyro):
    serializer = "msgpack"


class Rpyc(Implementation):
    @staticmethod
    def serve(path: str) -> None:
        import rpyc
        from rpyc.utils.server import ThreadedServer

        class Auth(rpyc.Service):
            def exposed_login(self, user: str, password: str) -> bool:
                return right(user, password)

            def exposed_echo(self, data: bytes) -> bytes:
                return data

        ThreadedServer(Auth, socket_path=path).start()

    def __init__(self, path: str) -> None:
        from rpyc.utils.factory import unix_connect

        self.connection = unix_connect(path)
        self.login = self.connection.root.login
        self.echo = self.connection.root.echo


class Varlink(Implementation):
    carries_bytes = False  # its JSON has none

    @staticmethod
    def serve(path: str) -> None:
        import varlink

        interfaces = pathlib.Path(__file__).resolve().parents[1] / "rust/src"
        service = varlink.Service("bench", "bench", "1", "", interface_dir=str(interfaces))

        @service.interface("bench.auth")
        class Auth:
            def Login(self, user: str, password: str) -> dict[str, bool]:
                return {"ok": right(user, password)}

        class Handler(varlink.RequestHandler):
            pass

        Handler.service = service
        with varlink.ThreadingServer("unix:" + path, Handler) as server:
            server.serve_forever()

    def __init__(self, path: str) -> None:
        import varlink

        self.interface = varlink.Client.new_with_address("unix:" + path).open("bench.auth")

    def login(self, user: str, password: str) -> bool:
        return self.interface.Login(user, password)["ok"]


class XmlRpc(Implementation):
    """The standard library's, over a connection that is kept."""

    @staticmethod
    def serve(path: str) -> None:
        import socketserver
        from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler

        class Handler(SimpleXMLRPCRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = False  # a Unix socket has none
            wbufsize = 65_536

            def log_message(self, *_: Any) -> None:
                pass

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer, SimpleXMLRPCDispatcher):
            daemon_threads = True
            request_queue_size = 128
            logRequests = False

            def __init__(self) -> None:
                SimpleXMLRPCDispatcher.__init__(self, allow_none=True, use_builtin_types=True)
                socketserver.UnixStreamServer.__init__(self, path, Handler)

        server = Server()
        server.register_function(right, "login")
        server.register_function(lambda data: data, "echo")
        server.serve_forever()

    def __init__(self, path: str) -> None:
        import http.client
        import xmlrpc.client

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                self.sock = opened(path, socket.SOCK_STREAM)

        class Transport(xmlrpc.client.Transport):
            def make_connection(self, host: Any) -> http.client.HTTPConnection:
                if not self._connection[1]:
                    self._connection = host, Connection("localhost")
                return self._connection[1]

        transport = Transport(use_builtin_types=True)
        self.proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport, use_builtin_types=True)
        self.login = self.proxy.login
        self.echo = self.proxy.echo


def _messages() -> tuple[Any, Any, Any]:
    """Protocol Buffers' classes, made from a description: what protoc's output does as well."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="bench.proto", package="bench", syntax="proto3")
    fields = descriptor_pb2.FieldDescriptorProto
    for name, members in {
        "Credentials": [("user", fields.TYPE_STRING), ("password", fields.TYPE_STRING)],
        "Verdict": [("ok", fields.TYPE_BOOL)],
        "Blob": [("data", fields.TYPE_BYTES)],
    }.items():
        message = file.message_type.add(name=name)
        for number, (member, kind) in enumerate(members, 1):
            message.field.add(name=member, number=number, type=kind, label=fields.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = (message_factory.GetMessageClass(pool.FindMessageTypeByName(f"bench.{m.name}")) for m in file.message_type)
    credentials, verdict, blob = made
    return credentials, verdict, blob


class Grpc(Implementation):
    options = [("grpc.max_receive_message_length", 8 * MIB), ("grpc.max_send_message_length", 8 * MIB)]

    @classmethod
    def serve(cls, path: str) -> None:
        from concurrent.futures import ThreadPoolExecutor

        import grpc

        credentials, verdict, blob = _messages()
        way = grpc.unary_unary_rpc_method_handler
        methods = {
            "Login": way(
                lambda asked, _: verdict(ok=right(asked.user, asked.password)),
                credentials.FromString,
                verdict.SerializeToString,
            ),
            "Echo": way(lambda asked, _: blob(data=asked.data), blob.FromString, blob.SerializeToString),
        }
        server = grpc.server(ThreadPoolExecutor(8), options=cls.options)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Auth", methods),))
        server.add_registered_method_handlers("bench.Auth", methods)
        server.add_insecure_port("unix:" + path)
        server.start()
        server.wait_for_termination()

    def __init__(self, path: str) -> None:
        import grpc

        self.credentials, verdict, self.blob = _messages()
        channel = grpc.insecure_channel("unix:" + path, options=self.options)
        way = channel.unary_unary
        self.ask = way(
            "/bench.Auth/Login", self.credentials.SerializeToString, verdict.FromString, _registered_method=True
        )
        self.send = way("/bench.Auth/Echo", self.blob.SerializeToString, self.blob.FromString, _registered_method=True)

    def login(self, user: str, password: str) -> bool:
        return self.ask(self.credentials(user=user, password=password)).ok

    def echo(self, data: bytes) -> bytes:
        return self.send(self.blob(data=data)).data


class ZeroRpc(Implementation):
    @staticmethod
    def serve(path: str) -> None:
        import zerorpc

        class Auth:
            def login(self, user: str, password: str) -> bool:
                return right(user, password)

            def echo(self, data: bytes) -> bytes:
                return data

        server = zerorpc.Server(Auth())
        server.bind("ipc://" + path)
        server.run()

    def __init__(self, path: str) -> None:
        import zerorpc

        self.client = zerorpc.Client("ipc://" + path)
        self.login = self.client.login
        self.echo = self.client.echo


IMPLEMENTATIONS: dict[str, type[Implementation]] = {
    "stream": Stream,
    "packet": Packet,
    "ours": Ours,
    "ours-twice": OursTwice,
    "msgspec": Msgspec,
    "json": JsonLines,
    "pyro5": Pyro,
    "pyro5-msgpack": PyroMsgpack,
    "rpyc": Rpyc,
    "varlink": Varlink,
    "xmlrpc": XmlRpc,
    "grpc": Grpc,
    "zerorpc": ZeroRpc,
}
