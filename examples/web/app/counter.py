"""Counts visits in Redis, and tells how many there were: HTTP on a unix socket."""

import http.server
import os
import socket
import socketserver

REDIS = "/run/redis/redis.sock"
OWN = "/run/app/counter.sock"


def increment(key):
    """INCR, in Redis' own protocol; a connection a request, so that a Redis that was restarted is no matter."""
    with socket.socket(socket.AF_UNIX) as redis:
        redis.connect(REDIS)
        redis.sendall(b"*2\r\n$4\r\nINCR\r\n$%d\r\n%s\r\n" % (len(key), key))
        answer = redis.makefile("rb").readline()
    if not answer.startswith(b":"):
        raise OSError(f"redis says {answer!r}")
    return int(answer[1:])


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            status, body = 200, f"{increment(b'visits')}\n"
        except OSError as error:
            status, body = 503, f"{error}\n"
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def address_string(self):
        return "nginx"

    def log_message(self, *_):
        """nginx keeps the log."""


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


if os.path.exists(OWN):
    os.remove(OWN)
os.umask(0o117)  # for its bundle, and nobody else
Server(OWN, Handler).serve_forever()
