/* While the file $CHAOS_FSYNC_FAILS exists, fsync and fdatasync of files under $CHAOS_FSYNC_UNDER fail with EIO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(int fd)
{
    const char *when = getenv("CHAOS_FSYNC_FAILS"), *under = getenv("CHAOS_FSYNC_UNDER");
    char link[64], path[4096];
    if (!when || !under || access(when, F_OK) != 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return strncmp(path, under, strlen(under)) == 0;
}

#define GUARDED(name)                                       \
    int name(int fd)                                        \
    {                                                       \
        static int (*real)(int);                            \
        if (!real)                                          \
            real = (int (*)(int))dlsym(RTLD_NEXT, #name);   \
        if (fails(fd)) {                                    \
            errno = EIO;                                    \
            return -1;                                      \
        }                                                   \
        return real(fd);                                    \
    }

GUARDED(fsync)
GUARDED(fdatasync)
