/* An emulated CUDA driver: one device whose memory is host memory, behind the names of the real one.
 *
 * It is stricter than a GPU where it can be. What is put on a stream runs only when the stream is waited for, so a
 * result that is read too early is wrong every time. Freed memory is never handed out again and cannot be touched.
 * Each break of the rules is counted, and its text kept: a test asks for them with emulated_violations().
 *
 * Environment: EMULATED_CUDA_MEMORY (bytes), EMULATED_CUDA_CAPABILITY (for example 89), EMULATED_CUDA_LOST (a file: the
 * device is lost for good in the process that finds it, and the file is removed), EMULATED_CUDA_REPORT (a file that
 * gets a line of JSON when the process ends).
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201, INVALID_HANDLE = 400,
    ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900,
};

typedef int result;
typedef uint64_t address;
typedef void (*host_function)(void *);

/* ---- what there is ---------------------------------------------------------------------------------------------- */

typedef struct { address start; size_t size, mapped; int alive, pinned; } block;
typedef struct { enum { COPY, FILL, CALL } kind; address to, from; size_t bytes; host_function call; void *data; } task;
typedef struct { task *tasks; size_t count, room; } list;
typedef struct stream { list waiting, captured; int capturing, alive; } stream;

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static block *blocks;
static size_t block_count, block_room;
static size_t capacity = (size_t)4 << 30, used, peak;
static long allocations, frees, pinned_allocations, pinned_frees, streams, graphs, launches, copies, violations;
static long fail_after = -1, fail_count;
static volatile int hanging;
static int primary, lost, capability = 89, devices = 1, the_context;
static char said[4096];
static __thread void *current[16];
static __thread int depth;

static void violation(const char *format, ...) {
    va_list arguments;
    violations++;
    va_start(arguments, format);
    if (strlen(said) < sizeof said - 200) {
        vsnprintf(said + strlen(said), 190, format, arguments);
        strcat(said, "\n");
    }
    va_end(arguments);
}

/* Locked by the caller. A device that is lost stays lost in this process, as a real one does. */
static int gone(void) {
    const char *file = getenv("EMULATED_CUDA_LOST");
    if (!lost && file && unlink(file) == 0) lost = 1;
    return lost;
}

static result usable(void) {
    if (gone()) return LAUNCH_FAILED;
    return depth ? SUCCESS : INVALID_CONTEXT;
}

/* The block that holds all of [start, start + bytes); what is wrong with it otherwise is put down. */
static block *find(address start, size_t bytes, const char *what) {
    for (size_t i = block_count; i-- > 0;) {
        block *found = &blocks[i];
        if (start < found->start || start >= found->start + found->size) continue;
        if (!found->alive) violation("%s: use after free, %zu bytes", what, bytes);
        else if (start + bytes > found->start + found->size)
            violation("%s: %zu bytes where %zu are left", what, bytes, (size_t)(found->start + found->size - start));
        else return found;
        return NULL;
    }
    violation("%s: not an address of the device", what);
    return NULL;
}

static int pinned(const void *pointer, size_t bytes) {
    for (size_t i = block_count; i-- > 0;)
        if ((address)pointer >= blocks[i].start && (address)pointer < blocks[i].start + blocks[i].size)
            return blocks[i].pinned && blocks[i].alive && (address)pointer + bytes <= blocks[i].start + blocks[i].size;
    return 0;
}

static result allocate(void **pointer, size_t bytes, int is_pinned) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), mapped = (bytes + page - 1) / page * page + page;
    if (!bytes) return INVALID_VALUE;
    if (fail_after >= 0 && fail_after-- == 0 && fail_count-- > 0) {
        fail_after = fail_count > 0 ? 0 : -1;
        return OUT_OF_MEMORY;
    }
    if (!is_pinned && used + bytes > capacity) return OUT_OF_MEMORY;
    char *start = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return OUT_OF_MEMORY;
    mprotect(start + mapped - page, page, PROT_NONE);
    if (block_count == block_room) blocks = realloc(blocks, (block_room = block_room * 2 + 64) * sizeof *blocks);
    blocks[block_count++] = (block){(address)start, bytes, mapped, 1, is_pinned};
    if (is_pinned) pinned_allocations++;
    else {
        allocations++;
        used += bytes;
        if (used > peak) peak = used;
        memset(start, 0xA5, bytes); /* a GPU does not hand out zeros either */
    }
    *pointer = start;
    return SUCCESS;
}

static result release(address start, int is_pinned) {
    for (size_t i = block_count; i-- > 0;) {
        block *found = &blocks[i];
        if (found->start != start) continue;
        if (!found->alive || found->pinned != is_pinned) break;
        found->alive = 0;
        /* The addresses stay taken, the memory goes back. */
        mmap((void *)start, found->mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        if (is_pinned) pinned_frees++;
        else frees++, used -= found->size;
        return SUCCESS;
    }
    violation("free: twice, or of what was never allocated");
    return INVALID_VALUE;
}

/* ---- streams ---------------------------------------------------------------------------------------------------- */

static void append(list *to, task one) {
    if (to->count == to->room) to->tasks = realloc(to->tasks, (to->room = to->room * 2 + 8) * sizeof *to->tasks);
    to->tasks[to->count++] = one;
}

static result check(const task *one) {
    if (one->kind == CALL) return SUCCESS;
    if (one->kind == FILL) return find(one->to, one->bytes, "memset") ? SUCCESS : ILLEGAL_ADDRESS;
    if (one->data == NULL) /* device to device */
        return find(one->to, one->bytes, "copy") && find(one->from, one->bytes, "copy") ? SUCCESS : ILLEGAL_ADDRESS;
    if (one->data == (void *)1) return find(one->to, one->bytes, "copy to the device") ? SUCCESS : ILLEGAL_ADDRESS;
    return find(one->from, one->bytes, "copy from the device") ? SUCCESS : ILLEGAL_ADDRESS;
}

static result perform(const task *one) {
    result code = check(one);
    if (code) return lost = 1, code; /* an illegal address ends a real context too */
    if (one->kind == COPY) memcpy((void *)one->to, (void *)one->from, one->bytes), copies++;
    else if (one->kind == FILL) memset((void *)one->to, (int)one->from, one->bytes);
    else {
        pthread_mutex_unlock(&guard);
        one->call(one->data);
        pthread_mutex_lock(&guard);
    }
    return SUCCESS;
}

static result enqueue(stream *on, task one) {
    result code = usable();
    if (!code && (!on || !on->alive)) code = INVALID_HANDLE;
    if (!code) code = check(&one);
    if (!code) append(on->capturing ? &on->captured : &on->waiting, one);
    return code;
}

static result drain(stream *on) {
    while (hanging) { /* it holds up whoever waits for the device, and nobody else */
        pthread_mutex_unlock(&guard);
        usleep(1000);
        pthread_mutex_lock(&guard);
    }
    result code = usable();
    if (!code && (!on || !on->alive)) code = INVALID_HANDLE;
    if (!code && on->capturing) code = CAPTURE_UNSUPPORTED;
    for (size_t i = 0; !code && i < on->waiting.count; i++)
        code = gone() ? LAUNCH_FAILED : perform(&on->waiting.tasks[i]);
    if (on && on->alive) on->waiting.count = 0;
    return code;
}

#define LOCKED(body) { pthread_mutex_lock(&guard); result code = (body); pthread_mutex_unlock(&guard); return code; }

static result host_copy(stream *on, task one, const void *host) {
    if (!pinned(host, one.bytes))
        violation("asynchronous copy of %zu bytes from or to memory that is not pinned", one.bytes);
    return enqueue(on, one);
}

static result make_stream(stream **made) {
    result code = usable();
    if (code) return code;
    *made = calloc(1, sizeof **made);
    (*made)->alive = 1;
    streams++;
    return SUCCESS;
}

static result end_stream(stream *on) {
    if (!on || !on->alive) return INVALID_HANDLE;
    if (on->waiting.count && !lost)
        violation("stream: destroyed with %zu tasks that nobody waited for", on->waiting.count);
    on->alive = 0;
    streams--;
    return SUCCESS;
}

static result at_once(task one) { result code = usable(); return code ? code : perform(&one); }

result cuStreamCreate(stream **made, unsigned flags) { (void)flags; LOCKED(make_stream(made)) }
result cuStreamDestroy_v2(stream *on) { LOCKED(end_stream(on)) }
result cuStreamSynchronize(stream *on) { LOCKED(drain(on)) }
result cuStreamQuery(stream *on) { LOCKED(drain(on)) }
result cuCtxSynchronize(void) { LOCKED(usable()) }
result cuMemcpyHtoDAsync_v2(address to, const void *from, size_t bytes, stream *on)
    LOCKED(host_copy(on, (task){COPY, to, (address)from, bytes, NULL, (void *)1}, from))
result cuMemcpyDtoHAsync_v2(void *to, address from, size_t bytes, stream *on)
    LOCKED(host_copy(on, (task){COPY, (address)to, from, bytes, NULL, (void *)2}, to))
result cuMemcpyHtoD_v2(address to, const void *from, size_t bytes)
    LOCKED(at_once((task){COPY, to, (address)from, bytes, NULL, (void *)1}))
result cuMemcpyDtoH_v2(void *to, address from, size_t bytes)
    LOCKED(at_once((task){COPY, (address)to, from, bytes, NULL, (void *)2}))
result cuMemcpyDtoDAsync_v2(address to, address from, size_t bytes, stream *on)
    LOCKED(enqueue(on, (task){COPY, to, from, bytes, NULL, NULL}))
result cuMemsetD8Async(address to, unsigned char value, size_t bytes, stream *on)
    LOCKED(enqueue(on, (task){FILL, to, value, bytes, NULL, NULL}))
result cuLaunchHostFunc(stream *on, host_function call, void *data)
    LOCKED(enqueue(on, (task){CALL, 0, 0, 0, call, data}))

/* ---- graphs: the tasks of a captured stream ---------------------------------------------------------------------- */

static result begin_capture(stream *on) {
    result code = usable();
    if (!code && on->capturing) code = CAPTURE_UNSUPPORTED;
    if (!code) on->capturing = 1, on->captured.count = 0;
    return code;
}

static result end_capture(stream *on, list **graph) {
    if (!on->capturing) return CAPTURE_UNSUPPORTED;
    on->capturing = 0;
    *graph = malloc(sizeof **graph);
    **graph = on->captured;
    on->captured = (list){0};
    graphs++;
    return SUCCESS;
}

static result copy_graph(list **made, const list *graph) {
    *made = calloc(1, sizeof **made);
    for (size_t i = 0; i < graph->count; i++) append(*made, graph->tasks[i]);
    graphs++;
    return SUCCESS;
}

static result end_graph(list *graph) { free(graph->tasks); free(graph); graphs--; return SUCCESS; }

static result launch_graph(const list *graph, stream *on) {
    result code = usable();
    for (size_t i = 0; !code && i < graph->count; i++) code = enqueue(on, graph->tasks[i]);
    launches++;
    return code;
}

result cuStreamBeginCapture_v2(stream *on, int mode) { (void)mode; LOCKED(begin_capture(on)) }
result cuStreamEndCapture(stream *on, list **graph) { LOCKED(end_capture(on, graph)) }
result cuGraphInstantiateWithFlags(list **made, list *graph, unsigned long long flags)
    { (void)flags; LOCKED(copy_graph(made, graph)) }
result cuGraphLaunch(list *graph, stream *on) { LOCKED(launch_graph(graph, on)) }
result cuGraphExecDestroy(list *graph) { LOCKED(end_graph(graph)) }
result cuGraphDestroy(list *graph) { LOCKED(end_graph(graph)) }

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static result checked_allocate(void **pointer, size_t bytes, int is_pinned) {
    result code = usable();
    return code ? code : allocate(pointer, bytes, is_pinned);
}

static result memory_info(size_t *free_bytes, size_t *total) {
    *free_bytes = capacity - used;
    *total = capacity;
    return usable();
}

static result checked_release(address start, int is_pinned) {
    result code = usable();
    return code ? code : release(start, is_pinned);
}

result cuMemAlloc_v2(address *pointer, size_t bytes) LOCKED(checked_allocate((void **)pointer, bytes, 0))
result cuMemFree_v2(address start) LOCKED(checked_release(start, 0))
result cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags)
    { (void)flags; LOCKED(checked_allocate(pointer, bytes, 1)) }
result cuMemFreeHost(void *start) LOCKED(checked_release((address)start, 1))
result cuMemGetInfo_v2(size_t *free_bytes, size_t *total) LOCKED(memory_info(free_bytes, total))

/* ---- device and contexts: one device, its primary context -------------------------------------------------------- */

static result release_primary(void) {
    if (!primary) return INVALID_CONTEXT;
    for (int i = 0; i < depth; i++)
        if (current[i] == &the_context && primary == 1) { depth--; break; } /* the driver pops what it destroys */
    if (--primary == 0 && used && !lost) violation("context: released with %zu bytes allocated in it", used);
    return SUCCESS;
}

result cuInit(unsigned flags) { (void)flags; return SUCCESS; }
result cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
result cuDeviceGetCount(int *count) { *count = devices; return SUCCESS; }
result cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < devices ? SUCCESS : 101; }
result cuDeviceGetName(char *name, int size, int device)
{
    if (device) snprintf(name, (size_t)size, "Emulated GPU %d", device);
    else snprintf(name, (size_t)size, "Emulated GPU");
    return SUCCESS;
}
result cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = capacity; return SUCCESS; }
result cuDeviceComputeCapability(int *major, int *minor, int device)
    { (void)device; *major = capability / 10; *minor = capability % 10; return SUCCESS; }
result cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    /* CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR, and else one of everything */
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 1;
    return SUCCESS;
}
result cuDevicePrimaryCtxRetain(void **context, int device) {
    (void)device;
    pthread_mutex_lock(&guard);
    result code = gone() ? LAUNCH_FAILED : SUCCESS;
    if (!code) primary++, *context = &the_context;
    pthread_mutex_unlock(&guard);
    return code;
}
result cuDevicePrimaryCtxRelease_v2(int device) { (void)device; LOCKED(release_primary()) }
result cuCtxPushCurrent_v2(void *context) {
    if (depth == 16) return INVALID_VALUE;
    current[depth++] = context;
    return SUCCESS;
}
result cuCtxPopCurrent_v2(void **context) {
    if (!depth) return INVALID_CONTEXT;
    if (lost) return LAUNCH_FAILED; /* a real one answers with the error of earlier work */
    depth--;
    if (context) *context = current[depth];
    return SUCCESS;
}
result cuCtxGetCurrent(void **context) { *context = depth ? current[depth - 1] : NULL; return SUCCESS; }
result cuCtxGetDevice(int *device) { *device = 0; return depth ? SUCCESS : INVALID_CONTEXT; }
result cuGetErrorString(result code, const char **text) {
    *text = code == OUT_OF_MEMORY ? "out of memory" : code == LAUNCH_FAILED ? "unspecified launch failure"
          : code == 801 ? "operation not supported" : "emulated error";
    return SUCCESS;
}
result cuGetErrorName(result code, const char **text) { return cuGetErrorString(code, text); }

/* ---- for the tests ----------------------------------------------------------------------------------------------- */

/* Out of memory at the n-th allocation from now (0: the next), and at the count - 1 after it. */
void emulated_fail(long n, long count) { fail_after = n; fail_count = count; }
size_t emulated_capacity(size_t bytes) { size_t before = capacity; capacity = bytes; return before; }
/* More devices, all with the memory and the context of the first. */
void emulated_devices(int count) { devices = count; }
void emulated_lose(void) { lost = 1; }
void emulated_find(void) { lost = 0; }
void emulated_hang(int on) { hanging = on; }
int emulated_capturing(stream *on) { return on->capturing; }
/* Whether a kernel may touch these bytes; a double of a runtime asks before it reads or writes. */
int emulated_reach(address start, size_t bytes) {
    pthread_mutex_lock(&guard);
    int found = find(start, bytes, "kernel") != NULL;
    pthread_mutex_unlock(&guard);
    return found;
}
const char *emulated_report(void) {
    static char text[512];
    snprintf(text, sizeof text,
             "{\"allocations\": %ld, \"frees\": %ld, \"pinned_allocations\": %ld, \"pinned_frees\": %ld, "
             "\"bytes\": %zu, \"peak\": %zu, \"streams\": %ld, \"graphs\": %ld, \"launches\": %ld, \"copies\": %ld, \"contexts\": %d, "
             "\"violations\": %ld}",
             allocations, frees, pinned_allocations, pinned_frees, used, peak, streams, graphs, launches, copies,
             primary, violations);
    return text;
}
const char *emulated_violations(void) { return said; }
void emulated_forget(void) { said[0] = 0; }

__attribute__((constructor)) static void begin(void) {
    const char *memory = getenv("EMULATED_CUDA_MEMORY"), *generation = getenv("EMULATED_CUDA_CAPABILITY");
    if (memory) capacity = strtoull(memory, NULL, 10);
    if (generation) capability = atoi(generation);
}
__attribute__((destructor)) static void end(void) {
    const char *file = getenv("EMULATED_CUDA_REPORT");
    FILE *out = file ? fopen(file, "a") : NULL;
    if (!out) return;
    fprintf(out, "%s\n", emulated_report());
    fclose(out);
}
