/* Two tiles of weights times many tokens, to the bits of one tile's products: an activation is loaded once for both, which
 * pays where processors do as many dot products in a cycle as loads. Part of weights_products.h.
 */

/* As multiply_block, of two tiles and four tokens. */
INLINE void multiply_blocks(const u8x64 w[2][8], const struct block_scales s[2], const activations *x, int b,
                            partial sums[2][4])
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
            const struct activation_block a = block_of(x + (size_t)t * ROW_ACTIVATIONS, b);
            i32x16 own[2] = { begin_dot(a, half, LIFT), begin_dot(a, half, LIFT) };
            for (int v = 0; v < 4; v++)
                for (int i = 0; i < 2; i++) own[i] = DOT(own[i], held[i][v], a.quants + 4 * v + 16 * half);
            for (int i = 0; i < 2; i++) {
                dots[i][t][half] = shift_lanes(own[i], a.shifts[half]);
                HOLD(dots[i][t][half]);
            }
        }
    }
    for (int t = 0; t < 4; t++)
        for (int i = 0; i < 2; i++)
            sums[i][t] = add_products(sums[i][t], dots[i][t], s + i, x + (size_t)t * ROW_ACTIVATIONS, b, 0);
}

/* Asks for a line of each of four tokens' spans. A span of many tokens' rows is more than the second-level cache keeps beside
 * the rest of them, and each of its rows lies on a page of its own, where processors read nothing ahead. */
INLINE void prefetch_rows(const activations *span, int line)
{
    for (int t = 0; t < 4; t++) __builtin_prefetch((const char *)(span + (size_t)t * ROW_ACTIVATIONS) + 64 * line);
}

/* As multiply_tile, of two tiles and a multiple of four tokens. Args: after: bytes from a tile to what is multiplied next. */
INLINE void multiply_tiles(const uint8_t *first, const uint8_t *second, const activations *x, int tokens, size_t after,
                           f32x16 *first_sums, f32x16 *second_sums)
{
    const int blocks = COLUMNS / 32;
    const uint8_t *tiles[2] = { first, second };
    f32x16 *sums[2] = { first_sums, second_sums };
    for (int t = 0; t < tokens; t++) first_sums[t] = second_sums[t] = splat(0);
    for (int at = 0; at < blocks; at += SPAN_BLOCKS, x += SPAN_ACTIVATIONS) {
        u8x64 w[SPAN_BLOCKS][2][8];
        struct block_scales s[SPAN_BLOCKS][2];
        struct span_scales all[2];
        const int count = int_min(SPAN_BLOCKS, blocks - at);
        /* What is read next is asked for a line at a time, beside products: a burst of requests would keep them waiting. */
        const int lines = (SPAN_BYTES + 63) / 64, lines_at_once = (lines - 1) / (tokens / 4 * count) + 1;
        const size_t next = at + SPAN_BLOCKS < blocks ? (size_t)(at / SPAN_BLOCKS + 1) * SPAN_BYTES : after;
        int line = 0;
        for (int i = 0; i < 2; i++) {
            unpack_span(tiles[i], at, all + i);
            for (int b = 0; b < count; b++) {
                unpack_weights(tiles[i], at + b, w[b][i], s[b] + i, 0);
                unpack_minima(tiles[i], at + b, all + i);
            }
        }
        for (int t = 0; t < tokens; t += 4) {
            const activations *span = x + (size_t)t * ROW_ACTIVATIONS;
            const activations *next_span = t + 4 < tokens ? span + 4 * ROW_ACTIVATIONS : x + SPAN_ACTIVATIONS;
            partial own[2][4]; /* stay in registers */
            for (int i = 0; i < 8; i++) own[i / 4][i % 4] = begin_span(sums[i / 4][t + i % 4]);
            for (int b = 0; b < count; b++) {
                prefetch_rows(next_span, b);
                for (const int end = int_min(line + lines_at_once, lines); line < end; line++)
                    for (int i = 0; i < 2; i++) __builtin_prefetch(tiles[i] + next + 64 * line);
                multiply_blocks(w[b], s[b], span, b, own);
            }
            for (int i = 0; i < 8; i++) {
                f32x16 *sum = sums[i / 4] + t + i % 4;
                *sum = end_span(own[i / 4][i % 4], *sum, all + i / 4, span + (size_t)(i % 4) * ROW_ACTIVATIONS);
            }
        }
    }
}
