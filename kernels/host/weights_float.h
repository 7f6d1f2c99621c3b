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
#define PAIR_TOKENS 8
#define PAIR_UNIT 8
#define LEAST_PAIR_TOKENS 8
#define TILE_BYTES ((size_t)COLUMNS * 16 * ELEMENT_BYTES)

/* As prefetch_after in weights_products.h: asks for a line with its first column. */
INLINE void prefetch_after_column(const uint8_t *tile, int c)
{
    if (c % (4 / ELEMENT_BYTES) == 0) __builtin_prefetch(tile + (size_t)c * 16 * ELEMENT_BYTES + 8192, 0, 2);
}

/* A token's row, as products are made with it. */
typedef float activations;

/* One tile's products with a few tokens: columns in order, one accumulator a row. */
INLINE void multiply_few(const uint8_t *tile, const activations *x, const int tokens, f32x16 *sums)
{
    f32x16 own[TILE_TOKENS]; /* stay in registers */
    ALIGN_STACK();
    for (int t = 0; t < tokens; t++) own[t] = splat(0);
    for (int c = 0; c < COLUMNS; c++) {
        if (tokens > 2) prefetch_after_column(tile, c);
        const f32x16 w = LOAD_ELEMENTS(tile + (size_t)c * 16 * ELEMENT_BYTES);
        for (int t = 0; t < tokens; t++) own[t] = vector_fma(w, splat(x[(size_t)t * COLUMNS + (size_t)c]), own[t]);
    }
    for (int t = 0; t < tokens; t++) sums[t] = own[t];
}

FORM_OF(1)
FORM_OF(2)
FORM_OF(3)
FORM_OF(4)
FORM_OF(5)
FORM_OF(6)
FORM_OF(7)
FORM_OF(8)

/* As multiply_tile in weights_products.h. */
INLINE void multiply_tile(const uint8_t *tile, const void *rows, int tokens, f32x16 *sums)
{
    const activations *x = (const activations *)rows;
    switch (tokens) {
        CASE_OF(1);
        CASE_OF(2);
        CASE_OF(3);
        CASE_OF(4);
        CASE_OF(5);
        CASE_OF(6);
        CASE_OF(7);
    default:
        multiply_8(tile, x, sums);
    }
}

/* As multiply_pair in weights_products.h, of 8 tokens. */
INLINE void multiply_pair(const uint8_t *first, const uint8_t *second, const void *rows, int tokens, size_t after,
                          f32x16 *first_sums, f32x16 *second_sums)
{
    const activations *x = (const activations *)rows;
    f32x16 sums[2][8]; /* stay in registers */
    (void)tokens, (void)after;
    for (int t = 0; t < 8; t++) sums[0][t] = sums[1][t] = splat(0);
    for (int c = 0; c < COLUMNS; c++) {
        prefetch_after_column(first, c);
        prefetch_after_column(second, c);
        const f32x16 w = LOAD_ELEMENTS(first + (size_t)c * 16 * ELEMENT_BYTES);
        const f32x16 v = LOAD_ELEMENTS(second + (size_t)c * 16 * ELEMENT_BYTES);
#pragma GCC unroll 8
        for (int t = 0; t < 8; t++) {
            const f32x16 one = splat(x[(size_t)t * COLUMNS + (size_t)c]);
            sums[0][t] = vector_fma(w, one, sums[0][t]);
            sums[1][t] = vector_fma(v, one, sums[1][t]);
        }
    }
    for (int t = 0; t < 8; t++) {
        first_sums[t] = sums[0][t];
        second_sums[t] = sums[1][t];
    }
}

INLINE void dequantize_row(const uint8_t *tile, const int lane, float *out)
{
    for (int c = 0; c < COLUMNS; c++) out[c] = LOAD_ELEMENTS(tile + (size_t)c * 16 * ELEMENT_BYTES)[lane];
}
