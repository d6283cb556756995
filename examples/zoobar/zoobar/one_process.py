"""The whole application in one process, as it would be without PySecure: the same modules, each called directly.

    mkdir -p db/cred db/bank db/profile
    export ZOOBAR_DB=$PWD/db ZOOBAR_STATIC=$PWD/static PYTHONPATH=$PWD/../../python/src
    python3 zoobar/create.py
    gunicorn --chdir zoobar --config zoobar/gunicorn.conf.py --bind 127.0.0.1:8081 one_process:app

What breaks into it has everything: attack.py shows it.
"""

from collections.abc import Iterable
from typing import Any

import pysecure_rpc
import web


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    with pysecure_rpc.local("web"):
        return web.app(environ, start_response)
