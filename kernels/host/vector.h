/* 16-lane vectors: one vocabulary for every ISA level.
 *
 * Plain operators come from the compilers' vector extensions; what they cannot say (fused
 * multiply-add, float16, int8 dot products) comes from the header of the level. Fused operations are
 * always explicit, and the build switches contraction off, so that a row's arithmetic is the same in
 * every instantiation of a kernel.
 */
#ifndef ROCMFORGE_VECTOR_H
#define ROCMFORGE_VECTOR_H
#include "common.h"

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint8_t u8x64 __attribute__((vector_size(64)));
typedef uint16_t u16x32 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef int16_t i16x16 __attribute__((vector_size(32)));
typedef int16_t i16x8 __attribute__((vector_size(16)));
typedef int32_t i32x8 __attribute__((vector_size(32)));

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include "vector_x86_64_v4.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "vector_x86_64_v3.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "vector_aarch64.h"
#else
#include "vector_portable.h"
#endif

#ifdef __AMX_INT8__
#include "panels.h"
#else
#define PANEL_TOKENS 8
#define PANELS 1
INLINE void begin_panels(void) {}
INLINE void end_panels(void) {}
#endif

#ifndef HAS_BYTE_LOADS
INLINE i32x16 load_u8(const void *p)
{
    u8x16 bytes;
    __builtin_memcpy(&bytes, p, sizeof bytes);
    return __builtin_convertvector(bytes, i32x16);
}
INLINE i32x16 load_i8(const void *p)
{
    i8x16 bytes;
    __builtin_memcpy(&bytes, p, sizeof bytes);
    return __builtin_convertvector(bytes, i32x16);
}
#endif

/* x - 0 is x, so compilers make it one broadcast; 0 + x is not where x is -0, and would be an addition. */
INLINE f32x16 splat(float x) { return x - (f32x16){ 0 }; }
INLINE i32x16 splat_int(int32_t x) { return (i32x16){ 0 } + x; }
INLINE f32x16 load_f32(const void *p)
{
    f32x16 v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
/* Elements d .. d+15 of `count`, those from there on 0. */
INLINE f32x16 load_some(const float *x, int32_t d, int32_t count)
{
    if (d + 16 <= count) return load_f32(x + d);
    float some[16] = { 0 };
    for (int32_t i = d; i < count; i++) some[i - d] = x[i];
    return load_f32(some);
}
INLINE void store_f32(void *p, f32x16 v) { __builtin_memcpy(p, &v, sizeof v); }
INLINE u8x64 load_bytes(const void *p)
{
    u8x64 v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
INLINE f32x16 load_bf16(const void *p)
{
    u16x16 half;
    __builtin_memcpy(&half, p, sizeof half);
    return (f32x16)(__builtin_convertvector(half, u32x16) << 16);
}
/* Unsigned E4M3: shifted, a float16 whose exponent counts from another number. */
INLINE f32x16 load_e4m3(const void *p)
{
    const u16x16 half = __builtin_convertvector(load_u8(p), u16x16) << 7;
    return load_f16(&half) * 256.0f;
}
/* Keeps a value in a register from this line on, where compilers would load it again for each token or begin so many sums
 * at once that registers run out. */
#ifndef HOLD
#define HOLD(v) (void)(v)
#endif
/* Where registers run out: compilers put what is left over anywhere on a stack that holds no vector. */
#define ALIGN_STACK()                                                                                                  \
    do {                                                                                                               \
        u8x64 aligned;                                                                                                 \
        __asm__ volatile("" : "=m"(aligned));                                                                          \
    } while (0)
#ifndef HAS_LANE_SHIFTS
INLINE i32x16 shift_lanes(i32x16 v, int32_t count) { return (i32x16)((u32x16)v << (uint32_t)count); }
#endif
#ifndef HAS_DOT_OF_TWO
/* acc[r] += p * x[0] + q * x[1], of lanes that hold p, 0 or more, in their low half and q in the other. */
INLINE i32x16 dot_of_two(i32x16 acc, i32x16 pairs, const int16_t *x)
{
    return acc + (pairs & 0xffff) * x[0] + (pairs >> 16) * x[1];
}
#endif
INLINE f32x16 to_f32(i32x16 v) { return __builtin_convertvector(v, f32x16); }
INLINE f32x16 vector_abs(f32x16 v) { return (f32x16)((i32x16)v & 0x7fffffff); }
/* mask lanes are all ones or all zeros */
INLINE i32x16 select_int(i32x16 mask, i32x16 yes, i32x16 no) { return (mask & yes) | (~mask & no); }
INLINE f32x16 vector_select(i32x16 mask, f32x16 yes, f32x16 no)
{
    return (f32x16)select_int(mask, (i32x16)yes, (i32x16)no);
}
/* A float plus this, where it is below 2^22, is rounded to the nearest integer, ties to even, and that is in the last bits. */
#define ROUNDING 12582912.0f /* 1.5 * 2^23 */
/* Horizontal reductions by halves: a fixed order. */
INLINE float horizontal_sum(f32x16 v)
{
    float a[16];
    store_f32(a, v);
    for (int width = 8; width; width >>= 1)
        for (int i = 0; i < width; i++) a[i] += a[i + width];
    return a[0];
}
INLINE float horizontal_max(f32x16 v)
{
    float a[16];
    store_f32(a, v);
    for (int width = 8; width; width >>= 1)
        for (int i = 0; i < width; i++) a[i] = a[i] > a[i + width] ? a[i] : a[i + width];
    return a[0];
}
#ifndef HAS_INTEGER_MAXIMUM
INLINE int32_t horizontal_max_int(i32x16 v)
{
    int32_t a[16];
    __builtin_memcpy(a, &v, sizeof a);
    for (int width = 8; width; width >>= 1)
        for (int i = 0; i < width; i++) a[i] = a[i] > a[i + width] ? a[i] : a[i + width];
    return a[0];
}
#endif
INLINE float float_of_bits(int32_t bits)
{
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}
INLINE int32_t bits_of_float(float value)
{
    int32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
}
/* The largest |v|; NaN where one lane is: as integers magnitudes are in order, infinity and then NaN last. */
INLINE float horizontal_max_abs(f32x16 v) { return float_of_bits(horizontal_max_int((i32x16)vector_abs(v))); }
/* e^v. v is clamped to [-87, 88]: e^-87 = 1.6e-38 stands for all below. exp(0) is exactly 1.
 * Cody-Waite reduction to r in [-ln2/2, ln2/2], degree-6 polynomial (its Taylor error there is
 * below 2^-25 relative to 1). */
INLINE f32x16 vector_exp(f32x16 v)
{
    v = vector_max(v, splat(-87.0f));
    v = -vector_max(-v, splat(-88.0f));
    const f32x16 shifted = v * 1.44269504f + ROUNDING, nf = shifted - ROUNDING;
    f32x16 r = vector_fma(nf, splat(-0.693359375f), v);
    r = vector_fma(nf, splat(2.12194440e-4f), r);
    f32x16 p = splat(1.0f / 720);
    p = vector_fma(p, r, splat(1.0f / 120));
    p = vector_fma(p, r, splat(1.0f / 24));
    p = vector_fma(p, r, splat(1.0f / 6));
    p = vector_fma(p, r, splat(0.5f));
    p = vector_fma(p, r, splat(1.0f));
    p = vector_fma(p, r, splat(1.0f));
    return (f32x16)((i32x16)p + ((i32x16)shifted << 23));
}
/* tanh(v): by e^-2|v|, or where that would cancel by its series, whose next term is below 2^-26 of it. Keeps NaN. */
INLINE f32x16 vector_tanh(f32x16 v)
{
    const f32x16 size = vector_abs(v), e = vector_exp(-2.0f * size), square = v * v;
    const i32x16 large = (i32x16)((1.0f - e) / (1.0f + e)) | ((i32x16)v & (int32_t)0x80000000);
    f32x16 p = splat(62.0f / 2835);
    p = vector_fma(p, square, splat(-17.0f / 315));
    p = vector_fma(p, square, splat(2.0f / 15));
    p = vector_fma(p, square, splat(-1.0f / 3));
    return vector_select(size >= splat(0.25f), (f32x16)large, vector_fma(v * square, p, v));
}
/* log(1 + e^x) = max(x, 0) + log(1 + u), u = e^-|x|; log(1 + u) = 2 artanh(s), s = u / (2 + u), at most 1/3, by its
 * series, whose next term is below 2^-28 of it. Keeps NaN. */
INLINE f32x16 vector_softplus(f32x16 x)
{
    const f32x16 u = vector_exp(-vector_abs(x)), s = u / (2.0f + u), square = s * s;
    f32x16 p = splat(1.0f / 15);
    p = vector_fma(p, square, splat(1.0f / 13));
    p = vector_fma(p, square, splat(1.0f / 11));
    p = vector_fma(p, square, splat(1.0f / 9));
    p = vector_fma(p, square, splat(1.0f / 7));
    p = vector_fma(p, square, splat(1.0f / 5));
    p = vector_fma(p, square, splat(1.0f / 3));
    p = vector_fma(p, square, splat(1.0f));
    return vector_fma(2.0f * s, p, vector_select(x < splat(0), splat(0), x));
}
#endif
