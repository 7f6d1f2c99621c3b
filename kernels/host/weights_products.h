/* Products of quantized weights and int8 activations, a tile of 16 rows at a time; what they are summed to is told by
 * weights_blocks.h or weights_superblocks.h. Part of weights_quantized.h.
 *
 * Blocks of columns come in order, with one accumulator a row, in spans of 8: neither the order of a sum nor its bits depend
 * on how many tokens are multiplied, nor on how many blocks are unpacked before they are.
 */

/* The dot of 16 columns begins with this, so that weights may be lifted. */
INLINE i32x16 begin_dot(struct activation_block x, int half, const int lift)
{
    return splat_int(lift == 128 ? x.sums[half] : (x.sums[half] >> 7) * lift);
}

/* Adds a block's products to the sums of `tokens` tokens. Args: x: the first one's span. b: the block in it. */
INLINE void multiply_block(const u8x64 unpacked[8], const struct block_scales *s, const activations *x, int b,
                           const int tokens, partial *sums)
{
    u8x64 w[8];
    for (int v = 0; v < 8; v++) {
        w[v] = unpacked[v];
        if (tokens == 8) HOLD(w[v]);
    }
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) {
        const activations *own = x + (size_t)t * ROW_ACTIVATIONS;
        const struct activation_block a = block_of(own, b);
        i32x16 dots[2];
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            dots[half] = begin_dot(a, half, LIFT_OF(tokens));
            for (int v = 4 * half; v < 4 * half + 4; v++) dots[half] = DOT(dots[half], w[v], a.quants + 4 * v);
            dots[half] = shift_lanes(dots[half], a.shifts[half]);
        }
        sums[t] = add_products(sums[t], dots, s, own, b, tokens);
    }
}

/* Asks for what is read 4 KiB after a block. Processors do that by themselves where little is computed between two lines;
 * for several tokens it takes as long to read a block as to multiply it, unless both go on at once. */
INLINE void prefetch_after(const uint8_t *block)
{
    for (int at = 0; at < BLOCK_BYTES; at += 64) __builtin_prefetch(block + 4096 + at);
}

#if HAS_PANELS
#include "weights_panels.h"
#elif PAIRED_TILES
#include "weights_pairs.h"
#endif

/* Adds one tile's products with a few tokens to their sums; a block is multiplied as it is read. */
INLINE void multiply_few(const uint8_t *tile, const activations *x, const int tokens, f32x16 *sums)
{
    const int blocks = COLUMNS / 32;
    partial own[8]; /* stay in registers */
    struct span_scales all;
    for (int block = 0; block < blocks; block++) {
        const int b = block % FEW_BLOCKS;
        u8x64 w[8];
        struct block_scales s;
        if (b == 0) unpack_span(tile, block, &all);
        for (int t = 0; t < tokens && b == 0; t++) own[t] = begin_span(sums[t]);
        /* AMD's processors read ahead over pages of 4 KiB where the first line of some blocks is asked for again with each:
         * Zen 4 reads 1.6 times as fast. */
        if (!SUPER_SCALE_BYTES) __builtin_prefetch(tile + block_offset(block & ~7));
        if (tokens > 1) prefetch_after(tile + block_offset(block));
        unpack_weights(tile, block, w, &s, tokens);
        unpack_minima(tile, block, &all);
        multiply_block(w, &s, x, b, tokens, own);
        if (b + 1 < FEW_BLOCKS) continue;
        for (int t = 0; t < tokens; t++) sums[t] = end_span(own[t], sums[t], &all, x + (size_t)t * ROW_ACTIVATIONS);
        x += SPAN_ACTIVATIONS;
    }
}

/* The same of `groups` times 8 tokens: a span of blocks is unpacked once for all. */
INLINE void multiply_groups(const uint8_t *tile, const activations *x, int groups, f32x16 *sums)
{
    const int blocks = COLUMNS / 32;
    for (int first = 0; first < blocks; first += SPAN_BLOCKS, x += SPAN_ACTIVATIONS) {
        const int count = int_min(SPAN_BLOCKS, blocks - first);
        u8x64 w[SPAN_BLOCKS][8];
        struct block_scales s[SPAN_BLOCKS];
        struct span_scales all;
        for (int b = 0; b < count; b++) prefetch_after(tile + block_offset(first + b));
        unpack_span(tile, first, &all);
        for (int b = 0; b < count; b++) {
            unpack_weights(tile, first + b, w[b], s + b, 8);
            unpack_minima(tile, first + b, &all);
        }
        for (int group = 0; group < groups; group++) {
            const activations *span = x + (size_t)(8 * group) * ROW_ACTIVATIONS;
            f32x16 *mine = sums + 8 * group;
            partial own[8]; /* stay in registers */
            for (int t = 0; t < 8; t++) own[t] = begin_span(mine[t]);
            for (int b = 0; b < count; b++) multiply_block(w[b], s + b, span, b, 8, own);
            for (int t = 0; t < 8; t++) mine[t] = end_span(own[t], mine[t], &all, span + (size_t)t * ROW_ACTIVATIONS);
        }
    }
}

/* One tile: sums[t][r] = sum over columns of weight[r] * activation[t], of groups * tokens tokens. Args: together: blocks
 * that are unpacked before they are multiplied: 1, or 8 that several groups share. */
INLINE void multiply_tile(const uint8_t *tile, const void *rows, const int tokens, int groups, const int together,
                          f32x16 *sums)
{
    const activations *x = (const activations *)rows;
    for (int t = 0; t < tokens * groups; t++) sums[t] = splat(0);
#if HAS_PANELS
    if (tokens == PANEL_TOKENS) {
        multiply_panels(tile, x, groups, sums);
        return;
    }
#endif
    if (together == 1)
        multiply_few(tile, x, tokens, sums);
    else
        multiply_groups(tile, x, groups, sums);
}

/* Two tiles. */
INLINE void multiply_pair(const uint8_t *first, const uint8_t *second, const void *rows, const int tokens, int groups,
                          const int together, f32x16 *first_sums, f32x16 *second_sums)
{
#if PAIRED_TILES
    if (together > 1) {
        multiply_tiles(first, second, (const activations *)rows, tokens * groups, first_sums, second_sums);
        return;
    }
#endif
    multiply_tile(first, rows, tokens, groups, together, first_sums);
    multiply_tile(second, rows, tokens, groups, together, second_sums);
}
