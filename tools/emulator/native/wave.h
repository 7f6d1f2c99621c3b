// The machine state of one wave, and the decoded instruction ("op") that handlers execute.
//
// W, the wave size (32 or 64), is given on the command line: one shared object for each. Python (structures.py) mirrors
// Operand, Op, Allocation, Launch and Fault; a mismatch of sizes is refused when the library is loaded.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Freestanding C does not take these for its builtins; small constant sizes must become plain moves.
#define memcpy __builtin_memcpy
#define memset __builtin_memset
#define memcmp __builtin_memcmp

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t i8;
typedef int16_t i16;
typedef int32_t i32;
typedef int64_t i64;
typedef float f32;
typedef double f64;
typedef _Float16 f16;

#define VECTOR(name, type) typedef type V_##name __attribute__((vector_size(W * sizeof(type))))
VECTOR(u8, u8);
VECTOR(u16, u16);
VECTOR(u32, u32);
VECTOR(u64, u64);
VECTOR(i8, i8);
VECTOR(i16, i16);
VECTOR(i32, i32);
VECTOR(i64, i64);
VECTOR(f32, f32);
VECTOR(f64, f64);
VECTOR(f16, f16);
VECTOR(pk, u32);  // two 16-bit halves in a word
typedef _Bool V_bool __attribute__((ext_vector_type(W)));

#if W == 64
typedef u64 Mask;
#else
typedef u32 Mask;
#endif

// Register file rows: 0-255 VGPRs, 256-511 accumulation VGPRs, room for what runs over their end (up to 32 registers), then
// temporary rows for DPP, SDWA and dual issue.
enum { ROW_ACC = 256, ROW_TEMPORARY = 544, NUM_ROWS = 560 };
// Scalar registers by encoding; M0 is always 125 here, and 128 and up swallow writes to NULL (up to 16 words).
enum { S_VCC = 106, S_M0 = 125, S_EXEC = 126, S_NULL = 128, NUM_SCALARS = 160 };

enum Kind { KIND_NONE, KIND_VECTOR, KIND_SCALAR, KIND_CONSTANT, KIND_SCC, KIND_VCCZ, KIND_EXECZ };

typedef struct {
  u8 kind, shift, shift_high;  // shift: 0 or 16, selects a half; shift_high: the same for the packed high half
  u32 index;                           // row or scalar register
  u32 low, high;                       // constant
  u32 and_mask, xor_mask;              // abs and neg, on the word that holds the sign
} Operand;

struct Wave;
struct Op;
typedef int (*Handler)(struct Wave *, const struct Op *);

typedef struct Op {
  union {
    Handler run;
    u64 handler;  // index into the table until emulator_link
  };
  Operand s[3];
  u32 dst, dst2;
  u32 clamp, omod;        // omod: 0 none, 1 *2, 2 *4, 3 /2
  u32 dst_shift;          // 16: the result goes to the high half
  u32 keep_high;          // a 16-bit result leaves the other half as it is (else zero)
  i32 imm[6];
  u32 address;            // byte offset of the instruction in the image
  u32 first;              // 1: first op of its instruction (counted)
} Op;

enum { FAULT_NONE, FAULT_BOUNDS, FAULT_ALIGNMENT, FAULT_UNINITIALISED, FAULT_RACE, FAULT_READ_ONLY, FAULT_LDS_BOUNDS,
       FAULT_SCRATCH_BOUNDS, FAULT_HANG, FAULT_DEADLOCK, FAULT_TARGET, FAULT_TRAP, FAULT_WMMA, FAULT_FRESH };

typedef struct {
  u32 code, op, lane, wave, group[3], other_wave, is_write, size;
  u64 address;
} Fault;

typedef struct {
  u64 begin, end;
  u64 *lines;  // one bit for each 128-byte line: touched in this launch
  u32 read_only, slot;    // read_only: 1; FRESH: written by the host just now
} Allocation;
enum { READ_ONLY = 1, FRESH = 2 };

// Counted for each allocation slot and direction (0 loads, 1 stores and atomics).
typedef struct {
  u64 instructions, bytes, transactions, full_transactions, distinct_lines;
} Traffic;

typedef struct {
  u64 lds_instructions, lds_bytes, lds_conflict_cycles, barriers, waves;
} Totals;

typedef struct {
  const Op *ops;
  u32 num_ops, entry;
  const u32 *op_of_word;  // op index for each code word of the image, or ~0
  u64 image;              // device address of the image
  u32 image_words;
  u32 grid[3], block[3];  // workgroups; work-items a workgroup
  u32 items[3];           // work-items of all: the last workgroup of a direction may be smaller
  u32 user_sgprs[32];
  u32 num_user_sgprs, enable_group_id[3], enable_group_info, architected_ids, num_id_dims;
  u32 num_vgprs, has_acc;
  u32 lds_bytes, scratch_bytes;
  u64 max_ops;            // of one wave, before it is called endless
  u32 check, count, unaligned;  // unaligned: global memory may be accessed so, as a GPU under Linux allows
  Allocation *allocations;
  u32 num_allocations;
  u32 *next_group;        // shared between the threads
  volatile u32 *stop;
} Launch;

typedef struct {
  u32 write_epoch, read_epoch;
  // For each byte the wave + 1; a writer's with BY_ATOMIC where it was an atomic, SEVERAL where more than one wave's were.
  u8 writer[4], reader[4];
} Shadow;

typedef struct {
  u8 *lds;
  u8 *lds_valid;  // a bit for each byte of a dword
  Shadow *shadow;
  u32 epoch, barrier_phase, barrier_arrived, num_live;
  u32 id[3], size[3];  // size: work-items of this one
} Group;

typedef struct Wave {
  u32 v[NUM_ROWS][W] __attribute__((aligned(128)));
  V_u32 lanes;  // ~0 for each active lane
  u32 s[NUM_SCALARS];
  u32 scc, full, saved_exec[2];
  const Op *pc;
  Group *group;
  const Launch *launch;
  Totals *totals;
  Traffic *traffic;  // [slot][2]
  u64 *hits;
  Fault *fault;
  u8 *scratch;  // [W][scratch_bytes]
  const Allocation *last;
  u32 index, state, signaled, wait_phase, budget;
  u64 executed;
} Wave;

enum { RUNNING, WAITING, ENDED };
enum { CONTINUE, YIELD, FAULTED };

#define BY_ATOMIC 0x40  // waves are at most 32
#define SEVERAL 0xff
#define ROW(w, r) (*(V_u32 *)(w)->v[r])

typedef struct {
  const char *name, *types;  // types: destination then sources, e.g. "f32 f32 f32"
  Handler run;
} Entry;

// A vector as an array of lanes, and back.
typedef struct {
  u32 lane[W] __attribute__((aligned(64)));
} Array;
static inline Array array_of(V_u32 v) { Array a; memcpy(&a, &v, sizeof a); return a; }
static inline V_u32 vector_of(const Array *a) { V_u32 v; memcpy(&v, a, sizeof v); return v; }

static inline u64 read_exec(const Wave *w) { return W == 64 ? (u64)w->s[S_EXEC + 1] << 32 | w->s[S_EXEC] : w->s[S_EXEC]; }

static inline V_u32 spread(u64 bits) {
  Mask m = (Mask)bits;
  V_bool b;
  memcpy(&b, &m, sizeof m);
  return -__builtin_convertvector(b, V_u32);
}

static inline void exec_changed(Wave *w) {
  u64 exec = read_exec(w);
  w->full = exec == (Mask)~(Mask)0;
  w->lanes = spread(exec);
}

static inline void write_scalar(Wave *w, u32 r, u32 value) {
  w->s[r] = value;
  if ((r | 1) == S_EXEC + 1) exec_changed(w);
}

static inline void write_scalar64(Wave *w, u32 r, u64 value) {
  w->s[r] = (u32)value;
  w->s[r + 1] = (u32)(value >> 32);
  if (r == S_EXEC) exec_changed(w);
}

static inline void write_mask(Wave *w, u32 r, u64 value) {
  if (W == 64) write_scalar64(w, r, value);
  else write_scalar(w, r, (u32)value);
}

static inline u32 scalar(const Wave *w, const Operand *o) {
  switch (o->kind) {
    case KIND_SCALAR: return w->s[o->index];
    case KIND_SCC: return w->scc;
    case KIND_VCCZ: return W == 64 ? !(w->s[S_VCC] | w->s[S_VCC + 1]) : !w->s[S_VCC];
    case KIND_EXECZ: return !read_exec(w);
    default: return o->low;
  }
}

static inline u64 scalar64(const Wave *w, const Operand *o) {
  if (o->kind == KIND_SCALAR) return (u64)w->s[o->index + 1] << 32 | w->s[o->index];
  if (o->kind == KIND_CONSTANT) return (u64)o->high << 32 | o->low;
  return scalar(w, o);
}

static inline u64 scalar_mask(const Wave *w, const Operand *o) { return W == 64 ? scalar64(w, o) : scalar(w, o); }

static inline int fail(Wave *w, const Op *o, u32 code, u32 lane, u64 address, u32 size, u32 is_write) {
  Fault *f = w->fault;
  *f = (Fault){.code = code, .op = (u32)(o - w->launch->ops), .lane = lane, .wave = w->index, .address = address,
               .size = size, .is_write = is_write};
  memcpy(f->group, w->group->id, sizeof f->group);
  return FAULTED;
}
