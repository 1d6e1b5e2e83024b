/* A driver's library for machines without one: whole GPUs, and one that is cut into two MIG slices. It answers what
 * listing, reading and watching devices ask. With STUB_UNLIKE, the third GPU is of another make than the first. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TIMEOUT = 10, LOST = 15 };
typedef struct { int whole; int parent; const char *uuid; } *handle;
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned gpu, memory; } rates;

static struct { int whole; int parent; const char *uuid; } devices[] = {
    {1, 0, "GPU-whole"}, {1, 1, "GPU-parted"}, {0, 1, "MIG-slice"}, {1, 3, "GPU-quiet"}, {0, 1, "MIG-second"},
};
enum { WHOLE, PARTED, SLICE, QUIET, SECOND };
static const int in_order[] = {WHOLE, PARTED, QUIET}; /* as nvidia-smi counts them */
static int openings;

int stub_openings(void) { return openings; }

/* As after a fault that only a restart heals: present as long as this file is there. */
static int lost(void) { return getenv("STUB_LOST") && access(getenv("STUB_LOST"), F_OK) == 0; }

int nvmlInitWithFlags(unsigned flags) { return openings++, lost() ? LOST : OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int result) { return "stub"; }

int nvmlDeviceGetHandleByUUID(const char *uuid, handle *found) {
    for (unsigned index = 0; index < sizeof devices / sizeof *devices; index++)
        if (!lost() && strcmp(devices[index].uuid, uuid) == 0)
            return *found = (handle)&devices[index], OK;
    return lost() ? LOST : NOT_FOUND;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle device, handle *parent) {
    return device->whole ? INVALID : (*parent = (handle)&devices[device->parent], OK);
}

int nvmlDeviceGetMemoryInfo(handle device, memory *info) {
    info->total = device->whole ? 80000000000ull : 10000000000ull;
    info->used = device->whole ? 20500000000ull : 2500000000ull;
    return OK;
}

int nvmlDeviceGetUtilizationRates(handle device, rates *found) {
    return device->whole ? (found->gpu = 83, found->memory = 40, OK) : UNSUPPORTED;
}

int nvmlDeviceGetTemperature(handle device, int sensor, unsigned *degrees) {
    return device->whole && sensor == 0 ? (*degrees = 61, OK) : UNSUPPORTED;
}

int nvmlDeviceGetPowerUsage(handle device, unsigned *milliwatts) {
    if (!device->whole || strcmp(device->uuid, "GPU-quiet") == 0)
        return UNSUPPORTED;
    return *milliwatts = 512345, OK;
}

int nvmlDeviceGetCount_v2(unsigned *count) { return *count = 3, OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, handle *found) {
    return index < 3 ? (*found = (handle)&devices[in_order[index]], OK) : INVALID;
}

int nvmlDeviceGetMigMode(handle device, unsigned *now, unsigned *pending) {
    return *now = *pending = (handle)&devices[PARTED] == device, OK;
}

int nvmlDeviceGetMaxMigDeviceCount(handle device, unsigned *count) { return *count = 7, OK; }

int nvmlDeviceGetMigDeviceHandleByIndex(handle device, unsigned index, handle *found) {
    return index < 2 ? (*found = (handle)&devices[index ? SECOND : SLICE], OK) : NOT_FOUND;
}

int nvmlDeviceGetUUID(handle device, char *uuid, unsigned size) { return strncpy(uuid, device->uuid, size), OK; }

int nvmlDeviceGetName(handle device, char *name, unsigned size) {
    int other = getenv("STUB_UNLIKE") && device == (handle)&devices[QUIET];
    return strncpy(name, other ? "NVIDIA GeForce RTX 4090" : "NVIDIA H100", size), OK;
}

int nvmlDeviceGetGpuInstanceId(handle device, unsigned *id) {
    return device->whole ? INVALID : (*id = device == (handle)&devices[SECOND] ? 2 : 1, OK);
}

int nvmlDeviceGetComputeInstanceId(handle device, unsigned *id) {
    return device->whole ? INVALID : (*id = 0, OK);
}

int nvmlDeviceGetTotalEccErrors(handle device, int type, int counter, unsigned long long *count) {
    return strcmp(device->uuid, "GPU-quiet") && type == 1 && counter == 0 ? (*count = 2, OK) : UNSUPPORTED;
}

/* A hardware and a thermal slowdown, and a power limit. */
int nvmlDeviceGetCurrentClocksEventReasons(handle device, unsigned long long *reasons) {
    return strcmp(device->uuid, "GPU-quiet") ? (*reasons = 0x4 | 0x8 | 0x40, OK) : UNSUPPORTED;
}

/* Xid errors: lines `XID INSTANCE` that are appended to the file STUB_XIDS. */
typedef struct { handle device; unsigned long long type, data; unsigned gpu_instance, compute_instance; } event;
static long read_up_to;
static handle registered;

int nvmlEventSetCreate(void **set) { return read_up_to = 0, *set = &read_up_to, OK; }
int nvmlEventSetFree(void *set) { return registered = NULL, OK; }

int nvmlDeviceRegisterEvents(handle device, unsigned long long types, void *set) {
    if (!device->whole || types != 8 || strcmp(device->uuid, "GPU-quiet") == 0)
        return UNSUPPORTED;
    return registered = device, OK;
}

int nvmlEventSetWait_v2(void *set, event *found, unsigned milliseconds) {
    if (lost())
        return LOST;
    FILE *file = getenv("STUB_XIDS") ? fopen(getenv("STUB_XIDS"), "r") : NULL;
    if (!file || !registered)
        return TIMEOUT;
    fseek(file, read_up_to, SEEK_SET);
    int read = fscanf(file, "%llu %u\n", &found->data, &found->gpu_instance);
    read_up_to = ftell(file);
    fclose(file);
    return found->device = registered, found->type = 8, found->compute_instance = 0, read == 2 ? OK : TIMEOUT;
}
