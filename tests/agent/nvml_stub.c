/* A libnvidia-ml.so.1 for tests: it says what the file named by $NVML_STUB_STATE says.
 *
 * The file is replaced whole (rename), and looked at anew at every call. Its lines:
 *   generation N             a driver reload: who initialised under another one is uninitialised
 *   init CODE                nvmlInit returns CODE
 *   cuda N                   the CUDA that the driver speaks (12080 if it is not said)
 *   gpu UUID key=value ...   a GPU, in the order of their indices (keys: see `fields`)
 *   mig PARENT UUID key=value ...   a MIG instance of the GPU with the UUID PARENT
 *   proc UUID PID MIB SM     a process on it, its memory, its per cent of the multiprocessors
 *   fail CALL CODE [UUID]    that call returns CODE
 *   hang CALL MS [UUID]      that call takes so long, or until the line is gone
 * Underscores in names are spaces. A CALL is a function's name without "nvml" and "_v2" or "_v3".
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define MAX 64

enum { OK, UNINITIALIZED, INVALID, NOT_SUPPORTED, NOT_FOUND = 6, TOO_SMALL = 7,
       DRIVER_NOT_LOADED = 9, LOST = 15 };

struct process { unsigned pid; unsigned long long mib; unsigned sm; };
struct gpu {
    char uuid[96], parent[96], name[96];
    unsigned util, mutil, used, total, mw, mwmax, temp, sm, smmax, throttle, gen, genmax, width,
        rx, tx, mig;
    int processes;
    struct process process[8];
};
struct rule { int is_hang; char call[64], uuid[96]; int value; };

/* Handles outlive what the file says: one for each UUID ever seen. */
static char known[MAX][96];
static int known_count;

static struct gpu gpus[MAX];
static struct rule rules[MAX];
static int gpu_count, rule_count, generation, init_code, cuda;
static int initialised, initialised_generation;
static struct stat seen;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct { const char *key; size_t at; } fields[] = {
#define FIELD(f) {#f "=", __builtin_offsetof(struct gpu, f)}
    FIELD(util), FIELD(mutil), FIELD(used), FIELD(total), FIELD(mw), FIELD(mwmax), FIELD(temp),
    FIELD(sm), FIELD(smmax), FIELD(throttle), FIELD(gen), FIELD(genmax), FIELD(width), FIELD(rx),
    FIELD(tx), FIELD(mig),
};

static struct gpu *find(const char *uuid) {
    for (int i = 0; i < gpu_count; i++)
        if (!strcmp(gpus[i].uuid, uuid)) return &gpus[i];
    return NULL;
}

static void parse_gpu(char *rest, int is_mig) {
    if (gpu_count == MAX) return;
    struct gpu *g = &gpus[gpu_count];
    memset(g, 0, sizeof *g);
    char *save, *word = strtok_r(rest, " \n", &save);
    if (is_mig && word) {
        snprintf(g->parent, sizeof g->parent, "%s", word);
        word = strtok_r(NULL, " \n", &save);
    }
    if (!word) return;
    snprintf(g->uuid, sizeof g->uuid, "%s", word);
    while ((word = strtok_r(NULL, " \n", &save))) {
        if (!strncmp(word, "name=", 5)) {
            snprintf(g->name, sizeof g->name, "%s", word + 5);
            for (char *c = g->name; *c; c++) if (*c == '_') *c = ' ';
        }
        for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
            if (!strncmp(word, fields[i].key, strlen(fields[i].key)))
                *(unsigned *)((char *)g + fields[i].at) =
                    strtoul(word + strlen(fields[i].key), NULL, 0);
    }
    gpu_count++;
}

static void parse_line(char *line) {
    struct rule r = {0};
    struct process p;
    char uuid[96];
    if (!strncmp(line, "gpu ", 4)) parse_gpu(line + 4, 0);
    else if (!strncmp(line, "mig ", 4)) parse_gpu(line + 4, 1);
    else if (sscanf(line, "generation %d", &generation) == 1) return;
    else if (sscanf(line, "init %d", &init_code) == 1) return;
    else if (sscanf(line, "cuda %d", &cuda) == 1) return;
    else if (sscanf(line, "proc %95s %u %llu %u", uuid, &p.pid, &p.mib, &p.sm) == 4) {
        struct gpu *g = find(uuid);
        if (g && g->processes < 8) g->process[g->processes++] = p;
    } else if (rule_count < MAX) {
        r.is_hang = !strncmp(line, "hang ", 5);
        if (sscanf(line, "%*s %63s %d %95s", r.call, &r.value, r.uuid) >= 2)
            rules[rule_count++] = r;
    }
}

/* Under the lock: what the file says now; without one there is no driver. */
static int load(void) {
    struct stat now;
    const char *path = getenv("NVML_STUB_STATE");
    if (!path || stat(path, &now)) {
        memset(&seen, 0, sizeof seen);
        gpu_count = rule_count = 0;
        return DRIVER_NOT_LOADED;
    }
    if (now.st_ino == seen.st_ino && now.st_size == seen.st_size &&
        now.st_mtim.tv_sec == seen.st_mtim.tv_sec && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return init_code;
    FILE *f = fopen(path, "r");
    char line[1024];
    if (!f) return DRIVER_NOT_LOADED;
    seen = now;
    gpu_count = rule_count = generation = init_code = 0;
    cuda = 12080;
    while (fgets(line, sizeof line, f)) parse_line(line);
    fclose(f);
    return init_code;
}

/* Under the lock: the first rule for a call, or NULL. */
static struct rule *rule(int is_hang, const char *call, const char *uuid) {
    for (int i = 0; i < rule_count; i++)
        if (rules[i].is_hang == is_hang && !strcmp(rules[i].call, call) &&
            (!*rules[i].uuid || !strcmp(rules[i].uuid, uuid)))
            return &rules[i];
    return NULL;
}

/* Hangs as long as the file says so, and never with the lock held. */
static void hang(const char *call, const char *uuid) {
    for (int waited_ms = 0;; waited_ms += 5) {
        pthread_mutex_lock(&lock);
        load();
        struct rule *found = rule(1, call, uuid);
        int goes_on = found && waited_ms < found->value;
        pthread_mutex_unlock(&lock);
        if (!goes_on) return;
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    }
}

/* What every call does first: a copy of the GPU in `g` (if asked), or a code. */
static int enter(const char *call, const char *uuid, struct gpu *g) {
    hang(call, uuid ? uuid : "");
    pthread_mutex_lock(&lock);
    int code = load();
    if (!code && (!initialised || initialised_generation != generation)) code = UNINITIALIZED;
    struct rule *found = code ? NULL : rule(0, call, uuid ? uuid : "");
    if (found) code = found->value;
    if (!code && uuid) {
        struct gpu *there = find(uuid);
        if (there) *g = *there; else code = LOST;
    }
    pthread_mutex_unlock(&lock);
    return code;
}

static char *handle(const char *uuid) {
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < known_count && strcmp(known[i], uuid)) i++;
    if (i == known_count && i < MAX) strcpy(known[known_count++], uuid);
    pthread_mutex_unlock(&lock);
    return known[i < MAX ? i : 0];
}

/* The index-th of those with this parent. */
static int child(const char *parent, unsigned index, char **out) {
    char uuid[96] = "";
    pthread_mutex_lock(&lock);
    for (int i = 0; i < gpu_count; i++)
        if (!strcmp(gpus[i].parent, parent) && index-- == 0) strcpy(uuid, gpus[i].uuid);
    pthread_mutex_unlock(&lock);
    if (!*uuid) return *parent ? NOT_FOUND : INVALID;
    *out = handle(uuid);
    return OK;
}

static unsigned count(const char *parent) {
    unsigned n = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < gpu_count; i++) n += !strcmp(gpus[i].parent, parent);
    pthread_mutex_unlock(&lock);
    return n;
}

static int text(char *out, unsigned room, const char *found) {
    if (strlen(found) + 1 > room) return TOO_SMALL;
    strcpy(out, found);
    return OK;
}

#define PLAIN(call) int r_ = enter(#call, NULL, NULL); if (r_) return r_
#define DEVICE(call) struct gpu g; int r_ = enter(#call, d, &g); if (r_) return r_

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    hang("Init", "");
    pthread_mutex_lock(&lock);
    int code = load();
    if (!code) { initialised++; initialised_generation = generation; }
    pthread_mutex_unlock(&lock);
    return code;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) {
    hang("Shutdown", "");
    pthread_mutex_lock(&lock);
    int code = initialised ? OK : UNINITIALIZED;
    if (initialised) initialised--;
    pthread_mutex_unlock(&lock);
    return code;
}
const char *nvmlErrorString(int code) {
    switch (code) {
    case OK: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case LOST: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}
int nvmlSystemGetDriverVersion(char *b, unsigned n) {
    PLAIN(SystemGetDriverVersion); return text(b, n, "999.99.stub");
}
int nvmlSystemGetCudaDriverVersion_v2(int *n) {
    PLAIN(SystemGetCudaDriverVersion); *n = cuda; return OK;
}
int nvmlDeviceGetCount_v2(unsigned *n) { PLAIN(DeviceGetCount); *n = count(""); return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, char **d) {
    PLAIN(DeviceGetHandleByIndex); return child("", i, d);
}
int nvmlDeviceGetHandleByUUID(const char *uuid, char **d) {
    struct gpu g;
    int code = enter("DeviceGetHandleByUUID", uuid, &g);
    if (code) return code == LOST ? NOT_FOUND : code;
    *d = handle(uuid);
    return OK;
}
int nvmlDeviceGetUUID(char *d, char *b, unsigned n) {
    DEVICE(DeviceGetUUID); return text(b, n, g.uuid);
}
int nvmlDeviceGetName(char *d, char *b, unsigned n) {
    DEVICE(DeviceGetName); return text(b, n, g.name);
}
int nvmlDeviceGetMigMode(char *d, unsigned *now, unsigned *later) {
    DEVICE(DeviceGetMigMode); *now = *later = g.mig; return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(char *d, unsigned *n) {
    DEVICE(DeviceGetMaxMigDeviceCount); *n = g.mig ? 7 : 0; return OK;
}
int nvmlDeviceGetMigDeviceHandleByIndex(char *d, unsigned i, char **out) {
    DEVICE(DeviceGetMigDeviceHandleByIndex); return child(g.uuid, i, out);
}
int nvmlDeviceGetUtilizationRates(char *d, unsigned u[2]) {
    DEVICE(DeviceGetUtilizationRates);
    if (*g.parent) return NOT_SUPPORTED; /* As the real one: not on MIG instances. */
    u[0] = g.util; u[1] = g.mutil; return OK;
}
int nvmlDeviceGetMemoryInfo(char *d, unsigned long long m[3]) {
    DEVICE(DeviceGetMemoryInfo);
    m[0] = (unsigned long long)g.total << 20;
    m[2] = (unsigned long long)g.used << 20;
    m[1] = m[0] - m[2];
    return OK;
}
int nvmlDeviceGetPowerUsage(char *d, unsigned *mw) {
    DEVICE(DeviceGetPowerUsage); *mw = g.mw; return OK;
}
int nvmlDeviceGetEnforcedPowerLimit(char *d, unsigned *mw) {
    DEVICE(DeviceGetEnforcedPowerLimit); *mw = g.mwmax; return OK;
}
struct temperature { unsigned version; int sensor, celsius; };
int nvmlDeviceGetTemperatureV(char *d, struct temperature *t) {
    DEVICE(DeviceGetTemperatureV); t->celsius = g.temp; return OK;
}
int nvmlDeviceGetClockInfo(char *d, int type, unsigned *mhz) {
    (void)type; DEVICE(DeviceGetClockInfo); *mhz = g.sm; return OK;
}
int nvmlDeviceGetMaxClockInfo(char *d, int type, unsigned *mhz) {
    (void)type; DEVICE(DeviceGetMaxClockInfo); *mhz = g.smmax; return OK;
}
int nvmlDeviceGetCurrentClocksEventReasons(char *d, unsigned long long *bits) {
    DEVICE(DeviceGetCurrentClocksEventReasons); *bits = g.throttle; return OK;
}
int nvmlDeviceGetCurrPcieLinkGeneration(char *d, unsigned *v) {
    DEVICE(DeviceGetCurrPcieLinkGeneration); *v = g.gen; return OK;
}
int nvmlDeviceGetMaxPcieLinkGeneration(char *d, unsigned *v) {
    DEVICE(DeviceGetMaxPcieLinkGeneration); *v = g.genmax; return OK;
}
int nvmlDeviceGetCurrPcieLinkWidth(char *d, unsigned *v) {
    DEVICE(DeviceGetCurrPcieLinkWidth); *v = g.width; return OK;
}
int nvmlDeviceGetPcieThroughput(char *d, int counter, unsigned *kb) {
    DEVICE(DeviceGetPcieThroughput); *kb = counter ? g.rx : g.tx; return OK;
}
struct process_info { unsigned pid; unsigned long long used; unsigned gpu, compute; };
int nvmlDeviceGetComputeRunningProcesses_v3(char *d, unsigned *n, struct process_info *out) {
    DEVICE(DeviceGetComputeRunningProcesses);
    unsigned room = *n;
    *n = g.processes;
    if (!g.processes) return OK;
    if (!out || room < (unsigned)g.processes) return TOO_SMALL;
    for (int i = 0; i < g.processes; i++)
        out[i] = (struct process_info){g.process[i].pid, g.process[i].mib << 20, ~0u, ~0u};
    return OK;
}
struct sample { unsigned pid; unsigned long long at_us; unsigned sm, memory, encoder, decoder; };
int nvmlDeviceGetProcessUtilization(char *d, struct sample *out, unsigned *n,
                                    unsigned long long since_us) {
    (void)since_us;
    DEVICE(DeviceGetProcessUtilization);
    unsigned room = *n;
    *n = g.processes;
    if (!g.processes) return NOT_FOUND; /* As the real one: no new samples. */
    if (!out || room < (unsigned)g.processes) return TOO_SMALL;
    for (int i = 0; i < g.processes; i++)
        out[i] = (struct sample){g.process[i].pid, 1, g.process[i].sm, 0, 0, 0};
    return OK;
}
