/* Answers questions about the process that it is, over two pipes that it makes beside the path in its first argument: a line of
   the one is a question, "KIND ARGUMENT". Each answer is a line "= LENGTH" and as many bytes, or "! ERRNO". Linked statically,
   it runs in any root. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static FILE *answer;

/* What is in a file, as far as it can be read. */
static int contents(const char *path) {
    char bytes[4096];
    ssize_t read_now;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    while ((read_now = read(fd, bytes, sizeof bytes)) > 0)
        fwrite(bytes, 1, read_now, answer);
    int failed = read_now < 0 ? errno : 0;
    close(fd);
    return failed;
}

/* Has a file a byte, or a directory an entry? */
static int readable(const char *path) {
    struct stat found;
    if (stat(path, &found) != 0)
        return errno;
    int some = 0;
    if (S_ISDIR(found.st_mode)) {
        DIR *all = opendir(path);
        for (struct dirent *one; all && (one = readdir(all));)
            some |= strcmp(one->d_name, ".") != 0 && strcmp(one->d_name, "..") != 0;
        if (all)
            closedir(all);
    } else {
        char byte;
        int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        some = fd >= 0 && read(fd, &byte, 1) == 1;
        if (fd >= 0)
            close(fd);
    }
    fputs(some ? "yes" : "no", answer);
    return 0;
}

/* Can a directory be made an entry in, or a file be opened to be written? Nothing is written. */
static int writable(const char *path) {
    struct stat found;
    if (stat(path, &found) != 0)
        return errno;
    char inside[4096 + 32];
    int directory = S_ISDIR(found.st_mode);
    snprintf(inside, sizeof inside, directory ? "%s/.probe-%d" : "%s", path, (int)getpid());
    int fd = open(inside, O_WRONLY | O_CLOEXEC | (directory ? O_CREAT | O_EXCL : 0), 0600);
    if (fd < 0)
        return errno;
    close(fd);
    if (directory)
        unlink(inside);
    fputs("yes", answer);
    return 0;
}

static int status(const char *path) {
    struct stat found;
    if (stat(path, &found) != 0)
        return errno;
    int kind = S_ISCHR(found.st_mode) ? 'c' : S_ISBLK(found.st_mode) ? 'b' : S_ISFIFO(found.st_mode) ? 'p' : '-';
    fprintf(answer, "%c %u %u %o", kind, major(found.st_rdev), minor(found.st_rdev), found.st_mode & 07777);
    return 0;
}

static int target(const char *path) {
    char to[4096];
    ssize_t length = readlink(path, to, sizeof to);
    if (length < 0)
        return errno;
    fwrite(to, 1, length, answer);
    return 0;
}

/* Everything below a directory that is on its own file system: the kind and the path, and of a link where it leads. What is
   mounted on has the kind of what is mounted. */
static int tree(const char *path, dev_t device) {
    char inside[4096];
    DIR *all = opendir(path);
    if (!all)
        return errno;
    int failed = 0;
    for (struct dirent *one; (one = readdir(all));) {
        struct stat found;
        if (strcmp(one->d_name, ".") == 0 || strcmp(one->d_name, "..") == 0)
            continue;
        snprintf(inside, sizeof inside, "%s/%s", strcmp(path, "/") == 0 ? "" : path, one->d_name);
        if (lstat(inside, &found) != 0) {
            failed = errno;
            continue;
        }
        int here = found.st_dev == device;
        if (S_ISLNK(found.st_mode)) {
            fprintf(answer, "link %s ", inside);
            target(inside);
            fputc('\n', answer);
        } else if (S_ISDIR(found.st_mode)) {
            fprintf(answer, "directory %s\n", inside);
            if (here)
                failed |= tree(inside, device);
        } else {
            fprintf(answer, "file %s\n", inside);
        }
    }
    closedir(all);
    return failed;
}

/* A system call: its number and arguments. */
static int call(char *words) {
    unsigned long value[7] = {0};
    for (int at = 0; at < 7 && *words; at++)
        value[at] = strtoul(words, &words, 0);
    long result = syscall(value[0], value[1], value[2], value[3], value[4], value[5], value[6]);
    if (result == -1)
        return errno;
    fprintf(answer, "%ld", result);
    return 0;
}

/* Opens a pipe beside a path; waits until its other end is opened. */
static FILE *channel(const char *path, const char *end, const char *how) {
    char name[4096];
    snprintf(name, sizeof name, "%s.%s", path, end);
    FILE *opened = mkfifo(name, 0600) == 0 || errno == EEXIST ? fopen(name, how) : NULL;
    if (!opened) {
        perror(name);
        exit(1);
    }
    return opened;
}

int main(int count, char **words) {
    char line[8192];
    if (count < 2)
        return 2;
    FILE *questions = channel(words[1], "questions", "r"), *answers = channel(words[1], "answers", "w");
    while (fgets(line, sizeof line, questions)) {
        line[strcspn(line, "\n")] = 0;
        char *argument = strchr(line, ' ');
        argument = argument ? (*argument = 0, argument + 1) : line + strlen(line);
        char *bytes = NULL;
        size_t length = 0;
        answer = open_memstream(&bytes, &length);
        int failed = EINVAL;
        if (strcmp(line, "contents") == 0)
            failed = contents(argument);
        else if (strcmp(line, "readable") == 0)
            failed = readable(argument);
        else if (strcmp(line, "writable") == 0)
            failed = writable(argument);
        else if (strcmp(line, "status") == 0)
            failed = status(argument);
        else if (strcmp(line, "target") == 0)
            failed = target(argument);
        else if (strcmp(line, "call") == 0)
            failed = call(argument);
        else if (strcmp(line, "directory") == 0) {
            char *at = getcwd(NULL, 0);
            failed = at ? 0 : errno;
            fputs(at ? at : "", answer);
            free(at);
        } else if (strcmp(line, "tree") == 0) {
            struct stat found;
            failed = lstat(argument, &found) != 0 ? errno : tree(argument, found.st_dev);
        }
        fclose(answer);
        if (failed)
            fprintf(answers, "! %d\n", failed);
        else {
            fprintf(answers, "= %zu\n", length);
            fwrite(bytes, 1, length, answers);
        }
        fflush(answers);
        free(bytes);
    }
    return 0;
}
