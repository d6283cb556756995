# What a service is and may do, one fact a line; the same under every runtime.
echo "id $(id -u):$(id -g)"
echo "groups $(id -G | tr ' ' '\n' | sort -n | tr '\n' ' ')"
echo "names $(id -un):$(id -gn)"
echo "hostname $(cat /proc/sys/kernel/hostname)"
echo "umask $(umask)"
echo "directory $PWD"
bash -c 'for limit in n u c; do echo "ulimit -$limit $(ulimit -S$limit) $(ulimit -H$limit)"; done'
grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status
env | grep -v -E '^(PWD|OLDPWD|SHLVL|_)=' | sort | sed 's/^/env /'
echo "ids $(tr -s ' ' </proc/self/uid_map | tr '\n' ';') $(tr -s ' ' </proc/self/gid_map | tr '\n' ';')"
for namespace in user mnt pid ipc uts net cgroup; do
  echo "namespace $namespace $(readlink "/proc/self/ns/$namespace")"
done
grep -E '^ *lo:' /proc/net/dev | sed 's/:.*//; s/^ */interface /'
echo "interfaces $(tail -n +3 /proc/net/dev | wc -l)"
python3 - <<'PY'
import socket
server = socket.socket(); server.bind(('127.0.0.1', 0)); server.listen()
socket.create_connection(server.getsockname()).close()
print('loopback up')
PY
# Target, and the flags that hold something back.
while read -r _ _ _ _ target options _; do
  flags=$(printf '%s' "$options" | tr ',' '\n' | grep -E '^(ro|rw|nosuid|nodev|noexec)$' | sort | tr '\n' ',')
  echo "mount $target $flags"
done </proc/self/mountinfo | sort -u
for path in / /etc /usr /zoobar /zoobar/auth.py /zoobar/db /zoobar/db/cred /zoobar/db/cred/cred.db /data /data/board /data/letters/pinned \
    /data/letters /data/dropbox /data/motd.txt /opt/tools /opt/tools/probe.sh /srv/static /tmp /dev/shm \
    /proc/kcore /proc/keys /proc/timer_list /proc/sys/kernel/hostname /proc/sysrq-trigger; do
  may=
  if [ -d "$path" ]; then
    ls "$path" >/dev/null 2>&1 && may=${may}list,
    (: >"$path/probe.$$") 2>/dev/null && { may=${may}make,; rm -f "$path/probe.$$"; }
  else
    [ -n "$(head -c 1 "$path" 2>/dev/null)" ] && may=${may}read,
    [ "$path" = /proc/sysrq-trigger ] || { (: >>"$path") 2>/dev/null && may=${may}write,; }
    [ -x "$path" ] && may=${may}execute,
  fi
  echo "path $path $may$(stat -c '%u:%g %a %F' "$path" 2>&1 | sed 's/^stat: .*: /- /')"
done
for device in null zero full random urandom tty; do echo "device $device $(stat -c '%t:%T %a' /dev/$device 2>&1)"; done
echo "dev $(ls /dev | sort | tr '\n' ' ')"
echo "etc $(ls /etc | sort | tr '\n' ' ')"
cat /etc/passwd /etc/group /etc/hosts /etc/hostname | sed 's/^/account /'
