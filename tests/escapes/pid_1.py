for name in ('mem', 'maps', 'environ', 'auxv', 'syscall', 'stack', 'personality'):
    got = tried(lambda: open('/proc/1/' + name, 'rb').read(64))
    print(name, got)
for name in ('exe', 'cwd', 'root'):
    print(name, tried(os.readlink, '/proc/1/' + name))
    print(name, tried(os.open, '/proc/1/' + name, os.O_RDONLY))
print('exe', tried(os.open, '/proc/1/exe', os.O_WRONLY), tried(os.open, '/proc/1/exe', os.O_RDWR))
print('fd', tried(os.listdir, '/proc/1/fd'), tried(os.listdir, '/proc/1/map_files'))
for number in (0, 1):
    print('fd', tried(os.readlink, '/proc/1/fd/%d' % number), tried(os.open, '/proc/1/fd/%d' % number, os.O_RDONLY))
print('ns', tried(os.open, '/proc/1/ns/mnt', os.O_RDONLY))
print('kill', tried(os.kill, 1, 9), tried(os.kill, 1, 19))
print('ptrace', call(101, 16, 1, 0, 0), call(101, 0x4206, 1, 0, 0))
