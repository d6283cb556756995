/* Prints the seccomp filter of a process, the newest if there are several: an instruction a line. Follows ptrace(2),
   PTRACE_SECCOMP_GET_FILTER. */
#include <errno.h>
#include <linux/filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

int main(int count, char **words) {
    pid_t pid = count > 1 ? atoi(words[1]) : 0;
    struct sock_filter program[4096];
    if (ptrace(PTRACE_SEIZE, pid, 0, 0) != 0 || ptrace(PTRACE_INTERRUPT, pid, 0, 0) != 0 || waitpid(pid, NULL, __WALL) != pid) {
        perror("trace");
        return 1;
    }
    long length = -1, next;
    for (unsigned long number = 0; (next = ptrace(PTRACE_SECCOMP_GET_FILTER, pid, number, program)) > 0; number++)
        length = next;
    if (length < 0) {
        perror("read the filter");
        return 1;
    }
    for (long at = 0; at < length; at++)
        printf("%u %u %u %u\n", program[at].code, program[at].jt, program[at].jf, program[at].k);
    return 0;
}
