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
    i32x16 dots[2][4][2];
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        u8x64 held[2][4];
        for (int i = 0; i < 8; i++) {
            held[i / 4][i % 4] = w[i / 4][4 * half + i % 4];
            HOLD(held[i / 4][i % 4]);
        }
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) {
            const struct q8_block *a = x + (size_t)t * (COLUMNS / 32);
            i32x16 own[2] = { begin_dot(a, half, LIFT), begin_dot(a, half, LIFT) };
            for (int v = 0; v < 4; v++)
                for (int i = 0; i < 2; i++) own[i] = DOT(own[i], held[i][v], a->quants + 4 * v + 16 * half);
            for (int i = 0; i < 2; i++) {
                dots[i][t][half] = shift_lanes(own[i], a->shifts[half]);
                HOLD(dots[i][t][half]);
            }
        }
    }
    for (int t = 0; t < 4; t++)
        for (int i = 0; i < 2; i++)
            sums[i][t] = add_products(sums[i][t], dots[i][t], s + i, x + (size_t)t * (COLUMNS / 32));
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
        /* What is read next is asked for a line at a time, beside products: a burst of requests would keep them waiting. */
        const int lines = at + SPAN_BLOCKS < blocks ? (SPAN_BLOCKS * BLOCK_BYTES + 63) / 64 : 0;
        const size_t next = block_offset(at + SPAN_BLOCKS);
        int line = 0;
        for (int i = 0; i < 2; i++)
            for (int b = 0; b < count; b++) unpack_block(tiles[i], at + b, w[b][i], s[b] + i, LIFT);
        for (int t = 0; t < tokens; t += 4) {
            const struct q8_block *block = x + (size_t)t * (size_t)blocks + (size_t)at;
            f32x16 own[2][4]; /* stay in registers */
            for (int i = 0; i < 8; i++) own[i / 4][i % 4] = sums[i / 4][t + i % 4];
            for (int b = 0; b < count; b++) {
                if (line < lines) {
                    for (int i = 0; i < 2; i++) __builtin_prefetch(tiles[i] + next + 64 * line);
                    line++;
                }
                multiply_blocks(w[b], s[b], block + b, own);
            }
            for (int i = 0; i < 8; i++) sums[i / 4][t + i % 4] = own[i / 4][i % 4];
        }
    }
}
