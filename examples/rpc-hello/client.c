/* Calls a function of a service, from docs/reference/rpc-protocol.md alone:  client SOCKET FUNCTION [ARGUMENT...]
 * Arguments are text. Prints the answer, and ends with 0 if it is a result. gcc -Wall -o client client.c
 * "client --vectors" reads values in hexadecimal, one a line, and prints each, or "malformed" at the end of its line. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static unsigned char message[65536];
static size_t at, end;
static jmp_buf next_vector;
static int vectors;

static void fail(const char *what) {
    if (vectors) longjmp(next_vector, 1);
    fprintf(stderr, "client: %s\n", what);
    exit(2);
}

/* Writing: a byte, a number's bytes, and text. */
static void put(unsigned byte) { if (end == sizeof message) fail("too much to say"); message[end++] = byte; }
static void put_text(const char *text) {
    size_t size = strlen(text);
    if (size < 32) put(0xa0 | size);
    else if (size < 0x10000) { put(0xda); put(size >> 8); put(size & 255); }
    else fail("an argument is too long");
    for (size_t i = 0; i < size; i++) put((unsigned char)text[i]);
}

/* Reading: every length is held against what is there. */
static uint64_t number(int bytes) {
    uint64_t value = 0;
    if (end - at < (size_t)bytes) fail("a message ends too soon");
    while (bytes--) value = value << 8 | message[at++];
    return value;
}
static void show_bytes(uint64_t size, int hex) {
    if (end - at < size) fail("a message ends too soon");
    for (uint64_t i = 0; i < size; i++) printf(hex ? "%02x" : "%c", message[at++]);
}
static void show_text(uint64_t size) {
    if (end - at < size) fail("a message ends too soon");
    for (size_t i = at; i < at + size;) {                               /* UTF-8: as many bytes as the first says, and no surrogate */
        unsigned first = message[i], more = first < 0x80 ? 0 : first < 0xc2 ? 9 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf5 ? 3 : 9;
        if (more > 3 || i + more >= at + size) fail("text is not UTF-8");
        uint32_t point = more ? first & (0x3f >> more) : first;
        for (unsigned n = 1; n <= more; n++) {
            if ((message[i + n] & 0xc0) != 0x80) fail("text is not UTF-8");
            point = point << 6 | (message[i + n] & 0x3f);
        }
        if ((more == 2 && point < 0x800) || (more == 3 && point < 0x10000) || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) fail("text is not UTF-8");
        i += more + 1;
    }
    show_bytes(size, 0);
}
static void show(int depth);
static void show_many(uint64_t count, int depth, const char *around, int pairs) {
    if (count > end - at || depth >= 64) fail("a message is nested too deep or ends too soon");
    putchar(around[0]);
    for (uint64_t i = 0; i < count; i++) {
        if (i) printf(", ");
        if (pairs && at < end && ((message[at] >= 0x80 && message[at] < 0xa0) || (message[at] >= 0xdc && message[at] < 0xe0))) fail("a list or map is a key");
        show(depth + 1);
        if (pairs) { printf(": "); show(depth + 1); }
    }
    putchar(around[1]);
}
static void show_extension(uint64_t size, int depth) {
    unsigned type = number(1);
    if (end - at < size || depth >= 64) fail("a message is nested too deep or ends too soon");
    if (type == 9) show_bytes(size, 0);                                 /* decimal: its text */
    else if (type >= 2 && type <= 8) {                                  /* tuples, sets, dates: an array, and nothing behind it */
        size_t after = end;
        end = at + size;
        show(depth + 1);
        if (at != end) fail("something follows in an extension");
        end = after;
    } else if ((type >= 10 && type <= 13) || type == 1) { printf("ext %u ", type); show_bytes(size, 1); }
    else fail("an unknown extension");                                  /* there are no descriptors here, either */
}
static void show(int depth) {
    unsigned first = number(1);
    if (first < 0x80) printf("%u", first);
    else if (first < 0x90) show_many(first & 15, depth, "{}", 1);
    else if (first < 0xa0) show_many(first & 15, depth, "[]", 0);
    else if (first < 0xc0) show_text(first & 31);
    else if (first >= 0xe0) printf("%d", (int)first - 256);
    else switch (first) {
    case 0xc0: printf("nil"); break;
    case 0xc2: printf("false"); break;
    case 0xc3: printf("true"); break;
    case 0xc4: case 0xc5: case 0xc6: show_bytes(number(1 << (first - 0xc4)), 1); break;
    case 0xc7: case 0xc8: case 0xc9: show_extension(number(1 << (first - 0xc7)), depth); break;
    case 0xca: { uint32_t bits = number(4); float value; memcpy(&value, &bits, 4); printf("%g", value); break; }
    case 0xcb: { uint64_t bits = number(8); double value; memcpy(&value, &bits, 8); printf("%g", value); break; }
    case 0xcc: case 0xcd: case 0xce: case 0xcf: printf("%" PRIu64, number(1 << (first - 0xcc))); break;
    case 0xd0: printf("%d", (int8_t)number(1)); break;
    case 0xd1: printf("%d", (int16_t)number(2)); break;
    case 0xd2: printf("%d", (int32_t)number(4)); break;
    case 0xd3: printf("%" PRId64, (int64_t)number(8)); break;
    case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: show_extension(1 << (first - 0xd4), depth); break;
    case 0xd9: case 0xda: case 0xdb: show_text(number(1 << (first - 0xd9))); break;
    case 0xdc: case 0xdd: show_many(number(2 << (first - 0xdc)), depth, "[]", 0); break;
    case 0xde: case 0xdf: show_many(number(2 << (first - 0xde)), depth, "{}", 1); break;
    default: fail("no such value");
    }
}

/* The next message's kind, with `at` behind it. */
static unsigned receive(int sock) {
    ssize_t got = recv(sock, message, sizeof message, 0);
    if (got <= 0) fail("the service ended the connection");
    at = 0;
    end = (size_t)got;
    if ((number(1) & 0xf0) != 0x90) fail("not a message");
    return number(1);
}

/* Values from specs/rpc-vectors.json, as a test hands them over. */
static int show_vectors(void) {
    static char line[2 * sizeof message + 2];
    vectors = 1;
    while (fgets(line, sizeof line, stdin)) {
        unsigned byte;
        at = end = 0;
        while (sscanf(line + 2 * end, "%2x", &byte) == 1) message[end++] = byte;
        if (!setjmp(next_vector)) {
            show(0);
            if (at != end) fail("something follows");
        } else printf(" malformed");
        putchar('\n');
    }
    return 0;
}

int main(int count, char **words) {
    if (count == 2 && !strcmp(words[1], "--vectors")) return show_vectors();
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (count < 3 || count > 17 || strlen(words[1]) >= sizeof address.sun_path) fail("client SOCKET FUNCTION [ARGUMENT...]");
    strcpy(address.sun_path, words[1]);
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof address)) { perror(words[1]); return 2; }
    if (receive(sock) != 1 || number(1) != 1) fail("no HELLO of version 1");

    end = 0;                                                            /* CALL: 2, id, function, args, kwargs */
    put(0x95); put(2); put(1);
    put_text(words[2]);
    put(0x90 | (count - 3));
    for (int i = 3; i < count; i++) put_text(words[i]);
    put(0x80);
    if (send(sock, message, end, MSG_NOSIGNAL) < 0) { perror("send"); return 2; }

    unsigned kind = receive(sock);
    if (number(1) != 1) fail("an answer to what was not asked");
    if (kind == 4) { show(1); printf(": "); }                           /* ERR: class, message; they lie in one array */
    show(1);
    putchar('\n');
    return kind == 3 ? 0 : 1;
}
