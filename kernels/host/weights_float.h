/* Packings of float weights, "rows16": column by column, 16 rows each. Activations stay float32. */
#include "vector.h"

#if defined(WEIGHT_F32)
#define LOAD_ELEMENTS load_f32
#elif defined(WEIGHT_F16)
#define LOAD_ELEMENTS load_f16
#elif defined(WEIGHT_BF16)
#define LOAD_ELEMENTS load_bf16
#endif
#define HAS_PANELS 0
#define TILE_TOKENS 8
#define GROUP_TOKENS 8
/* Whether two tiles are multiplied at once where there are enough tokens: as many sums as hide the latency of two fused
 * multiply-adds a cycle, and a load of an activation for both. */
#define PAIRED_TILES (MORE_TOKENS > 8)
/* Where a processor does one in a cycle, a tile alone is faster: by an eighth on Zen 4. */
#ifndef PAIRS_PAY
#if PAIRED_TILES
#define PAIRS_PAY two_products_a_cycle()
#else
#define PAIRS_PAY 0
#endif
#endif
#define TILE_BYTES ((size_t)COLUMNS * 16 * ELEMENT_BYTES)

/* As multiply_tile in weights_quantized.h; columns in order, one accumulator a row. */
INLINE void multiply_tile(const uint8_t *tile, const void *activations, const int tokens, int groups,
                          const int together, f32x16 *sums)
{
    const float *x = (const float *)activations;
    (void)groups, (void)together; /* one, for nothing is unpacked */
    for (int t = 0; t < tokens; t++) sums[t] = splat(0);
    for (int c = 0; c < COLUMNS; c++) {
        const f32x16 w = LOAD_ELEMENTS(tile + (size_t)c * 16 * ELEMENT_BYTES);
        for (int t = 0; t < tokens; t++) sums[t] = vector_fma(w, splat(x[(size_t)t * COLUMNS + (size_t)c]), sums[t]);
    }
}

/* As multiply_pair in weights_quantized.h. */
INLINE void multiply_pair(const uint8_t *first, const uint8_t *second, const void *activations, const int tokens,
                          int groups, const int together, f32x16 *first_sums, f32x16 *second_sums)
{
    const float *x = (const float *)activations;
    if (!PAIRED_TILES || tokens < 8 || !PAIRS_PAY) {
        multiply_tile(first, activations, tokens, groups, together, first_sums);
        multiply_tile(second, activations, tokens, groups, together, second_sums);
        return;
    }
    for (int t = 0; t < tokens; t++) first_sums[t] = second_sums[t] = splat(0);
    for (int c = 0; c < COLUMNS; c++) {
        const f32x16 w = LOAD_ELEMENTS(first + (size_t)c * 16 * ELEMENT_BYTES);
        const f32x16 v = LOAD_ELEMENTS(second + (size_t)c * 16 * ELEMENT_BYTES);
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) {
            const f32x16 one = splat(x[(size_t)t * COLUMNS + (size_t)c]);
            first_sums[t] = vector_fma(w, one, first_sums[t]);
            second_sums[t] = vector_fma(v, one, second_sums[t]);
        }
    }
}

INLINE void dequantize_row(const uint8_t *tile, const int lane, float *out)
{
    for (int c = 0; c < COLUMNS; c++) out[c] = LOAD_ELEMENTS(tile + (size_t)c * 16 * ELEMENT_BYTES)[lane];
}
