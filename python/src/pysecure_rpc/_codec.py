"""Which codec it is: the compiled core, or the same in plain Python where the core is not built or `PYSECURE_RPC_PURE=1` is set."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

COMPILED = False

if not TYPE_CHECKING and os.environ.get("PYSECURE_RPC_PURE") != "1":
    try:
        from ._core import (
            Admission,
            Area,
            Call,
            ClientConn,
            Counters,
            FastCall,
            FastHandler,
            FastHandlers,
            Leader,
            Message,
            PeerArea,
            ServerConn,
            open_call,
            open_message,
            pack,
            seal,
            unpack,
        )

        COMPILED = True
    except ImportError:  # not built, or for another machine
        pass

if TYPE_CHECKING or not COMPILED:
    from ._plain import Admission, Call, ClientConn, Counters, FastCall, FastHandler, FastHandlers, Leader, ServerConn
    from ._wire import Area, Message, PeerArea, open_call, open_message, pack, seal, unpack

#: The longest message on the socket, and more bytes than which go through a memfd.
MAX_MESSAGE, BLOB = 65_536, 16 * 1024

__all__ = [
    "BLOB",
    "COMPILED",
    "MAX_MESSAGE",
    "Admission",
    "Area",
    "Call",
    "ClientConn",
    "Counters",
    "FastCall",
    "FastHandler",
    "FastHandlers",
    "Leader",
    "Message",
    "PeerArea",
    "ServerConn",
    "open_call",
    "open_message",
    "pack",
    "seal",
    "unpack",
]
