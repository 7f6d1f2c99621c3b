// Reading source operands and writing results, for all active lanes at once.
#pragma once
#include "wave.h"

static inline V_u32 raw32(Wave *w, const Operand *o) {
  if (o->kind == KIND_VECTOR) return ROW(w, o->index);
  return (V_u32){} + scalar(w, o);
}

static inline V_u64 raw64(Wave *w, const Operand *o) {
  if (o->kind == KIND_VECTOR) {
    V_u64 low = __builtin_convertvector(ROW(w, o->index), V_u64);
    V_u64 high = __builtin_convertvector(ROW(w, o->index + 1), V_u64);
    return low | high << 32;
  }
  return (V_u64){} + scalar64(w, o);
}

static inline V_u16 raw16(Wave *w, const Operand *o) {
  return __builtin_convertvector(raw32(w, o) >> o->shift, V_u16);
}

static inline V_u32 LD_u32(Wave *w, const Operand *o) { return raw32(w, o); }
static inline V_i32 LD_i32(Wave *w, const Operand *o) { return (V_i32)raw32(w, o); }
static inline V_f32 LD_f32(Wave *w, const Operand *o) { return (V_f32)((raw32(w, o) & o->and_mask) ^ o->xor_mask); }
static inline V_u64 LD_u64(Wave *w, const Operand *o) { return raw64(w, o); }
static inline V_i64 LD_i64(Wave *w, const Operand *o) { return (V_i64)raw64(w, o); }
static inline V_f64 LD_f64(Wave *w, const Operand *o) {
  return (V_f64)((raw64(w, o) & ((u64)o->and_mask << 32 | 0xffffffffu)) ^ (u64)o->xor_mask << 32);
}
static inline V_u16 LD_u16(Wave *w, const Operand *o) { return raw16(w, o); }
static inline V_i16 LD_i16(Wave *w, const Operand *o) { return (V_i16)raw16(w, o); }
static inline V_f16 LD_f16(Wave *w, const Operand *o) {
  return (V_f16)((raw16(w, o) & (u16)o->and_mask) ^ (u16)o->xor_mask);
}
// Packed halves, each chosen by op_sel, with the signs of op_sel's neg applied (abs does not exist there).
static inline V_pk LD_pk(Wave *w, const Operand *o) {
  V_u32 x = raw32(w, o);
  return (((x >> o->shift) & 0xffff) | (x >> o->shift_high) << 16) ^ o->xor_mask;
}

static inline void store32(Wave *w, u32 row, V_u32 value) {
  if (w->full) ROW(w, row) = value;
  else ROW(w, row) = (value & w->lanes) | (ROW(w, row) & ~w->lanes);
}

static inline void store64(Wave *w, u32 row, V_u64 value) {
  store32(w, row, __builtin_convertvector(value, V_u32));
  store32(w, row + 1, __builtin_convertvector(value >> 32, V_u32));
}

static inline void store16(Wave *w, const Op *o, V_u16 value) {
  V_u32 wide = __builtin_convertvector(value, V_u32), old = ROW(w, o->dst);
  if (o->dst_shift) wide = wide << 16 | (old & 0xffff);
  else if (o->keep_high) wide = wide | (old & 0xffff0000u);
  store32(w, o->dst, wide);
}

static inline V_f32 select_f32(V_i32 m, V_f32 a, V_f32 b) { return (V_f32)((m & (V_i32)a) | (~m & (V_i32)b)); }
static inline V_f64 select_f64(V_i64 m, V_f64 a, V_f64 b) { return (V_f64)((m & (V_i64)a) | (~m & (V_i64)b)); }
static inline V_f16 select_f16(V_i16 m, V_f16 a, V_f16 b) { return (V_f16)((m & (V_i16)a) | (~m & (V_i16)b)); }

// Output modifiers: scale, then clamp to [0, 1] (a NaN becomes 0, as with DX10_CLAMP set).
#define OUTPUT_MODIFIERS(T, I)                                                        \
  static inline V_##T modify_##T(V_##T x, const Op *o) {                              \
    if (o->omod) x = x * (T)(o->omod == 1 ? 2.0f : o->omod == 2 ? 4.0f : 0.5f);       \
    if (o->clamp) {                                                                   \
      x = select_##T((V_##I)(x > (V_##T){}), x, (V_##T){});                           \
      x = select_##T((V_##I)(x < (V_##T){} + (T)1), x, (V_##T){} + (T)1);             \
    }                                                                                 \
    return x;                                                                         \
  }
OUTPUT_MODIFIERS(f32, i32)
OUTPUT_MODIFIERS(f64, i64)
OUTPUT_MODIFIERS(f16, i16)

static inline void ST_u32(Wave *w, const Op *o, V_u32 x) { store32(w, o->dst, x); }
static inline void ST_pk(Wave *w, const Op *o, V_u32 x) { store32(w, o->dst, x); }
static inline void ST_i32(Wave *w, const Op *o, V_i32 x) { store32(w, o->dst, (V_u32)x); }
static inline void ST_f32(Wave *w, const Op *o, V_f32 x) {
  if (__builtin_expect(o->omod | o->clamp, 0)) x = modify_f32(x, o);
  store32(w, o->dst, (V_u32)x);
}
static inline void ST_u64(Wave *w, const Op *o, V_u64 x) { store64(w, o->dst, x); }
static inline void ST_i64(Wave *w, const Op *o, V_i64 x) { store64(w, o->dst, (V_u64)x); }
static inline void ST_f64(Wave *w, const Op *o, V_f64 x) { store64(w, o->dst, (V_u64)(o->omod | o->clamp ? modify_f64(x, o) : x)); }
static inline void ST_u16(Wave *w, const Op *o, V_u16 x) { store16(w, o, x); }
static inline void ST_i16(Wave *w, const Op *o, V_i16 x) { store16(w, o, (V_u16)x); }
static inline void ST_f16(Wave *w, const Op *o, V_f16 x) { store16(w, o, (V_u16)(o->omod | o->clamp ? modify_f16(x, o) : x)); }

#define BITS(mask)                                              \
  ({                                                            \
    V_bool bits_ = __builtin_convertvector((mask), V_bool);     \
    Mask value_;                                                \
    memcpy(&value_, &bits_, sizeof value_);                     \
    (u64) value_;                                               \
  })
