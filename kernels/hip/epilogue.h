/* Where the totals of gemv.h and gemm.h go. Constants as there. */
#if GATE_UP
#include "activation.h"

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
INLINE void store_sum(float total, void *out, const void *bias, int32_t token, int32_t row)
{
    GLOBAL_MEMORY float *goal = (GLOBAL_MEMORY float *)out + (size_t)token * OUT_STRIDE + OUT_OFFSET + row;
    if (HAS_BIAS) total += ((const GLOBAL_MEMORY float *)bias)[row];
    *goal = ACCUMULATE ? total + *goal : total;
}
#endif
