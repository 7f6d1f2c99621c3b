/* Where the totals of expert_gemv.h and expert_gemm.h go. Constants as there. */

#ifndef BY_SLOT
#define BY_SLOT 0
#endif

/* Row r of an expert, of a pair: a token and one of its experts, numbered token * USED + slot. */
INLINE void store_product(float total, int32_t pair, int32_t expert, int32_t r, const void *routed, void *out,
                          const void *bias, const void *scale)
{
    const int32_t token = pair / USED, slot = pair % USED;
    if (HAS_SCALE) total *= ((const GLOBAL_MEMORY float *)scale)[expert];
    if (WEIGHTED) total *= ((const GLOBAL_MEMORY float *)routed)[(size_t)token * (2 * USED) + slot];
    if (HAS_BIAS) total += ((const GLOBAL_MEMORY float *)bias)[(size_t)expert * ROWS + r];
    ((GLOBAL_MEMORY float *)out)[(size_t)token * OUT_STRIDE + OUT_OFFSET + slot * ROWS + r] = total;
}
