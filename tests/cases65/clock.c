/* The gateway's wall clock, in the hands of a test: LD_PRELOAD this and name a file of one int64 in GATEWAYD_TEST_CLOCK.
   Its number (ns) is added to CLOCK_REALTIME, and adjtimex says that the clock is synchronised. CLOCK_MONOTONIC is the
   kernel's own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset_ns;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("GATEWAYD_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *map = mmap(NULL, sizeof *offset_ns, PROT_READ, MAP_SHARED, file, 0);
        if (map != MAP_FAILED)
            offset_ns = map;
        close(file);
    }
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_clock_gettime)
        real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real_clock_gettime(clock, now);
    if (answer == 0 && clock == CLOCK_REALTIME && offset_ns) {
        int64_t ns = now->tv_nsec + *offset_ns % 1000000000;
        now->tv_sec += *offset_ns / 1000000000 + (ns < 0 ? -1 : ns / 1000000000);
        now->tv_nsec = ns < 0 ? ns + 1000000000 : ns % 1000000000;
    }
    return answer;
}

int adjtimex(struct timex *timex) {
    memset(timex, 0, sizeof *timex);
    timex->maxerror = timex->esterror = 1000;
    return TIME_OK;
}
