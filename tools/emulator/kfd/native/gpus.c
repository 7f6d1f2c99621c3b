// The GPUs of this process, from the environment, and the files that stand for their devices.
//
// ROCMFORGE_KFD_GPUS: for each GPU "arch,gpu_id,device_id,family,compute_units,engines,vram,name", separated by ";".
#define _GNU_SOURCE
#include "kfd.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

Gpu gpus[MAX_GPUS];
u32 num_gpus;
int kfd_fd = -1;
volatile u64 *doorbells;

static dev_t device_number;
static ino_t kfd_inode, render_inode[MAX_GPUS];
static pthread_once_t once = PTHREAD_ONCE_INIT;

// A file with a byte for each address of the process, none of them backed by memory yet.
static int sparse_file(const char *name, ino_t *inode) {
  struct stat status;
  int fd = memfd_create(name, MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, 1ll << 47) || fstat(fd, &status)) return -1;
  *inode = status.st_ino;
  device_number = status.st_dev;
  // Out of the way of the program's own descriptors.
  int high = fcntl(fd, F_DUPFD_CLOEXEC, 500);
  if (high < 0) return fd;
  close(fd);
  return high;
}

static void read_environment(void) {
  const char *text = getenv("ROCMFORGE_KFD_GPUS");
  u32 count = 0;
  while (text && *text && count < MAX_GPUS) {
    Gpu *g = &gpus[count];
    unsigned long long vram;
    if (sscanf(text, "%23[^,],%u,%u,%u,%u,%u,%llu,%63[^;]", g->arch, &g->gpu_id, &g->device_id, &g->family, &g->compute_units,
               &g->engines, &vram, g->name) != 8) {
      fprintf(stderr, "ROCMFORGE_KFD_GPUS: GPU %u cannot be read: %s\n", count, text);
      return;
    }
    g->vram = vram;
    g->index = count;
    g->render_fd = sparse_file("rocmforge render node", &render_inode[count]);
    if (g->render_fd < 0) return;
    count++;
    text = strchr(text, ';');
    if (text) text++;
  }
  if (!count || (kfd_fd = sparse_file("rocmforge kfd", &kfd_inode)) < 0) return;
  void *page = mmap(0, (size_t)MAX_GPUS << 20, PROT_READ | PROT_WRITE, MAP_SHARED, kfd_fd, 1 << 20);
  if (page == MAP_FAILED) return;
  doorbells = page;
  num_gpus = count;
}

int gpus_ready(void) {
  pthread_once(&once, read_environment);
  return num_gpus > 0;
}

Gpu *gpu_of_id(u32 gpu_id) {
  for (u32 i = 0; i < num_gpus; i++)
    if (gpus[i].gpu_id == gpu_id) return &gpus[i];
  return 0;
}

int open_device(const char *path) {
  int minor, fd = kfd_fd;
  if (sscanf(path, "/dev/dri/renderD%d", &minor) == 1) {
    if (minor < FIRST_RENDER_MINOR || minor >= FIRST_RENDER_MINOR + (int)num_gpus) return errno = ENOENT, -1;
    fd = gpus[minor - FIRST_RENDER_MINOR].render_fd;
  }
  return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

// By the file behind a descriptor, for programs duplicate and exchange them.
int device_of(int fd) {
  struct stat status;
  if (!num_gpus || fd < 0 || fstat(fd, &status) || status.st_dev != device_number) return IS_NONE;
  if (status.st_ino == kfd_inode) return IS_KFD;
  for (u32 i = 0; i < num_gpus; i++)
    if (status.st_ino == render_inode[i]) return IS_RENDER + (int)i;
  return IS_NONE;
}
