// Vector instructions that read or write lane masks, several registers, or other lanes' values.
#include "numeric.h"

static inline V_u32 carry_in(Wave *w, const Operand *o) { return spread(scalar_mask(w, o)); }
static inline u64 active(Wave *w, u64 bits) { return bits & read_exec(w); }

// Compares. dst is the scalar that takes the mask; imm[0] set: EXEC takes it as well or alone (v_cmpx).
static inline int put_mask(Wave *w, const Op *o, u64 bits) {
  bits = active(w, bits);
  write_mask(w, o->imm[0] ? S_EXEC : o->dst, bits);
  if (o->imm[0] && o->imm[1]) write_mask(w, o->dst, bits);
  return 0;
}
#define COMPARE(rel, T, e) static int h_v_cmp_##rel##_##T(Wave *w, const Op *o) { V_##T a = LD_##T(w, &o->s[0]), b = LD_##T(w, &o->s[1]); return put_mask(w, o, BITS(e)); }
#define ENTRY(rel, T, e) {"v_cmp_" #rel "_" #T, "mask " #T " " #T, h_v_cmp_##rel##_##T},
#define INTEGER(M, T) M(lt, T, a < b) M(eq, T, a == b) M(le, T, a <= b) M(gt, T, a > b) M(ne, T, a != b) M(ge, T, a >= b) \
  M(f, T, (a != a)) M(t, T, (a == a))
#define FLOATING(M, T) M(lt, T, a < b) M(eq, T, a == b) M(le, T, a <= b) M(gt, T, a > b) M(lg, T, (a < b) | (a > b)) M(ge, T, a >= b) \
  M(o, T, (a == a) & (b == b)) M(u, T, (a != a) | (b != b)) M(nge, T, ~(a >= b)) M(nlg, T, ~((a < b) | (a > b)))                  \
  M(ngt, T, ~(a > b)) M(nle, T, ~(a <= b)) M(neq, T, a != b) M(nlt, T, ~(a < b)) M(f, T, (a < b) & (a > b)) M(t, T, ~((a < b) & (a > b)))
#define COMPARES(M) INTEGER(M, i16) INTEGER(M, u16) INTEGER(M, i32) INTEGER(M, u32) INTEGER(M, i64) INTEGER(M, u64) \
  FLOATING(M, f16) FLOATING(M, f32) FLOATING(M, f64)
COMPARES(COMPARE)

// Class bits: signalling NaN, quiet NaN, -inf, -normal, -denormal, -0, +0, +denormal, +normal, +inf.
static inline int class_of(u64 bits, int exponent_bits, int mantissa_bits, u32 wanted) {
  u64 mantissa = bits & ((1ull << mantissa_bits) - 1), top = (1ull << exponent_bits) - 1;
  u64 exponent = bits >> mantissa_bits & top;
  int negative = bits >> (mantissa_bits + exponent_bits) & 1, k;
  if (exponent == top) k = mantissa ? (int)(mantissa >> (mantissa_bits - 1)) : negative ? 2 : 9;
  else if (exponent) k = negative ? 3 : 8;
  else if (mantissa) k = negative ? 4 : 7;
  else k = negative ? 5 : 6;
  return wanted >> k & 1;
}
#define CLASS(T, U, E, M)                                                                        \
  static int h_v_cmp_class_##T(Wave *w, const Op *o) {                                           \
    V_##U a = (V_##U)LD_##T(w, &o->s[0]);                                                        \
    V_u32 b = LD_u32(w, &o->s[1]);                                                               \
    u64 bits = 0;                                                                                \
    for (int l = 0; l < W; l++) bits |= (u64)class_of(a[l], E, M, b[l]) << l;                    \
    return put_mask(w, o, bits);                                                                 \
  }
CLASS(f16, u16, 5, 10)
CLASS(f32, u32, 8, 23)
CLASS(f64, u64, 11, 52)

static int h_v_cndmask_b32(Wave *w, const Op *o) {
  V_u32 m = carry_in(w, &o->s[2]), a = (V_u32)LD_f32(w, &o->s[0]), b = (V_u32)LD_f32(w, &o->s[1]);
  store32(w, o->dst, (b & m) | (a & ~m));
  return 0;
}
static int h_v_cndmask_b16(Wave *w, const Op *o) {
  V_u16 m = __builtin_convertvector(carry_in(w, &o->s[2]), V_u16), a = (V_u16)LD_f16(w, &o->s[0]), b = (V_u16)LD_f16(w, &o->s[1]);
  store16(w, o, (b & m) | (a & ~m));
  return 0;
}

// Carry out goes to the scalar dst2, 0 for inactive lanes.
#define CARRY(name, sum, out)                                                                     \
  static int h_##name(Wave *w, const Op *o) {                                                     \
    V_u32 a = raw32(w, &o->s[0]), b = raw32(w, &o->s[1]);                                         \
    V_u32 c = o->s[2].kind ? carry_in(w, &o->s[2]) & 1 : (V_u32){};                               \
    V_u32 r = (sum);                                                                              \
    u64 bits = BITS(out);                                                                         \
    store32(w, o->dst, r);                                                                        \
    write_mask(w, o->dst2, active(w, bits));                                                      \
    return 0;                                                                                     \
  }
CARRY(v_add_co_ci_u32, a + b + c, (r < a) | ((r == a) & (c != 0)))
CARRY(v_sub_co_ci_u32, a - b - c, (a < b) | ((a == b) & (c != 0)))
CARRY(v_subrev_co_ci_u32, b - a - c, (b < a) | ((a == b) & (c != 0)))

static int h_v_mad_u64_u32(Wave *w, const Op *o) {
  V_u64 product = __builtin_convertvector(raw32(w, &o->s[0]), V_u64) * __builtin_convertvector(raw32(w, &o->s[1]), V_u64);
  V_u64 r = product + raw64(w, &o->s[2]);
  u64 bits = BITS(r < product);
  store64(w, o->dst, r);
  write_mask(w, o->dst2, active(w, bits));
  return 0;
}
static int h_v_mad_i64_i32(Wave *w, const Op *o) {
  V_i64 a = __builtin_convertvector(LD_i32(w, &o->s[0]), V_i64), b = __builtin_convertvector(LD_i32(w, &o->s[1]), V_i64);
  V_i64 product = a * b, c = LD_i64(w, &o->s[2]), r = (V_i64)((V_u64)product + (V_u64)c);
  u64 bits = BITS(((product ^ r) & (c ^ r)) < 0);
  store64(w, o->dst, (V_u64)r);
  write_mask(w, o->dst2, active(w, bits));
  return 0;
}
#define SCALE(T)                                                                                      \
  static int h_v_div_scale_##T(Wave *w, const Op *o) {                                                \
    V_##T a = LD_##T(w, &o->s[0]), b = LD_##T(w, &o->s[1]), c = LD_##T(w, &o->s[2]), r;               \
    u64 bits = 0;                                                                                     \
    for (int l = 0; l < W; l++) {                                                                     \
      u32 vcc;                                                                                        \
      r[l] = scale_##T(a[l], b[l], c[l], &vcc);                                                       \
      bits |= (u64)vcc << l;                                                                          \
    }                                                                                                 \
    ST_##T(w, o, r);                                                                                  \
    write_mask(w, o->dst2, active(w, bits));                                                          \
    return 0;                                                                                         \
  }
SCALE(f32)
SCALE(f64)

// Mixed precision: imm[0] bit i: source i is a half (chosen by shift), else a float; abs before neg, as everywhere.
static inline V_f32 mixed(Wave *w, const Op *o, int i) {
  const Operand *s = &o->s[i];
  V_f32 x = o->imm[0] >> i & 1 ? half_to_float((V_f16)raw16(w, s)) : (V_f32)raw32(w, s);
  return (V_f32)(((V_u32)x & s->and_mask) ^ s->xor_mask);
}
static int h_v_fma_mix_f32(Wave *w, const Op *o) {
  ST_f32(w, o, FMA(mixed(w, o, 0), mixed(w, o, 1), mixed(w, o, 2)));
  return 0;
}
static int h_v_fma_mix_f16(Wave *w, const Op *o) {
  ST_f16(w, o, float_to_half(FMA(mixed(w, o, 0), mixed(w, o, 1), mixed(w, o, 2))));
  return 0;
}

// Packed single precision: each source is a register pair; shift and shift_high say which of the two (0 or 1) each half
// takes; imm[0] has the low halves' negations in bits 0-2 and the high halves' in 3-5. A constant serves both halves.
static inline V_f32 pair(Wave *w, const Op *o, int i, int high) {
  const Operand *s = &o->s[i];
  Operand one = *s;
  one.index += high ? s->shift_high : s->shift;
  V_u32 x = raw32(w, &one);
  return (V_f32)(o->imm[0] >> (i + 3 * high) & 1 ? x ^ 0x80000000u : x);
}
#define PAIR(name, e)                                                        \
  static int h_##name(Wave *w, const Op *o) {                                \
    V_f32 r[2];                                                              \
    for (int h = 0; h < 2; h++) r[h] = modify_f32(e, o);                     \
    store32(w, o->dst, (V_u32)r[0]);                                         \
    store32(w, o->dst + 1, (V_u32)r[1]);                                     \
    return 0;                                                                \
  }
PAIR(v_pk_fma_f32, FMA(pair(w, o, 0, h), pair(w, o, 1, h), pair(w, o, 2, h)))
PAIR(v_pk_mul_f32, pair(w, o, 0, h) * pair(w, o, 1, h))
PAIR(v_pk_add_f32, pair(w, o, 0, h) + pair(w, o, 1, h))
PAIR(v_pk_mov_b32, h ? pair(w, o, 1, h) : pair(w, o, 0, h))

static int h_v_bitop3_b32(Wave *w, const Op *o) {
  V_u32 a = raw32(w, &o->s[0]), b = raw32(w, &o->s[1]), c = raw32(w, &o->s[2]), r = {};
  for (int i = 0; i < 8; i++)
    if (o->imm[0] >> i & 1) r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  store32(w, o->dst, r);
  return 0;
}

static int h_v_swap_b32(Wave *w, const Op *o) {
  V_u32 a = ROW(w, o->dst), b = raw32(w, &o->s[0]);
  store32(w, o->dst, b);
  store32(w, o->s[0].index, a);
  return 0;
}

static int h_v_readfirstlane_b32(Wave *w, const Op *o) {
  u64 exec = read_exec(w);
  write_scalar(w, o->dst, raw32(w, &o->s[0])[exec ? __builtin_ctzll(exec) : 0]);
  return 0;
}
static int h_v_readlane_b32(Wave *w, const Op *o) {
  write_scalar(w, o->dst, raw32(w, &o->s[0])[scalar(w, &o->s[1]) & (W - 1)]);
  return 0;
}
static int h_v_writelane_b32(Wave *w, const Op *o) {
  w->v[o->dst][scalar(w, &o->s[1]) & (W - 1)] = scalar(w, &o->s[0]);
  return 0;
}
static int h_v_nop(Wave *w, const Op *o) { return 0; }

#define PLAIN(name, types) {#name, types, h_##name}
const Entry masks_table[] = {
    COMPARES(ENTRY)
    {"v_cmp_class_f16", "mask f16 u32", h_v_cmp_class_f16}, {"v_cmp_class_f32", "mask f32 u32", h_v_cmp_class_f32},
    {"v_cmp_class_f64", "mask f64 u32", h_v_cmp_class_f64},
    PLAIN(v_cndmask_b32, "f32 f32 f32 mask"), PLAIN(v_cndmask_b16, "f16 f16 f16 mask"),
    PLAIN(v_add_co_ci_u32, "u32 u32 u32 mask"), PLAIN(v_sub_co_ci_u32, "u32 u32 u32 mask"),
    PLAIN(v_subrev_co_ci_u32, "u32 u32 u32 mask"),
    {"v_add_co_u32", "u32 u32 u32", h_v_add_co_ci_u32}, {"v_sub_co_u32", "u32 u32 u32", h_v_sub_co_ci_u32},
    {"v_subrev_co_u32", "u32 u32 u32", h_v_subrev_co_ci_u32},
    PLAIN(v_mad_u64_u32, "u64 u32 u32 u64"), PLAIN(v_mad_i64_i32, "i64 i32 i32 i64"),
    PLAIN(v_div_scale_f32, "f32 f32 f32 f32"), PLAIN(v_div_scale_f64, "f64 f64 f64 f64"),
    PLAIN(v_fma_mix_f32, "f32 mix mix mix"), PLAIN(v_fma_mix_f16, "f16 mix mix mix"),
    PLAIN(v_pk_fma_f32, "pair pair pair pair"), PLAIN(v_pk_mul_f32, "pair pair pair"),
    PLAIN(v_pk_add_f32, "pair pair pair"), PLAIN(v_pk_mov_b32, "pair pair pair"),
    PLAIN(v_bitop3_b32, "u32 u32 u32 u32"), PLAIN(v_swap_b32, "u32 u32"),
    PLAIN(v_readfirstlane_b32, "scalar u32"), PLAIN(v_readlane_b32, "scalar u32 scalar"),
    PLAIN(v_writelane_b32, "u32 scalar scalar"), PLAIN(v_nop, ""),
    {0, 0, 0}};
