// Structures that programs, queues and packets share, as AMD's queues have them in memory.
#pragma once
#include <stdint.h>

enum { PACKET_VENDOR, PACKET_INVALID, PACKET_DISPATCH, PACKET_BARRIER_AND, PACKET_AGENT_DISPATCH, PACKET_BARRIER_OR };
enum { VENDOR_PM4 = 1, VENDOR_BARRIER_VALUE = 2 };
enum { CONDITION_EQUAL, CONDITION_NOT_EQUAL, CONDITION_LESS, CONDITION_AT_LEAST };

typedef struct {
  int64_t kind;
  volatile int64_t value;
  uint64_t mailbox;  // of the event to raise when the value changes, or 0
  uint32_t event_id, reserved1;
  uint64_t start_time, end_time, queue;
  uint32_t reserved2[2];
} AmdSignal;

typedef union {
  struct {
    uint16_t header;
    uint8_t vendor_format;  // of vendor packets
  };
  struct {
    uint16_t header, dimensions, workgroup[3], reserved1;
    uint32_t items[3], private_bytes, group_bytes;
    uint64_t descriptor, kernarg, reserved2, completion;
  } dispatch;
  struct {
    uint16_t header, reserved1;
    uint32_t reserved2;
    uint64_t signals[5], reserved3, completion;
  } barrier;
  struct {
    uint16_t header;
    uint8_t format, reserved1;
    uint32_t reserved2;
    uint64_t signal;
    int64_t value, mask;
    uint32_t condition, reserved3;
    uint64_t reserved4, reserved5, completion;
  } barrier_value;
} AqlPacket;
_Static_assert(sizeof(AqlPacket) == 64, "a packet has 64 bytes");

// The start of the structure that holds a queue's indices, up to what is needed here.
typedef struct {
  uint32_t type, features;
  uint64_t base, doorbell_signal;
  uint32_t size, reserved1;
  uint64_t id;
  uint32_t reserved2[4];
  volatile uint64_t write_index;
  uint32_t reserved3[16];
  volatile uint64_t read_index;
} AmdQueue;
_Static_assert(offsetof(AmdQueue, write_index) == 56 && offsetof(AmdQueue, read_index) == 128, "layout of a queue");

// Begins the area that a wave's state is saved in; the driver tells a queue's errors through it.
typedef struct {
  uint32_t offsets[6];
  volatile int64_t *error_reason;
  uint32_t error_event, reserved;
} SaveArea;
