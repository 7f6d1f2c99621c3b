// Allocations: which addresses of the process a GPU may reach. VRAM is part of the render node's file, at the offset of its address;
// memory of the host belongs to the program already and is only noted.
#define _GNU_SOURCE
#include "kfd.h"

#include <fcntl.h>
#include <pthread.h>

typedef struct {
  u64 address, size, handle;
  u32 flags, mapped;  // mapped: a bit for each GPU that may reach it
  Gpu *gpu;
} Allocation;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Allocation *rows;  // by address
static u32 count, room;
static u64 used[MAX_GPUS], next_handle = 1, generation = 1;

static u64 pages(u64 size) { return (size + PAGE - 1) & ~(u64)(PAGE - 1); }

static Allocation *find(u64 handle) {
  for (u32 i = 0; i < count; i++)
    if (rows[i].handle == handle) return &rows[i];
  return 0;
}

static int insert(Allocation one) {
  if (count == room) {
    u32 more = room ? 2 * room : 256;
    Allocation *grown = realloc(rows, more * sizeof *rows);
    if (!grown) return ENOMEM;
    rows = grown;
    room = more;
  }
  u32 at = count++;
  for (; at && rows[at - 1].address > one.address; at--) rows[at] = rows[at - 1];
  rows[at] = one;
  return 0;
}

int alloc_memory(struct kfd_ioctl_alloc_memory_of_gpu_args *a) {
  Gpu *gpu = gpu_of_id(a->gpu_id);
  if (!gpu || !a->size || !a->va_addr || a->va_addr % PAGE) return EINVAL;
  u64 size = pages(a->size);
  int is_vram = (a->flags & KFD_IOC_ALLOC_MEM_FLAGS_VRAM) != 0, error = 0;
  pthread_mutex_lock(&lock);
  if (is_vram && size > gpu->vram - used[gpu->index]) error = ENOMEM;
  // Memory of the host that the program already has may be made known to the GPU at its own address only.
  else if (a->flags & KFD_IOC_ALLOC_MEM_FLAGS_USERPTR && a->mmap_offset / PAGE != a->va_addr / PAGE) error = EINVAL;
  else error = insert((Allocation){.address = a->va_addr, .size = size, .handle = next_handle, .flags = a->flags, .gpu = gpu});
  if (!error) {
    a->handle = next_handle++;
    if (is_vram) used[gpu->index] += size;
    if (a->flags & KFD_IOC_ALLOC_MEM_FLAGS_DOORBELL) a->mmap_offset = doorbell_offset_of(gpu);
    else if (!(a->flags & KFD_IOC_ALLOC_MEM_FLAGS_USERPTR)) a->mmap_offset = a->va_addr;
  }
  pthread_mutex_unlock(&lock);
  return error;
}

int free_memory(struct kfd_ioctl_free_memory_of_gpu_args *a) {
  pthread_mutex_lock(&lock);
  Allocation *found = find(a->handle);
  if (found) {
    if (found->flags & KFD_IOC_ALLOC_MEM_FLAGS_VRAM) used[found->gpu->index] -= found->size;
    if (found->flags & (KFD_IOC_ALLOC_MEM_FLAGS_VRAM | KFD_IOC_ALLOC_MEM_FLAGS_GTT))
      fallocate(found->gpu->render_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)found->address, (off_t)found->size);
    generation += found->mapped != 0;
    memmove(found, found + 1, (size_t)(&rows[count] - (found + 1)) * sizeof *rows);
    count--;
  }
  pthread_mutex_unlock(&lock);
  return found ? 0 : EINVAL;
}

static int change_mapping(u64 handle, const u32 *ids, u32 number, u32 *done, int map) {
  int error = 0;
  pthread_mutex_lock(&lock);
  Allocation *found = find(handle);
  if (!found || (number && !ids)) error = EINVAL;
  for (; !error && *done < number; ++*done) {
    Gpu *gpu = gpu_of_id(ids[*done]);
    if (!gpu) error = EINVAL;
    else if (map) found->mapped |= 1u << gpu->index;
    else found->mapped &= ~(1u << gpu->index);
  }
  generation++;
  pthread_mutex_unlock(&lock);
  return error;
}

int map_memory(struct kfd_ioctl_map_memory_to_gpu_args *a) {
  return change_mapping(a->handle, (const u32 *)(uintptr_t)a->device_ids_array_ptr, a->n_devices, &a->n_success, 1);
}

int unmap_memory(struct kfd_ioctl_unmap_memory_from_gpu_args *a) {
  return change_mapping(a->handle, (const u32 *)(uintptr_t)a->device_ids_array_ptr, a->n_devices, &a->n_success, 0);
}

int available_memory(struct kfd_ioctl_get_available_memory_args *a) {
  Gpu *gpu = gpu_of_id(a->gpu_id);
  if (!gpu) return EINVAL;
  pthread_mutex_lock(&lock);
  a->available = gpu->vram - used[gpu->index];
  pthread_mutex_unlock(&lock);
  return 0;
}

// For the executor: goes up with every change of what GPUs may reach.
EXPORT u64 rocmforge_kfd_generation(void) {
  pthread_mutex_lock(&lock);
  u64 now = generation;
  pthread_mutex_unlock(&lock);
  return now;
}

typedef struct {
  u64 begin, end;
  u32 read_only, is_vram;
} Range;

// What a GPU may reach, by address. Returns the number of ranges, of which the first `capacity` are written.
EXPORT u32 rocmforge_kfd_ranges(u32 gpu, Range *out, u32 capacity) {
  u32 found = 0;
  pthread_mutex_lock(&lock);
  for (u32 i = 0; i < count; i++) {
    const Allocation *a = &rows[i];
    if (!(a->mapped >> gpu & 1)) continue;
    if (found < capacity)
      out[found] = (Range){a->address, a->address + a->size, !(a->flags & KFD_IOC_ALLOC_MEM_FLAGS_WRITABLE),
                           (a->flags & KFD_IOC_ALLOC_MEM_FLAGS_VRAM) != 0};
    found++;
  }
  pthread_mutex_unlock(&lock);
  return found;
}
