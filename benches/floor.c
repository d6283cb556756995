/* The least that a start can cost: the same namespaces and the same mounts as a service's spec, made by the plainest
 * calls there are, then a static program. Usage: floor N OPS ROOTFS PROGRAM; prints milliseconds each.
 *
 * OPS holds a line an operation: a letter, then words.
 *   b SOURCE TARGET RDONLY NOEXEC   bind     t TARGET OPTIONS NOEXEC   tmpfs     p TARGET   proc     d TARGET   devpts
 *   n NAME                          a node of /dev, bound from the host          l TO PATH  link
 *   k PATH                          directory    m PATH   mask     r PATH   read-only
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MUST(x) do { if ((x) < 0) { perror(#x); _exit(1); } } while (0)
enum { MOST = 200 };
static struct op { char kind; char a[256], b[256], c[64]; int x, y; } ops[MOST];
static int count;

static void put(int pid, const char *file, const char *text) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) perror(path);
    close(fd);
}

static void carry_out(struct op *o) {
    char in[512], at[512];
    unsigned long safe = MS_NOSUID | MS_NODEV;
    snprintf(at, sizeof at, ".%s", o->kind == 'b' ? o->b : o->a);
    switch (o->kind) {
    case 'b':
        MUST(mount(o->a, at, 0, MS_BIND | MS_REC, 0));
        MUST(mount(0, at, 0, MS_REMOUNT | MS_BIND | safe | (o->x ? MS_RDONLY : 0) | (o->y ? MS_NOEXEC : 0), 0));
        break;
    case 't': MUST(mount("tmpfs", at, "tmpfs", safe | (o->y ? MS_NOEXEC : 0), o->c)); break;
    case 'p': MUST(mount("proc", at, "proc", safe | MS_NOEXEC, 0)); break;
    case 'd': MUST(mount("devpts", at, "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")); break;
    case 'n':
        snprintf(in, sizeof in, "/dev/%s", o->a);
        snprintf(at, sizeof at, "./dev/%s", o->a);
        close(open(at, O_CREAT | O_WRONLY, 0666));
        MUST(mount(in, at, 0, MS_BIND, 0));
        break;
    case 'l': snprintf(at, sizeof at, ".%s", o->b); MUST(symlink(o->a, at)); break;
    case 'k': MUST(mkdir(at, 0755)); break;
    case 'm': {
        struct stat s;
        if (lstat(at, &s) < 0) break;
        if (S_ISDIR(s.st_mode)) MUST(mount("tmpfs", at, "tmpfs", safe | MS_RDONLY, 0));
        else MUST(mount("./dev/null", at, 0, MS_BIND, 0));
        break;
    }
    case 'r':
        if (access(at, F_OK) < 0) break;
        MUST(mount(at, at, 0, MS_BIND | MS_REC, 0));
        MUST(mount(0, at, 0, MS_REMOUNT | MS_BIND | safe | MS_NOEXEC | MS_RDONLY, 0));
    }
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    FILE *f = fopen(argv[2], "r");
    if (!f) { perror(argv[2]); return 1; }
    char line[600];
    while (count < MOST && fgets(line, sizeof line, f)) {
        struct op *o = &ops[count++];
        o->kind = line[0];
        switch (o->kind) {
        case 'b': sscanf(line, "b %255s %255s %d %d", o->a, o->b, &o->x, &o->y); break;
        case 't': sscanf(line, "t %255s %63s %d", o->a, o->c, &o->y); break;
        case 'l': sscanf(line, "l %255s %255s", o->a, o->b); break;
        default: sscanf(line + 1, " %255s", o->a);
        }
    }
    fclose(f);
    int n = atoi(argv[1]);
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int i = 0; i < n; i++) {
        int go[2];
        MUST(pipe2(go, O_CLOEXEC));
        struct clone_args args = { .exit_signal = SIGCHLD, .flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID |
            CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP };
        int pid = syscall(SYS_clone3, &args, sizeof args);
        MUST(pid);
        if (!pid) {
            char byte;
            close(go[1]);
            if (read(go[0], &byte, 1) != 1) _exit(1);
            MUST(setresgid(0, 0, 0));
            MUST(setresuid(0, 0, 0));
            umask(0);
            MUST(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0));
            MUST(mount(argv[3], argv[3], 0, MS_BIND | MS_REC, 0));
            MUST(chdir(argv[3]));
            for (int j = 0; j < count; j++) carry_out(&ops[j]);
            MUST(mount(0, ".", 0, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, 0));
            MUST(syscall(SYS_pivot_root, ".", "."));
            MUST(umount2(".", MNT_DETACH));
            MUST(chdir("/"));
            int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
            struct ifreq up = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
            MUST(ioctl(s, SIOCSIFFLAGS, &up));
            MUST(sethostname("floor", 5));
            execl(argv[4], argv[4], NULL);
            perror(argv[4]);
            _exit(1);
        }
        put(pid, "uid_map", "0 61000 1\n");
        put(pid, "gid_map", "0 61000 1\n");
        if (write(go[1], "!", 1) != 1) return 1;
        close(go[0]);
        close(go[1]);
        int status;
        waitpid(pid, &status, 0);
        if (status) { fprintf(stderr, "floor: status %x\n", status); return 1; }
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("%.4f\n", ((to.tv_sec - from.tv_sec) * 1e3 + (to.tv_nsec - from.tv_nsec) / 1e6) / n);
}
