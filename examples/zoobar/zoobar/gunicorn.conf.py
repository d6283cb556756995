"""How gunicorn runs the pages: separated or as one process, the same."""

import os

workers = int(os.environ.get("ZOOBAR_WORKERS", "1"))
worker_class = "gthread"
threads = 4
# What a worker does to show that it lives is for memory, not for a disk.
worker_tmp_dir = "/dev/shm"
