/* 16-lane vectors on NEON with dot products (FEAT_DotProd): four registers each. See vector.h. */
#include <arm_neon.h>

#define SIGNED_DOT 1
#define MORE_TOKENS 8
#define FEW_FORMS 1
#define ACCUMULATORS 5 /* vectors summed to at once: 20 of the 32 registers, the others hold operands */
#define MORE_ACCUMULATORS ACCUMULATORS
#define HAS_INTEGER_MAXIMUM

typedef union {
    f32x16 whole;
    float32x4_t quarter[4];
} f32_quarters;
typedef union {
    i32x16 whole;
    int32x4_t quarter[4];
} i32_quarters;
typedef union {
    u8x64 whole;
    int8x16_t quarter[4];
    uint8x16_t unsigned_quarter[4];
} u8_quarters;

INLINE f32x16 vector_fma(f32x16 a, f32x16 b, f32x16 c)
{
    f32_quarters x = { a }, y = { b }, z = { c };
    for (int q = 0; q < 4; q++) z.quarter[q] = vfmaq_f32(z.quarter[q], x.quarter[q], y.quarter[q]);
    return z.whole;
}
/* b where one of them is not a number, as on x86: FMAX would be NaN. */
INLINE f32x16 vector_max(f32x16 a, f32x16 b)
{
    f32_quarters x = { a }, y = { b };
    for (int q = 0; q < 4; q++)
        x.quarter[q] = vbslq_f32(vcgtq_f32(x.quarter[q], y.quarter[q]), x.quarter[q], y.quarter[q]);
    return x.whole;
}
INLINE f32x16 load_f16(const void *p)
{
    f32_quarters r;
    for (int q = 0; q < 4; q++) {
        float16x4_t half;
        __builtin_memcpy(&half, (const uint8_t *)p + 8 * q, sizeof half);
        r.quarter[q] = vcvt_f32_f16(half);
    }
    return r.whole;
}
INLINE void store_f16(void *p, f32x16 v)
{
    f32_quarters x = { v };
    for (int q = 0; q < 4; q++) {
        const float16x4_t half = vcvt_f16_f32(x.quarter[q]);
        __builtin_memcpy((uint8_t *)p + 8 * q, &half, sizeof half);
    }
}
INLINE int8x16_t broadcast_four(const int8_t *x)
{
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
INLINE i32x16 dot_signed(i32x16 acc, u8x64 w, const int8_t *x)
{
    i32_quarters sum = { acc };
    const u8_quarters weights = { w };
    const int8x16_t broadcast = broadcast_four(x);
    for (int q = 0; q < 4; q++) sum.quarter[q] = vdotq_s32(sum.quarter[q], weights.quarter[q], broadcast);
    return sum.whole;
}
INLINE i32x16 dot_unsigned(i32x16 acc, u8x64 w, const int8_t *x)
{
#ifdef __ARM_FEATURE_MATMUL_INT8
    i32_quarters sum = { acc };
    const u8_quarters weights = { w };
    const int8x16_t broadcast = broadcast_four(x);
    for (int q = 0; q < 4; q++) sum.quarter[q] = vusdotq_s32(sum.quarter[q], weights.unsigned_quarter[q], broadcast);
    return sum.whole;
#else
    return dot_signed(acc, w, x); /* with a signed product no weight is lifted above 127: see weights_quantized.h */
#endif
}
INLINE u8x64 look_up(u8x16 table, u8x64 codes)
{
    u8_quarters found = { codes };
    for (int q = 0; q < 4; q++) found.unsigned_quarter[q] = vqtbl1q_u8((uint8x16_t)table, found.unsigned_quarter[q]);
    return found.whole;
}
/* Of 16 entries for each four rows. */
INLINE u8x64 look_up_rows(u8x64 table, u8x64 codes)
{
    const u8_quarters tables = { table };
    u8_quarters found = { codes };
    for (int q = 0; q < 4; q++)
        found.unsigned_quarter[q] = vqtbl1q_u8(tables.unsigned_quarter[q], found.unsigned_quarter[q]);
    return found.whole;
}
INLINE int32_t horizontal_max_int(i32x16 v)
{
    const i32_quarters x = { v };
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.quarter[0], x.quarter[1]), vmaxq_s32(x.quarter[2], x.quarter[3])));
}
