/* hello: the smallest service worth deploying. Answers every request on
 * 127.0.0.1:$PORT with its version; `hello --assets BYTES` prints that many
 * bytes that do not compress, so that a deploy has something to move. */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VERSION "1"

static int assets(long bytes) {
    uint64_t x = 88172645463325252ull;
    for (long i = 0; i < bytes; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        fwrite(&x, 1, 8, stdout);
    }
    return fflush(stdout) ? 1 : 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "--assets")) return assets(atol(argv[2]));
    const char *port = getenv("PORT");
    if (!port) return fprintf(stderr, "hello: PORT is not set\n"), 2;
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 16))
        return perror("hello: listen"), 1;
    printf("hello %s on port %s\n", VERSION, port);
    fflush(stdout);
    for (;;) {
        int client = accept(listener, 0, 0);
        if (client < 0) continue;
        char request[2048];
        if (read(client, request, sizeof request) > 0)
            dprintf(client, "HTTP/1.0 200 OK\r\n\r\nhello %s\n", VERSION);
        close(client);
    }
}
