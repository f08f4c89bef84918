/* What a bad disk, a slow disk and a wrong wall clock look like to one process, and to no other. Loaded by LD_PRELOAD;
 * told by a page of memory shared with the test (CHAOS_CONTROL names the file). The process also ends with the test that
 * started it (CHAOS_PARENT is its pid), however that ends. Six numbers of 8 bytes: see `shim.py`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    int64_t fsync_errno, write_errno, clock_offset_ms, fsync_delay_ms, fsyncs, failures;
};

static volatile struct control none;
static volatile struct control *control = &none;

static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CHAOS_CONTROL");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *page = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (page != MAP_FAILED) control = page;
        close(file);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const char *parent = getenv("CHAOS_PARENT");
    if (parent && getppid() != (pid_t)atol(parent)) _exit(1); /* it ended before there was a signal for that */
}

#define REAL(name) (real_##name ? real_##name : (real_##name = dlsym(RTLD_NEXT, #name)))

static int disk(int64_t error) {
    struct timespec pause = {control->fsync_delay_ms / 1000, control->fsync_delay_ms % 1000 * 1000000};
    if (control->fsync_delay_ms) nanosleep(&pause, NULL);
    __atomic_add_fetch(&control->fsyncs, 1, __ATOMIC_RELAXED);
    if (!error) return 0;
    __atomic_add_fetch(&control->failures, 1, __ATOMIC_RELAXED);
    errno = (int)error;
    return -1;
}

int fsync(int file) { return disk(control->fsync_errno) ? -1 : REAL(fsync)(file); }

int fdatasync(int file) { return disk(control->fsync_errno) ? -1 : REAL(fdatasync)(file); }

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) {
    if (!control->write_errno) return REAL(pwrite)(file, data, size, offset);
    __atomic_add_fetch(&control->failures, 1, __ATOMIC_RELAXED);
    errno = (int)control->write_errno;
    return -1;
}

ssize_t pwrite64(int file, const void *data, size_t size, off_t offset) { return pwrite(file, data, size, offset); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);
    if (clock == CLOCK_REALTIME && result == 0 && control->clock_offset_ms) {
        int64_t ns = now->tv_nsec + control->clock_offset_ms % 1000 * 1000000;
        now->tv_sec += control->clock_offset_ms / 1000 + ns / 1000000000 - (ns < 0);
        now->tv_nsec = (ns % 1000000000 + 1000000000) % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *result) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (result) *result = exact.tv_sec;
    return exact.tv_sec;
}
