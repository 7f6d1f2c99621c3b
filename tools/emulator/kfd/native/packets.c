// What a queue does with a packet: kernels go to the executor, barriers wait here, faults are told as the driver tells them.
#define _GNU_SOURCE
#include "kfd.h"

static AmdSignal *signal_at(u64 handle) { return (AmdSignal *)(uintptr_t)handle; }
static i64 value_of(u64 handle) { return __atomic_load_n(&signal_at(handle)->value, __ATOMIC_ACQUIRE); }

void complete(u64 handle, u64 begin) {
  if (!handle) return;
  AmdSignal *s = signal_at(handle);
  s->start_time = begin;
  s->end_time = gpu_clock();
  u64 mailbox = s->mailbox;
  u32 event = s->event_id;
  // Whoever waits may give the signal back as soon as it has changed.
  __atomic_sub_fetch(&s->value, 1, __ATOMIC_ACQ_REL);
  if (mailbox) __atomic_store_n((u64 *)(uintptr_t)mailbox, event, __ATOMIC_RELEASE);
  signal_event(mailbox ? event : 0);
}

static int holds_and(const AqlPacket *p) {
  for (int i = 0; i < 5; i++)
    if (p->barrier.signals[i] && value_of(p->barrier.signals[i])) return 0;
  return 1;
}

static int holds_or(const AqlPacket *p) {
  int any = 0;
  for (int i = 0; i < 5; i++) {
    if (!p->barrier.signals[i]) continue;
    if (!value_of(p->barrier.signals[i])) return 1;
    any = 1;
  }
  return !any;
}

static int holds_value(const AqlPacket *p) {
  if (!p->barrier_value.signal) return 1;
  i64 found = value_of(p->barrier_value.signal) & p->barrier_value.mask, wanted = p->barrier_value.value;
  switch (p->barrier_value.condition) {
    case CONDITION_EQUAL: return found == wanted;
    case CONDITION_NOT_EQUAL: return found != wanted;
    case CONDITION_LESS: return found < wanted;
    default: return found >= wanted;
  }
}

// Signals change with an event, except where the program stores to one that has none: that is looked for now and then.
static int wait_until(int (*holds)(const AqlPacket *), const PacketContext *c, const AqlPacket *p) {
  for (;;) {
    u64 seen = event_count();
    if (holds(p)) return 0;
    if (*c->closing) return 1;
    wait_for_event_after(seen, 5);
  }
}

// An error of a queue: its reason and its event stand at the start of the area that its waves' state is saved in.
static void fail_queue(const PacketContext *c, int exception) {
  const SaveArea *area = (const SaveArea *)(uintptr_t)c->save_area;
  if (!area || !area->error_reason) {
    signal_hang(c->gpu);
    return;
  }
  __atomic_or_fetch(area->error_reason, (i64)KFD_EC_MASK(exception), __ATOMIC_ACQ_REL);
  signal_event(area->error_event);
}

static int dispatch(const PacketContext *c, const AqlPacket *p) {
  Fault fault = {0};
  int result = execute(c->gpu, p, &fault);
  if (result == RAN) return 0;
  if (result == PAGE_FAULT || result == READ_ONLY_FAULT) signal_memory_fault(c->gpu, fault.address, result == READ_ONLY_FAULT);
  else if (result == HUNG) signal_hang(c->gpu);
  else fail_queue(c, result == BAD_CODE ? EC_QUEUE_PACKET_DISPATCH_CODE_INVALID : EC_QUEUE_WAVE_TRAP);
  return 1;
}

int run_packet(const PacketContext *c, const AqlPacket *p) {
  switch (p->header & 0xff) {
    case PACKET_DISPATCH: return dispatch(c, p);
    case PACKET_BARRIER_AND: return wait_until(holds_and, c, p);
    case PACKET_BARRIER_OR: return wait_until(holds_or, c, p);
    case PACKET_VENDOR:
      if (p->vendor_format == VENDOR_BARRIER_VALUE) return wait_until(holds_value, c, p);
      // Commands of the packet processor itself: caches are always coherent here.
      if (p->vendor_format == VENDOR_PM4) return 0;
      break;
    default: break;
  }
  fprintf(stderr, "kfd: a packet that is not emulated: header %#x, format %u\n", p->header, p->vendor_format);
  fail_queue(c, EC_QUEUE_PACKET_UNSUPPORTED);
  return 1;
}
