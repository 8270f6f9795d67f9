/* Faults of the disk and of the clock, preloaded into every role: LD_PRELOAD=libfaults.so.
 *
 * What fails is said by a control file that all processes map (CHAOS_CONTROL) and the campaign writes to. Only files
 * below one folder (CHAOS_FOLDER) are touched, so that sockets, logs and libraries are left alone. The layout of
 * `struct control` is that of preload.py.
 *
 * For power losses it notes what the disk would have kept: the number of each file (inode) that was synced, in
 * CHAOS_SYNCED, and up to which frame the write-ahead log of the journal was. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    _Atomic int64_t clock_offset_ns;  /* added to CLOCK_REALTIME */
    _Atomic int64_t free_bytes;       /* what statvfs says, unless it is negative */
    _Atomic int32_t fsync_failures;   /* how many of the next fsyncs fail with EIO */
    _Atomic int32_t no_space;         /* whether whatever needs room fails with ENOSPC */
    _Atomic int32_t sync_delay_us;    /* a slow disk: before each fsync */
    _Atomic int32_t write_delay_us;   /* and before each write */
    _Atomic int32_t met;              /* how often a fault was met */
    _Atomic uint64_t synced_log;      /* first half of the salt of the write-ahead log << 32, frames that are on the disk */
};

static struct control nothing = {.free_bytes = -1};
static struct control *control = &nothing;
static char folder[4096];
static size_t folder_length;
static int synced = -1;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

/* Looked up once: dlsym in each call would be most of what the clock costs. */
static int (*real_fsync)(int), (*real_fdatasync)(int);
static ssize_t (*real_write)(int, const void *, size_t), (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real_fsync = real("fsync");
    real_fdatasync = real("fdatasync");
    real_write = real("write");
    real_pwrite = real("pwrite64");
    real_clock_gettime = real("clock_gettime");
    const char *path = getenv("CHAOS_CONTROL"), *below = getenv("CHAOS_FOLDER"), *log = getenv("CHAOS_SYNCED");
    if (path == NULL || below == NULL || log == NULL)
        return;
    int descriptor = open(path, O_RDWR | O_CLOEXEC);
    if (descriptor < 0)
        return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (mapped == MAP_FAILED)
        return;
    synced = open(log, O_WRONLY | O_APPEND | O_CLOEXEC);
    folder_length = strlen(below);
    if (folder_length < sizeof folder)
        memcpy(folder, below, folder_length + 1);
    control = mapped;
}

static int is_below(const char *path) {
    return folder_length && strncmp(path, folder, folder_length) == 0;
}

/* The path of an open file below the folder; 0 for anything else. */
static int path_of(int descriptor, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0)
        return 0;
    path[length] = '\0';
    return is_below(path);
}

static void pause_us(int32_t us) {
    struct timespec wait = {us / 1000000, us % 1000000 * 1000L};
    nanosleep(&wait, NULL);
}

static int fails(int number) {
    atomic_fetch_add(&control->met, 1);
    errno = number;
    return -1;
}

static int fails_now(_Atomic int32_t *left) {
    int32_t found = atomic_load(left);
    while (found > 0)
        if (atomic_compare_exchange_weak(left, &found, found - 1))
            return 1;
    return 0;
}

/* The index, open. It is never closed: a process that closes any descriptor of a file loses all its locks on that file
 * (fcntl(2)), and SQLite's are on this one. */
static int index_of_log(const char *path) {
    static _Atomic int kept = -1;
    struct stat here, there;
    int descriptor = atomic_load(&kept);
    if (stat(path, &there) != 0)
        return -1;
    if (descriptor >= 0 && fstat(descriptor, &here) == 0 && here.st_ino == there.st_ino)
        return descriptor;
    descriptor = open(path, O_RDONLY | O_CLOEXEC);
    atomic_store(&kept, descriptor);
    return descriptor;
}

/* What the index of the write-ahead log says before a sync of the log: its salt, which counts up with each log, and the
 * frames in it (https://sqlite.org/walformat.html); 0 for any other file. */
static uint64_t log_before_sync(const char *path) {
    size_t length = strlen(path);
    char index[4096];
    if (length < 4 || length >= sizeof index || strcmp(path + length - 4, "-wal") != 0)
        return 0;
    memcpy(index, path, length - 3);
    strcpy(index + length - 3, "shm");
    int descriptor = index_of_log(index);
    if (descriptor < 0)
        return 0;
    uint32_t head[12];
    ssize_t length_read = pread(descriptor, head, sizeof head, 0);
    return length_read == sizeof head ? (uint64_t)head[8] << 32 | head[4] : 0;
}

/* One word, without a lock: who holds one may be killed. */
static void note_log(uint64_t state) {
    uint64_t found = atomic_load(&control->synced_log);
    while (found >> 32 != state >> 32 || found < state)
        if (atomic_compare_exchange_weak(&control->synced_log, &found, state))
            return;
}

static int sync_with(int (*sync)(int), int descriptor) {
    char path[4096];
    if (control == &nothing || !path_of(descriptor, path, sizeof path))
        return sync(descriptor);
    if (control->sync_delay_us)
        pause_us(control->sync_delay_us);
    if (fails_now(&control->fsync_failures))
        return fails(EIO);
    uint64_t before = log_before_sync(path);
    int answer = sync(descriptor);
    if (answer == 0) {
        struct stat found;
        if (fstat(descriptor, &found) == 0 && S_ISREG(found.st_mode)) {
            uint64_t number = found.st_ino;
            if (real_write(synced, &number, sizeof number) != sizeof number)
                abort(); /* the campaign would take a durable file for a lost one */
        }
        if (before)
            note_log(before);
    }
    return answer;
}

int fsync(int descriptor) {
    return sync_with(real_fsync, descriptor);
}

int fdatasync(int descriptor) {
    return sync_with(real_fdatasync, descriptor);
}

/* Whether a write fails now; it is delayed where the disk is slow. */
static int write_fails(int descriptor) {
    char path[4096];
    if (!control->no_space && !control->write_delay_us)
        return 0;
    if (!path_of(descriptor, path, sizeof path))
        return 0;
    if (control->write_delay_us)
        pause_us(control->write_delay_us);
    return control->no_space;
}

ssize_t write(int descriptor, const void *data, size_t count) {
    return write_fails(descriptor) ? fails(ENOSPC) : real_write(descriptor, data, count);
}

ssize_t pwrite(int descriptor, const void *data, size_t count, off_t offset) {
    return write_fails(descriptor) ? fails(ENOSPC) : real_pwrite(descriptor, data, count, offset);
}

ssize_t pwrite64(int descriptor, const void *data, size_t count, off_t offset) {
    return write_fails(descriptor) ? fails(ENOSPC) : real_pwrite(descriptor, data, count, offset);
}

/* Names need room as well. */
#define NAMING(name, parameters, path, ...)                                     \
    int name parameters {                                                       \
        if (control->no_space && is_below(path))                                \
            return fails(ENOSPC);                                               \
        return REAL(name)(__VA_ARGS__);                                         \
    }

NAMING(rename, (const char *from, const char *to), to, from, to)
NAMING(link, (const char *from, const char *to), to, from, to)
NAMING(linkat, (int at, const char *from, int there, const char *to, int flags), to, at, from, there, to, flags)
NAMING(mkdir, (const char *path, mode_t mode), path, path, mode)

static int opened(const char *name, const char *path, int flags, mode_t mode) {
    if (control->no_space && (flags & O_CREAT) && is_below(path) && access(path, F_OK) != 0)
        return fails(ENOSPC);
    return ((int (*)(const char *, int, ...))real(name))(path, flags, mode);
}

#define OPENING(name)                                                           \
    int name(const char *path, int flags, ...) {                                \
        va_list more;                                                           \
        va_start(more, flags);                                                  \
        mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;               \
        va_end(more);                                                           \
        return opened(#name, path, flags, mode);                                \
    }

OPENING(open)
OPENING(open64)

#define ROOM(name, type)                                                        \
    int name(const char *path, struct type *status) {                           \
        int answer = REAL(name)(path, status);                                  \
        int64_t free = control->no_space ? 0 : control->free_bytes;             \
        if (answer == 0 && free >= 0 && is_below(path))                         \
            status->f_bavail = free / status->f_frsize;                         \
        return answer;                                                          \
    }

ROOM(statvfs, statvfs)
ROOM(statvfs64, statvfs64)

int clock_gettime(clockid_t clock, struct timespec *time) {
    /* The dynamic linker may call before `begin` has run. */
    int answer = real_clock_gettime ? real_clock_gettime(clock, time) : REAL(clock_gettime)(clock, time);
    int64_t offset = control->clock_offset_ns;
    if (answer == 0 && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t now = time->tv_sec * 1000000000LL + time->tv_nsec + offset;
        time->tv_sec = now / 1000000000LL;
        time->tv_nsec = now % 1000000000LL;
    }
    return answer;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int answer = clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return answer;
}

time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place != NULL)
        *place = now.tv_sec;
    return now.tv_sec;
}
