// AQL queues: a thread each, woken by its doorbell. Doorbells are plain memory here, so one thread of the process looks at them all,
// less often the longer nothing rings.
#define _GNU_SOURCE
#include "kfd.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <time.h>

typedef struct {
  PacketContext context;
  AqlPacket *ring;
  u64 ring_packets, rung;  // rung: the doorbell's value that the thread was woken for
  volatile u64 *doorbell;
  pthread_t thread;
  pthread_cond_t wake;
  volatile int closing;
  int live, woken;
} Queue;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Queue queues[MAX_QUEUES];  // queue ids are indices + 1
static int watching;

// Runs packets from the read index on, while they are valid.
static void run_packets(Queue *q) {
  AmdQueue *indices = q->context.queue;
  while (!q->closing) {
    u64 index = indices->read_index;
    AqlPacket *packet = &q->ring[index % q->ring_packets];
    u16 header = __atomic_load_n(&packet->header, __ATOMIC_ACQUIRE);
    if (index >= __atomic_load_n(&indices->write_index, __ATOMIC_ACQUIRE) || (header & 0xff) == PACKET_INVALID) return;
    u64 completion = packet->dispatch.completion, begin = gpu_clock();  // the signal is in the same place of every packet
    if (run_packet(&q->context, packet)) {
      q->closing = 1;  // a queue with an error runs nothing more
      return;
    }
    __atomic_store_n(&packet->header, PACKET_INVALID, __ATOMIC_RELEASE);
    __atomic_store_n(&indices->read_index, index + 1, __ATOMIC_RELEASE);
    complete(completion, begin);
  }
}

static void *run_queue(void *argument) {
  Queue *q = argument;
  prctl(PR_SET_NAME, "kfd-queue");
  for (;;) {
    pthread_mutex_lock(&lock);
    while (!q->woken && !q->closing) pthread_cond_wait(&q->wake, &lock);
    q->woken = 0;
    pthread_mutex_unlock(&lock);
    if (q->closing) return 0;
    run_packets(q);
  }
}

static void *watch_doorbells(void *unused) {
  (void)unused;
  prctl(PR_SET_NAME, "kfd-doorbells");
  prctl(PR_SET_TIMERSLACK, 1000);
  for (u32 quiet = 0;; quiet++) {
    pthread_mutex_lock(&lock);
    for (u32 i = 0; i < MAX_QUEUES; i++) {
      Queue *q = &queues[i];
      if (q->live != 1 || *q->doorbell == q->rung) continue;
      q->rung = *q->doorbell;
      q->woken = 1;
      pthread_cond_signal(&q->wake);
      quiet = 0;
    }
    pthread_mutex_unlock(&lock);
    long microseconds = quiet < 200 ? 50 : quiet < 2000 ? 200 : 1000;
    nanosleep(&(struct timespec){.tv_nsec = microseconds * 1000}, 0);
  }
  return 0;
}

static int start(Queue *q) {
  pthread_t watcher;
  if (!watching && pthread_create(&watcher, 0, watch_doorbells, 0)) return ENOMEM;
  if (!watching) pthread_detach(watcher);
  watching = 1;
  return pthread_create(&q->thread, 0, run_queue, q) ? ENOMEM : 0;
}

int create_queue(struct kfd_ioctl_create_queue_args *a) {
  Gpu *gpu = gpu_of_id(a->gpu_id);
  // No SDMA engines and no queues of bare commands: the topology has none, so no program should ask.
  if (!gpu || a->queue_type != KFD_IOC_QUEUE_TYPE_COMPUTE_AQL) return EINVAL;
  if (!a->ring_base_address || a->ring_size < sizeof(AqlPacket) || !a->read_pointer_address) return EFAULT;
  attach_executor();
  pthread_mutex_lock(&lock);
  u32 i = 0;
  while (i < MAX_QUEUES && queues[i].live) i++;
  int error = i < MAX_QUEUES ? 0 : ENOMEM;
  if (!error) {
    Queue *q = &queues[i];
    *q = (Queue){.ring = (AqlPacket *)(uintptr_t)a->ring_base_address, .ring_packets = a->ring_size / sizeof(AqlPacket), .rung = ~0ull,
                 .doorbell = doorbells + (doorbell_offset_of(gpu) - doorbell_offset_of(&gpus[0])) / 8 + i, .live = 1};
    q->context = (PacketContext){.gpu = gpu, .queue = (AmdQueue *)(uintptr_t)(a->read_pointer_address - offsetof(AmdQueue, read_index)),
                                 .save_area = a->ctx_save_restore_address, .closing = &q->closing};
    pthread_cond_init(&q->wake, 0);
    *q->doorbell = ~0ull;
    error = start(q);
    q->live = !error;
    a->queue_id = i + 1;
    a->doorbell_offset = doorbell_offset_of(gpu) + 8 * i;
  }
  pthread_mutex_unlock(&lock);
  return error;
}

int destroy_queue(struct kfd_ioctl_destroy_queue_args *a) {
  Queue *q = a->queue_id && a->queue_id <= MAX_QUEUES ? &queues[a->queue_id - 1] : 0;
  pthread_mutex_lock(&lock);
  int live = q && q->live == 1;
  if (live) {
    q->live = 2;  // nobody else closes it, and its place is kept until its thread has gone
    q->closing = 1;
    pthread_cond_signal(&q->wake);
  }
  pthread_mutex_unlock(&lock);
  if (!live) return EINVAL;
  signal_event(0);  // it may wait at a barrier
  pthread_join(q->thread, 0);
  pthread_mutex_lock(&lock);
  q->live = 0;
  pthread_mutex_unlock(&lock);
  return 0;
}
