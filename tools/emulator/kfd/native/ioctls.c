// The table of ioctls. A structure may be longer or shorter than this header's, as its program's headers were: what both know is
// copied, the rest is zero.
#define _GNU_SOURCE
#include "kfd.h"

#include <time.h>

static int get_version(struct kfd_ioctl_get_version_args *a) {
  a->major_version = 1;
  a->minor_version = 17;
  return 0;
}

// The GPU sees the process's own addresses; its windows on LDS and scratch lie beyond them.
static int get_apertures(struct kfd_ioctl_get_process_apertures_new_args *a) {
  struct kfd_process_device_apertures *rows = (void *)(uintptr_t)a->kfd_process_device_apertures_ptr;
  if (a->num_of_nodes && !rows) return EFAULT;
  u32 count = a->num_of_nodes < num_gpus ? a->num_of_nodes : num_gpus;
  for (u32 i = 0; i < count; i++)
    rows[i] = (struct kfd_process_device_apertures){
        .lds_base = 1ull << 48, .lds_limit = (1ull << 48) + 0xffffffff,
        .scratch_base = 2ull << 48, .scratch_limit = (2ull << 48) + 0xffffffff,
        .gpuvm_base = 0x4000, .gpuvm_limit = (1ull << 47) - 1, .gpu_id = gpus[i].gpu_id};
  a->num_of_nodes = num_gpus;
  return 0;
}

u64 gpu_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC_RAW, &now);
  return ((u64)now.tv_sec * 1000000000 + (u64)now.tv_nsec) / 10;
}

static int get_clocks(struct kfd_ioctl_get_clock_counters_args *a) {
  struct timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  a->gpu_clock_counter = gpu_clock();
  a->cpu_clock_counter = a->gpu_clock_counter * 10;
  a->system_clock_counter = (u64)now.tv_sec * 1000000000 + (u64)now.tv_nsec;
  a->system_clock_freq = 1000000000;
  return 0;
}

static int get_tiles(struct kfd_ioctl_get_tile_config_args *a) {
  if (a->tile_config_ptr) memset((void *)(uintptr_t)a->tile_config_ptr, 0, 4ul * a->num_tile_configs);
  if (a->macro_tile_config_ptr) memset((void *)(uintptr_t)a->macro_tile_config_ptr, 0, 4ul * a->num_macro_tile_configs);
  a->gb_addr_config = 0x10000545;
  return 0;
}

// Page faults of a GPU are never mended: asking for that is refused, asking how it is answered.
static int set_xnack(struct kfd_ioctl_set_xnack_mode_args *a) {
  if (a->xnack_enabled > 0) return EPERM;
  a->xnack_enabled = 0;
  return 0;
}

static int nothing(void *a) {
  (void)a;
  return 0;
}
static int refuse(void *a) {
  (void)a;
  return EINVAL;
}

typedef int (*Answer)(void *);
enum { MAX_BYTES = 256 };
#define ROW(name, bytes, answer) [_IOC_NR(AMDKFD_IOC_##name)] = {#name, (Answer)(answer), bytes}
#define TYPED(name, type, answer) ROW(name, sizeof(struct kfd_ioctl_##type##_args), answer)
static const struct {
  const char *name;
  Answer answer;
  u32 bytes;
} table[] = {
    TYPED(GET_VERSION, get_version, get_version),
    TYPED(CREATE_QUEUE, create_queue, create_queue),
    TYPED(DESTROY_QUEUE, destroy_queue, destroy_queue),
    TYPED(SET_MEMORY_POLICY, set_memory_policy, nothing),
    TYPED(GET_CLOCK_COUNTERS, get_clock_counters, get_clocks),
    TYPED(UPDATE_QUEUE, update_queue, nothing),
    TYPED(CREATE_EVENT, create_event, create_event),
    TYPED(DESTROY_EVENT, destroy_event, destroy_event),
    TYPED(SET_EVENT, set_event, set_event),
    TYPED(RESET_EVENT, reset_event, reset_event),
    TYPED(WAIT_EVENTS, wait_events, wait_events),
    TYPED(SET_SCRATCH_BACKING_VA, set_scratch_backing_va, nothing),
    TYPED(GET_TILE_CONFIG, get_tile_config, get_tiles),
    TYPED(SET_TRAP_HANDLER, set_trap_handler, nothing),
    TYPED(GET_PROCESS_APERTURES_NEW, get_process_apertures_new, get_apertures),
    TYPED(ACQUIRE_VM, acquire_vm, nothing),
    TYPED(ALLOC_MEMORY_OF_GPU, alloc_memory_of_gpu, alloc_memory),
    TYPED(FREE_MEMORY_OF_GPU, free_memory_of_gpu, free_memory),
    TYPED(MAP_MEMORY_TO_GPU, map_memory_to_gpu, map_memory),
    TYPED(UNMAP_MEMORY_FROM_GPU, unmap_memory_from_gpu, unmap_memory),
    TYPED(SET_CU_MASK, set_cu_mask, nothing),
    TYPED(SVM, svm, refuse),
    TYPED(SET_XNACK_MODE, set_xnack_mode, set_xnack),
    TYPED(AVAILABLE_MEMORY, get_available_memory, available_memory),
    TYPED(RUNTIME_ENABLE, runtime_enable, nothing),
};

int answer_ioctl(unsigned long request, void *argument) {
  u32 number = _IOC_NR(request), given = _IOC_SIZE(request);
  static int tracing = -1;
  if (tracing < 0) tracing = getenv("ROCMFORGE_KFD_TRACE") != 0;
  if (number >= sizeof table / sizeof *table || !table[number].answer) {
    if (tracing) fprintf(stderr, "kfd: ioctl %#x is not emulated\n", number);
    return EINVAL;
  }
  if (!argument) return EFAULT;
  _Alignas(8) u8 copy[MAX_BYTES] = {0};
  u32 known = table[number].bytes < given ? table[number].bytes : given;
  memcpy(copy, argument, known);
  int error = table[number].answer(copy);
  if (tracing) fprintf(stderr, "kfd: %s: %s\n", table[number].name, error ? strerror(error) : "done");
  memcpy(argument, copy, known);
  return error;
}
