// The C library's functions that reach devices and their sysfs, with the emulated ones behind the paths that are AMD's.
#define _GNU_SOURCE
#include "kfd.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const char *const sysfs_roots[] = {"/sys/devices/virtual/kfd/kfd/", "/sys/class/kfd/kfd/"};

// The next definition of a function behind this one: the C library's.
#define NEXT(function)                                                     \
  static __typeof__(&function) next;                                       \
  if (!next) next = (__typeof__(&function))dlsym(RTLD_NEXT, #function)

static int is_device(const char *path) {
  return path && path[0] == '/' && path[1] == 'd' && (!strcmp(path, "/dev/kfd") || !strncmp(path, "/dev/dri/renderD", 16)) && gpus_ready();
}

// Where a path leads: itself, or below the emulated topology (in buffer).
static const char *redirected(const char *path, char *buffer) {
  if (!path || strncmp(path, "/sys/", 5)) return path;
  const char *topology = getenv("ROCMFORGE_KFD_TOPOLOGY");
  for (u32 i = 0; topology && i < sizeof sysfs_roots / sizeof *sysfs_roots; i++) {
    size_t length = strlen(sysfs_roots[i]);
    if (strncmp(path, sysfs_roots[i], length)) continue;
    if (snprintf(buffer, PATH_MAX, "%s/%s", topology, path + length) >= PATH_MAX) return path;
    return buffer;
  }
  return path;
}

static int open_path(int folder, const char *path, int flags, unsigned mode) {
  char buffer[PATH_MAX];
  if (is_device(path)) return open_device(path);
  return (int)syscall(SYS_openat, folder, redirected(path, buffer), flags, mode);
}

static unsigned mode_of(int flags, va_list arguments) {
  return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, unsigned) : 0;
}

#define OPEN(name)                                         \
  EXPORT int name(const char *path, int flags, ...) {      \
    va_list arguments;                                     \
    va_start(arguments, flags);                            \
    unsigned mode = mode_of(flags, arguments);             \
    va_end(arguments);                                     \
    return open_path(AT_FDCWD, path, flags, mode);         \
  }
#define OPENAT(name)                                               \
  EXPORT int name(int folder, const char *path, int flags, ...) {  \
    va_list arguments;                                             \
    va_start(arguments, flags);                                    \
    unsigned mode = mode_of(flags, arguments);                     \
    va_end(arguments);                                             \
    return open_path(folder, path, flags, mode);                   \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
EXPORT int __open_2(const char *path, int flags) { return open_path(AT_FDCWD, path, flags, 0); }
EXPORT int __open64_2(const char *path, int flags) { return open_path(AT_FDCWD, path, flags, 0); }

#define OF_PATH(result, name, parameters, ...)     \
  EXPORT result name parameters {                  \
    char buffer[PATH_MAX];                         \
    NEXT(name);                                    \
    path = redirected(path, buffer);               \
    return next(__VA_ARGS__);                      \
  }
OF_PATH(FILE *, fopen, (const char *path, const char *mode), path, mode)
OF_PATH(FILE *, fopen64, (const char *path, const char *mode), path, mode)
OF_PATH(DIR *, opendir, (const char *path), path)
OF_PATH(ssize_t, readlink, (const char *path, char *out, size_t size), path, out, size)

#define STATUS(name, type)                                                       \
  EXPORT int name(const char *path, struct type *out) {                          \
    char buffer[PATH_MAX];                                                       \
    NEXT(name);                                                                  \
    return next(is_device(path) ? "/dev/null" : redirected(path, buffer), out);  \
  }
STATUS(stat, stat)
STATUS(stat64, stat64)
STATUS(lstat, stat)
STATUS(lstat64, stat64)
EXPORT int access(const char *path, int mode) {
  char buffer[PATH_MAX];
  NEXT(access);
  return is_device(path) ? 0 : next(redirected(path, buffer), mode);
}

EXPORT int ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  if (_IOC_TYPE(request) == AMDKFD_IOCTL_BASE && device_of(fd) == IS_KFD) {
    int error = answer_ioctl(request, argument);
    return error ? (errno = error, -1) : 0;
  }
  return (int)syscall(SYS_ioctl, fd, request, argument);
}

// Memory that the program itself must not touch is mapped without rights; the GPU's side of it is this process too.
static void *map(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
  if (protection == PROT_NONE && !(flags & MAP_ANONYMOUS) && device_of(fd) >= IS_RENDER) protection = PROT_READ | PROT_WRITE;
  return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset);
}
EXPORT void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
  return map(address, size, protection, flags, fd, offset);
}
EXPORT void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t offset) {
  return map(address, size, protection, flags, fd, offset);
}

// HIP waits for its GPU by yielding, which would take from the emulated one half of a small machine's processors.
EXPORT int sched_yield(void) {
  if (num_gpus) nanosleep(&(struct timespec){.tv_nsec = 50000}, 0);
  else syscall(SYS_sched_yield);
  return 0;
}
