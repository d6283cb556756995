# Makes one thing by each program, in the current folder; its name is that of the program, after a prefix. What a
# program prints stands in the file "said" of its own folder in /tmp.
prefix=$1
export HOME=/tmp/home GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
mkdir -p "$HOME"
src=/tmp/src-$prefix
rm -rf "$src"
mkdir -p "$src/tree/inner"
echo text >"$src/file"
echo text >"$src/tree/file"
echo text >"$src/tree/inner/file"
chmod 600 "$src/file" "$src/tree/file"
chmod 700 "$src/tree/inner"

make() {
  n=$prefix-$1
  shift
  if (eval "$*") >"$src/said" 2>&1; then echo "$n"; else echo "$n FAILED: $(tr '\n' ' ' <"$src/said")"; fi
}
py() { python3 -c "import os, socket, sys; n = sys.argv[1]; $1" "$n"; }

make creat-0600 'py "os.write(os.open(n, os.O_CREAT | os.O_WRONLY, 0o600), b\"x\")"'
make creat-0644 'py "os.write(os.open(n, os.O_CREAT | os.O_WRONLY, 0o644), b\"x\")"'
make creat-0400 'py "os.write(os.open(n, os.O_CREAT | os.O_WRONLY, 0o400), b\"x\")"'
make umask-077 'umask 077; echo text >"$n"'
make umask-000 'umask 000; echo text >"$n"'
make mkdir-700 'mkdir -m 700 "$n"; echo text >"$n/file"'
make mkdir-p 'umask 077; mkdir -p "$n/a/b"; echo text >"$n/file"; echo text >"$n/a/b/file"'
make mkstemp 'f=$(mktemp -p .); echo text >"$f"; mv "$f" "$n"'
make mkstemp-python 'python3 -c "import tempfile, os, sys; f, p = tempfile.mkstemp(dir=\".\"); os.write(f, b\"x\"); os.rename(p, sys.argv[1])" "$n"'
make mktemp-d 'd=$(mktemp -d -p .); echo text >"$d/file"; mv "$d" "$n"'
make install-644 'install -m 644 "$src/file" "$n"'
make install-d 'install -d -m 700 "$n"; install -m 600 "$src/file" "$n/file"'
make tar 'mkdir "$n"; tar -C "$src/tree" -c . | tar -C "$n" -xp'
make tar-other-ids 'mkdir "$n"; tar -C "$src/tree" --owner=12345 --group=12345 --numeric-owner -c . | tar -C "$n" -xp --no-same-owner'
make unzip '(cd "$src/tree"; python3 -m zipfile -c "$src/zip" file inner); unzip -q "$src/zip" -d "$n"'
make rsync-a 'rsync -a "$src/tree/" "$n/"'
make cp-p 'cp -p "$src/file" "$n"'
make cp-a 'cp -a "$src/tree" "$n"'
make ln 'cp -p "$src/file" "$prefix-linked"; ln "$prefix-linked" "$n"'
make mv-across 'cp -p "$src/file" "$src/moved"; mv "$src/moved" "$n"'
make mv-tree 'cp -a "$src/tree" "$src/moved"; mv "$src/moved" "$n"'
make symlink 'ln -s "$prefix-creat-0600" "$n"'
make mkfifo 'mkfifo -m 600 "$n"'
make bind 'py "s = socket.socket(socket.AF_UNIX); s.bind(n)"'
make bind-umask-077 'py "os.umask(0o077); s = socket.socket(socket.AF_UNIX); s.bind(n)"'
make bind-gunicorn 'py "o = os.umask(0); s = socket.socket(socket.AF_UNIX); s.bind(n); os.chown(n, os.geteuid(), os.getegid()); os.umask(o)"'
make node 'node -e "require(\"net\").createServer().listen(process.argv[1], () => process.kill(process.pid, \"SIGKILL\"))" "$n"; [ -S "$n" ]'
make redis-socket 'redis-server --port 0 --unixsocket "$PWD/$n" --dir /tmp --save "" --daemonize no & p=$!; until [ -S "$n" ]; do sleep 0.01; done; kill -9 $p; wait $p; [ -S "$n" ]'
make sqlite-delete 'sqlite3 "$n" "create table t(x); insert into t values(1)"'
make sqlite-wal 'sqlite3 "$n" "pragma journal_mode=wal; create table t(x); insert into t values(1)"'
make git 'git init -q "$n"; cd "$n"; echo text >file; git add file; git -c user.name=a -c user.email=a@b commit -q -m first'
make patch 'echo text >"$n"; printf -- "--- a\n+++ a\n@@ -1 +1 @@\n-text\n+other\n" | patch -s "$n"'
make sed-i 'cp -p "$src/file" "$n"; sed -i s/text/other/ "$n"'
make vim 'py "open(n, \"w\").write(\"x\"); os.rename(n, n + \"~\"); f = os.open(n, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600); os.write(f, b\"y\"); os.fchmod(f, os.stat(n + \"~\").st_mode & 0o777); os.unlink(n + \"~\")"'
make dd 'dd if="$src/file" of="$n" status=none'
make truncate 'umask 077; truncate -s 10 "$n"'
make fallocate 'umask 077; fallocate -l 10 "$n"'
make tmpfile-linkat 'py "f = os.open(\".\", os.O_TMPFILE | os.O_RDWR, 0o600); os.write(f, b\"x\"); os.link(f\"/proc/self/fd/{f}\", n, src_dir_fd=os.open(\".\", 0), follow_symlinks=True)"'
make logrotate 'echo text >"$n"; mv "$n" "$n.1"; umask 077; echo text >"$n"; chmod 640 "$n"'
make atomic-json 'python3 -c "import os, sys, tempfile; f = tempfile.NamedTemporaryFile(dir=\".\", delete=False); f.write(b\"{}\"); f.close(); os.replace(f.name, sys.argv[1])" "$n"'
make split 'umask 077; split -b 2 "$src/file" "$n."; cat "$n".* >"$n"'
