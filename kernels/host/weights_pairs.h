/* Two tiles of weights without minima times many tokens, to the bits of one tile's products: an activation is loaded once
 * for both, which pays where processors do as many dot products in a cycle as loads. Part of weights_quantized.h.
 */
#if HAS_MINIMUM
#error "expected a type without minima"
#endif

/* As multiply_block, of two tiles and four tokens. */
INLINE void multiply_blocks(const u8x64 w[2][8], const struct block_scales s[2], const struct q8_block *x,
                            f32x16 sums[2][4])
{
    f32x16 halves[2][2][4];
    for (int half = 0; half < 2; half++) {
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) {
            const struct q8_block *a = x + (size_t)t * (COLUMNS / 32);
            const i32x16 lift = splat_int(LIFT == 128 ? a->sums[half] : (a->sums[half] >> 7) * LIFT);
            i32x16 dots[2] = { lift, lift };
            for (int v = 4 * half; v < 4 * half + 4; v++)
                for (int i = 0; i < 2; i++) dots[i] = DOT(dots[i], w[i][v], a->quants + 4 * v);
            for (int i = 0; i < 2; i++) {
                const f32x16 product = to_f32(dots[i]) * a->scales[half];
                if (NUM_SCALES == 2)
                    sums[i][t] = vector_fma(product, s[i].scale[half], sums[i][t]);
                else
                    halves[half][i][t] = product;
            }
        }
    }
    for (int t = 0; t < 4 && NUM_SCALES == 1; t++)
        for (int i = 0; i < 2; i++)
            sums[i][t] = vector_fma(halves[0][i][t] + halves[1][i][t], s[i].scale[0], sums[i][t]);
}

/* As multiply_tile, of two tiles and a multiple of four tokens. */
INLINE void multiply_tiles(const uint8_t *first, const uint8_t *second, const void *activations, int tokens,
                           f32x16 *first_sums, f32x16 *second_sums)
{
    const int blocks = COLUMNS / 32;
    const uint8_t *tiles[2] = { first, second };
    f32x16 *sums[2] = { first_sums, second_sums };
    const struct q8_block *x = (const struct q8_block *)activations;
    for (int t = 0; t < tokens; t++) first_sums[t] = second_sums[t] = splat(0);
    for (int at = 0; at < blocks; at += SPAN_BLOCKS) {
        u8x64 w[SPAN_BLOCKS][2][8];
        struct block_scales s[SPAN_BLOCKS][2];
        const int count = int_min(SPAN_BLOCKS, blocks - at);
        for (int i = 0; i < 2; i++) {
            for (int b = 0; b < count; b++) prefetch_after(tiles[i] + block_offset(at + b));
            for (int b = 0; b < count; b++) unpack_block(tiles[i], at + b, w[b][i], s[b] + i, LIFT);
        }
        for (int t = 0; t < tokens; t += 4) {
            const struct q8_block *block = x + (size_t)t * (size_t)blocks + (size_t)at;
            f32x16 own[2][4]; /* stay in registers */
            for (int i = 0; i < 8; i++) own[i / 4][i % 4] = sums[i / 4][t + i % 4];
            for (int b = 0; b < count; b++) multiply_blocks(w[b], s[b], block + b, own);
            for (int i = 0; i < 8; i++) sums[i / 4][t + i % 4] = own[i / 4][i % 4];
        }
    }
}
