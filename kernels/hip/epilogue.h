/* Where the totals of gemv.h and gemm.h go. Constants as there. */
#ifndef HAS_SCALE
#define HAS_SCALE 0
#endif
#ifndef PRODUCT_SCALE
#define PRODUCT_SCALE 1.0f
#endif

#if GATE_UP
#include "activation.h"

/* What both sums of a row make. */
INLINE float gated(float gate, float up, const void *bias, const void *scales, int32_t row)
{
    if (HAS_SCALE) {
        gate *= ((const GLOBAL_MEMORY float *)scales)[0];
        up *= ((const GLOBAL_MEMORY float *)scales)[1];
    }
    if (HAS_BIAS) {
        gate += ((const GLOBAL_MEMORY float *)bias)[row];
        up += ((const GLOBAL_MEMORY float *)bias)[ROWS + row];
    }
    return activation(gate) * up;
}

/* 32 lanes bring 32 neighbouring outputs of a token: group `group` of them. */
INLINE void store_gate_up(float value, void *out, int32_t token, int32_t group)
{
    const size_t first = (size_t)token * (ROWS / 32) + group;
    if (OUT_Q8)
        quantize_lane(value, (GLOBAL_MEMORY struct q8_block *)out + first);
    else
        ((GLOBAL_MEMORY float *)out)[first * 32 + thread_index() % 32] = value;
}
#else
INLINE void store_sum(float total, void *out, const void *bias, const void *scale, int32_t token, int32_t row)
{
    GLOBAL_MEMORY float *goal = (GLOBAL_MEMORY float *)out + (size_t)token * OUT_STRIDE + OUT_OFFSET + row;
    if (HAS_SCALE) total *= *(const GLOBAL_MEMORY float *)scale;
    if (HAS_BIAS) total += ((const GLOBAL_MEMORY float *)bias)[row];
    if (PRODUCT_SCALE != 1.0f) total *= PRODUCT_SCALE;
    *goal = ACCUMULATE ? total + *goal : total;
}
#endif
