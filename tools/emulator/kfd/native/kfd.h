// An emulated kernel driver for AMD GPUs, as a preload: what its files share.
//
//   interpose.c  the C library's functions that a program opens, maps and controls devices with
//   gpus.c       the GPUs of this process and their device files
//   ioctls.c     the table of ioctls, and the small ones
//   memory.c     allocations
//   events.c     events
//   queues.c     queues, their threads and doorbells
//   packets.c    what a queue does with a packet
//   executor.c   kernels: handed to Python
//   libdrm.c     libdrm_amdgpu
#pragma once
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include <linux/kfd_ioctl.h>

#include "aql.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;

enum { MAX_GPUS = 8, PAGE = 4096, FIRST_RENDER_MINOR = 128, DOORBELL_BYTES = 8192, MAX_QUEUES = DOORBELL_BYTES / 8 };

typedef struct {
  char arch[24], name[64];
  u32 index, gpu_id, device_id, family, compute_units, engines;
  u64 vram;
  int render_fd;  // its memory: what lies at an address of the process lies at the same offset of this file
} Gpu;

extern Gpu gpus[MAX_GPUS];
extern u32 num_gpus;
extern int kfd_fd;
extern volatile u64 *doorbells;  // of GPU i from i * MAX_QUEUES on

// gpus.c
int gpus_ready(void);                  // reads the environment once; false where there is no GPU for this process
Gpu *gpu_of_id(u32 gpu_id);
int open_device(const char *path);     // a fresh descriptor of an emulated device file, or -1
int device_of(int fd);                 // IS_NONE, IS_KFD, or IS_RENDER + index of the GPU
enum { IS_NONE, IS_KFD, IS_RENDER };
#define doorbell_offset_of(gpu) ((u64)((gpu)->index + 1) << 20)

// Each ioctl takes its structure and returns 0 or an errno.
int answer_ioctl(unsigned long request, void *argument);

// memory.c
int alloc_memory(struct kfd_ioctl_alloc_memory_of_gpu_args *);
int free_memory(struct kfd_ioctl_free_memory_of_gpu_args *);
int map_memory(struct kfd_ioctl_map_memory_to_gpu_args *);
int unmap_memory(struct kfd_ioctl_unmap_memory_from_gpu_args *);
int available_memory(struct kfd_ioctl_get_available_memory_args *);

// events.c
int create_event(struct kfd_ioctl_create_event_args *);
int destroy_event(struct kfd_ioctl_destroy_event_args *);
int set_event(struct kfd_ioctl_set_event_args *);
int reset_event(struct kfd_ioctl_reset_event_args *);
int wait_events(struct kfd_ioctl_wait_events_args *);
void signal_event(u32 event_id);
void signal_memory_fault(const Gpu *gpu, u64 address, int read_only);
void signal_hang(const Gpu *gpu);
u64 event_count(void);                              // goes up with every event that is set
void wait_for_event_after(u64 count, int milliseconds);

// queues.c
int create_queue(struct kfd_ioctl_create_queue_args *);
int destroy_queue(struct kfd_ioctl_destroy_queue_args *);

// packets.c: run_packet's result is non-zero where the queue must stop for good.
typedef struct {
  Gpu *gpu;
  AmdQueue *queue;
  u64 save_area;          // holds where errors of the queue are told
  volatile int *closing;
} PacketContext;
int run_packet(const PacketContext *context, const AqlPacket *packet);
void complete(u64 signal, u64 begin);  // of a packet that has run since then
u64 gpu_clock(void);

// executor.c
enum { RAN, PAGE_FAULT, READ_ONLY_FAULT, HUNG, BAD_CODE, EXCEPTION };
typedef struct {
  u64 address;
} Fault;
int execute(const Gpu *gpu, const AqlPacket *packet, Fault *fault);
void attach_executor(void);

#define EXPORT __attribute__((visibility("default")))
