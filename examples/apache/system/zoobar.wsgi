import os

# The sockets of the external service, for www-data alone.
os.environ["PYSECURE_RPC_DIR"] = "/run/pysecure-external/zoobar-system"

from jinja2 import FileSystemBytecodeCache
from web import app as application

# What only this service may read and write.
application.jinja_env.bytecode_cache = FileSystemBytecodeCache("/srv/zoobar/cache")
