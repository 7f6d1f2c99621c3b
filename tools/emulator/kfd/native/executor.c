// Kernels run in Python: the interpreter of this process is asked, when the first queue is made, to import the executor, which gives
// its callback here.
#define _GNU_SOURCE
#include "kfd.h"

#include <dlfcn.h>
#include <pthread.h>

typedef int (*Execute)(u32 gpu, const AqlPacket *packet, u64 *fault_address);
static Execute callback;
static u32 running;
static int ended;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t idle = PTHREAD_COND_INITIALIZER;

// The executor's own call; none (0) when its interpreter ends, which waits for the kernels that run. Those that come later, as the
// program's libraries are unloaded, are not run: nobody is left who could look.
EXPORT void rocmforge_kfd_attach(Execute function) {
  pthread_mutex_lock(&lock);
  callback = function;
  ended = !function;
  while (!function && running) pthread_cond_wait(&idle, &lock);
  pthread_mutex_unlock(&lock);
}

void attach_executor(void) {
  if (callback) return;
  int (*is_initialized)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "Py_IsInitialized");
  int (*ensure)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "PyGILState_Ensure");
  void (*release)(int) = (void (*)(int))dlsym(RTLD_DEFAULT, "PyGILState_Release");
  int (*run)(const char *) = (int (*)(const char *))dlsym(RTLD_DEFAULT, "PyRun_SimpleString");
  if (!is_initialized || !ensure || !release || !run || !is_initialized()) {
    fprintf(stderr, "kfd: no Python in this process: kernels cannot run\n");
    return;
  }
  int state = ensure();
  run("import rocmforge.tools.emulator.kfd.executor as _executor; _executor.attach(); del _executor\n");
  release(state);
}

int execute(const Gpu *gpu, const AqlPacket *packet, Fault *fault) {
  pthread_mutex_lock(&lock);
  Execute function = callback;
  running++;
  pthread_mutex_unlock(&lock);
  int result = ended ? RAN : BAD_CODE;
  if (function) result = function(gpu->index, packet, &fault->address);
  else if (!ended) fprintf(stderr, "kfd: a kernel was launched, but no executor is attached\n");
  pthread_mutex_lock(&lock);
  running--;
  pthread_cond_broadcast(&idle);
  pthread_mutex_unlock(&lock);
  return result;
}
