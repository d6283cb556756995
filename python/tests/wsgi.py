"""A web application that calls the service `one` for each request; gunicorn serves it in the tests."""

import os
import threading

import functions as f
import pysecure_rpc

# Before gunicorn forks its workers: they have this connection, and must not use it.
first = f.pid()


def app(environ, start):  # type: ignore[no-untyped-def]
    name = environ["PATH_INFO"].lstrip("/")
    try:
        if name == "late":
            with pysecure_rpc.timeout(0.2):
                f.slow(1000.0, "late")
            text = "it came"
        elif name == "stream":
            text = ",".join(map(str, f.count(40)))
        elif name == "wait":
            text = f.slow(0.3, "wait")
        else:
            text = f.login(name, str(threading.get_ident()))
    except Exception as error:
        text = type(error).__name__
    body = f"{os.getpid()} {text}".encode()
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
