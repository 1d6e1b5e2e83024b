/* A driver's library for machines without one: whole GPUs, and one that is cut into two MIG slices. It answers what
 * listing and reading devices ask. With STUB_UNLIKE, the third GPU is of another make than the first. */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, LOST = 15 };
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
