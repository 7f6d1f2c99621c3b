// Data-parallel primitives: a source is permuted (DPP) or cut (SDWA) into a temporary row before the operation runs.
#include "numeric.h"

// Lane that lane l reads, by DPP control (ISA manual, DPP_CTRL); -1: none.
static int dpp_source(u32 control, u32 l) {
  u32 row = l & ~15u, in = l & 15;
  if (control <= 0xff) return (int)((l & ~3u) | (control >> (2 * (l & 3)) & 3));
  u32 n = control & 15;
  switch (control >> 4) {
    case 0x10: return in + n < 16 ? (int)(l + n) : -1;                 // row_shl
    case 0x11: return in >= n ? (int)(l - n) : -1;                     // row_shr
    case 0x12: return (int)(row | ((in - n) & 15));                    // row_ror
    case 0x15: return (int)(row | n);                                  // row_share, row_newbcast
    case 0x16: return (int)(row | (in ^ n));                           // row_xmask
  }
  switch (control) {
    case 0x130: return l + 1 < W ? (int)l + 1 : -1;                    // wave_shl:1
    case 0x134: return (int)((l + 1) & (W - 1));                       // wave_rol:1
    case 0x138: return (int)l - 1;                                     // wave_shr:1
    case 0x13c: return (int)((l - 1) & (W - 1));                       // wave_ror:1
    case 0x140: return (int)(row | (15 - in));                         // row_mirror
    case 0x141: return (int)((l & ~7u) | (7 - (l & 7)));               // row_half_mirror
    case 0x142: return l >= 16 ? (int)(row - 1) : -1;                  // row_bcast:15
    case 0x143: return l >= 32 ? 31 : -1;                              // row_bcast:31
  }
  return -1;
}

// imm: control, row mask, bank mask, bound control, fetch inactive, 8-lane selectors (DPP8) if imm[0] < 0.
// Leaves the permuted source in row dst, and in EXEC the lanes that take part; dpp_end restores it.
static int h_dpp_begin(Wave *w, const Op *o) {
  u64 exec = read_exec(w), enabled = 0;
  Array data = array_of(raw32(w, &o->s[0])), r = {};
  for (u32 l = 0; l < W; l++) {
    int from = o->imm[0] < 0 ? (int)((l & ~7u) | ((u32)o->imm[5] >> (3 * (l & 7)) & 7)) : dpp_source((u32)o->imm[0], l);
    int valid = from >= 0 && (o->imm[4] || exec >> from & 1);
    if (valid) r.lane[l] = data.lane[from];
    int masked = !(o->imm[1] >> (l >> 4) & 1) || !(o->imm[2] >> (l >> 2 & 3) & 1);
    if (!masked && (valid || o->imm[3])) enabled |= 1ull << l;
  }
  ROW(w, o->dst) = vector_of(&r);
  w->saved_exec[0] = w->s[S_EXEC];
  w->saved_exec[1] = w->s[S_EXEC + 1];
  write_scalar64(w, S_EXEC, exec & enabled);
  return 0;
}
static int h_dpp_end(Wave *w, const Op *o) {
  write_scalar64(w, S_EXEC, (u64)w->saved_exec[1] << 32 | w->saved_exec[0]);
  return 0;
}

// Cut a byte or half: imm[0] selects (0-3 byte, 4-5 half, 6 all), imm[1]: sign-extend.
static int h_sdwa_source(Wave *w, const Op *o) {
  V_u32 x = raw32(w, &o->s[0]);
  u32 select = (u32)o->imm[0];
  if (select < 4) x = o->imm[1] ? (V_u32)((V_i32)(x << (24 - 8 * select)) >> 24) : x >> (8 * select) & 255;
  else if (select < 6) x = o->imm[1] ? (V_u32)((V_i32)(x << (select == 4 ? 16 : 0)) >> 16) : select == 4 ? x & 0xffff : x >> 16;
  ROW(w, o->dst) = x;
  return 0;
}
// Put the result (source 0) into part imm[0] of dst; imm[1]: 0 zero the rest, 1 sign-extend, 2 keep it.
static int h_sdwa_result(Wave *w, const Op *o) {
  V_u32 x = raw32(w, &o->s[0]), old = ROW(w, o->dst);
  u32 select = (u32)o->imm[0], bits = select < 4 ? 8 : 16, at = select < 4 ? 8 * select : 16 * (select - 4);
  if (select < 6) {
    u32 mask = (bits == 8 ? 255u : 0xffffu) << at;
    V_u32 placed = x << at & mask;
    if (o->imm[1] == 2) x = placed | (old & ~mask);
    else if (o->imm[1] == 1) x = (V_u32)((V_i32)(x << (32 - bits)) >> (32 - bits)) << at;
    else x = placed;
  }
  store32(w, o->dst, x);
  return 0;
}

// Permute within rows of 16 by selectors: scalars (source 1 low, source 2 high), or one for each lane. imm[0]: other row.
// imm[1]: fetch inactive lanes; imm[2]: bound control, 0 where the source lane is inactive.
static int permlane(Wave *w, const Op *o, V_u32 selector) {
  u64 exec = read_exec(w);
  Array data = array_of(raw32(w, &o->s[0])), r = array_of(ROW(w, o->dst)), select = array_of(selector & 15);
  for (u32 l = 0; l < W; l++) {
    u32 from = ((l & ~15u) ^ (o->imm[0] ? 16 : 0)) | select.lane[l];
    if (o->imm[1] || exec >> from & 1) r.lane[l] = data.lane[from];
    else if (o->imm[2]) r.lane[l] = 0;
  }
  store32(w, o->dst, vector_of(&r));
  return 0;
}
static int h_v_permlane16_b32(Wave *w, const Op *o) {
  u64 select = (u64)scalar(w, &o->s[2]) << 32 | scalar(w, &o->s[1]);
  return permlane(w, o, EACH(u32, (u32)(select >> (4 * (l & 15)))));
}
static int h_v_permlane16_var_b32(Wave *w, const Op *o) { return permlane(w, o, raw32(w, &o->s[1])); }

static int h_v_permlane64_b32(Wave *w, const Op *o) {
  V_u32 data = raw32(w, &o->s[0]);
  if (W == 64) store32(w, o->dst, EACH(u32, data[(l ^ 32) & (W - 1)]));
  return 0;
}
// Swap rows of 16 or halves of 32 lanes between two registers (gfx950): imm[0] lanes a row.
static int h_v_permlane_swap_b32(Wave *w, const Op *o) {
  u32 n = (u32)o->imm[0];
  Array d = array_of(ROW(w, o->dst)), s = array_of(raw32(w, &o->s[0])), d2 = d, s2 = s;
  for (u32 l = 0; l < W; l++) {
    if (l & n) d2.lane[l] = s.lane[l ^ n];
    else s2.lane[l] = d.lane[l ^ n];
  }
  store32(w, o->dst, vector_of(&d2));
  store32(w, o->s[0].index, vector_of(&s2));
  return 0;
}

#define PLAIN(n, types) {#n, types, h_##n}
const Entry cross_lane_table[] = {
    PLAIN(dpp_begin, ""), PLAIN(dpp_end, ""), PLAIN(sdwa_source, ""), PLAIN(sdwa_result, ""),
    PLAIN(v_permlane16_b32, "u32 u32 scalar scalar"), PLAIN(v_permlane16_var_b32, "u32 u32 u32"),
    PLAIN(v_permlane64_b32, "u32 u32"), PLAIN(v_permlane_swap_b32, "u32 u32"), {0, 0, 0}};
