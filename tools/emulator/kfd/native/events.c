// Events: set by the program, by queues or by faults; waited for by the program.
#define _GNU_SOURCE
#include "kfd.h"

#include <pthread.h>
#include <time.h>

typedef struct {
  u32 type;
  u8 live, set, auto_reset;
  u32 waiters;
  u64 age;  // times it was set, and one
  struct kfd_hsa_memory_exception_data memory;
  struct kfd_hsa_hw_exception_data hardware;
} Event;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static Event events[KFD_SIGNAL_EVENT_LIMIT + 1];  // 0 is none
static u64 sets;

static Event *find(u32 id) { return id && id <= KFD_SIGNAL_EVENT_LIMIT && events[id].live ? &events[id] : 0; }

int create_event(struct kfd_ioctl_create_event_args *a) {
  u32 id = 1;
  pthread_mutex_lock(&lock);
  while (id <= KFD_SIGNAL_EVENT_LIMIT && (events[id].live || events[id].waiters)) id++;
  if (id <= KFD_SIGNAL_EVENT_LIMIT) {
    // An age of 0 means that the waiter does not care.
    events[id] = (Event){.type = a->event_type, .live = 1, .auto_reset = a->auto_reset != 0, .age = 1};
    a->event_id = a->event_trigger_data = id;
    a->event_slot_index = id - 1;
    // The program has given the page of mailboxes with its first event; without an offset an event would have none.
    if (!a->event_page_offset) a->event_page_offset = PAGE;
  }
  pthread_mutex_unlock(&lock);
  return id <= KFD_SIGNAL_EVENT_LIMIT ? 0 : ENOSPC;
}

int destroy_event(struct kfd_ioctl_destroy_event_args *a) {
  pthread_mutex_lock(&lock);
  Event *e = find(a->event_id);
  if (e) e->live = 0;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
  return e ? 0 : EINVAL;
}

// Everyone who waits now is woken, whatever the others take; only an event that nobody waits for is kept.
static void raise_event(Event *e) {
  e->set = !e->auto_reset || !e->waiters;
  e->age++;
}

static int set(u32 id) {
  pthread_mutex_lock(&lock);
  Event *e = find(id);
  if (e) raise_event(e);
  sets++;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
  return e ? 0 : EINVAL;
}

int set_event(struct kfd_ioctl_set_event_args *a) { return set(a->event_id); }
void signal_event(u32 event_id) { set(event_id); }

int reset_event(struct kfd_ioctl_reset_event_args *a) {
  pthread_mutex_lock(&lock);
  Event *e = find(a->event_id);
  if (e) e->set = 0;
  pthread_mutex_unlock(&lock);
  return e ? 0 : EINVAL;
}

void signal_memory_fault(const Gpu *gpu, u64 address, int read_only) {
  pthread_mutex_lock(&lock);
  for (u32 i = 1; i <= KFD_SIGNAL_EVENT_LIMIT; i++) {
    if (!events[i].live || events[i].type != KFD_IOC_EVENT_MEMORY) continue;
    events[i].memory = (struct kfd_hsa_memory_exception_data){
        .failure = {.NotPresent = !read_only, .ReadOnly = read_only != 0}, .va = address & ~(u64)(PAGE - 1), .gpu_id = gpu->gpu_id};
    raise_event(&events[i]);
  }
  sets++;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

// A GPU that does not come to an end is reset by its driver, and what was in its memory is lost.
void signal_hang(const Gpu *gpu) {
  pthread_mutex_lock(&lock);
  for (u32 i = 1; i <= KFD_SIGNAL_EVENT_LIMIT; i++) {
    if (!events[i].live || events[i].type != KFD_IOC_EVENT_HW_EXCEPTION) continue;
    events[i].hardware = (struct kfd_hsa_hw_exception_data){
        .reset_type = KFD_HW_EXCEPTION_WHOLE_GPU_RESET, .reset_cause = KFD_HW_EXCEPTION_GPU_HANG, .memory_lost = 1, .gpu_id = gpu->gpu_id};
    raise_event(&events[i]);
  }
  sets++;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

static struct timespec in_milliseconds(u32 milliseconds) {
  struct timespec end;
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += milliseconds / 1000;
  end.tv_nsec += (long)(milliseconds % 1000) * 1000000;
  if (end.tv_nsec >= 1000000000) end.tv_sec++, end.tv_nsec -= 1000000000;
  return end;
}

// A waiter's event: over once it is set, or has been since the age that the program saw last (0: it does not say).
typedef struct {
  Event *event;
  u64 age;
  int over;
} Wait;

static int begin_waits(Wait *waits, const struct kfd_event_data *data, u32 count) {
  for (u32 i = 0; i < count; i++) {
    if (!(waits[i].event = find(data[i].event_id))) return EINVAL;
  }
  for (u32 i = 0; i < count; i++) {
    Event *e = waits[i].event;
    u64 seen = e->type == KFD_IOC_EVENT_SIGNAL ? data[i].signal_event_data.last_event_age : 0;
    waits[i].age = e->age;
    waits[i].over = e->set || (seen && seen != e->age);
    if (e->auto_reset) e->set = 0;
    e->waiters++;
  }
  return 0;
}

static u32 count_over(Wait *waits, u32 count) {
  u32 over = 0;
  for (u32 i = 0; i < count; i++) {
    waits[i].over |= !waits[i].event->live || waits[i].event->age != waits[i].age;
    over += waits[i].over != 0;
  }
  return over;
}

static void tell(const Event *e, struct kfd_event_data *data) {
  if (e->type == KFD_IOC_EVENT_MEMORY) data->memory_exception_data = e->memory;
  else if (e->type == KFD_IOC_EVENT_HW_EXCEPTION) data->hw_exception_data = e->hardware;
  else if (data->signal_event_data.last_event_age) data->signal_event_data.last_event_age = e->age;
}

int wait_events(struct kfd_ioctl_wait_events_args *a) {
  struct kfd_event_data *data = (void *)(uintptr_t)a->events_ptr;
  struct timespec end = in_milliseconds(a->timeout);
  Wait *waits = calloc(a->num_events + 1, sizeof *waits);
  if (!waits) return ENOMEM;
  u32 needed = a->wait_for_all ? a->num_events : 1;
  int expired = !a->timeout;
  pthread_mutex_lock(&lock);
  int error = begin_waits(waits, data, a->num_events);
  if (!error) {
    while (count_over(waits, a->num_events) < needed && !expired) {
      if (a->timeout == 0xffffffff) pthread_cond_wait(&changed, &lock);
      else expired = pthread_cond_timedwait(&changed, &lock, &end) == ETIMEDOUT;
    }
    int done = count_over(waits, a->num_events) >= needed;
    a->wait_result = done ? KFD_IOC_WAIT_RESULT_COMPLETE : KFD_IOC_WAIT_RESULT_TIMEOUT;
    for (u32 i = 0; i < a->num_events; i++) {
      waits[i].event->waiters--;
      if (done && waits[i].over) tell(waits[i].event, &data[i]);
    }
  }
  pthread_mutex_unlock(&lock);
  free(waits);
  return error;
}

u64 event_count(void) {
  pthread_mutex_lock(&lock);
  u64 now = sets;
  pthread_mutex_unlock(&lock);
  return now;
}

void wait_for_event_after(u64 seen, int milliseconds) {
  struct timespec end = in_milliseconds((u32)milliseconds);
  pthread_mutex_lock(&lock);
  while (sets == seen && pthread_cond_timedwait(&changed, &lock, &end) != ETIMEDOUT) {}
  pthread_mutex_unlock(&lock);
}
