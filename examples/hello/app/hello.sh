#!/bin/sh
# Says what this service can do, and tries what it should not be able to do.

say() { printf '%s\n' "$*"; }
# try WHAT COMMAND…: runs it in silence and says whether it worked.
try() {
  what=$1; shift
  if ( "$@" ) >/dev/null 2>&1; then say "can    $what"; else say "cannot $what"; fi
}
append() { echo "$PYSECURE_SERVICE was here" >> "$1"; }

[ "$PYSECURE_SERVICE" = auth ] && echo swordfish > /data/auth/secret.txt

# One after the other, only so that the output is easy to read.
case "$PYSECURE_SERVICE" in web) sleep 0.5;; stranger) sleep 1;; esac

say "am     $(id)"
say "see    $(ls -d /proc/[0-9]* | wc -l) processes, all my own, on a host called $(hostname)"
say "find   /data: $(ls /data 2>/dev/null | tr '\n' ' ')"
try "read   the secret"                  cat /data/auth/secret.txt
try "write  the secret"                  append /data/auth/secret.txt
try "read   the board"                   ls /data/board
try "write  the board"                   append /data/board/notes.txt
try "write  its own code"                append /app/hello.sh
try "write  the root"                    append /usr/bin/true
try "signal its PID 1"                   kill -KILL 1
try "trace  its PID 1"                   head -c 1 /proc/1/mem
try "list   what PID 1 has open"         ls /proc/1/fd
try "reach  the host's network"          sh -c 'grep : /proc/net/dev | grep -qv lo:'
try "become root"                        unshare --user --map-root-user true

exec sleep infinity
