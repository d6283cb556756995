/* What no sandbox can do without, by the plainest calls there are. Usage:
 *
 *   sandbox_floor hops            answers each message on descriptor 0 by way of a second process: the four hops of a ready run, from whoever
 *                                 asks to the pool, to the interpreter, and back
 *   sandbox_floor namespaces N    N times the namespaces of a sandbox, with a root, /proc and /tmp, and in them the two processes of a run,
 *                                 which end at once; prints how many a second
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MUST(x) do { if ((x) < 0) { perror(#x); _exit(1); } } while (0)

static void echo(int in, int out_by, int back) {
    char message[4096];
    ssize_t length;
    while ((length = recv(in, message, sizeof message, 0)) > 0) {
        if (out_by >= 0) {
            MUST(send(out_by, message, length, 0));
            MUST(length = recv(out_by, message, sizeof message, 0));
        }
        MUST(send(back, message, length, 0));
    }
}

static void hops(void) {
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    pid_t pid = fork();
    MUST(pid);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(pair[0]);
        echo(pair[1], -1, pair[1]);
        _exit(0);
    }
    close(pair[1]);
    echo(0, pair[0], 0);
}

static void sandbox(void) {
    MUST(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0));
    MUST(mount("tmpfs", "/mnt", "tmpfs", MS_NOSUID | MS_NODEV, 0));
    MUST(chdir("/mnt"));
    MUST(mount("/usr", "/mnt", 0, MS_BIND | MS_REC, 0));
    MUST(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
    MUST(mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, 0));
    pid_t pid = fork();
    MUST(pid);
    if (pid == 0) _exit(0);
    MUST(waitpid(pid, 0, 0));
    _exit(0);
}

static void namespaces(int count) {
    const int all = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | SIGCHLD;
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int i = 0; i < count; i++) {
        long pid = syscall(SYS_clone, all, 0, 0, 0, 0);
        MUST(pid);
        if (pid == 0) sandbox();
        int status;
        MUST(waitpid(pid, &status, 0));
        if (status) exit(1);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.1f\n", count / (end.tv_sec - begin.tv_sec + (end.tv_nsec - begin.tv_nsec) / 1e9));
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "hops")) hops();
    else if (argc > 2 && !strcmp(argv[1], "namespaces")) namespaces(atoi(argv[2]));
    else return 2;
    return 0;
}
