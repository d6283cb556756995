#!/usr/bin/env python3
"""Starts the judge on a free port of the loopback, hands in all of `submissions`, and prints its verdicts."""

from __future__ import annotations

import json
import threading
import urllib.request
from pathlib import Path

import judge

SUBMISSIONS = Path(__file__).resolve().parent / "submissions"
#: No proxy stands before the loopback.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def main() -> None:
    with judge.serving(0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for file in sorted(SUBMISSIONS.iterdir()):
            exercise = file.name.split("-")[0]
            body = {"language": "c" if file.suffix == ".c" else "python", "source": file.read_text()}
            url = f"http://127.0.0.1:{server.server_port}/exercises/{exercise}"
            with OPENER.open(urllib.request.Request(url, json.dumps(body).encode())) as answer:
                verdict = json.load(answer)
            line = verdict["detail"].splitlines()[0] if verdict["detail"] else ""
            print(f"{file.name:24} {verdict['verdict']:14} {verdict['test']}  {line}".rstrip(), flush=True)
        server.shutdown()


if __name__ == "__main__":
    main()
