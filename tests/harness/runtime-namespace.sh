#!/bin/bash
# runtime-namespace.sh [--cgroup2] COMMAND...: runs an OCI runtime where it cannot give away what is the host's.
#
# crun 1.8 and runc 1.1 change the owner of a service's standard streams to the service's id: of the host's
# /dev/null too, and of a file or terminal of whoever runs the tests. So the command has a mount namespace with a
# /dev/null of its own, and no stream that is not a pipe. With --cgroup2 it also has a plain cgroup2: crun refuses
# hybrid cgroups.
set -eu
if [ "${RUNTIME_NAMESPACE:-}" != "$PPID" ]; then
  # unshare(1) becomes this script once more, so that its parent stays the same.
  RUNTIME_NAMESPACE=$PPID exec unshare -m --propagation private "$0" "$@"
fi
unset RUNTIME_NAMESPACE
mount -t tmpfs none /mnt
mknod -m 666 /mnt/null c 1 3
mount --bind /mnt/null /dev/null
umount -l /mnt
if [ "$1" = --cgroup2 ]; then
  shift
  umount -R -l /sys/fs/cgroup
  mount -t cgroup2 none /sys/fs/cgroup
fi
# In the background twice, and waited for: a runtime waits for its own children, and takes in those whose parents end
# while it runs.
[ -p "/proc/$$/fd/0" ] || exec </dev/null
[ -p "/proc/$$/fd/1" ] || { exec > >(cat <&0 &); wait $! || :; }
[ -p "/proc/$$/fd/2" ] || { exec 2> >(cat <&0 >&2 &); wait $! || :; }
exec "$@"
