/* What every GPU kernel sees: the step, its arguments, int8 blocks of activations, elementary arithmetic.
 *
 * All kernels have one signature: the step, then eight pointers. A grid may be larger than the step needs: workgroups
 * beyond num_tokens or num_logits leave at once. The arithmetic is written out (fused multiply-adds included,
 * contraction is off), so a row's bits do not depend on which instantiation of a kernel makes it.
 */
#ifndef ROCMFORGE_PRELUDE_H
#define ROCMFORGE_PRELUDE_H
#include "device.h"

#include "abi.h" /* the step; made of artifacts/abi.py */

typedef float f32x2 __attribute__((vector_size(8), may_alias));
typedef float f32x4 __attribute__((vector_size(16), may_alias));
typedef float f32x8 __attribute__((vector_size(32), may_alias));
typedef int32_t i32x1 __attribute__((may_alias));
typedef int32_t i32x2 __attribute__((vector_size(8), may_alias));
typedef int32_t i32x4 __attribute__((vector_size(16), may_alias));
typedef int32_t i32x8 __attribute__((vector_size(32), may_alias));
typedef int32_t i32x16 __attribute__((vector_size(64), may_alias));
typedef _Float16 f16x8 __attribute__((vector_size(16), may_alias));

#define KERNEL_ARGUMENTS                                                                                               \
    const void *__restrict__ step_argument, void *__restrict__ a0, void *__restrict__ a1, void *__restrict__ a2,       \
        void *__restrict__ a3, void *__restrict__ a4, void *__restrict__ a5, void *__restrict__ a6,                    \
        void *__restrict__ a7
typedef const CONSTANT_MEMORY struct step *step_pointer;
#define STEP ((step_pointer)step_argument)
/* Rows of what a kernel makes: of all tokens, or of those of which logits are asked. */
#define COUNT(step) (AT_LOGITS_ROWS ? (step)->num_logits : (step)->num_tokens)

/* 32 activations as int8: value = scales[half] * quant. Half 0 is quants 0..15, half 1 quants 16..31. */
struct q8_block {
    int8_t quants[32];
    float scales[2];
    int16_t sums[2];  /* of the quants of each half: at most 16 * 127 */
    float scaled_sum; /* scales[0] * sums[0] + scales[1] * sums[1] */
};
static_assert(sizeof(struct q8_block) == 48, "as compiler/lower_hip.py has it");

INLINE int32_t int_min(int32_t a, int32_t b) { return a < b ? a : b; }
INLINE float float_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
INLINE float float_max(float a, float b) { return a > b ? a : b; }
INLINE float float_abs(float x) { return __builtin_fabsf(x); }
INLINE float from_bits(int32_t bits) { return __builtin_bit_cast(float, bits); }
INLINE int32_t to_bits(float x) { return __builtin_bit_cast(int32_t, x); }
/* The square root as IEEE 754 rounds it, which not all compilers make of their builtin: clang 15 takes the bare
 * instruction, which may be off by one in the last place, and has 0 for what is subnormal. Of its result and the two
 * neighbours, the one that the exact rests choose. */
INLINE float float_sqrt(float x)
{
    const bool small = x < 0x1p-96f;
    const float scaled = small ? x * 0x1p32f : x;
    const float near = __builtin_amdgcn_sqrtf(scaled);
    const float down = from_bits(to_bits(near) - 1), up = from_bits(to_bits(near) + 1);
    float root = float_fma(-down, near, scaled) <= 0 ? down : near;
    root = float_fma(-up, near, scaled) > 0 ? up : root;
    root = small ? root * 0x1p-16f : root;
    return scaled == 0 || scaled == __builtin_inff() ? scaled : root;
}
INLINE float from_f16(int32_t bits) { return (float)__builtin_bit_cast(_Float16, (uint16_t)bits); }
INLINE f16x8 as_halves(i32x4 x) { return __builtin_bit_cast(f16x8, x); }

/* Nearest integer, ties to even, for |v| < 2^22: the float adder rounds. */
INLINE float float_round(float v)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23 */
    return (v + magic) - magic;
}
/* e^v as on the host (vector_exp in kernels/host/vector.h, the same bits): v is clamped to [-87, 88]. */
INLINE float float_exp(float v)
{
    v = v > -87.0f ? v : -87.0f;
    v = v < 88.0f ? v : 88.0f;
    const float n = float_round(v * 1.44269504f);
    const float r = float_fma(n, 2.12194440e-4f, float_fma(n, -0.693359375f, v));
    float p = 1.0f / 720;
    p = float_fma(p, r, 1.0f / 120);
    p = float_fma(p, r, 1.0f / 24);
    p = float_fma(p, r, 1.0f / 6);
    p = float_fma(p, r, 0.5f);
    p = float_fma(p, r, 1.0f);
    p = float_fma(p, r, 1.0f);
    return from_bits(to_bits(p) + ((int32_t)n << 23));
}
/* tanh(v) as on the host (vector_tanh in kernels/host/vector.h), NaN kept. */
INLINE float float_tanh(float v)
{
    const float size = float_abs(v), e = float_exp(-2.0f * size), square = v * v;
    float p = 62.0f / 2835;
    p = float_fma(p, square, -17.0f / 315);
    p = float_fma(p, square, 2.0f / 15);
    p = float_fma(p, square, -1.0f / 3);
    return size >= 0.25f ? __builtin_copysignf((1.0f - e) / (1.0f + e), v) : float_fma(v * square, p, v);
}
/* log(1 + e^x) as on the host (vector_softplus in kernels/host/vector.h), NaN kept. */
INLINE float float_softplus(float x)
{
    const float u = float_exp(-float_abs(x)), s = u / (2.0f + u), square = s * s;
    float p = 1.0f / 15;
    p = float_fma(p, square, 1.0f / 13);
    p = float_fma(p, square, 1.0f / 11);
    p = float_fma(p, square, 1.0f / 9);
    p = float_fma(p, square, 1.0f / 7);
    p = float_fma(p, square, 1.0f / 5);
    p = float_fma(p, square, 1.0f / 3);
    p = float_fma(p, square, 1.0f);
    return float_fma(2.0f * s, p, x < 0 ? 0.0f : x);
}

INLINE float wave_sum(float x)
{
    if (WAVE_SIZE == 64) x += shuffle_xor<32>(x);
    x += shuffle_xor<16>(x);
    x += shuffle_xor<8>(x);
    x += shuffle_xor<4>(x);
    x += shuffle_xor<2>(x);
    return x + shuffle_xor<1>(x);
}
INLINE float wave_max(float x)
{
    if (WAVE_SIZE == 64) x = float_max(x, shuffle_xor<32>(x));
    x = float_max(x, shuffle_xor<16>(x));
    x = float_max(x, shuffle_xor<8>(x));
    x = float_max(x, shuffle_xor<4>(x));
    x = float_max(x, shuffle_xor<2>(x));
    return float_max(x, shuffle_xor<1>(x));
}

INLINE int32_t int_max(int32_t a, int32_t b) { return a > b ? a : b; }

/* 32 neighbouring lanes make one block; each brings one value, lane 0 of them the first. The largest magnitude is found
 * among bit patterns: there a NaN is above all, so the block's scale shows it. */
INLINE void quantize_lane(float value, GLOBAL_MEMORY struct q8_block *block)
{
    const int32_t lane = thread_index() % 32, half = lane / 16;
    int32_t top = to_bits(float_abs(value));
    top = int_max(top, shuffle_xor<8>(top));
    top = int_max(top, shuffle_xor<4>(top));
    top = int_max(top, shuffle_xor<2>(top));
    const float largest = from_bits(int_max(top, shuffle_xor<1>(top)));
    const int32_t quant = (int32_t)float_round(value * (largest > 0 ? 127.0f / largest : 0.0f));
    int32_t sum = quant;
    sum += shuffle_xor<8>(sum);
    sum += shuffle_xor<4>(sum);
    sum += shuffle_xor<2>(sum);
    sum += shuffle_xor<1>(sum);
    const float scale = largest / 127.0f, scaled = scale * (float)sum, other = shuffle_xor<16>(scaled);
    block->quants[lane] = (int8_t)quant;
    if (lane % 16 == 0) {
        block->scales[half] = scale;
        block->sums[half] = (int16_t)sum;
        if (half == 0) block->scaled_sum = scaled + other;
    }
}

/* The same blocks where a lane holds 8 neighbouring values: 4 neighbouring lanes make one block. `at` 8 times the
 * lane's place among them. */
INLINE void quantize_eight(const float values[8], GLOBAL_MEMORY struct q8_block *block, int32_t at)
{
    int32_t top = 0;
    UNROLL_FOR (int i = 0; i < 8; i++) top = int_max(top, to_bits(float_abs(values[i])));
    const float largest = from_bits(int_max(top, shuffle_xor<1>(top)));
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f, scale = largest / 127.0f;
    int32_t sum = 0, packed[2] = { 0, 0 };
    UNROLL_FOR (int i = 0; i < 8; i++) {
        const int32_t quant = (int32_t)float_round(values[i] * inverse);
        sum += quant;
        packed[i / 4] |= (quant & 255) << (8 * (i % 4));
    }
    sum += shuffle_xor<1>(sum);
    const float scaled = scale * (float)sum, other = shuffle_xor<2>(scaled);
    *(GLOBAL_MEMORY i32x2 *)(block->quants + at) = i32x2{ packed[0], packed[1] };
    if (at % 16 == 0) {
        block->scales[at / 16] = scale;
        block->sums[at / 16] = (int16_t)sum;
        if (at == 0) block->scaled_sum = scaled + other;
    }
}
#endif
