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

INLINE void dequantize_row(const uint8_t *tile, const int lane, float *out)
{
    for (int c = 0; c < COLUMNS; c++) out[c] = LOAD_ELEMENTS(tile + (size_t)c * 16 * ELEMENT_BYTES)[lane];
}
