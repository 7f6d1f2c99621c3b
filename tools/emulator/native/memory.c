// Global, flat, scratch and scalar memory.
#include "memory.h"

// Generic addresses whose high word is one of these lie in LDS or in scratch (SRC_SHARED_BASE, SRC_PRIVATE_BASE).
enum { APERTURE_SHARED = 0x10000, APERTURE_PRIVATE = 0x20000 };

static const Allocation *find(Wave *w, u64 address) {
  const Allocation *a = w->last;
  if (a && address >= a->begin && address < a->end) return a;
  u32 low = 0, high = w->launch->num_allocations;
  while (low < high) {
    u32 middle = (low + high) / 2;
    if (w->launch->allocations[middle].end <= address) low = middle + 1;
    else high = middle;
  }
  a = &w->launch->allocations[low];
  if (low == w->launch->num_allocations || address < a->begin) return 0;
  return w->last = a;
}

typedef struct {
  const Allocation *allocation;
  u64 line, low, high;  // bytes touched in this line
} Line;

// Add bytes [address, address + size) to the lines touched; returns their number.
static int touch(Line *lines, int n, const Allocation *a, u64 address, u32 size) {
  while (size) {
    u64 line = address >> 7;
    u32 at = address & 127, take = size < 128 - at ? size : 128 - at;
    int i = n - 1;
    while (i >= 0 && lines[i].line != line) i--;
    if (i < 0) lines[i = n++] = (Line){.allocation = a, .line = line};
    for (u32 done = 0; done < take;) {
      u32 bit = at + done, room = 64 - (bit & 63), run = take - done < room ? take - done : room;
      u64 mask = (run == 64 ? ~0ull : (1ull << run) - 1) << (bit & 63);
      if (bit < 64) lines[i].low |= mask;
      else lines[i].high |= mask;
      done += run;
    }
    address += take;
    size -= take;
  }
  return n;
}

static void count_lines(Wave *w, const Line *lines, int n, int kind) {
  const Traffic *last = 0;
  for (int i = 0; i < n; i++) {
    const Allocation *a = lines[i].allocation;
    Traffic *t = &w->traffic[2 * a->slot + (kind != READ)];
    if (t != last) {
      int before = 0;  // lines of one allocation need not follow each other
      while (lines[before].allocation != a) before++;
      t->instructions += before == i;
    }
    last = t;
    t->transactions++;
    t->bytes += (u64)(__builtin_popcountll(lines[i].low) + __builtin_popcountll(lines[i].high));
    t->full_transactions += (lines[i].low & lines[i].high) == ~0ull;
    u64 k = lines[i].line - (a->begin >> 7), bit = 1ull << (k & 63);
    if (!(__atomic_load_n(&a->lines[k >> 6], __ATOMIC_RELAXED) & bit))
      t->distinct_lines += !(__atomic_fetch_or(&a->lines[k >> 6], bit, __ATOMIC_RELAXED) & bit);
  }
}

int resolve_global(Wave *w, const Op *o, const u64 *address, u32 size, u64 lanes, int kind, Lanes *out) {
  Line lines[2 * W];
  int n = 0;
  u64 misaligned = w->launch->unaligned ? 0 : size >= 4 ? 3 : size - 1;
  if (contiguous(address, size, lanes)) {
    // The common case at once. Whatever is wrong is found lane by lane below, where the first lane at fault is named.
    const Allocation *a = find(w, address[0]);
    if (a && address[0] + size * W <= a->end && !(address[0] & misaligned) && !(kind != READ && a->read_only & READ_ONLY)) {
      for (u32 l = 0; l < W; l++) out->at[l] = (u8 *)address[l];
      if (w->launch->count) count_lines(w, lines, touch(lines, 0, a, address[0], size * W), kind);
      return 0;
    }
  }
  FOR_LANES(l, lanes) {
    const Allocation *a = find(w, address[l]);
    if (!a || address[l] + size > a->end) return fail(w, o, FAULT_BOUNDS, (u32)l, address[l], size, kind != READ);
    if (address[l] & misaligned) return fail(w, o, FAULT_ALIGNMENT, (u32)l, address[l], size, kind != READ);
    if (kind != READ && a->read_only & READ_ONLY) return fail(w, o, FAULT_READ_ONLY, (u32)l, address[l], size, 1);
    out->at[l] = (u8 *)address[l];
    if (w->launch->count) n = touch(lines, n, a, address[l], size);
  }
  if (n) count_lines(w, lines, n, kind);
  return 0;
}

static int resolve_scratch(Wave *w, const Op *o, const u64 *address, u32 size, u64 lanes, int kind, Lanes *out) {
  u32 bytes = w->launch->scratch_bytes;
  FOR_LANES(l, lanes) {
    u32 at = (u32)address[l];
    if ((u64)at + size > bytes) return fail(w, o, FAULT_SCRATCH_BOUNDS, (u32)l, at, size, kind != READ);
    out->at[l] = w->scratch + (size_t)l * bytes + at;
  }
  return 0;
}

static int resolve_flat(Wave *w, const Op *o, const u64 *address, u32 size, u64 lanes, int kind, Lanes *out) {
  u64 shared = 0, private = 0, offset[W];
  FOR_LANES(l, lanes) {
    u32 high = (u32)(address[l] >> 32);
    offset[l] = (u32)address[l];
    shared |= (u64)(high == APERTURE_SHARED) << l;
    private |= (u64)(high == APERTURE_PRIVATE) << l;
  }
  if (shared && resolve_lds(w, o, offset, size, shared, kind, out)) return FAULTED;
  if (private && resolve_scratch(w, o, offset, size, private, kind, out)) return FAULTED;
  lanes &= ~(shared | private);
  return lanes ? resolve_global(w, o, address, size, lanes, kind, out) : 0;
}

// Source 0: the vector part of the address, source 1: the scalar part.
static void addresses(Wave *w, const Op *o, u64 *out) {
  V_i64 offset = {};
  V_u64 a = (V_u64)(offset + o->imm[2]);
  if (o->s[1].kind == KIND_NONE) a += raw64(w, &o->s[0]);
  else {
    a += scalar64(w, &o->s[1]);
    if (o->s[0].kind != KIND_NONE) a += __builtin_convertvector(raw32(w, &o->s[0]), V_u64);
  }
  memcpy(out, &a, sizeof a);
}

static void scratch_addresses(Wave *w, const Op *o, u64 *out) {
  V_u32 a = (V_u32){} + (u32)o->imm[2];
  if (o->s[1].kind != KIND_NONE) a += scalar(w, &o->s[1]);
  if (o->s[0].kind != KIND_NONE) a += raw32(w, &o->s[0]);
  V_u64 wide = __builtin_convertvector(a, V_u64);
  memcpy(out, &wide, sizeof wide);
}

void move_in(Wave *w, u32 row, u32 size, u32 flags, u64 lanes, const Lanes *from) {
  if (size >= 4) {
    for (u32 i = 0; i < size / 4; i++) FOR_LANES(l, lanes) memcpy(&w->v[row + i][l], from->at[l] + 4 * i, 4);
    return;
  }
  FOR_LANES(l, lanes) {
    const u8 *p = from->at[l];
    u32 x;
    if (size == 1) x = flags & MEM_SIGNED ? (u32)(i32)(i8)*p : *p;
    else {
      u16 h;
      memcpy(&h, p, 2);
      x = flags & MEM_SIGNED ? (u32)(i32)(i16)h : h;
    }
    u32 *d = &w->v[row][l];
    if (!(flags & MEM_D16)) *d = x;
    else if (flags & MEM_HIGH) *d = (*d & 0xffff) | x << 16;
    else *d = (*d & 0xffff0000u) | (x & 0xffff);
  }
}

void move_out(Wave *w, const Operand *data, u32 size, u32 flags, u64 lanes, const Lanes *to) {
  u32 row = data->index;
  FOR_LANES(l, lanes) {
    u8 *p = to->at[l];
    if (size >= 4) {
      for (u32 i = 0; i < size / 4; i++) memcpy(p + 4 * i, &w->v[row + i][l], 4);
      continue;
    }
    u32 x = w->v[row][l] >> (flags & MEM_HIGH ? 16 : 0);
    memcpy(p, &x, size);
  }
}

static f32 as_f32(u64 x) { u32 b = (u32)x; f32 f; memcpy(&f, &b, sizeof f); return f; }
static u64 of_f32(f32 f) { u32 b; memcpy(&b, &f, sizeof b); return b; }
static f64 as_f64(u64 x) { f64 f; memcpy(&f, &x, sizeof f); return f; }
static u64 of_f64(f64 f) { u64 b; memcpy(&b, &f, sizeof b); return b; }
static f16 as_f16(u32 x) { u16 b = (u16)x; f16 f; memcpy(&f, &b, sizeof f); return f; }
static u32 of_f16(f16 f) { u16 b; memcpy(&b, &f, sizeof b); return b; }

u64 atomic_result(int operation, u32 size, u64 old, u64 x, u64 y) {
  i64 sold = size == 4 ? (i32)old : (i64)old, sx = size == 4 ? (i32)x : (i64)x;
  switch (operation) {
    case A_SWAP: return x;
    case A_CMPSWAP: return old == y ? x : old;
    case A_ADD: return old + x;
    case A_SUB: return old - x;
    case A_RSUB: return x - old;
    case A_SMIN: return sx < sold ? x : old;
    case A_UMIN: return x < old ? x : old;
    case A_SMAX: return sx > sold ? x : old;
    case A_UMAX: return x > old ? x : old;
    case A_AND: return old & x;
    case A_OR: return old | x;
    case A_XOR: return old ^ x;
    case A_MSKOR: return (old & ~x) | y;
    case A_INC: return old >= x ? 0 : old + 1;
    case A_DEC: return old == 0 || old > x ? x : old - 1;
    case A_CSUB: return old < x ? 0 : old - x;
    case A_COND_SUB: return old < x ? old : old - x;
    case A_FADD: return size == 4 ? of_f32(as_f32(old) + as_f32(x)) : of_f64(as_f64(old) + as_f64(x));
    case A_FMIN: return size == 4 ? of_f32(min_f32(ALL(f32, as_f32(old)), ALL(f32, as_f32(x)))[0]) : as_f64(x) < as_f64(old) ? x : old;
    case A_FMAX: return size == 4 ? of_f32(max_f32(ALL(f32, as_f32(old)), ALL(f32, as_f32(x)))[0]) : as_f64(x) > as_f64(old) ? x : old;
    case A_PK_ADD_F16:
      return of_f16(as_f16((u32)old) + as_f16((u32)x)) | (u64)of_f16(as_f16((u32)(old >> 16)) + as_f16((u32)(x >> 16))) << 16;
    case A_PK_ADD_BF16:
      return float_to_bf16(as_f32(old << 16) + as_f32(x << 16)) |
             (u64)float_to_bf16(as_f32(old & 0xffff0000u) + as_f32(x & 0xffff0000u)) << 16;
  }
  return old;
}

static u64 atomic_global(u8 *p, int operation, u32 size, u64 x, u64 y) {
  if (size == 4) {
    u32 old = __atomic_load_n((u32 *)p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n((u32 *)p, &old, (u32)atomic_result(operation, 4, old, x, y), 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {}
    return old;
  }
  u64 old = __atomic_load_n((u64 *)p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n((u64 *)p, &old, atomic_result(operation, 8, old, x, y), 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {}
  return old;
}

static u64 wide(const Wave *w, u32 row, u64 l, u32 size) {
  return size == 4 ? w->v[row][l] : (u64)w->v[row + 1][l] << 32 | w->v[row][l];
}

// Data: the operand, then for compare-and-swap the value compared with.
static void apply_atomics(Wave *w, const Op *o, u64 lanes, const Lanes *to) {
  u32 size = (u32)o->imm[0], row = o->s[2].index;
  FOR_LANES(l, lanes) {
    u64 x = wide(w, row, l, size), y = o->imm[3] == A_CMPSWAP ? wide(w, row + size / 4, l, size) : 0;
    u64 old = atomic_global(to->at[l], o->imm[3], size, x, y);
    if (!(o->imm[1] & MEM_RETURN)) continue;
    w->v[o->dst][l] = (u32)old;
    if (size == 8) w->v[o->dst + 1][l] = (u32)(old >> 32);
  }
}

#define SEGMENT(name, compute, resolve)                                                                  \
  static int h_##name##_load(Wave *w, const Op *o) {                                                     \
    u64 a[W], lanes = read_exec(w);                                                                      \
    Lanes at;                                                                                            \
    compute(w, o, a);                                                                                    \
    if (resolve(w, o, a, (u32)o->imm[0], lanes, READ, &at)) return FAULTED;                              \
    move_in(w, o->dst, (u32)o->imm[0], (u32)o->imm[1], lanes, &at);                                      \
    return 0;                                                                                            \
  }                                                                                                      \
  static int h_##name##_store(Wave *w, const Op *o) {                                                    \
    u64 a[W], lanes = read_exec(w);                                                                      \
    Lanes at;                                                                                            \
    compute(w, o, a);                                                                                    \
    if (resolve(w, o, a, (u32)o->imm[0], lanes, WRITE, &at)) return FAULTED;                             \
    move_out(w, &o->s[2], (u32)o->imm[0], (u32)o->imm[1], lanes, &at);                                   \
    return 0;                                                                                            \
  }                                                                                                      \
  static int h_##name##_atomic(Wave *w, const Op *o) {                                                   \
    u64 a[W], lanes = read_exec(w);                                                                      \
    Lanes at;                                                                                            \
    compute(w, o, a);                                                                                    \
    if (resolve(w, o, a, (u32)o->imm[0], lanes, ATOMIC, &at)) return FAULTED;                            \
    apply_atomics(w, o, lanes, &at);                                                                     \
    return 0;                                                                                            \
  }
SEGMENT(global, addresses, resolve_global)
SEGMENT(flat, addresses, resolve_flat)
SEGMENT(scratch, scratch_addresses, resolve_scratch)

// Loads that go to LDS: lane l writes at M0 + offset + l * size.
static int h_global_load_lds(Wave *w, const Op *o) {
  u64 a[W], b[W], lanes = read_exec(w);
  Lanes from, to;
  u32 size = (u32)o->imm[0], row = ROW_TEMPORARY + 4, step = size < 4 ? 4 : size;
  addresses(w, o, a);
  FOR_LANES(l, lanes) b[l] = (w->s[S_M0] & 0xffff) + (u32)o->imm[2] + l * step;
  if (resolve_global(w, o, a, size, lanes, READ, &from)) return FAULTED;
  if (resolve_lds(w, o, b, step, lanes, WRITE, &to)) return FAULTED;
  move_in(w, row, size, (u32)o->imm[1], lanes, &from);
  Operand data = {.kind = KIND_VECTOR, .index = row};
  move_out(w, &data, step, 0, lanes, &to);
  return 0;
}

// Scalar loads: source 0 is the base, source 1 an offset; imm[0] bytes. The address is rounded down to a dword.
static int h_s_load(Wave *w, const Op *o) {
  u32 size = (u32)o->imm[0];
  u64 a = scalar64(w, &o->s[0]) + (o->s[1].kind == KIND_NONE ? 0 : scalar(w, &o->s[1])) + (u64)(i64)o->imm[2];
  if (size >= 4) a &= ~3ull;
  u64 lanes[W] = {a};
  Lanes at;
  if (resolve_global(w, o, lanes, size, 1, READ, &at)) return FAULTED;
  // The scalar cache may hold what lay there before.
  if (w->launch->check && find(w, a)->read_only & FRESH) return fail(w, o, FAULT_FRESH, 0, a, size, 0);
  if (size >= 4) {
    for (u32 i = 0; i < size / 4; i++) {
      u32 x;
      memcpy(&x, at.at[0] + 4 * i, 4);
      write_scalar(w, o->dst + i, x);
    }
    return 0;
  }
  u32 x = 0;
  memcpy(&x, at.at[0], size);
  if (o->imm[1] & MEM_SIGNED) x = size == 1 ? (u32)(i32)(i8)x : (u32)(i32)(i16)x;
  write_scalar(w, o->dst, x);
  return 0;
}

#define PLAIN(n) {#n, "", h_##n}
#define THREE(n) PLAIN(n##_load), PLAIN(n##_store), PLAIN(n##_atomic)
const Entry memory_table[] = {THREE(global), THREE(flat), THREE(scratch), PLAIN(global_load_lds), PLAIN(s_load), {0, 0, 0}};
