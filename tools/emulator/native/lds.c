// Local data share: access with its checks (bounds, alignment, initialisation, races), bank conflicts, and the cross-lane
// instructions of the same encoding.
#include "memory.h"

// Note one dword access in the shadow; true where it races. A race: two waves touch one byte between two barriers and one
// of them writes; or two lanes write different values to one word in one instruction (found by the caller).
static inline int races(Shadow *s, u32 epoch, u8 me, u32 bytes, int kind, u32 *other) {
  if (s->write_epoch != epoch) memset(s->writer, 0, 4), s->write_epoch = epoch;
  if (s->read_epoch != epoch) memset(s->reader, 0, 4), s->read_epoch = epoch;
  if (bytes == 15 && kind != ATOMIC) {
    // A whole word that only this wave has touched.
    u32 writers, readers, mine = me * 0x01010101u;
    memcpy(&writers, s->writer, 4);
    memcpy(&readers, s->reader, 4);
    if ((!writers || writers == mine) && (!readers || readers == mine)) {
      memcpy(kind == READ ? s->reader : s->writer, &mine, 4);
      return 0;
    }
  }
  for (int b = 0; b < 4; b++) {
    if (!(bytes >> b & 1)) continue;
    u8 writer = s->writer[b], reader = s->reader[b], by = writer & ~BY_ATOMIC;
    int atomics = kind == ATOMIC && writer & BY_ATOMIC;  // so has SEVERAL
    if (writer && by != me && !atomics) {
      *other = writer == SEVERAL ? SEVERAL : by - 1u;
      return 1;
    }
    if (kind != READ && reader && reader != me) {
      *other = reader == SEVERAL ? SEVERAL : reader - 1u;
      return 1;
    }
    if (kind == READ) s->reader[b] = reader && reader != me ? SEVERAL : me;
    else if (kind == WRITE) s->writer[b] = me;
    else if (writer != me) s->writer[b] = !writer || by == me ? me | BY_ATOMIC : SEVERAL;
  }
  return 0;
}

// Extra cycles beyond one for each group of lanes served together: 128 bytes a cycle, 32 banks of 4 bytes.
static u32 conflict_cycles(const u64 *address, u32 size, u64 lanes) {
  u32 width = size < 4 ? 4 : size == 12 ? 16 : size, group = 128 / width, extra = 0;
  if (contiguous(address, size, lanes)) return 0;
  for (u32 first = 0; first < W; first += group) {
    u32 seen[32][32], count[32] = {}, worst = 1;  // a group has 32 words at most
    FOR_LANES(i, lanes >> first & ((1ull << group) - 1)) {
      for (u32 b = 0; b < width; b += 4) {
        u32 word = (u32)(address[first + i] + b) / 4, bank = word & 31, k = 0;
        while (k < count[bank] && seen[bank][k] != word) k++;
        if (k < count[bank]) continue;
        seen[bank][count[bank]++] = word;
        if (count[bank] > worst) worst = count[bank];
      }
    }
    extra += worst - 1;
  }
  return extra;
}

// Initialisation and races of one lane's access.
static inline int check_lane(Wave *w, const Op *o, u64 at, u32 l, u32 size, int kind) {
  Shadow *restrict shadow = w->group->shadow + at / 4;
  u8 *restrict valid = w->group->lds_valid + at / 4;
  u32 epoch = w->group->epoch, other = 0, first = at & 3, words = (first + size + 3) / 4;
  u8 me = (u8)(w->index + 1);
  for (u32 i = 0; i < words; i++) {
    u32 mask = size >= 4 ? 15 : ((1u << size) - 1) << first;
    if (kind != WRITE && (valid[i] & mask) != mask) return fail(w, o, FAULT_UNINITIALISED, l, at + 4 * i, size, 0);
    if (kind != READ) valid[i] |= (u8)mask;
    if (__builtin_expect(races(&shadow[i], epoch, me, mask, kind, &other), 0)) {
      fail(w, o, FAULT_RACE, l, at + 4 * i, size, kind != READ);
      w->fault->other_wave = other;
      return FAULTED;
    }
  }
  return 0;
}

int resolve_lds(Wave *w, const Op *o, const u64 *address, u32 size, u64 lanes, int kind, Lanes *out) {
  u32 bytes = w->launch->lds_bytes;
  u64 misaligned = size >= 4 ? 3 : size - 1;
  FOR_LANES(l, lanes) {
    u64 at = address[l];
    if (at + size > bytes) return fail(w, o, FAULT_LDS_BOUNDS, (u32)l, at, size, kind != READ);
    if (at & misaligned) return fail(w, o, FAULT_ALIGNMENT, (u32)l, at, size, kind != READ);
    out->at[l] = w->group->lds + at;
    if (w->launch->check && check_lane(w, o, at, (u32)l, size, kind)) return FAULTED;
  }
  if (w->launch->count) {
    w->totals->lds_instructions++;
    w->totals->lds_bytes += (u64)__builtin_popcountll(lanes) * size;
    w->totals->lds_conflict_cycles += conflict_cycles(address, size, lanes);
  }
  return 0;
}

static void offsets(Wave *w, const Op *o, i32 offset, u64 *out) {
  V_u64 a = __builtin_convertvector(raw32(w, &o->s[0]) + (u32)offset, V_u64);
  memcpy(out, &a, sizeof a);
}

static int h_ds_load(Wave *w, const Op *o) {
  u64 a[W], lanes = read_exec(w);
  Lanes at;
  offsets(w, o, o->imm[2], a);
  if (resolve_lds(w, o, a, (u32)o->imm[0], lanes, READ, &at)) return FAULTED;
  move_in(w, o->dst, (u32)o->imm[0], (u32)o->imm[1], lanes, &at);
  return 0;
}

// Two lanes of one instruction that write one byte must agree: which of them wins is not defined.
static int store_checked(Wave *w, const Op *o, const Operand *data, const u64 *a, u64 lanes, const Lanes *at) {
  u32 size = (u32)o->imm[0];
  move_out(w, data, size, (u32)o->imm[1], lanes, at);
  if (!w->launch->check) return 0;
  FOR_LANES(l, lanes) {
    u32 x[4];
    for (u32 i = 0; i < (size + 3) / 4; i++) x[i] = w->v[data->index + i][l] >> (o->imm[1] & MEM_HIGH ? 16 : 0);
    if (memcmp(x, at->at[l], size)) {
      fail(w, o, FAULT_RACE, (u32)l, a[l], size, 1);
      w->fault->other_wave = w->index;
      return FAULTED;
    }
  }
  return 0;
}

static int h_ds_store(Wave *w, const Op *o) {
  u64 a[W], lanes = read_exec(w);
  Lanes at;
  offsets(w, o, o->imm[2], a);
  if (resolve_lds(w, o, a, (u32)o->imm[0], lanes, WRITE, &at)) return FAULTED;
  return store_checked(w, o, &o->s[1], a, lanes, &at);
}

// Two addresses: imm[2] and imm[4] are the byte offsets.
static int h_ds_load2(Wave *w, const Op *o) {
  u64 a[W], b[W], lanes = read_exec(w);
  u32 size = (u32)o->imm[0];
  Lanes first, second;
  offsets(w, o, o->imm[2], a);
  offsets(w, o, o->imm[4], b);
  if (resolve_lds(w, o, a, size, lanes, READ, &first) || resolve_lds(w, o, b, size, lanes, READ, &second)) return FAULTED;
  move_in(w, o->dst, size, 0, lanes, &first);
  move_in(w, o->dst + size / 4, size, 0, lanes, &second);
  return 0;
}

static int h_ds_store2(Wave *w, const Op *o) {
  u64 a[W], b[W], lanes = read_exec(w);
  u32 size = (u32)o->imm[0];
  Lanes first, second;
  offsets(w, o, o->imm[2], a);
  offsets(w, o, o->imm[4], b);
  if (resolve_lds(w, o, a, size, lanes, WRITE, &first) || resolve_lds(w, o, b, size, lanes, WRITE, &second)) return FAULTED;
  return store_checked(w, o, &o->s[1], a, lanes, &first) || store_checked(w, o, &o->s[2], b, lanes, &second) ? FAULTED : 0;
}

// Sources: address, data, second data (the value compared with, or mskor's new bits).
static int h_ds_atomic(Wave *w, const Op *o) {
  u64 a[W], lanes = read_exec(w);
  u32 size = (u32)o->imm[0];
  Lanes at;
  offsets(w, o, o->imm[2], a);
  if (resolve_lds(w, o, a, size, lanes, ATOMIC, &at)) return FAULTED;
  FOR_LANES(l, lanes) {
    u64 old = 0, x = 0, y = 0;
    for (u32 i = 0; i < size / 4; i++) {
      x |= (u64)w->v[o->s[1].index + i][l] << (32 * i);
      if (o->s[2].kind == KIND_VECTOR) y |= (u64)w->v[o->s[2].index + i][l] << (32 * i);
    }
    memcpy(&old, at.at[l], size);
    u64 new = atomic_result(o->imm[3], size, old, x, y);
    memcpy(at.at[l], &new, size);
    if (!(o->imm[1] & MEM_RETURN)) continue;
    for (u32 i = 0; i < size / 4; i++) w->v[o->dst + i][l] = (u32)(old >> (32 * i));
  }
  return 0;
}

// Backward permute: lane l takes the data of lane address / 4 (0 from an inactive one, unless imm[3] says fetch it anyway).
static int h_ds_bpermute_b32(Wave *w, const Op *o) {
  Array a = array_of((raw32(w, &o->s[0]) + (u32)o->imm[2]) / 4 & (W - 1)), r;
  // An inactive lane gives 0.
  Array data = array_of(o->imm[3] || w->full ? raw32(w, &o->s[1]) : raw32(w, &o->s[1]) & w->lanes);
  for (u32 l = 0; l < W; l++) r.lane[l] = data.lane[a.lane[l]];
  store32(w, o->dst, vector_of(&r));
  return 0;
}
static int h_ds_permute_b32(Wave *w, const Op *o) {
  u64 lanes = read_exec(w);
  Array a = array_of((raw32(w, &o->s[0]) + (u32)o->imm[2]) / 4 & (W - 1)), data = array_of(raw32(w, &o->s[1])), r = {};
  FOR_LANES(l, lanes) r.lane[a.lane[l]] = data.lane[l];
  store32(w, o->dst, vector_of(&r));
  return 0;
}

static int h_ds_swizzle_b32(Wave *w, const Op *o) {
  u32 mode = (u32)o->imm[2];
  Array data = array_of(raw32(w, &o->s[0]) & w->lanes), r;
  for (u32 l = 0; l < W; l++) {
    u32 from, in = l & 31;
    if (mode >= 0xe000) {
      u32 mask = mode & 31;
      from = __builtin_bitreverse32(in) >> 27 >> __builtin_popcount(mask);
      from |= in & mask;
    } else if (mode >= 0xc000) {
      u32 rotate = mode >> 5 & 31, mask = mode & 31;
      from = (in & mask) | ((in + (mode & 1 << 10 ? 32 - rotate : rotate)) & ~mask & 31);
    } else if (mode & 0x8000) from = (in & ~3u) | (mode >> (2 * (in & 3)) & 3);
    else from = ((in & (mode & 31)) | (mode >> 5 & 31)) ^ (mode >> 10 & 31);
    from = (from & 31) | (l & 32);
    r.lane[l] = data.lane[from];
  }
  store32(w, o->dst, vector_of(&r));
  return 0;
}

#define PLAIN(n) {#n, "", h_##n}
const Entry lds_table[] = {PLAIN(ds_load), PLAIN(ds_store), PLAIN(ds_load2), PLAIN(ds_store2), PLAIN(ds_atomic),
                           PLAIN(ds_bpermute_b32), PLAIN(ds_permute_b32), PLAIN(ds_swizzle_b32), {0, 0, 0}};
