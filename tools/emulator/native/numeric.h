// Arithmetic that C operators do not give. Results are correctly rounded where IEEE 754 defines them; exp2, log2, sin, cos
// are the C library's double functions rounded to the type (the hardware's are within 1 ulp, so its bits may differ), and
// rcp, rsq and sqrt of float are as far off as that.
#pragma once
#include "operands.h"

double exp2(double), log2(double), sin(double), cos(double), ldexp(double, int), floor(double), rint(double);

// Lane by lane. Into an array: storing to a vector by a variable index would spill the whole of it every time.
#define EACH(T, expression)                                \
  ({                                                       \
    T each_[W] __attribute__((aligned(64)));               \
    for (int l = 0; l < W; l++) each_[l] = (expression);   \
    V_##T vector_;                                         \
    memcpy(&vector_, each_, sizeof vector_);               \
    vector_;                                               \
  })
// Less zero, not more: -0 stays what it is.
#define ALL(T, value) ((value) - (V_##T){})

// minNum and maxNum: the other operand where one is NaN; -0 is below +0.
#define MINMAX(T, I)                                                                                              \
  static inline V_##T min_##T(V_##T a, V_##T b) {                                                                 \
    V_##T r = select_##T((V_##I)(a < b), a, b);                                                                   \
    r = select_##T((V_##I)(a == b), (V_##T)((V_##I)a | (V_##I)b), r);                                             \
    return select_##T((V_##I)(b != b), a, select_##T((V_##I)(a != a), b, r));                                     \
  }                                                                                                               \
  static inline V_##T max_##T(V_##T a, V_##T b) {                                                                 \
    V_##T r = select_##T((V_##I)(a > b), a, b);                                                                   \
    r = select_##T((V_##I)(a == b), (V_##T)((V_##I)a & (V_##I)b), r);                                             \
    return select_##T((V_##I)(b != b), a, select_##T((V_##I)(a != a), b, r));                                     \
  }                                                                                                               \
  static inline V_##T minimum_##T(V_##T a, V_##T b) {                                                             \
    return select_##T((V_##I)(a != a), a, select_##T((V_##I)(b != b), b, min_##T(a, b)));                         \
  }                                                                                                               \
  static inline V_##T maximum_##T(V_##T a, V_##T b) {                                                             \
    return select_##T((V_##I)(a != a), a, select_##T((V_##I)(b != b), b, max_##T(a, b)));                         \
  }                                                                                                               \
  static inline V_##T median_##T(V_##T a, V_##T b, V_##T c) {                                                     \
    V_##T any = max_##T(min_##T(a, b), min_##T(max_##T(a, b), c));                                                \
    return select_##T((V_##I)((a != a) | (b != b) | (c != c)), min_##T(min_##T(a, b), c), any);                   \
  }
MINMAX(f32, i32)
MINMAX(f64, i64)
MINMAX(f16, i16)
#define IMIN(a, b) __builtin_elementwise_min(a, b)
#define IMAX(a, b) __builtin_elementwise_max(a, b)
#define IMEDIAN(a, b, c) IMAX(IMIN(a, b), IMIN(IMAX(a, b), c))

#define FMA(a, b, c) __builtin_elementwise_fma(a, b, c)

static inline V_f32 half_to_float(V_f16 x) { return __builtin_convertvector(x, V_f32); }
static inline V_f16 float_to_half(V_f32 x) { return __builtin_convertvector(x, V_f16); }

// Round double to half once: through a float rounded to odd, which keeps what the second rounding needs.
static inline V_f16 double_to_half(V_f64 x) {
  V_u64 bits = (V_u64)x, mask = ALL(u64, (1ull << 29) - 1);
  V_i64 inexact = (V_i64)((bits & mask) != 0);
  V_u64 odd = (bits & ~mask) | ((V_u64)inexact & (1ull << 29));
  V_f32 f = __builtin_convertvector((V_f64)odd, V_f32);
  return float_to_half(f);
}

// The product and sum of three halves fit a double closely enough that rounding twice equals rounding once.
static inline V_f16 fma_half(V_f16 a, V_f16 b, V_f16 c) {
  V_f64 x = __builtin_convertvector(half_to_float(a), V_f64), y = __builtin_convertvector(half_to_float(b), V_f64);
  V_f64 z = __builtin_convertvector(half_to_float(c), V_f64);
  return double_to_half(x * y + z);
}

static inline V_f16 half_towards_zero(V_f32 x) {
  V_f16 h = float_to_half(x);
  V_f32 back = half_to_float(h);
  V_u32 away = (V_u32)(((V_u32)back & 0x7fffffff) > ((V_u32)x & 0x7fffffff)) & (V_u32)(x == x);
  return (V_f16)((V_u16)h - __builtin_convertvector(away & 1, V_u16));
}

static inline V_f32 flush(V_f32 x) {
  V_u32 tiny = (V_u32)(((V_u32)x & 0x7f800000) == 0);
  return (V_f32)((V_u32)x & ~(tiny & 0x7fffffff));
}

#define VIA_DOUBLE(name, expression)                                                       \
  static inline V_f32 name##_f32(V_f32 v) {                                                \
    V_f32 in = flush(v);                                                                   \
    return flush(EACH(f32, ({ double x = in[l]; (f32)(expression); })));                   \
  }                                                                                        \
  static inline V_f16 name##_f16(V_f16 v) {                                                \
    V_f32 in = half_to_float(v);                                                           \
    return double_to_half(EACH(f64, ({ double x = in[l]; (expression); })));               \
  }
VIA_DOUBLE(exp2, exp2(x))
VIA_DOUBLE(log2, log2(x))
VIA_DOUBLE(rcp, 1.0 / x)
VIA_DOUBLE(rsq, 1.0 / __builtin_sqrt(x))
VIA_DOUBLE(sqrt, __builtin_sqrt(x))
VIA_DOUBLE(sin, sin((x - floor(x)) * 6.283185307179586))
VIA_DOUBLE(cos, cos((x - floor(x)) * 6.283185307179586))

// One ulp below or above a result, or the result, as the operand's bits have it: code that takes what the hardware makes
// within 1 ulp for the rounded number is found out. What is next to infinity, to NaN and to what is flushed stays; so do
// results of powers of two, and of a mantissa of ones, whose reciprocal compilers' divisions need rounded (Markstein's one
// exception).
static inline V_f32 within_ulp(V_f32 result, V_f32 operand) {
  V_u32 bits = (V_u32)result, exponent = bits >> 23 & 255, turn = ((V_u32)operand * 0x9e3779b1u) >> 30;
  V_u32 step = (V_u32)(turn == 0) | ((V_u32)(turn == 1) & 1), stays = (V_u32)((((V_u32)operand + 1) & 0x7fffff) < 2);
  return (V_f32)(bits + (step & ~stays & (V_u32)((exponent > 1) & (exponent < 254))));
}
static inline V_f32 rcp_fast_f32(V_f32 x) { return within_ulp(flush(1.0f / flush(x)), x); }
static inline V_f32 sqrt_fast_f32(V_f32 x) { return within_ulp(flush(__builtin_elementwise_sqrt(flush(x))), x); }
static inline V_f32 rsq_fast_f32(V_f32 x) { return within_ulp(rsq_f32(x), x); }

// Conversions saturate, and a NaN gives 0.
static inline V_i32 float_to_int(V_f32 x) {
  V_f32 t = __builtin_elementwise_trunc(x);
  V_i32 in = (t > -2147483904.0f) & (t < 2147483648.0f);
  V_i32 r = __builtin_convertvector(select_f32(in, t, (V_f32){}), V_i32);
  return r | ((V_i32)(t >= 2147483648.0f) & 0x7fffffff) | ((V_i32)(t <= -2147483904.0f) & (i32)0x80000000);
}
static inline V_u32 float_to_uint(V_f32 x) {
  V_f32 t = __builtin_elementwise_trunc(x);
  V_i32 in = (t > 0.0f) & (t < 4294967296.0f);
  V_u32 r = __builtin_convertvector(select_f32(in, t, (V_f32){}), V_u32);
  return r | (V_u32)(t >= 4294967296.0f);
}
static inline i32 double_to_int(f64 x) { return x != x ? 0 : x >= 2147483647.0 ? 2147483647 : x <= -2147483648.0 ? -2147483647 - 1 : (i32)x; }
static inline u32 double_to_uint(f64 x) { return x != x || x <= 0 ? 0 : x >= 4294967295.0 ? 4294967295u : (u32)x; }
static inline i32 clamp_to(f64 x, f64 low, f64 high) { return x != x ? 0 : (i32)(x < low ? low : x > high ? high : x); }

static inline V_f32 bf16_low(V_u32 x) { return (V_f32)(x << 16); }
static inline V_f32 bf16_high(V_u32 x) { return (V_f32)(x & 0xffff0000u); }
static inline u32 float_to_bf16(f32 x) {
  u32 b;
  memcpy(&b, &x, 4);
  if (x != x) return b >> 16 | 0x40;
  return (b + 0x7fff + (b >> 16 & 1)) >> 16;
}

static inline V_pk join(V_u16 low, V_u16 high) {
  return __builtin_convertvector(low, V_u32) | __builtin_convertvector(high, V_u32) << 16;
}
#define LOW(T, x) ((V_##T)__builtin_convertvector((x), V_u16))
#define HIGH(T, x) ((V_##T)__builtin_convertvector((x) >> 16, V_u16))
#define PACKED(T, expression)                                                     \
  ({                                                                              \
    V_u16 half_[2];                                                               \
    for (int h_ = 0; h_ < 2; h_++) {                                              \
      V_##T x = h_ ? HIGH(T, a) : LOW(T, a), y = h_ ? HIGH(T, b) : LOW(T, b);     \
      V_##T z = h_ ? HIGH(T, c) : LOW(T, c);                                      \
      (void)z;                                                                    \
      half_[h_] = (V_u16)(expression);                                            \
    }                                                                             \
    join(half_[0], half_[1]);                                                     \
  })

static inline i32 exponent_f32(f32 x) { u32 b; memcpy(&b, &x, 4); return b >> 23 & 255; }
static inline i32 exponent_f64(f64 x) { u64 b; memcpy(&b, &x, 8); return b >> 52 & 2047; }

#define TINY_f32 0x1p-126
#define TINY_f64 0x1p-1022
// Scale a division's operands out of the ranges where the following steps would lose bits (ISA manual, V_DIV_SCALE), and
// put the special results in at its end (V_DIV_FIXUP). Where inverse and quotient are both denormal the manual scales the
// denominator up, past infinity; here it is scaled down. The manual's rule for overflow names an infinite denominator, which
// an earlier rule takes; here it is a quotient that is too large for sure, whose refinement has run into inf - inf.
#define DIVISION(T, BIG, STEP, SMALL, LOWEST, MAXEXP, NAN_)                                               \
  static inline T scale_##T(T s0, T s1, T s2, u32 *vcc) {                                                 \
    *vcc = 0;                                                                                             \
    if (s2 == 0 || s1 == 0) return NAN_;                                                                  \
    f64 ratio = (f64)s2 / (f64)s1, inverse = 1.0 / (f64)s1;                                               \
    int tiny_ratio = ratio != 0 && __builtin_fabs(ratio) < TINY_##T;                                      \
    int tiny_inverse = inverse != 0 && __builtin_fabs(inverse) < TINY_##T;                                \
    if (exponent_##T(s2) - exponent_##T(s1) >= BIG) {                                                     \
      *vcc = 1;                                                                                           \
      return s0 == s1 ? (T)ldexp(s0, STEP) : s0;                                                          \
    }                                                                                                     \
    if (exponent_##T(s1) == 0) return (T)ldexp(s0, STEP);                                                 \
    if (tiny_inverse && tiny_ratio) {                                                                     \
      *vcc = 1;                                                                                           \
      return s0 == s1 ? (T)ldexp(s0, -STEP) : s0;                                                         \
    }                                                                                                     \
    if (tiny_inverse) return (T)ldexp(s0, -STEP);                                                         \
    if (tiny_ratio) {                                                                                     \
      *vcc = 1;                                                                                           \
      return s0 == s2 ? (T)ldexp(s0, STEP) : s0;                                                          \
    }                                                                                                     \
    return exponent_##T(s2) <= SMALL ? (T)ldexp(s0, STEP) : s0;                                           \
  }                                                                                                       \
  static inline T fixup_##T(T s0, T s1, T s2) {                                                           \
    int negative = __builtin_signbit(s1) != __builtin_signbit(s2);                                        \
    T infinite = (T)__builtin_inf(), size;                                                                \
    if (s2 != s2) return s2;                                                                              \
    if (s1 != s1) return s1;                                                                              \
    int inf1 = s1 == infinite || s1 == -infinite, inf2 = s2 == infinite || s2 == -infinite;               \
    if ((s1 == 0 && s2 == 0) || (inf1 && inf2)) return -NAN_;                                             \
    if (s1 == 0 || inf2) size = infinite;                                                                 \
    else if (inf1 || s2 == 0) size = 0;                                                                   \
    else if (exponent_##T(s2) - exponent_##T(s1) < LOWEST) size = 0;                                      \
    else if (exponent_##T(s2) - exponent_##T(s1) > MAXEXP) size = infinite;                               \
    else size = s0 < 0 || __builtin_signbit(s0) ? -s0 : s0;                                               \
    return negative ? -size : size;                                                                       \
  }
DIVISION(f32, 96, 64, 23, -150, 128, __builtin_nanf(""))
DIVISION(f64, 768, 128, 53, -1075, 1024, __builtin_nan(""))

static inline int vcc_bit(const Wave *w, int l) { return (int)(w->s[S_VCC + l / 32] >> (l & 31) & 1); }

// The last step of a division, which undoes the scaling of V_DIV_SCALE: up where the quotient is large (the denominator was
// scaled), down where it is small (the numerator was). The ISA manuals print one factor, 2^32, which no division survives.
static inline f32 fmas_f32(f32 a, f32 b, f32 c, int scaled) {
  if (!scaled) return __builtin_fmaf(a, b, c);
  // In double, so that a denormal quotient is rounded once.
  return (f32)(((f64)a * b + c) * (exponent_f32(c) > 127 ? 0x1p64 : 0x1p-64));
}
static inline f64 fmas_f64(f64 a, f64 b, f64 c, int scaled) {
  f64 r = __builtin_fma(a, b, c);
  return scaled ? r * (exponent_f64(c) > 1023 ? 0x1p128 : 0x1p-128) : r;
}
