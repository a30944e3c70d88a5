/* A bad disk and a clock that is set, for LD_PRELOAD.
 *
 * While the file $CHAOS_FSYNC_FAILS exists, fsync and fdatasync of files under $CHAOS_FSYNC_UNDER fail with EIO.
 * The wall clock is off by what $CHAOS_CLOCK holds: nanoseconds, 8 octets in the machine's order, mapped.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long long *offset_ns;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CHAOS_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *map = mmap(NULL, sizeof *offset_ns, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED)
        offset_ns = map;
}

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

#define GUARDED(name)                                     \
    int name(int fd)                                      \
    {                                                     \
        static int (*real)(int);                          \
        if (!real)                                        \
            real = (int (*)(int))dlsym(RTLD_NEXT, #name); \
        if (fails(fd)) {                                  \
            errno = EIO;                                  \
            return -1;                                    \
        }                                                 \
        return real(fd);                                  \
    }

GUARDED(fsync)
GUARDED(fdatasync)

int clock_gettime(clockid_t clock, struct timespec *at)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, at);
    if (result == 0 && offset_ns && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        long long ns = at->tv_sec * 1000000000LL + at->tv_nsec + *offset_ns;
        at->tv_sec = ns / 1000000000LL;
        at->tv_nsec = ns % 1000000000LL;
    }
    return result;
}

int gettimeofday(struct timeval *at, void *zone)
{
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0)
        return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}
