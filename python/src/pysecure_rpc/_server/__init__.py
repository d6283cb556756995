"""The service's side, a room for each concern:

- `sockets`: which sockets it has, and who may call what on them; `accept`: greeting who connects;
- `principal`: one caller, and what it makes the service hold; `connection`: sending to it, and the end of that;
- `dispatch`: what a message asks for; `scheduler`: what runs now, and in which thread; `one`: the only thread, with `threads=1`;
- `calls`: the life of a call; `streams`, `coroutines`: those that are no plain functions;
- `forked`: what a process is that the service's own code forks;
- `engine`: all of it in one process; `service`, `prefork`: from start to end, in one process or in several.
"""

from .service import Server, start_service
from .sockets import ServiceError

__all__ = ["Server", "ServiceError", "start_service"]
